/* http_fixture: an http_server over socketpairs, with a fake application whose behaviour is chosen by the request's path. For
 * the C tests of server/http, the wire corpus and the fuzz target. One fixture at a time.
 *
 *     /           reads the whole body, then answers 200 with "<method> <target> <body>"
 *     /early      answers 200 "early" at once, whatever the body
 *     /later      keeps the request: fixture.kept is answered by the test
 *     /forget     neither answers nor keeps it
 *     anything else that a test handles in fixture.on_request */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/app.h"
#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/http/http_server.h"
#include "server/http/request.h"
#include "server/net/loop.h"

struct http_fixture {
    struct app app;
    struct settings settings;
    struct loop *loop;
    struct http_server *server;
    int client;                                  /* our end of the connection */
    struct buf got;                              /* what came back */
    bool closed;                                 /* the server's side is shut */
    int requests;                                /* on_request calls */
    int complete;                                /* requests whose body came to its end */
    int disconnects, writables, deadlines;
    enum app_given_up given_up;                  /* what it says to a deadline */
    struct request *kept;                        /* of /later, one reference */
    struct buf heads;                            /* of each request: "method target host version body\n" */
    bool (*on_request)(struct request *request); /* the test's own; true: handled */
};

static struct http_fixture fx;

#define BOOL(name, value, ...) .name = value,
#define INT(name, value, ...) .name = value,
#define COUNT(name, value, ...) .name = value,
#define BYTES(name, value, ...) .name = value,
#define SECONDS(name, value, ...) .name##_ms = value,
#define STRING(name, value, ...) .name = value,
#define LIST(name, ...)
#define CHOICE(name, value, ...) .name = value,
static const struct settings fixture_defaults = {
#include "config/settings.def"
};
#undef BOOL
#undef INT
#undef COUNT
#undef BYTES
#undef SECONDS
#undef STRING
#undef LIST
#undef CHOICE

static void fixture_answer(struct request *r, int status, const char *type, struct str body)
{
    struct field fields[] = { { STR("content-type"), str_from(type) } };
    if (request_start(r, status, STR(""), fields, 1) == REQUEST_OK)
        request_write(r, body, false, NULL);
}

static void fixture_echo(struct request *r)
{
    struct buf text = { 0 };
    fx.complete++;
    buf_append_str(&text, r->method);
    buf_append(&text, " ", 1);
    buf_append_str(&text, r->target);
    buf_append(&text, " ", 1);
    buf_append_str(&text, buf_str(&r->body));
    buf_append_str(&fx.heads, buf_str(&text));
    buf_append(&fx.heads, "\n", 1);
    request_consume(r, buf_len(&r->body));
    fixture_answer(r, 200, "text/plain", buf_str(&text));
    buf_done(&text);
}

static void fixture_on_request(struct app *app, struct request *r)
{
    (void)app;
    fx.requests++;
    if (fx.on_request && fx.on_request(r))
        return;
    if (str_eq(r->path, STR("/early"))) {
        fixture_answer(r, 200, "text/plain", STR("early"));
    } else if (str_eq(r->path, STR("/later"))) {
        request_ref(r);
        fx.kept = r;
    } else if (str_eq(r->path, STR("/forget"))) {
        return;
    } else if (r->body_end) {
        fixture_echo(r);
    } else {
        request_ref(r);
        r->app_data = &fx;
        request_want_body(r);
    }
}

static size_t fixture_on_body(struct request *r, struct str data, bool end)
{
    if (r->app_data != &fx)
        return 0;
    if (!end)
        return 0; /* the core keeps it */
    if (buf_len(&r->body) == 0)
        buf_append_str(&r->body, data);
    r->app_data = NULL;
    fixture_echo(r);
    request_unref(r);
    return 0;
}

static void fixture_on_writable(struct request *r)
{
    (void)r;
    fx.writables++;
}

static void fixture_on_disconnect(struct request *r)
{
    fx.disconnects++;
    if (r->app_data == &fx) {
        r->app_data = NULL;
        request_unref(r);
    }
}

static enum app_given_up fixture_on_deadline(struct request *r)
{
    (void)r;
    fx.deadlines++;
    return fx.given_up;
}

static const struct app_ops fixture_ops = { .on_request = fixture_on_request,
                                            .on_body = fixture_on_body,
                                            .on_writable = fixture_on_writable,
                                            .on_disconnect = fixture_on_disconnect,
                                            .on_deadline = fixture_on_deadline };

/* A new connection; the former one is closed. */
static void fixture_connect(void)
{
    int fds[2];
    if (fx.client >= 0)
        close(fx.client);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        abort();
    fx.client = fds[1];
    fx.closed = false;
    fx.requests = fx.complete = fx.disconnects = fx.writables = 0;
    buf_reset(&fx.got, SIZE_MAX);
    buf_reset(&fx.heads, SIZE_MAX);
    http_server_accept(fx.server, fds[0], NULL, 0, NULL);
}

/* Change fx.settings between fixture_init() and fixture_start(). */
static void fixture_init(void)
{
    signal(SIGPIPE, SIG_IGN);
    memset(&fx, 0, sizeof(fx));
    fx.app.ops = &fixture_ops;
    fx.settings = fixture_defaults;
    fx.client = -1;
}

static void fixture_start(void)
{
    fx.loop = loop_new();
    fx.server = http_server_new(fx.loop, &fx.settings, &fx.app);
    fixture_connect();
}

static inline void fixture_open(void)
{
    fixture_init();
    fixture_start();
}

static void fixture_close(void)
{
    if (fx.client >= 0)
        close(fx.client);
    if (fx.kept)
        request_unref(fx.kept);
    http_server_free(fx.server);
    loop_free(fx.loop);
    buf_done(&fx.got);
    buf_done(&fx.heads);
}

static void fixture_receive(void)
{
    char bytes[65536];
    ssize_t n;
    while ((n = read(fx.client, bytes, sizeof(bytes))) > 0)
        buf_append(&fx.got, bytes, (size_t)n);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        fx.closed = true;
}

static void fixture_turn(void)
{
    loop_poll(fx.loop, false);
    loop_settle(fx.loop);
}

/* Turns until nothing moves any more. */
static void fixture_settle(void)
{
    int quiet = 0;
    for (int i = 0; i < 10000 && quiet < 2; i++) {
        size_t before = buf_len(&fx.got);
        bool closed = fx.closed;
        fixture_turn();
        fixture_receive();
        quiet = buf_len(&fx.got) == before && closed == fx.closed && !loop_has_deferred(fx.loop) ? quiet + 1 : 0;
    }
}

/* Sends; what does not fit waits for the server to read. */
static void fixture_send(const char *data, size_t len)
{
    for (int stuck = 0; len > 0 && stuck < 1000;) {
        ssize_t n = send(fx.client, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return; /* the server has closed: what it said is read elsewhere */
        if (n > 0) {
            data += n;
            len -= (size_t)n;
        }
        stuck = n > 0 ? 0 : stuck + 1;
        if (len > 0) {
            fixture_turn();
            fixture_receive();
        }
    }
}

static inline void fixture_say(const char *text)
{
    fixture_send(text, strlen(text));
    fixture_settle();
}

/* What came back, as a C string (without NUL inside). */
static inline const char *fixture_got(void)
{
    *buf_reserve(&fx.got, 1) = 0;
    return fx.got.data ? fx.got.data + fx.got.start : "";
}

static inline int fixture_count(const char *needle)
{
    int n = 0;
    for (const char *p = fixture_got(); (p = strstr(p, needle)) != NULL; p += strlen(needle))
        n++;
    return n;
}

static inline bool fixture_starts(const char *text)
{
    return strncmp(fixture_got(), text, strlen(text)) == 0;
}

/* Turns until `condition` holds; false when it does not within ten seconds. */
static inline bool fixture_until(bool (*condition)(void))
{
    for (uint64_t due = clock_ms() + 10000; clock_ms() < due;) {
        fixture_turn();
        fixture_receive();
        if (condition())
            return true;
        poll(NULL, 0, 1);
    }
    return false;
}

static inline bool fixture_is_closed(void)
{
    return fx.closed;
}
