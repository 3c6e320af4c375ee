/* loop: see loop.h. Compiles libev in, as it needs two of its insides: the monotonic time of the turn, and the
 * poller's descriptor. */
#ifndef NDEBUG
#define NDEBUG 1 /* libev asserts that watched descriptors are open; an application may close its own at any time */
#endif
#include "server/net/libev.h"

#include <sys/epoll.h>

/* libev waits at most 17 days at a time, and for that long without a timer. The kernel sets up and takes down a timer of its own for
 * any limit, so such a one is none. */
#define LONGEST_WAIT_MS 1500000000
static inline int wait_limit_ms(int ms)
{
    return ms >= LONGEST_WAIT_MS ? -1 : ms;
}
#define epoll_wait(poller, events, size, ms) epoll_wait(poller, events, size, wait_limit_ms(ms))

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wparentheses"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wunused-value"
#pragma GCC diagnostic ignored "-Wstrict-aliasing"
#pragma GCC diagnostic ignored "-Wcomment"
#include "ev.c"
#pragma GCC diagnostic pop
#undef epoll_wait

#include <stdatomic.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/base/tally.h"
#include "server/net/loop.h"

#define WHEEL_SLOTS 1024 /* x COARSE_MS: longer delays are looked at again once a round */
#define SPARE_BUFFERS 64
#define SPARE_MAX_BYTES (32 * 1024)

struct loop {
    struct ev_loop *ev;
    struct ev_async wake;
    struct list bulk, deferred, last;
    void (*release)(void *), (*acquire)(void *);
    void *release_arg;
    void (*before_wait)(void *);
    void *before_wait_arg;
    bool blocking;                   /* the present poll may wait */
    _Atomic uint64_t *turn_began_ns; /* where others see since when this turn lasts; or NULL */
    _Atomic uint64_t *last_turn_ns, *longest_turn_ns, *turns_ns;
    _Atomic uint32_t *unseen;        /* … and set when they do not look; or NULL */
    void (*on_unseen)(void *);
    void *on_unseen_arg;
    _Atomic uint32_t *call; /* somebody wants to be heard, or to know that a turn begins; or NULL */
    void (*on_call)(void *, bool);
    void *on_call_arg;
    struct claims *claims; /* or NULL */
    void (*on_rouse)(void *);
    void *on_rouse_arg;
    bool rests;            /* embedded, and between two turns */
    struct list tenants;

    struct list wheel[WHEEL_SLOTS];
    struct ev_timer wheel_timer;
    uint64_t wheel_done_ms; /* slots up to here were looked at */
    uint64_t wheel_wake_ms; /* when wheel_timer fires; 0: not running */

    struct buf spare[SPARE_BUFFERS];
    int spare_count;
    char *wait_buffer;
    char read_buffer[LOOP_READ_BYTES];
};

static void on_wake(struct ev_loop *ev, struct ev_async *watcher, int revents)
{
    (void)ev, (void)watcher, (void)revents;
}

/* The turn is over; the next one begins at `began_ns`, or at 0: after a wait. libev has just read the clock. */
static void publish_turn(struct loop *loop, uint64_t began_ns)
{
    uint64_t before_ns = atomic_load_explicit(loop->turn_began_ns, memory_order_relaxed), now_ns = loop_now_ns(loop);
    atomic_store_explicit(loop->turn_began_ns, began_ns, memory_order_relaxed);
    if (before_ns == 0 || before_ns > now_ns)
        return;
    atomic_store_explicit(loop->last_turn_ns, now_ns - before_ns, memory_order_relaxed);
    tally_add(loop->turns_ns, now_ns - before_ns);
    if (now_ns - before_ns > atomic_load_explicit(loop->longest_turn_ns, memory_order_relaxed))
        atomic_store_explicit(loop->longest_turn_ns, now_ns - before_ns, memory_order_relaxed);
}

static void on_release(struct ev_loop *ev)
{
    struct loop *loop = ev_userdata(ev);
    if (!loop->blocking)
        return;
    if (loop->turn_began_ns)
        publish_turn(loop, 0);
    if (loop->release)
        loop->release(loop->release_arg);
}

/* If nobody has looked for long, they are told that there is something to see again. */
static void tell_unseen(struct loop *loop)
{
    if (!loop->unseen || !atomic_load_explicit(loop->unseen, memory_order_relaxed))
        return;
    atomic_store_explicit(loop->unseen, 0, memory_order_relaxed);
    loop->on_unseen(loop->on_unseen_arg);
}

/* Back from the poller. What is acquired may be kept by another thread for ever, and others are to see that too. */
static void on_acquire(struct ev_loop *ev)
{
    struct loop *loop = ev_userdata(ev);
    if (!loop->blocking || !loop->acquire)
        return;
    if (loop->turn_began_ns)
        atomic_store_explicit(loop->turn_began_ns, clock_coarse_ns(), memory_order_relaxed);
    tell_unseen(loop);
    if (loop->call && atomic_load_explicit(loop->call, memory_order_relaxed))
        loop->on_call(loop->on_call_arg, false);
    loop->acquire(loop->release_arg);
    if (loop->turn_began_ns)
        atomic_store_explicit(loop->turn_began_ns, 0, memory_order_relaxed);
}

/* The turn begins, before the first callback. */
static void on_pending(struct ev_loop *ev)
{
    struct loop *loop = ev_userdata(ev);
    if (loop->turn_began_ns)
        publish_turn(loop, loop_now_ns(loop));
    tell_unseen(loop);
    if (loop->call && atomic_load_explicit(loop->call, memory_order_relaxed))
        loop->on_call(loop->on_call_arg, true);
    ev_invoke_pending(ev);
}

/* --- inside another poller -------------------------------------------------------------------------------------- */

void loop_touch(struct loop *loop)
{
    if (!loop->rests)
        return;
    loop->rests = false;
    ev_now_update(loop->ev); /* timers count from it */
    loop->on_rouse(loop->on_rouse_arg);
}

void loop_embed(struct loop *loop, void (*on_rouse)(void *), void *arg)
{
    loop->on_rouse = on_rouse;
    loop->on_rouse_arg = arg;
    loop->rests = true;
}

bool loop_turn(struct loop *loop)
{
    loop->rests = false;
    loop_poll(loop, false);
    loop_settle(loop);
    fd_reify(loop->ev); /* the other poller waits next: what was started is to be seen by it */
    loop->rests = !loop_has_deferred(loop);
    return !loop->rests;
}

uint64_t loop_due_ms(const struct loop *loop)
{
    return loop->ev->timercnt > 0 ? (uint64_t)(ANHE_at(loop->ev->timers[HEAP0]) * 1e3) + 1 : 0;
}

void loop_join(struct loop *loop, struct loop_tenant *tenant)
{
    list_append(&loop->tenants, &tenant->node);
}

static void evict(struct loop *loop)
{
    for (struct list *node; (node = list_pop(&loop->tenants)) != NULL;) {
        struct loop_tenant *tenant = LIST_ENTRY(node, struct loop_tenant, node);
        tenant->on_free(tenant);
    }
}

/* --- coarse timers --------------------------------------------------------------------------------------------- */

static void wheel_wake_at(struct loop *loop, uint64_t slot_ms)
{
    loop_touch(loop);
    double in = (double)slot_ms / 1e3 - loop->ev->mn_now;
    ev_timer_stop(loop->ev, &loop->wheel_timer);
    ev_timer_set(&loop->wheel_timer, in > 0 ? in : 0, 0.);
    ev_timer_start(loop->ev, &loop->wheel_timer);
    loop->wheel_wake_ms = slot_ms;
}

static struct list *wheel_slot(struct loop *loop, uint64_t slot_ms)
{
    return &loop->wheel[slot_ms / COARSE_MS % WHEEL_SLOTS];
}

static void wheel_insert(struct loop *loop, struct coarse_timer *timer)
{
    uint64_t now = loop_now_ms(loop), first = (now / COARSE_MS + 1) * COARSE_MS;
    uint64_t slot = (timer->due_ms + COARSE_MS - 1) / COARSE_MS * COARSE_MS;
    uint64_t last = first + (WHEEL_SLOTS - 2) * COARSE_MS;
    slot = slot < first ? first : slot > last ? last : slot;
    timer->slot_ms = slot;
    list_append(wheel_slot(loop, slot), &timer->node);
    if (loop->wheel_wake_ms == 0 || slot < loop->wheel_wake_ms)
        wheel_wake_at(loop, slot);
}

static void wheel_visit(struct loop *loop, struct coarse_timer *timer, uint64_t now)
{
    timer->slot_ms = 0;
    if (timer->due_ms == 0)
        return;
    if (timer->due_ms > now) {
        wheel_insert(loop, timer);
        return;
    }
    timer->due_ms = 0;
    timer->fire(timer);
}

static void wheel_run_slot(struct loop *loop, uint64_t slot_ms, uint64_t now)
{
    struct list due, *node;
    list_init(&due);
    list_splice(&due, wheel_slot(loop, slot_ms));
    while ((node = list_pop(&due)) != NULL)
        wheel_visit(loop, LIST_ENTRY(node, struct coarse_timer, node), now);
}

static void wheel_wake_next(struct loop *loop, uint64_t done_ms)
{
    for (uint64_t slot = done_ms + COARSE_MS; slot < done_ms + WHEEL_SLOTS * COARSE_MS; slot += COARSE_MS)
        if (!list_empty(wheel_slot(loop, slot))) {
            wheel_wake_at(loop, slot);
            return;
        }
}

static void on_wheel(struct ev_loop *ev, struct ev_timer *watcher, int revents)
{
    (void)watcher, (void)revents;
    struct loop *loop = ev_userdata(ev);
    uint64_t now = loop_now_ms(loop), until = now / COARSE_MS * COARSE_MS, from = loop->wheel_wake_ms;
    if (from == 0 || from > until)
        from = until;
    if (until - from >= WHEEL_SLOTS * COARSE_MS) /* after a long stop each slot is due, once */
        from = until - (WHEEL_SLOTS - 1) * COARSE_MS;
    loop->wheel_wake_ms = until + COARSE_MS;     /* what is armed meanwhile is found below */
    for (uint64_t slot = from; slot <= until; slot += COARSE_MS)
        wheel_run_slot(loop, slot, now);
    ev_timer_stop(ev, &loop->wheel_timer);
    loop->wheel_wake_ms = 0;
    wheel_wake_next(loop, until);
}

void coarse_timer_init(struct coarse_timer *timer, void (*fire)(struct coarse_timer *))
{
    *timer = (struct coarse_timer){ .fire = fire };
    list_init(&timer->node);
}

void coarse_timer_arm(struct loop *loop, struct coarse_timer *timer, uint64_t in_ms)
{
    timer->due_ms = loop_now_ms(loop) + in_ms + 1;
    if (timer->slot_ms != 0 && timer->slot_ms <= timer->due_ms)
        return; /* looked at before it is due: moved then */
    list_remove(&timer->node);
    wheel_insert(loop, timer);
}

void coarse_timer_done(struct loop *loop, struct coarse_timer *timer)
{
    (void)loop;
    list_remove(&timer->node);
    timer->due_ms = timer->slot_ms = 0;
}

/* --- the loop ---------------------------------------------------------------------------------------------------- */

static void loop_start_watchers(struct loop *loop)
{
    ev_async_init(&loop->wake, on_wake);
    ev_async_start(loop->ev, &loop->wake); /* stays active: ev_run() waits even when nothing else is watched */
    ev_init(&loop->wheel_timer, on_wheel);
    ev_set_userdata(loop->ev, loop);
    ev_set_loop_release_cb(loop->ev, on_release, on_acquire);
    ev_set_invoke_pending_cb(loop->ev, on_pending);
}

struct loop *loop_new(void)
{
    struct loop *loop = mem_zalloc(sizeof(*loop));
    loop->ev = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
    if (loop->ev == NULL) {
        free(loop);
        return NULL;
    }
    list_init(&loop->bulk);
    list_init(&loop->deferred);
    list_init(&loop->last);
    list_init(&loop->tenants);
    for (int i = 0; i < WHEEL_SLOTS; i++)
        list_init(&loop->wheel[i]);
    loop_start_watchers(loop);
    return loop;
}

void loop_free(struct loop *loop)
{
    if (loop == NULL)
        return;
    evict(loop);
    ev_loop_destroy(loop->ev);
    for (int i = 0; i < loop->spare_count; i++)
        buf_done(&loop->spare[i]);
    free(loop->wait_buffer);
    free(loop);
}

void loop_after_fork(struct loop *loop)
{
    ev_loop_fork(loop->ev);
}

struct ev_loop *loop_ev(struct loop *loop)
{
    return loop->ev;
}

struct loop *loop_of(struct ev_loop *ev)
{
    return ev_userdata(ev);
}

int loop_poll_fd(struct loop *loop)
{
    return loop->ev->backend_fd;
}

char *loop_read_buffer(struct loop *loop)
{
    return loop->read_buffer;
}

char *loop_wait_buffer(struct loop *loop)
{
    if (loop->wait_buffer == NULL)
        loop->wait_buffer = mem_alloc(LOOP_READ_BYTES);
    return loop->wait_buffer;
}

void loop_line_up(struct loop *loop, struct ev_io *watcher)
{
    struct ev_loop *ev = loop->ev;
    int fd = watcher->fd;
    if (!ev_is_active(watcher)) {
        ev_set_priority(watcher, EV_MAXPRI);
        ev_io_start(ev, watcher);
        fd_reify(ev); /* libev registers it now, and not again: what follows stays */
    }
    struct epoll_event event = { .events = EPOLLIN | EPOLLEXCLUSIVE };
    event.data.u64 = (uint64_t)(uint32_t)fd | (uint64_t)(uint32_t)ev->anfds[fd].egen << 32;
    epoll_ctl(ev->backend_fd, EPOLL_CTL_DEL, fd, NULL);
    if (epoll_ctl(ev->backend_fd, EPOLL_CTL_ADD, fd, &event) == 0)
        return;
    event.events = EPOLLIN; /* all are woken, then */
    epoll_ctl(ev->backend_fd, EPOLL_CTL_ADD, fd, &event);
}

/* libev leaves a descriptor in the poller when it is stopped: there it would be woken instead of a sibling. */
void loop_step_out(struct loop *loop, struct ev_io *watcher)
{
    if (!ev_is_active(watcher))
        return;
    ev_io_stop(loop->ev, watcher);
    epoll_ctl(loop->ev->backend_fd, EPOLL_CTL_DEL, watcher->fd, NULL);
}

void loop_set_release(struct loop *loop, void (*release)(void *), void (*acquire)(void *), void *arg)
{
    loop->release = release;
    loop->acquire = acquire;
    loop->release_arg = arg;
}

void loop_publish_turn(struct loop *loop, _Atomic uint64_t *began_ns, _Atomic uint64_t *last_ns,
                       _Atomic uint64_t *longest_ns, _Atomic uint64_t *all_ns)
{
    loop->turn_began_ns = began_ns;
    loop->last_turn_ns = last_ns;
    loop->longest_turn_ns = longest_ns;
    loop->turns_ns = all_ns;
}

void loop_publish_unseen(struct loop *loop, _Atomic uint32_t *unseen, void (*on_unseen)(void *arg), void *arg)
{
    loop->unseen = unseen;
    loop->on_unseen = on_unseen;
    loop->on_unseen_arg = arg;
}

void loop_on_call(struct loop *loop, _Atomic uint32_t *call, void (*on_call)(void *arg, bool acquired), void *arg)
{
    loop->call = call;
    loop->on_call = on_call;
    loop->on_call_arg = arg;
}

void loop_set_claims(struct loop *loop, struct claims *claims)
{
    loop->claims = claims;
}

struct claims *loop_claims(const struct loop *loop)
{
    return loop->claims;
}

void loop_watch_now(struct loop *loop)
{
    fd_reify(loop->ev);
}

bool loop_has_deferred(const struct loop *loop)
{
    return !list_empty(&loop->bulk) || !list_empty(&loop->deferred) || !list_empty(&loop->last);
}

void loop_before_wait(struct loop *loop, void (*before_wait)(void *), void *arg)
{
    loop->before_wait = before_wait;
    loop->before_wait_arg = arg;
}

void loop_poll(struct loop *loop, bool may_block)
{
    loop->blocking = may_block && !loop_has_deferred(loop);
    if (loop->blocking && loop->before_wait)
        loop->before_wait(loop->before_wait_arg);
    ev_run(loop->ev, loop->blocking ? EVRUN_ONCE : EVRUN_NOWAIT);
}

static void run_tasks(struct list *tasks)
{
    struct list batch, *node;
    list_init(&batch);
    list_splice(&batch, tasks);
    while ((node = list_pop(&batch)) != NULL) {
        struct loop_task *task = LIST_ENTRY(node, struct loop_task, node);
        task->run(task);
    }
}

static void run_bulk(struct list *tasks)
{
    uint64_t until_ns = clock_ns() + LOOP_BULK_US * 1000;
    do {
        struct loop_task *task = LIST_ENTRY(list_pop(tasks), struct loop_task, node);
        task->run(task);
    } while (!list_empty(tasks) && clock_ns() < until_ns);
}

void loop_settle(struct loop *loop)
{
    if (!list_empty(&loop->bulk))
        run_bulk(&loop->bulk);
    if (!list_empty(&loop->deferred))
        run_tasks(&loop->deferred);
    if (!list_empty(&loop->last))
        run_tasks(&loop->last);
}

void loop_wake(struct loop *loop)
{
    ev_async_send(loop->ev, &loop->wake);
}

static double turn_time(const struct loop *loop)
{
    return loop->rests ? get_clock() : loop->ev->mn_now;
}

uint64_t loop_now_ms(const struct loop *loop)
{
    return (uint64_t)(turn_time(loop) * 1e3);
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return (uint64_t)(turn_time(loop) * 1e9);
}

void loop_update_now(struct loop *loop)
{
    ev_now_update(loop->ev);
}

void loop_defer(struct loop *loop, struct loop_task *task)
{
    loop_touch(loop);
    if (list_empty(&task->node))
        list_append(&loop->deferred, &task->node);
}

void loop_defer_last(struct loop *loop, struct loop_task *task)
{
    loop_touch(loop);
    if (list_empty(&task->node))
        list_append(&loop->last, &task->node);
}

void loop_defer_bulk(struct loop *loop, struct loop_task *task)
{
    loop_touch(loop);
    if (list_empty(&task->node))
        list_append(&loop->bulk, &task->node);
}

struct buf loop_take_buffer(struct loop *loop)
{
    return loop->spare_count > 0 ? loop->spare[--loop->spare_count] : (struct buf){ 0 };
}

void loop_give_buffer(struct loop *loop, struct buf *buffer)
{
    if (buffer->cap > SPARE_MAX_BYTES || buffer->cap == 0 || loop->spare_count == SPARE_BUFFERS) {
        buf_done(buffer);
        return;
    }
    buffer->start = buffer->end = 0;
    loop->spare[loop->spare_count++] = *buffer;
    *buffer = (struct buf){ 0 };
}
