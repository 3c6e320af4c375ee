/* aioloop_accept: what a server does when its listening socket is ready: a transport and a protocol for each connection
 * that waits, in a context of their own. Accepting ends with an error that costs a system call, so more than one are
 * tried for only while there were more the last time. */
#include "pyglue/aioloop_connection.h"

#include <unistd.h>

#define BURST_MAX 64

/* The descriptor; -1 with errno. */
static int accept_one(int listener, struct address *peer)
{
    peer->length = sizeof(peer->storage);
    return accept4(listener, (struct sockaddr *)&peer->storage, &peer->length, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static bool is_passing(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR || error == ECONNABORTED;
}

struct acceptor {
    struct aioloop *loop;
    PyTypeObject *type;
    PyObject *factory, *server;
};

/* As with the standard library, nobody is told of what fails (debug mode has its transports), but for what leaves the
 * loop: -1 then. */
static int begin(const struct acceptor *a, int fd, const struct address *peer)
{
    PyObject *protocol = PyObject_CallNoArgs(a->factory);
    PyObject *transport = protocol ? connection_new(a->type, a->loop, fd, peer, protocol, Py_None, a->server) : NULL;
    Py_XDECREF(protocol);
    if (transport != NULL) {
        Py_DECREF(transport);
        return 0;
    }
    close(fd);
    if (exception_leaves_loop())
        return -1;
    PyErr_Clear();
    return 0;
}

static int begin_in_context(const struct acceptor *a, int fd, const struct address *peer)
{
    PyObject *context = PyContext_CopyCurrent();
    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        close(fd);
        return -1;
    }
    int outcome = begin(a, fd, peer);
    if (PyContext_Exit(context) < 0)
        outcome = -1;
    Py_DECREF(context);
    return outcome;
}

static PyObject *accept_some(const struct acceptor *a, int listener, int burst)
{
    struct address peer;
    int count = 0;
    while (count < burst) {
        int fd = accept_one(listener, &peer);
        if (fd < 0 && !is_passing(errno))
            return PyErr_SetFromErrno(PyExc_OSError);
        if (fd < 0)
            break;
        if (begin_in_context(a, fd, &peer) < 0)
            return NULL;
        count++;
    }
    return PyLong_FromLong(count);
}

PyObject *aioloop_accept(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct aioloop *loop = AIOLOOP(self);
    if (nargs != 5) {
        PyErr_SetString(PyExc_TypeError, "_accept() takes a type, a protocol factory, a socket, a server and a number");
        return NULL;
    }
    struct acceptor a = { loop, (PyTypeObject *)args[0], args[1], args[3] };
    int listener = PyObject_AsFileDescriptor(args[2]), most = (int)PyLong_AsLong(args[4]);
    if (PyErr_Occurred() || !PyType_Check(args[0]) || !PyType_IsSubtype(a.type, loop->state->connection_type))
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "%R is no Connection", args[0]);
    if (watch_who(loop, listener, false) == NULL)
        return accept_some(&a, listener, most); /* called by hand */
    int burst = *watch_burst(loop, listener);
    PyObject *count = accept_some(&a, listener, burst < 1 ? 1 : burst < most ? burst : most);
    if (count != NULL && watch_who(loop, listener, false) != NULL) {
        long taken = PyLong_AsLong(count);
        int most_next = burst < 1 ? 2 : burst < BURST_MAX ? burst * 2 : BURST_MAX;
        *watch_burst(loop, listener) = taken < burst ? (int)taken : most_next;
    }
    return count;
}
