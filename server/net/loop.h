/* loop: the turn of one thread's event loop, over libev. It owns the poller, the buffer that all reads share,
 * the coarse timers, and the work that waits for the end of the turn.
 *
 *     loop_poll()     wait (or not) for events, run the callbacks of those that are due
 *     ...             whoever drives the loop runs its own ready work here (asyncio's call_soon queue)
 *     loop_settle()   end of the turn: flush what was written, run deferred tasks, free what was closed
 *
 * The driver is `app->run` (server/app.h): the asyncio loop for ASGI, a plain loop for WSGI. Not thread-safe,
 * loop_wake() excepted. A loop is made after the fork that makes its process. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/buf.h"
#include "server/base/list.h"

#define LOOP_READ_BYTES (64 * 1024 + 256) /* what one read(2) takes at most: 64 KiB, and the heads that frame them */

struct ev_loop;
struct loop;

struct loop *loop_new(void);
void loop_free(struct loop *loop);
struct ev_loop *loop_ev(struct loop *loop);
/* The loop whose ev_loop this is (inside libev's callbacks). */
struct loop *loop_of(struct ev_loop *ev);

/* In the child of a fork that goes on using the loop: makes the poller anew. */
void loop_after_fork(struct loop *loop);
/* libev's epoll descriptor: libev never removes a descriptor on stop, whoever moves one away must. */
int loop_poll_fd(struct loop *loop);

/* The shared read buffer, LOOP_READ_BYTES long: its content lasts until the next read on this loop. */
char *loop_read_buffer(struct loop *loop);
/* A second one, for reads inside a callback that still uses the first (io_wait). */
char *loop_wait_buffer(struct loop *loop);

/* Memory for short-lived buffers, so that an idle connection owns none: taken empty (perhaps with capacity), given
 * back (or freed when there are enough). */
struct buf loop_take_buffer(struct loop *loop);
void loop_give_buffer(struct loop *loop, struct buf *buffer);

/* Starts an initialised watcher of a descriptor that sibling processes wait for too. The kernel wakes one of those that
 * wait, the first in line; called again, this one goes to the end of the line. In its turn it is called before all
 * others: nothing that takes long comes between being woken and accepting. Whoever steps out of the line without having
 * looked may have been woken for nothing: it is for him to wake another. */
struct ev_io;
void loop_line_up(struct loop *loop, struct ev_io *watcher);
void loop_step_out(struct loop *loop, struct ev_io *watcher);

/* --- a loop inside another poller: the caller's own asyncio loop, say. Whoever has that drives this one by loop_turn(): when
 * loop_poll_fd() is readable, when loop_due_ms() has come, and when on_rouse asks for it. Between two turns the loop rests. Who
 * changes something then that a poller must know of (a watcher, a timer, deferred work) rouses it: on_rouse comes once,
 * from inside of whatever that is, and the driver is to take a turn soon. --------------------------------------------- */

void loop_embed(struct loop *loop, void (*on_rouse)(void *arg), void *arg);
/* Polls without waiting, settles, and rests. True: there is more to do at once. */
bool loop_turn(struct loop *loop);
/* When the first timer is due, by clock_ms(); 0: there is none. */
uint64_t loop_due_ms(const struct loop *loop);
/* Before a watcher or a timer of a loop that may rest is started. */
void loop_touch(struct loop *loop);

/* Whoever lives on a loop that is another's: loop_free() tells it, while everything still works. */
struct loop_tenant {
    struct list node; /* list_init() before the first use; list_remove() ends it */
    void (*on_free)(struct loop_tenant *tenant);
};
void loop_join(struct loop *loop, struct loop_tenant *tenant);

/* Called around a poll that may block (never around one that does not), e.g. to let the GIL go. */
void loop_set_release(struct loop *loop, void (*release)(void *arg), void (*acquire)(void *arg), void *arg);

/* From now on *began_ns says when the present turn began (CLOCK_MONOTONIC, to the millisecond), 0 while the loop waits:
 * whoever shares that memory sees a loop that is stuck. *last_ns, *longest_ns, *all_ns: how long turns lasted. NULL:
 * ends it. */
void loop_publish_turn(struct loop *loop, _Atomic uint64_t *began_ns, _Atomic uint64_t *last_ns,
                       _Atomic uint64_t *longest_ns, _Atomic uint64_t *all_ns);

/* Whoever looks at that sets *unseen when it will not look again. The next turn clears it and calls on_unseen, before
 * anything that could be stuck. NULL: nobody does. */
void loop_publish_unseen(struct loop *loop, _Atomic uint32_t *unseen, void (*on_unseen)(void *arg), void *arg);

/* At each turn's beginning, *call is looked at; if it is not 0, on_call comes before anything that could be stuck. For a
 * thread that watches the loop: it sets *call to say something, and is told by it that there is a turn. Also before
 * acquire(), which may last: `acquired` is false then. */
void loop_on_call(struct loop *loop, _Atomic uint32_t *call, void (*on_call)(void *arg, bool acquired), void *arg);

/* Idle connections have claims from now on (claim.h). Before the first connection. */
struct claims;
void loop_set_claims(struct loop *loop, struct claims *claims);
struct claims *loop_claims(const struct loop *loop);
/* What was started to be watched is in the poller at once, not only at the next poll: others may look there, too. */
void loop_watch_now(struct loop *loop);

/* Called before each wait for events: what the last turns changed is published then, once for all of them. */
void loop_before_wait(struct loop *loop, void (*before_wait)(void *arg), void *arg);

/* Polls once. `may_block`: wait for the first event, timer or loop_wake(); does not wait while deferred work is
 * pending. */
void loop_poll(struct loop *loop, bool may_block);
void loop_settle(struct loop *loop);

/* From any thread, any number of times: the next loop_poll() returns at once. Async-signal-safe. */
void loop_wake(struct loop *loop);

/* Monotonic milliseconds as of the last poll: cheap, at most one turn old. (While the loop rests: as of now.) */
uint64_t loop_now_ms(const struct loop *loop);
uint64_t loop_now_ns(const struct loop *loop);
/* Reads the clock: after a callback that may have taken long, before a timer is set. */
void loop_update_now(struct loop *loop);

/* --- deferred tasks: run once, in loop_settle(), in order. A task added there runs in the next settle. ------ */

struct loop_task {
    struct list node; /* list_init() before the first use */
    void (*run)(struct loop_task *task);
};

static inline void loop_task_init(struct loop_task *task, void (*run)(struct loop_task *))
{
    list_init(&task->node);
    task->run = run;
}

/* Adding a task that is already waiting does nothing. */
void loop_defer(struct loop *loop, struct loop_task *task);
/* Tasks that run after all others of this settle: freeing, log flushing. */
void loop_defer_last(struct loop *loop, struct loop_task *task);
/* Work of which thousands of pieces may wait at once, as when a crowd comes or goes: it is done before the other tasks, piece by
 * piece in order, for at most LOOP_BULK_US a settle. The rest waits for the next turns, in which whoever else has something to say
 * is served. A task that has more to do adds itself again. */
#define LOOP_BULK_US 2000
void loop_defer_bulk(struct loop *loop, struct loop_task *task);
/* Tasks wait for the next settle: whoever drives the loop must not block before. */
bool loop_has_deferred(const struct loop *loop);
static inline void loop_task_cancel(struct loop_task *task)
{
    list_remove(&task->node);
}

/* --- coarse timers: for the time limits of connections. Never early, late by at most COARSE_MS + one turn.
 * Arming again for later costs a store: the entry stays where it is in the wheel and is moved when its old place
 * comes up. A loop with no armed timer does not wake up. ------------------------------------------------------ */

#define COARSE_MS 100

struct coarse_timer {
    struct list node;
    uint64_t due_ms;  /* 0: not armed */
    uint64_t slot_ms; /* when its place in the wheel comes up; 0: in no place */
    void (*fire)(struct coarse_timer *timer);
};

void coarse_timer_init(struct coarse_timer *timer, void (*fire)(struct coarse_timer *));
void coarse_timer_arm(struct loop *loop, struct coarse_timer *timer, uint64_t in_ms);
static inline void coarse_timer_disarm(struct coarse_timer *timer)
{
    timer->due_ms = 0;
}
/* Takes it out of the wheel for good: before its memory is freed. */
void coarse_timer_done(struct loop *loop, struct coarse_timer *timer);
