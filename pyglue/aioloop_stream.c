/* aioloop_stream: the type Stream, the hot half of a transport over a socket or a pipe: read() into the protocol, write()
 * out of it. The other half is the standard library's transport (licorne/transports.py joins them): what it keeps in
 * attributes, such as _closing or _buffer, is kept here, and it finds it by descriptors. */
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

static bool enter(struct stream *s)
{
    bool enters = !s->entered && PyContext_Enter(s->context) == 0;
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
    int outcome = PyErr_Occurred() ? -1 : stream_call(s, method, NULL);
    if (entered && leave(s, context) < 0)
        outcome = -1;
    Py_DECREF(context);
    return outcome;
}

/* --- events ----------------------------------------------------------------------------------------------------------- */

void stream_on_event(PyObject *self, bool writer)
{
    struct stream *s = STREAM(self);
    struct aioloop *loop = s->loop;
    PyObject *context = s->context; /* kept by the stream, which the caller keeps */
    bool entered = enter(s);
    int outcome = PyErr_Occurred() ? -1 : writer ? stream_on_writable(s) : stream_on_readable(s);
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
    return PyLong_FromSsize_t((Py_ssize_t)STREAM(self)->pending_bytes + stream_buffered(STREAM(self)));
}

static PyObject *stream_connection_lost(PyObject *self, PyObject *exception)
{
    struct stream *s = STREAM(self);
    PyObject *context = Py_NewRef(s->context), *protocol = Py_NewRef(s->protocol), *result = NULL;
    bool entered = enter(s);
    if (!PyErr_Occurred())
        result = PyObject_CallMethodOneArg(protocol, stream_state(s)->str_connection_lost, exception);
    if (entered && leave(s, context) < 0)
        Py_CLEAR(result);
    Py_DECREF(protocol);
    Py_DECREF(context);
    return result;
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

/* As asyncio has it, or, where that would only raise AttributeError, as uvloop has it: by its methods. */
static int is_buffered_protocol(struct aioloop_state *state, PyObject *protocol)
{
    int outcome = PyObject_IsInstance(protocol, state->buffered_protocol);
    if (outcome != 0 || PyObject_HasAttr(protocol, state->str_data_received))
        return outcome;
    return PyObject_HasAttr(protocol, state->str_get_buffer);
}

/* None says that the connection is lost: the descriptor is closed, its number may be another's by now. And the transport
 * is let go of, so that no cycle is left. */
static int set_protocol(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    struct stream *s = STREAM(self);
    int buffered = value && value != Py_None ? is_buffered_protocol(stream_state(s), value) : 0;
    if (buffered < 0)
        return -1;
    s->buffered_protocol = buffered;
    s->tls = value && PyObject_TypeCheck(value, stream_state(s)->tls_type);
    Py_XSETREF(s->protocol, Py_XNewRef(value));
    if (value != NULL && value != Py_None)
        return 0;
    s->fd = -1;
    s->conn_lost += s->conn_lost == 0;
    stream_drop_pending(s);
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
    int fd, pipe = 0;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "OOi|p", &loop, &transport, &fd, &pipe) || aioloop_loop_checked(loop) == NULL)
        return NULL;
    struct stream *s = STREAM(type->tp_alloc(type, 0));
    if (s == NULL)
        return NULL;
    s->loop = AIOLOOP(Py_NewRef(loop));
    s->transport = Py_NewRef(transport);
    s->fd = fd;
    s->pipe = pipe;
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
    stream_drop_pending(s);
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
    { "connection_lost", stream_connection_lost, METH_O, "Tell the protocol, in the connection's context." },
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
