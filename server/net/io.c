/* io: see io.h. The way of an event: a libev watcher or the end of the turn calls; bytes move; then io_report() tells
 * the owner, always last, since the owner may close (though not free) the io in any callback. */
#include "server/net/io.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "server/base/mem.h"

#define IO_IOVECS 16
#define IO_FILE_BYTES (1024 * 1024) /* of a file, at most, in one call: other connections want their turn */

enum chunk_kind { CHUNK_OWNED, CHUNK_REF, CHUNK_FILE };

struct io_chunk {
    struct list node;
    enum chunk_kind kind;
    struct buf owned;
    const char *data;
    size_t len; /* left to send */
    int fd;
    off_t offset;
    struct io_ref ref;
};

static void io_settle(struct loop_task *task);
static void on_readable(struct ev_loop *ev, struct ev_io *watcher, int revents);
static void on_socket_writable(struct ev_loop *ev, struct ev_io *watcher, int revents);

void io_init(struct io *io, struct loop *loop, int fd, const struct io_events *events)
{
    *io = (struct io){ .loop = loop, .fd = fd, .events = events };
    io->claim = loop_claims(loop) ? claims_at(loop_claims(loop), fd) : NULL;
    io->last_read_ms = io->last_write_ms = loop_now_ms(loop);
    list_init(&io->chunks);
    loop_task_init(&io->settle_task, io_settle);
    ev_io_init(&io->readable, on_readable, fd, EV_READ);
    ev_io_init(&io->writable, on_socket_writable, fd, EV_WRITE);
    ev_io_start(loop_ev(loop), &io->readable);
    if (io->claim)
        loop_watch_now(loop);
}

void io_rest(struct io *io)
{
    if (io->claim && io->may_rest && io->fd >= 0 && io->queued_bytes == 0 && !io->eof && !io->broken &&
        buf_len(&io->in) <= LOOP_READ_BYTES)
        atomic_store_explicit(&io->claim->owner, (uintptr_t)io, memory_order_release);
}

static void chunk_free(struct io *io, struct io_chunk *chunk)
{
    list_remove(&chunk->node);
    if (chunk->kind == CHUNK_OWNED)
        loop_give_buffer(io->loop, &chunk->owned);
    else if (chunk->ref.release)
        chunk->ref.release(chunk->ref.arg);
    free(chunk);
}

static void io_drop_queue(struct io *io)
{
    LIST_EACH(node, &io->chunks)
        chunk_free(io, LIST_ENTRY(node, struct io_chunk, node));
    loop_give_buffer(io->loop, &io->out);
    io->queued_bytes = 0;
}

static void io_stop(struct io *io)
{
    ev_io_stop(loop_ev(io->loop), &io->readable);
    ev_io_stop(loop_ev(io->loop), &io->writable);
}

static void io_end(struct io *io)
{
    if (io->fd < 0)
        return;
    io_stop(io);
    loop_task_cancel(&io->settle_task);
    if (io->claim)
        atomic_store_explicit(&io->claim->owner, CLAIM_LOOP, memory_order_relaxed);
    close(io->fd);
    io->fd = -1;
    io_drop_queue(io);
    buf_done(&io->in);
}

/* A copy may live elsewhere: in a sibling that has just passed this connection on, in a child of the application's. */
void io_close(struct io *io)
{
    if (io->fd >= 0 && !(io->shut && io->eof))
        shutdown(io->fd, SHUT_RDWR);
    io_end(io);
}

void io_abort(struct io *io)
{
    struct linger hard = { .l_onoff = 1, .l_linger = 0 };
    if (io->fd >= 0)
        setsockopt(io->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    io_end(io);
}

void io_give(struct io *io)
{
    if (io->fd >= 0)
        epoll_ctl(loop_poll_fd(io->loop), EPOLL_CTL_DEL, io->fd, NULL);
    io_end(io);
}

static void io_break(struct io *io, int error)
{
    io->broken = true;
    io->error = (uint16_t)error;
    io_stop(io);
    io_drop_queue(io);
}

/* --- reporting: the owner's callbacks, and nothing after them --------------------------------------------------- */

static bool io_settled(const struct io *io)
{
    return io->fd < 0 || io->broken;
}

static void io_report(struct io *io)
{
    if (io->fd >= 0 && io->broken && io->error != 0) {
        int error = io->error;
        io->error = 0;
        io->events->on_error(io, error);
        return;
    }
    if (!io_settled(io) && io->full && io->queued_bytes <= IO_LOW_WATER) {
        io->full = false;
        if (io->events->on_writable)
            io->events->on_writable(io);
    }
    if (!io_settled(io) && io->want_drained && io->queued_bytes == 0) {
        io->want_drained = false;
        if (io->events->on_drained)
            io->events->on_drained(io);
    }
}

static void io_tell_eof(struct io *io)
{
    if (io_settled(io) || !io->eof || io->eof_told || io->paused || buf_len(&io->in) > 0)
        return;
    io->eof_told = true;
    if (io->events->on_eof)
        io->events->on_eof(io);
}

/* --- sending ------------------------------------------------------------------------------------------------------- */

static void io_await_writable(struct io *io, bool wanted)
{
    io->blocked = wanted;
    if (!wanted) {
        ev_io_stop(loop_ev(io->loop), &io->writable);
        return;
    }
    loop_touch(io->loop);
    ev_io_start(loop_ev(io->loop), &io->writable);
}

static void io_sent(struct io *io, size_t n)
{
    io->queued_bytes -= n;
    io->bytes_out += n;
    io->last_write_ms = loop_now_ms(io->loop);
}

/* Takes `n` sent bytes off the front of the queue. */
static void io_advance(struct io *io, size_t n)
{
    io_sent(io, n);
    while (n > 0 && !list_empty(&io->chunks)) {
        struct io_chunk *chunk = LIST_ENTRY(io->chunks.next, struct io_chunk, node);
        size_t part = n < chunk->len ? n : chunk->len;
        chunk->data += part;
        chunk->len -= part;
        n -= part;
        if (chunk->len == 0)
            chunk_free(io, chunk);
    }
    if (n > 0)
        buf_consume(&io->out, n);
}

static int io_gather(struct io *io, struct iovec *iov, size_t *total)
{
    int count = 0;
    *total = 0;
    LIST_EACH(node, &io->chunks) {
        struct io_chunk *chunk = LIST_ENTRY(node, struct io_chunk, node);
        if (chunk->kind == CHUNK_FILE || count == IO_IOVECS)
            return count;
        iov[count++] = (struct iovec){ (void *)chunk->data, chunk->len };
        *total += chunk->len;
    }
    if (count < IO_IOVECS && buf_len(&io->out) > 0) {
        iov[count++] = (struct iovec){ io->out.data + io->out.start, buf_len(&io->out) };
        *total += buf_len(&io->out);
    }
    return count;
}

/* What a socket refuses to take from a file's pages, or is not to, goes through memory. */
static ssize_t copy_file(int to, int from, off_t offset, size_t len)
{
    char bytes[16 * 1024];
    ssize_t n = pread(from, bytes, len < sizeof(bytes) ? len : sizeof(bytes), offset);
    return n > 0 ? write(to, bytes, (size_t)n) : n;
}

static ssize_t io_send_file(struct io *io, struct io_chunk *chunk, size_t *wanted)
{
    off_t offset = chunk->offset;
    *wanted = chunk->len < IO_FILE_BYTES ? chunk->len : IO_FILE_BYTES;
    ssize_t n = io->copies_files ? -1 : sendfile(io->fd, chunk->fd, &offset, *wanted);
    if (io->copies_files || (n < 0 && (errno == EINVAL || errno == ENOSYS)))
        n = copy_file(io->fd, chunk->fd, chunk->offset, *wanted);
    if (n == 0) { /* the file has become shorter than what was promised: the rest can never come */
        errno = EIO;
        return -1;
    }
    if (n > 0)
        chunk->offset += n;
    return n;
}

static ssize_t io_send_some(struct io *io, size_t *wanted)
{
    if (list_empty(&io->chunks)) {
        *wanted = buf_len(&io->out);
        return write(io->fd, io->out.data + io->out.start, *wanted);
    }
    struct io_chunk *first = LIST_ENTRY(io->chunks.next, struct io_chunk, node);
    if (first->kind == CHUNK_FILE)
        return io_send_file(io, first, wanted);
    struct iovec iov[IO_IOVECS];
    int count = io_gather(io, iov, wanted);
    return writev(io->fd, iov, count);
}

/* Nothing is left to send. */
static void io_sent_all(struct io *io)
{
    if (io->blocked)
        io_await_writable(io, false);
    loop_give_buffer(io->loop, &io->out);
    if (io->shutdown_wanted) {
        io->shutdown_wanted = false;
        io->shut = true;
        shutdown(io->fd, SHUT_WR);
    }
}

/* Sends until the queue is empty or the kernel takes no more. Calls nobody back. */
static void io_send(struct io *io)
{
    while (!io_settled(io) && io->queued_bytes > 0) {
        size_t wanted;
        ssize_t n = io_send_some(io, &wanted);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            io_break(io, errno);
            return;
        }
        if (n > 0)
            io_advance(io, (size_t)n);
        if (n < (ssize_t)wanted) {
            io_await_writable(io, true);
            return;
        }
        if (wanted == IO_FILE_BYTES) {
            io_await_writable(io, true); /* go on in the next turn */
            return;
        }
    }
    if (!io_settled(io))
        io_sent_all(io);
}

static bool io_owes_report(const struct io *io)
{
    return (io->broken && io->error != 0) || (io->full && io->queued_bytes <= IO_LOW_WATER) ||
           (io->want_drained && io->queued_bytes == 0);
}

void io_flush(struct io *io)
{
    if (io_settled(io))
        return;
    if (!io->blocked)
        io_send(io);
    if (io_owes_report(io) && !io->in_callback)
        loop_defer(io->loop, &io->settle_task);
}

static void on_socket_writable(struct ev_loop *ev, struct ev_io *watcher, int revents)
{
    (void)ev, (void)revents;
    struct io *io = LIST_ENTRY(watcher, struct io, writable);
    if (!io_claim(io))
        return;
    io_send(io);
    io_report(io);
    io_rest(io);
}

/* --- queueing ------------------------------------------------------------------------------------------------------ */

/* After bytes were queued: when to send them. */
static void io_queued(struct io *io, size_t n)
{
    if (io->queued_bytes == 0)
        io->last_write_ms = loop_now_ms(io->loop);
    io->queued_bytes += n;
    if (io->queued_bytes > IO_HIGH_WATER && !io->blocked)
        io_send(io);
    if (io->queued_bytes > IO_HIGH_WATER)
        io->full = true;
    if (!io->in_callback && (!io->blocked || io_owes_report(io)))
        loop_defer(io->loop, &io->settle_task);
}

struct buf *io_out(struct io *io)
{
    if (io->out.cap == 0)
        io->out = loop_take_buffer(io->loop);
    return &io->out;
}

void io_written(struct io *io, size_t bytes)
{
    if (io_settled(io))
        loop_give_buffer(io->loop, &io->out);
    else
        io_queued(io, bytes);
}

void io_write(struct io *io, const void *data, size_t len)
{
    if (io_settled(io) || len == 0)
        return;
    buf_append(io_out(io), data, len);
    io_queued(io, len);
}

static struct io_chunk *io_add_chunk(struct io *io, enum chunk_kind kind, size_t len)
{
    struct io_chunk *chunk = mem_zalloc(sizeof(*chunk));
    chunk->kind = kind;
    chunk->len = len;
    list_append(&io->chunks, &chunk->node);
    return chunk;
}

/* The tail becomes a chunk, so that another can follow it. */
static void io_close_tail(struct io *io)
{
    if (buf_len(&io->out) == 0)
        return;
    struct io_chunk *chunk = io_add_chunk(io, CHUNK_OWNED, buf_len(&io->out));
    chunk->owned = io->out;
    chunk->data = io->out.data + io->out.start;
    io->out = (struct buf){ 0 };
}

static void ref_release(struct io_ref ref)
{
    if (ref.release)
        ref.release(ref.arg);
}

void io_write_ref(struct io *io, const void *data, size_t len, struct io_ref ref)
{
    if (io_settled(io) || len < IO_REF_BYTES) {
        io_write(io, data, len);
        ref_release(ref);
        return;
    }
    io_close_tail(io);
    struct io_chunk *chunk = io_add_chunk(io, CHUNK_REF, len);
    chunk->data = data;
    chunk->ref = ref;
    io_queued(io, len);
}

void io_write_file(struct io *io, int fd, off_t offset, size_t len, struct io_ref ref)
{
    if (io_settled(io) || len == 0) {
        ref_release(ref);
        return;
    }
    io_close_tail(io);
    struct io_chunk *chunk = io_add_chunk(io, CHUNK_FILE, len);
    chunk->fd = fd;
    chunk->offset = offset;
    chunk->ref = ref;
    io_queued(io, len);
}

void io_shutdown(struct io *io)
{
    if (io_settled(io))
        return;
    io->shutdown_wanted = true;
    io_flush(io);
}

void io_notify_drained(struct io *io)
{
    io->want_drained = true;
    if (io->queued_bytes == 0 && !io_settled(io))
        loop_defer(io->loop, &io->settle_task);
}

/* --- receiving ----------------------------------------------------------------------------------------------------- */

static void io_update_reading(struct io *io)
{
    if (io_settled(io))
        return;
    if (io->paused || io->eof || buf_len(&io->in) > 0) {
        ev_io_stop(loop_ev(io->loop), &io->readable);
        return;
    }
    loop_touch(io->loop);
    ev_io_start(loop_ev(io->loop), &io->readable);
}

static bool io_call_on_data(struct io *io, const char *data, size_t len, size_t *used)
{
    bool outer = io->in_callback; /* io_wait() may bring us here from inside on_data */
    io->in_callback = true;
    *used = io->events->on_data(io, data, len);
    io->in_callback = outer;
    return !io_settled(io);
}

/* After on_data: what it queued leaves in one write. */
static void io_finish_delivery(struct io *io)
{
    if (io->queued_bytes > 0 && !io->blocked)
        io_send(io);
    io_report(io);
    io_tell_eof(io);
}

static void io_deliver(struct io *io, const char *data, size_t len)
{
    size_t used;
    if (io_call_on_data(io, data, len, &used) && used < len) {
        buf_append(&io->in, data + used, len - used);
        if (!io->paused)
            loop_defer(io->loop, &io->settle_task);
        io_update_reading(io);
    }
    if (io->fd >= 0)
        io_finish_delivery(io);
}

/* Delivers again what was kept. The buffer is taken out meanwhile: on_data may close the io, which empties `in`. */
static void io_redeliver(struct io *io)
{
    struct buf held = io->in;
    size_t used = 0;
    io->in = (struct buf){ 0 };
    bool alive = io_call_on_data(io, held.data + held.start, buf_len(&held), &used);
    buf_consume(&held, used < buf_len(&held) ? used : buf_len(&held));
    if (alive && buf_len(&held) > 0) {
        buf_append_str(&held, buf_str(&io->in)); /* what io_wait() read meanwhile comes behind */
        buf_done(&io->in);
        io->in = held;
    } else {
        buf_done(&held);
    }
    if (io->fd >= 0)
        io_finish_delivery(io);
}

/* One read(2). 1: bytes or the end have come; 0: nothing is there; -1: broken. */
static int io_read(struct io *io, char *buffer)
{
    ssize_t n;
    do
        n = read(io->fd, buffer, LOOP_READ_BYTES);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (errno == EAGAIN)
            return 0;
        io_break(io, errno);
        io_report(io);
        return -1;
    }
    if (n == 0) {
        io->eof = true;
        io_update_reading(io);
        io_tell_eof(io);
        return 1;
    }
    io->last_read_ms = loop_now_ms(io->loop);
    io->bytes_in += (size_t)n;
    io_deliver(io, buffer, (size_t)n);
    return 1;
}

static void on_readable(struct ev_loop *ev, struct ev_io *watcher, int revents)
{
    (void)ev, (void)revents;
    struct io *io = LIST_ENTRY(watcher, struct io, readable);
    if (!io_claim(io))
        return;
    io_read(io, loop_read_buffer(io->loop));
    io_rest(io);
}

void io_pause(struct io *io)
{
    io->paused = true;
    io_update_reading(io);
}

void io_resume(struct io *io)
{
    if (!io->paused)
        return;
    io->paused = false;
    if (io_settled(io))
        return;
    if (buf_len(&io->in) > 0 || (io->eof && !io->eof_told))
        loop_defer(io->loop, &io->settle_task);
    else
        io_update_reading(io);
}

void io_unread(struct io *io, const void *data, size_t len)
{
    if (io_settled(io) || len == 0)
        return;
    buf_append(&io->in, data, len);
    io_update_reading(io);
    loop_defer(io->loop, &io->settle_task);
}

/* The end of the turn: what was queued leaves, what is owed is told, what was kept comes again. */
static void io_settle_claimed(struct io *io)
{
    if (!io_settled(io) && io->queued_bytes > 0 && !io->blocked)
        io_send(io);
    if (!io_settled(io) && !io->paused && buf_len(&io->in) > 0) {
        io_redeliver(io);
        io_update_reading(io);
        if (!io_settled(io) && !io->paused && buf_len(&io->in) > 0)
            loop_defer(io->loop, &io->settle_task);
        return;
    }
    io_report(io);
    io_tell_eof(io);
}

static void io_settle(struct loop_task *task)
{
    struct io *io = LIST_ENTRY(task, struct io, settle_task);
    if (!io_claim(io))
        return;
    io_settle_claimed(io);
    io_rest(io);
}

bool io_is_gone(const struct io *io)
{
    struct pollfd looked = { .fd = io->fd };
    return io_settled(io) || (poll(&looked, 1, 0) > 0 && (looked.revents & (POLLHUP | POLLERR)));
}

int io_wait(struct io *io, short events, int timeout_ms)
{
    if (io_settled(io))
        return -1;
    if ((events & POLLIN) && buf_len(&io->in) > 0 && !io->paused) {
        io_redeliver(io);
        return io_settled(io) ? -1 : 1;
    }
    struct pollfd waiting = { .fd = io->fd, .events = events };
    int ready = poll(&waiting, 1, timeout_ms);
    loop_update_now(io->loop);
    if (ready <= 0)
        return ready < 0 && errno != EINTR ? -1 : ready < 0 ? 1 : 0;
    if (events & POLLOUT) {
        io_send(io);
        io_report(io);
    }
    if ((events & POLLIN) && !io_settled(io) && !io->eof)
        io_read(io, loop_wait_buffer(io->loop));
    return io_settled(io) ? -1 : 1;
}
