/* response: see response.h. The head of a server's responses is nearly always the same: one that equals the last one is
 * not read again. */
#include "response.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct framing {
    enum { FRAMING_LENGTH, FRAMING_CHUNKED, FRAMING_UNTIL_EOF } kind;
    int status;
    uint64_t length;
    bool closes;
};

static struct {
    char bytes[RESPONSE_HEAD_BYTES];
    size_t size;
    struct framing framing;
} last;

void response_reset(struct response *r)
{
    r->part = RESPONSE_HEAD;
    r->status = 0;
    r->left = r->body_at = 0;
    r->closes = r->differs = false;
    r->head_have = 0;
}

static const char *field_value(const char *line, const char *end, const char *name)
{
    size_t size = strlen(name);
    if ((size_t)(end - line) <= size || line[size] != ':' || strncasecmp(line, name, size) != 0)
        return NULL;
    for (line += size + 1; line < end && *line == ' '; line++)
        ;
    return line;
}

static bool begins(const char *value, const char *end, const char *word)
{
    size_t size = strlen(word);
    return (size_t)(end - value) >= size && strncasecmp(value, word, size) == 0;
}

static void read_field(struct framing *f, const char *line, const char *end)
{
    const char *value;
    if ((value = field_value(line, end, "content-length"))) {
        f->kind = FRAMING_LENGTH;
        f->length = strtoull(value, NULL, 10);
    } else if ((value = field_value(line, end, "transfer-encoding")) && begins(value, end, "chunked")) {
        f->kind = FRAMING_CHUNKED;
    } else if ((value = field_value(line, end, "connection"))) {
        f->closes = begins(value, end, "close") || (f->closes && !begins(value, end, "keep-alive"));
    }
}

/* A head with its empty line. */
static bool read_head(struct framing *f, const char *head, size_t size)
{
    if (size < 16 || memcmp(head, "HTTP/1.", 7) != 0)
        return false;
    *f = (struct framing){ .kind = FRAMING_UNTIL_EOF, .status = atoi(head + 9), .closes = head[7] == '0' };
    const char *end = head + size - 2, *line = memchr(head, '\n', size);
    for (line++; line < end;) {
        const char *next = memchr(line, '\r', (size_t)(head + size - line));
        read_field(f, line, next);
        line = next + 2;
    }
    if (f->kind == FRAMING_UNTIL_EOF)
        f->closes = true;
    return true;
}

static bool take_head(struct response *r, const char *head, size_t size)
{
    if (size != last.size || memcmp(head, last.bytes, size) != 0) {
        last.size = 0;
        if (size > sizeof(last.bytes) || !read_head(&last.framing, head, size))
            return false;
        memcpy(last.bytes, head, size);
        last.size = size;
    }
    r->status = last.framing.status;
    r->closes = last.framing.closes;
    r->left = last.framing.length;
    r->part = last.framing.kind == FRAMING_LENGTH    ? RESPONSE_LENGTH
              : last.framing.kind == FRAMING_CHUNKED ? RESPONSE_SIZE
                                                     : RESPONSE_UNTIL_EOF;
    return true;
}

/* Bytes up to and with the end mark, gathered in r->head if they come in pieces. NULL: more must come, or too many came
 * (then head_have is full). */
static const char *gather(struct response *r, const char *mark, const char *data, size_t n, size_t *taken, size_t *size)
{
    size_t mark_bytes = strlen(mark);
    if (r->head_have == 0) {
        const char *at = memmem(data, n, mark, mark_bytes);
        if (at) {
            *taken = *size = (size_t)(at - data) + mark_bytes;
            return data;
        }
    }
    size_t had = r->head_have, room = sizeof(r->head) - had, add = n < room ? n : room;
    memcpy(r->head + had, data, add);
    size_t from = had < mark_bytes ? 0 : had - mark_bytes;
    const char *at = memmem(r->head + from, had + add - from, mark, mark_bytes);
    if (!at) {
        r->head_have += add;
        *taken = add;
        return NULL;
    }
    *size = (size_t)(at - r->head) + mark_bytes;
    *taken = *size - had;
    r->head_have = 0;
    return r->head;
}

static void take_body(struct response *r, const struct response_expectation *expected, const char *data, size_t n)
{
    while (n > 0 && !r->differs) {
        uint64_t at = expected->endless && expected->body_bytes ? r->body_at % expected->body_bytes : r->body_at;
        size_t known = at < expected->body_bytes ? expected->body_bytes - (size_t)at : 0, part = n < known ? n : known;
        if (part == 0 || memcmp(data, expected->body + at, part) != 0)
            r->differs = true;
        else
            r->body_at += part, data += part, n -= part;
    }
    r->body_at += n;
}

/* One step: a head, a chunk's size line, or what there is of a body. */
static enum response_outcome step(struct response *r, const struct response_expectation *expected, const char *data,
                                  size_t n, size_t *taken)
{
    size_t size = 0;
    const char *text;
    *taken = 0;
    switch (r->part) {
    case RESPONSE_HEAD:
        text = gather(r, "\r\n\r\n", data, n, taken, &size);
        if (!text)
            return r->head_have < sizeof(r->head) ? RESPONSE_MORE : RESPONSE_MALFORMED;
        if (!take_head(r, text, size))
            return RESPONSE_MALFORMED;
        return r->part == RESPONSE_LENGTH && r->left == 0 ? RESPONSE_DONE : RESPONSE_MORE;
    case RESPONSE_SIZE:
        text = gather(r, "\r\n", data, n, taken, &size);
        if (!text)
            return r->head_have < 64 ? RESPONSE_MORE : RESPONSE_MALFORMED;
        r->left = strtoull(text, NULL, 16);
        r->part = r->left ? RESPONSE_CHUNK : RESPONSE_TRAILER;
        return RESPONSE_MORE;
    case RESPONSE_LENGTH:
    case RESPONSE_CHUNK:
        *taken = n < r->left ? n : (size_t)r->left;
        take_body(r, expected, data, *taken);
        r->left -= *taken;
        if (r->left > 0)
            return RESPONSE_MORE;
        if (r->part == RESPONSE_LENGTH)
            return RESPONSE_DONE;
        r->part = RESPONSE_CHUNK_END;
        return RESPONSE_MORE;
    case RESPONSE_CHUNK_END:
        text = gather(r, "\r\n", data, n, taken, &size);
        r->part = text ? RESPONSE_SIZE : RESPONSE_CHUNK_END;
        return !text || size == 2 ? RESPONSE_MORE : RESPONSE_MALFORMED;
    case RESPONSE_TRAILER:
        text = gather(r, "\r\n", data, n, taken, &size);
        return text && size == 2 ? RESPONSE_DONE : RESPONSE_MORE;
    default:
        *taken = n;
        take_body(r, expected, data, n);
        return RESPONSE_MORE;
    }
}

enum response_outcome response_feed(struct response *r, const struct response_expectation *expected, const char *data,
                                    size_t n, size_t *taken)
{
    enum response_outcome outcome = RESPONSE_MORE;
    for (*taken = 0; outcome == RESPONSE_MORE && *taken < n;) {
        size_t now;
        outcome = step(r, expected, data + *taken, n - *taken, &now);
        *taken += now;
    }
    return outcome;
}

enum response_outcome response_eof(const struct response *r)
{
    return r->part == RESPONSE_UNTIL_EOF ? RESPONSE_DONE : RESPONSE_MALFORMED;
}
