/* websocket: see websocket.h. From the bottom up: writing frames; how it ends; what comes; what the connection tells; what the
 * application asks. */
#include "server/http/websocket.h"

#include <stdlib.h>
#include <string.h>

#include "config/settings.h"
#include "server/base/log.h"
#include "server/http/conn.h"
#include "server/http/websocket_conn.h"
#include "server/http/ws_deflate.h"

static const struct settings *settings_of(const struct websocket *ws)
{
    return ws->conn->server->settings;
}

static struct loop *loop_under(const struct websocket *ws)
{
    return ws->conn->server->loop;
}

static void websocket_unref(struct websocket *ws)
{
    if (--ws->refs > 0)
        return;
    buf_done(&ws->message);
    buf_done(&ws->control);
    ws_deflate_free(ws->deflate);
    free(ws);
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

static void write_copied(struct websocket *ws, enum ws_opcode opcode, bool compressed, struct str payload)
{
    struct io *io = &ws->conn->io;
    struct buf *out = io_out(io);
    char *to = buf_reserve(out, WS_OUT_HEAD_MAX + payload.len);
    size_t n = ws_frame_put_head(to, opcode, compressed, payload.len);
    if (payload.len > 0)
        memcpy(to + n, payload.p, payload.len);
    buf_commit(out, n + payload.len);
    io_written(io, n + payload.len);
}

static void write_from(struct websocket *ws, enum ws_opcode opcode, struct str payload, const struct body_ref *ref)
{
    char head[WS_OUT_HEAD_MAX];
    io_write(&ws->conn->io, head, ws_frame_put_head(head, opcode, false, payload.len));
    io_write_ref(&ws->conn->io, payload.p, payload.len, (struct io_ref){ ref->release, ref->arg });
}

static void write_close(struct websocket *ws, int code, struct str reason)
{
    char payload[WS_CONTROL_MAX] = { (char)(code >> 8), (char)code };
    reason = ws_reason_fit(reason);
    if (reason.len > 0)
        memcpy(payload + 2, reason.p, reason.len);
    write_copied(ws, WS_CLOSE, false, (struct str){ payload, code == WS_CODE_NONE ? 0 : 2 + reason.len });
}

/* --- time ------------------------------------------------------------------------------------------------------- */

static uint64_t now_ms(const struct websocket *ws)
{
    return loop_now_ms(loop_under(ws));
}

static void earlier(uint64_t *due_ms, uint64_t since_ms, int64_t limit_ms)
{
    if (limit_ms > 0 && since_ms + (uint64_t)limit_ms < *due_ms)
        *due_ms = since_ms + (uint64_t)limit_ms;
}

static uint64_t latest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Since when the connection rests, if messages have made it hold memory. */
static uint64_t rests_since(const struct websocket *ws)
{
    return latest(ws->conn->io.last_read_ms, ws->conn->io.last_write_ms);
}

static bool is_warm(const struct websocket *ws)
{
    return ws->deflate && ws_deflate_is_warm(ws->deflate);
}

/* When something must be looked at next; UINT64_MAX: never. */
static uint64_t next_due(const struct websocket *ws)
{
    const struct settings *settings = settings_of(ws);
    const struct io *io = &ws->conn->io;
    uint64_t due_ms = UINT64_MAX;
    if (io->queued_bytes > 0)
        earlier(&due_ms, io->last_write_ms, settings->write_timeout_ms);
    if (is_warm(ws))
        earlier(&due_ms, rests_since(ws), WS_DEFLATE_REST_MS);
    if (ws->state != WEBSOCKET_OPEN)
        earlier(&due_ms, ws->since_ms, settings->ws_close_timeout_ms);
    else if (ws->ping_ms > 0 && !ws->paused)
        earlier(&due_ms, ws->ping_ms, settings->ws_ping_timeout_ms);
    else
        earlier(&due_ms, latest(io->last_read_ms, ws->ping_ms), settings->ws_ping_interval_ms);
    return due_ms;
}

static void arm(struct websocket *ws)
{
    uint64_t due_ms = next_due(ws), now = now_ms(ws);
    if (due_ms == UINT64_MAX)
        coarse_timer_disarm(&ws->conn->timer);
    else
        coarse_timer_arm(loop_under(ws), &ws->conn->timer, due_ms > now ? due_ms - now : 0);
}

/* Messages have made it hold memory: it is given back at rest. */
static void arm_rest(struct websocket *ws)
{
    uint64_t due_ms = now_ms(ws) + WS_DEFLATE_REST_MS;
    struct coarse_timer *timer = &ws->conn->timer;
    if (is_warm(ws) && (timer->due_ms == 0 || timer->due_ms > due_ms))
        coarse_timer_arm(loop_under(ws), timer, WS_DEFLATE_REST_MS);
}

static void enter(struct websocket *ws, enum websocket_state state)
{
    ws->state = state;
    ws->since_ms = now_ms(ws);
    arm(ws);
}

/* --- the end ---------------------------------------------------------------------------------------------------- */

/* True: the application wants to see earlier messages first. */
static bool tell_closed(struct websocket *ws, int code, struct str reason)
{
    return ws->app_data && ws->ops->on_close(ws, code, reason);
}

static struct conn *detach(struct websocket *ws)
{
    struct conn *c = ws->conn;
    ws->state = WEBSOCKET_OVER;
    ws->conn = NULL;
    c->websocket = NULL;
    tally_add(&c->server->tally->websockets, -1u);
    list_remove(&ws->node);
    buf_done(&ws->message);
    buf_done(&ws->control);
    if (ws->writable_owed && ws->app_data)
        ws->ops->on_writable(ws);
    websocket_unref(ws);
    return c;
}

/* What is queued still goes out, if it can, then the connection is closed. */
static void leave(struct websocket *ws, enum close_reason reason)
{
    bool broken = ws->conn->io.broken;
    struct conn *c = detach(ws);
    if (broken)
        conn_close(c, reason);
    else
        conn_leave(c, reason);
}

/* The last frame, and the end. */
static void answer(struct websocket *ws)
{
    write_close(ws, ws->close_code, str_from(ws->violation));
    leave(ws, ws->violation ? CLOSE_WEBSOCKET_FAILED : CLOSE_WEBSOCKET_CLOSED);
}

/* Nothing that the peer sends counts any more. What came before does: the application may see it first. */
static void close_after_messages(struct websocket *ws, int code, struct str reason)
{
    ws->close_code = (uint16_t)code;
    enter(ws, WEBSOCKET_CLOSED);
    if (!tell_closed(ws, code, reason) && ws->conn)
        answer(ws);
}

/* The peer has broken the protocol, or a limit. */
static void fail(struct websocket *ws, struct ws_error error)
{
    log_debug("WebSocket closed with %d: %s", error.code, error.text);
    if (ws->state != WEBSOCKET_OPEN) {
        leave(ws, CLOSE_WEBSOCKET_FAILED);
        return;
    }
    ws->violation = error.text;
    close_after_messages(ws, error.code, str_from(error.text));
}

/* --- control frames --------------------------------------------------------------------------------------------- */

static void on_close_frame(struct websocket *ws, struct str payload)
{
    int code;
    struct str reason;
    struct ws_error error = ws_close_read(payload, &code, &reason);
    if (error.code != 0)
        fail(ws, error);
    else if (ws->state == WEBSOCKET_CLOSING)
        leave(ws, CLOSE_WEBSOCKET_CLOSED);
    else
        close_after_messages(ws, code, reason);
}

/* A client that pings but does not read is not answered for ever. */
static void on_ping(struct websocket *ws, struct str payload)
{
    if (ws->state == WEBSOCKET_OPEN && !io_is_full(&ws->conn->io))
        write_copied(ws, WS_PONG, false, payload);
}

static void on_control(struct websocket *ws, struct str payload)
{
    if (ws->reader.opcode == WS_CLOSE)
        on_close_frame(ws, payload);
    else if (ws->reader.opcode == WS_PING)
        on_ping(ws, payload);
}

static void take_control(struct websocket *ws, struct str part)
{
    if (!ws->reader.in_payload && buf_len(&ws->control) == 0) {
        on_control(ws, part);
        return;
    }
    buf_append_str(&ws->control, part);
    if (ws->reader.in_payload)
        return;
    struct buf whole = ws->control;
    ws->control = (struct buf){ 0 };
    on_control(ws, buf_str(&whole));
    buf_done(&whole);
}

/* --- messages --------------------------------------------------------------------------------------------------- */

static const struct ws_error not_utf8 = { WS_CODE_INVALID_DATA, "a text was not UTF-8" };

static void keep(struct websocket *ws, struct str part)
{
    if (ws->message.cap == 0)
        ws->message = loop_take_buffer(loop_under(ws));
    buf_append_str(&ws->message, part);
}

/* `data` is the message, or the rest of it when something is kept. */
static void deliver(struct websocket *ws, struct str data)
{
    enum websocket_message kind =
        ws->reader.message != WS_TEXT ? WEBSOCKET_BINARY : ws->utf8.wide ? WEBSOCKET_TEXT : WEBSOCKET_ASCII;
    struct loop *loop = loop_under(ws);
    struct buf kept = { 0 };
    if (ws->message.cap > 0) {
        keep(ws, data);
        kept = ws->message;
        ws->message = (struct buf){ 0 };
        data = buf_str(&kept);
    }
    ws_reader_message_done(&ws->reader);
    ws->utf8 = (struct ws_utf8){ 0 };
    ws->conn->server->turnover++;
    if (ws->app_data)
        ws->ops->on_message(ws, data, kind);
    loop_give_buffer(loop, &kept);
}

/* Plain bytes of the message, `end`: the last of them. */
static void take_plain(struct websocket *ws, struct str part, bool end)
{
    bool is_text = ws->reader.message == WS_TEXT;
    if (is_text && (!ws_utf8_add(&ws->utf8, part.p, part.len) || (end && !ws_utf8_complete(&ws->utf8))))
        fail(ws, not_utf8);
    else if (end)
        deliver(ws, part);
    else if (part.len > 0)
        keep(ws, part);
}

static void take_compressed(struct websocket *ws, struct str part, bool end)
{
    struct buf plain = loop_take_buffer(loop_under(ws));
    struct loop *loop = loop_under(ws);
    struct ws_error error = ws_inflate(ws->deflate, part, end, &plain);
    arm_rest(ws);
    if (error.code != 0)
        fail(ws, error);
    else
        take_plain(ws, buf_str(&plain), end);
    loop_give_buffer(loop, &plain);
}

static void take_data(struct websocket *ws, struct str part)
{
    bool end = ws->reader.fin && !ws->reader.in_payload;
    if (ws->state != WEBSOCKET_OPEN) {
        if (end)
            ws_reader_message_done(&ws->reader);
    } else if (ws->reader.compressed) {
        take_compressed(ws, part, end);
    } else {
        take_plain(ws, part, end);
    }
}

static void take_payload(struct websocket *ws, struct str part)
{
    if (ws_is_control(ws->reader.opcode))
        take_control(ws, part);
    else
        take_data(ws, part);
}

/* --- what the connection tells ---------------------------------------------------------------------------------- */

/* One head, or one piece of payload. Returns how many bytes it was. */
static size_t take_piece(struct websocket *ws, char *data, size_t len)
{
    struct ws_error error;
    size_t used;
    if (ws->reader.in_payload) {
        used = ws_reader_payload(&ws->reader, data, len);
        take_payload(ws, (struct str){ data, used });
        return used;
    }
    uint64_t max_size = (uint64_t)settings_of(ws)->ws_max_size;
    switch (ws_reader_head(&ws->reader, max_size, ws->deflate != NULL, data, len, &used, &error)) {
    case WS_READ_HEAD:
        if (!ws->reader.in_payload)
            take_payload(ws, STR(""));
        break;
    case WS_READ_ERROR:
        fail(ws, error);
        break;
    case WS_READ_MORE:
        break;
    }
    return used;
}

size_t websocket_take(struct websocket *ws, char *data, size_t len)
{
    size_t done = 0;
    ws->refs++;
    ws->ping_ms = 0;
    while (done < len && ws->conn && !ws->paused && ws->state != WEBSOCKET_CLOSED)
        done += take_piece(ws, data + done, len - done);
    if (ws->state >= WEBSOCKET_CLOSED)
        done = len; /* nothing counts behind a close frame */
    websocket_unref(ws);
    return done;
}

static void end_fallen(struct websocket *ws)
{
    enum close_reason reason = ws->state == WEBSOCKET_OPEN ? CLOSE_CLIENT_LEFT : CLOSE_WEBSOCKET_CLOSED;
    if (ws->state == WEBSOCKET_OPEN)
        tell_closed(ws, WS_CODE_ABNORMAL, STR(""));
    leave(ws, ws->conn->io.broken ? CLOSE_CONNECTION_RESET : reason);
}

static void end_next(struct loop_task *task)
{
    struct http_server *server = LIST_ENTRY(task, struct http_server, fallen_task);
    struct list *node = list_pop(&server->fallen);
    if (node == NULL) /* they came to their end in other ways */
        return;
    loop_defer_bulk(server->loop, task);
    end_fallen(LIST_ENTRY(node, struct websocket, node));
}

void websocket_fallen_init(struct http_server *server)
{
    list_init(&server->fallen);
    loop_task_init(&server->fallen_task, end_next);
}

void websocket_fall(struct websocket *ws)
{
    struct http_server *server = ws->conn->server;
    list_remove(&ws->node); /* the bytes may have ended before it broke */
    list_append(&server->fallen, &ws->node);
    loop_defer_bulk(server->loop, &server->fallen_task);
}

void websocket_writable(struct websocket *ws)
{
    if (!ws->writable_owed)
        return;
    ws->writable_owed = false;
    if (ws->app_data)
        ws->ops->on_writable(ws);
}

void websocket_gone(struct websocket *ws)
{
    if (ws->state == WEBSOCKET_OPEN)
        tell_closed(ws, WS_CODE_ABNORMAL, STR(""));
    detach(ws);
}

void websocket_drain(struct websocket *ws)
{
    if (ws->state != WEBSOCKET_OPEN)
        return;
    write_close(ws, WS_CODE_RESTART, STR("the server is restarting"));
    enter(ws, WEBSOCKET_CLOSING);
    tell_closed(ws, WS_CODE_RESTART, STR("the server is restarting"));
}

static bool is_over(uint64_t now, uint64_t since_ms, int64_t limit_ms)
{
    return limit_ms > 0 && now >= since_ms + (uint64_t)limit_ms;
}

static void close_timeout(struct websocket *ws)
{
    if (ws->state == WEBSOCKET_CLOSED)
        answer(ws);
    else
        leave(ws, CLOSE_WEBSOCKET_TIMEOUT);
}

static void ping_timeout(struct websocket *ws)
{
    write_close(ws, WS_CODE_INTERNAL_ERROR, STR("no answer to a ping"));
    tell_closed(ws, WS_CODE_ABNORMAL, STR("no answer to a ping"));
    leave(ws, CLOSE_WEBSOCKET_SILENT);
}

static void ping(struct websocket *ws, uint64_t now)
{
    write_copied(ws, WS_PING, false, STR(""));
    if (settings_of(ws)->ws_ping_timeout_ms > 0)
        ws->ping_ms = now;
    else
        ws->conn->io.last_read_ms = now; /* not answerable: the next one in its time */
    arm(ws);
}

/* While the application takes nothing, no answer can be read, nor the end. But a client that has gone refuses a ping, and that
 * can be seen. */
static void look_while_paused(struct websocket *ws, uint64_t now)
{
    if (io_is_gone(&ws->conn->io)) {
        conn_close(ws->conn, CLOSE_CLIENT_LEFT);
        return;
    }
    ping(ws, now);
}

void websocket_timeout(struct websocket *ws)
{
    const struct settings *settings = settings_of(ws);
    const struct io *io = &ws->conn->io;
    uint64_t now = now_ms(ws);
    if (is_warm(ws) && is_over(now, rests_since(ws), WS_DEFLATE_REST_MS)) {
        ws_deflate_rest(ws->deflate);
        ws->conn->server->turnover++;
    }
    if (io->queued_bytes > 0 && is_over(now, io->last_write_ms, settings->write_timeout_ms)) {
        io_abort(&ws->conn->io); /* who does not read would not see the end either */
        conn_close(ws->conn, CLOSE_WRITE_TIMEOUT);
    } else if (ws->state != WEBSOCKET_OPEN) {
        if (is_over(now, ws->since_ms, settings->ws_close_timeout_ms))
            close_timeout(ws);
        else
            arm(ws);
    } else if (ws->paused) {
        if (is_over(now, latest(io->last_read_ms, ws->ping_ms), settings->ws_ping_interval_ms))
            look_while_paused(ws, now);
        else
            arm(ws);
    } else if (ws->ping_ms > 0 && is_over(now, ws->ping_ms, settings->ws_ping_timeout_ms)) {
        ping_timeout(ws);
    } else if (ws->ping_ms == 0 && is_over(now, io->last_read_ms, settings->ws_ping_interval_ms)) {
        ping(ws, now);
    } else {
        arm(ws);
    }
}

void websocket_begin(struct websocket *ws, struct conn *c)
{
    ws->conn = c;
    tally_add(&c->server->tally->websockets, 1);
    arm(ws);
    if (c->server->draining)
        websocket_drain(ws);
}

/* --- what the application asks ---------------------------------------------------------------------------------- */

static bool can_send(const struct websocket *ws)
{
    return ws->conn && !ws->conn->io.broken && (ws->state == WEBSOCKET_OPEN || ws->state == WEBSOCKET_CLOSED);
}

static void release(const struct body_ref *ref)
{
    if (ref)
        ref->release(ref->arg);
}

/* False: it goes out as it is. */
static bool send_compressed(struct websocket *ws, enum ws_opcode opcode, struct str data)
{
    if (ws->deflate == NULL)
        return false;
    struct loop *loop = loop_under(ws);
    struct buf packed = loop_take_buffer(loop);
    bool done = ws_deflate(ws->deflate, data, &packed);
    arm_rest(ws);
    if (done)
        write_copied(ws, opcode, true, buf_str(&packed));
    loop_give_buffer(loop, &packed);
    return done;
}

enum websocket_result websocket_send(struct websocket *ws, struct str data, bool is_text, const struct body_ref *ref)
{
    enum ws_opcode opcode = is_text ? WS_TEXT : WS_BINARY;
    if (!can_send(ws)) {
        release(ref);
        return WEBSOCKET_GONE;
    }
    bool by_ref = ref && data.len >= IO_REF_BYTES && ws->deflate == NULL;
    if (by_ref)
        write_from(ws, opcode, data, ref);
    else if (!send_compressed(ws, opcode, data))
        write_copied(ws, opcode, false, data);
    if (!by_ref)
        release(ref);
    if (!io_is_full(&ws->conn->io))
        return WEBSOCKET_OK;
    ws->writable_owed = true;
    conn_response_full(ws->conn);
    return WEBSOCKET_FULL;
}

void websocket_pause(struct websocket *ws)
{
    if (ws->conn == NULL || ws->paused)
        return;
    ws->paused = true;
    io_pause(&ws->conn->io);
}

void websocket_resume(struct websocket *ws)
{
    if (ws->conn == NULL || !ws->paused)
        return;
    ws->paused = false;
    if (ws->ping_ms > 0) { /* the answer could not be read */
        ws->ping_ms = now_ms(ws);
        arm(ws);
    }
    io_resume(&ws->conn->io);
}

void websocket_close(struct websocket *ws, int code, struct str reason)
{
    if (ws->conn == NULL || ws->state == WEBSOCKET_CLOSING)
        return;
    write_close(ws, code, reason);
    if (ws->state == WEBSOCKET_CLOSED) {
        leave(ws, CLOSE_WEBSOCKET_CLOSED);
        return;
    }
    enter(ws, WEBSOCKET_CLOSING);
    websocket_resume(ws); /* what comes is dropped, up to the peer's close frame */
}

void websocket_answer(struct websocket *ws)
{
    if (ws->conn && ws->state == WEBSOCKET_CLOSED)
        answer(ws);
}

void websocket_release(struct websocket *ws)
{
    ws->app_data = NULL;
    websocket_answer(ws);
    websocket_resume(ws);
    websocket_unref(ws);
}
