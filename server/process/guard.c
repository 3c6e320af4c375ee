/* guard: see guard.h. */
#include "server/process/guard.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/net/exchange.h"
#include "server/net/loop.h"
#include "server/process/balance.h"
#include "server/process/inherit.h"
#include "server/process/scoreboard.h"

#define IDLE_TICKS 2
#define UNCOUNTED_TRIES 1000
#define NS_PER_MS UINT64_C(1000000)

enum guard_call {
    CALL_ASLEEP = 1, /* ring when a turn begins */
    CALL_MOVED = 2,  /* connections were given away */
    CALL_START = 4,  /* it was paused */
};

/* --- sleeping ----------------------------------------------------------------------------------------------------- */

/* Until the bell has rung since it was `heard`, or a tick has passed; `ticks` false: however long that is. */
static void wait_for_bell(struct guard *guard, uint32_t heard, bool ticks)
{
    struct timespec tick = { .tv_nsec = GUARD_TICK_MS * NS_PER_MS };
    syscall(SYS_futex, &guard->bell, FUTEX_WAIT_PRIVATE, heard, ticks ? &tick : NULL, NULL, 0);
}

static void ring(struct guard *guard)
{
    atomic_fetch_add(&guard->bell, 1);
    syscall(SYS_futex, &guard->bell, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

struct watched {
    uint64_t began_ns, turns_ns;
};

static struct watched look(const struct guard *guard)
{
    struct slot *slot = guard->inherit->slot;
    return (struct watched){ atomic_load_explicit(&slot->turn_began_ns, memory_order_relaxed),
                             atomic_load_explicit(&slot->turns_ns, memory_order_relaxed) };
}

static bool is_idle(struct watched before, struct watched now)
{
    return now.began_ns == 0 && before.turns_ns == now.turns_ns;
}

/* The loop stores when its turn began and looks at the call without a fence between: a turn that began just when the
 * call was made may have missed it. The tick in between shows it. */
static void sleep_until_called(struct guard *guard)
{
    uint32_t heard = atomic_load(&guard->bell);
    struct watched before = look(guard);
    atomic_fetch_or(&guard->call, CALL_ASLEEP);
    wait_for_bell(guard, heard, true);
    while (!atomic_load(&guard->stop) && atomic_load(&guard->bell) == heard && is_idle(before, look(guard)))
        wait_for_bell(guard, heard, false);
    atomic_fetch_and(&guard->call, ~(unsigned)CALL_ASLEEP);
}

/* --- giving away -------------------------------------------------------------------------------------------------- */

static bool is_stuck(uint64_t began_ns, uint64_t now_ns)
{
    return began_ns > 0 && now_ns > began_ns + GUARD_STUCK_MS * NS_PER_MS;
}

/* Who takes newcomers has a load (balance.h). */
static bool is_free(const struct scoreboard *board, uint32_t i, uint64_t now_ns)
{
    return atomic_load_explicit(&board->loads[i], memory_order_relaxed) > 0 &&
           !is_stuck(atomic_load_explicit(&board->slots[i].turn_began_ns, memory_order_relaxed), now_ns);
}

static bool somebody_is_free(const struct guard *guard, uint64_t now_ns)
{
    const struct scoreboard *board = guard->inherit->scoreboard;
    uint32_t end = board ? atomic_load_explicit(&board->loads_end, memory_order_relaxed) : 0;
    for (uint32_t i = 0; i < end; i++)
        if (i != guard->inherit->slot_index && is_free(board, i, now_ns))
            return true;
    return false;
}

/* Asked again for each: the loop may be back, and the siblings may be busy by now. */
static int give(void *arg, struct io *io)
{
    struct guard *guard = arg;
    uint64_t now_ns = clock_ns();
    if (!is_stuck(look(guard).began_ns, now_ns) || !somebody_is_free(guard, now_ns))
        return EXCHANGE_FULL;
    return guard->give(guard, io);
}

static void on_moved(void *arg, struct io *io)
{
    struct guard *guard = arg;
    pthread_mutex_lock(&guard->lock);
    if (guard->moved_count == guard->moved_room) {
        guard->moved_room = guard->moved_room ? guard->moved_room * 2 : 64;
        guard->moved = mem_realloc(guard->moved, guard->moved_room * sizeof(*guard->moved));
    }
    guard->moved[guard->moved_count++] = io;
    pthread_mutex_unlock(&guard->lock);
    atomic_fetch_or(&guard->call, CALL_MOVED);
}

/* --- the master --------------------------------------------------------------------------------------------------- */

static bool master_is_gone(const struct guard *guard)
{
    struct pollfd channel = { .fd = guard->inherit->channel };
    return poll(&channel, 1, 0) > 0 && (channel.revents & (POLLHUP | POLLERR));
}

/* Nobody else ends it now; what it has in flight had its time. */
static void end_if_left_alone(const struct guard *guard, uint64_t stuck_ms)
{
    const struct settings *settings = guard->inherit->settings;
    int64_t limit_ms = settings->timeout_ms > 0 ? settings->timeout_ms : settings->graceful_timeout_ms;
    if (stuck_ms > (uint64_t)limit_ms && master_is_gone(guard))
        kill(getpid(), SIGKILL);
}

/* --- newcomers ---------------------------------------------------------------------------------------------------- */

static bool newcomers_wait(const struct inherit *inherit)
{
    for (int i = 0; i < inherit->listener_count; i++) {
        struct pollfd listener = { .fd = inherit->listeners[i], .events = POLLIN };
        if (poll(&listener, 1, 0) > 0 && listener.revents & POLLIN)
            return true;
    }
    return false;
}

/* The kernel may have woken this worker for one just before it got stuck. Those who come later wake others. */
static void call_siblings(struct guard *guard, uint64_t began_ns)
{
    const struct inherit *inherit = guard->inherit;
    if (guard->called_ns == began_ns || !inherit->scoreboard)
        return;
    guard->called_ns = began_ns;
    if (newcomers_wait(inherit))
        balance_ring(inherit->bell);
}

/* --- the thread --------------------------------------------------------------------------------------------------- */

static void help(struct guard *guard, uint64_t began_ns)
{
    const struct claims_giver giver = { give, on_moved, guard };
    uint64_t now_ns = clock_ns();
    if (!is_stuck(began_ns, now_ns))
        return;
    call_siblings(guard, began_ns);
    if (guard->claims && somebody_is_free(guard, now_ns))
        claims_give(guard->claims, loop_poll_fd(guard->loop), &giver);
    if (atomic_load(&guard->call) & CALL_MOVED)
        loop_wake(guard->loop); /* it would wait without noticing */
    end_if_left_alone(guard, (now_ns - began_ns) / NS_PER_MS);
}

static void *guard_main(void *arg)
{
    struct guard *guard = arg;
    struct watched before = look(guard);
    int idle = 0;
    atomic_store(&guard->tid, gettid());
    while (!atomic_load(&guard->stop)) {
        wait_for_bell(guard, atomic_load(&guard->bell), true);
        struct watched now = look(guard);
        idle = is_idle(before, now) ? idle + 1 : 0;
        before = now;
        if (idle >= IDLE_TICKS) {
            sleep_until_called(guard);
            idle = 0;
        }
        help(guard, now.began_ns);
    }
    return NULL;
}

/* --- the loop's side ---------------------------------------------------------------------------------------------- */

static void take_note(struct guard *guard)
{
    pthread_mutex_lock(&guard->lock);
    struct io **moved = guard->moved;
    size_t count = guard->moved_count;
    guard->moved = NULL;
    guard->moved_count = guard->moved_room = 0;
    pthread_mutex_unlock(&guard->lock);
    for (size_t i = 0; i < count; i++)
        guard->gave(guard, moved[i]);
    free(moved);
}

/* `all`: what may call the application back, too. */
static void on_call(void *arg, bool all)
{
    struct guard *guard = arg;
    uint32_t heard = all ? ~0u : CALL_ASLEEP, call = atomic_fetch_and(&guard->call, ~heard) & heard;
    if (call & CALL_ASLEEP)
        ring(guard);
    if (call & CALL_MOVED)
        take_note(guard);
    if (call & CALL_START)
        guard_start(guard);
}

void guard_init(struct guard *guard, const struct inherit *inherit, struct loop *loop, bool gives)
{
    *guard = (struct guard){ .inherit = inherit, .loop = loop };
    pthread_mutex_init(&guard->lock, NULL);
    guard->claims = gives ? claims_new() : NULL;
    loop_set_claims(loop, guard->claims);
    loop_on_call(loop, &guard->call, on_call, guard);
}

/* It must get no signal: it has no place to handle one. */
void guard_start(struct guard *guard)
{
    sigset_t all, before;
    if (guard->running)
        return;
    atomic_store(&guard->stop, false);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    atomic_store(&guard->tid, 0);
    int error = pthread_create(&guard->thread, NULL, guard_main, guard);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    guard->running = error == 0;
    if (error != 0)
        log_warning("The guard's thread cannot be started: %s. Idle connections wait while the application blocks",
                    strerror(error));
}

/* A thread that was joined may be counted among the process's for a moment longer: Python would warn at a fork. */
static void wait_until_uncounted(pid_t tid)
{
    for (int i = 0; i < UNCOUNTED_TRIES && tid > 0 && syscall(SYS_tgkill, getpid(), tid, 0) == 0; i++)
        sched_yield();
}

void guard_stop(struct guard *guard)
{
    if (!guard->running)
        return;
    atomic_store(&guard->stop, true);
    ring(guard);
    pthread_join(guard->thread, NULL);
    wait_until_uncounted(atomic_load(&guard->tid));
    guard->running = false;
}

void guard_in_child(struct guard *guard)
{
    guard->running = false;
}

void guard_pause(struct guard *guard)
{
    if (!guard->running)
        return;
    guard_stop(guard);
    atomic_fetch_or(&guard->call, CALL_START);
}
