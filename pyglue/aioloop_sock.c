/* aioloop_sock: loop.sock_recv() and its relations, for sockets of the `socket` module that are used as they are. Each is an
 * operation that is tried at once; if it would have to wait, it becomes an object with a Future, and is tried again
 * whenever the descriptor is ready. licorne/loop.py awaits the Future, and comes back (_attempt_ended) if it gives up.
 *
 *     _attempt_recv(sock, n) ──► attempt ──► result
 *                               │ EAGAIN
 *                               ▼
 *                           operation, watched ──► Future */
#include "pyglue/aioloop_address.h"
#include "pyglue/aioloop_impl.h"

#include <unistd.h>

struct attempt {
    /* The result, new; NULL with an exception, or without one if it must wait. */
    PyObject *(*step)(struct attempt *a, int fd);
    PyObject *peer;  /* of connect: the address as Python has it */
    Py_buffer view;  /* what is sent, or received into; released in the end */
    Py_ssize_t size, sent;
    struct address address;
    bool begun; /* connect: only its outcome is missing */
    bool writes;
};

struct operation {
    PyObject_HEAD
    struct aioloop_state *state;
    PyObject *future;
    PyObject *sock; /* kept open, though its owner close it; NULL once it is over */
    struct attempt attempt;
};

#define OPERATION(object) ((struct operation *)(object))

static void attempt_done(struct attempt *a)
{
    PyBuffer_Release(&a->view);
    Py_CLEAR(a->peer);
}

/* After a system call that failed. */
static PyObject *wait_or_fail(void)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return NULL;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* --- what they do ----------------------------------------------------------------------------------------------------- */

static PyObject *step_recv(struct attempt *a, int fd)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, a->size);
    ssize_t n = bytes ? recv(fd, PyBytes_AS_STRING(bytes), (size_t)a->size, MSG_DONTWAIT) : -1;
    if (bytes != NULL && n < 0) {
        Py_DECREF(bytes);
        return wait_or_fail();
    }
    if (bytes != NULL && n != a->size)
        _PyBytes_Resize(&bytes, n);
    return bytes;
}

static PyObject *step_recv_into(struct attempt *a, int fd)
{
    ssize_t n = recv(fd, a->view.buf, (size_t)a->view.len, MSG_DONTWAIT);
    return n < 0 ? wait_or_fail() : PyLong_FromSsize_t(n);
}

static ssize_t receive_from(struct attempt *a, int fd, void *into, size_t size)
{
    a->address.length = sizeof(a->address.storage);
    return recvfrom(fd, into, size, MSG_DONTWAIT, (struct sockaddr *)&a->address.storage, &a->address.length);
}

static PyObject *with_address(struct attempt *a, PyObject *what)
{
    PyObject *from = what ? address_to_python(&a->address) : NULL;
    PyObject *result = from ? PyTuple_Pack(2, what, from) : NULL;
    Py_XDECREF(what);
    Py_XDECREF(from);
    return result;
}

static PyObject *step_recvfrom(struct attempt *a, int fd)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, a->size);
    ssize_t n = bytes ? receive_from(a, fd, PyBytes_AS_STRING(bytes), (size_t)a->size) : -1;
    if (bytes != NULL && n < 0) {
        Py_DECREF(bytes);
        return wait_or_fail();
    }
    if (bytes != NULL && n != a->size)
        _PyBytes_Resize(&bytes, n);
    return with_address(a, bytes);
}

static PyObject *step_recvfrom_into(struct attempt *a, int fd)
{
    ssize_t n = receive_from(a, fd, a->view.buf, (size_t)a->size);
    return n < 0 ? wait_or_fail() : with_address(a, PyLong_FromSsize_t(n));
}

static PyObject *step_sendall(struct attempt *a, int fd)
{
    while (a->sent < a->view.len) {
        ssize_t n = send(fd, (char *)a->view.buf + a->sent, (size_t)(a->view.len - a->sent),
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            return wait_or_fail();
        a->sent += n;
    }
    Py_RETURN_NONE;
}

static PyObject *step_sendto(struct attempt *a, int fd)
{
    ssize_t n = sendto(fd, a->view.buf, (size_t)a->view.len, MSG_DONTWAIT | MSG_NOSIGNAL,
                       (const struct sockaddr *)&a->address.storage, a->address.length);
    return n < 0 ? wait_or_fail() : PyLong_FromSsize_t(n);
}

/* (descriptor, address) */
static PyObject *step_accept(struct attempt *a, int fd)
{
    a->address.length = sizeof(a->address.storage);
    int conn = accept4(fd, (struct sockaddr *)&a->address.storage, &a->address.length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (conn < 0)
        return wait_or_fail();
    PyObject *result = with_address(a, PyLong_FromLong(conn));
    if (result == NULL)
        close(conn);
    return result;
}

static PyObject *connect_failed(struct attempt *a, int error)
{
    PyObject *text = PyUnicode_FromFormat("Connect call failed %R", a->peer);
    PyObject *args = text ? Py_BuildValue("(iN)", error, text) : NULL;
    if (args != NULL)
        PyErr_SetObject(PyExc_OSError, args);
    Py_XDECREF(args);
    return NULL;
}

static PyObject *step_connect(struct attempt *a, int fd)
{
    int error = 0;
    socklen_t length = sizeof(error);
    bool begun = a->begun;
    a->begun = true;
    if (!begun && connect(fd, (const struct sockaddr *)&a->address.storage, a->address.length) < 0)
        return errno == EINPROGRESS || errno == EAGAIN || errno == EINTR ? NULL : PyErr_SetFromErrno(PyExc_OSError);
    if (begun && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        error = errno;
    return error ? connect_failed(a, error) : Py_NewRef(Py_None);
}

/* --- waiting ---------------------------------------------------------------------------------------------------------- */

int socket_hold(struct aioloop_state *state, PyObject *sock)
{
    PyObject *count = PyObject_GetAttr(sock, state->str__io_refs);
    PyObject *more = count ? PyLong_FromLong(PyLong_AsLong(count) + 1) : NULL;
    int outcome = more ? PyObject_SetAttr(sock, state->str__io_refs, more) : -1;
    Py_XDECREF(count);
    Py_XDECREF(more);
    return outcome;
}

void socket_let_go(struct aioloop_state *state, PyObject *sock)
{
    PyObject *result = PyObject_CallMethodNoArgs(sock, state->str__decref_socketios);
    if (result == NULL)
        PyErr_WriteUnraisable(sock);
    Py_XDECREF(result);
}

/* Whoever closes the socket does not close the descriptor: so the operation ends, and never another's socket is meant. */
static int hold_open(struct operation *o, PyObject *sock)
{
    if (socket_hold(o->state, sock) < 0)
        return -1;
    o->sock = Py_NewRef(sock);
    return 0;
}

static void let_close(struct operation *o)
{
    PyObject *sock = o->sock;
    o->sock = NULL;
    if (sock != NULL)
        socket_let_go(o->state, sock);
    Py_XDECREF(sock);
}

/* Tells the Future, if nobody has yet. -1 with an exception. */
static int resolve(struct aioloop *loop, PyObject *future, PyObject *result, PyObject *exception)
{
    PyObject *done = PyObject_CallMethodNoArgs(future, loop->state->str_done), *set = NULL;
    if (done == Py_False)
        set = exception ? PyObject_CallMethodOneArg(future, loop->state->str_set_exception, exception)
                        : PyObject_CallMethodOneArg(future, loop->state->str_set_result, result);
    int outcome = done == NULL || (done == Py_False && set == NULL) ? -1 : 0;
    Py_XDECREF(done);
    Py_XDECREF(set);
    return outcome;
}

/* It is watched no more. The caller keeps it. */
static void end(struct aioloop *loop, int fd, PyObject *self, bool writer)
{
    PyObject *before = PyErr_Occurred() ? exception_take() : NULL;
    watch_unset(loop, fd, writer);
    let_close(OPERATION(self));
    if (before != NULL)
        exception_restore(before);
}

static int is_done(struct aioloop *loop, PyObject *future)
{
    PyObject *done = PyObject_CallMethodNoArgs(future, loop->state->str_done);
    int truth = done ? PyObject_IsTrue(done) : -1;
    Py_XDECREF(done);
    return truth;
}

static void on_event(struct aioloop *loop, int fd, PyObject *self, bool writer)
{
    struct operation *o = OPERATION(self);
    int done = is_done(loop, o->future);
    PyObject *result = done == 0 ? o->attempt.step(&o->attempt, fd) : NULL;
    if (done == 0 && result == NULL && !PyErr_Occurred())
        return;
    PyObject *exception = PyErr_Occurred() && !exception_leaves_loop() ? exception_take() : NULL;
    end(loop, fd, self, writer);
    if (done == 0 && !PyErr_Occurred() && resolve(loop, o->future, result, exception) < 0)
        aioloop_raised(loop);
    if (PyErr_Occurred())
        aioloop_raised(loop);
    Py_XDECREF(exception);
    Py_XDECREF(result);
}

/* Takes over what the attempt holds. */
static PyObject *operation_new(struct aioloop *loop, PyObject *sock, struct attempt *a)
{
    PyTypeObject *type = loop->state->operation_type;
    struct operation *o = OPERATION(type->tp_alloc(type, 0));
    if (o == NULL)
        return NULL;
    o->state = loop->state;
    o->attempt = *a;
    memset(a, 0, sizeof(*a));
    o->future = aioloop_create_future((PyObject *)loop, NULL);
    if (o->future == NULL || hold_open(o, sock) < 0)
        Py_CLEAR(o);
    return (PyObject *)o;
}

static PyObject *wait_for(struct aioloop *loop, int fd, PyObject *sock, struct attempt *a)
{
    bool writer = a->writes;
    if (aioloop_check_open(loop) < 0 || watch_check_unused(loop, fd, sock) < 0)
        return NULL;
    PyObject *o = operation_new(loop, sock, a);
    PyObject *future = o ? Py_NewRef(OPERATION(o)->future) : NULL;
    if (o != NULL && watch_set(loop, fd, writer, o, on_event) < 0)
        Py_CLEAR(future);
    Py_XDECREF(o);
    return future;
}

static PyObject *start(struct aioloop *loop, PyObject *sock, struct attempt *a)
{
    int fd = PyObject_AsFileDescriptor(sock);
    PyObject *result = NULL;
    if (fd < 0) { /* closed: the error that a system call would give */
        PyErr_Clear();
        errno = EBADF;
        PyErr_SetFromErrno(PyExc_OSError);
    } else {
        result = a->step(a, fd);
        if (result == NULL && !PyErr_Occurred())
            result = wait_for(loop, fd, sock, a);
    }
    attempt_done(a);
    return result;
}

/* --- methods: the socket, and what is asked of it ---------------------------------------------------------------------- */

static bool count_is(const char *method, Py_ssize_t nargs, Py_ssize_t wanted)
{
    if (nargs != wanted)
        PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, got %zd", method, wanted, nargs);
    return nargs == wanted;
}

static int size_argument(PyObject *argument, Py_ssize_t *size)
{
    *size = PyNumber_AsSsize_t(argument, PyExc_OverflowError);
    if (*size < 0 && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "negative buffersize");
    return PyErr_Occurred() ? -1 : 0;
}

static int buffer_argument(PyObject *argument, Py_buffer *view)
{
    if (PyObject_GetBuffer(argument, view, PyBUF_WRITABLE) == 0)
        return 0;
    PyErr_Format(PyExc_TypeError, "a read-write bytes-like object is needed, not %.200s", Py_TYPE(argument)->tp_name);
    return -1;
}

PyObject *aioloop_sock_recv(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct attempt a = { .step = step_recv };
    if (!count_is("_attempt_recv", nargs, 2) || size_argument(args[1], &a.size) < 0)
        return NULL;
    return start(AIOLOOP(self), args[0], &a);
}

PyObject *aioloop_sock_recv_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct attempt a = { .step = step_recv_into };
    if (!count_is("_attempt_recv_into", nargs, 2) || buffer_argument(args[1], &a.view) < 0)
        return NULL;
    return start(AIOLOOP(self), args[0], &a);
}

PyObject *aioloop_sock_recvfrom(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct attempt a = { .step = step_recvfrom };
    if (!count_is("_attempt_recvfrom", nargs, 2) || size_argument(args[1], &a.size) < 0)
        return NULL;
    return start(AIOLOOP(self), args[0], &a);
}

/* 0 as the number of bytes means all that the buffer has room for. */
PyObject *aioloop_sock_recvfrom_into(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct attempt a = { .step = step_recvfrom_into };
    if (!count_is("_attempt_recvfrom_into", nargs, 3) || size_argument(args[2], &a.size) < 0 ||
        buffer_argument(args[1], &a.view) < 0)
        return NULL;
    if (a.size > a.view.len) {
        PyErr_SetString(PyExc_ValueError, "nbytes is greater than the length of the buffer");
        attempt_done(&a);
        return NULL;
    }
    a.size = a.size ? a.size : a.view.len;
    return start(AIOLOOP(self), args[0], &a);
}

PyObject *aioloop_sock_sendall(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct attempt a = { .step = step_sendall, .writes = true };
    if (!count_is("_attempt_sendall", nargs, 2) || PyObject_GetBuffer(args[1], &a.view, PyBUF_SIMPLE) < 0)
        return NULL;
    return start(AIOLOOP(self), args[0], &a);
}

/* (sock, data, address, family): None if the address is not plain. */
PyObject *aioloop_sock_sendto(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct attempt a = { .step = step_sendto, .writes = true };
    if (!count_is("_attempt_sendto", nargs, 4))
        return NULL;
    if (!address_from_python(args[2], (int)PyLong_AsLong(args[3]), &a.address))
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return PyObject_GetBuffer(args[1], &a.view, PyBUF_SIMPLE) < 0 ? NULL : start(AIOLOOP(self), args[0], &a);
}

PyObject *aioloop_sock_accept(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct attempt a = { .step = step_accept };
    return count_is("_attempt_accept", nargs, 1) ? start(AIOLOOP(self), args[0], &a) : NULL;
}

/* (sock, address, family): False if the address is not plain; None if it is connected at once. */
PyObject *aioloop_sock_connect(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct attempt a = { .step = step_connect, .writes = true };
    if (!count_is("_attempt_connect", nargs, 3))
        return NULL;
    if (!address_from_python(args[1], (int)PyLong_AsLong(args[2]), &a.address))
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    a.peer = Py_NewRef(args[1]);
    return start(AIOLOOP(self), args[0], &a);
}

/* (future, descriptor): who waited for it has given up. Whatever else has come to be watched stays. */
PyObject *aioloop_sock_forget(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct aioloop *loop = AIOLOOP(self);
    if (!count_is("_attempt_ended", nargs, 2))
        return NULL;
    int fd = (int)PyLong_AsLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    for (int writer = 0; writer < 2; writer++) {
        PyObject *who = watch_who(loop, fd, writer);
        if (who != NULL && Py_TYPE(who) == loop->state->operation_type && OPERATION(who)->future == args[0]) {
            Py_INCREF(who);
            end(loop, fd, who, writer);
            Py_DECREF(who);
        }
    }
    Py_RETURN_NONE;
}

/* --- the type --------------------------------------------------------------------------------------------------------- */

static int operation_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(OPERATION(self)->future);
    Py_VISIT(OPERATION(self)->sock);
    Py_VISIT(OPERATION(self)->attempt.view.obj);
    return 0;
}

static int operation_clear(PyObject *self)
{
    Py_CLEAR(OPERATION(self)->future);
    return 0;
}

static void operation_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    operation_clear(self);
    let_close(OPERATION(self));
    attempt_done(&OPERATION(self)->attempt);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot operation_slots[] = {
    { Py_tp_doc, "An operation of a socket that waits." },
    { Py_tp_dealloc, operation_dealloc },
    { Py_tp_traverse, operation_traverse },
    { Py_tp_clear, operation_clear },
    { 0, NULL },
};

static PyType_Spec operation_spec = {
    .name = "licorne._core.SocketOperation",
    .basicsize = sizeof(struct operation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = operation_slots,
};

int operation_add(struct aioloop_state *state, PyObject *module)
{
    state->operation_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &operation_spec, NULL);
    return state->operation_type ? 0 : -1;
}
