/* aioloop_stream_write: what the protocol writes, out.
 *
 * What is written during a turn is kept by reference and leaves in one system call when the turn settles, or at once when
 * it is much. What the kernel does not take is copied into `buffer`, and the writer is watched. Whoever asks for the
 * buffer from outside, or ends the connection, makes it leave first, so nobody sees that writing is late. */
#include "pyglue/aioloop_stream.h"

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define FLUSH_BYTES (64 * 1024)
#define SEND_FLAGS (MSG_NOSIGNAL | MSG_DONTWAIT)
#define PENDING_MAX 64
#define LOST_WRITES 5 /* after these, writing to a lost connection is warned of */

/* --- writing ---------------------------------------------------------------------------------------------------------- */

void stream_drop_pending(struct stream *s)
{
    PyObject **pending = s->pending, *copy[PENDING_INLINE];
    int count = s->pending_count;
    if (pending == s->pending_inline)
        pending = memcpy(copy, s->pending_inline, sizeof(copy));
    s->pending = s->pending_inline;
    s->pending_capacity = PENDING_INLINE;
    s->pending_count = 0;
    s->pending_bytes = 0;
    for (int i = 0; i < count; i++)
        Py_DECREF(pending[i]);
    if (pending != copy)
        PyMem_Free(pending);
}

static int pending_grow(struct stream *s)
{
    int capacity = s->pending_capacity * 4;
    PyObject **pending = PyMem_New(PyObject *, capacity);
    if (pending == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(pending, s->pending, (size_t)s->pending_count * sizeof(*pending));
    if (s->pending != s->pending_inline)
        PyMem_Free(s->pending);
    s->pending = pending;
    s->pending_capacity = capacity;
    return 0;
}

static int buffer_append(struct stream *s, const char *data, Py_ssize_t n)
{
    if (s->buffer == NULL && (s->buffer = PyByteArray_FromStringAndSize(NULL, 0)) == NULL)
        return -1;
    Py_ssize_t old = PyByteArray_GET_SIZE(s->buffer);
    if (PyByteArray_Resize(s->buffer, old + n) < 0)
        return -1;
    memcpy(PyByteArray_AS_STRING(s->buffer) + old, data, (size_t)n);
    return 0;
}

static int buffer_drop(struct stream *s, Py_ssize_t n)
{
    if (n == PyByteArray_GET_SIZE(s->buffer)) {
        Py_CLEAR(s->buffer);
        return 0;
    }
    return PySequence_DelSlice(s->buffer, 0, n);
}

static ssize_t send_bytes(struct stream *s, const void *data, size_t size)
{
    return s->pipe ? write(s->fd, data, size) : send(s->fd, data, size, SEND_FLAGS);
}

static ssize_t send_pending(struct stream *s)
{
    struct iovec parts[PENDING_MAX];
    for (int i = 0; i < s->pending_count; i++)
        parts[i] = (struct iovec){ PyBytes_AS_STRING(s->pending[i]), (size_t)PyBytes_GET_SIZE(s->pending[i]) };
    if (s->pending_count == 1)
        return send_bytes(s, parts[0].iov_base, parts[0].iov_len);
    if (s->pipe)
        return writev(s->fd, parts, s->pending_count);
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = (size_t)s->pending_count };
    return sendmsg(s->fd, &message, SEND_FLAGS);
}

/* Copies what was not sent. */
static int keep_rest(struct stream *s, size_t sent)
{
    for (int i = 0; i < s->pending_count; i++) {
        size_t size = (size_t)PyBytes_GET_SIZE(s->pending[i]), skip = sent < size ? sent : size;
        sent -= skip;
        if (skip < size && buffer_append(s, PyBytes_AS_STRING(s->pending[i]) + skip, (Py_ssize_t)(size - skip)) < 0)
            return -1;
    }
    return 0;
}

/* What the protocol is told of is the standard library's: `_maybe_pause_protocol` and its counterpart. */
static int maybe_pause(struct stream *s)
{
    if (s->protocol_paused || stream_unsent(s) <= s->high_water)
        return 0;
    return stream_call_in_context(s, stream_state(s)->str__maybe_pause_protocol);
}

static int maybe_resume(struct stream *s)
{
    if (!s->protocol_paused || stream_unsent(s) > s->low_water)
        return 0;
    return stream_call(s, stream_state(s)->str__maybe_resume_protocol, NULL);
}

static int keep_rest_and_watch(struct stream *s, size_t sent)
{
    int outcome = keep_rest(s, sent);
    stream_drop_pending(s);
    if (outcome < 0 || s->loop->loop == NULL)
        return outcome;
    if (watch_set(s->loop, s->fd, true, (PyObject *)s, stream_on_event) < 0)
        return -1;
    return maybe_pause(s);
}

/* A pipe's transport leaves it to us to note that the connection is lost. */
static int write_fatal(struct stream *s)
{
    s->conn_lost += s->pipe;
    return stream_fatal(s, s->pipe ? "Fatal write error on pipe transport" : "Fatal write error on socket transport");
}

static int flush_pending(struct stream *s)
{
    ssize_t sent = send_pending(s);
    if (sent == (ssize_t)s->pending_bytes) {
        stream_drop_pending(s);
        return 0;
    }
    if (sent >= 0 || errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return keep_rest_and_watch(s, sent > 0 ? (size_t)sent : 0);
    PyErr_SetFromErrno(PyExc_OSError);
    stream_drop_pending(s);
    return write_fatal(s);
}

int stream_flush(struct stream *s)
{
    if (list_empty(&s->unflushed))
        return 0;
    list_remove(&s->unflushed);
    int outcome = s->pending_count > 0 ? flush_pending(s) : 0;
    Py_DECREF(s); /* the list's */
    return outcome;
}

void streams_flush(struct aioloop *loop)
{
    while (!list_empty(&loop->unflushed)) {
        struct stream *s = LIST_ENTRY(loop->unflushed.next, struct stream, unflushed);
        if (stream_flush(s) < 0)
            aioloop_raised(loop);
    }
}

void streams_drop(struct aioloop *loop)
{
    struct list *node;
    while ((node = list_pop(&loop->unflushed)) != NULL)
        Py_DECREF((PyObject *)LIST_ENTRY(node, struct stream, unflushed));
}

int streams_traverse(struct aioloop *loop, visitproc visit, void *arg)
{
    for (struct list *node = loop->unflushed.next; node != &loop->unflushed; node = node->next)
        Py_VISIT((PyObject *)LIST_ENTRY(node, struct stream, unflushed));
    return 0;
}

/* Takes over the reference to `bytes`. */
static int queue_bytes(struct stream *s, PyObject *bytes)
{
    if (s->pending_count == s->pending_capacity && pending_grow(s) < 0) {
        Py_DECREF(bytes);
        return -1;
    }
    s->pending[s->pending_count++] = bytes;
    s->pending_bytes += (size_t)PyBytes_GET_SIZE(bytes);
    if (list_empty(&s->unflushed)) {
        Py_INCREF(s);
        list_append(&s->loop->unflushed, &s->unflushed);
        aioloop_wake(s->loop); /* when another thread writes */
    }
    bool later = s->loop->turning && s->pending_bytes < FLUSH_BYTES && s->pending_count < PENDING_MAX;
    return later ? 0 : stream_flush(s);
}

/* Behind what waits already. */
static int buffer_more(struct stream *s, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    int outcome = buffer_append(s, view.buf, view.len);
    PyBuffer_Release(&view);
    return outcome < 0 ? -1 : maybe_pause(s);
}

static bool is_bytes_like(PyObject *data)
{
    return PyBytes_Check(data) || PyByteArray_Check(data) || PyMemoryView_Check(data);
}

static int check_writable(struct stream *s, const char *method)
{
    if (s->eof)
        PyErr_Format(PyExc_RuntimeError, "Cannot call %s() after write_eof()", method);
    else if (s->empty_waiter != NULL)
        PyErr_Format(PyExc_RuntimeError, "unable to %s; sendfile is in progress", method);
    else
        return 0;
    return -1;
}

static int write_lost(struct stream *s)
{
    if (s->lost_writes < LOST_WRITES) {
        s->lost_writes++;
        return 0;
    }
    PyObject *result = PyObject_CallMethodNoArgs((PyObject *)s->loop, stream_state(s)->str__warn_lost);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int write_one(struct stream *s, PyObject *data)
{
    if (!is_bytes_like(data)) {
        PyErr_Format(PyExc_TypeError, "data argument must be a bytes-like object, not '%.200s'",
                     Py_TYPE(data)->tp_name);
        return -1;
    }
    Py_ssize_t size = PyObject_Size(data);
    if (size <= 0)
        return (int)size;
    if (s->conn_lost || (s->pipe && s->closing))
        return write_lost(s);
    if (stream_buffered(s) > 0)
        return buffer_more(s, data);
    PyObject *bytes = PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);
    return bytes ? queue_bytes(s, bytes) : -1;
}

PyObject *stream_write(PyObject *self, PyObject *data)
{
    if (check_writable(STREAM(self), "write") < 0 || write_one(STREAM(self), data) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *stream_writelines(PyObject *self, PyObject *list)
{
    PyObject *iterator = check_writable(STREAM(self), "writelines") < 0 ? NULL : PyObject_GetIter(list), *data;
    if (iterator == NULL)
        return NULL;
    int outcome = 0;
    while (outcome == 0 && (data = PyIter_Next(iterator)) != NULL) {
        outcome = write_one(STREAM(self), data);
        Py_DECREF(data);
    }
    Py_DECREF(iterator);
    return outcome < 0 || PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

/* --- the socket takes more ---------------------------------------------------------------------------------------------- */

static int write_failed(struct stream *s)
{
    PyObject *waiter = Py_XNewRef(s->empty_waiter), *error = exception_take();
    watch_unset(s->loop, s->fd, true);
    Py_CLEAR(s->buffer);
    exception_restore(Py_NewRef(error));
    int outcome = write_fatal(s);
    PyObject *set = outcome == 0 && waiter ? PyObject_CallMethod(waiter, "set_exception", "O", error) : Py_NewRef(Py_None);
    Py_XDECREF(waiter);
    Py_DECREF(error);
    Py_XDECREF(set);
    return set ? outcome : -1;
}

/* All was written. */
static int write_drained(struct stream *s)
{
    watch_unset(s->loop, s->fd, true);
    if (s->empty_waiter != NULL) {
        PyObject *waiter = Py_NewRef(s->empty_waiter), *set = PyObject_CallMethod(waiter, "set_result", "O", Py_None);
        Py_DECREF(waiter);
        Py_XDECREF(set);
        if (set == NULL)
            return -1;
    }
    if (s->closing) {
        s->conn_lost++;
        return stream_call(s, stream_state(s)->str__call_connection_lost, Py_None);
    }
    if (s->eof)
        shutdown(s->fd, SHUT_WR);
    return 0;
}

int stream_on_writable(struct stream *s)
{
    if (s->conn_lost || s->buffer == NULL)
        return 0;
    ssize_t n = send_bytes(s, PyByteArray_AS_STRING(s->buffer), (size_t)PyByteArray_GET_SIZE(s->buffer));
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            return 0;
        PyErr_SetFromErrno(PyExc_OSError);
        return write_failed(s);
    }
    if (buffer_drop(s, n) < 0 || maybe_resume(s) < 0 || stream_flush(s) < 0)
        return -1;
    return stream_buffered(s) == 0 && !s->conn_lost ? write_drained(s) : 0;
}

