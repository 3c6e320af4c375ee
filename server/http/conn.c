/* conn: see conn.h. From the bottom up: leaving and closing; what each state does with bytes, with the end of the client's
 * bytes and with its time limit; the table of states; io's events. */
#include "server/http/conn_log.h"
#include "server/http/conn_states.h"

#include <stdlib.h>
#include <string.h>

#include "config/settings.h"
#include "server/app.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/http/endpoint.h"
#include "server/http/response.h"
#include "server/http/websocket_conn.h"
#include "server/net/exchange.h"

#define SILENT_MS 1000         /* a connection on which nothing has come for so long may be needed for others */

static const struct settings *settings_of(const struct conn *c)
{
    return c->server->settings;
}

static bool is_between(const struct conn *c)
{
    return c->state == CONN_IDLE || ((c->state == CONN_HEAD || c->state == CONN_UWSGI) && c->request == NULL) ||
           (c->state == CONN_PROXY && conn_proxy_rests(c));
}

static bool app_has(const struct request *r)
{
    return r && r->core.told_app && r->response != RESPONSE_DONE;
}

/* --- the end ----------------------------------------------------------------------------------------------------------- */

/* The request is over, for this connection. */
static void drop_request(struct conn *c)
{
    struct request *r = c->request;
    if (r == NULL)
        return;
    if (r->response == RESPONSE_DONE && !r->core.overruled)
        deadlines_end(r);
    http_server_finished(c->server, r);
    c->request = NULL;
    r->conn = NULL;
    request_unref(r);
}

static void conn_end(struct conn *c, enum close_reason reason, void (*end_io)(struct io *io))
{
    if (c->state == CONN_CLOSED)
        return;
    conn_log_closed(c, reason);
    c->server->closed[reason]++;
    c->state = CONN_CLOSED;
    end_io(&c->io);
    coarse_timer_done(c->server->loop, &c->timer);
    if (app_has(c->request))
        http_server_tell_gone(c->server, c->request);
    drop_request(c);
    if (c->websocket)
        websocket_gone(c->websocket);
    conn_proxy_over(c);
    if (c->free_cache && c->cache)
        c->free_cache(c->cache);
    c->free_cache = NULL;
    http_server_bury(c->server, c);
}

void conn_close(struct conn *c, enum close_reason reason)
{
    if (io_claim(&c->io)) /* else a sibling has it, of which http_server_gave() comes to tell */
        conn_end(c, reason, io_close);
}

void conn_moved(struct conn *c)
{
    conn_end(c, CLOSE_HANDED_OVER, io_give);
}

void conn_leave(struct conn *c, enum close_reason reason)
{
    c->reason = reason;
    conn_enter(c, CONN_FLUSH);
    io_notify_drained(&c->io);
}

void conn_refuse(struct conn *c, int status, enum close_reason reason)
{
    struct request *r = c->request;
    if (r->response > RESPONSE_HELD) {
        conn_close(c, reason);
        return;
    }
    bool told = app_has(r);
    request_ref(r);
    if (told)
        http_server_tell_gone(c->server, r);
    c->reason = reason;
    r->core.overruled = told;
    response_error(r, status, true);
    if (told)
        r->response = RESPONSE_BODY; /* not the application's: for it the client has left */
    request_unref(r);
}

void conn_cut_off(struct conn *c)
{
    io_abort(&c->io);
    conn_close(c, CLOSE_WRITE_TIMEOUT);
}

static bool has_timed_out(struct conn *c, uint64_t last_ms, int64_t limit_ms)
{
    uint64_t now = loop_now_ms(c->server->loop);
    if (last_ms < c->since_ms)
        last_ms = c->since_ms;
    if (now >= last_ms + (uint64_t)limit_ms)
        return true;
    coarse_timer_arm(c->server->loop, &c->timer, last_ms + (uint64_t)limit_ms - now);
    return false;
}

bool conn_writing_timed_out(struct conn *c)
{
    return c->io.queued_bytes > 0 && settings_of(c)->write_timeout_ms > 0 &&
           has_timed_out(c, c->io.last_write_ms, settings_of(c)->write_timeout_ms);
}

bool conn_reading_timed_out(struct conn *c)
{
    return settings_of(c)->body_timeout_ms > 0 && has_timed_out(c, c->io.last_read_ms, settings_of(c)->body_timeout_ms);
}

/* --- HEAD and IDLE: a head is awaited ------------------------------------------------------------------------------------ */

void conn_begin_request(struct conn *c)
{
    c->request = request_new(c->server->requests, c);
    c->request->began_ns = http_server_times(c->server) ? clock_ns() : loop_now_ns(c->server->loop);
    http1_begin(&c->http1, c->request);
}

static size_t take_head(struct conn *c, char *data, size_t len)
{
    size_t used;
    bool first = c->request == NULL;
    if (first)
        conn_begin_request(c);
    switch (http1_head(&c->http1, data, len, &used)) {
    case HTTP1_MORE:
        if (first)
            conn_enter(c, CONN_HEAD);
        return used;
    case HTTP1_ERROR:
        conn_log_refused(c, c->http1.status, c->http1.reason);
        conn_refuse(c, c->http1.status, CLOSE_REQUEST_REFUSED);
        return len;
    case HTTP1_DONE:
        break;
    }
    conn_head_done(c);
    return used;
}

static void head_eof(struct conn *c)
{
    conn_close(c, c->request ? CLOSE_CLIENT_LEFT : CLOSE_CLIENT_CLOSED);
}

static void head_timeout(struct conn *c)
{
    if (c->server->draining && c->request == NULL)
        conn_close(c, CLOSE_DRAIN);
    else if (c->request == NULL) /* nothing was asked: an answer would be taken for that of a request under way */
        conn_close(c, CLOSE_HEADER_TIMEOUT);
    else {
        http1_abandon(&c->http1);
        conn_refuse(c, 408, CLOSE_HEADER_TIMEOUT);
    }
}

static void idle_eof(struct conn *c)
{
    if (c->io.queued_bytes > 0)
        conn_leave(c, CLOSE_CLIENT_CLOSED);
    else
        conn_close(c, CLOSE_CLIENT_CLOSED);
}

static void idle_timeout(struct conn *c)
{
    if (c->io.queued_bytes == 0)
        conn_close(c, c->server->draining ? CLOSE_DRAIN : CLOSE_KEEPALIVE_TIMEOUT);
    else if (c->server->draining)
        conn_leave(c, CLOSE_DRAIN);
    else if (settings_of(c)->write_timeout_ms == 0)
        coarse_timer_arm(c->server->loop, &c->timer, (uint64_t)settings_of(c)->keepalive_ms);
    else if (conn_writing_timed_out(c))
        conn_cut_off(c);
}

/* --- BODY and SERVING: a body comes, the application works ----------------------------------------------------------------- */

static void note_body(struct request *r, struct str data, bool end)
{
    r->body_received += data.len;
    r->body_end = end;
    if (data.len > 0)
        r->core.expects_continue = false; /* the client did not wait */
}

/* Body bytes go to the application if it has the request and is not waiting in our own call, else into the request. */
static void deliver_body(struct conn *c, struct request *r, struct str data, bool end)
{
    note_body(r, data, end);
    if (!r->core.told_app || c->in_wait) {
        buf_append_str(&r->body, data);
        return;
    }
    const struct app_ops *ops = c->server->app->ops;
    request_ref(r);
    if (buf_len(&r->body) == 0) {
        size_t taken = ops->on_body(r, data, end);
        if (taken < data.len && r->response != RESPONSE_DONE)
            buf_append(&r->body, data.p + taken, data.len - taken);
    } else {
        buf_append_str(&r->body, data);
        buf_consume(&r->body, ops->on_body(r, buf_str(&r->body), end));
    }
    request_unref(r);
}

static size_t take_body(struct conn *c, char *data, size_t len)
{
    struct str body;
    size_t used;
    switch (http1_body(&c->http1, data, len, &used, &body)) {
    case HTTP1_MORE:
        deliver_body(c, c->request, body, false);
        return used;
    case HTTP1_DONE:
        deliver_body(c, c->request, body, true);
        return used;
    case HTTP1_ERROR:
        break;
    }
    conn_log_refused(c, c->http1.status, c->http1.reason);
    conn_refuse(c, c->http1.status, CLOSE_REQUEST_REFUSED);
    return len;
}

/* The application need not wait any longer for the start of the body. */
static bool body_ready(const struct conn *c)
{
    const struct request *r = c->request;
    return r->body_end || r->core.expects_continue || buf_len(&r->body) >= c->server->app->prebuffer_bytes;
}

static void arm_body_timer(struct conn *c)
{
    if (!c->request->body_end && !c->request->core.expects_continue && settings_of(c)->body_timeout_ms > 0)
        coarse_timer_arm(c->server->loop, &c->timer, (uint64_t)settings_of(c)->body_timeout_ms);
}

static void dispatch(struct conn *c)
{
    struct request *r = c->request;
    if (http_server_is_busy(c->server)) {
        conn_log_refused(c, 503, "limit_concurrency");
        conn_refuse(c, 503, CLOSE_REQUEST_REFUSED);
        return;
    }
    conn_enter(c, CONN_SERVING);
    arm_body_timer(c);
    http_server_begun(c->server, r);
    if (c->server->deadlines.timeout_ms > 0)
        deadlines_begin(&c->server->deadlines, r);
    request_ref(r);
    c->server->app->ops->on_request(c->server->app, r);
    if (r->conn && r->refs == 2) { /* nobody has it, and it is not answered */
        r->error = "the application let the request go without a response";
        request_fail(r, 500);
    }
    if (r->refs > 1)
        request_pin(r);
    request_unref(r);
}

void conn_head_done(struct conn *c)
{
    c->turn_requests--;
    conn_log_request(c);
    if (c->request->body_end)
        dispatch(c);
    else
        conn_enter(c, CONN_BODY);
}

static void body_eof(struct conn *c)
{
    conn_refuse(c, 400, CLOSE_CLIENT_LEFT);
}

static void body_timeout(struct conn *c)
{
    if (conn_reading_timed_out(c))
        conn_refuse(c, 408, CLOSE_BODY_TIMEOUT);
}

/* Half-closing after a complete request is legal: the response still goes out. An incomplete one can not become complete. */
static void serving_eof(struct conn *c)
{
    struct request *r = c->request;
    r->core.keep_alive = false;
    if (!r->body_end && r->response <= RESPONSE_HELD && !c->in_wait) {
        conn_refuse(c, 400, CLOSE_CLIENT_LEFT);
        return;
    }
    http_server_tell_gone(c->server, c->request);
}

/* Two limits may run here; each judgement arms the timer again for its own. */
static void serving_timeout(struct conn *c)
{
    struct request *r = c->request;
    bool reading = !r->body_end && !c->io.paused && !r->core.expects_continue && !c->io.eof;
    if (reading && conn_reading_timed_out(c)) {
        conn_refuse(c, 408, CLOSE_BODY_TIMEOUT);
        return;
    }
    uint64_t due_ms = c->timer.due_ms;
    if (conn_writing_timed_out(c)) {
        conn_cut_off(c);
        return;
    }
    if (due_ms > 0 && due_ms < c->timer.due_ms)
        coarse_timer_arm(c->server->loop, &c->timer, due_ms - loop_now_ms(c->server->loop));
}

/* --- WEBSOCKET: it has the connection -------------------------------------------------------------------------------------- */

static size_t take_websocket(struct conn *c, char *data, size_t len)
{
    return websocket_take(c->websocket, data, len);
}

static void eof_websocket(struct conn *c)
{
    websocket_fall(c->websocket);
}

static void timeout_websocket(struct conn *c)
{
    websocket_timeout(c->websocket);
}

/* --- the table ------------------------------------------------------------------------------------------------------------- */

struct state_row {
    const char *name;
    size_t (*take)(struct conn *c, char *data, size_t len); /* bytes have come */
    void (*on_eof)(struct conn *c);                         /* no more will; NULL: it does not matter */
    void (*on_timeout)(struct conn *c);
    size_t limit;                                           /* the setting that times it: offset of an int64_t, ms */
};

#define NO_LIMIT SIZE_MAX
#define LIMIT(name) offsetof(struct settings, name##_ms)

static const struct state_row states[] = {
    [CONN_PROXY] = { "proxy", conn_proxy_take, head_eof, conn_proxy_timeout, LIMIT(header_timeout) },
    [CONN_UWSGI] = { "uwsgi", conn_uwsgi_take, head_eof, head_timeout, LIMIT(header_timeout) },
    [CONN_HEAD] = { "head", take_head, head_eof, head_timeout, LIMIT(header_timeout) },
    [CONN_IDLE] = { "idle", take_head, idle_eof, idle_timeout, LIMIT(keepalive) },
    [CONN_BODY] = { "body", take_body, body_eof, body_timeout, LIMIT(body_timeout) },
    [CONN_SERVING] = { "serving", take_body, serving_eof, serving_timeout, NO_LIMIT },
    [CONN_WEBSOCKET] = { "websocket", take_websocket, eof_websocket, timeout_websocket, NO_LIMIT },
    [CONN_DISCARD] = { "discard", conn_discard_take, conn_leave_eof, conn_discard_timeout, LIMIT(body_timeout) },
    [CONN_FLUSH] = { "flush", conn_nothing_take, NULL, conn_flush_timeout, LIMIT(write_timeout) },
    [CONN_LINGER] = { "linger", conn_nothing_take, conn_leave_eof, conn_linger_timeout, LIMIT(linger_timeout) },
    [CONN_CLOSED] = { "closed", conn_nothing_take, NULL, conn_linger_timeout, NO_LIMIT },
};

static int64_t limit_of(const struct conn *c, const struct state_row *row)
{
    return row->limit == NO_LIMIT ? 0 : *(const int64_t *)((const char *)settings_of(c) + row->limit);
}

static void resume(struct conn *c)
{
    if (c->io.paused) {
        c->since_ms = loop_now_ms(c->server->loop);
        io_resume(&c->io);
    }
}

void conn_enter(struct conn *c, enum conn_state state)
{
    const struct state_row *row = &states[state];
    int64_t limit_ms = limit_of(c, row);
    log_trace("conn %d: %s -> %s", c->io.fd, states[c->state].name, row->name);
    c->state = state;
    c->io.may_rest = is_between(c);
    c->since_ms = loop_now_ms(c->server->loop);
    if (limit_ms > 0)
        coarse_timer_arm(c->server->loop, &c->timer, (uint64_t)limit_ms);
    else
        coarse_timer_disarm(&c->timer);
    if (state != CONN_SERVING)
        resume(c);
    if (conn_will_move(c) && is_between(c))
        http_server_move_soon(c->server);
}

/* May the state's take() have more bytes now? */
static bool may_take(const struct conn *c)
{
    switch (c->state) {
    case CONN_UWSGI:
    case CONN_HEAD:
    case CONN_IDLE:
        return c->turn_requests > 0 && (c->request || !conn_will_move(c));
    case CONN_BODY:
        return !c->request->body_end && (buf_len(&c->request->body) <= REQUEST_BODY_HIGH_WATER || !body_ready(c));
    case CONN_SERVING:
        return !c->request->body_end && buf_len(&c->request->body) <= REQUEST_BODY_HIGH_WATER;
    case CONN_WEBSOCKET:
        return !c->websocket->paused;
    case CONN_CLOSED:
        return false;
    default:
        return true;
    }
}

void conn_await_head(struct conn *c)
{
    conn_enter(c, c->speaks_uwsgi ? CONN_UWSGI : CONN_HEAD);
}

size_t conn_take(struct conn *c, char *data, size_t len)
{
    return states[c->state].take(c, data, len);
}

/* --- for the response ---------------------------------------------------------------------------------------------------------- */

void conn_response_done(struct conn *c)
{
    struct request *r = c->request;
    bool drained = c->server->draining && !conn_will_move(c);
    bool leaves = r->core.close_said || !r->core.keep_alive || drained || c->io.eof;
    bool body_end = r->body_end;
    conn_log_answered(c, !leaves);
    drop_request(c);
    if (leaves) {
        conn_leave(c, drained && c->reason == CLOSE_RESPONSE_CLOSE ? CLOSE_DRAIN : c->reason);
    } else if (body_end) {
        conn_enter(c, CONN_IDLE);
    } else {
        c->discarded = 0;
        conn_enter(c, CONN_DISCARD);
    }
}

void conn_upgrade(struct conn *c, struct websocket *websocket)
{
    c->request->status = 101;
    c->request->response = RESPONSE_DONE;
    conn_log_upgraded(c);
    drop_request(c);
    c->websocket = websocket;
    conn_enter(c, CONN_WEBSOCKET);
}

static bool is_framed(const struct request *r)
{
    return r->core.response_chunked || r->core.response_length >= 0;
}

void conn_response_broken(struct conn *c)
{
    c->reset_after = !is_framed(c->request); /* else the missing rest says it, and what was sent may arrive */
    drop_request(c);
    conn_leave(c, CLOSE_RESPONSE_TRUNCATED);
}

void conn_expire(struct conn *c)
{
    if (c->request->response <= RESPONSE_HELD) {
        conn_refuse(c, 504, CLOSE_REQUEST_TIMEOUT);
        io_flush(&c->io); /* an application that is inside a call may not come back soon */
        return;
    }
    if (!is_framed(c->request))
        io_abort(&c->io);
    conn_close(c, CLOSE_REQUEST_TIMEOUT);
}

void conn_response_full(struct conn *c)
{
    int64_t limit_ms = settings_of(c)->write_timeout_ms;
    uint64_t now = loop_now_ms(c->server->loop);
    if (limit_ms > 0 && (c->timer.due_ms == 0 || c->timer.due_ms > now + (uint64_t)limit_ms + 1))
        coarse_timer_arm(c->server->loop, &c->timer, (uint64_t)limit_ms);
}

void conn_body_wanted(struct conn *c)
{
    if (c->request->body_end || buf_len(&c->request->body) > REQUEST_BODY_LOW_WATER)
        return;
    resume(c);
    if (c->timer.due_ms == 0) {
        c->since_ms = loop_now_ms(c->server->loop);
        arm_body_timer(c);
    }
}

uint64_t conn_body_left(const struct conn *c)
{
    const struct request *r = c->request;
    if (r->body_end)
        return 0;
    return r->is_chunked ? CONN_DISCARD_BYTES + 1 : (uint64_t)r->content_length - r->body_received;
}

/* --- io's events ------------------------------------------------------------------------------------------------------------------ */

static struct conn *conn_of(struct io *io)
{
    return LIST_ENTRY(io, struct conn, io);
}

static size_t on_data(struct io *io, const char *data, size_t len)
{
    struct conn *c = conn_of(io);
    size_t done = 0;
    c->turn_requests = CONN_PIPELINE_PER_TURN;
    for (;;) {
        if (done < len && may_take(c))
            done += states[c->state].take(c, (char *)data + done, len - done); /* io's buffers are writable */
        else if (c->state == CONN_BODY && body_ready(c))
            dispatch(c);
        else
            break;
    }
    if (c->state == CONN_BODY)
        request_pin(c->request); /* its head must outlive `data` */
    if (done < len && c->turn_requests > 0 && c->state != CONN_CLOSED)
        io_pause(io);            /* else it comes again at the end of the turn */
    if (done < len && is_between(c) && conn_will_move(c))
        coarse_timer_disarm(&c->timer); /* it is not idle, it goes on elsewhere */
    return done;
}

static void on_eof(struct io *io)
{
    struct conn *c = conn_of(io);
    if (states[c->state].on_eof)
        states[c->state].on_eof(c);
}

static void on_writable(struct io *io)
{
    struct conn *c = conn_of(io);
    struct request *r = c->request;
    if (c->websocket)
        websocket_writable(c->websocket);
    if (!app_has(r) || !r->core.writable_owed || c->in_wait)
        return;
    r->core.writable_owed = false;
    c->server->app->ops->on_writable(r);
}

static void on_drained(struct io *io)
{
    struct conn *c = conn_of(io);
    if (c->state == CONN_FLUSH)
        conn_flush_drained(c);
    else if (conn_will_move(c))
        http_server_move_soon(c->server);
}

static void on_error(struct io *io, int error)
{
    (void)error;
    struct conn *c = conn_of(io);
    if (c->websocket)
        websocket_fall(c->websocket);
    else
        conn_close(c, c->state == CONN_LINGER || c->state == CONN_IDLE ? CLOSE_CLIENT_CLOSED : CLOSE_CONNECTION_RESET);
}

static const struct io_events events = { on_data, on_eof, on_writable, on_drained, on_error };

static void on_timer(struct coarse_timer *timer)
{
    struct conn *c = LIST_ENTRY(timer, struct conn, timer);
    if (!io_claim(&c->io))
        return;
    states[c->state].on_timeout(c);
    io_rest(&c->io);
}

/* --- life -------------------------------------------------------------------------------------------------------------------------- */

_Static_assert(sizeof(struct conn) <= 768, "an idle connection is this struct; the next size class is 896 bytes");

struct conn *conn_new(struct http_server *server, struct conn *memory, int fd, const struct sockaddr *peer,
                      socklen_t peer_len, const struct endpoint *local)
{
    struct conn *c = memory ? memory : mem_alloc(sizeof(*c));
    memset(c, 0, sizeof(*c));
    c->server = server;
    c->local = local;
    c->http1.settings = server->settings;
    c->reason = CLOSE_RESPONSE_CLOSE;
    list_init(&c->node);
    c->peer_address.sin6_family = AF_UNIX;
    if (peer && (peer->sa_family == AF_INET || peer->sa_family == AF_INET6))
        memcpy(&c->peer_address, peer, peer_len < sizeof(c->peer_address) ? peer_len : sizeof(c->peer_address));
    coarse_timer_init(&c->timer, on_timer);
    io_init(&c->io, server->loop, fd, &events);
    c->io.copies_files = !server->settings->sendfile;
    conn_enter(c, CONN_HEAD);
    return c;
}

bool conn_yield(struct conn *c)
{
    bool rests = is_between(c) && c->state != CONN_PROXY;
    if (!rests || loop_now_ms(c->server->loop) < c->since_ms + SILENT_MS)
        return false;
    coarse_timer_arm(c->server->loop, &c->timer, 0);
    return true;
}

void conn_drain(struct conn *c)
{
    if (c->state == CONN_LINGER)
        conn_linger_briefly(c);
    if (conn_will_move(c))
        http_server_move_soon(c->server);
    else if (is_between(c) || c->state == CONN_PROXY) /* what has arrived already is seen before the timer fires */
        coarse_timer_arm(c->server->loop, &c->timer, 0);
    if (c->websocket)
        websocket_drain(c->websocket);
}

/* --- to and from other workers: see hand_over.c ----------------------------------------------------------------------------------- */

bool conn_will_move(const struct conn *c)
{
    return c->server->hands_over && !c->stays;
}

bool conn_can_move(const struct conn *c)
{
    return is_between(c) && c->io.queued_bytes == 0 && !c->io.eof && !c->io.broken;
}

void conn_stay(struct conn *c)
{
    c->stays = true;
    if (!io_claim(&c->io) || !is_between(c))
        return;
    resume(c);
    conn_drain(c);
    io_rest(&c->io);
}

void conn_unpack(struct conn *c, const struct parcel *parcel)
{
    uint64_t now = loop_now_ms(c->server->loop), idle_ms = now > parcel->since_ms ? now - parcel->since_ms : 0;
    c->speaks_uwsgi = parcel->speaks_uwsgi;
    if (parcel->awaits_proxy)
        conn_expect_proxy(c);
    else if (!parcel->fresh)
        conn_enter(c, CONN_IDLE);
    else if (c->speaks_uwsgi)
        conn_await_head(c);
    if (parcel->proxied.sin6_family != AF_UNSPEC)
        conn_proxied(c, &parcel->proxied);
    c->since_ms = now - idle_ms;
    if (c->timer.due_ms > 0)
        coarse_timer_arm(c->server->loop, &c->timer, c->timer.due_ms > now + idle_ms ? c->timer.due_ms - now - idle_ms : 0);
    io_unread(&c->io, parcel->unread.p, parcel->unread.len);
}

const struct endpoint *conn_peer(struct conn *c)
{
    if (!c->peer_known)
        c->peer = endpoint_format((const struct sockaddr *)&c->peer_address, c->peer_text, sizeof(c->peer_text));
    c->peer_known = true;
    return &c->peer;
}
