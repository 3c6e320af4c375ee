/* buf: see buf.h. */
#include "server/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/base/mem.h"

#define BUF_MIN_BYTES 256

static void buf_compact(struct buf *b)
{
    memmove(b->data, b->data + b->start, buf_len(b));
    b->end -= b->start;
    b->start = 0;
}

static void buf_grow(struct buf *b, size_t need)
{
    size_t cap = b->cap < BUF_MIN_BYTES ? BUF_MIN_BYTES : b->cap;
    while (cap < need)
        cap *= 2;
    b->data = mem_realloc(b->data, cap);
    b->cap = cap;
}

char *buf_reserve(struct buf *b, size_t n)
{
    if (b->cap - b->end < n) {
        /* Moving is worth it only when at least half of the memory is free in front. */
        if (b->start >= b->cap / 2 && b->start > 0)
            buf_compact(b);
        if (b->cap - b->end < n)
            buf_grow(b, b->end + n);
    }
    return b->data + b->end;
}

void buf_append(struct buf *b, const void *data, size_t n)
{
    if (n == 0)
        return;
    memcpy(buf_reserve(b, n), data, n);
    b->end += n;
}

void buf_printf(struct buf *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n > 0) {
        vsnprintf(buf_reserve(b, (size_t)n + 1), (size_t)n + 1, format, again);
        b->end += (size_t)n;
    }
    va_end(again);
}

void buf_consume(struct buf *b, size_t n)
{
    b->start += n;
    if (b->start == b->end)
        b->start = b->end = 0;
}

void buf_reset(struct buf *b, size_t keep_bytes)
{
    if (b->cap > keep_bytes)
        buf_done(b);
    b->start = b->end = 0;
}

void buf_done(struct buf *b)
{
    free(b->data);
    *b = (struct buf){ 0 };
}
