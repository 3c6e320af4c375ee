/* buf: a growable queue of bytes: append at the end, consume at the front.
 *
 *     data        start           end             cap
 *      |  consumed  |   content    |     room      |
 *
 * Memory comes from malloc; running out of it is fatal (base/mem.h). The owner bounds what it appends. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/str.h"

struct buf {
    char *data;
    size_t start, end, cap;
};

static inline size_t buf_len(const struct buf *b)
{
    return b->end - b->start;
}

static inline struct str buf_str(const struct buf *b)
{
    return (struct str){ b->data ? b->data + b->start : "", b->end - b->start };
}

/* Makes room for `n` more bytes; returns where they go. Follow with buf_commit(). */
char *buf_reserve(struct buf *b, size_t n);

static inline void buf_commit(struct buf *b, size_t n)
{
    b->end += n;
}

void buf_append(struct buf *b, const void *data, size_t n);

static inline void buf_append_str(struct buf *b, struct str s)
{
    buf_append(b, s.p, s.len);
}

void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Drops `n` bytes at the front; n <= buf_len(). An empty buffer starts again at 0 and keeps its memory. */
void buf_consume(struct buf *b, size_t n);

/* Empties; keeps the memory if it is at most `keep_bytes`, else gives it back. */
void buf_reset(struct buf *b, size_t keep_bytes);

/* Gives the memory back; the struct is usable again as an empty buffer. */
void buf_done(struct buf *b);
