/* A worker's process side, driven over its channel and by signals, with operations that only take notes. */
#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/net/loop.h"
#include "server/process/channel.h"
#include "server/process/inherit.h"
#include "server/process/scoreboard.h"
#include "server/process/worker.h"
#include "tests/unit/check.h"

static struct channel_message message;

/* A worker and both ends of what it lives on. */
struct stage {
    struct settings settings;
    struct slot slot;
    struct inherit inherit;
    int listener, master; /* the master's ends */
    int own_listener;
    struct loop *loop;
    struct worker *worker;
    bool drains_at_once;
    int accepted, drains, aborts, lefts, reopens;
    int clients[8];
};

static void on_accept(void *arg, int listener, int fd, const struct sockaddr *peer, socklen_t peer_len)
{
    struct stage *stage = arg;
    (void)listener, (void)peer, (void)peer_len;
    stage->accepted++;
    close(fd);
}

static void on_drain(void *arg)
{
    struct stage *stage = arg;
    stage->drains++;
    if (stage->drains_at_once)
        worker_drained(stage->worker);
}

static void on_abort(void *arg)
{
    ((struct stage *)arg)->aborts++;
}

static void on_left(void *arg)
{
    ((struct stage *)arg)->lefts++;
}

static void on_reopen_logs(void *arg)
{
    ((struct stage *)arg)->reopens++;
}

static const struct worker_ops ops = { .on_accept = on_accept,
                                       .on_drain = on_drain,
                                       .on_abort = on_abort,
                                       .on_left = on_left,
                                       .on_reopen_logs = on_reopen_logs };

static int listen_somewhere(void)
{
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (bind(fd, (struct sockaddr *)&any, sizeof(any)) != 0 || listen(fd, 64) != 0)
        return -1;
    return fd;
}

static struct stage *stage_new(void)
{
    struct stage *stage = calloc(1, sizeof(*stage));
    int pair[2];
    settings_init(&stage->settings);
    if (channel_pair(pair) != 0)
        return NULL;
    stage->master = pair[0];
    stage->listener = listen_somewhere();
    stage->own_listener = dup(stage->listener);
    stage->inherit = (struct inherit){ .channel = pair[1],
                                       .listeners = &stage->own_listener,
                                       .listener_count = 1,
                                       .slot = &stage->slot,
                                       .slot_index = 5,
                                       .settings = &stage->settings };
    stage->loop = loop_new();
    stage->worker = worker_new(&stage->inherit, stage->loop, &ops, stage);
    return stage;
}

static void stage_free(struct stage *stage)
{
    worker_free(stage->worker);
    loop_free(stage->loop);
    settings_done(&stage->settings);
    close(stage->master);
    close(stage->inherit.channel);
    close(stage->listener);
    free(stage);
}

/* Turns the loop until `counter` has reached `count`; false after five seconds. */
static bool turn_until(struct stage *stage, const int *counter, int count)
{
    uint64_t due = clock_ms() + 5000;
    while (*counter < count && clock_ms() < due) {
        loop_poll(stage->loop, false);
        loop_settle(stage->loop);
    }
    return *counter >= count;
}

static void turn(struct stage *stage, int times)
{
    for (int i = 0; i < times; i++) {
        loop_poll(stage->loop, false);
        loop_settle(stage->loop);
    }
}

static int client_of(const struct stage *stage)
{
    struct sockaddr_in address;
    socklen_t len = sizeof(address);
    getsockname(stage->listener, (struct sockaddr *)&address, &len);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, len) != 0)
        return -1;
    return fd;
}

static void tell(const struct stage *stage, bool graceful, bool last)
{
    struct channel_stop stop = { .graceful = graceful, .last = last };
    channel_send(stage->master, CHANNEL_STOP, &stop, sizeof(stop), NULL, 0);
}

static void says_hello_and_ready(void)
{
    struct stage *stage = stage_new();
    CHECK_INT(worker_hello(&stage->inherit), 0);
    CHECK_INT(atomic_load(&stage->slot.state), SLOT_BOOTING);
    CHECK_INT(atomic_load(&stage->slot.pid), getpid());
    CHECK_INT(channel_receive(stage->master, &message), 1);
    CHECK_INT(message.type, CHANNEL_HELLO);
    CHECK_INT(message.sender, getpid());
    CHECK_INT(((struct channel_hello *)message.data)->slot, 5);
    worker_ready(stage->worker);
    CHECK_INT(atomic_load(&stage->slot.state), SLOT_READY);
    CHECK_INT(channel_receive(stage->master, &message), 1);
    CHECK_INT(message.type, CHANNEL_READY);
    stage_free(stage);
}

static void hello_without_a_master_fails(void)
{
    struct stage *stage = stage_new();
    close(stage->master);
    CHECK_INT(worker_hello(&stage->inherit), -1);
    stage->master = -1;
    stage_free(stage);
}

static void accepts_when_ready_and_pauses(void)
{
    struct stage *stage = stage_new();
    int first = client_of(stage);
    turn(stage, 3);
    CHECK_INT(stage->accepted, 0);
    worker_ready(stage->worker);
    CHECK(turn_until(stage, &stage->accepted, 1));
    worker_accept(stage->worker, false);
    int second = client_of(stage);
    turn(stage, 3);
    CHECK_INT(stage->accepted, 1);
    worker_accept(stage->worker, true);
    CHECK(turn_until(stage, &stage->accepted, 2));
    close(first);
    close(second);
    stage_free(stage);
}

static void drains_on_term(void)
{
    struct stage *stage = stage_new();
    stage->drains_at_once = true;
    worker_ready(stage->worker);
    raise(SIGTERM);
    CHECK(turn_until(stage, &stage->lefts, 1));
    CHECK_INT(stage->drains, 1);
    CHECK_INT(stage->aborts, 0);
    CHECK(worker_draining(stage->worker));
    CHECK_INT(atomic_load(&stage->slot.state), SLOT_DRAINING);
    CHECK_INT(channel_receive(stage->master, &message), 1);
    CHECK_INT(message.type, CHANNEL_READY);
    CHECK_INT(channel_receive(stage->master, &message), 1); /* so that the replacement starts meanwhile */
    CHECK_INT(message.type, CHANNEL_LEAVING);
    raise(SIGTERM);
    turn(stage, 3);
    CHECK_INT(stage->lefts, 1);
    stage_free(stage);
}

static void a_last_worker_empties_the_backlog_and_closes_the_listener(void)
{
    struct stage *stage = stage_new();
    stage->drains_at_once = true;
    worker_ready(stage->worker);
    turn(stage, 2);
    for (int i = 0; i < 8; i++)
        stage->clients[i] = client_of(stage);
    tell(stage, true, true);
    close(stage->listener); /* the master's */
    stage->listener = -1;
    CHECK(turn_until(stage, &stage->lefts, 1));
    CHECK_INT(stage->accepted, 8);
    CHECK_INT(stage->own_listener, -1);
    for (int i = 0; i < 8; i++)
        close(stage->clients[i]);
    stage_free(stage);
}

static void a_retiring_worker_leaves_newcomers_to_its_siblings(void)
{
    struct stage *stage = stage_new();
    stage->drains_at_once = true;
    worker_ready(stage->worker);
    tell(stage, true, false);
    uint64_t due = clock_ms() + 5000;
    while (!worker_draining(stage->worker) && clock_ms() < due)
        turn(stage, 1);
    int client = client_of(stage);
    CHECK(turn_until(stage, &stage->lefts, 1));
    CHECK_INT(stage->accepted, 0);
    int sibling = accept(stage->listener, NULL, NULL);
    CHECK(sibling >= 0);
    close(sibling);
    close(client);
    stage_free(stage);
}

static void graceful_timeout_aborts(void)
{
    struct stage *stage = stage_new();
    stage->settings.graceful_timeout_ms = 60;
    worker_ready(stage->worker);
    tell(stage, true, false);
    CHECK(turn_until(stage, &stage->lefts, 1));
    CHECK_INT(stage->drains, 1);
    CHECK_INT(stage->aborts, 1);
    stage_free(stage);
}

static void stops_fast(void)
{
    static const int signals[] = { SIGINT, SIGQUIT, 0 };
    for (int i = 0; i < 3; i++) {
        struct stage *stage = stage_new();
        worker_ready(stage->worker);
        if (signals[i])
            raise(signals[i]);
        else
            tell(stage, false, false);
        CHECK(turn_until(stage, &stage->lefts, 1));
        CHECK_INT(stage->drains, 0);
        CHECK_INT(stage->aborts, 1);
        stage_free(stage);
    }
}

static void drains_when_the_master_is_gone(void)
{
    struct stage *stage = stage_new();
    stage->drains_at_once = true;
    worker_ready(stage->worker);
    close(stage->master);
    stage->master = -1;
    CHECK(turn_until(stage, &stage->lefts, 1));
    CHECK_INT(stage->drains, 1);
    stage_free(stage);
}

static void reopens_the_logs(void)
{
    struct stage *stage = stage_new();
    worker_ready(stage->worker);
    raise(SIGUSR1);
    CHECK(turn_until(stage, &stage->reopens, 1));
    channel_send(stage->master, CHANNEL_REOPEN, NULL, 0, NULL, 0);
    CHECK(turn_until(stage, &stage->reopens, 2));
    stage_free(stage);
}

static void asks_once_to_be_replaced(void)
{
    struct stage *stage = stage_new();
    worker_leave(stage->worker, "too early");
    worker_ready(stage->worker);
    worker_leave(stage->worker, "max_requests");
    worker_leave(stage->worker, "again");
    CHECK_INT(channel_receive(stage->master, &message), 1);
    CHECK_INT(message.type, CHANNEL_READY);
    CHECK_INT(channel_receive(stage->master, &message), 1);
    CHECK_INT(message.type, CHANNEL_LEAVING);
    CHECK(strcmp(((struct channel_leaving *)message.data)->reason, "max_requests") == 0);
    CHECK_INT(channel_receive(stage->master, &message), 0);
    stage_free(stage);
}

static void its_turns_are_seen(void)
{
    struct stage *stage = stage_new();
    worker_ready(stage->worker);
    uint64_t before = clock_ns();
    turn(stage, 1);
    uint64_t began = atomic_load(&stage->slot.turn_began_ns);
    CHECK(began / 1000000 + 1 >= before / 1000000);
    CHECK(began <= clock_ns());
    stage_free(stage);
}

/* Reads the slot from another thread while the loop waits. */
static void *look_while_it_waits(void *arg)
{
    struct stage *stage = arg;
    uint64_t due = clock_ms() + 5000;
    while (atomic_load(&stage->slot.turn_began_ns) != 0 && clock_ms() < due)
        usleep(1000);
    bool waits = atomic_load(&stage->slot.turn_began_ns) == 0;
    loop_wake(stage->loop);
    return waits ? stage : NULL;
}

static void waiting_is_no_turn(void)
{
    struct stage *stage = stage_new();
    pthread_t thread;
    void *waits;
    worker_ready(stage->worker);
    turn(stage, 2);
    CHECK_INT(pthread_create(&thread, NULL, look_while_it_waits, stage), 0);
    loop_poll(stage->loop, true);
    pthread_join(thread, &waits);
    CHECK(waits != NULL);
    CHECK(atomic_load(&stage->slot.turn_began_ns) != 0);
    stage_free(stage);
}

static int status_of(pid_t child)
{
    int status;
    waitpid(child, &status, 0);
    return status;
}

/* Booting there is nothing to lose: TERM kills, whatever the application has made of it before. */
static void term_ends_a_booting_worker(void)
{
    struct stage *stage = stage_new();
    worker_free(stage->worker); /* the fork handler would take this process's child for one of the application's */
    stage->worker = NULL;
    pid_t child = fork();
    if (child == 0) {
        signal(SIGTERM, SIG_IGN);
        worker_hello(&stage->inherit);
        for (;;)
            pause();
    }
    int got = channel_wait(stage->master, &message, 5000);
    kill(child, got == 1 ? SIGTERM : SIGKILL);
    int status = status_of(child);
    CHECK_INT(got, 1);
    CHECK(WIFSIGNALED(status));
    CHECK_INT(WTERMSIG(status), SIGTERM);
    stage_free(stage);
}

/* They die by a TERM, and this does not reach the worker over what it shares with them. */
static void children_of_the_application_hold_nothing(void)
{
    struct stage *stage = stage_new();
    worker_ready(stage->worker);
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    kill(child, SIGTERM);
    int status = status_of(child);
    CHECK(WIFSIGNALED(status));
    CHECK_INT(WTERMSIG(status), SIGTERM);
    turn(stage, 3);
    CHECK_INT(stage->drains, 0);
    stage_free(stage);
}

CHECK_MAIN(TEST(says_hello_and_ready), TEST(hello_without_a_master_fails), TEST(accepts_when_ready_and_pauses),
           TEST(drains_on_term), TEST(a_last_worker_empties_the_backlog_and_closes_the_listener),
           TEST(a_retiring_worker_leaves_newcomers_to_its_siblings), TEST(graceful_timeout_aborts), TEST(stops_fast),
           TEST(drains_when_the_master_is_gone), TEST(reopens_the_logs), TEST(asks_once_to_be_replaced),
           TEST(its_turns_are_seen), TEST(waiting_is_no_turn), TEST(term_ends_a_booting_worker),
           TEST(children_of_the_application_hold_nothing))
