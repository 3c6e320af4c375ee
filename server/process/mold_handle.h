/* mold_handle: the master's record of a mold: the user's Python, which loads the configuration and perhaps the
 * application, and forks the workers of one generation.
 *
 *     STARTING --HELLO, SETTINGS--> ANSWERED --CONFIGURED sent--> LOADING --LOADED--> LOADED --STOP--> STOPPING
 *
 * What the mold finds when it starts:
 *   - its working directory is the one that the master was started in (the master itself may have changed its own);
 *   - all signals have their default dispositions. A mold ignores those that a terminal sends to the whole group (INT,
 *     QUIT, HUP, TSTP excepted) and TERM: it ends by STOP, or by EOF on its channel;
 *   - if LICORNE_SAVED_LD_PRELOAD is in its environment, LD_PRELOAD is for the mold alone. The mold sets LD_PRELOAD to
 *     the saved value, or removes it where that is empty, and removes LICORNE_SAVED_LD_PRELOAD; the same with
 *     MALLOC_CONF and LICORNE_SAVED_MALLOC_CONF. In os.environ and in the C environment, before user code runs. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "server/base/list.h"

enum mold_state { MOLD_STARTING, MOLD_ANSWERED, MOLD_LOADING, MOLD_LOADED, MOLD_STOPPING };

struct mold_handle {
    struct list node; /* in master->molds */
    enum mold_state state;
    pid_t pid;
    int channel;             /* -1 after EOF */
    uint32_t generation;
    uint64_t due_ms;         /* loading must be done, or the process gone, by then; 0: no limit */
    uint64_t began_ms;
    char python[32];         /* from its HELLO: "3.11.7" */
    bool said_hello, failed; /* failed: it said so, or was killed by us; what comes after says nothing new */
    bool readable;           /* poll says so */
    bool hooks;              /* it wants to hear of events: master_events.c */
    uint8_t logs;            /* enum log_sharing: what it does with the master's lines (master_log.c) */
};

struct home;

struct mold_start {
    const char *python;      /* path of the interpreter */
    const char *jemalloc;    /* to be preloaded, or NULL */
    int scoreboard;          /* descriptor of the memfd */
    const struct home *home; /* the working directory */
    uint32_t generation;
    int64_t boot_timeout_ms; /* 0: no limit */
};

/* Starts the process. NULL with errno. */
struct mold_handle *mold_handle_new(const struct mold_start *start);
void mold_handle_free(struct mold_handle *mold);

/* Asks it to end; killed when it has not within MOLD_STOP_MS. */
#define MOLD_STOP_MS 2000
#define MOLD_HOOKS_MS 10000 /* … this much later with hooks: on_exit is one */
void mold_handle_stop(struct mold_handle *mold);
void mold_handle_kill(struct mold_handle *mold);
/* It has not done what it should by due_ms. */
bool mold_handle_overdue(const struct mold_handle *mold, uint64_t now_ms);
void mold_handle_close_channel(struct mold_handle *mold);
