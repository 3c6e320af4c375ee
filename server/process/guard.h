/* guard: a small thread that watches a worker's loop and never needs what could block it, the GIL least of all. While the
 * loop is stuck in the application and a sibling is free, it gives away the idle connections on which a request has come
 * (net/claim.h). It also sees that the master is gone when the loop cannot: a worker that stays stuck then for longer than
 * `timeout` is ended as the master would have done.
 *
 *     ticking ──nothing turned for IDLE_TICKS──> announced (*call is set) ──one more tick──> asleep, without a timer
 *        ^                                           │                                          │
 *        └────────────── the next turn finds *call, and rings (loop_on_call) ───────────────────┘
 *
 * It does not run while the process forks (Python warns of threads then): stopped before, started again at the next turn. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "server/net/claim.h"

struct inherit;
struct loop;

#define GUARD_TICK_MS 2
#define GUARD_STUCK_MS 3 /* a turn that lasts longer is stuck, as in balance.h */

struct guard {
    const struct inherit *inherit;
    struct loop *loop;
    struct claims *claims; /* NULL: connections are not given away */
    pthread_t thread;
    _Atomic pid_t tid;
    bool running;
    _Atomic uint32_t call; /* bits of enum guard_call, for the loop to see */
    _Atomic uint32_t bell; /* a futex: rung to wake the thread */
    _Atomic bool stop;
    pthread_mutex_t lock;  /* of `moved` */
    struct io **moved;     /* what was given away and the loop has not noticed */
    size_t moved_count, moved_room;
    /* On the guard's thread: enum exchange_result. */
    uint64_t called_ns;      /* for the turn that began then siblings were called */
    int (*give)(struct guard *guard, struct io *io);
    /* On the loop's, afterwards: close it (io_give). */
    void (*gave)(struct guard *guard, struct io *io);
};

/* Before the loop has connections; the callbacks are the caller's to set. `gives`: connections are given away. */
void guard_init(struct guard *guard, const struct inherit *inherit, struct loop *loop, bool gives);
/* Idempotent. Never blocks for longer than the thread's work on one connection takes. */
void guard_start(struct guard *guard);
void guard_stop(struct guard *guard);
/* In a child of the application's: it has no such thread. */
void guard_in_child(struct guard *guard);
/* It is stopped until the loop's next turn. */
void guard_pause(struct guard *guard);
