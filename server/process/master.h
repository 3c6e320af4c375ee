/* master: the process that is `licorne`. It owns the listening sockets, the scoreboard and the children, and serves
 * nothing. Signals and messages only change what it knows; once a turn it makes the real processes equal the wanted
 * ones:
 *
 *     wait ─► take signals ─► hear children ─► reap ─► check deadlines ─► reconcile ─┐
 *       ▲                                                                            │
 *       └────────────────────────────────────────────────────────────────────────────┘
 *
 * At any time there are at most two generations: `serving`, and `coming`, whose workers are not all ready yet: the
 * first one at the start, the next one in a reload. A child that belongs to neither is on its way out.
 *
 *     master.c            the turn, signals, deadlines, stopping
 *     master_hear.c       what molds and workers say
 *     master_reap.c       who has died, and what follows
 *     master_reconcile.c  generations, spawning, retiring
 *     master_settle.c     what settings mean for the master itself: folder, log, pidfile, control socket, addresses
 *     master_log.c        its log lines, on their way into Python's logging
 *     master_events.c     what the configuration file's hooks hear of it */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "server/base/list.h"
#include "server/base/str.h"
#include "server/process/autoscale.h"
#include "server/process/home.h"
#include "server/process/listeners.h"
#include "server/process/scoreboard.h"
#include "server/process/upgrade.h"

struct buf;
struct channel_message;
struct control;
struct generation;
struct mold_handle;
struct notify;
struct settings;
struct source_watch;
struct turnaway;
struct worker_handle;

#define WORKERS_MAX 1024

/* What a generation's settings make the master keep, beside its sockets. */
struct premises {
    char *pidfile;           /* written; NULL: none */
    struct control *control; /* NULL: none */
};

enum { EXIT_OK = 0, EXIT_CONFIG = 1, EXIT_USAGE = 2, EXIT_BOOT = 3, EXIT_LOAD = 4, EXIT_TO_BACKGROUND = -1 };

struct master {
    const struct settings *given; /* command line and environment */
    struct settings *told;        /* for the caller: what was configured; NULL: it does not care */
    char *python, *jemalloc;      /* jemalloc: NULL if there is none, or it is not wanted */
    struct scoreboard *board;
    int board_fd, signals;
    int bell; /* by which workers wake each other for newcomers: balance.h */
    struct home home;
    struct listeners listeners;
    struct notify *notify;
    struct turnaway *turnaway;
    struct source_watch *sources; /* --reload; NULL: no */
    uint64_t last_ready_ms; /* when a worker was last seen ready (or the server began) */
    bool turns_away;        /* nobody has been ready for no_worker_grace */
    uint64_t drain_ms;      /* drain_delay is over then, and the server begins to stop; 0: it is not ending */
    int passed_listeners;   /* by the service manager: they take the place of `bind` */
    struct premises here, there; /* there: while a reload has not succeeded */
    struct upgrade upgrade;

    struct generation *serving, *coming;
    uint32_t last_generation, last_age;
    int scale;                  /* TTIN, TTOU, autoscale: added to the settings' workers */
    struct autoscale autoscale;
    bool parked;                /* WINCH: no worker is wanted */
    bool reload_again;          /* a HUP came while a generation was coming */
    bool drops_addresses;       /* the serving generation listens where its predecessor did, but not everywhere */

    struct list molds, workers; /* all living ones, of any generation; workers oldest first */
    bool slot_used[SCOREBOARD_SLOTS];

    struct last_left {
        uint32_t age; /* 0: none yet */
        pid_t pid;
        uint64_t at_ms;
        char reason[64];
    } last_left;                /* the worker that ended last, and why */
    bool started;               /* the mold's hooks have heard so */
    int told_workers;           /* what they know as the number wanted; 0: nothing yet */
    bool stopping, graceful, said_stopped;
    int end_signal;             /* the last one that asked for the end, */
    uint64_t end_signal_ms;     /* and when it came */
    bool checking;              /* only the configuration file is wanted */
    int exit_code;
    uint64_t began_ms, look_ms; /* look_ms: when something is due; 0: nothing is */
    struct channel_message *message;
    char title[128];            /* what ps shows */
};

/* --- master.c */

/* Runs the server until it ends; returns the exit code of the process. `given` outlives the call. `told`, defaults at first: the
 * settings as the configuration file has them, as soon as it has been read. EXIT_TO_BACKGROUND: the file says `daemon`, and
 * nothing has been opened yet. */
int master_run(const struct settings *given, struct settings *told);
/* Only reads the configuration file and logs what is wrong with it; serves nothing. */
int master_check(const struct settings *given);
/* Begins to end: stops gracefully, after drain_delay. */
void master_end(struct master *master);
/* Begins to stop: workers finish what is in flight, or not. */
void master_stop(struct master *master, bool graceful);
/* USR2 */
void master_upgrade(struct master *master);
void master_kill_all(struct master *master);
void master_reopen_logs(struct master *master);
/* What a worker is at is known as far as it will be: the report is finished, and whoever asked for it gets it. */
void master_end_report(struct master *master, struct worker_handle *worker, struct str stacks);
/* The turn is to be taken again at `due_ms` (0: no wish). */
void master_look_at(struct master *master, uint64_t due_ms);

/* --- master_hear.c: read all that is there */

void master_hear_mold(struct master *master, struct mold_handle *mold);
/* May free the worker: one that never came to be. */
void master_hear_worker(struct master *master, struct worker_handle *worker);

/* --- master_settle.c */

/* The first generation's settings are known: opens what they name. In a reload: opens what is new beside what is there;
 * master_moved() follows when it has succeeded, else master_stayed(). False with messages in `errors`. */
bool master_settle(struct master *master, const struct generation *generation, struct buf *errors);
void master_moved(struct master *master);
void master_stayed(struct master *master);
/* The logs were moved away: there are new ones that the workers can open, whoever they are. */
void master_give_logs(const struct master *master);
/* The server ends. */
void master_vacate(struct master *master);
/* The predecessor has ended: the names that it had are this one's now. */
void master_take_names(struct master *master);

/* --- master_events.c: all of these do nothing when the mold has no hooks */

void master_tell_loaded(struct master *master, struct mold_handle *mold);
/* The number of workers wanted may have changed. */
void master_tell_workers(struct master *master);
void master_tell_birth(const struct master *master, const struct worker_handle *worker);
void master_tell_death(const struct master *master, const struct worker_handle *worker);
void master_tell_upgrade(const struct master *master);
/* Before it is stopped. */
void master_tell_exit(const struct master *master, const struct mold_handle *mold);
/* It is stopped only when all workers have ended. */
bool master_needs_mold(const struct master *master, const struct mold_handle *mold);

/* The mold that hears: the serving generation's, or before there is one the coming one's; NULL: it wants nothing. */
struct mold_handle *master_listening_mold(const struct master *master);

/* --- master_log.c */

/* The log's lines go to the mold from now on, when it takes them. Until it is known whether it will, they are held. */
void master_log_begin(const struct master *master);
/* The settings are known, and they say it. */
void master_log_decide(const struct settings *settings);
/* The mold is about to configure logging: it gets what was held. */
void master_log_send(const struct mold_handle *mold);
/* It has done so. */
void master_log_told(void);
void master_log_end(void);

/* --- master_reap.c */

void master_reap(struct master *master);

/* --- master_reconcile.c */

void master_reconcile(struct master *master);
/* HUP: makes the next generation. */
void master_reload(struct master *master);
/* WINCH: the workers retire, and come back by HUP, TTIN and TTOU. */
void master_park(struct master *master);
void master_unpark(struct master *master);
/* TTIN, TTOU */
void master_scale(struct master *master, int by);
int master_wanted_workers(const struct master *master, const struct generation *generation);
/* NULL: it is not wanted any more. */
struct generation *master_generation(const struct master *master, uint32_t number);
/* It cannot come up (the reason is logged): ends the server with `exit_code`, or the reload. */
void master_generation_failed(struct master *master, struct generation *generation, int exit_code);
/* A process of it that was started at `started_ms` has died young: the next one may have to wait. */
void master_strike(struct master *master, struct generation *generation, uint64_t started_ms);
void master_drop_worker(struct master *master, struct worker_handle *worker);
