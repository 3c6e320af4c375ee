/* http1_scan: see http1_scan.h. A name is read byte by byte, a value eight bytes at a time. */
#include "server/http/http1_scan.h"

#include <endian.h>

#include "config/settings.h"
#include "server/http/headers.h"
#include "server/http/request.h"

#define LENGTH_DIGITS 18 /* of a Content-Length that cannot overflow */

/* What is being read: `at` moves on. */
struct cursor {
    char *at, *end;
};

/* Up to the colon, turned into lower case. False: not a name, or one with an underscore, of which header_map decides. */
static bool scan_name(struct cursor *c, struct str *name)
{
    char *start = c->at, *p = start;
    uint8_t lower;
    while (p < c->end && (lower = headers_lowered[(uint8_t)*p]) != 0)
        *p++ = (char)lower;
    if (p == start || p == c->end || *p != ':')
        return false;
    *name = (struct str){ start, (size_t)(p - start) };
    c->at = p + 1;
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static char *first_control_byte(char *p, const char *end)
{
    for (; end - p >= 8; p += 8) {
        uint64_t word;
        memcpy(&word, p, sizeof(word));
        uint64_t marks = headers_control_bytes(le64toh(word));
        if (marks)
            return p + __builtin_ctzll(marks) / 8;
    }
    while (p < end && ((uint8_t)*p >= 0x20 && *p != 0x7f))
        p++;
    return p;
}

/* Up to the line's end, and over it. */
static bool scan_value(struct cursor *c, struct str *value)
{
    while (c->at < c->end && is_blank(*c->at))
        c->at++;
    char *start = c->at, *p = first_control_byte(start, c->end);
    while (p < c->end && *p == '\t')
        p = first_control_byte(p + 1, c->end);
    if (c->end - p < 3 || p[0] != '\r' || p[1] != '\n' || is_blank(p[2])) /* a blank: obsolete folding */
        return false;
    c->at = p + 2;
    while (p > start && is_blank(p[-1]))
        p--;
    *value = (struct str){ start, (size_t)(p - start) };
    return true;
}

/* Of the fields that frame the body. llhttp looks for the second Content-Length, and at every Transfer-Encoding. */
static bool note_framing(struct http1_scan *scan, const struct field *field)
{
    if (field->name.len == 17)
        return memcmp(field->name.p, "transfer-encoding", 17) != 0;
    if (field->name.len != 14 || memcmp(field->name.p, "content-length", 14) != 0)
        return true;
    if (scan->has_length || field->value.len == 0 || field->value.len > LENGTH_DIGITS)
        return false;
    scan->has_length = true;
    for (size_t i = 0; i < field->value.len; i++) {
        if (!char_is(field->value.p[i], CHAR_DIGIT))
            return false;
        scan->length = scan->length * 10 + (uint64_t)(field->value.p[i] - '0');
    }
    return true;
}

static size_t leave(struct request *r)
{
    r->field_count = 0;
    return 0;
}

size_t http1_scan(struct request *r, const struct settings *settings, char *data, size_t len, struct http1_scan *scan)
{
    struct cursor c = { data, data + len };
    size_t size_limit = (size_t)(settings->limit_request_field_size > 0 ? settings->limit_request_field_size
                                                                        : settings->limit_request_head);
    *scan = (struct http1_scan){ 0 };
    while (c.end - c.at >= 2 && *c.at != '\r') {
        char *start = c.at;
        struct field *field = request_add_field(r, settings);
        if (field == NULL || !scan_name(&c, &field->name) || !scan_value(&c, &field->value) ||
            (size_t)(c.at - start) > size_limit || !note_framing(scan, field))
            return leave(r);
    }
    if (c.end - c.at < 2 || c.at[1] != '\n')
        return leave(r);
    return (size_t)(c.at + 2 - data);
}
