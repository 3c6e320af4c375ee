/* io and the loop's tasks and timers, over a socketpair. */
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/net/io.h"

struct fixture {
    struct loop *loop;
    struct io io;
    int peer;
    struct buf got;
    size_t consume_at_most; /* of each delivery */
    int deliveries, eofs, writables, draineds, errors, released;
    bool pause_when_partial, close_on_data;
    const char *reply;
};

static struct fixture f;

static size_t on_data(struct io *io, const char *data, size_t len)
{
    f.deliveries++;
    size_t n = len < f.consume_at_most ? len : f.consume_at_most;
    buf_append(&f.got, data, n);
    if (f.reply)
        io_write(io, f.reply, strlen(f.reply));
    if (f.close_on_data)
        io_close(io);
    else if (n < len && f.pause_when_partial)
        io_pause(io);
    return n;
}

static void on_eof(struct io *io)
{
    (void)io;
    f.eofs++;
}

static void on_writable(struct io *io)
{
    (void)io;
    f.writables++;
}

static void on_drained(struct io *io)
{
    (void)io;
    f.draineds++;
}

static void on_error(struct io *io, int error)
{
    (void)error;
    f.errors++;
    io_close(io);
}

static void on_release(void *arg)
{
    (void)arg;
    f.released++;
}

static const struct io_events events = { on_data, on_eof, on_writable, on_drained, on_error };

static void set_up(void)
{
    signal(SIGPIPE, SIG_IGN);
    int fds[2];
    memset(&f, 0, sizeof(f));
    f.consume_at_most = SIZE_MAX;
    f.loop = loop_new();
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds);
    f.peer = fds[1];
    io_init(&f.io, f.loop, fds[0], &events);
}

static void tear_down(void)
{
    io_close(&f.io);
    if (f.peer >= 0)
        close(f.peer);
    buf_done(&f.got);
    loop_free(f.loop);
}

static void turn(void)
{
    loop_poll(f.loop, false);
    loop_settle(f.loop);
}

static size_t peer_read_all(void)
{
    char bytes[65536];
    size_t total = 0;
    for (ssize_t n; (n = read(f.peer, bytes, sizeof(bytes))) > 0;)
        total += (size_t)n;
    return total;
}

static void delivers_and_answers_in_the_same_turn(void)
{
    set_up();
    f.reply = "pong";
    CHECK_INT(write(f.peer, "ping", 4), 4);
    loop_poll(f.loop, true); /* before the settle: what on_data wrote is out already */
    CHECK_BYTES(f.got.data, buf_len(&f.got), "ping");
    CHECK_INT(peer_read_all(), 4);
    tear_down();
}

static void what_was_not_consumed_comes_again_in_order(void)
{
    set_up();
    f.consume_at_most = 3;
    CHECK_INT(write(f.peer, "abcdefgh", 8), 8);
    for (int i = 0; i < 4; i++)
        turn();
    CHECK_BYTES(f.got.data, buf_len(&f.got), "abcdefgh");
    CHECK_INT(f.deliveries, 3);
    tear_down();
}

static void paused_reading_keeps_the_rest_and_the_end(void)
{
    set_up();
    f.consume_at_most = 2;
    f.pause_when_partial = true;
    CHECK_INT(write(f.peer, "abcd", 4), 4);
    close(f.peer);
    f.peer = -1;
    for (int i = 0; i < 3; i++)
        turn();
    CHECK_INT(f.deliveries, 1);
    CHECK_INT(f.eofs, 0);
    io_resume(&f.io);
    CHECK_INT(f.deliveries, 1); /* never from inside */
    for (int i = 0; i < 3; i++)
        turn();
    CHECK_BYTES(f.got.data, buf_len(&f.got), "abcd");
    CHECK_INT(f.eofs, 1);
    tear_down();
}

static void may_be_closed_inside_on_data(void)
{
    set_up();
    f.close_on_data = true;
    f.reply = "lost";
    CHECK_INT(write(f.peer, "x", 1), 1);
    turn();
    CHECK(io_closed(&f.io));
    CHECK_INT(f.errors, 0);
    tear_down();
}

static void a_full_socket_says_so_and_says_when_it_is_not(void)
{
    set_up();
    char block[4096] = { 0 };
    size_t written = 0;
    while (!io_is_full(&f.io)) {
        io_write(&f.io, block, sizeof(block));
        written += sizeof(block);
        CHECK(written < (64u << 20));
    }
    CHECK_INT(f.writables, 0);
    size_t read_bytes = 0;
    for (int i = 0; i < 10000 && read_bytes < written; i++) {
        read_bytes += peer_read_all();
        turn();
    }
    CHECK_INT(read_bytes, written);
    CHECK_INT(f.writables, 1);
    CHECK_INT(f.io.queued_bytes, 0);
    tear_down();
}

static void references_are_released_once_sent(void)
{
    set_up();
    size_t size = 4 << 20;
    char *big = calloc(1, size);
    io_write(&f.io, "head", 4);
    io_write_ref(&f.io, big, size, (struct io_ref){ on_release, NULL });
    io_write(&f.io, "tail", 4);
    CHECK_INT(f.released, 0);
    size_t got = 0;
    for (int i = 0; i < 100000 && got < size + 8; i++) {
        got += peer_read_all();
        turn();
    }
    CHECK_INT(got, size + 8);
    CHECK_INT(f.released, 1);
    free(big);
    tear_down();
}

static void references_are_released_on_close(void)
{
    set_up();
    char *big = calloc(1, 4 << 20);
    io_write_ref(&f.io, big, 4 << 20, (struct io_ref){ on_release, NULL });
    io_close(&f.io);
    CHECK_INT(f.released, 1);
    io_write_ref(&f.io, big, 4 << 20, (struct io_ref){ on_release, NULL }); /* after the end: released at once */
    CHECK_INT(f.released, 2);
    free(big);
    tear_down();
}

static void a_file_is_sent_between_bytes(void)
{
    set_up();
    char path[] = "/tmp/licorne-io-XXXXXX", bytes[64] = { 0 };
    int fd = mkstemp(path);
    unlink(path);
    CHECK_INT(write(fd, "0123456789", 10), 10);
    io_write(&f.io, "<", 1);
    io_write_file(&f.io, fd, 2, 5, (struct io_ref){ on_release, NULL });
    io_write(&f.io, ">", 1);
    turn();
    CHECK_INT(read(f.peer, bytes, sizeof(bytes)), 7);
    CHECK_BYTES(bytes, 7, "<23456>");
    CHECK_INT(f.released, 1);
    close(fd);
    tear_down();
}

static void a_peer_that_is_gone_is_told_once(void)
{
    set_up();
    close(f.peer);
    f.peer = -1;
    io_write(&f.io, "x", 1);
    for (int i = 0; i < 3; i++)
        turn();
    CHECK_INT(f.errors, 1);
    tear_down();
}

static void shutdown_comes_after_what_is_queued(void)
{
    set_up();
    char bytes[16];
    io_write(&f.io, "bye", 3);
    io_shutdown(&f.io);
    turn();
    CHECK_INT(read(f.peer, bytes, sizeof(bytes)), 3);
    CHECK_INT(read(f.peer, bytes, sizeof(bytes)), 0);
    tear_down();
}

static void drained_is_told_when_asked_for(void)
{
    set_up();
    io_write(&f.io, "x", 1);
    io_notify_drained(&f.io);
    CHECK_INT(f.draineds, 0);
    turn();
    turn();
    CHECK_INT(f.draineds, 1);
    tear_down();
}

static void waiting_outside_the_loop_reads_and_times_out(void)
{
    set_up();
    CHECK_INT(io_wait(&f.io, POLLIN, 10), 0);
    CHECK_INT(write(f.peer, "abc", 3), 3);
    CHECK_INT(io_wait(&f.io, POLLIN, 1000), 1);
    CHECK_BYTES(f.got.data, buf_len(&f.got), "abc");
    tear_down();
}

/* --- the loop ------------------------------------------------------------------------------------------------------ */

static uint64_t fired_ms;
static int fired;

static void on_fire(struct coarse_timer *timer)
{
    (void)timer;
    fired++;
    fired_ms = clock_ms();
}

static void turns_until(uint64_t end_ms)
{
    while (clock_ms() < end_ms && fired == 0)
        loop_poll(f.loop, true);
}

static void a_coarse_timer_is_never_early_and_re_arming_moves_it(void)
{
    set_up();
    struct coarse_timer timer;
    fired = 0;
    coarse_timer_init(&timer, on_fire);
    loop_update_now(f.loop);
    uint64_t began = clock_ms();
    coarse_timer_arm(f.loop, &timer, 150);
    coarse_timer_arm(f.loop, &timer, 350); /* later: a store */
    turns_until(began + 5000);
    CHECK_INT(fired, 1);
    CHECK(fired_ms - began >= 350);
    CHECK(fired_ms - began < 350 + 2 * COARSE_MS + 1000);
    coarse_timer_arm(f.loop, &timer, 60000);
    coarse_timer_arm(f.loop, &timer, 100); /* sooner: it moves */
    fired = 0;
    began = clock_ms();
    turns_until(began + 5000);
    CHECK_INT(fired, 1);
    coarse_timer_arm(f.loop, &timer, 100);
    coarse_timer_disarm(&timer);
    fired = 0;
    began = clock_ms();
    while (clock_ms() < began + 400)
        loop_poll(f.loop, false);
    CHECK_INT(fired, 0);
    coarse_timer_done(f.loop, &timer);
    tear_down();
}

static int ran;
static struct loop_task again;

static void run_again(struct loop_task *task)
{
    if (++ran < 3)
        loop_defer(f.loop, task);
}

static void a_deferred_task_that_defers_runs_in_the_next_settle(void)
{
    set_up();
    ran = 0;
    loop_task_init(&again, run_again);
    loop_defer(f.loop, &again);
    loop_defer(f.loop, &again);
    loop_settle(f.loop);
    CHECK_INT(ran, 1);
    CHECK(loop_has_deferred(f.loop));
    loop_poll(f.loop, true); /* does not wait */
    loop_settle(f.loop);
    loop_settle(f.loop);
    CHECK_INT(ran, 3);
    CHECK(!loop_has_deferred(f.loop));
    tear_down();
}

static void spin_again(struct loop_task *task)
{
    uint64_t until_ns = clock_ns() + LOOP_BULK_US * 1000 / 4;
    while (clock_ns() < until_ns) {
    }
    if (++ran < 20)
        loop_defer_bulk(f.loop, task);
}

static void bulk_work_leaves_room_for_other_connections(void)
{
    set_up();
    ran = 0;
    f.consume_at_most = 5;
    loop_task_init(&again, spin_again);
    loop_defer_bulk(f.loop, &again);
    loop_settle(f.loop);
    CHECK(ran >= 1 && ran <= 4);
    CHECK(loop_has_deferred(f.loop));
    CHECK_INT(write(f.peer, "hello", 5), 5);
    loop_poll(f.loop, true); /* does not wait */
    CHECK_BYTES(f.got.data, buf_len(&f.got), "hello");
    for (int settles = 0; loop_has_deferred(f.loop) && settles < 20; settles++)
        loop_settle(f.loop);
    CHECK_INT(ran, 20);
    tear_down();
}

static void a_wake_before_the_poll_is_not_lost(void)
{
    set_up();
    loop_wake(f.loop);
    loop_poll(f.loop, true);
    tear_down();
}

CHECK_MAIN(TEST(delivers_and_answers_in_the_same_turn), TEST(what_was_not_consumed_comes_again_in_order),
           TEST(paused_reading_keeps_the_rest_and_the_end), TEST(may_be_closed_inside_on_data),
           TEST(a_full_socket_says_so_and_says_when_it_is_not), TEST(references_are_released_once_sent),
           TEST(references_are_released_on_close), TEST(a_file_is_sent_between_bytes),
           TEST(a_peer_that_is_gone_is_told_once), TEST(shutdown_comes_after_what_is_queued),
           TEST(drained_is_told_when_asked_for), TEST(waiting_outside_the_loop_reads_and_times_out),
           TEST(a_coarse_timer_is_never_early_and_re_arming_moves_it),
           TEST(a_deferred_task_that_defers_runs_in_the_next_settle),
           TEST(bulk_work_leaves_room_for_other_connections), TEST(a_wake_before_the_poll_is_not_lost))
