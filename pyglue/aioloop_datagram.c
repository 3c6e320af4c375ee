/* aioloop_datagram: the hot half of a UDP transport: recvfrom() into the protocol, sendto() out of it. The other half is
 * the standard library's transport (licorne/loop.py joins them), and it does whatever is not plain: datagrams that must
 * wait for the socket, names to be looked up, wrong arguments.
 *
 * An event reads one datagram, or more while there were more the last time: a flood costs few polls, and a single
 * datagram no second system call. */
#include "pyglue/aioloop_address.h"
#include "pyglue/aioloop_impl.h"

#include <structmember.h>
#include <sys/socket.h>

#define BURST_MAX 32

struct datagram {
    PyObject_HEAD
    struct aioloop *loop;
    PyObject *transport; /* NULL once the connection is lost */
    PyObject *protocol, *context;
    PyObject *remote; /* what it is connected to; NULL: nothing */
    PyObject *buffer; /* the standard transport's queue of what waits */
    PyObject *peer, *target; /* whom the last datagram came from, and went to */
    struct address peer_address, target_address;
    int fd, family, conn_lost, burst;
    bool closing;
};

#define DATAGRAM(object) ((struct datagram *)(object))

static int call_and_forget(PyObject *object, PyObject *method, PyObject *argument)
{
    PyObject *args[] = { Py_NewRef(object), argument }; /* the call may make us let go of it */
    PyObject *result = argument ? PyObject_VectorcallMethod(method, args, 2, NULL) : NULL;
    Py_DECREF(object);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* --- failures --------------------------------------------------------------------------------------------------------- */

/* The exception that is set is told to the loop's handler; the transport lives on. -1 if one is set afterwards. */
static int report(struct datagram *d)
{
    if (exception_leaves_loop() || d->transport == NULL)
        return -1;
    PyObject *exception = exception_take();
    int outcome = call_and_forget(d->transport, d->loop->state->str__protocol_failed, exception);
    Py_DECREF(exception);
    return outcome;
}

/* After a system call: errno is told to the protocol. */
static int tell_error(struct datagram *d)
{
    PyErr_SetFromErrno(PyExc_OSError);
    PyObject *exception = exception_take();
    int outcome = call_and_forget(d->protocol, d->loop->state->str_error_received, exception);
    Py_DECREF(exception);
    return outcome;
}

/* --- reading ---------------------------------------------------------------------------------------------------------- */

static bool same_peer(const struct datagram *d, const struct address *from)
{
    return d->peer != NULL && d->peer_address.length == from->length &&
           memcmp(&d->peer_address.storage, &from->storage, from->length) == 0;
}

/* The address as Python has it, made anew only if it is not that of the last one. Borrowed. */
static PyObject *peer_of(struct datagram *d, const struct address *from)
{
    if (!same_peer(d, from)) {
        PyObject *peer = address_to_python(from);
        if (peer == NULL)
            return NULL;
        Py_XSETREF(d->peer, peer);
        d->peer_address = *from;
    }
    return d->peer;
}

static int pass_on(struct datagram *d, PyObject *data, const struct address *from)
{
    PyObject *peer = data ? Py_XNewRef(peer_of(d, from)) : NULL;
    PyObject *args[] = { Py_NewRef(d->protocol), data, peer }, *result = NULL;
    if (peer != NULL)
        result = PyObject_VectorcallMethod(d->loop->state->str_datagram_received, args, 3, NULL);
    Py_DECREF(args[0]);
    Py_XDECREF(data);
    Py_XDECREF(peer);
    Py_XDECREF(result);
    return result ? 0 : report(d);
}

static ssize_t receive(struct datagram *d, char *into, size_t size, struct address *from)
{
    memset(&from->storage, 0, sizeof(from->storage)); /* it is compared as a whole */
    from->length = sizeof(from->storage);
    return recvfrom(d->fd, into, size, MSG_DONTWAIT, (struct sockaddr *)&from->storage, &from->length);
}

/* New bytes; NULL with an exception, or with errno and *size -1. Those of a unix socket may be larger than any buffer:
 * they are asked for their size first. */
static PyObject *receive_bytes(struct datagram *d, struct address *from, ssize_t *size)
{
    if (d->family != AF_UNIX) {
        char *into = loop_read_buffer(d->loop->loop);
        *size = receive(d, into, LOOP_READ_BYTES, from);
        return *size < 0 ? NULL : PyBytes_FromStringAndSize(into, *size);
    }
    *size = recv(d->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
    PyObject *bytes = *size < 0 ? NULL : PyBytes_FromStringAndSize(NULL, *size);
    if (bytes != NULL && receive(d, PyBytes_AS_STRING(bytes), (size_t)*size, from) != *size) {
        *size = -1;
        Py_CLEAR(bytes); /* somebody else took it meanwhile */
        errno = EAGAIN;
    }
    return bytes;
}

enum outcome { READ_ONE, READ_NONE, READ_RAISED };

static enum outcome read_one(struct datagram *d)
{
    struct address from;
    ssize_t size;
    PyObject *bytes = receive_bytes(d, &from, &size);
    if (size >= 0)
        return pass_on(d, bytes, &from) < 0 ? READ_RAISED : READ_ONE;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return READ_NONE;
    return tell_error(d) < 0 && report(d) < 0 ? READ_RAISED : READ_ONE;
}

static int on_readable(struct datagram *d)
{
    enum outcome outcome = READ_ONE;
    int count = 0;
    while (count < d->burst && outcome == READ_ONE && !d->closing && d->conn_lost == 0) {
        outcome = read_one(d);
        count += outcome == READ_ONE;
    }
    if (count == d->burst)
        d->burst = d->burst < BURST_MAX ? d->burst * 2 : BURST_MAX;
    else
        d->burst = count > 1 ? count : 1;
    return outcome == READ_RAISED ? -1 : 0;
}

static void on_event(struct aioloop *loop, int fd, PyObject *self, bool writer)
{
    (void)fd, (void)writer;
    struct datagram *d = DATAGRAM(self);
    PyObject *context = d->context; /* kept by the datagram, which the caller keeps */
    if (PyContext_Enter(context) < 0) {
        aioloop_raised(loop);
        return;
    }
    if (on_readable(d) < 0)
        aioloop_raised(loop);
    if (PyContext_Exit(context) < 0)
        aioloop_raised(loop);
}

/* --- writing ---------------------------------------------------------------------------------------------------------- */

/* Where to: NULL if it is connected; `*plain` false if the standard library is to say. */
static const struct address *target(struct datagram *d, PyObject *to, bool *plain)
{
    *plain = true;
    if (d->remote != NULL) {
        *plain = to == Py_None || to == d->remote;
        return NULL;
    }
    if (to == d->peer)
        return &d->peer_address;
    if (to != d->target) {
        Py_CLEAR(d->target);
        *plain = address_from_python(to, d->family, &d->target_address);
        d->target = *plain ? Py_NewRef(to) : NULL;
    }
    return &d->target_address;
}

static ssize_t send_to(struct datagram *d, PyObject *data, const struct address *to)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    ssize_t n = sendto(d->fd, view.buf, (size_t)view.len, MSG_DONTWAIT | MSG_NOSIGNAL,
                       to ? (const struct sockaddr *)&to->storage : NULL, to ? to->length : 0);
    int error = errno;
    PyBuffer_Release(&view);
    errno = error;
    return n;
}

/* Plain bytes that nothing is queued before. */
static bool may_send_now(struct datagram *d, PyObject *data)
{
    bool plain = PyBytes_CheckExact(data) ? PyBytes_GET_SIZE(data) > 0 : PyByteArray_CheckExact(data);
    return plain && d->conn_lost == 0 && d->buffer != NULL && PyObject_Size(d->buffer) == 0;
}

static PyObject *send_slowly(struct datagram *d, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *method = PyObject_GetAttr(d->transport, d->loop->state->str__sendto);
    PyObject *result = method ? PyObject_Vectorcall(method, args, (size_t)nargs, kwnames) : NULL;
    Py_XDECREF(method);
    return result;
}

static PyObject *datagram_sendto(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct datagram *d = DATAGRAM(self);
    if (d->transport == NULL)
        return PyObject_CallMethodNoArgs((PyObject *)d->loop, d->loop->state->str__warn_lost);
    bool plain = kwnames == NULL && (nargs == 1 || nargs == 2) && may_send_now(d, args[0]);
    const struct address *to = plain ? target(d, nargs == 2 ? args[1] : Py_None, &plain) : NULL;
    if (!plain)
        return send_slowly(d, args, nargs, kwnames);
    if (send_to(d, args[0], to) >= 0)
        Py_RETURN_NONE;
    if (PyErr_Occurred())
        return NULL;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return send_slowly(d, args, nargs, NULL); /* it fails again, and is queued */
    return tell_error(d) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *datagram_in_context(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *context = Py_NewRef(DATAGRAM(self)->context), *result = NULL;
    bool entered = nargs > 0 && PyContext_Enter(context) == 0;
    PyErr_Clear(); /* entered before: one of its callbacks is running */
    if (nargs > 0)
        result = PyObject_Vectorcall(args[0], args + 1, (size_t)nargs - 1, NULL);
    if (entered && PyContext_Exit(context) < 0)
        Py_CLEAR(result);
    Py_DECREF(context);
    return result;
}

/* --- methods and attributes ------------------------------------------------------------------------------------------- */

static PyObject *datagram_start_reading(PyObject *self, PyObject *none)
{
    (void)none;
    struct datagram *d = DATAGRAM(self);
    if (d->closing)
        Py_RETURN_NONE;
    if (aioloop_check_open(d->loop) < 0 || watch_set(d->loop, d->fd, false, self, on_event) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *get_protocol(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *protocol = DATAGRAM(self)->protocol;
    return Py_NewRef(protocol ? protocol : Py_None);
}

/* None says that the connection is lost: the descriptor is closed, its number may be another's by now. */
static int set_protocol(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    struct datagram *d = DATAGRAM(self);
    Py_XSETREF(d->protocol, Py_XNewRef(value));
    if (value != NULL && value != Py_None)
        return 0;
    d->fd = -1;
    d->conn_lost += d->conn_lost == 0;
    Py_CLEAR(d->transport);
    return 0;
}

/* --- the type --------------------------------------------------------------------------------------------------------- */

static PyObject *datagram_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *loop, *transport, *remote;
    int fd, family;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "OOiiO", &loop, &transport, &fd, &family, &remote) ||
        aioloop_loop_checked(loop) == NULL)
        return NULL;
    struct datagram *d = DATAGRAM(type->tp_alloc(type, 0));
    if (d == NULL)
        return NULL;
    d->loop = AIOLOOP(Py_NewRef(loop));
    d->transport = Py_NewRef(transport);
    d->remote = remote == Py_None ? NULL : Py_NewRef(remote);
    d->fd = fd;
    d->family = family;
    d->burst = 1;
    d->context = PyContext_CopyCurrent();
    if (d->context == NULL)
        Py_CLEAR(d);
    return (PyObject *)d;
}

static int datagram_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct datagram *d = DATAGRAM(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(d->loop);
    Py_VISIT(d->transport);
    Py_VISIT(d->protocol);
    Py_VISIT(d->context);
    Py_VISIT(d->remote);
    Py_VISIT(d->buffer);
    Py_VISIT(d->peer);
    Py_VISIT(d->target);
    return 0;
}

/* The loop stays: every method needs it. */
static int datagram_clear(PyObject *self)
{
    struct datagram *d = DATAGRAM(self);
    Py_CLEAR(d->transport);
    Py_CLEAR(d->protocol);
    Py_CLEAR(d->remote);
    Py_CLEAR(d->buffer);
    Py_CLEAR(d->peer);
    Py_CLEAR(d->target);
    return 0;
}

static void datagram_dealloc(PyObject *self)
{
    struct datagram *d = DATAGRAM(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    datagram_clear(self);
    Py_CLEAR(d->context);
    Py_CLEAR(d->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef datagram_methods[] = {
    { "sendto", (PyCFunction)(void (*)(void))datagram_sendto, METH_FASTCALL | METH_KEYWORDS, "Send a datagram." },
    { "in_context", (PyCFunction)(void (*)(void))datagram_in_context, METH_FASTCALL,
      "Call in the context of the transport's callbacks: (callback, ...)." },
    { "start_reading", datagram_start_reading, METH_NOARGS, "Watch the socket, and feed the protocol." },
    { 0 },
};

static PyMemberDef datagram_members[] = {
    { "_buffer", T_OBJECT, offsetof(struct datagram, buffer), 0, NULL },
    { "_closing", T_BOOL, offsetof(struct datagram, closing), 0, NULL },
    { "_conn_lost", T_INT, offsetof(struct datagram, conn_lost), 0, NULL },
    { 0 },
};

static PyGetSetDef datagram_attributes[] = {
    { "_protocol", get_protocol, set_protocol, NULL, NULL },
    { 0 },
};

static PyType_Slot datagram_slots[] = {
    { Py_tp_doc, "The native half of a UDP transport: (loop, transport, fd, family, remote address or None)." },
    { Py_tp_new, datagram_new },
    { Py_tp_dealloc, datagram_dealloc },
    { Py_tp_traverse, datagram_traverse },
    { Py_tp_clear, datagram_clear },
    { Py_tp_methods, datagram_methods },
    { Py_tp_members, datagram_members },
    { Py_tp_getset, datagram_attributes },
    { 0, NULL },
};

static PyType_Spec datagram_spec = {
    .name = "licorne._core.Datagram",
    .basicsize = sizeof(struct datagram),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = datagram_slots,
};

int datagram_add(struct aioloop_state *state, PyObject *module)
{
    state->datagram_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &datagram_spec, NULL);
    return state->datagram_type ? PyModule_AddType(module, state->datagram_type) : -1;
}
