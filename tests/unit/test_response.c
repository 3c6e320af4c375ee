/* What an application can make the server say: framing, checks, errors. */
#include "check.h"
#include "http_fixture.h"

#define GET "GET /later HTTP/1.1\r\nHost: x\r\n\r\n"

static struct request *kept(const char *request)
{
    fixture_open();
    fixture_say(request);
    return fx.kept;
}

static enum request_result start(struct request *r, int status, const char *name, const char *value)
{
    struct field field = { str_from(name), str_from(value) };
    return request_start(r, status, STR(""), &field, name ? 1 : 0);
}

static enum request_result say(struct request *r, const char *text, bool more)
{
    return request_write(r, str_from(text), more, NULL);
}

static bool got(const char *text)
{
    fixture_settle();
    return strstr(fixture_got(), text) != NULL;
}

/* --- framing ------------------------------------------------------------------------------------------------------------ */

static void one_write_gets_a_content_length(void)
{
    struct request *r = kept(GET);
    CHECK_INT(start(r, 200, NULL, NULL), REQUEST_OK);
    CHECK(!got("HTTP"));
    CHECK_INT(say(r, "hello", false), REQUEST_OK);
    CHECK(got("\r\ncontent-length: 5\r\n"));
    CHECK(got("\r\n\r\nhello"));
    CHECK_INT(r->response, RESPONSE_DONE);
    fixture_close();
}

static void several_writes_are_chunked(void)
{
    struct request *r = kept(GET);
    start(r, 200, NULL, NULL);
    CHECK_INT(say(r, "hello", true), REQUEST_OK);
    CHECK_INT(say(r, "", true), REQUEST_OK);
    CHECK_INT(say(r, "0123456789abcdefg", true), REQUEST_OK);
    CHECK_INT(request_finish(r), REQUEST_OK);
    CHECK(got("\r\ntransfer-encoding: chunked\r\n"));
    CHECK(got("\r\n\r\n5\r\nhello\r\n11\r\n0123456789abcdefg\r\n0\r\n\r\n"));
    CHECK(!got("content-length"));
    CHECK(!fx.closed);
    fixture_close();
}

static void a_chunked_response_may_end_with_bytes(void)
{
    struct request *r = kept(GET);
    start(r, 200, NULL, NULL);
    say(r, "a", true);
    CHECK_INT(say(r, "b", false), REQUEST_OK);
    CHECK(got("1\r\na\r\n1\r\nb\r\n0\r\n\r\n"));
    fixture_close();
}

static void on_1_0_the_end_of_the_connection_is_the_end_of_the_body(void)
{
    struct request *r = kept("GET /later HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    start(r, 200, NULL, NULL);
    say(r, "a", true);
    say(r, "b", false);
    CHECK(got("connection: close\r\n\r\nab"));
    CHECK(!got("chunked"));
    CHECK(fx.closed);
    fixture_close();
}

static void the_applications_content_length_is_kept(void)
{
    struct request *r = kept(GET);
    CHECK_INT(start(r, 200, "Content-Length", "4"), REQUEST_OK);
    say(r, "ab", true);
    CHECK_INT(say(r, "cd", false), REQUEST_OK);
    CHECK(got("content-length: 4\r\n"));
    CHECK(!got("chunked"));
    fixture_close();
}

static void head_has_no_body_whatever_the_application_writes(void)
{
    struct request *r = kept("HEAD /later HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK_INT(start(r, 200, "Content-Length", "4"), REQUEST_OK);
    CHECK_INT(say(r, "abcdefgh", true), REQUEST_OK);
    CHECK_INT(request_finish(r), REQUEST_OK);
    CHECK(got("content-length: 4\r\n"));
    CHECK_BYTES(fx.got.data + fx.got.end - 4, 4, "\r\n\r\n");
    CHECK(!fx.closed);
    fixture_close();
}

static void a_204_has_neither_body_nor_length(void)
{
    struct request *r = kept(GET);
    CHECK_INT(start(r, 204, "Content-Length", "4"), REQUEST_OK);
    CHECK_INT(say(r, "abcd", false), REQUEST_OK);
    CHECK(!got("content-length"));
    CHECK(!got("chunked"));
    CHECK_BYTES(fx.got.data + fx.got.end - 4, 4, "\r\n\r\n");
    fixture_close();
}

static void a_304_may_say_the_length(void)
{
    struct request *r = kept(GET);
    CHECK_INT(start(r, 304, "Content-Length", "4"), REQUEST_OK);
    CHECK_INT(request_finish(r), REQUEST_OK);
    CHECK(got("HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n"));
    fixture_close();
}

static void an_empty_response_says_so(void)
{
    struct request *r = kept(GET);
    start(r, 200, NULL, NULL);
    CHECK_INT(request_finish(r), REQUEST_OK);
    CHECK(got("content-length: 0\r\n"));
    fixture_close();
}

static void an_application_may_close(void)
{
    struct request *r = kept(GET);
    CHECK_INT(start(r, 200, "Connection", "x, Close"), REQUEST_OK);
    request_finish(r);
    CHECK(got("connection: close\r\n"));
    CHECK_INT(fixture_count("onnection:"), 1);
    CHECK(fx.closed);
    fixture_close();
}

static void date_and_server_of_the_application_stay(void)
{
    struct request *r = kept(GET);
    struct field fields[] = { { STR("Date"), STR("now") }, { STR("SERVER"), STR("mine") } };
    CHECK_INT(request_start(r, 200, STR("Fine"), fields, 2), REQUEST_OK);
    request_finish(r);
    CHECK(got("HTTP/1.1 200 Fine\r\nDate: now\r\nSERVER: mine\r\ncontent-length: 0\r\n\r\n"));
    fixture_close();
}

static void date_and_server_can_be_switched_off(void)
{
    fixture_init();
    fx.settings.date_header = fx.settings.server_header = false;
    fixture_start();
    fixture_say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(got("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\n"));
    fixture_close();
}

/* --- what is refused ---------------------------------------------------------------------------------------------------- */

static bool refused(struct request *r, int status, const char *name, const char *value)
{
    return start(r, status, name, value) == REQUEST_INVALID && r->error != NULL && r->response == RESPONSE_NONE;
}

static void nothing_invalid_gets_out(void)
{
    struct request *r = kept(GET);
    CHECK(refused(r, 99, NULL, NULL));
    CHECK(refused(r, 100, NULL, NULL));
    CHECK(refused(r, 1000, NULL, NULL));
    CHECK(refused(r, -1, NULL, NULL));
    CHECK(refused(r, 200, "X Bad", "a"));
    CHECK_BYTES(r->error, strlen(r->error), "a header name has a byte that is not allowed, or is empty: \"X Bad\"");
    CHECK(refused(r, 200, "", "a"));
    CHECK(refused(r, 200, "X:", "a"));
    CHECK(refused(r, 200, "X\r\nY", "a"));
    CHECK(refused(r, 200, "X\xe9", "a"));
    CHECK(refused(r, 200, "X", "a\r\nX-Injected: 1"));
    CHECK_BYTES(r->error, strlen(r->error),
                "a header value has a byte that is not allowed: \"a\\x0d\\x0aX-Injected: 1\"");
    CHECK(refused(r, 200, "X", "a\nb"));
    CHECK(refused(r, 200, "X", "a\rb"));
    CHECK(refused(r, 200, "X", "\x7f"));
    CHECK(refused(r, 200, "Content-Length", "-1"));
    CHECK(refused(r, 200, "Content-Length", "1x"));
    CHECK(refused(r, 200, "Content-Length", ""));
    struct field nul = { STR("X"), { "a\0b", 3 } };
    CHECK_INT(request_start(r, 200, STR(""), &nul, 1), REQUEST_INVALID);
    struct field twice[] = { { STR("content-length"), STR("1") }, { STR("content-length"), STR("1") } };
    CHECK_INT(request_start(r, 200, STR(""), twice, 2), REQUEST_INVALID);
    CHECK_INT(request_start(r, 200, STR("OK\r\nX: y"), NULL, 0), REQUEST_INVALID);
    CHECK_INT(start(r, 200, "X", "fine \xe9"), REQUEST_OK);
    CHECK_INT(say(r, "x", false), REQUEST_OK);
    CHECK(got("HTTP/1.1 200 OK\r\nX: fine \xe9\r\ncontent-length: 1\r\n"));
    fixture_close();
}

static void transfer_encoding_is_the_servers(void)
{
    struct request *r = kept(GET);
    CHECK_INT(start(r, 200, "Transfer-Encoding", "gzip"), REQUEST_OK);
    say(r, "x", false);
    CHECK(got("content-length: 1\r\n"));
    CHECK(!got("gzip"));
    fixture_close();
}

static void writing_before_start_and_starting_twice(void)
{
    struct request *r = kept(GET);
    CHECK_INT(say(r, "x", true), REQUEST_INVALID);
    CHECK_INT(request_finish(r), REQUEST_INVALID);
    CHECK_INT(start(r, 200, NULL, NULL), REQUEST_OK);
    CHECK_INT(start(r, 200, NULL, NULL), REQUEST_INVALID);
    request_recall(r);
    CHECK_INT(start(r, 404, NULL, NULL), REQUEST_OK);
    say(r, "x", false);
    CHECK(got("HTTP/1.1 404 Not Found\r\n"));
    CHECK_INT(say(r, "x", true), REQUEST_INVALID);
    CHECK_INT(start(r, 200, NULL, NULL), REQUEST_INVALID);
    fixture_close();
}

static void more_than_content_length_is_not_sent(void)
{
    struct request *r = kept(GET);
    start(r, 200, "Content-Length", "4");
    CHECK_INT(say(r, "abc", true), REQUEST_OK);
    CHECK_INT(say(r, "de", true), REQUEST_TOO_LONG);
    CHECK_INT(say(r, "d", true), REQUEST_OK);
    CHECK_INT(say(r, "e", false), REQUEST_TOO_LONG);
    CHECK_INT(request_finish(r), REQUEST_OK);
    CHECK(got("\r\n\r\nabcd"));
    CHECK(!fx.closed);
    fixture_close();
}

static void less_than_content_length_closes(void)
{
    struct request *r = kept(GET);
    start(r, 200, "Content-Length", "4");
    say(r, "abc", true);
    CHECK_INT(request_finish(r), REQUEST_INVALID);
    CHECK(r->error != NULL);
    CHECK(got("\r\n\r\nabc"));
    CHECK(fx.closed);
    fixture_close();
}

static void less_than_content_length_from_the_start_is_a_500(void)
{
    struct request *r = kept(GET);
    start(r, 200, "Content-Length", "4");
    CHECK_INT(say(r, "abc", false), REQUEST_INVALID);
    CHECK(got("HTTP/1.1 500 "));
    CHECK(!got("abc"));
    fixture_close();
}

/* --- failing ------------------------------------------------------------------------------------------------------------- */

static void failing_before_anything_was_sent_is_a_500(void)
{
    struct request *r = kept(GET);
    start(r, 200, "X", "y");
    request_fail(r, 500);
    CHECK(got("HTTP/1.1 500 Internal Server Error\r\n"));
    CHECK(!got("X: y"));
    CHECK(!fx.closed); /* the request was complete: the connection goes on */
    fixture_say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK(got("HTTP/1.1 200 OK"));
    fixture_close();
}

static void failing_in_a_chunked_body_leaves_it_open(void)
{
    struct request *r = kept(GET);
    start(r, 200, NULL, NULL);
    say(r, "abc", true);
    request_fail(r, 500);
    CHECK(got("3\r\nabc\r\n"));
    CHECK(!got("0\r\n\r\n"));
    CHECK(fx.closed);
    CHECK_INT(say(r, "d", true), REQUEST_INVALID);
    fixture_close();
}

/* --- large bodies ---------------------------------------------------------------------------------------------------------- */

static int released;

static void on_release(void *arg)
{
    (void)arg;
    released++;
}

static const struct body_ref ref = { on_release, NULL };

static void references_are_released_exactly_once(void)
{
    static char large[300000];
    memset(large, 'x', sizeof(large));
    released = 0;
    struct request *r = kept(GET);
    start(r, 200, NULL, NULL);
    CHECK_INT(request_write(r, STR("small"), true, &ref), REQUEST_OK);
    CHECK_INT(released, 1);
    request_write(r, (struct str){ large, sizeof(large) }, true, &ref);
    CHECK_INT(say(r, "end", false), REQUEST_OK);
    fixture_settle();
    CHECK_INT(released, 2);
    CHECK(got("\r\n493e0\r\nxxx"));
    CHECK(got("xxx\r\n3\r\nend\r\n0\r\n\r\n"));
    CHECK_INT(request_write(r, STR("late"), true, &ref), REQUEST_INVALID);
    CHECK_INT(released, 3);
    fixture_close();
}

static void references_are_released_when_the_client_has_left(void)
{
    static char large[1000000];
    released = 0;
    struct request *r = kept(GET);
    start(r, 200, NULL, NULL);
    CHECK_INT(request_write(r, (struct str){ large, sizeof(large) }, true, &ref), REQUEST_FULL);
    http_server_abort(fx.server);
    CHECK_INT(released, 1);
    CHECK_INT(request_write(r, (struct str){ large, sizeof(large) }, true, &ref), REQUEST_GONE);
    CHECK_INT(released, 2);
    fixture_close();
}

static void files_are_sent(void)
{
    char path[] = "/tmp/licorne-test-XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    CHECK_INT(write(fd, "0123456789", 10), 10);
    struct request *r = kept(GET);
    released = 0;
    start(r, 200, NULL, NULL);
    CHECK_INT(request_write_file(r, fd, 2, 5, false, &ref), REQUEST_OK);
    CHECK(got("content-length: 5\r\n"));
    CHECK(got("\r\n\r\n23456"));
    CHECK_INT(released, 1);
    CHECK(!fx.closed);
    close(fd);
    fixture_close();
}

CHECK_MAIN(TEST(one_write_gets_a_content_length), TEST(several_writes_are_chunked),
           TEST(a_chunked_response_may_end_with_bytes), TEST(on_1_0_the_end_of_the_connection_is_the_end_of_the_body),
           TEST(the_applications_content_length_is_kept), TEST(head_has_no_body_whatever_the_application_writes),
           TEST(a_204_has_neither_body_nor_length), TEST(a_304_may_say_the_length), TEST(an_empty_response_says_so),
           TEST(an_application_may_close), TEST(date_and_server_of_the_application_stay),
           TEST(date_and_server_can_be_switched_off), TEST(nothing_invalid_gets_out),
           TEST(transfer_encoding_is_the_servers), TEST(writing_before_start_and_starting_twice),
           TEST(more_than_content_length_is_not_sent), TEST(less_than_content_length_closes),
           TEST(less_than_content_length_from_the_start_is_a_500), TEST(failing_before_anything_was_sent_is_a_500),
           TEST(failing_in_a_chunked_body_leaves_it_open), TEST(references_are_released_exactly_once),
           TEST(references_are_released_when_the_client_has_left), TEST(files_are_sent))
