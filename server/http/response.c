/* response: the answering half of request.h: checks what the application gives, decides the framing, and formats.
 *
 * request_start() checks and formats status line and fields into request->core.response_head. With the first body bytes (or
 * the end) put_head() adds what depends on them and on the connection, and head and body go into io's queue together.
 * Nothing here sends: io does, once, at the end of the callback or of the turn. */
#include "server/http/response.h"

#include <stdio.h>
#include <stdlib.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/http/conn.h"
#include "server/http/headers.h"

#define STATUS_CODES 600
#define HEAD_EXTRA_BYTES 256 /* what put_head() adds at most: framing, Date, Server, Connection */
#define CHUNK_LINE_BYTES 18  /* sixteen hexadecimal digits, CR LF */

static const struct str status_lines[STATUS_CODES] = {
#define STATUS(code, reason)                                                                                           \
    [code] = { "HTTP/1.1 " #code " " reason "\r\n", sizeof("HTTP/1.1 " #code " " reason "\r\n") - 1 },
#include "server/http/http_status.def"
#undef STATUS
};

struct str response_reason(int status)
{
    struct str line = status >= 0 && status < STATUS_CODES ? status_lines[status] : (struct str){ NULL, 0 };
    return line.len ? (struct str){ line.p + 13, line.len - 15 } : STR("");
}

/* --- refusing what the application gives --------------------------------------------------------------------------- */

/* `subject` is quoted with everything but plain text escaped. */
static enum request_result invalid(struct request *r, const char *what, struct str subject)
{
    size_t size = strlen(what) + 64 * 4 + 8, n = 0;
    char *text = arena_alloc(&r->arena, size);
    n += (size_t)snprintf(text, size, "%s: \"", what);
    for (size_t i = 0; i < subject.len && i < 64; i++) {
        uint8_t c = (uint8_t)subject.p[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\')
            text[n++] = (char)c;
        else
            n += (size_t)snprintf(text + n, size - n, "\\x%02x", c);
    }
    text[n++] = '"';
    text[n] = 0;
    r->error = text;
    return REQUEST_INVALID;
}

static enum request_result refuse(struct request *r, const char *error)
{
    r->error = error;
    return REQUEST_INVALID;
}

/* --- the head ---------------------------------------------------------------------------------------------------------- */

static char *put(char *to, const char *data, size_t len)
{
    memcpy(to, data, len);
    return to + len;
}

#define PUT(to, literal) put((to), (literal), sizeof(literal) - 1)

static enum request_result start_line(struct request *r, int status, struct str reason)
{
    struct buf *head = &r->core.response_head;
    struct str line = status < STATUS_CODES ? status_lines[status] : (struct str){ NULL, 0 };
    if (reason.len == 0 && line.len > 0) {
        buf_append_str(head, line);
        return REQUEST_OK;
    }
    if (!headers_value_valid(reason))
        return invalid(r, "the reason phrase has a byte that is not allowed", reason);
    char *p = buf_reserve(head, 15 + reason.len), *to = PUT(p, "HTTP/1.1 ");
    to += headers_put_number(to, (uint64_t)status);
    *to++ = ' ';
    to = put(to, reason.p, reason.len);
    to = PUT(to, "\r\n");
    buf_commit(head, (size_t)(to - p));
    return REQUEST_OK;
}

enum field_fate { FIELD_COPY, FIELD_DROP, FIELD_BAD };

static enum field_fate take_content_length(struct request *r, struct str value)
{
    int64_t length = headers_number(headers_trim(value));
    if (length < 0) {
        invalid(r, "Content-Length is not a number", value);
        return FIELD_BAD;
    }
    if (r->core.response_length >= 0) {
        refuse(r, "Content-Length is given more than once");
        return FIELD_BAD;
    }
    r->core.response_length = length;
    return FIELD_DROP; /* put_head() writes it */
}

/* Fields that the framing depends on are the server's. */
static enum field_fate note_field(struct request *r, struct str name, struct str value)
{
    switch (name.len) {
    case 4:
        r->core.has_date |= str_ieq(name, STR("date"));
        return FIELD_COPY;
    case 6:
        r->core.has_server |= str_ieq(name, STR("server"));
        return FIELD_COPY;
    case 10:
        if (!str_ieq(name, STR("connection")))
            return FIELD_COPY;
        r->core.app_closes |= headers_list_has(value, STR("close"));
        return FIELD_DROP;
    case 14:
        return str_ieq(name, STR("content-length")) ? take_content_length(r, value) : FIELD_COPY;
    case 17:
        return str_ieq(name, STR("transfer-encoding")) ? FIELD_DROP : FIELD_COPY;
    }
    return FIELD_COPY;
}

static enum request_result start_field(struct request *r, const struct field *field)
{
    struct str name = field->name, value = field->value;
    if (name.len == 0 || !str_is(name, CHAR_TOKEN))
        return invalid(r, "a header name has a byte that is not allowed, or is empty", name);
    if (!headers_value_valid(value))
        return invalid(r, "a header value has a byte that is not allowed", value);
    enum field_fate fate = note_field(r, name, value);
    if (fate != FIELD_COPY)
        return fate == FIELD_BAD ? REQUEST_INVALID : REQUEST_OK;
    struct buf *head = &r->core.response_head;
    char *to = buf_reserve(head, name.len + value.len + 4);
    to = put(to, name.p, name.len);
    to = PUT(to, ": ");
    to = put(to, value.p, value.len);
    PUT(to, "\r\n");
    buf_commit(head, name.len + value.len + 4);
    return REQUEST_OK;
}

void request_recall(struct request *r)
{
    struct request_core *core = &r->core;
    if (r->response != RESPONSE_HELD)
        return;
    buf_reset(&core->response_head, SIZE_MAX);
    core->app_closes = core->has_date = core->has_server = false;
    core->response_length = -1;
    r->response = RESPONSE_NONE;
    r->status = 0;
}

enum request_result request_start(struct request *r, int status, struct str reason, const struct field *fields,
                                  size_t count)
{
    if (r->core.overruled && r->conn == NULL)
        return REQUEST_GONE;
    if (r->response != RESPONSE_NONE)
        return refuse(r, "the response was started already");
    if (r->conn == NULL)
        return REQUEST_GONE;
    if (status < 200 || status > 999)
        return refuse(r, "the status is not between 200 and 999");
    r->response = RESPONSE_HELD;
    enum request_result result = start_line(r, status, reason);
    for (size_t i = 0; i < count && result == REQUEST_OK; i++)
        result = start_field(r, &fields[i]);
    if (result != REQUEST_OK) {
        request_recall(r);
        return result;
    }
    r->status = status;
    r->core.response_no_body = r->is_head || status == 204 || status == 304;
    return REQUEST_OK;
}

/* --- framing ------------------------------------------------------------------------------------------------------------ */

/* RFC 9112 6: how the client will know where the body ends. `len`, `more`: of the first write. */
static void decide_framing(struct request *r, size_t len, bool more)
{
    struct request_core *core = &r->core;
    if (r->status == 204)
        core->response_length = -1;
    else if (core->response_no_body)
        core->response_length = core->response_length < 0 && !more && len > 0 ? (int64_t)len : core->response_length;
    else if (core->response_length < 0 && !more)
        core->response_length = (int64_t)len;
    else if (core->response_length < 0 && r->version_minor >= 1 && !core->front_frames)
        core->response_chunked = true;
    else if (core->response_length < 0)
        core->keep_alive = false; /* delimited by the end of the connection */
}

static bool decide_close(struct request *r, bool more)
{
    struct conn *c = r->conn;
    bool unread = !r->body_end && (r->core.expects_continue || (!more && conn_body_left(c) > CONN_DISCARD_BYTES));
    bool drained = (c->server->draining && !conn_will_move(c)) || c->server->crowded;
    return !r->core.keep_alive || r->is_websocket || r->core.app_closes || unread || drained || c->io.eof ||
           c->server->settings->keepalive_ms == 0;
}

static char *put_framing(const struct request *r, char *to)
{
    if (r->core.response_chunked)
        return PUT(to, "transfer-encoding: chunked\r\n");
    if (r->core.response_length < 0)
        return to;
    to = PUT(to, "content-length: ");
    to += headers_put_number(to, (uint64_t)r->core.response_length);
    return PUT(to, "\r\n");
}

static char *put_server_fields(const struct request *r, char *to)
{
    const struct http_server *server = r->conn->server;
    struct str own = buf_str(&server->own_fields);
    if (own.len > 0)
        to = put(to, own.p, own.len);
    if (server->sends_date && !r->core.has_date) {
        struct str date = clock_http_date();
        to = PUT(to, "date: ");
        to = put(to, date.p, date.len);
        to = PUT(to, "\r\n");
    }
    return server->sends_server && !r->core.has_server ? PUT(to, "server: licorne\r\n") : to;
}

/* Formats what was held and what is known now, behind `to`. */
static char *put_head(struct request *r, char *to, size_t len, bool more)
{
    struct str held = buf_str(&r->core.response_head);
    decide_framing(r, len, more);
    r->core.close_said = decide_close(r, more);
    r->core.expects_continue = false; /* the final response takes its place */
    to = put(to, held.p, held.len);
    to = put_framing(r, to);
    to = put_server_fields(r, to);
    if (r->core.close_said)
        to = PUT(to, "connection: close\r\n");
    else if (r->version_minor == 0)
        to = PUT(to, "connection: keep-alive\r\n");
    r->response = RESPONSE_BODY;
    return PUT(to, "\r\n");
}

static size_t head_room(const struct request *r)
{
    return buf_len(&r->core.response_head) + HEAD_EXTRA_BYTES + buf_len(&r->conn->server->own_fields);
}

static char *put_chunk_line(char *to, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    int digits = 1;
    while (digits < 16 && len >> (digits * 4))
        digits++;
    while (digits-- > 0)
        *to++ = hex[len >> (digits * 4) & 15];
    return PUT(to, "\r\n");
}

/* --- the body ------------------------------------------------------------------------------------------------------------- */

/* The connection is gone, or broken, which its owner hears of at the end of the turn: an application that goes on writing
 * must hear of it now. */
static bool is_gone(const struct request *r)
{
    return r->conn == NULL || r->conn->io.broken;
}

/* Can this much be written now? Decides without sending anything. */
static enum request_result check_write(struct request *r, size_t len, bool more)
{
    (void)more;
    if (r->response == RESPONSE_DONE)
        return r->error ? REQUEST_INVALID : refuse(r, "the response is complete already");
    if (is_gone(r))
        return REQUEST_GONE;
    if (r->response == RESPONSE_NONE)
        return refuse(r, "the response was not started");
    if (!r->core.response_no_body && r->core.response_length >= 0 &&
        len > (uint64_t)r->core.response_length - r->body_sent) {
        refuse(r, "more body than Content-Length says");
        return REQUEST_TOO_LONG;
    }
    return REQUEST_OK;
}

/* Head, if it is still held, and what stands before `len` bytes of body; `copy`: the bytes themselves too. One reservation,
 * so that a small response is formatted in one go. */
static void put_before_body(struct request *r, struct str data, size_t len, bool more, bool copy)
{
    struct io *io = &r->conn->io;
    struct buf *out = io_out(io);
    bool held = r->response == RESPONSE_HELD;
    size_t head_len = held ? head_room(r) : 0;
    char *start = buf_reserve(out, head_len + CHUNK_LINE_BYTES + (copy ? data.len : 0) + 2), *to = start;
    if (held)
        to = put_head(r, to, len, more);
    if (!r->core.response_no_body && len > 0) {
        if (r->core.response_chunked)
            to = put_chunk_line(to, len);
        if (copy)
            to = put(to, data.p, data.len);
        r->body_sent += len;
    }
    size_t n = (size_t)(to - start);
    buf_commit(out, n);
    io_written(io, n);
}

static void put_after_body(struct request *r, size_t len, bool more)
{
    if (!r->core.response_chunked || r->core.response_no_body)
        return;
    if (len > 0)
        io_write(&r->conn->io, "\r\n", 2);
    if (!more)
        io_write(&r->conn->io, "0\r\n\r\n", 5);
}

static enum request_result finish(struct request *r)
{
    bool truncated =
        !r->core.response_no_body && r->core.response_length >= 0 && r->body_sent < (uint64_t)r->core.response_length;
    r->response = RESPONSE_DONE;
    if (r->flush_end)
        io_flush(&r->conn->io);
    if (!truncated) {
        conn_response_done(r->conn);
        return REQUEST_OK;
    }
    refuse(r, "less body than Content-Length says");
    conn_response_broken(r->conn);
    return REQUEST_INVALID;
}

/* After bytes were queued. */
static enum request_result wrote(struct request *r, bool more)
{
    if (!more)
        return finish(r);
    if (!io_is_full(&r->conn->io))
        return REQUEST_OK;
    r->core.writable_owed = true;
    conn_response_full(r->conn);
    return REQUEST_FULL;
}

static void release(const struct body_ref *ref)
{
    if (ref)
        ref->release(ref->arg);
}

/* A response whose head is still held and whose body would be too short is answered with 500: nothing was promised yet. */
static bool too_short_from_the_start(const struct request *r, size_t len, bool more)
{
    return !more && r->response == RESPONSE_HELD && !r->core.response_no_body && r->core.response_length >= 0 &&
           r->status != 204 && len < (uint64_t)r->core.response_length;
}

static enum request_result fail_short(struct request *r)
{
    refuse(r, "less body than Content-Length says");
    request_fail(r, 500);
    return REQUEST_INVALID;
}

enum request_result request_write(struct request *r, struct str data, bool more, const struct body_ref *ref)
{
    enum request_result result = check_write(r, data.len, more);
    if (result == REQUEST_OK && too_short_from_the_start(r, data.len, more))
        result = fail_short(r);
    else if (result == REQUEST_OK) {
        bool by_ref = ref && data.len >= IO_REF_BYTES && !r->core.response_no_body;
        put_before_body(r, data, data.len, more, !by_ref);
        if (by_ref) {
            io_write_ref(&r->conn->io, data.p, data.len, (struct io_ref){ ref->release, ref->arg });
            ref = NULL;
        }
        put_after_body(r, data.len, more);
        result = wrote(r, more);
    }
    release(ref);
    return result;
}

enum request_result request_write_file(struct request *r, int fd, off_t offset, size_t count, bool more,
                                       const struct body_ref *ref)
{
    enum request_result result = check_write(r, count, more);
    if (result == REQUEST_OK && too_short_from_the_start(r, count, more))
        result = fail_short(r);
    else if (result == REQUEST_OK) {
        put_before_body(r, STR(""), count, more, false);
        if (!r->core.response_no_body && count > 0) {
            struct io_ref io_ref = ref ? (struct io_ref){ ref->release, ref->arg } : (struct io_ref){ 0 };
            io_write_file(&r->conn->io, fd, offset, count, io_ref);
            ref = NULL;
        }
        put_after_body(r, count, more);
        result = wrote(r, more);
    }
    release(ref);
    return result;
}

enum request_result request_flush(struct request *r)
{
    if (r->conn == NULL)
        return REQUEST_GONE;
    io_flush(&r->conn->io);
    if (is_gone(r))
        return REQUEST_GONE;
    return io_is_full(&r->conn->io) ? REQUEST_FULL : REQUEST_OK;
}

enum request_result request_finish(struct request *r)
{
    return request_write(r, STR(""), false, NULL);
}

/* --- errors ---------------------------------------------------------------------------------------------------------------- */

/* Fields that some statuses owe the client. */
static size_t error_fields(int status, struct field *fields)
{
    fields[0] = (struct field){ STR("content-type"), STR("text/plain; charset=utf-8") };
    if (status == 405)
        fields[1] = (struct field){ STR("allow"), STR("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS") };
    else if (status == 426)
        fields[1] = (struct field){ STR("sec-websocket-version"), STR("13") };
    else
        return 1;
    return 2;
}

void response_error(struct request *r, int status, bool close)
{
    struct field fields[2];
    char text[64];
    struct str reason = response_reason(status);
    size_t len = reason.len < sizeof(text) - 1 ? reason.len : sizeof(text) - 1;
    memcpy(text, reason.p, len);
    text[len++] = '\n';
    request_recall(r);
    if (request_start(r, status, STR(""), fields, error_fields(status, fields)) != REQUEST_OK)
        return;
    r->core.app_closes |= close;
    request_write(r, (struct str){ text, len }, false, NULL);
}

void request_fail(struct request *r, int status)
{
    if (r->conn == NULL || r->response == RESPONSE_DONE)
        return;
    if (r->response != RESPONSE_BODY) {
        response_error(r, status, false);
        return;
    }
    r->response = RESPONSE_DONE;
    conn_response_broken(r->conn);
}

/* --- for the access log ------------------------------------------------------------------------------------------------------ */

struct str response_field(const struct request *r, struct str name)
{
    struct str head = buf_str(&r->core.response_head);
    const char *p = head.p, *end = head.p + head.len, *line_end;
    for (; p < end && (line_end = memchr(p, '\n', (size_t)(end - p))) != NULL; p = line_end + 1) {
        const char *colon = memchr(p, ':', (size_t)(line_end - p));
        if (colon && str_ieq((struct str){ p, (size_t)(colon - p) }, name))
            return (struct str){ colon + 2, (size_t)(line_end - 1 - colon - 2) };
    }
    return (struct str){ NULL, 0 };
}
