/* access_log: see access_log.h. What the client sent is escaped: control bytes, quotes, backslashes and everything beyond ASCII,
 * so that no request can forge a line. */
#include "server/http/access_log.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/line_file.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/http/headers.h"
#include "server/http/request.h"
#include "server/http/response.h"
#include "server/net/loop.h"

#define BATCH_BYTES (64 * 1024) /* written at once rather than at the end of the turn */

struct access_log;
struct line;

typedef void put_atom(struct line *line, struct str name);

/* Literal text, or an atom; `name` is that of the field in {name}i and {name}o. */
struct piece {
    struct str text;
    put_atom *put;
};

struct access_log {
    struct loop *loop;
    struct loop_task flush_task;
    struct line_file file;
    char *format;
    struct piece *pieces;
    size_t piece_count;
    bool colours;
    void (*take)(struct str facts); /* NULL: lines go into the file */
    enum access_facts facts;
    struct buf given; /* to `take` */
    time_t stamp_second;
    char stamp[40];
    size_t stamp_len;
};

/* What the atoms of one line are made from. */
struct line {
    struct access_log *log;
    struct request *request;
    struct buf *out;
    uint64_t took_ns;
};

/* --- putting values --------------------------------------------------------------------------------------------------------- */

static void put_char(struct buf *out, char c)
{
    *buf_reserve(out, 1) = c;
    buf_commit(out, 1);
}

static void put_byte_escaped(struct buf *out, uint8_t c)
{
    static const char hex[] = "0123456789abcdef";
    if (c == '"' || c == '\\') {
        put_char(out, '\\');
        put_char(out, (char)c);
    } else if (c >= 0x20 && c < 0x7f) {
        put_char(out, (char)c);
    } else {
        buf_append(out, (char[]){ '\\', 'x', hex[c >> 4], hex[c & 15] }, 4);
    }
}

static void put_escaped(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.len; i++)
        put_byte_escaped(out, (uint8_t)s.p[i]);
}

static void put_or_dash(struct buf *out, struct str s)
{
    if (s.len > 0)
        put_escaped(out, s);
    else
        put_char(out, '-');
}

static void put_number(struct buf *out, uint64_t number)
{
    buf_commit(out, headers_put_number(buf_reserve(out, 20), number));
}

/* --- atoms -------------------------------------------------------------------------------------------------------------------- */

static void put_dash(struct line *line, struct str name)
{
    (void)name;
    put_char(line->out, '-');
}

static void put_host(struct line *line, struct str name)
{
    (void)name;
    put_or_dash(line->out, request_client(line->request)->host);
}

static struct str request_field(const struct request *r, struct str name)
{
    for (size_t i = 0; i < r->field_count; i++)
        if (str_ieq(r->fields[i].name, name))
            return r->fields[i].value;
    return (struct str){ NULL, 0 };
}

static int base64_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Basic credentials: what stands before the colon. */
static void put_user(struct line *line, struct str name)
{
    (void)name;
    struct str value = request_field(line->request, STR("authorization"));
    size_t start = line->out->end;
    uint32_t bits = 0;
    int have = 0;
    if (value.len > 6 && strncasecmp(value.p, "basic ", 6) == 0)
        for (size_t i = 6; i < value.len; i++) {
            int digit = base64_digit(value.p[i]);
            if (digit < 0)
                break;
            bits = bits << 6 | (uint32_t)digit;
            have += 6;
            if (have < 8)
                continue;
            have -= 8;
            uint8_t c = (uint8_t)(bits >> have);
            if (c == ':')
                break;
            put_byte_escaped(line->out, c);
        }
    if (line->out->end == start)
        put_char(line->out, '-');
}

static void put_time(struct line *line, struct str name)
{
    (void)name;
    struct access_log *log = line->log;
    time_t now = time(NULL);
    if (now != log->stamp_second || log->stamp_len == 0) {
        static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
        struct tm t;
        localtime_r(&now, &t);
        long offset = t.tm_gmtoff / 60, distance = labs(offset);
        log->stamp_len = (size_t)snprintf(log->stamp, sizeof(log->stamp), "[%02d/%.3s/%d:%02d:%02d:%02d %c%02ld%02ld]",
                                          t.tm_mday, months + 3 * t.tm_mon, t.tm_year + 1900, t.tm_hour, t.tm_min,
                                          t.tm_sec, offset < 0 ? '-' : '+', distance / 60, distance % 60);
        log->stamp_second = now;
    }
    buf_append(line->out, log->stamp, log->stamp_len);
}

static void put_protocol(struct line *line, struct str name)
{
    (void)name;
    buf_append(line->out, line->request->version_minor ? "HTTP/1.1" : "HTTP/1.0", 8);
}

static void put_method(struct line *line, struct str name)
{
    (void)name;
    put_or_dash(line->out, line->request->method);
}

static void put_request_line(struct line *line, struct str name)
{
    struct request *r = line->request;
    if (r->method.len == 0) {
        put_char(line->out, '-');
        return;
    }
    put_escaped(line->out, r->method);
    put_char(line->out, ' ');
    put_escaped(line->out, r->target);
    put_char(line->out, ' ');
    put_protocol(line, name);
}

static int hex_value(char c)
{
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

static void put_path(struct line *line, struct str name)
{
    (void)name;
    struct str path = line->request->path;
    if (path.len == 0)
        put_char(line->out, '-');
    for (size_t i = 0; i < path.len; i++) {
        bool coded = path.p[i] == '%' && i + 2 < path.len && char_is(path.p[i + 1], CHAR_HEX) &&
                     char_is(path.p[i + 2], CHAR_HEX);
        uint8_t c = coded ? (uint8_t)(hex_value(path.p[i + 1]) << 4 | hex_value(path.p[i + 2])) : (uint8_t)path.p[i];
        put_byte_escaped(line->out, c);
        i += coded ? 2 : 0;
    }
}

static void put_query(struct line *line, struct str name)
{
    (void)name;
    put_escaped(line->out, line->request->query);
}

/* 499, nginx's number, for a client that left before there was a status. */
static void put_status(struct line *line, struct str name)
{
    (void)name;
    put_number(line->out, line->request->status ? (uint64_t)line->request->status : 499);
}

static void put_painted(struct line *line, struct str name, const char *paint, put_atom *put)
{
    buf_printf(line->out, "\033[%sm", paint);
    put(line, name);
    buf_append_str(line->out, STR("\033[0m"));
}

/* As in uvicorn. */
static void put_status_painted(struct line *line, struct str name)
{
    static const char *const paints[] = { "91", "97", "32", "33", "31", "91" };
    int kind = line->request->status / 100;
    put_painted(line, name, paints[kind >= 1 && kind <= 5 ? kind : 0], put_status);
}

static void put_request_line_painted(struct line *line, struct str name)
{
    put_painted(line, name, "1", put_request_line);
}

static void put_bytes(struct line *line, struct str name)
{
    (void)name;
    put_number(line->out, line->request->body_sent);
}

static void put_bytes_or_dash(struct line *line, struct str name)
{
    if (line->request->body_sent > 0)
        put_bytes(line, name);
    else
        put_char(line->out, '-');
}

static void put_request_field(struct line *line, struct str name)
{
    put_or_dash(line->out, request_field(line->request, name));
}

static void put_referer(struct line *line, struct str name)
{
    (void)name;
    put_request_field(line, STR("referer"));
}

static void put_agent(struct line *line, struct str name)
{
    (void)name;
    put_request_field(line, STR("user-agent"));
}

static void put_response_field(struct line *line, struct str name)
{
    put_or_dash(line->out, response_field(line->request, name));
}

static void put_seconds(struct line *line, struct str name)
{
    (void)name;
    put_number(line->out, line->took_ns / 1000000000);
}

static void put_milliseconds(struct line *line, struct str name)
{
    (void)name;
    put_number(line->out, line->took_ns / 1000000);
}

static void put_microseconds(struct line *line, struct str name)
{
    (void)name;
    put_number(line->out, line->took_ns / 1000);
}

static void put_decimal_seconds(struct line *line, struct str name)
{
    (void)name;
    buf_printf(line->out, "%llu.%06llu", (unsigned long long)(line->took_ns / 1000000000),
               (unsigned long long)(line->took_ns / 1000 % 1000000));
}

static void put_pid(struct line *line, struct str name)
{
    (void)name;
    put_char(line->out, '<');
    put_number(line->out, (uint64_t)getpid());
    put_char(line->out, '>');
}

static put_atom *const atoms[128] = {
    ['h'] = put_host,         ['l'] = put_dash,         ['u'] = put_user,
    ['t'] = put_time,         ['r'] = put_request_line, ['m'] = put_method,
    ['U'] = put_path,         ['q'] = put_query,        ['H'] = put_protocol,
    ['s'] = put_status,       ['B'] = put_bytes,        ['b'] = put_bytes_or_dash,
    ['f'] = put_referer,      ['a'] = put_agent,        ['T'] = put_seconds,
    ['M'] = put_milliseconds, ['D'] = put_microseconds, ['L'] = put_decimal_seconds,
    ['p'] = put_pid,
};

/* --- the format --------------------------------------------------------------------------------------------------------------- */

static put_atom *painted(put_atom *put)
{
    return put == put_status ? put_status_painted : put == put_request_line ? put_request_line_painted : put;
}

static void add_piece(struct access_log *log, struct str text, put_atom *put)
{
    if (log->colours)
        put = painted(put);
    log->pieces = mem_realloc(log->pieces, (log->piece_count + 1) * sizeof(*log->pieces));
    log->pieces[log->piece_count++] = (struct piece){ text, put };
}

/* What granian calls them. */
static const struct {
    const char *theirs;
    put_atom *put;
} words[] = {
    { "addr", put_host },         { "time", put_time },   { "dt_ms", put_milliseconds },    { "status", put_status },
    { "path", put_path },         { "query_string", put_query }, { "method", put_method }, { "protocol", put_protocol },
};

static put_atom *atom_by_word(struct str name)
{
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (str_eq(name, str_from(words[i].theirs)))
            return words[i].put;
    return NULL;
}

/* `name`: what stands in %(name)s. Unknown ones, and {name}e, are '-', as in gunicorn. */
static void add_atom(struct access_log *log, struct str name)
{
    if (name.len == 1 && (uint8_t)name.p[0] < 128 && atoms[(uint8_t)name.p[0]]) {
        add_piece(log, name, atoms[(uint8_t)name.p[0]]);
        return;
    }
    if (atom_by_word(name)) {
        add_piece(log, name, atom_by_word(name));
        return;
    }
    struct str field = { name.p + 1, name.len > 3 ? name.len - 3 : 0 };
    bool braced = name.len > 3 && name.p[0] == '{' && name.p[name.len - 2] == '}';
    char kind = braced ? name.p[name.len - 1] : 0;
    add_piece(log, field, kind == 'i' ? put_request_field : kind == 'o' ? put_response_field : put_dash);
}

/* Behind "%(name)" stand flags, width and a conversion letter, as in Python; only the letter's presence matters. */
static const char *skip_conversion(const char *p)
{
    while (*p && strchr("#0- +.123456789*hlL", *p))
        p++;
    return *p ? p + 1 : p;
}

static void compile(struct access_log *log)
{
    const char *p = log->format, *literal = p, *close;
    while (*p) {
        if (p[0] != '%' || (p[1] != '%' && p[1] != '(')) {
            p++;
            continue;
        }
        bool percent = p[1] == '%';
        add_piece(log, (struct str){ literal, (size_t)(p - literal) + percent }, NULL);
        close = percent ? p + 1 : strchr(p, ')');
        if (close == NULL) {
            literal = p;
            break;
        }
        if (!percent)
            add_atom(log, (struct str){ p + 2, (size_t)(close - p - 2) });
        p = literal = percent ? p + 2 : skip_conversion(close + 1);
    }
    add_piece(log, str_from(literal), NULL);
}

/* --- lines ---------------------------------------------------------------------------------------------------------------------- */

static void flush(struct access_log *log)
{
    if (line_file_flush(&log->file) < 0)
        log_debug("Cannot write the access log: %s", strerror(errno));
}

static void on_flush(struct loop_task *task)
{
    flush(LIST_ENTRY(task, struct access_log, flush_task));
}

static void put_client(struct line *line, struct str name)
{
    const struct endpoint *client = request_client(line->request);
    put_host(line, name);
    if (client->port >= 0)
        buf_printf(line->out, ":%d", client->port);
}

static void put_pair(struct line *line, struct str name, struct str key, put_atom *put)
{
    buf_append_str(line->out, name);
    buf_append(line->out, "", 1);
    put(line, key);
    buf_append(line->out, "", 1);
}

static void put_line(struct line *line, struct str name)
{
    const struct access_log *log = line->log;
    (void)name;
    for (size_t i = 0; i < log->piece_count; i++) {
        if (log->pieces[i].put)
            log->pieces[i].put(line, log->pieces[i].text);
        else
            buf_append_str(line->out, log->pieces[i].text);
    }
}

static void put_fact(struct buf *out, struct str name, struct str value)
{
    buf_append_str(out, name);
    buf_append(out, "", 1);
    buf_append_str(out, value);
    buf_append(out, "", 1);
}

static void put_fact_number(struct buf *out, struct str name, uint64_t number)
{
    char text[24];
    put_fact(out, name, (struct str){ text, (size_t)snprintf(text, sizeof(text), "%llu", (unsigned long long)number) });
}

/* The next field of the response's head; false at its end. */
static bool next_field(struct str *head, struct field *field)
{
    const char *end = memchr(head->p, '\n', head->len), *colon = end ? memchr(head->p, ':', (size_t)(end - head->p)) : NULL;
    if (!end)
        return false;
    field->name = (struct str){ head->p, colon ? (size_t)(colon - head->p) : 0 };
    field->value = colon ? (struct str){ colon + 2, (size_t)(end - 1 - colon - 2) } : (struct str){ head->p, 0 };
    head->len -= (size_t)(end + 1 - head->p);
    head->p = end + 1;
    return true;
}

/* "{name}i" and its value, escaped, or "<name" and its value as it is. */
static void give_field(struct line *line, const struct field *field, bool response)
{
    struct buf *out = line->out;
    if (line->log->facts == ACCESS_ALL) {
        put_char(out, response ? '>' : '<');
        put_fact(out, field->name, field->value);
        return;
    }
    put_char(out, '{');
    for (size_t i = 0; i < field->name.len; i++)
        put_char(out, (char)tolower((uint8_t)field->name.p[i]));
    buf_append(out, response ? "}o" : "}i", 3);
    put_escaped(out, field->value);
    buf_append(out, "", 1);
}

static void give_fields(struct line *line)
{
    const struct request *r = line->request;
    struct str head = buf_str(&r->core.response_head);
    struct field field;
    for (size_t i = 0; i < r->field_count; i++)
        give_field(line, &r->fields[i], false);
    if (head.len > 0)
        next_field(&head, &field); /* the status line */
    while (head.len > 0 && next_field(&head, &field))
        if (field.name.len > 0)
            give_field(line, &field, true);
}

static void give_atoms(struct line *line)
{
    for (int letter = 'A'; letter <= 'z'; letter++)
        if (atoms[letter])
            put_pair(line, (struct str){ (char[]){ (char)letter }, 1 }, STR(""), atoms[letter]);
    put_pair(line, STR("client"), STR(""), put_client);
    if (line->log->facts == ACCESS_LINE)
        put_pair(line, STR("line"), STR(""), put_line);
}

/* "200 OK"; empty: there was no response. */
static struct str status_text(const struct request *r)
{
    struct str head = buf_str(&r->core.response_head);
    const char *end = head.len > 0 ? memchr(head.p, '\r', head.len) : NULL;
    const char *space = end ? memchr(head.p, ' ', (size_t)(end - head.p)) : NULL;
    return space ? (struct str){ space + 1, (size_t)(end - space - 1) } : STR("");
}

static void give_all(struct line *line)
{
    struct request *r = line->request;
    struct buf *out = line->out;
    const struct endpoint *client = request_client(r);
    put_fact(out, STR("method"), r->method);
    put_fact(out, STR("path"), r->path);
    put_fact(out, STR("query"), r->query);
    put_fact(out, STR("target"), r->target);
    put_fact_number(out, STR("minor"), (uint64_t)r->version_minor);
    put_fact(out, STR("scheme"), request_scheme(r));
    put_fact(out, STR("host"), client->host);
    put_fact_number(out, STR("port"), client->port > 0 ? (uint64_t)client->port : 0);
    put_fact(out, STR("status"), status_text(r));
    put_fact_number(out, STR("sent"), r->body_sent);
    put_fact_number(out, STR("micros"), line->took_ns / 1000);
}

static void give(struct access_log *log, struct line *line)
{
    line->out = &log->given;
    buf_reset(&log->given, BATCH_BYTES);
    (log->facts == ACCESS_ALL ? give_all : give_atoms)(line);
    give_fields(line);
    log->take(buf_str(&log->given));
}

void access_log_add(struct access_log *log, struct request *request, uint64_t ended_ns)
{
    struct buf *out = &log->file.lines;
    struct line line = { .log = log, .request = request, .out = out };
    line.took_ns = ended_ns > request->began_ns ? ended_ns - request->began_ns : 0;
    if (log->take) {
        give(log, &line);
        return;
    }
    size_t start = buf_len(out);
    put_line(&line, STR(""));
    line_file_end(&log->file, start);
    if (buf_len(out) >= BATCH_BYTES)
        flush(log);
    loop_defer_last(log->loop, &log->flush_task);
}

/* --- life ------------------------------------------------------------------------------------------------------------------------ */

struct access_log *access_log_new(struct loop *loop, const char *path, const char *format)
{
    struct line_file file;
    if (line_file_open(&file, path) < 0)
        return NULL;
    struct access_log *log = mem_zalloc(sizeof(*log));
    log->loop = loop;
    log->file = file;
    log->colours = log_has_colours(file.fd);
    log->format = mem_strdup(format);
    loop_task_init(&log->flush_task, on_flush);
    compile(log);
    return log;
}

struct access_log *access_log_new_for(void (*take)(struct str facts), enum access_facts facts, const char *format,
                                      bool colours)
{
    struct access_log *log = mem_zalloc(sizeof(*log));
    log->take = take;
    log->facts = facts;
    log->colours = colours;
    log->file.fd = -1;
    log->format = mem_strdup(format);
    loop_task_init(&log->flush_task, on_flush);
    compile(log);
    return log;
}

int access_log_reopen(struct access_log *log)
{
    return line_file_reopen(&log->file);
}

void access_log_free(struct access_log *log)
{
    if (log == NULL)
        return;
    loop_task_cancel(&log->flush_task);
    if (log->take == NULL)
        line_file_close(&log->file);
    buf_done(&log->given);
    free(log->pieces);
    free(log->format);
    free(log);
}
