/* The connection: order, keep-alive, pipelining, ends, time limits, drain. What single requests bring is in tests/wire. */
#include "check.h"
#include "http_fixture.h"

#include "server/net/io.h"

#define GET(path) "GET " path " HTTP/1.1\r\nHost: x\r\n\r\n"

static void answers_and_keeps_the_connection(void)
{
    fixture_open();
    fixture_say(GET("/a?b"));
    CHECK(fixture_starts("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 9\r\ndate: "));
    CHECK(strstr(fixture_got(), " GMT\r\nserver: licorne\r\n\r\nGET /a?b ") != NULL);
    fixture_say("POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    CHECK(strstr(fixture_got(), "POST /c hello") != NULL);
    CHECK_INT(fx.requests, 2);
    CHECK(!fx.closed);
    CHECK_INT(http_server_tally(fx.server)->requests, 2);
    CHECK_INT(http_server_tally(fx.server)->status_class[2], 2);
    fixture_close();
}

static void pipelined_responses_leave_in_one_write(void)
{
    fixture_open();
    for (int i = 0; i < 16; i++)
        fixture_send(GET("/"), strlen(GET("/")));
    loop_poll(fx.loop, true); /* one turn of one read: all answers are there before it ends */
    char bytes[65536];
    ssize_t n = read(fx.client, bytes, sizeof(bytes));
    CHECK(n > 0);
    buf_append(&fx.got, bytes, (size_t)n);
    CHECK_INT(fixture_count("HTTP/1.1 200 OK"), 16);
    fixture_close();
}

static void a_turn_takes_a_bounded_number_of_pipelined_requests(void)
{
    fixture_open();
    for (int i = 0; i < 100; i++)
        fixture_send(GET("/"), strlen(GET("/")));
    loop_poll(fx.loop, true);
    CHECK_INT(fx.requests, 32);
    fixture_settle();
    CHECK_INT(fixture_count("HTTP/1.1 200 OK"), 100);
    fixture_close();
}

static void a_slow_answer_holds_back_the_next_request(void)
{
    fixture_open();
    fixture_say(GET("/later") GET("/second"));
    CHECK_INT(fx.requests, 1);
    CHECK_INT(buf_len(&fx.got), 0);
    CHECK_BYTES(fx.kept->path.p, fx.kept->path.len, "/later"); /* the head was copied */
    CHECK_BYTES(fx.kept->host.p, fx.kept->host.len, "x");
    CHECK_BYTES(fx.kept->fields[0].name.p, fx.kept->fields[0].name.len, "host");
    fixture_answer(fx.kept, 200, "text/plain", STR("slow"));
    fixture_settle();
    CHECK_INT(fixture_count("HTTP/1.1 200 OK"), 2);
    CHECK(strstr(fixture_got(), "\r\n\r\nslowHTTP/1.1 200") != NULL);
    fixture_close();
}

static void a_request_that_nobody_keeps_is_answered_with_500(void)
{
    fixture_open();
    fixture_say(GET("/forget") GET("/next"));
    CHECK(fixture_starts("HTTP/1.1 500 Internal Server Error\r\n"));
    CHECK_INT(fixture_count("HTTP/1.1 200 OK"), 1);
    fixture_close();
}

/* --- the client leaves ------------------------------------------------------------------------------------------------- */

static void the_application_is_told_when_the_client_leaves(void)
{
    fixture_open();
    fixture_say(GET("/later"));
    close(fx.client);
    fx.client = -1;
    fixture_turn();
    fixture_turn();
    CHECK_INT(fx.disconnects, 1);
    fixture_answer(fx.kept, 200, "text/plain", STR("x")); /* a half-close looks the same: writing is tried */
    for (int i = 0; i < 5; i++)
        fixture_turn();
    CHECK(fx.kept->conn == NULL);
    CHECK_INT(http_server_tally(fx.server)->conns, 0);
    CHECK_INT(fx.disconnects, 1);
    fixture_close();
}

static void writing_to_a_dead_connection_is_gone(void)
{
    fixture_open();
    fixture_say(GET("/later"));
    http_server_abort(fx.server);
    fixture_turn();
    CHECK_INT(fx.disconnects, 1);
    CHECK_INT(request_start(fx.kept, 200, STR(""), NULL, 0), REQUEST_GONE);
    CHECK_INT(request_write(fx.kept, STR("x"), false, NULL), REQUEST_GONE);
    CHECK_INT(request_client(fx.kept)->port, -1);
    CHECK_INT(http_server_tally(fx.server)->in_flight, 0);
    fixture_close();
}

static void a_request_outlives_its_server(void)
{
    fixture_open();
    fixture_say(GET("/later"));
    struct request *kept = fx.kept;
    fx.kept = NULL;
    fixture_close();
    CHECK_BYTES(kept->path.p, kept->path.len, "/later");
    CHECK_INT(request_start(kept, 200, STR(""), NULL, 0), REQUEST_GONE);
    request_unref(kept);
}

/* --- bodies ---------------------------------------------------------------------------------------------------------------- */

static void reading_pauses_while_the_application_does_not_take_the_body(void)
{
    static char block[64 * 1024];
    fixture_open();
    fixture_say("POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n");
    size_t sent = 0;
    for (int stuck = 0; stuck < 20 && sent < 10000000;) {
        ssize_t n = send(fx.client, block, sizeof(block), MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        stuck = n > 0 ? 0 : stuck + 1;
        fixture_turn();
    }
    CHECK(sent < 2000000);
    CHECK(buf_len(&fx.kept->body) <= REQUEST_BODY_HIGH_WATER + LOOP_READ_BYTES);
    size_t received = fx.kept->body_received;
    request_consume(fx.kept, buf_len(&fx.kept->body));
    fixture_turn();
    fixture_turn();
    CHECK(fx.kept->body_received > received);
    fixture_close();
}

static void the_application_may_wait_for_the_start_of_the_body(void)
{
    fixture_init();
    fx.app.prebuffer_bytes = 4;
    fixture_start();
    fixture_say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nab");
    CHECK_INT(fx.requests, 0);
    fixture_say("cd");
    CHECK_INT(fx.requests, 1);
    fixture_say("ef");
    CHECK(strstr(fixture_got(), "POST / abcdef") != NULL);
    fixture_say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n");
    CHECK_INT(fx.requests, 1);
    fixture_say("gh");
    CHECK(strstr(fixture_got(), "POST / gh") != NULL);
    fixture_close();
}

static bool wait_inside(struct request *r)
{
    char text[16] = "";
    size_t n = 0;
    while (!r->body_end || buf_len(&r->body) > 0) {
        if (request_wait_body(r) != 1)
            return true;
        memcpy(text + n, r->body.data + r->body.start, buf_len(&r->body));
        n += buf_len(&r->body);
        request_consume(r, buf_len(&r->body));
        if (n == 2)
            send(fx.client, "cdGET /next HTTP/1.1\r\nHost: x\r\n\r\n", 33, 0);
    }
    fx.on_request = NULL;
    fixture_answer(r, 200, "text/plain", (struct str){ text, n });
    return true;
}

static void the_application_may_wait_inside_its_call(void)
{
    fixture_open();
    fx.on_request = wait_inside;
    fixture_say("POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab");
    CHECK(strstr(fixture_got(), "\r\n\r\nabcd") != NULL);
    CHECK(strstr(fixture_got(), "GET /next") != NULL);
    CHECK_INT(fx.requests, 2);
    fixture_close();
}

static int wait_result;

static bool wait_in_vain(struct request *r)
{
    wait_result = request_wait_body(r);
    return true;
}

static void waiting_inside_ends_with_the_time_limit(void)
{
    fixture_init();
    fx.settings.body_timeout_ms = 50;
    fixture_start();
    fx.on_request = wait_in_vain;
    wait_result = 7;
    fixture_say("POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n");
    CHECK_INT(wait_result, 0);
    CHECK(fixture_starts("HTTP/1.1 408 "));
    fixture_close();
}

/* --- time limits ------------------------------------------------------------------------------------------------------------- */

static void a_slow_head_is_answered_with_408(void)
{
    fixture_init();
    fx.settings.header_timeout_ms = 100;
    fixture_start();
    fixture_say("GET / HTTP/1.1\r\n");
    CHECK(fixture_until(fixture_is_closed));
    CHECK(fixture_starts("HTTP/1.1 408 Request Timeout\r\n"));
    CHECK_INT(fx.requests, 0);
    fixture_close();
}

static void a_connection_that_says_nothing_is_closed_without_a_word(void)
{
    fixture_init();
    fx.settings.header_timeout_ms = 100;
    fixture_start();
    CHECK(fixture_until(fixture_is_closed));
    CHECK_INT(buf_len(&fx.got), 0);
    fixture_close();
}

static void an_idle_connection_is_closed(void)
{
    fixture_init();
    fx.settings.keepalive_ms = 100;
    fixture_start();
    fixture_say(GET("/"));
    size_t got = buf_len(&fx.got);
    CHECK(fixture_until(fixture_is_closed));
    CHECK_INT(buf_len(&fx.got), got);
    fixture_close();
}

static void keepalive_0_closes_after_each_response(void)
{
    fixture_init();
    fx.settings.keepalive_ms = 0;
    fixture_start();
    fixture_say(GET("/"));
    CHECK(strstr(fixture_got(), "connection: close\r\n") != NULL);
    CHECK(fx.closed);
    fixture_close();
}

static void a_body_that_stops_is_answered_with_408(void)
{
    fixture_init();
    fx.settings.body_timeout_ms = 100;
    fixture_start();
    fixture_say("POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab");
    CHECK(fixture_until(fixture_is_closed));
    CHECK(fixture_starts("HTTP/1.1 408 "));
    CHECK_INT(fx.disconnects, 1);
    CHECK_INT(request_start(fx.kept, 200, STR(""), NULL, 0), REQUEST_GONE);
    CHECK_INT(request_write(fx.kept, STR("x"), false, NULL), REQUEST_GONE);
    fixture_close();
}

static char megabyte[1 << 20];

static bool answer_much(struct request *r)
{
    request_ref(r);
    fx.kept = r;
    request_start(r, 200, STR(""), NULL, 0);
    while (request_write(r, (struct str){ megabyte, sizeof(megabyte) }, true, NULL) == REQUEST_OK)
        ;
    return true;
}

static bool server_has_no_conns(void)
{
    return http_server_tally(fx.server)->conns == 0;
}

static void a_client_that_does_not_read_is_cut_off(void)
{
    fixture_init();
    fx.settings.write_timeout_ms = 100;
    fixture_start();
    fx.on_request = answer_much;
    fixture_send(GET("/much"), strlen(GET("/much")));
    uint64_t due = clock_ms() + 10000;
    while (!server_has_no_conns() && clock_ms() < due) {
        fixture_turn();
        poll(NULL, 0, 1);
    }
    CHECK(server_has_no_conns());
    CHECK_INT(fx.disconnects, 1);
    CHECK_INT(request_write(fx.kept, STR("x"), true, NULL), REQUEST_GONE);
    fixture_close();
}

static void room_is_told_once_when_it_is_there(void)
{
    fixture_open();
    fx.on_request = answer_much;
    fixture_send(GET("/much"), strlen(GET("/much")));
    fixture_turn();
    CHECK_INT(fx.writables, 0);
    fixture_settle();
    CHECK_INT(fx.writables, 1);
    CHECK_INT(request_finish(fx.kept), REQUEST_OK);
    fixture_settle();
    CHECK(!fx.closed);
    CHECK_BYTES(fx.got.data + fx.got.end - 7, 7, "\r\n0\r\n\r\n");
    fixture_close();
}

/* --- drain -------------------------------------------------------------------------------------------------------------------- */

static int emptied;

static void on_empty(void *arg)
{
    (void)arg;
    emptied++;
}

static bool is_empty(void)
{
    return emptied > 0;
}

static void drain_closes_idle_connections(void)
{
    fixture_open();
    fixture_say(GET("/"));
    emptied = 0;
    http_server_drain(fx.server, on_empty, NULL);
    CHECK_INT(emptied, 0);
    CHECK(fixture_until(is_empty));
    CHECK_INT(emptied, 1);
    fixture_close();
}

static void drain_answers_what_has_arrived_already(void)
{
    fixture_open();
    fixture_say(GET("/1"));
    emptied = 0;
    fixture_send(GET("/2"), strlen(GET("/2")));
    http_server_drain(fx.server, on_empty, NULL);
    CHECK(fixture_until(fixture_is_closed));
    CHECK(strstr(fixture_got(), "GET /2") != NULL);
    CHECK(strstr(fixture_got(), "connection: close\r\n") != NULL);
    close(fx.client);
    fx.client = -1;
    CHECK(fixture_until(is_empty));
    fixture_close();
}

static void drain_lets_requests_finish(void)
{
    fixture_open();
    fixture_say(GET("/later"));
    emptied = 0;
    http_server_drain(fx.server, on_empty, NULL);
    fixture_turn();
    CHECK_INT(emptied, 0);
    fixture_answer(fx.kept, 200, "text/plain", STR("done"));
    fixture_settle();
    CHECK(strstr(fixture_got(), "connection: close\r\n") != NULL);
    CHECK(fx.closed);
    fixture_close();
}

static int rooms;

static void on_room(void *arg)
{
    (void)arg;
    rooms++;
}

static void room_for_connections(void)
{
    fixture_init();
    fx.settings.worker_connections = 1;
    fixture_start();
    rooms = 0;
    http_server_on_room(fx.server, on_room, NULL);
    CHECK(!http_server_has_room(fx.server));
    close(fx.client);
    fx.client = -1;
    fixture_turn();
    CHECK_INT(rooms, 1);
    CHECK(http_server_has_room(fx.server));
    fixture_close();
}

/* --- the end ----------------------------------------------------------------------------------------------------------------- */

static void the_last_response_lingers_until_the_client_closes(void)
{
    fixture_open();
    fixture_say("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CHECK(fx.closed); /* our side is shut */
    CHECK_INT(http_server_tally(fx.server)->conns, 1);
    fixture_say("what comes now is dropped");
    CHECK_INT(http_server_tally(fx.server)->conns, 1);
    close(fx.client);
    fx.client = -1;
    fixture_turn();
    CHECK_INT(http_server_tally(fx.server)->conns, 0);
    fixture_close();
}

static void lingering_has_an_end(void)
{
    fixture_init();
    fx.settings.linger_timeout_ms = 100;
    fixture_start();
    fixture_say("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    CHECK_INT(http_server_tally(fx.server)->conns, 1);
    CHECK(fixture_until(server_has_no_conns));
    fixture_close();
}

CHECK_MAIN(TEST(answers_and_keeps_the_connection), TEST(pipelined_responses_leave_in_one_write),
           TEST(a_turn_takes_a_bounded_number_of_pipelined_requests), TEST(a_slow_answer_holds_back_the_next_request),
           TEST(a_request_that_nobody_keeps_is_answered_with_500), TEST(the_application_is_told_when_the_client_leaves),
           TEST(writing_to_a_dead_connection_is_gone), TEST(a_request_outlives_its_server),
           TEST(reading_pauses_while_the_application_does_not_take_the_body),
           TEST(the_application_may_wait_for_the_start_of_the_body), TEST(the_application_may_wait_inside_its_call),
           TEST(waiting_inside_ends_with_the_time_limit), TEST(a_slow_head_is_answered_with_408),
           TEST(a_connection_that_says_nothing_is_closed_without_a_word), TEST(an_idle_connection_is_closed),
           TEST(keepalive_0_closes_after_each_response), TEST(a_body_that_stops_is_answered_with_408),
           TEST(a_client_that_does_not_read_is_cut_off), TEST(room_is_told_once_when_it_is_there),
           TEST(drain_closes_idle_connections), TEST(drain_answers_what_has_arrived_already),
           TEST(drain_lets_requests_finish), TEST(room_for_connections),
           TEST(the_last_response_lingers_until_the_client_closes), TEST(lingering_has_an_end))
