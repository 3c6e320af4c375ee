/* worker_handle: the master's record of a worker.
 *
 *     SPAWNING --HELLO--> BOOTING --READY--> READY --STOP sent--> RETIRING
 *         |                  |                 |                     |
 *         +------------------+---- overdue ----+---------------------+--> DYING (signalled), until reaped
 *
 * A worker that is SPAWNING has no pid yet: it is a request to the mold. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "server/base/list.h"

struct channel_hello;
struct channel_stop;
struct report;
struct scoreboard;
struct settings;
struct slot;
struct inflight_table;

enum worker_handle_state {
    WORKER_HANDLE_SPAWNING,
    WORKER_HANDLE_BOOTING,
    WORKER_HANDLE_READY,
    WORKER_HANDLE_RETIRING,
    WORKER_HANDLE_DYING
};

struct worker_handle {
    struct list node;                                              /* in master->workers, oldest first */
    enum worker_handle_state state;
    pid_t pid;                                                     /* 0 while SPAWNING */
    int channel;                                                   /* -1 after EOF */
    struct slot *slot;
    struct inflight_table *inflight;                               /* the requests that it has */
    _Atomic uint32_t *load;                                        /* in the scoreboard */
    uint32_t slot_index, generation, age;                          /* age: a running number */
    int64_t boot_timeout_ms, turn_timeout_ms, graceful_timeout_ms; /* its generation's settings; 0: no limit */
    int64_t request_limit_ms;                                      /* none is killed sooner; 0: never for a request */
    int64_t request_grace_ms;                                      /* … which its own limit has that much earlier */
    int64_t lifetime_ms;                                           /* with its jitter; 0: no limit */
    bool scaled;                                                   /* by busyness: somebody watches it */
    int64_t memory_bytes, memory_hard_bytes;                       /* 0: no limit */
    uint64_t spawned_ms, ready_ms;                                 /* ready_ms: 0 before */
    uint64_t awake_ms, unseen_ms; /* when it last told that it has something to do; when it was last left alone */
    uint64_t turns_seen_ns;       /* by autoscale.c, at its last look */
    uint64_t memory_look_ms;      /* when its memory is looked at next */
    uint64_t due_ms;              /* the state must have ended by then; 0: no limit */
    bool leaving;                 /* is to be replaced … */
    bool outgoing;                /* … and that is under way */
    bool abandoned;               /* its mold is gone: nobody waits for it, its HELLO is answered by a kill */
    bool failed;                  /* why it dies was logged */
    bool readable;                /* poll says so */
    char reason[64];              /* why it leaves; "" */
    int64_t slow_request_ms;      /* 0: no limit */
    uint64_t slow_report_ms;      /* no report of slow requests before */
    char *slowlog;                /* absolute, owned; NULL: the error log */
    struct report *report;        /* what it is at is being found out; NULL: no */
};

/* A request for a worker, without a process yet; *child_channel is the end to be sent to the mold, the caller's to
 * close. NULL with errno. */
struct worker_handle *worker_handle_new(struct scoreboard *board, uint32_t slot_index, uint32_t generation,
                                        uint32_t age, const struct settings *settings, int *child_channel);
/* Frees the record and its slot. */
void worker_handle_free(struct worker_handle *worker);
void worker_handle_close_channel(struct worker_handle *worker);

void worker_handle_booting(struct worker_handle *worker, pid_t pid);
void worker_handle_ready(struct worker_handle *worker);

/* STOP, and a kill when it takes too long. One that is not ready yet has nothing to lose: it ends at once. */
void worker_handle_stop(struct worker_handle *worker, const struct channel_stop *stop);
void worker_handle_kill(struct worker_handle *worker);

/* It is to be replaced, and serves on until then (logged once). */
void worker_handle_leave(struct worker_handle *worker, const char *reason);

/* worker_handle_check.c: looks at the limits of time and memory; kills whom they have caught up with, or has it replaced
 * (logged). Returns when to look again; 0: not before it says something. */
uint64_t worker_handle_check(struct worker_handle *worker, uint64_t now_ms);

/* Counts as one of its generation's workers: not on its way out. */
static inline bool worker_handle_serves(const struct worker_handle *worker)
{
    return worker->state <= WORKER_HANDLE_READY && !worker->outgoing && !worker->abandoned;
}
