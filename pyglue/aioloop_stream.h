/* aioloop_stream: the hot half of a transport over a socket or a pipe. What the files of the noun stream share:
 *
 *     aioloop_stream.c        the type
 *     aioloop_stream_read.c   what comes, into the protocol
 *     aioloop_stream_write.c  what the protocol writes, out */
#pragma once

#include "pyglue/aioloop_impl.h"

#define PENDING_INLINE 4

struct stream {
    PyObject_HEAD
    struct aioloop *loop;
    PyObject *transport; /* NULL once the connection is lost */
    PyObject *protocol, *context, *empty_waiter;
    struct list unflushed; /* in the loop's list, which holds a reference, while there are pending writes */
    PyObject **pending, *pending_inline[PENDING_INLINE];
    int pending_count, pending_capacity;
    size_t pending_bytes;
    PyObject *buffer; /* bytearray or NULL: what the kernel did not take */
    int fd, conn_lost, lost_writes;
    bool entered; /* `context` is, by us */
    bool pipe; /* not known to be a socket: read(), write() */
    bool eof, closing, paused;
    bool buffered_protocol, tls; /* what the protocol is: BufferedProtocol, TlsBase */
};

#define STREAM(object) ((struct stream *)(object))

static inline struct aioloop_state *stream_state(struct stream *s)
{
    return s->loop->state;
}

static inline Py_ssize_t stream_buffered(const struct stream *s)
{
    return s->buffer ? PyByteArray_GET_SIZE(s->buffer) : 0;
}

/* Calls a method of the transport. -1 with an exception. */
int stream_call(struct stream *s, PyObject *method, PyObject *argument);
/* The same, in the stream's context: whoever writes is in another. */
int stream_call_in_context(struct stream *s, PyObject *method);
/* Passes the exception that is set to the transport, as the standard library does, which ends it; but lets those through
 * that leave the loop. -1 if an exception is set afterwards. */
int stream_fatal(struct stream *s, const char *message);

/* aioloop_stream_read.c. -1 with an exception. */
int stream_on_readable(struct stream *s);

/* aioloop_stream_write.c. All: -1 with an exception. */
int stream_on_writable(struct stream *s);
int stream_flush(struct stream *s);
void stream_drop_pending(struct stream *s);
PyObject *stream_write(PyObject *self, PyObject *data);
PyObject *stream_writelines(PyObject *self, PyObject *list);
