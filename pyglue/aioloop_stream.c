/* aioloop_stream: what transports over sockets and pipes have in common, and the type Stream, the hot half of a pipe's:
 * read() into the protocol, write() out of it. The other half is the standard library's transport
 * (licorne/_transports.py joins them): what it keeps in attributes, such as _closing or _buffer, is kept here, and it finds
 * it by descriptors. */
#include "pyglue/aioloop_stream.h"

#include <structmember.h>

/* --- the transport ---------------------------------------------------------------------------------------------------- */

static PyObject *call_transport(struct stream *s, PyObject *method, PyObject *a, PyObject *b)
{
    if (s->transport == NULL)
        Py_RETURN_NONE;
    PyObject *args[] = { Py_NewRef(s->transport), a, b }; /* the call may make us let go of it */
    PyObject *result = PyObject_VectorcallMethod(method, args, a == NULL ? 1 : b == NULL ? 2 : 3, NULL);
    Py_DECREF(args[0]);
    return result;
}

int stream_fatal(struct stream *s, const char *message)
{
    if (exception_leaves_loop())
        return -1;
    PyObject *exception = exception_take(), *text = PyUnicode_FromString(message);
    PyObject *result = text ? call_transport(s, stream_state(s)->str__fatal_error, exception, text) : NULL;
    Py_DECREF(exception);
    Py_XDECREF(text);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

int stream_call(struct stream *s, PyObject *method, PyObject *argument)
{
    PyObject *result = call_transport(s, method, argument, NULL);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* False if it was entered before, by us or by a handle. */
static bool enter(struct stream *s)
{
    bool enters = !s->entered && PyContext_Enter(s->context) == 0;
    if (!enters)
        PyErr_Clear();
    s->entered |= enters;
    return enters;
}

static int leave(struct stream *s, PyObject *context)
{
    s->entered = false;
    return PyContext_Exit(context);
}

int stream_call_in_context(struct stream *s, PyObject *method)
{
    PyObject *context = Py_NewRef(s->context);
    bool entered = enter(s);
    int outcome = stream_call(s, method, NULL);
    if (entered && leave(s, context) < 0)
        outcome = -1;
    Py_DECREF(context);
    return outcome;
}

/* --- events ----------------------------------------------------------------------------------------------------------- */

void stream_on_event(struct aioloop *loop, int fd, PyObject *self, bool writer)
{
    (void)fd;
    struct stream *s = STREAM(self);
    PyObject *context = s->context; /* kept by the stream, which the caller keeps */
    bool entered = enter(s);
    int outcome = writer ? stream_on_writable(s) : stream_on_readable(s);
    if (outcome < 0)
        aioloop_raised(loop);
    if (entered && leave(s, context) < 0)
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

int stream_start_reading(struct stream *s)
{
    if (s->closing || s->paused)
        return 0;
    return aioloop_check_open(s->loop) < 0 ? -1 : watch_set(s->loop, s->fd, false, (PyObject *)s, stream_on_event);
}

static PyObject *stream_method_start_reading(PyObject *self, PyObject *none)
{
    (void)none;
    return stream_start_reading(STREAM(self)) < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *stream_is_closing(PyObject *self, PyObject *none)
{
    (void)none;
    return PyBool_FromLong(STREAM(self)->closing);
}

PyObject *stream_is_reading(PyObject *self, PyObject *none)
{
    (void)none;
    return PyBool_FromLong(!STREAM(self)->closing && !STREAM(self)->paused);
}

PyObject *stream_get_write_buffer_size(PyObject *self, PyObject *none)
{
    (void)none;
    if (stream_flush(STREAM(self)) < 0)
        return NULL;
    return PyLong_FromSsize_t(stream_unsent(STREAM(self)));
}

PyObject *stream_connection_lost(struct stream *s, PyObject *exception)
{
    PyObject *lost = PyObject_GetAttr(s->protocol, stream_state(s)->str_connection_lost);
    PyObject *result = lost ? stream_run(s, lost, exception) : NULL;
    Py_XDECREF(lost);
    return result;
}

PyObject *stream_run(struct stream *s, PyObject *callback, PyObject *argument)
{
    PyObject *context = Py_NewRef(s->context), *args[] = { NULL, argument };
    bool entered = enter(s);
    PyObject *result = PyObject_Vectorcall(callback, args + 1, (argument ? 1 : 0) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (entered && leave(s, context) < 0)
        Py_CLEAR(result);
    Py_DECREF(context);
    return result;
}

/* --- attributes --------------------------------------------------------------------------------------------------------------- */

PyObject *stream_get_buffer(PyObject *self, void *closure)
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
int stream_set_buffer(PyObject *self, PyObject *value, void *closure)
{
    (void)self, (void)value, (void)closure;
    return 0;
}

PyObject *stream_get_protocol_attribute(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *protocol = STREAM(self)->protocol;
    return Py_NewRef(protocol ? protocol : Py_None);
}

/* As asyncio has it, or, where that would only raise AttributeError, as uvloop has it: by its methods. */
static int is_buffered_protocol(struct aioloop_state *state, PyObject *protocol)
{
    int outcome = PyObject_IsInstance(protocol, state->buffered_protocol);
    if (outcome != 0 || PyObject_HasAttr(protocol, state->str_data_received))
        return outcome;
    return PyObject_HasAttr(protocol, state->str_get_buffer);
}

static void forget_transport(struct stream *s)
{
    PyObject *transport = s->transport;
    s->transport = NULL;
    if (transport != (PyObject *)s)
        Py_XDECREF(transport);
}

int stream_set_protocol(struct stream *s, PyObject *protocol)
{
    int buffered = protocol ? is_buffered_protocol(stream_state(s), protocol) : 0;
    if (buffered < 0)
        return -1;
    s->buffered_protocol = buffered;
    s->tls = protocol && PyObject_TypeCheck(protocol, stream_state(s)->tls_type);
    Py_XSETREF(s->protocol, Py_XNewRef(protocol));
    if (protocol != NULL)
        return 0;
    s->fd = -1;
    s->conn_lost += s->conn_lost == 0;
    stream_drop_pending(s);
    Py_CLEAR(s->buffer);
    forget_transport(s);
    return 0;
}

int stream_set_protocol_attribute(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    return stream_set_protocol(STREAM(self), value == Py_None ? NULL : value);
}

PyObject *stream_get_empty_waiter(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *waiter = STREAM(self)->empty_waiter;
    return Py_NewRef(waiter ? waiter : Py_None);
}

int stream_set_empty_waiter(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    Py_XSETREF(STREAM(self)->empty_waiter, value == Py_None ? NULL : Py_XNewRef(value));
    return 0;
}

static Py_ssize_t *limit_of(PyObject *self, void *closure)
{
    return (Py_ssize_t *)((char *)self + (size_t)closure);
}

PyObject *stream_get_limit(PyObject *self, void *closure)
{
    return PyLong_FromSsize_t(*limit_of(self, closure));
}

/* Any number will do, as in asyncio; what is too large is as good as no limit. */
int stream_set_limit(PyObject *self, PyObject *value, void *closure)
{
    PyObject *number = value ? PyNumber_Long(value) : NULL;
    Py_ssize_t limit = number ? PyNumber_AsSsize_t(number, NULL) : PY_SSIZE_T_MAX;
    Py_XDECREF(number);
    if (number == NULL && value != NULL && PyErr_ExceptionMatches(PyExc_OverflowError))
        PyErr_Clear(); /* infinity */
    if (PyErr_Occurred())
        return -1;
    *limit_of(self, closure) = limit;
    return 0;
}

/* --- the type ------------------------------------------------------------------------------------------------------------------- */

int stream_init(struct stream *s, struct aioloop *loop, PyObject *transport, int fd)
{
    s->pending = s->pending_inline;
    s->pending_capacity = PENDING_INLINE;
    list_init(&s->unflushed);
    s->loop = AIOLOOP(Py_NewRef((PyObject *)loop));
    s->transport = transport == (PyObject *)s ? transport : Py_NewRef(transport);
    s->fd = fd;
    s->high_water = 64 * 1024;
    s->low_water = 16 * 1024;
    s->context = PyContext_CopyCurrent();
    return s->context ? 0 : -1;
}

static PyObject *stream_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *loop, *transport;
    int fd, pipe = 0;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "OOi|p", &loop, &transport, &fd, &pipe) || aioloop_loop_checked(loop) == NULL)
        return NULL;
    struct stream *s = STREAM(type->tp_alloc(type, 0));
    if (s == NULL)
        return NULL;
    s->pipe = pipe;
    if (stream_init(s, AIOLOOP(loop), transport, fd) < 0)
        Py_CLEAR(s);
    return (PyObject *)s;
}

int stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct stream *s = STREAM(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(s->loop);
    if (s->transport != self)
        Py_VISIT(s->transport);
    Py_VISIT(s->protocol);
    Py_VISIT(s->context);
    Py_VISIT(s->empty_waiter);
    return 0; /* bytes and a bytearray lead nowhere */
}

/* The loop stays: every method needs it. */
int stream_clear(PyObject *self)
{
    struct stream *s = STREAM(self);
    forget_transport(s);
    Py_CLEAR(s->protocol);
    Py_CLEAR(s->empty_waiter);
    return 0;
}

void stream_done(struct stream *s)
{
    stream_clear((PyObject *)s);
    stream_drop_pending(s);
    Py_CLEAR(s->buffer);
    Py_CLEAR(s->context);
    Py_CLEAR(s->loop);
}

static void stream_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    stream_done(STREAM(self));
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef stream_methods[] = {
    { "write", stream_write, METH_O, "Write bytes; they leave at the end of the turn, or when the socket takes them." },
    { "writelines", stream_writelines, METH_O, "Write each of an iterable." },
    { "flush", stream_method_flush, METH_NOARGS, "Send now what was written in this turn." },
    { "start_reading", stream_method_start_reading, METH_NOARGS, "Watch the socket, and feed the protocol." },
    { "is_closing", stream_is_closing, METH_NOARGS, "Whether it is closing or closed." },
    { "is_reading", stream_is_reading, METH_NOARGS, "Whether the protocol is fed." },
    { "get_write_buffer_size", stream_get_write_buffer_size, METH_NOARGS, "Bytes that have not left yet." },
    { 0 },
};

static PyMemberDef stream_members[] = { STREAM_MEMBERS, { 0 } };
static PyGetSetDef stream_attributes[] = { STREAM_ATTRIBUTES, { 0 } };

static PyType_Slot stream_slots[] = {
    { Py_tp_doc, "The native half of a transport: (loop, transport, fd, is it a pipe)." },
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
