/* aioloop_stream: the hot half of a socket transport: read() into the protocol, write() out of it. The other half is
 * the standard library's transport (licorne/loop.py joins them): what it keeps in attributes, such as _closing or
 * _buffer, is kept here, and it finds it by descriptors.
 *
 * Reading: the watcher's callback reads and calls the protocol at once, inside the poll.
 * Writing: what is written during a turn is kept by reference and leaves in one system call when the turn settles, or at
 * once when it is much. What the kernel does not take is copied into `buffer`, and the writer is watched. Whoever asks
 * for the buffer from outside, or ends the connection, makes it leave first, so nobody sees that writing is late. */
#include "pyglue/aioloop_impl.h"

#include <structmember.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define FLUSH_BYTES (64 * 1024)
#define SEND_FLAGS (MSG_NOSIGNAL | MSG_DONTWAIT)
#define PENDING_INLINE 4
#define PENDING_MAX 64
#define LOST_WRITES 5 /* after these, writing to a lost connection is warned of */

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
    int fd, conn_lost;
    bool eof, closing, paused, buffered_protocol;
};

#define STREAM(object) ((struct stream *)(object))

static struct aioloop_state *state_of(struct stream *s)
{
    return s->loop->state;
}

static Py_ssize_t buffered_bytes(const struct stream *s)
{
    return s->buffer ? PyByteArray_GET_SIZE(s->buffer) : 0;
}

/* --- failures --------------------------------------------------------------------------------------------------------- */

static PyObject *call_transport(struct stream *s, PyObject *method, PyObject *a, PyObject *b)
{
    if (s->transport == NULL)
        Py_RETURN_NONE;
    PyObject *args[] = { Py_NewRef(s->transport), a, b }; /* the call may make us let go of it */
    PyObject *result = PyObject_VectorcallMethod(method, args, a == NULL ? 1 : b == NULL ? 2 : 3, NULL);
    Py_DECREF(args[0]);
    return result;
}

/* Passes the exception that is set to the transport, as the standard library does; but lets those through that leave
 * the loop. -1 if an exception is set afterwards. */
static int fatal(struct stream *s, const char *message)
{
    if (exception_leaves_loop())
        return -1;
    PyObject *exception = exception_take(), *text = PyUnicode_FromString(message);
    PyObject *result = text ? call_transport(s, state_of(s)->str__fatal_error, exception, text) : NULL;
    Py_DECREF(exception);
    Py_XDECREF(text);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int call_and_forget(struct stream *s, PyObject *method, PyObject *argument)
{
    PyObject *result = call_transport(s, method, argument, NULL);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* --- writing ---------------------------------------------------------------------------------------------------------- */

static void pending_clear(struct stream *s)
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

static ssize_t send_pending(struct stream *s)
{
    struct iovec parts[PENDING_MAX];
    for (int i = 0; i < s->pending_count; i++)
        parts[i] = (struct iovec){ PyBytes_AS_STRING(s->pending[i]), (size_t)PyBytes_GET_SIZE(s->pending[i]) };
    if (s->pending_count == 1)
        return send(s->fd, parts[0].iov_base, parts[0].iov_len, SEND_FLAGS);
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

static int keep_rest_and_watch(struct stream *s, size_t sent)
{
    int outcome = keep_rest(s, sent);
    pending_clear(s);
    if (outcome < 0 || s->loop->loop == NULL)
        return outcome;
    if (watch_set(s->loop, s->fd, true, (PyObject *)s) < 0)
        return -1;
    return call_and_forget(s, state_of(s)->str__maybe_pause_protocol, NULL);
}

static int flush_pending(struct stream *s)
{
    ssize_t sent = send_pending(s);
    if (sent == (ssize_t)s->pending_bytes) {
        pending_clear(s);
        return 0;
    }
    if (sent >= 0 || errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return keep_rest_and_watch(s, sent > 0 ? (size_t)sent : 0);
    PyErr_SetFromErrno(PyExc_OSError);
    pending_clear(s);
    return fatal(s, "Fatal write error on socket transport");
}

/* -1 with an exception. */
static int stream_flush(struct stream *s)
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
    bool now = s->pending_bytes >= FLUSH_BYTES || s->pending_count == PENDING_MAX || s->loop->loop == NULL;
    return now ? stream_flush(s) : 0;
}

/* Behind what waits already. */
static int buffer_more(struct stream *s, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    int outcome = buffer_append(s, view.buf, view.len);
    PyBuffer_Release(&view);
    return outcome < 0 ? -1 : call_and_forget(s, state_of(s)->str__maybe_pause_protocol, NULL);
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
    if (s->conn_lost <= LOST_WRITES)
        s->conn_lost++;
    if (s->conn_lost <= LOST_WRITES)
        return 0;
    PyObject *result = PyObject_CallMethodNoArgs((PyObject *)s->loop, state_of(s)->str__warn_lost);
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
    if (s->conn_lost)
        return write_lost(s);
    if (buffered_bytes(s) > 0)
        return buffer_more(s, data);
    PyObject *bytes = PyBytes_CheckExact(data) ? Py_NewRef(data) : PyBytes_FromObject(data);
    return bytes ? queue_bytes(s, bytes) : -1;
}

static PyObject *stream_write(PyObject *self, PyObject *data)
{
    if (check_writable(STREAM(self), "write") < 0 || write_one(STREAM(self), data) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *stream_writelines(PyObject *self, PyObject *list)
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
    int outcome = fatal(s, "Fatal write error on socket transport");
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
        return call_and_forget(s, state_of(s)->str__call_connection_lost, Py_None);
    }
    if (s->eof)
        shutdown(s->fd, SHUT_WR);
    return 0;
}

static int on_writable(struct stream *s)
{
    if (s->conn_lost || s->buffer == NULL)
        return 0;
    ssize_t n = send(s->fd, PyByteArray_AS_STRING(s->buffer), (size_t)PyByteArray_GET_SIZE(s->buffer), SEND_FLAGS);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            return 0;
        PyErr_SetFromErrno(PyExc_OSError);
        return write_failed(s);
    }
    if (buffer_drop(s, n) < 0 || call_and_forget(s, state_of(s)->str__maybe_resume_protocol, NULL) < 0 ||
        stream_flush(s) < 0)
        return -1;
    return buffered_bytes(s) == 0 && !s->conn_lost ? write_drained(s) : 0;
}

/* --- the socket has something to read ------------------------------------------------------------------------------------- */

static int read_failed(struct stream *s)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return fatal(s, "Fatal read error on socket transport");
}

static int call_protocol(struct stream *s, PyObject *method, PyObject *argument, const char *failure)
{
    PyObject *args[] = { Py_NewRef(s->protocol), argument }; /* the call may give us another protocol */
    PyObject *result = argument ? PyObject_VectorcallMethod(method, args, 2, NULL) : NULL;
    Py_DECREF(args[0]);
    Py_XDECREF(argument);
    Py_XDECREF(result);
    return result ? 0 : fatal(s, failure);
}

static int read_data(struct stream *s)
{
    char *into = loop_read_buffer(s->loop->loop);
    ssize_t n = recv(s->fd, into, LOOP_READ_BYTES, MSG_DONTWAIT);
    if (n < 0)
        return read_failed(s);
    if (n == 0)
        return call_and_forget(s, state_of(s)->str__read_ready__on_eof, NULL);
    return call_protocol(s, state_of(s)->str_data_received, PyBytes_FromStringAndSize(into, n),
                         "Fatal error: protocol.data_received() call failed.");
}

/* A buffer of the protocol's own: -1 with an exception. */
static int get_buffer(struct stream *s, Py_buffer *view)
{
    PyObject *hint = PyLong_FromLong(-1), *args[] = { Py_NewRef(s->protocol), hint };
    PyObject *buffer = hint ? PyObject_VectorcallMethod(state_of(s)->str_get_buffer, args, 2, NULL) : NULL;
    int outcome = buffer ? PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE) : -1;
    Py_DECREF(args[0]);
    Py_XDECREF(hint);
    Py_XDECREF(buffer);
    if (outcome == 0 && view->len == 0) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
        return -1;
    }
    return outcome;
}

static int read_into_buffer(struct stream *s)
{
    Py_buffer view;
    if (get_buffer(s, &view) < 0)
        return fatal(s, "Fatal error: protocol.get_buffer() call failed.");
    ssize_t n = recv(s->fd, view.buf, (size_t)view.len, MSG_DONTWAIT);
    int error = errno;
    PyBuffer_Release(&view);
    errno = error;
    if (n < 0)
        return read_failed(s);
    if (n == 0)
        return call_and_forget(s, state_of(s)->str__read_ready__on_eof, NULL);
    return call_protocol(s, state_of(s)->str_buffer_updated, PyLong_FromSsize_t(n),
                         "Fatal error: protocol.buffer_updated() call failed.");
}

static int on_readable(struct stream *s)
{
    if (s->conn_lost)
        return 0;
    return s->buffered_protocol ? read_into_buffer(s) : read_data(s);
}

void stream_on_event(PyObject *self, bool writer)
{
    struct stream *s = STREAM(self);
    struct aioloop *loop = s->loop;
    PyObject *context = s->context; /* kept by the stream, which the caller keeps */
    if (PyContext_Enter(context) < 0) {
        aioloop_raised(loop);
        return;
    }
    int outcome = writer ? on_writable(s) : on_readable(s);
    if (outcome < 0)
        aioloop_raised(loop);
    if (PyContext_Exit(context) < 0)
        aioloop_raised(loop);
}

/* --- methods ---------------------------------------------------------------------------------------------------------------- */

static PyObject *stream_method_flush(PyObject *self, PyObject *none)
{
    (void)none;
    if (stream_flush(STREAM(self)) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *stream_start_reading(PyObject *self, PyObject *none)
{
    (void)none;
    struct stream *s = STREAM(self);
    if (aioloop_check_open(s->loop) < 0 || watch_set(s->loop, s->fd, false, self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *stream_is_closing(PyObject *self, PyObject *none)
{
    (void)none;
    return PyBool_FromLong(STREAM(self)->closing);
}

static PyObject *stream_is_reading(PyObject *self, PyObject *none)
{
    (void)none;
    return PyBool_FromLong(!STREAM(self)->closing && !STREAM(self)->paused);
}

static PyObject *stream_get_write_buffer_size(PyObject *self, PyObject *none)
{
    (void)none;
    return PyLong_FromSsize_t((Py_ssize_t)STREAM(self)->pending_bytes + buffered_bytes(STREAM(self)));
}

/* --- attributes --------------------------------------------------------------------------------------------------------------- */

static PyObject *get_buffer_attribute(PyObject *self, void *closure)
{
    (void)closure;
    struct stream *s = STREAM(self);
    if (stream_flush(s) < 0)
        return NULL;
    if (s->buffer == NULL && (s->buffer = PyByteArray_FromStringAndSize(NULL, 0)) == NULL)
        return NULL;
    return Py_NewRef(s->buffer);
}

/* The standard library sets it once, to an empty one. */
static int set_buffer_attribute(PyObject *self, PyObject *value, void *closure)
{
    (void)self, (void)value, (void)closure;
    return 0;
}

static PyObject *get_protocol(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *protocol = STREAM(self)->protocol;
    return Py_NewRef(protocol ? protocol : Py_None);
}

/* None says that the connection is lost: the descriptor is closed, its number may be another's by now. And the transport
 * is let go of, so that no cycle is left. */
static int set_protocol(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    struct stream *s = STREAM(self);
    int buffered = value && value != Py_None ? PyObject_IsInstance(value, state_of(s)->buffered_protocol) : 0;
    if (buffered < 0)
        return -1;
    s->buffered_protocol = buffered;
    Py_XSETREF(s->protocol, Py_XNewRef(value));
    if (value != NULL && value != Py_None)
        return 0;
    s->fd = -1;
    s->conn_lost += s->conn_lost == 0;
    pending_clear(s);
    Py_CLEAR(s->buffer);
    Py_CLEAR(s->transport);
    return 0;
}

static PyObject *get_empty_waiter(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *waiter = STREAM(self)->empty_waiter;
    return Py_NewRef(waiter ? waiter : Py_None);
}

static int set_empty_waiter(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    Py_XSETREF(STREAM(self)->empty_waiter, value == Py_None ? NULL : Py_XNewRef(value));
    return 0;
}

/* --- the type ------------------------------------------------------------------------------------------------------------------- */

static PyObject *stream_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *loop, *transport;
    int fd;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "OOi", &loop, &transport, &fd) || aioloop_loop_checked(loop) == NULL)
        return NULL;
    struct stream *s = STREAM(type->tp_alloc(type, 0));
    if (s == NULL)
        return NULL;
    s->loop = AIOLOOP(Py_NewRef(loop));
    s->transport = Py_NewRef(transport);
    s->fd = fd;
    s->pending = s->pending_inline;
    s->pending_capacity = PENDING_INLINE;
    list_init(&s->unflushed);
    s->context = PyContext_CopyCurrent();
    if (s->context == NULL)
        Py_CLEAR(s);
    return (PyObject *)s;
}

static int stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct stream *s = STREAM(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(s->loop);
    Py_VISIT(s->transport);
    Py_VISIT(s->protocol);
    Py_VISIT(s->context);
    Py_VISIT(s->empty_waiter);
    return 0; /* bytes and a bytearray lead nowhere */
}

/* The loop stays: every method needs it. */
static int stream_clear(PyObject *self)
{
    struct stream *s = STREAM(self);
    Py_CLEAR(s->transport);
    Py_CLEAR(s->protocol);
    Py_CLEAR(s->empty_waiter);
    return 0;
}

static void stream_dealloc(PyObject *self)
{
    struct stream *s = STREAM(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    stream_clear(self);
    pending_clear(s);
    Py_CLEAR(s->buffer);
    Py_CLEAR(s->context);
    Py_CLEAR(s->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef stream_methods[] = {
    { "write", stream_write, METH_O, "Write bytes; they leave at the end of the turn, or when the socket takes them." },
    { "writelines", stream_writelines, METH_O, "Write each of an iterable." },
    { "flush", stream_method_flush, METH_NOARGS, "Send now what was written in this turn." },
    { "start_reading", stream_start_reading, METH_NOARGS, "Watch the socket, and feed the protocol." },
    { "is_closing", stream_is_closing, METH_NOARGS, "Whether it is closing or closed." },
    { "is_reading", stream_is_reading, METH_NOARGS, "Whether the protocol is fed." },
    { "get_write_buffer_size", stream_get_write_buffer_size, METH_NOARGS, "Bytes that have not left yet." },
    { 0 },
};

static PyMemberDef stream_members[] = {
    { "conn_lost", T_INT, offsetof(struct stream, conn_lost), 0, NULL },
    { "eof", T_BOOL, offsetof(struct stream, eof), 0, NULL },
    { "closing", T_BOOL, offsetof(struct stream, closing), 0, NULL },
    { "paused", T_BOOL, offsetof(struct stream, paused), 0, NULL },
    { 0 },
};

static PyGetSetDef stream_attributes[] = {
    { "buffer", get_buffer_attribute, set_buffer_attribute, NULL, NULL },
    { "protocol", get_protocol, set_protocol, NULL, NULL },
    { "empty_waiter", get_empty_waiter, set_empty_waiter, NULL, NULL },
    { 0 },
};

static PyType_Slot stream_slots[] = {
    { Py_tp_doc, "The native half of a socket transport: (loop, transport, fd)." },
    { Py_tp_new, stream_new },
    { Py_tp_dealloc, stream_dealloc },
    { Py_tp_traverse, stream_traverse },
    { Py_tp_clear, stream_clear },
    { Py_tp_methods, stream_methods },
    { Py_tp_members, stream_members },
    { Py_tp_getset, stream_attributes },
    { 0, NULL },
};

static PyType_Spec stream_spec = {
    .name = "licorne._core.Stream",
    .basicsize = sizeof(struct stream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = stream_slots,
};

int stream_add(struct aioloop_state *state, PyObject *module)
{
    state->stream_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &stream_spec, NULL);
    return state->stream_type ? PyModule_AddType(module, state->stream_type) : -1;
}
