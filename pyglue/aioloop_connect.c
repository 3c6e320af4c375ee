/* aioloop_connect: the plain way to a connection, for create_connection() with a numeric address: socket(), connect(), and a
 * transport when it is established. Whatever is not plain is the standard library's. */
#include "pyglue/aioloop_connection.h"

#include <unistd.h>

static bool address_of(PyObject *pair, struct address *address)
{
    return address_from_python(pair, AF_INET, address) || address_from_python(pair, AF_INET6, address);
}

/* A socket that is connecting; -1 with errno. *waits: it is not connected yet. */
static int begin(const struct address *address, bool *waits)
{
    int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    *waits = connect(fd, (const struct sockaddr *)&address->storage, address->length) < 0;
    if (!*waits || errno == EINPROGRESS)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static PyObject *fail(PyObject *pair)
{
    PyObject *text = PyUnicode_FromFormat("Connect call failed %R", pair);
    PyObject *args = text ? Py_BuildValue("(iN)", errno, text) : NULL;
    if (args != NULL)
        PyErr_SetObject(PyExc_OSError, args);
    Py_XDECREF(args);
    return NULL;
}

/* A future that gets errno, 0 when it is connected. */
static void on_event(struct aioloop *loop, int fd, PyObject *future, bool writer)
{
    int error = 0;
    socklen_t length = sizeof(error);
    watch_unset(loop, fd, writer);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        error = errno;
    PyObject *number = PyLong_FromLong(error), *done = PyObject_CallMethodNoArgs(future, loop->state->str_done);
    PyObject *set = NULL;
    if (number != NULL && done == Py_False)
        set = PyObject_CallMethodOneArg(future, loop->state->str_set_result, number);
    if (PyErr_Occurred())
        aioloop_raised(loop);
    Py_XDECREF(number);
    Py_XDECREF(done);
    Py_XDECREF(set);
}

static PyObject *wait_for(struct aioloop *loop, int fd)
{
    PyObject *future = aioloop_create_future((PyObject *)loop, NULL);
    if (future != NULL && watch_set(loop, fd, true, future, on_event) < 0)
        Py_CLEAR(future);
    return future;
}

/* (host, port): None if that is not for us to say. */
PyObject *aioloop_connect(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct aioloop *loop = AIOLOOP(self);
    struct address address;
    bool waits;
    if (aioloop_check_open(loop) < 0)
        return NULL;
    PyObject *pair = nargs == 2 ? PyTuple_Pack(2, args[0], args[1]) : NULL;
    if (pair == NULL || !address_of(pair, &address)) {
        Py_XDECREF(pair);
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    PyObject *future = NULL, *result = NULL;
    int fd = begin(&address, &waits);
    if (fd < 0) {
        fail(pair);
    } else {
        future = waits ? wait_for(loop, fd) : Py_NewRef(Py_None);
        result = future ? Py_BuildValue("(iOO)", fd, future, pair) : NULL;
        if (result == NULL)
            close(fd);
    }
    Py_XDECREF(future);
    Py_DECREF(pair);
    return result;
}

PyObject *aioloop_connected(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct aioloop *loop = AIOLOOP(self);
    if (nargs != 4 || !PyType_Check(args[0]) ||
        !PyType_IsSubtype((PyTypeObject *)args[0], loop->state->connection_type)) {
        PyErr_SetString(PyExc_TypeError, "_connected() takes a type, a descriptor, a protocol and a future");
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(args[1]);
    return fd < 0 ? NULL : connection_new((PyTypeObject *)args[0], loop, fd, NULL, args[2], args[3], Py_None);
}
