/* aioloop_stream: the hot half of a transport over a socket or a pipe. What the files of the noun stream share:
 *
 *     aioloop_stream.c        its life; the type Stream, the hot half of a pipe's transport
 *     aioloop_stream_read.c   what comes, into the protocol
 *     aioloop_stream_write.c  what the protocol writes, out
 *     aioloop_connection.c    the type Connection: a stream over a socket that is its own transport */
#pragma once

#include "pyglue/aioloop_impl.h"

#define PENDING_INLINE 4
#define BASE_SLOTS 8

struct stream {
    PyObject_HEAD
    void *base_slots[BASE_SLOTS]; /* of the class that Connection derives from: unused, its attributes are descriptors here */
    struct aioloop *loop;
    PyObject *transport; /* NULL once the connection is lost; borrowed where it is the stream itself */
    PyObject *protocol, *context, *empty_waiter;
    struct list unflushed; /* in the loop's list, which holds a reference, while there are pending writes */
    PyObject **pending, *pending_inline[PENDING_INLINE];
    int pending_count, pending_capacity;
    size_t pending_bytes;
    PyObject *buffer; /* bytearray or NULL: what the kernel did not take */
    Py_ssize_t high_water, low_water;
    int fd, conn_lost, lost_writes;
    bool entered; /* `context` is, by us */
    bool pipe; /* not known to be a socket: read(), write() */
    bool eof, closing, paused, protocol_paused;
    bool reads_much; /* the last time, more than half of what one read takes */
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

/* All that has not left yet. */
static inline Py_ssize_t stream_unsent(const struct stream *s)
{
    return (Py_ssize_t)s->pending_bytes + stream_buffered(s);
}

/* aioloop_stream.c: what Stream and Connection have in common. -1 with an exception. */
int stream_init(struct stream *s, struct aioloop *loop, PyObject *transport, int fd);
int stream_traverse(PyObject *self, visitproc visit, void *arg);
int stream_clear(PyObject *self);
void stream_done(struct stream *s);
watch_event stream_on_event;
/* Watches the descriptor, unless reading is paused or over. */
int stream_start_reading(struct stream *s);
/* NULL says that the connection is lost: the descriptor is closed, its number may be another's by now. And the transport is
 * let go of, so that no cycle is left. */
int stream_set_protocol(struct stream *s, PyObject *protocol);
/* Calls it in the stream's context. `argument` may be NULL. */
PyObject *stream_run(struct stream *s, PyObject *callback, PyObject *argument);
/* Tells the protocol, in the stream's context. */
PyObject *stream_connection_lost(struct stream *s, PyObject *exception);

/* The attributes that the standard library's code finds in either type. */
PyObject *stream_get_buffer(PyObject *self, void *closure);
int stream_set_buffer(PyObject *self, PyObject *value, void *closure);
PyObject *stream_get_protocol_attribute(PyObject *self, void *closure);
int stream_set_protocol_attribute(PyObject *self, PyObject *value, void *closure);
PyObject *stream_get_empty_waiter(PyObject *self, void *closure);
int stream_set_empty_waiter(PyObject *self, PyObject *value, void *closure);
PyObject *stream_get_limit(PyObject *self, void *closure);
int stream_set_limit(PyObject *self, PyObject *value, void *closure);

#define STREAM_MEMBER(name, type, member) { name, type, offsetof(struct stream, member), 0, NULL }
#define STREAM_MEMBERS                                                                                             \
    STREAM_MEMBER("_conn_lost", T_INT, conn_lost), STREAM_MEMBER("_eof", T_BOOL, eof),                             \
    STREAM_MEMBER("_closing", T_BOOL, closing), STREAM_MEMBER("_paused", T_BOOL, paused),                          \
    STREAM_MEMBER("_protocol_paused", T_BOOL, protocol_paused)
#define STREAM_LIMIT(name, member) { name, stream_get_limit, stream_set_limit, NULL, (void *)offsetof(struct stream, member) }
#define STREAM_ATTRIBUTES                                                                                          \
    { "_buffer", stream_get_buffer, stream_set_buffer, NULL, NULL },                                               \
    { "_protocol", stream_get_protocol_attribute, stream_set_protocol_attribute, NULL, NULL },                     \
    { "_empty_waiter", stream_get_empty_waiter, stream_set_empty_waiter, NULL, NULL },                             \
    STREAM_LIMIT("_high_water", high_water), STREAM_LIMIT("_low_water", low_water)

/* Methods of both. */
PyObject *stream_is_closing(PyObject *self, PyObject *none);
PyObject *stream_is_reading(PyObject *self, PyObject *none);
PyObject *stream_get_write_buffer_size(PyObject *self, PyObject *none);

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
