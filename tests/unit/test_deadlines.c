/* The deadlines of requests: who is due when, what is sent, what the master sees. How an application is interrupted is in
 * tests/test_deadlines.py. */
#include "check.h"
#include "http_fixture.h"

#include "server/base/inflight.h"

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"
#define SOFT_MS 150
#define GRACE_MS 5000

static struct inflight_table table;
static struct tally tally;
static int worn;
static uint64_t shorter_ms;

static void on_worn(void *arg, const char *reason)
{
    (void)arg, (void)reason;
    worn++;
}

static void on_shorter(void *arg, uint64_t limit_ms)
{
    (void)arg;
    shorter_ms = limit_ms;
}

static void open_timed(int64_t limit_ms)
{
    fixture_init();
    fx.settings.request_timeout_ms = limit_ms;
    fx.settings.request_timeout_grace_ms = GRACE_MS;
    fx.given_up = APP_GIVES_UP;
    worn = 0;
    shorter_ms = 0;
    fixture_start();
    memset(&table, 0, sizeof(table));
    memset(&tally, 0, sizeof(tally));
    http_server_publish(fx.server, &tally, &table);
    http_server_on_deadline(fx.server, on_worn, on_shorter, NULL);
}

static struct inflight_view listed(void)
{
    struct inflight_view view = { 0 };
    inflight_read(&table, 0, &view);
    return view;
}

/* Turns until so many deadlines have passed. */
static void await_deadlines(int count)
{
    uint64_t by = clock_ms() + 20000;
    fixture_settle();
    while (fx.deadlines < count && clock_ms() < by) {
        loop_poll(fx.loop, true);
        loop_settle(fx.loop);
    }
    fixture_settle();
}

static void answers_504_and_closes(void)
{
    open_timed(SOFT_MS);
    uint64_t began_ms = clock_ms();
    fixture_say(GET("/later"));
    CHECK(request_time_left(fx.kept) <= SOFT_MS);
    await_deadlines(1);
    CHECK(clock_ms() - began_ms >= SOFT_MS - 1);
    CHECK(fixture_starts("HTTP/1.1 504 Gateway Timeout\r\n"));
    CHECK_INT(fixture_count("connection: close\r\n"), 1);
    CHECK_INT(fx.deadlines, 1);
    CHECK_INT(worn, 0);
    CHECK_INT(request_time_left(fx.kept), 0);
    CHECK_INT(request_start(fx.kept, 200, STR(""), NULL, 0), REQUEST_GONE);
    fixture_close();
}

static void cuts_off_what_has_begun(void)
{
    open_timed(SOFT_MS);
    fixture_say(GET("/later"));
    CHECK_INT(request_start(fx.kept, 200, STR(""), NULL, 0), REQUEST_OK);
    CHECK_INT(request_write(fx.kept, STR("part"), true, NULL), REQUEST_OK);
    await_deadlines(1);
    CHECK(fixture_starts("HTTP/1.1 200 OK\r\n"));
    CHECK_INT(fixture_count("\r\n0\r\n"), 0);
    CHECK(fx.closed);
    fixture_close();
}

static void a_complete_response_is_not_timed(void)
{
    open_timed(SOFT_MS);
    fixture_say(GET("/later"));
    CHECK(listed().hard_ms > 0);
    fixture_answer(fx.kept, 200, "text/plain", STR("in time"));
    CHECK_INT(request_time_left(fx.kept), REQUEST_NO_DEADLINE);
    CHECK_INT(listed().hard_ms, 0);
    request_set_deadline(fx.kept, 0);
    for (int i = 0; i < 4; i++)
        fixture_turn();
    CHECK_INT(fx.deadlines, 0);
    fixture_close();
}

static void one_that_is_moved_does_not_hold_back_the_others(void)
{
    open_timed(SOFT_MS);
    fixture_say(GET("/later"));
    struct request *moved = fx.kept;
    request_set_deadline(moved, 3600000);
    fixture_connect();
    fixture_say(GET("/later"));
    await_deadlines(1);
    CHECK(fixture_starts("HTTP/1.1 504 "));
    CHECK(request_time_left(moved) > 3000000);
    request_set_deadline(moved, REQUEST_NO_DEADLINE);
    CHECK_INT(request_time_left(moved), REQUEST_NO_DEADLINE);
    request_set_deadline(moved, 0);
    await_deadlines(2);
    CHECK_INT(fx.deadlines, 2);
    request_unref(moved);
    fixture_close();
}

static void the_master_sees_the_hard_limit(void)
{
    open_timed(SOFT_MS);
    fixture_say(GET("/later"));
    struct inflight_view before = listed();
    CHECK_INT(before.hard_ms, before.soft_ms + GRACE_MS);
    await_deadlines(1);
    CHECK_INT(listed().hard_ms, before.hard_ms); /* the application still has it */
    request_unref(fx.kept);
    fx.kept = NULL;
    CHECK_INT(listed().id, 0);
    fixture_close();
}

static void what_nobody_works_on_has_no_hard_limit(void)
{
    open_timed(SOFT_MS);
    fx.given_up = APP_HAD_NOT_BEGUN;
    fixture_say(GET("/later"));
    await_deadlines(1);
    CHECK_INT(listed().hard_ms, 0);
    CHECK_INT(worn, 0);
    fixture_close();
}

static void what_was_broken_off_wears_the_process(void)
{
    open_timed(SOFT_MS);
    fx.given_up = APP_IS_BROKEN_OFF;
    fixture_say(GET("/later"));
    await_deadlines(1);
    CHECK_INT(worn, 1);
    fixture_close();
}

static void the_master_is_told_of_shorter_limits_rarely(void)
{
    open_timed(3600000);
    fixture_say(GET("/later"));
    CHECK_INT(shorter_ms, 0);
    request_set_deadline(fx.kept, 7200000);
    CHECK_INT(shorter_ms, 0);
    request_set_deadline(fx.kept, 1000);
    CHECK(shorter_ms > 0 && shorter_ms <= 1000 + GRACE_MS);
    shorter_ms = 0;
    request_set_deadline(fx.kept, 900);
    CHECK_INT(shorter_ms, 0); /* it looks often enough */
    fixture_close();
}

static void a_call_has_a_limit_of_its_own(void)
{
    open_timed(0);
    fixture_say(GET("/later"));
    CHECK_INT(listed().hard_ms, 0);
    uint64_t now = clock_ms();
    request_run_within(fx.kept, 30000);
    CHECK(listed().hard_ms > now + 29000 && listed().hard_ms <= clock_ms() + 30000);
    fixture_close();
}

static void a_request_outlives_its_server(void)
{
    open_timed(SOFT_MS);
    fixture_say(GET("/later"));
    struct request *kept = fx.kept;
    fx.kept = NULL;
    fixture_close();
    request_set_deadline(kept, 0);
    CHECK_INT(request_time_left(kept), REQUEST_NO_DEADLINE);
    request_unref(kept);
}

static const struct check_test tests[] = {
    TEST(answers_504_and_closes),
    TEST(cuts_off_what_has_begun),
    TEST(a_complete_response_is_not_timed),
    TEST(one_that_is_moved_does_not_hold_back_the_others),
    TEST(the_master_sees_the_hard_limit),
    TEST(what_nobody_works_on_has_no_hard_limit),
    TEST(what_was_broken_off_wears_the_process),
    TEST(the_master_is_told_of_shorter_limits_rarely),
    TEST(a_call_has_a_limit_of_its_own),
    TEST(a_request_outlives_its_server),
};

int main(void)
{
    return check_run(tests, sizeof(tests) / sizeof(tests[0]));
}
