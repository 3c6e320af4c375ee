/* The access log: gunicorn's atoms, escaping, whole lines. */
#include "check.h"
#include "http_fixture.h"

#include <limits.h>

static char path[] = "/tmp/licorne-test-XXXXXX";
static char text[65536];

static void log_with(const char *format)
{
    close(mkstemp(strcpy(path, "/tmp/licorne-test-XXXXXX")));
    fixture_init();
    fx.settings.accesslog = path;
    fx.settings.access_log_format = format;
    fixture_start();
}

static const char *logged(void)
{
    FILE *file = fopen(path, "r");
    size_t n = fread(text, 1, sizeof(text) - 1, file);
    text[n] = 0;
    fclose(file);
    return text;
}

#define CHECK_LOGGED(expected)                                                                                         \
    do {                                                                                                               \
        logged();                                                                                                      \
        CHECK_BYTES(text, strlen(text), expected);                                                                     \
    } while (0)

static void log_done(void)
{
    fixture_close();
    unlink(path);
}

static void atoms(void)
{
    log_with("%(h)s %(l)s %(u)s \"%(r)s\" %(m)s %(U)s %(q)s %(H)s %(s)s %(B)s %(b)s %(f)s %(a)s "
             "%({X-One}i)s %({content-type}o)s %({nope}o)s %({HOME}e)s %(z)s %% %(T)s");
    fixture_say("GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nReferer: ref\r\nUser-Agent: agent\r\nx-one: 1\r\n"
                "Authorization: Basic dXNlcjpwYXNz\r\n\r\n");
    CHECK_LOGGED("- - user \"GET /a%20b?c=d HTTP/1.1\" GET /a b c=d HTTP/1.1 200 15 15 ref agent "
                 "1 text/plain - - - % 0\n");
    log_done();
}

static void granians_atoms(void)
{
    log_with("%(addr)s \"%(method)s %(path)s %(query_string)s %(protocol)s\" %(status)d %(dt_ms).3f %(colour)s");
    fixture_say("GET /a?c=d HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK_LOGGED("- \"GET /a c=d HTTP/1.1\" 200 0 -\n");
    log_done();
}

static void the_time_has_gunicorns_form(void)
{
    log_with("%(t)s %(p)s %(L)s %(D)d %(M)d");
    fixture_say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    int day, year, hour, minute, second, zone, pid, us, ms;
    char month[4];
    float took;
    CHECK_INT(sscanf(logged(), "[%2d/%3s/%4d:%2d:%2d:%2d %5d] <%d> %f %d %d", &day, month, &year, &hour, &minute,
                     &second, &zone, &pid, &took, &us, &ms),
              11);
    CHECK_INT(pid, getpid());
    CHECK(took < 10 && us < 10000000 && ms < 10000);
    log_done();
}

static void nobody_forges_a_line(void)
{
    log_with("%(U)s %(a)s");
    fixture_say("GET /%1b[31m%0aFAKE%22 HTTP/1.1\r\nHost: x\r\nUser-Agent: \"\\\xff\t\r\n\r\n");
    CHECK_LOGGED("/\\x1b[31m\\x0aFAKE\\\" \\\"\\\\\\xff\n");
    log_done();
}

static void refused_and_abandoned_requests_are_logged(void)
{
    log_with("%(r)s %(s)s");
    fixture_say("GET / HTTP/1.1\r\nBad Header\r\n\r\n");
    fixture_connect();
    fixture_say("\x16\x03\x01 garbage");
    fixture_connect();
    fixture_say("GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
    http_server_abort(fx.server);
    fixture_settle();
    CHECK_LOGGED("GET / HTTP/1.1 400\n- 400\nGET /later HTTP/1.1 499\n");
    log_done();
}

static void a_head_that_comes_too_slowly_is_logged(void)
{
    log_with("%(r)s %(s)s %(a)s");
    fx.settings.header_timeout_ms = 100;
    fixture_connect();
    fixture_say("GET /slow HTTP/1.1\r\nUser-Agent: x\r\nA");
    CHECK(fixture_until(fixture_is_closed));
    CHECK_LOGGED("GET /slow HTTP/1.1 408 -\n");
    log_done();
}

static void lines_of_a_turn_leave_together_and_survive_reopening(void)
{
    log_with("%(r)s");
    for (int i = 0; i < 3; i++)
        fixture_send("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
    loop_poll(fx.loop, true);
    CHECK_INT(strlen(logged()), 0);
    loop_settle(fx.loop);
    CHECK_INT(strlen(logged()), 3 * strlen("GET / HTTP/1.1\n"));
    unlink(path);
    http_server_reopen_log(fx.server);
    fixture_say("GET /new HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK_LOGGED("GET /new HTTP/1.1\n");
    log_done();
}

/* Through a FIFO each write is at most PIPE_BUF and ends with a line. */
static void lines_are_not_torn_in_a_pipe(void)
{
    static char request[8192], got[65536];
    log_with("%(r)s");
    unlink(path);
    CHECK_INT(mkfifo(path, 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK);
    http_server_reopen_log(fx.server);
    fcntl(reader, F_SETPIPE_SZ, 4096);
    snprintf(request, sizeof(request), "GET /%01000d HTTP/1.1\r\nHost: x\r\n\r\n", 7);
    size_t lines = 0;
    for (int i = 0; i < 3; i++)
        fixture_send(request, strlen(request));
    loop_poll(fx.loop, true);
    loop_settle(fx.loop);
    ssize_t n = read(reader, got, sizeof(got));
    for (ssize_t i = 0; i < n; i++)
        lines += got[i] == '\n';
    CHECK_INT(lines, 3);
    CHECK_INT(got[n - 1], '\n');
    close(reader);
    log_done();
}

static void a_line_too_long_for_a_pipe_is_cut(void)
{
    static char request[16384], got[65536];
    log_with("%(r)s %({X}i)s");
    unlink(path);
    CHECK_INT(mkfifo(path, 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK);
    http_server_reopen_log(fx.server);
    snprintf(request, sizeof(request), "GET / HTTP/1.1\r\nHost: x\r\nX: %06000d\r\n\r\n", 7);
    fixture_say(request);
    ssize_t n = read(reader, got, sizeof(got));
    CHECK_INT(n, PIPE_BUF);
    CHECK_INT(got[n - 1], '\n');
    close(reader);
    log_done();
}

static void a_format_that_ends_in_the_middle(void)
{
    static const char *const formats[] = { "%", "%(", "%(h", "%(h)", "%()s", "%({}i)s", "%({X}i", "x%y", "" };
    for (size_t i = 0; i < sizeof(formats) / sizeof(*formats); i++) {
        log_with(formats[i]);
        fixture_say("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        CHECK_INT(logged()[strlen(logged()) - 1], '\n');
        log_done();
    }
}

CHECK_MAIN(TEST(atoms), TEST(granians_atoms), TEST(the_time_has_gunicorns_form), TEST(nobody_forges_a_line),
           TEST(refused_and_abandoned_requests_are_logged), TEST(a_head_that_comes_too_slowly_is_logged),
           TEST(lines_of_a_turn_leave_together_and_survive_reopening), TEST(lines_are_not_torn_in_a_pipe),
           TEST(a_line_too_long_for_a_pipe_is_cut), TEST(a_format_that_ends_in_the_middle))
