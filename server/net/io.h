/* io: an opaque byte stream over a connected socket, with backpressure both ways. It knows nothing of what the
 * bytes mean. Embedded in its owner (a conn); safe to io_close() inside any of its own callbacks.
 *
 *        socket --read--> loop's shared buffer --on_data--> owner
 *                              | what the owner did not consume
 *                              v
 *                            io->in  --on_data, after io_resume()--> owner
 *
 *        owner --io_write--> chunks + out --one writev at the end of the callback or turn--> socket
 *
 * Writing only queues; what is queued is sent after every on_data, at the end of the turn, when more than
 * IO_HIGH_WATER lies there, or by io_flush(). Above IO_HIGH_WATER io_is_full() says so; at or below IO_LOW_WATER the
 * owner gets on_writable, once. No function that the owner calls calls back from inside, io_wait() excepted: events
 * come from the loop, or at the end of the turn. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "server/base/buf.h"
#include "server/base/list.h"
#include "server/net/claim.h"
#include "server/net/libev.h"
#include "server/net/loop.h"

#define IO_HIGH_WATER (64 * 1024)
#define IO_LOW_WATER (16 * 1024)
#define IO_REF_BYTES (16 * 1024) /* from this size on a chunk is sent from where it lies rather than copied */

struct io;

struct io_events {
    /* Bytes have come. Returns how many were consumed. The rest comes again: after io_resume() if the owner has called
     * io_pause(), else at the end of the turn. `data` lasts until the return. */
    size_t (*on_data)(struct io *io, const char *data, size_t len);
    /* The peer has closed its sending side; comes once, after the last byte was consumed. Writing goes on. */
    void (*on_eof)(struct io *io);
    /* After io_is_full() was true: what is queued has fallen to IO_LOW_WATER. */
    void (*on_writable)(struct io *io);
    /* Everything that was queued is in the kernel's hands. Only asked for by io_notify_drained(). */
    void (*on_drained)(struct io *io);
    /* The connection is broken (ECONNRESET, EPIPE, …). Nothing else comes after it; the owner must io_close(). */
    void (*on_error)(struct io *io, int error);
};

/* Memory or a file that io sends from where it lies; released once, when sent or when the io is closed. */
struct io_ref {
    void (*release)(void *arg);
    void *arg;
};

struct io {
    struct loop *loop;
    struct claim *claim; /* who may touch it (claim.h); NULL: the loop alone */
    const struct io_events *events;
    struct ev_io readable, writable;
    struct loop_task settle_task; /* flush, report, redeliver */
    struct buf in;          /* read but not consumed; only while paused */
    struct buf out;         /* the tail of what is queued */
    struct list chunks;     /* what is queued before `out`: struct io_chunk */
    size_t queued_bytes;    /* chunks and out together, files included */
    uint64_t last_read_ms;  /* when bytes last came (loop time) */
    uint64_t last_write_ms; /* when the kernel last took bytes, or the queue was last empty */
    uint64_t bytes_in, bytes_out;
    int fd; /* -1: closed */
    bool paused : 1;        /* the owner does not want to read */
    bool eof : 1;           /* the peer's sending side is closed */
    bool eof_told : 1;
    bool broken : 1;        /* on_error was given */
    bool full : 1;          /* high water was passed, on_writable is owed */
    bool want_drained : 1;
    bool blocked : 1;       /* the kernel took less than was offered: wait for writable */
    bool shutdown_wanted : 1;
    bool shut : 1;          /* our sending side is closed */
    bool may_rest : 1;      /* the owner's: nothing is under way, any other process could go on with it */
    bool in_callback : 1;   /* on_data is running: it flushes afterwards */
    bool copies_files : 1;  /* the owner's: without sendfile(2) */
    uint16_t error;         /* why it is broken */
};

/* Takes `fd` (connected, non-blocking, close-on-exec) over. Reading starts at once. */
void io_init(struct io *io, struct loop *loop, int fd, const struct io_events *events);

/* Closes the descriptor, releases what is queued, stops all callbacks. Idempotent. */
void io_close(struct io *io);
/* Whoever comes to an io otherwise than by its own events asks first: false, another process has it. It may only be closed
 * then, by io_give(). */
static inline bool io_claim(struct io *io)
{
    return io->claim == NULL || atomic_load_explicit(&io->claim->owner, memory_order_relaxed) == CLAIM_LOOP ||
           claim_take(io->claim, io);
}
/* … and lets go of it afterwards: if it may_rest and nothing is to be sent, it is anybody's. */
void io_rest(struct io *io);

/* The connection is another process's from now on, which has a copy of the descriptor: closes ours, and the connection does
 * not feel it. Otherwise as io_close(). */
void io_give(struct io *io);
/* As io_close(), but the peer sees a reset: what was sent must not look complete. */
void io_abort(struct io *io);
static inline bool io_closed(const struct io *io)
{
    return io->fd < 0;
}

/* The peer has closed both ways, or reset: seen without reading, so while paused too. One system call. */
bool io_is_gone(const struct io *io);

/* Half-close once everything queued is sent: shutdown(SHUT_WR). Follow with lingering reads. */
void io_shutdown(struct io *io);

/* Stop and start reading. io_resume() never calls back from inside: bytes kept in `in` come at the end of the turn. */
void io_pause(struct io *io);
void io_resume(struct io *io);

/* Bytes that were read elsewhere, by whoever had the connection before: come to on_data at the end of the turn. */
void io_unread(struct io *io, const void *data, size_t len);

/* Queue bytes: copied. */
void io_write(struct io *io, const void *data, size_t len);
/* Queue bytes that stay valid until `ref` is released. */
void io_write_ref(struct io *io, const void *data, size_t len, struct io_ref ref);
/* Queue `len` bytes of a file, sent by sendfile(2), or read and written where that is not possible, or not wanted. */
void io_write_file(struct io *io, int fd, off_t offset, size_t len, struct io_ref ref);
/* The tail buffer, to format into; follow with io_written(). */
struct buf *io_out(struct io *io);
void io_written(struct io *io, size_t bytes);

/* Send now what can be sent without waiting. */
void io_flush(struct io *io);
void io_notify_drained(struct io *io);

static inline bool io_is_full(const struct io *io)
{
    return io->queued_bytes > IO_HIGH_WATER;
}

/* For a thread that must wait for this socket outside the loop (WSGI inline): waits at most `timeout_ms` (-1:
 * no limit) until it is readable or writable (POLLIN, POLLOUT), then reads or flushes once, with the same
 * callbacks as the loop. Returns 1 on progress, 0 on timeout, -1 when the io is closed or broken. */
int io_wait(struct io *io, short events, int timeout_ms);
