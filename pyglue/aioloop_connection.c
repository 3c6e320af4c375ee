/* aioloop_connection: the type Connection, a stream over a socket that is its own transport. It derives from the standard
 * library's flow control, so that it is an asyncio.Transport to whoever asks; licorne/_transports.py adds what is rare.
 *
 * Servers make and end one for each client, so that is done here: a descriptor is all it needs. The socket object is made
 * when somebody asks for it, and owns the descriptor from then on. */
#include "pyglue/aioloop_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <structmember.h>
#include <sys/socket.h>
#include <unistd.h>

/* An address as the kernel gave it; a unix socket's is text at once. */
struct end {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address;
    socklen_t length;  /* 0: there is none, or it is in `name` */
    PyObject *name;
};

struct connection {
    struct stream stream;
    PyObject *sock;  /* socket.socket, held open; NULL: not made, the descriptor is ours */
    PyObject *extra; /* a dictionary of get_extra_info(); may be NULL */
    PyObject *server;
    struct end peer, here;
};

#define CONNECTION(object) ((struct connection *)(object))

/* --- both ends -------------------------------------------------------------------------------------------------------- */

static int end_set(struct end *end, const struct address *address)
{
    if (address->length <= sizeof(end->address)) {
        memcpy(&end->address, &address->storage, address->length);
        end->length = address->length;
        return 0;
    }
    end->name = address_to_python(address);
    return end->name ? 0 : -1;
}

static PyObject *end_name(struct end *end)
{
    if (end->name == NULL) {
        struct address address = { .length = end->length };
        memcpy(&address.storage, &end->address, end->length);
        end->name = address_to_python(&address);
    }
    return Py_XNewRef(end->name);
}

static int end_ask(struct end *end, int fd, int (*ask)(int, struct sockaddr *, socklen_t *))
{
    struct address address = { .length = sizeof(address.storage) };
    if (ask(fd, (struct sockaddr *)&address.storage, &address.length) < 0)
        return 0; /* none: not connected, or no more */
    return end_set(end, &address);
}

/* --- get_extra_info() ------------------------------------------------------------------------------------------------- */

/* Takes over the reference. */
static int keep_sock(struct connection *c, PyObject *sock)
{
    if (socket_hold(stream_state(&c->stream), sock) < 0) {
        Py_DECREF(sock);
        return -1;
    }
    c->sock = sock;
    return 0;
}

/* The socket object, made now if there is none. Borrowed; NULL without an exception if the connection is lost. */
static PyObject *sock_of(struct connection *c)
{
    PyObject *sock = NULL;
    if (c->sock == NULL && c->stream.fd >= 0) /* its family and protocol, -1, are asked of the kernel */
        sock = PyObject_CallFunction(stream_state(&c->stream)->socket_type, "iiii", -1, SOCK_STREAM | SOCK_NONBLOCK, -1,
                                     c->stream.fd);
    if (sock != NULL && keep_sock(c, sock) < 0)
        return NULL;
    return c->sock;
}

static PyObject *make_info(struct connection *c, PyObject *name)
{
    struct aioloop_state *state = stream_state(&c->stream);
    if (PyUnicode_Compare(name, state->str_peername) == 0)
        return end_name(&c->peer);
    if (PyUnicode_Compare(name, state->str_sockname) == 0)
        return end_name(&c->here);
    if (PyUnicode_Compare(name, state->str_socket) != 0)
        return NULL;
    PyObject *sock = sock_of(c);
    return sock ? PyObject_CallOneArg(state->transport_socket, sock) : NULL;
}

/* What `extra` has, or can have. NULL without an exception if there is no such thing. */
static PyObject *get_info(struct connection *c, PyObject *name)
{
    PyObject *value = c->extra ? PyDict_GetItemWithError(c->extra, name) : NULL; // borrowed
    if (value != NULL || PyErr_Occurred() || !PyUnicode_Check(name))
        return Py_XNewRef(value);
    value = make_info(c, name);
    if (value == NULL || (c->extra == NULL && (c->extra = PyDict_New()) == NULL) ||
        PyDict_SetItem(c->extra, name, value) < 0)
        Py_CLEAR(value);
    return value;
}

static PyObject *connection_get_extra_info(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "name", "default", NULL };
    PyObject *name, *otherwise = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:get_extra_info", names, &name, &otherwise))
        return NULL;
    PyObject *value = get_info(CONNECTION(self), name);
    return value || PyErr_Occurred() ? value : Py_NewRef(otherwise);
}

/* All of it, for whoever looks into the attribute. */
static PyObject *get_extra(PyObject *self, void *closure)
{
    (void)closure;
    struct connection *c = CONNECTION(self);
    struct aioloop_state *state = stream_state(&c->stream);
    PyObject *names[] = { state->str_socket, state->str_sockname, state->str_peername };
    for (int i = 0; i < 3; i++) {
        Py_XDECREF(get_info(c, names[i]));
        if (PyErr_Occurred())
            return NULL;
    }
    return c->extra ? Py_NewRef(c->extra) : PyDict_New();
}

/* --- its end ---------------------------------------------------------------------------------------------------------- */

/* `context`: NULL is the present one. Takes over the reference to `callback`, which may be NULL with an exception. */
static int call_soon(struct connection *c, PyObject *callback, PyObject *argument, PyObject *context)
{
    struct aioloop *loop = c->stream.loop;
    if (callback == NULL || aioloop_check_open(loop) < 0) {
        Py_XDECREF(callback);
        return -1;
    }
    struct handle *h = handle_new(loop, callback, &argument, 1, context);
    Py_DECREF(callback);
    return h ? ready_push(&loop->ready, (struct ready){ NULL, h }) : -1;
}

static int lose_soon(struct connection *c, PyObject *exception)
{
    c->stream.conn_lost++;
    PyObject *lost = PyObject_GetAttr((PyObject *)c, stream_state(&c->stream)->str__call_connection_lost);
    return call_soon(c, lost, exception, NULL);
}

static void stop_reading(struct connection *c)
{
    if (!c->stream.loop->closed)
        watch_unset(c->stream.loop, c->stream.fd, false);
}

static void close_sock(struct connection *c)
{
    socket_let_go(stream_state(&c->stream), c->sock);
    PyObject *closed = PyObject_CallMethodNoArgs(c->sock, stream_state(&c->stream)->str_close);
    if (closed == NULL)
        PyErr_WriteUnraisable(c->sock);
    Py_XDECREF(closed);
    Py_CLEAR(c->sock);
}

/* Lets go of the descriptor. */
static void close_socket(struct connection *c)
{
    struct aioloop *loop = c->stream.loop;
    int fd = c->stream.fd;
    if (loop->loop != NULL) {
        watch_disown(loop, fd, (PyObject *)c);
        loop_watch_now(loop->loop); /* the poller is to know, as the number may be another's soon */
    }
    if (c->sock != NULL)
        close_sock(c);
    else if (fd >= 0)
        close(fd);
    c->stream.fd = -1;
}

/* From Python 3.13 a server is told which of its connections comes and goes. */
static int tell_server(struct connection *c, PyObject *server, PyObject *method)
{
    PyObject *args[] = { server, (PyObject *)c };
    PyObject *result = PyObject_VectorcallMethod(method, args, stream_state(&c->stream)->server_knows ? 2 : 1, NULL);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int leave_server(struct connection *c)
{
    PyObject *server = c->server;
    c->server = NULL;
    int outcome = server ? tell_server(c, server, stream_state(&c->stream)->str__detach) : 0;
    Py_XDECREF(server);
    return outcome;
}

/* Who waits for the buffer to empty itself, waits in vain. */
static int fail_waiter(struct connection *c)
{
    if (c->stream.empty_waiter == NULL)
        return 0;
    PyObject *text = PyUnicode_FromString("Connection is closed by peer");
    PyObject *error = text ? PyObject_CallOneArg(PyExc_ConnectionError, text) : NULL, *set = NULL;
    if (error != NULL)
        set = PyObject_CallMethodOneArg(c->stream.empty_waiter, stream_state(&c->stream)->str_set_exception, error);
    Py_XDECREF(text);
    Py_XDECREF(error);
    Py_XDECREF(set);
    return set ? 0 : -1;
}

static PyObject *connection_call_connection_lost(PyObject *self, PyObject *exception)
{
    struct connection *c = CONNECTION(self);
    PyObject *result = c->stream.protocol ? stream_connection_lost(&c->stream, exception) : Py_NewRef(Py_None);
    PyObject *raised = result ? NULL : exception_take();
    int outcome = fail_waiter(c);
    close_socket(c);
    stream_set_protocol(&c->stream, NULL);
    if (leave_server(c) < 0)
        outcome = -1;
    if (raised != NULL)
        exception_restore(raised);
    if (outcome < 0)
        Py_CLEAR(result);
    return result;
}

/* What ends a connection looks at the state that a failed write leaves: so what was written is sent first. */
static PyObject *connection_close(PyObject *self, PyObject *none)
{
    (void)none;
    struct connection *c = CONNECTION(self);
    if (stream_flush(&c->stream) < 0)
        return NULL;
    if (c->stream.closing)
        Py_RETURN_NONE;
    c->stream.closing = true;
    stop_reading(c);
    if (stream_unsent(&c->stream) == 0 && lose_soon(c, Py_None) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *connection_force_close(PyObject *self, PyObject *exception)
{
    struct connection *c = CONNECTION(self);
    if (stream_flush(&c->stream) < 0)
        return NULL;
    if (c->stream.conn_lost)
        Py_RETURN_NONE;
    if (c->stream.buffer != NULL) {
        Py_CLEAR(c->stream.buffer);
        if (!c->stream.loop->closed)
            watch_unset(c->stream.loop, c->stream.fd, true);
    }
    if (!c->stream.closing) {
        c->stream.closing = true;
        stop_reading(c);
    }
    return lose_soon(c, exception) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *connection_abort(PyObject *self, PyObject *none)
{
    (void)none;
    return connection_force_close(self, Py_None);
}

static PyObject *connection_write_eof(PyObject *self, PyObject *none)
{
    (void)none;
    struct connection *c = CONNECTION(self);
    if (stream_flush(&c->stream) < 0)
        return NULL;
    if (c->stream.closing || c->stream.eof)
        Py_RETURN_NONE;
    c->stream.eof = true;
    if (stream_unsent(&c->stream) == 0 && shutdown(c->stream.fd, SHUT_WR) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *connection_can_write_eof(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    Py_RETURN_TRUE;
}

static PyObject *connection_on_eof(PyObject *self, PyObject *none)
{
    (void)none;
    struct connection *c = CONNECTION(self);
    PyObject *keep = PyObject_CallMethodNoArgs(c->stream.protocol, stream_state(&c->stream)->str_eof_received);
    int keeps = keep ? PyObject_IsTrue(keep) : -1;
    Py_XDECREF(keep);
    if (keeps < 0)
        return stream_fatal(&c->stream, "Fatal error: protocol.eof_received() call failed.") < 0 ? NULL :
               Py_NewRef(Py_None);
    if (!keeps)
        return connection_close(self, NULL);
    if (c->stream.fd >= 0)
        stop_reading(c);
    Py_RETURN_NONE;
}

/* --- reading ---------------------------------------------------------------------------------------------------------- */

static PyObject *connection_pause_reading(PyObject *self, PyObject *none)
{
    (void)none;
    struct connection *c = CONNECTION(self);
    if (!c->stream.closing && !c->stream.paused) {
        c->stream.paused = true;
        stop_reading(c);
    }
    Py_RETURN_NONE;
}

static PyObject *connection_resume_reading(PyObject *self, PyObject *none)
{
    (void)none;
    struct connection *c = CONNECTION(self);
    if (c->stream.closing || !c->stream.paused)
        Py_RETURN_NONE;
    c->stream.paused = false;
    return stream_start_reading(&c->stream) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *connection_get_protocol(PyObject *self, PyObject *none)
{
    (void)none;
    PyObject *protocol = CONNECTION(self)->stream.protocol;
    return Py_NewRef(protocol ? protocol : Py_None);
}

static PyObject *connection_set_protocol(PyObject *self, PyObject *protocol)
{
    struct connection *c = CONNECTION(self);
    if (c->stream.fd >= 0 && stream_set_protocol(&c->stream, protocol) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *connection_in_context(PyObject *self, PyObject *callback)
{
    return stream_run(STREAM(self), callback, NULL);
}

/* --- its beginning ---------------------------------------------------------------------------------------------------- */

/* After connection_made(): reads, and wakes whoever waits for the connection. */
static PyObject *connection_start(PyObject *self, PyObject *waiter)
{
    struct connection *c = CONNECTION(self);
    struct aioloop_state *state = stream_state(&c->stream);
    if (c->stream.fd >= 0 && stream_start_reading(&c->stream) < 0)
        return NULL;
    if (waiter == Py_None)
        Py_RETURN_NONE;
    PyObject *done = PyObject_CallMethodNoArgs(waiter, state->str_done);
    int is_done = done ? PyObject_IsTrue(done) : -1;
    Py_XDECREF(done);
    if (is_done == 0)
        return PyObject_CallMethodOneArg(waiter, state->str_set_result, Py_None);
    return is_done < 0 ? NULL : Py_NewRef(Py_None);
}

static int start_soon(struct connection *c, PyObject *waiter)
{
    struct aioloop_state *state = stream_state(&c->stream);
    PyObject *made = PyObject_GetAttr(c->stream.protocol, state->str_connection_made);
    if (call_soon(c, made, (PyObject *)c, c->stream.context) < 0)
        return -1;
    return call_soon(c, PyObject_GetAttr((PyObject *)c, state->str__start), waiter, NULL);
}

static int join_server(struct connection *c, PyObject *server)
{
    if (server == Py_None)
        return 0;
    c->server = Py_NewRef(server);
    return tell_server(c, server, stream_state(&c->stream)->str__attach);
}

/* Small writes leave at once, without waiting for what the peer acknowledges. */
static void set_no_delay(struct connection *c)
{
    int on = 1;
    if (c->here.length > 0)
        (void)setsockopt(c->stream.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* another protocol than TCP has none */
}

/* `peer`: where it is known. On failure the descriptor is still the caller's. */
static int connection_open(struct connection *c, struct aioloop *loop, int fd, const struct address *peer,
                           PyObject *protocol, PyObject *waiter, PyObject *server)
{
    if (aioloop_check_open(loop) < 0 || stream_init(&c->stream, loop, (PyObject *)c, fd) < 0 ||
        stream_set_protocol(&c->stream, protocol) < 0 || end_ask(&c->here, fd, getsockname) < 0 ||
        (peer ? end_set(&c->peer, peer) : end_ask(&c->peer, fd, getpeername)) < 0 || join_server(c, server) < 0 ||
        watch_own(loop, fd, (PyObject *)c) < 0)
        return -1;
    set_no_delay(c);
    return start_soon(c, waiter);
}

PyObject *connection_new(PyTypeObject *type, struct aioloop *loop, int fd, const struct address *peer,
                         PyObject *protocol, PyObject *waiter, PyObject *server)
{
    struct connection *c = CONNECTION(type->tp_alloc(type, 0));
    if (c == NULL)
        return NULL;
    c->stream.fd = -1;
    if (connection_open(c, loop, fd, peer, protocol, waiter, server) < 0) {
        c->stream.fd = -1;
        Py_CLEAR(c);
    }
    return (PyObject *)c;
}

static PyObject *connection_tp_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    struct connection *c = CONNECTION(type->tp_alloc(type, 0));
    if (c != NULL)
        c->stream.fd = -1;
    return (PyObject *)c;
}

/* As the standard library's transports: (loop, sock, protocol, waiter=None, extra=None, server=None). */
static int connection_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = { "loop", "sock", "protocol", "waiter", "extra", "server", NULL };
    struct connection *c = CONNECTION(self);
    PyObject *loop, *sock, *protocol, *waiter = Py_None, *extra = Py_None, *server = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|OOO", names, &loop, &sock, &protocol, &waiter, &extra, &server))
        return -1;
    int fd = PyObject_AsFileDescriptor(sock);
    if (c->stream.loop != NULL)
        PyErr_SetString(PyExc_RuntimeError, "it is connected already");
    if (fd < 0 || PyErr_Occurred() || aioloop_loop_checked(loop) == NULL ||
        connection_open(c, AIOLOOP(loop), fd, NULL, protocol, waiter, server) < 0) {
        c->stream.fd = -1; /* the caller's */
        return -1;
    }
    if (keep_sock(c, Py_NewRef(sock)) < 0)
        return -1;
    c->extra = extra == Py_None ? NULL : PyDict_Copy(extra);
    return PyErr_Occurred() ? -1 : 0;
}

/* --- attributes ------------------------------------------------------------------------------------------------------- */

static PyObject *get_sock(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *sock = sock_of(CONNECTION(self));
    return sock || PyErr_Occurred() ? Py_XNewRef(sock) : Py_NewRef(Py_None);
}

/* None once the connection is lost. */
static PyObject *get_loop(PyObject *self, void *closure)
{
    (void)closure;
    struct stream *s = STREAM(self);
    return Py_NewRef(s->transport ? (PyObject *)s->loop : Py_None);
}

static PyObject *get_server(PyObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(CONNECTION(self)->server ? CONNECTION(self)->server : Py_None);
}

/* --- the type --------------------------------------------------------------------------------------------------------- */

static int connection_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct connection *c = CONNECTION(self);
    Py_VISIT(c->sock);
    Py_VISIT(c->extra);
    Py_VISIT(c->server);
    return stream_traverse(self, visit, arg);
}

static int connection_clear(PyObject *self)
{
    struct connection *c = CONNECTION(self);
    Py_CLEAR(c->extra);
    Py_CLEAR(c->server);
    return stream_clear(self);
}

/* Dropped while it was open: closed, with a warning. */
static void connection_finalize(PyObject *self)
{
    struct connection *c = CONNECTION(self);
    if (c->stream.fd < 0)
        return;
    PyObject *before = PyErr_Occurred() ? exception_take() : NULL;
    if (PyErr_ResourceWarning(self, 1, "unclosed transport %R", self) < 0)
        PyErr_WriteUnraisable(self);
    if (leave_server(c) < 0)
        PyErr_WriteUnraisable(self);
    close_socket(c);
    if (before != NULL)
        exception_restore(before);
}

static void connection_dealloc(PyObject *self)
{
    struct connection *c = CONNECTION(self);
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (c->stream.loop != NULL) {
        if (c->stream.loop->loop != NULL && c->stream.fd >= 0)
            watch_disown(c->stream.loop, c->stream.fd, self);
        Py_CLEAR(c->sock);
        connection_clear(self);
        stream_done(&c->stream);
    }
    Py_CLEAR(c->peer.name);
    Py_CLEAR(c->here.name);
    type->tp_free(self);
    Py_DECREF(type);
}

#define GETTER(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef connection_methods[] = {
    { "write", stream_write, METH_O, "Write bytes; they leave at the end of the turn, or when the socket takes them." },
    { "writelines", stream_writelines, METH_O, "Write each of an iterable." },
    { "write_eof", connection_write_eof, METH_NOARGS, "Close the writing end, after what was written." },
    { "can_write_eof", connection_can_write_eof, METH_NOARGS, "True." },
    { "get_write_buffer_size", stream_get_write_buffer_size, METH_NOARGS, "Bytes that have not left yet." },
    { "close", connection_close, METH_NOARGS, "Close, after what was written." },
    { "abort", connection_abort, METH_NOARGS, "Close at once." },
    { "is_closing", stream_is_closing, METH_NOARGS, "Whether it is closing or closed." },
    { "is_reading", stream_is_reading, METH_NOARGS, "Whether the protocol is fed." },
    { "pause_reading", connection_pause_reading, METH_NOARGS, "Feed the protocol no more, until resume_reading()." },
    { "resume_reading", connection_resume_reading, METH_NOARGS, "Feed the protocol again." },
    { "get_protocol", connection_get_protocol, METH_NOARGS, "The protocol." },
    { "set_protocol", connection_set_protocol, METH_O, "Feed another protocol." },
    { "get_extra_info", GETTER(connection_get_extra_info), METH_VARARGS | METH_KEYWORDS,
      "What is known of the connection: 'peername', 'sockname', 'socket'." },
    { "_start", connection_start, METH_O, NULL },
    { "_in_context", connection_in_context, METH_O, "Call in the context of the connection's callbacks." },
    { "_force_close", connection_force_close, METH_O, NULL },
    { "_call_connection_lost", connection_call_connection_lost, METH_O, NULL },
    { "_read_ready__on_eof", connection_on_eof, METH_NOARGS, NULL },
    { 0 },
};

static PyMemberDef connection_members[] = {
    { "_sock_fd", T_INT, offsetof(struct stream, fd), READONLY, NULL },
    STREAM_MEMBERS,
    { 0 },
};

static PyGetSetDef connection_attributes[] = {
    { "_sock", get_sock, NULL, NULL, NULL },
    { "_loop", get_loop, NULL, NULL, NULL },
    { "_server", get_server, NULL, NULL, NULL },
    { "_extra", get_extra, NULL, NULL, NULL },
    STREAM_ATTRIBUTES,
    { 0 },
};

static PyType_Slot connection_slots[] = {
    { Py_tp_doc, "A transport over a socket, as the standard library's: (loop, sock, protocol, waiter, extra, server)." },
    { Py_tp_new, connection_tp_new },
    { Py_tp_init, connection_init },
    { Py_tp_dealloc, connection_dealloc },
    { Py_tp_finalize, connection_finalize },
    { Py_tp_traverse, connection_traverse },
    { Py_tp_clear, connection_clear },
    { Py_tp_methods, connection_methods },
    { Py_tp_members, connection_members },
    { Py_tp_getset, connection_attributes },
    { 0, NULL },
};

static PyType_Spec connection_spec = {
    .name = "licorne._core.Connection",
    .basicsize = sizeof(struct connection),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = connection_slots,
};

/* The slots of the class that it derives from lie where its struct says. */
static bool base_fits(PyObject *base)
{
    return ((PyTypeObject *)base)->tp_basicsize <= (Py_ssize_t)offsetof(struct stream, loop) &&
           ((PyTypeObject *)base)->tp_itemsize == 0 && ((PyTypeObject *)base)->tp_dictoffset == 0;
}

int connection_add(struct aioloop_state *state, PyObject *module)
{
    PyObject *transports = PyImport_ImportModule("asyncio.transports");
    PyObject *base = transports ? PyObject_GetAttrString(transports, "_FlowControlMixin") : NULL, *type = NULL;
    if (base != NULL && !base_fits(base))
        PyErr_SetString(PyExc_ImportError, "asyncio's transports have changed: this Python is too new for this licorne");
    else if (base != NULL)
        type = PyType_FromModuleAndSpec(module, &connection_spec, base);
    Py_XDECREF(base);
    Py_XDECREF(transports);
    if (type == NULL)
        return -1;
    state->connection_type = (PyTypeObject *)type;
    return PyModule_AddType(module, state->connection_type);
}
