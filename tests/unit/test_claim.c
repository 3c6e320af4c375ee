/* Whose an idle connection is: the loop's, or a thread's that gives it away. Connections are sockets with an io on a loop. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/net/claim.h"
#include "server/net/exchange.h"
#include "server/net/io.h"
#include "server/net/loop.h"
#include "tests/unit/check.h"

#define IOS 4

static struct loop *loop;
static struct claims *claims;
static struct io ios[IOS];
static int clients[IOS], heard[IOS];
static struct io *moved[IOS];
static int offered, moved_count, answer;

static size_t on_data(struct io *io, const char *data, size_t len)
{
    (void)data;
    heard[io - ios]++;
    return len;
}

static const struct io_events events = { .on_data = on_data };

static int give(void *arg, struct io *io)
{
    (void)arg, (void)io;
    offered++;
    return answer;
}

static void on_moved(void *arg, struct io *io)
{
    (void)arg;
    moved[moved_count++] = io;
}

static void give_away(int result)
{
    const struct claims_giver giver = { give, on_moved, NULL };
    offered = moved_count = 0;
    answer = result;
    claims_give(claims, loop_poll_fd(loop), &giver);
}

static void begin(void)
{
    loop = loop_new();
    claims = claims ? claims : claims_new(); /* for the process' life */
    loop_set_claims(loop, claims);
    for (int i = 0; i < IOS; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
            abort();
        io_init(&ios[i], loop, pair[0], &events);
        ios[i].may_rest = true;
        clients[i] = pair[1];
        heard[i] = 0;
    }
}

static void end(void)
{
    for (int i = 0; i < IOS; i++) {
        (io_claim(&ios[i]) ? io_close : io_give)(&ios[i]);
        close(clients[i]);
    }
    loop_free(loop);
}

static void turn(void)
{
    loop_poll(loop, false);
    loop_settle(loop);
}

static void only_what_is_readable_and_at_rest_is_offered(void)
{
    begin();
    io_rest(&ios[0]);
    io_rest(&ios[1]);
    CHECK_INT(write(clients[0], "x", 1), 1); /* at rest */
    CHECK_INT(write(clients[2], "x", 1), 1); /* the loop's */
    give_away(EXCHANGE_SENT);
    CHECK_INT(offered, 1);
    CHECK_INT(moved_count, 1);
    CHECK(moved[0] == &ios[0]);
    CHECK(!io_claim(&ios[0]));
    CHECK(io_claim(&ios[1]));
    end();
}

/* Without a poll of the loop in between: it is in the poller from the first moment. */
static void what_was_moved_does_not_come_to_the_loop(void)
{
    begin();
    for (int i = 0; i < IOS; i++) {
        io_rest(&ios[i]);
        CHECK_INT(write(clients[i], "x", 1), 1);
    }
    give_away(EXCHANGE_SENT);
    CHECK_INT(moved_count, IOS);
    turn();
    turn();
    CHECK_INT(heard[0] + heard[1] + heard[2] + heard[3], 0);
    end();
}

static void what_was_not_taken_is_the_loops_as_before(void)
{
    begin();
    for (int i = 0; i < IOS; i++) {
        io_rest(&ios[i]);
        CHECK_INT(write(clients[i], "x", 1), 1);
    }
    give_away(EXCHANGE_FULL);
    CHECK_INT(offered, 1); /* it would be the same with the others */
    give_away(EXCHANGE_SHUT);
    CHECK_INT(offered, IOS);
    turn();
    CHECK_INT(heard[0] + heard[1] + heard[2] + heard[3], IOS);
    end();
}

/* The number of a moved connection is not given out again before the loop has let go of it. */
static void the_number_is_kept(void)
{
    begin();
    int number = ios[0].fd;
    io_rest(&ios[0]);
    CHECK_INT(write(clients[0], "x", 1), 1);
    give_away(EXCHANGE_SENT);
    int other = dup(0);
    CHECK(other != number);
    close(other);
    CHECK(!io_claim(&ios[0]));
    io_give(&ios[0]);
    other = dup(0);
    CHECK_INT(other, number);
    close(other);
    end();
}

static void what_has_something_to_say_does_not_rest(void)
{
    begin();
    io_write(&ios[0], "y", 1);
    io_rest(&ios[0]);
    ios[1].may_rest = false;
    io_rest(&ios[1]);
    CHECK_INT(write(clients[0], "x", 1), 1);
    CHECK_INT(write(clients[1], "x", 1), 1);
    give_away(EXCHANGE_SENT);
    CHECK_INT(offered, 0);
    turn(); /* written, and heard */
    CHECK_INT(heard[0], 1);
    CHECK_INT(write(clients[0], "x", 1), 1);
    give_away(EXCHANGE_SENT);
    CHECK_INT(moved_count, 1);
    end();
}

static _Atomic bool over;

static void *give_again_and_again(void *arg)
{
    const struct claims_giver giver = { give, on_moved, NULL };
    (void)arg;
    while (!atomic_load(&over))
        claims_give(claims, loop_poll_fd(loop), &giver);
    return NULL;
}

/* A thread that takes every connection at rest, and never gives one away: nothing is lost or heard twice. */
static void a_race_for_the_same_connections(void)
{
    pthread_t thread;
    int sent = 0;
    begin();
    answer = EXCHANGE_SHUT;
    atomic_store(&over, false);
    CHECK_INT(pthread_create(&thread, NULL, give_again_and_again, NULL), 0);
    for (; sent < 5000; sent++) {
        if (io_claim(&ios[sent % IOS]))
            io_rest(&ios[sent % IOS]);
        CHECK_INT(write(clients[sent % IOS], "x", 1), 1);
        turn();
        CHECK_INT(heard[sent % IOS], sent / IOS + 1);
    }
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    end();
}

CHECK_MAIN(TEST(only_what_is_readable_and_at_rest_is_offered), TEST(what_was_moved_does_not_come_to_the_loop),
           TEST(what_was_not_taken_is_the_loops_as_before), TEST(the_number_is_kept),
           TEST(what_has_something_to_say_does_not_rest), TEST(a_race_for_the_same_connections))
