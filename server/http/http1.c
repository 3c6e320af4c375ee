/* http1: see http1.h. The request line is parsed here: llhttp knows only its own list of methods and versions, and would
 * switch protocols on CONNECT and Upgrade. Fields, chunks and trailers are llhttp's, strict; but fields with nothing unusual
 * about them are read by http1_scan.c in a third of the time, and llhttp is not even begun. It starts from a copy of a parser
 * that has just read "POST / HTTP/1.1", stops at the end of the head, and never sees a second message.
 *
 * While a head is incomplete, every `struct str` of it holds an offset in `p`: the head's bytes move from read buffers into the
 * request with each piece. They become pointers when it is complete. */
#include "server/http/http1.h"

#include <llhttp.h>
#include <pthread.h>
#include <stdlib.h>

#include "config/settings.h"
#include "server/http/head.h"
#include "server/http/headers.h"
#include "server/http/http1_scan.h"
#include "server/http/request.h"

_Static_assert(sizeof(llhttp_t) <= HTTP1_PARSER_BYTES, "HTTP1_PARSER_BYTES is too small");

enum phase { PHASE_EMPTY_LINES, PHASE_METHOD, PHASE_TARGET, PHASE_VERSION, PHASE_FIELDS, PHASE_LENGTH, PHASE_CHUNKED };

struct framing {
    bool has_length, chunked;
    uint64_t length;
};

/* Where in a header line the parser is; kept for strip_header_spaces alone. */
enum line { LINE_START, LINE_NAME, LINE_BLANKS, LINE_REST };

static llhttp_t *parser_of(struct http1 *h)
{
    return (llhttp_t *)h->parser;
}

static enum http1_result refuse(struct http1 *h, int status, const char *reason)
{
    h->status = status;
    h->reason = reason;
    return HTTP1_ERROR;
}

static size_t limit_or_head(const struct http1 *h, int64_t limit)
{
    return (size_t)(limit > 0 ? limit : h->settings->limit_request_head);
}

/* --- the request line -------------------------------------------------------------------------------------------- */

static size_t offset_of(const struct http1 *h, size_t i)
{
    return h->request->core.head_len + i;
}

static enum http1_result parse_empty_lines(struct http1 *h, const char *data, size_t n, size_t *i)
{
    for (; *i < n; (*i)++) {
        char c = data[*i];
        if (h->crlf_half) {
            if (c != '\n' || ++h->empty_lines > HTTP1_EMPTY_LINES)
                return refuse(h, 400, "empty lines before the request line");
            h->crlf_half = false;
        } else if (c == '\r') {
            h->crlf_half = true;
        } else {
            h->line_start = offset_of(h, *i);
            h->phase = PHASE_METHOD;
            return HTTP1_DONE;
        }
    }
    return HTTP1_MORE;
}

/* A run of bytes of a class, ended by SP, within the limit of the line. */
static enum http1_result parse_word(struct http1 *h, const char *data, size_t n, size_t *i, int class, size_t start)
{
    size_t limit = limit_or_head(h, h->settings->limit_request_line) + h->line_start - h->request->core.head_len;
    size_t end = n < limit ? n : limit;
    size_t at = *i;
    while (at < end && char_is(data[at], class))
        at++;
    *i = at;
    if (at == n)
        return HTTP1_MORE;
    if (at >= limit)
        return refuse(h, 414, "the request line is too long (limit_request_line)");
    if (data[at] != ' ' || offset_of(h, at) == start)
        return refuse(h, 400, "malformed request line");
    (*i)++;
    return HTTP1_DONE;
}

static enum http1_result version_done(struct http1 *h, size_t end)
{
    h->phase = PHASE_FIELDS;
    if (offset_of(h, end) - 2 - h->line_start > limit_or_head(h, h->settings->limit_request_line))
        return refuse(h, 414, "the request line is too long (limit_request_line)");
    return HTTP1_DONE;
}

static enum http1_result parse_version(struct http1 *h, const char *data, size_t n, size_t *i)
{
    static const char form[] = "HTTP/0.0\r\n", usual[] = "HTTP/1.1\r\n"; /* 0: any digit */
    if (h->version_len == 0 && n - *i >= sizeof(usual) - 1 && memcmp(data + *i, usual, sizeof(usual) - 1) == 0) {
        memcpy(h->version, "1.1", 3);
        *i += sizeof(usual) - 1;
        return version_done(h, *i);
    }
    for (; *i < n; (*i)++) {
        char c = data[*i], wanted = form[h->version_len];
        if (wanted == '0' ? !char_is(c, CHAR_DIGIT) : c != wanted)
            return refuse(h, 400, "malformed HTTP version");
        if (h->version_len >= 5 && h->version_len < 8)
            h->version[h->version_len - 5] = c;
        if (++h->version_len == sizeof(form) - 1) {
            return version_done(h, ++*i);
        }
    }
    return HTTP1_MORE;
}

static enum http1_result parse_line(struct http1 *h, const char *data, size_t n, size_t *i)
{
    enum http1_result result = HTTP1_DONE;
    if (h->phase == PHASE_EMPTY_LINES)
        result = parse_empty_lines(h, data, n, i);
    if (result == HTTP1_DONE && h->phase == PHASE_METHOD) {
        result = parse_word(h, data, n, i, CHAR_TOKEN, h->line_start);
        if (result == HTTP1_DONE) {
            h->method_end = offset_of(h, *i) - 1;
            h->phase = PHASE_TARGET;
        }
    }
    if (result == HTTP1_DONE && h->phase == PHASE_TARGET) {
        result = parse_word(h, data, n, i, CHAR_TARGET, h->method_end + 1);
        if (result == HTTP1_DONE) {
            h->target_end = offset_of(h, *i) - 1;
            h->phase = PHASE_VERSION;
        }
    }
    if (result == HTTP1_DONE && h->phase == PHASE_VERSION)
        result = parse_version(h, data, n, i);
    return result;
}

/* --- fields and trailers: llhttp's callbacks. A value other than 0 ends llhttp_execute(). ------------------------ */

static int stop(struct http1 *h, int status, const char *reason)
{
    refuse(h, status, reason);
    return -1;
}

static int count_trailer(struct http1 *h, size_t n)
{
    h->trailer_bytes += (uint32_t)n;
    if (h->trailer_bytes > h->settings->limit_request_head)
        return stop(h, 431, "the trailers are too long (limit_request_head)");
    return 0;
}

static int check_field_size(struct http1 *h, const struct field *field)
{
    if (field->name.len + field->value.len > limit_or_head(h, h->settings->limit_request_field_size))
        return stop(h, 431, "a header field is too long (limit_request_field_size)");
    return 0;
}

static int on_field_name(llhttp_t *parser, const char *at, size_t n)
{
    struct http1 *h = parser->data;
    if (h->phase == PHASE_CHUNKED)
        return count_trailer(h, n);
    struct request *r = h->request;
    if (!h->in_field) {
        struct field *field = request_add_field(r, h->settings);
        if (field == NULL)
            return stop(h, 431, "too many header fields (limit_request_fields)");
        *field = (struct field){ .name.p = (const char *)offset_of(h, (size_t)(at - h->data)) };
        h->in_field = true;
    }
    struct field *field = &r->fields[r->field_count - 1];
    field->name.len += n;
    return check_field_size(h, field);
}

static int on_field_value(llhttp_t *parser, const char *at, size_t n)
{
    struct http1 *h = parser->data;
    if (h->phase == PHASE_CHUNKED)
        return count_trailer(h, n);
    struct field *field = &h->request->fields[h->request->field_count - 1];
    size_t offset = offset_of(h, (size_t)(at - h->data));
    if (field->value.p == NULL)
        field->value.p = (const char *)offset;
    field->value.len = offset + n - (size_t)field->value.p; /* not a sum: folding leaves gaps */
    return check_field_size(h, field);
}

static int on_field_end(llhttp_t *parser)
{
    struct http1 *h = parser->data;
    h->in_field = false;
    if (h->phase == PHASE_CHUNKED && ++h->trailer_fields > h->settings->limit_request_fields)
        return stop(h, 431, "too many trailers (limit_request_fields)");
    return 0;
}

static int on_head_end(llhttp_t *parser)
{
    (void)parser;
    return HPE_PAUSED;
}

/* --- chunks: llhttp's callbacks ------------------------------------------------------------------------------------ */

static bool body_too_large(const struct http1 *h, uint64_t bytes)
{
    return h->settings->limit_request_body > 0 && bytes > (uint64_t)h->settings->limit_request_body;
}

static int on_chunk_size(llhttp_t *parser)
{
    struct http1 *h = parser->data;
    h->chunks++;
    if (parser->content_length > INT64_MAX - h->body_bytes)
        return stop(h, 400, "chunk size overflow");
    if (body_too_large(h, h->body_bytes + parser->content_length))
        return stop(h, 413, "the request body is too large (limit_request_body)");
    return 0;
}

static int on_chunk_extension(llhttp_t *parser, const char *at, size_t n)
{
    (void)at;
    struct http1 *h = parser->data;
    h->extension_bytes += (uint32_t)n;
    h->token_bytes += (uint32_t)n;
    if (h->extension_bytes > HTTP1_CHUNK_EXTENSION_BYTES)
        return stop(h, 400, "too many chunk extensions");
    return 0;
}

static int on_chunk_extension_end(llhttp_t *parser)
{
    struct http1 *h = parser->data;
    if (h->token_bytes == 0)
        return stop(h, 400, "malformed chunk extension");
    h->token_bytes = 0;
    return 0;
}

static int on_chunk_data(llhttp_t *parser, const char *at, size_t n)
{
    struct http1 *h = parser->data;
    if (h->body_start == NULL)
        h->body_start = h->body_end = (char *)at;
    if (h->body_end != at)
        memmove(h->body_end, at, n);
    h->body_end += n;
    h->body_bytes += n;
    return 0;
}

static int on_body_end(llhttp_t *parser)
{
    (void)parser;
    return HPE_PAUSED;
}

static const llhttp_settings_t callbacks = {
    .on_header_field = on_field_name,
    .on_header_value = on_field_value,
    .on_header_value_complete = on_field_end,
    .on_headers_complete = on_head_end,
    .on_chunk_header = on_chunk_size,
    .on_chunk_extension_name = on_chunk_extension,
    .on_chunk_extension_value = on_chunk_extension,
    .on_chunk_extension_name_complete = on_chunk_extension_end,
    .on_chunk_extension_value_complete = on_chunk_extension_end,
    .on_body = on_chunk_data,
    .on_message_complete = on_body_end,
};

static llhttp_t after_request_line;

static void prepare_parser(void)
{
    static const char line[] = "POST / HTTP/1.1\r\n";
    llhttp_init(&after_request_line, HTTP_REQUEST, &callbacks);
    if (llhttp_execute(&after_request_line, line, sizeof(line) - 1) != HPE_OK)
        abort();
}

/* --- the head as a whole ------------------------------------------------------------------------------------------- */

static void to_pointer(struct str *s, const char *base)
{
    s->p = base + (uintptr_t)s->p;
}

/* Where the head's bytes lie, `n` of them at `data` being the last. */
static const char *gather_head(struct request *r, const char *data, size_t n)
{
    if (r->core.head_len == 0) {
        r->core.base = data;
        r->core.base_len = n;
    } else {
        buf_append(&r->core.head, data, n);
        r->core.head_len += n;
        r->core.base = r->core.head.data;
        r->core.base_len = r->core.head_len;
    }
    return r->core.base;
}

static void take_line(struct http1 *h, const char *base)
{
    struct request *r = h->request;
    r->method = (struct str){ base + h->line_start, h->method_end - h->line_start };
    r->target = (struct str){ base + h->method_end + 1, h->target_end - h->method_end - 1 };
    r->version_minor = h->version[0] < '1' || (h->version[0] == '1' && h->version[2] == '0') ? 0 : 1;
}

/* What the log and the answer need of a request that is refused. */
static enum http1_result abandon_head(struct http1 *h, const char *data, size_t n)
{
    struct request *r = h->request;
    r->field_count = 0;
    if (h->phase < PHASE_FIELDS)
        return HTTP1_ERROR;
    take_line(h, gather_head(r, data, n));
    r->is_head = str_eq(r->method, STR("HEAD"));
    return HTTP1_ERROR;
}

static enum http1_result judged(struct http1 *h, struct head_refusal refusal)
{
    return refusal.status ? refuse(h, refusal.status, refusal.reason) : HTTP1_DONE;
}

/* What was read of the framing beside head.c. */
static struct framing framing_of(struct http1 *h)
{
    llhttp_t *parser = parser_of(h);
    if (h->scanned)
        return (struct framing){ h->scanned_length, false, h->body_left };
    parser->upgrade = 0; /* an upgrade is for the connection to decide, not for the parser */
    llhttp_resume(parser);
    return (struct framing){ parser->flags & F_CONTENT_LENGTH, parser->flags & F_CHUNKED, parser->content_length };
}

static enum http1_result begin_body(struct http1 *h)
{
    struct request *r = h->request;
    struct framing framing = framing_of(h);
    int64_t length = framing.has_length && framing.length <= INT64_MAX ? (int64_t)framing.length : -1;
    if (r->is_chunked != framing.chunked || r->content_length != length || (framing.chunked && framing.has_length))
        return refuse(h, 400, "contradicting framing"); /* both must have read the same */
    if (r->content_length > 0 && body_too_large(h, (uint64_t)r->content_length))
        return refuse(h, 413, "the request body is too large (limit_request_body)");
    r->has_body = r->is_chunked || r->content_length > 0;
    r->body_end = !r->has_body;
    if (!r->has_body)
        r->core.expects_continue = false;
    h->body_left = r->content_length > 0 ? (uint64_t)r->content_length : 0;
    h->phase = r->is_chunked ? PHASE_CHUNKED : PHASE_LENGTH;
    return HTTP1_DONE;
}

static enum http1_result finish_head(struct http1 *h, const char *data, size_t n)
{
    struct request *r = h->request;
    const char *base = gather_head(r, data, n);
    take_line(h, base);
    for (size_t i = 0; i < r->field_count && !h->scanned; i++) {
        to_pointer(&r->fields[i].name, base);
        to_pointer(&r->fields[i].value, base);
    }
    enum http1_result result = judged(h, head_judge_method(r, h->settings));
    if (result == HTTP1_DONE)
        result = judged(h, head_judge_line(r, h->version[0] - '0', h->settings));
    if (result == HTTP1_DONE)
        result = judged(h, head_judge_fields(r, h->settings));
    if (result == HTTP1_DONE)
        result = begin_body(h);
    return result;
}

static enum http1_result keep_head(struct http1 *h, const char *data, size_t n)
{
    buf_append(&h->request->core.head, data, n);
    h->request->core.head_len += n;
    return HTTP1_MORE;
}

void http1_expect_length(struct http1 *h, uint64_t length)
{
    h->body_left = length;
    h->phase = PHASE_LENGTH;
}

void http1_abandon(struct http1 *h)
{
    abandon_head(h, "", 0);
}

void http1_begin(struct http1 *h, struct request *request)
{
    static pthread_once_t prepared = PTHREAD_ONCE_INIT;
    pthread_once(&prepared, prepare_parser);
    const struct settings *settings = h->settings;
    memset(h, 0, offsetof(struct http1, parser));
    h->settings = settings;
    h->request = request;
}

static void begin_fields(struct http1 *h)
{
    h->parsing = true;
    memcpy(h->parser, &after_request_line, sizeof(after_request_line));
    parser_of(h)->data = h;
    if (h->settings->permit_obsolete_folding)
        llhttp_set_lenient_headers(parser_of(h), 1); /* head.c checks what this lets through */
}

/* The short way, where all fields are here. */
static bool scan_fields(struct http1 *h, char *data, size_t n, size_t *i)
{
    if (h->parsing || h->request->core.head_len > 0 || h->settings->permit_obsolete_folding)
        return false;
    struct http1_scan scan;
    size_t used = http1_scan(h->request, h->settings, data + *i, n - *i, &scan);
    *i += used;
    h->scanned_length = scan.has_length;
    h->body_left = scan.length;
    h->scanned = h->request->core.fields_tidy = used > 0;
    return used > 0;
}

static enum http1_result parse_run(struct http1 *h, const char *data, size_t n, size_t *i)
{
    llhttp_t *parser = parser_of(h);
    h->data = data;
    llhttp_errno_t error = llhttp_execute(parser, data + *i, n - *i);
    if (error == HPE_OK) {
        *i = n;
        return HTTP1_MORE;
    }
    if (error != HPE_PAUSED)
        return h->status ? HTTP1_ERROR : refuse(h, 400, llhttp_get_error_reason(parser));
    *i = (size_t)(llhttp_get_error_pos(parser) - data);
    return HTTP1_DONE;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* How many bytes there are before a blank that a name ends with. */
static size_t until_blanks(struct http1 *h, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (h->line == LINE_START)
            h->line = is_blank(p[i]) || p[i] == '\r' ? LINE_REST : LINE_NAME;
        else if (h->line == LINE_NAME && p[i] == ':')
            h->line = LINE_REST;
        else if (h->line == LINE_REST && p[i] == '\n')
            h->line = LINE_START;
        else if (h->line == LINE_NAME && is_blank(p[i])) {
            h->line = LINE_BLANKS;
            return i;
        }
    }
    return n;
}

/* strip_header_spaces: the parser never sees blanks between a name and its colon. */
static enum http1_result parse_stripped(struct http1 *h, const char *data, size_t n, size_t *i)
{
    enum http1_result result = HTTP1_MORE;
    while (*i < n && result == HTTP1_MORE) {
        if (h->line == LINE_BLANKS && is_blank(data[*i])) {
            (*i)++;
            continue;
        }
        if (h->line == LINE_BLANKS && data[*i] != ':')
            return refuse(h, 400, "a blank within the name of a header field");
        if (h->line == LINE_BLANKS)
            h->line = LINE_REST;
        result = parse_run(h, data, *i + until_blanks(h, data + *i, n - *i), i);
    }
    return result;
}

/* Parses fields from data[*i] on. */
static enum http1_result parse_fields(struct http1 *h, char *data, size_t n, size_t *i)
{
    if (scan_fields(h, data, n, i))
        return HTTP1_DONE;
    if (!h->parsing)
        begin_fields(h);
    return h->settings->strip_header_spaces ? parse_stripped(h, data, n, i) : parse_run(h, data, n, i);
}

enum http1_result http1_head(struct http1 *h, char *data, size_t len, size_t *used)
{
    size_t room = (size_t)h->settings->limit_request_head - h->request->core.head_len;
    size_t n = len < room ? len : room, i = 0;
    enum http1_result result = HTTP1_DONE;
    if (h->phase < PHASE_FIELDS)
        result = parse_line(h, data, n, &i);
    if (result == HTTP1_DONE)
        result = parse_fields(h, data, n, &i);
    if (result == HTTP1_MORE && n == room)
        result = h->phase < PHASE_FIELDS ? refuse(h, 414, "the request line is too long (limit_request_head)")
                                         : refuse(h, 431, "the request head is too long (limit_request_head)");
    *used = i;
    if (result == HTTP1_ERROR)
        return abandon_head(h, data, n);
    return result == HTTP1_DONE ? finish_head(h, data, i) : keep_head(h, data, i);
}

/* --- the body ------------------------------------------------------------------------------------------------------ */

static enum http1_result take_length(struct http1 *h, char *data, size_t len, size_t *used, struct str *body)
{
    size_t n = len < h->body_left ? len : (size_t)h->body_left;
    *body = (struct str){ data, n };
    *used = n;
    h->body_left -= n;
    h->body_bytes += n;
    return h->body_left == 0 ? HTTP1_DONE : HTTP1_MORE;
}

/* Framing costs a few bytes a chunk, besides extensions and trailers, which are counted on their own. */
static bool framing_excessive(const struct http1 *h)
{
    uint64_t allowed = (h->chunks + 1) * HTTP1_CHUNK_LINE_BYTES + 2 * HTTP1_CHUNK_EXTENSION_BYTES +
                       4 * (uint64_t)h->settings->limit_request_head;
    return h->framing_bytes > allowed;
}

static enum http1_result take_chunks(struct http1 *h, char *data, size_t len, size_t *used, struct str *body)
{
    llhttp_t *parser = parser_of(h);
    h->body_start = h->body_end = NULL;
    llhttp_errno_t error = llhttp_execute(parser, data, len);
    *used = error == HPE_PAUSED ? (size_t)(llhttp_get_error_pos(parser) - data) : len;
    *body = (struct str){ h->body_start ? h->body_start : data, (size_t)(h->body_end - h->body_start) };
    h->framing_bytes += *used - body->len;
    if (error == HPE_PAUSED)
        return HTTP1_DONE;
    if (error != HPE_OK)
        return h->status ? HTTP1_ERROR : refuse(h, 400, llhttp_get_error_reason(parser));
    return framing_excessive(h) ? refuse(h, 400, "excessive chunk framing") : HTTP1_MORE;
}

enum http1_result http1_body(struct http1 *h, char *data, size_t len, size_t *used, struct str *body)
{
    return h->phase == PHASE_CHUNKED ? take_chunks(h, data, len, used, body) : take_length(h, data, len, used, body);
}
