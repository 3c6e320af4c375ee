/* worker: see worker.h. A small machine:
 *
 *     BOOTING --worker_ready--> READY --TERM, STOP, EOF--> ENDING --backlog is empty--> DRAINING --drained--> LEFT
 *                                 |                          |                             |
 *                                 +---- INT, QUIT, STOP now -+----- or graceful_timeout ---+-- on_abort --> LEFT
 *
 * ENDING gives the loop the time to read what was just accepted, so that on_drain does not take a connection whose
 * request is already there for an idle one. */
#include "server/process/worker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/net/listener.h"
#include "server/net/loop.h"
#include "server/net/watch.h"
#include "server/process/balance.h"
#include "server/process/channel.h"
#include "server/process/guard.h"
#include "server/process/handover.h"
#include "server/process/inherit.h"
#include "server/process/scoreboard.h"
#include "server/process/title.h"

#define LISTENERS_POLLED 32
#define ENDING_QUIET_MS 50 /* so long nothing was accepted: the backlog is empty */
#define ENDING_MAX_MS 500  /* newcomers cannot keep a leaving worker for longer */

enum worker_state { WORKER_BOOTING, WORKER_READY, WORKER_ENDING, WORKER_DRAINING, WORKER_LEFT };

struct worker {
    enum worker_state state;
    const struct inherit *inherit;
    struct loop *loop;
    const struct worker_ops *ops;
    void *arg;
    struct watch channel, signals;
    struct alarm quiet, graceful;
    uint64_t ending_until_ms;
    struct listener *listeners;
    struct balance balance;
    struct handover handover;
    struct guard guard;
    bool guarded;
    struct channel_message *message;
    bool leaving_told, alone; /* alone: no sibling stays behind */
};

/* --- signals: the handlers leave a bit and wake the loop --------------------------------------------------------- */

static int signal_fd = -1;
static pid_t signals_owner;
static _Atomic unsigned signals_seen;

/* A child that the application has forked has inherited the handler: there the signal does what it does by default. */
static void on_signal_in_child(int number)
{
    signal(number, SIG_DFL);
    raise(number);
}

static void on_signal(int number)
{
    int error = errno;
    if (getpid() != signals_owner) {
        on_signal_in_child(number);
        return;
    }
    atomic_fetch_or(&signals_seen, 1u << number);
    if (write(signal_fd, &(uint64_t){ 1 }, sizeof(uint64_t)) < 0) {
        /* the counter is full: the loop is woken already */
    }
    errno = error;
}

static void on_nothing(int number)
{
    (void)number;
}

static void handle_signals(const int *numbers, size_t count, void (*handler)(int))
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART | SA_ONSTACK };
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < count; i++)
        sigaction(numbers[i], &action, NULL);
}

/* Signals that mean something to the master alone, and may reach all of its group, are handled by nothing rather than
 * ignored: programs that the application starts get their defaults. */
static const int ending[] = { SIGTERM, SIGINT, SIGQUIT }, silent[] = { SIGHUP, SIGUSR2, SIGTTIN, SIGTTOU, SIGWINCH };
static const int reopening[] = { SIGUSR1 };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void signals_for_boot(void)
{
    handle_signals(ending, COUNT(ending), SIG_DFL);
    handle_signals(reopening, COUNT(reopening), on_nothing);
    handle_signals(silent, COUNT(silent), on_nothing);
    handle_signals((int[]){ SIGCHLD, SIGABRT }, 2, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* --- children that the application forks: they must not hold what the worker serves ---------------------------- */

static struct worker *forking_worker; /* NULL: none */

static void close_in_child(void)
{
    if (!forking_worker)
        return;
    scoreboard_leave();
    close(signal_fd);
    const struct inherit *inherit = forking_worker->inherit;
    close(inherit->channel);
    if (inherit->scoreboard)
        close(inherit->bell);
    for (int i = 0; i < inherit->listener_count; i++)
        close(inherit->listeners[i]);
    for (int i = 0; i < forking_worker->handover.count; i++) {
        close(inherit->exchanges[i][EXCHANGE_OUT]);
        close(inherit->exchanges[i][EXCHANGE_IN]);
    }
    guard_in_child(&forking_worker->guard);
    forking_worker = NULL;
}

static void register_fork_handler(void)
{
    pthread_atfork(NULL, NULL, close_in_child);
}

/* --- what ps shows ---------------------------------------------------------------------------------------------- */

static void show_state(const struct inherit *inherit, const char *state)
{
    title_set("licorne: worker %u [gen %u, %s] %s", inherit->age, inherit->generation, state,
              settings_name(inherit->settings));
}

/* "1 204 req" */
static void put_count(char *to, size_t size, uint64_t count)
{
    char digits[24];
    int len = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)count);
    size_t at = 0;
    for (int i = 0; i < len && at + 6 < size; i++) {
        to[at++] = digits[i];
        if (i + 1 < len && (len - i - 1) % 3 == 0)
            to[at++] = ' ';
    }
    snprintf(to + at, size - at, " req");
}

void worker_show(struct worker *worker, uint64_t requests)
{
    char state[64] = "";
    size_t at = 0;
    if (worker_draining(worker))
        at = (size_t)snprintf(state, sizeof(state), "draining, ");
    put_count(state + at, sizeof(state) - at, requests);
    show_state(worker->inherit, state);
}

/* --- leaving -------------------------------------------------------------------------------------------------- */

static void worker_left(struct worker *worker)
{
    if (worker->state == WORKER_LEFT)
        return;
    worker->state = WORKER_LEFT;
    guard_stop(&worker->guard);
    alarm_clear(&worker->quiet);
    alarm_clear(&worker->graceful);
    worker->ops->on_left(worker->arg);
}

/* Closed, not just left alone: the last to close a listening socket of an ending server turns newcomers away. */
static void stop_accepting(struct worker *worker)
{
    for (int i = 0; i < worker->inherit->listener_count; i++) {
        listener_close(&worker->listeners[i]);
        worker->inherit->listeners[i] = -1;
    }
    handover_stop_taking(&worker->handover);
}

static void worker_abort(struct worker *worker)
{
    if (worker->state == WORKER_LEFT)
        return;
    stop_accepting(worker);
    worker->state = WORKER_DRAINING;
    worker->ops->on_abort(worker->arg);
    worker_left(worker);
}

static void on_graceful_timeout(struct alarm *alarm)
{
    struct worker *worker = LIST_ENTRY(alarm, struct worker, graceful);
    log_warning("Requests were still in flight after graceful_timeout: dropped");
    worker_abort(worker);
}

static void on_quiet(struct alarm *alarm)
{
    struct worker *worker = LIST_ENTRY(alarm, struct worker, quiet);
    stop_accepting(worker);
    worker->state = WORKER_DRAINING;
    worker->ops->on_drain(worker->arg);
}

static void worker_drain(struct worker *worker, bool last)
{
    if (worker->state == WORKER_BOOTING)
        _exit(0);
    if (worker->state != WORKER_READY)
        return;
    worker->state = WORKER_ENDING;
    atomic_store(&worker->inherit->slot->state, SLOT_DRAINING);
    balance_count(&worker->balance, false);
    worker_show(worker, tally_get(&worker->inherit->slot->tally.requests));
    if (!last)
        stop_accepting(worker);
    worker->ending_until_ms = loop_now_ms(worker->loop) + ENDING_MAX_MS;
    alarm_set(&worker->quiet, worker->loop, ENDING_QUIET_MS, on_quiet);
    alarm_set(&worker->graceful, worker->loop, (uint64_t)worker->inherit->settings->graceful_timeout_ms,
              on_graceful_timeout);
}

static void worker_stop(struct worker *worker, const struct channel_stop *stop)
{
    worker->alone |= stop->alone;
    if (stop->graceful)
        worker_drain(worker, stop->last);
    else if (worker->state == WORKER_BOOTING)
        _exit(0);
    else
        worker_abort(worker);
}

/* The master, when it hears of it, sees that this worker does not wait for its replacement. */
static void leave_at_once(struct worker *worker)
{
    if (worker->state == WORKER_READY)
        atomic_store(&worker->inherit->slot->state, SLOT_DRAINING);
    worker_leave(worker, "SIGTERM");
    worker_drain(worker, false);
}

/* --- what comes in -------------------------------------------------------------------------------------------- */

static void newcomer(struct worker *worker)
{
    if (worker->state == WORKER_ENDING && loop_now_ms(worker->loop) < worker->ending_until_ms)
        alarm_set(&worker->quiet, worker->loop, ENDING_QUIET_MS, on_quiet);
}

static void on_listener(struct listener *listener, int fd, const struct sockaddr *peer, socklen_t peer_len)
{
    struct worker *worker = listener->arg;
    newcomer(worker);
    worker->ops->on_accept(worker->arg, (int)(listener - worker->listeners), fd, peer, peer_len);
}

static void on_take(struct handover *handover, int listener, const struct parcel *parcel)
{
    struct worker *worker = LIST_ENTRY(handover, struct worker, handover);
    newcomer(worker);
    worker->ops->on_take(worker->arg, listener, parcel);
}

static void on_room(struct handover *handover, bool room)
{
    struct worker *worker = LIST_ENTRY(handover, struct worker, handover);
    worker->ops->on_hand_over(worker->arg, room);
}

static void on_signals(struct watch *watch)
{
    struct worker *worker = LIST_ENTRY(watch, struct worker, signals);
    uint64_t count;
    if (read(signal_fd, &count, sizeof(count)) < 0)
        return;
    unsigned seen = atomic_exchange(&signals_seen, 0);
    if (seen & 1u << SIGUSR1)
        worker->ops->on_reopen_logs(worker->arg);
    if (seen & (1u << SIGINT | 1u << SIGQUIT))
        worker_stop(worker, &(struct channel_stop){ .graceful = false, .last = true, .alone = true });
    else if (seen & 1u << SIGTERM)
        leave_at_once(worker);
}

static void worker_hear(struct worker *worker, const struct channel_message *message)
{
    struct channel_stop stop = { 0 };
    switch (message->type) {
    case CHANNEL_STOP:
        memcpy(&stop, message->data, message->len < sizeof(stop) ? message->len : sizeof(stop));
        worker_stop(worker, &stop);
        break;
    case CHANNEL_REOPEN:
        worker->ops->on_reopen_logs(worker->arg);
        break;
    default:
        log_warning("The master sent a message that a worker does not know: %d", (int)message->type);
    }
}

static void on_channel(struct watch *watch)
{
    struct worker *worker = LIST_ENTRY(watch, struct worker, channel);
    int got;
    while ((got = channel_receive(worker->inherit->channel, worker->message)) > 0) {
        worker_hear(worker, worker->message);
        channel_close_fds(worker->message);
    }
    if (got == 0)
        return;
    watch_stop(&worker->channel);
    if (worker->state < WORKER_ENDING)
        log_error("The master is gone: this worker finishes what is in flight and ends");
    bool alone = !handover_shut(&worker->handover);
    worker_stop(worker, &(struct channel_stop){ .graceful = true, .last = alone, .alone = alone });
}

static void on_unseen(void *arg)
{
    const struct worker *worker = arg;
    channel_send(worker->inherit->channel, CHANNEL_AWAKE, NULL, 0, NULL, 0);
}

/* --- entry points --------------------------------------------------------------------------------------------- */

int worker_hello(const struct inherit *inherit)
{
    signals_for_boot();
    atomic_store(&inherit->slot->pid, getpid());
    atomic_store(&inherit->slot->state, SLOT_BOOTING);
    show_state(inherit, "booting");
    struct channel_hello hello = { .version = CHANNEL_VERSION, .slot = inherit->slot_index };
    return channel_send(inherit->channel, CHANNEL_HELLO, &hello, sizeof(hello), NULL, 0);
}

struct worker *worker_new(const struct inherit *inherit, struct loop *loop, const struct worker_ops *ops, void *arg)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct worker *worker = mem_zalloc(sizeof(*worker));
    worker->inherit = inherit;
    worker->loop = loop;
    worker->ops = ops;
    worker->arg = arg;
    worker->message = mem_alloc(sizeof(*worker->message));
    worker->listeners = mem_zalloc(sizeof(struct listener) * (size_t)(inherit->listener_count + 1));
    for (int i = 0; i < inherit->listener_count; i++) {
        listener_init(&worker->listeners[i], loop, inherit->listeners[i]);
        worker->listeners[i].on_accept = on_listener;
        worker->listeners[i].arg = worker;
    }
    balance_init(&worker->balance, loop, inherit->scoreboard, inherit->slot_index, inherit->bell);
    balance_listeners(&worker->balance, worker->listeners, inherit->listener_count);
    handover_init(&worker->handover, inherit, loop);
    worker->handover.on_take = on_take;
    worker->handover.on_room = on_room;
    watch_start(&worker->channel, loop, inherit->channel, on_channel);
    struct slot *slot = inherit->slot;
    loop_publish_turn(loop, &slot->turn_began_ns, &slot->last_turn_ns, &slot->longest_turn_ns, &slot->turns_ns);
    loop_publish_unseen(loop, &inherit->slot->unseen, on_unseen, worker);
    forking_worker = worker;
    pthread_once(&once, register_fork_handler);
    return worker;
}

void worker_ready(struct worker *worker)
{
    signal_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (signal_fd < 0)
        log_fatal("eventfd: %s", strerror(errno));
    watch_start(&worker->signals, worker->loop, signal_fd, on_signals);
    worker->state = WORKER_READY;
    signals_owner = getpid();
    handle_signals(ending, COUNT(ending), on_signal);
    handle_signals(reopening, COUNT(reopening), on_signal);
    balance_count(&worker->balance, true);
    for (int i = 0; i < worker->inherit->listener_count; i++)
        listener_start(&worker->listeners[i]);
    handover_start(&worker->handover);
    if (worker->guarded)
        guard_start(&worker->guard);
    atomic_store(&worker->inherit->slot->turn_began_ns, clock_ns()); /* what boot took does not count */
    atomic_store(&worker->inherit->slot->state, SLOT_READY);
    worker_show(worker, 0);
    channel_send(worker->inherit->channel, CHANNEL_READY, NULL, 0, NULL, 0);
}

void worker_sources(const struct inherit *inherit, struct str folders)
{
    channel_send(inherit->channel, CHANNEL_SOURCES, folders.p, folders.len, NULL, 0);
}

static int on_give(struct guard *guard, struct io *io)
{
    const struct worker *worker = LIST_ENTRY(guard, struct worker, guard);
    return worker->ops->on_give(worker->arg, io);
}

static void on_gave(struct guard *guard, struct io *io)
{
    const struct worker *worker = LIST_ENTRY(guard, struct worker, guard);
    worker->ops->on_gave(worker->arg, io);
}

void worker_guard(struct worker *worker)
{
    worker->guarded = true;
    guard_init(&worker->guard, worker->inherit, worker->loop, worker->inherit->settings->hand_over);
    worker->guard.give = on_give;
    worker->guard.gave = on_gave;
}

void worker_pause_guard(struct worker *worker)
{
    guard_pause(&worker->guard);
}

enum exchange_result worker_relieve(const struct worker *worker, int listener, const struct parcel *parcel)
{
    return handover_send(&worker->handover, listener, parcel);
}

void worker_failed(const struct inherit *inherit, int exit_code, const char *message)
{
    struct channel_failed failed = { .exit_code = exit_code, .slot = inherit->slot_index };
    strncpy(failed.message, message, sizeof(failed.message) - 1);
    channel_send(inherit->channel, CHANNEL_FAILED, &failed, sizeof(failed), NULL, 0);
}

void worker_load(struct worker *worker, uint32_t load)
{
    balance_load(&worker->balance, load);
}

bool worker_awaited(const struct worker *worker)
{
    struct pollfd polled[LISTENERS_POLLED];
    int count = 0;
    for (int i = 0; i < worker->inherit->listener_count && count < LISTENERS_POLLED; i++)
        polled[count++] = (struct pollfd){ .fd = worker->inherit->listeners[i], .events = POLLIN };
    return poll(polled, (nfds_t)count, 0) > 0;
}

void worker_accept(struct worker *worker, bool enabled)
{
    for (int i = 0; i < worker->inherit->listener_count; i++)
        (enabled ? listener_resume : listener_pause)(&worker->listeners[i]);
    handover_pause(&worker->handover, !enabled);
}

enum exchange_result worker_hand_over(struct worker *worker, int listener, const struct parcel *parcel)
{
    return worker->inherit->settings->hand_over ? handover_give(&worker->handover, listener, parcel) : EXCHANGE_SHUT;
}

void worker_shorter(struct worker *worker, uint64_t limit_ms)
{
    atomic_store(&worker->inherit->slot->request_limit_ms, limit_ms);
    on_unseen(worker);
}

void worker_leave(struct worker *worker, const char *reason)
{
    if (worker->leaving_told || worker->state != WORKER_READY)
        return;
    worker->leaving_told = true;
    struct channel_leaving leaving = { 0 };
    strncpy(leaving.reason, reason, sizeof(leaving.reason) - 1);
    channel_send(worker->inherit->channel, CHANNEL_LEAVING, &leaving, sizeof(leaving), NULL, 0);
}

void worker_dumped(const struct worker *worker, int fd)
{
    channel_send(worker->inherit->channel, CHANNEL_DUMP, NULL, 0, &fd, 1);
}

void worker_drained(struct worker *worker)
{
    if (worker->state == WORKER_DRAINING)
        worker_left(worker);
}

bool worker_alone(const struct worker *worker)
{
    return worker->alone;
}

bool worker_draining(const struct worker *worker)
{
    return worker->state >= WORKER_ENDING;
}

int worker_exit_code(const struct worker *worker)
{
    (void)worker;
    return 0;
}

void worker_free(struct worker *worker)
{
    if (!worker)
        return;
    stop_accepting(worker);
    balance_done(&worker->balance);
    handover_done(&worker->handover);
    guard_stop(&worker->guard);
    loop_on_call(worker->loop, NULL, NULL, NULL);
    watch_stop(&worker->channel);
    watch_stop(&worker->signals);
    alarm_clear(&worker->quiet);
    alarm_clear(&worker->graceful);
    loop_publish_turn(worker->loop, NULL, NULL, NULL, NULL);
    loop_publish_unseen(worker->loop, NULL, NULL, NULL);
    if (forking_worker == worker)
        forking_worker = NULL;
    free(worker->listeners);
    free(worker->message);
    free(worker);
}
