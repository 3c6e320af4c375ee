/* How connections leave a draining server, and come into another: with a sibling that takes, waits or does not exist. */
#include "server/net/exchange.h"
#include "tests/unit/check.h"
#include "tests/unit/http_fixture.h"

static enum hand_over_result outcome;
static int asked;
static struct parcel given; /* its fd is a copy */
static char given_bytes[EXCHANGE_BYTES];

static enum hand_over_result hand_over(void *arg, const struct parcel *parcel, const struct endpoint *local)
{
    (void)arg, (void)local;
    asked++;
    if (outcome != HAND_OVER_DONE)
        return outcome;
    memcpy(given_bytes, parcel->unread.p, parcel->unread.len);
    given = *parcel;
    given.unread.p = given_bytes;
    given.fd = dup(parcel->fd);
    return outcome;
}

static void open_with(enum hand_over_result what)
{
    fixture_open();
    outcome = what;
    asked = 0;
    given = (struct parcel){ .fd = -1 };
    http_server_on_hand_over(fx.server, hand_over, NULL);
}

static void drain(void)
{
    http_server_drain(fx.server, NULL, NULL);
    fixture_settle();
}

/* A sibling takes it: what the client says now, that one hears. */
static void take(void)
{
    http_server_free(fx.server);
    fx.server = http_server_new(fx.loop, &fx.settings, &fx.app);
    http_server_take(fx.server, &given, NULL);
    fixture_settle();
}

static void idle_connections_go_and_serve_on(void)
{
    open_with(HAND_OVER_DONE);
    fixture_say("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    drain();
    CHECK_INT(asked, 1);
    CHECK(!given.fresh);
    CHECK_INT(given.unread.len, 0);
    CHECK(!fx.closed);
    CHECK_INT(tally_get(&http_server_tally(fx.server)->conns), 0);
    take();
    fixture_say("GET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    CHECK_INT(fixture_count("GET /a"), 1);
    CHECK_INT(fixture_count("GET /b"), 1);
    fixture_close();
}

static void fresh_ones_too(void)
{
    open_with(HAND_OVER_DONE);
    drain();
    CHECK_INT(asked, 1);
    CHECK(given.fresh);
    CHECK(!fx.closed);
    close(given.fd);
    fixture_receive();
    CHECK(fx.closed);
    fixture_close();
}

/* Its response says nothing of a close, and what came behind it moves along. */
static void one_in_flight_goes_afterwards_with_what_was_read_ahead(void)
{
    open_with(HAND_OVER_DONE);
    fixture_say("GET /later HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\nGET /last HT");
    drain();
    CHECK_INT(asked, 0);
    CHECK(fx.kept);
    fixture_answer(fx.kept, 200, "text/plain", STR("late"));
    request_unref(fx.kept);
    fx.kept = NULL;
    fixture_settle();
    CHECK_INT(asked, 1);
    CHECK_INT(fx.requests, 1);
    CHECK_INT(fixture_count("late"), 1);
    CHECK_INT(fixture_count("connection: close"), 0);
    CHECK_BYTES(given.unread.p, given.unread.len, "GET /next HTTP/1.1\r\nHost: h\r\n\r\nGET /last HT");
    take();
    fixture_say("TP/1.1\r\nHost: h\r\n\r\n");
    CHECK_INT(fx.requests, 3);
    CHECK_INT(fixture_count("GET /next"), 1);
    CHECK_INT(fixture_count("GET /last"), 1);
    fixture_close();
}

static void one_in_the_middle_of_a_message_stays_until_it_is_over(void)
{
    open_with(HAND_OVER_DONE);
    fixture_say("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab");
    drain();
    CHECK_INT(asked, 0);
    fixture_say("cd");
    CHECK_INT(fixture_count("POST / abcd"), 1);
    CHECK_INT(asked, 1);
    close(given.fd);
    fixture_close();
}

/* The response has said that it is the last. */
static void one_that_closes_is_closed(void)
{
    open_with(HAND_OVER_DONE);
    fixture_say("GET /later HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    drain();
    fixture_answer(fx.kept, 200, "text/plain", STR("late"));
    request_unref(fx.kept);
    fx.kept = NULL;
    fixture_settle();
    CHECK_INT(asked, 0);
    CHECK_INT(fixture_count("connection: close"), 1);
    CHECK(fx.closed);
    fixture_close();
}

static void without_takers_they_are_closed_as_before(void)
{
    open_with(HAND_OVER_NEVER);
    fixture_say("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    drain();
    CHECK_INT(asked, 1);
    CHECK(fixture_until(fixture_is_closed));
    CHECK_INT(asked, 1);
    fixture_close();
}

/* A request that came while it waited for room is not lost when there is none. */
static void what_came_while_waiting_is_served_here(void)
{
    open_with(HAND_OVER_LATER);
    fixture_say("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    drain();
    fixture_say("GET /b HTTP/1.1\r\nHost: h\r\n\r\n");
    CHECK_INT(fx.requests, 1);
    CHECK(!fx.closed);
    http_server_stay(fx.server);
    fixture_settle();
    CHECK_INT(fx.requests, 2);
    CHECK_INT(fixture_count("connection: close"), 1);
    CHECK(fixture_until(fixture_is_closed));
    fixture_close();
}

static void what_came_while_waiting_moves_along(void)
{
    open_with(HAND_OVER_LATER);
    fixture_say("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    drain();
    fixture_say("GET /b HT");
    outcome = HAND_OVER_DONE;
    http_server_move_on(fx.server);
    fixture_settle();
    CHECK_BYTES(given.unread.p, given.unread.len, "GET /b HT");
    CHECK_INT(fx.requests, 1);
    close(given.fd);
    fixture_close();
}

/* Idleness is counted on, or a client that asks nothing would be kept for ever by workers that come and go. */
static void the_time_of_idleness_counts_on(void)
{
    fixture_init();
    fx.settings.keepalive_ms = 60000;
    fixture_start();
    outcome = HAND_OVER_DONE;
    http_server_on_hand_over(fx.server, hand_over, NULL);
    fixture_say("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    drain();
    given.since_ms -= 60000;
    take();
    CHECK(fixture_until(fixture_is_closed));
    fixture_close();
}

CHECK_MAIN(TEST(idle_connections_go_and_serve_on), TEST(fresh_ones_too),
           TEST(one_in_flight_goes_afterwards_with_what_was_read_ahead),
           TEST(one_in_the_middle_of_a_message_stays_until_it_is_over), TEST(one_that_closes_is_closed),
           TEST(without_takers_they_are_closed_as_before), TEST(what_came_while_waiting_is_served_here),
           TEST(what_came_while_waiting_moves_along), TEST(the_time_of_idleness_counts_on))
