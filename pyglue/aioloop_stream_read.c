/* aioloop_stream_read: what comes, into the protocol: the watcher's callback reads and calls it at once, inside the
 * poll. */
#include "pyglue/aioloop_stream.h"

#include <sys/socket.h>
#include <unistd.h>

/* --- the socket has something to read ------------------------------------------------------------------------------------- */

static int read_failed(struct stream *s)
{
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return stream_fatal(s, s->pipe ? "Fatal read error on pipe transport" : "Fatal read error on socket transport");
}

/* A pipe's transport lives on when its protocol fails: the standard library is that inconsistent. */
static int report(struct stream *s)
{
    if (exception_leaves_loop())
        return -1;
    PyObject *exception = exception_take();
    int outcome = stream_call(s, stream_state(s)->str__protocol_failed, exception);
    Py_DECREF(exception);
    return outcome;
}

static ssize_t receive(struct stream *s, void *into, size_t size)
{
    return s->pipe ? read(s->fd, into, size) : recv(s->fd, into, size, MSG_DONTWAIT);
}

static int call_protocol(struct stream *s, PyObject *method, PyObject *argument, const char *failure)
{
    PyObject *args[] = { Py_NewRef(s->protocol), argument }; /* the call may give us another protocol */
    PyObject *result = argument ? PyObject_VectorcallMethod(method, args, 2, NULL) : NULL;
    Py_DECREF(args[0]);
    Py_XDECREF(argument);
    Py_XDECREF(result);
    return result ? 0 : s->pipe ? report(s) : stream_fatal(s, failure);
}

static int read_tls(struct stream *s, char *data, ssize_t n)
{
    PyObject *protocol = Py_NewRef(s->protocol);
    int outcome = tls_data_received(protocol, data, n);
    Py_DECREF(protocol);
    return outcome == 0 ? 0 : stream_fatal(s, "Fatal error: protocol.buffer_updated() call failed.");
}

static int pass_on(struct stream *s, PyObject *bytes)
{
    return call_protocol(s, stream_state(s)->str_data_received, bytes,
                         "Fatal error: protocol.data_received() call failed.");
}

/* Where much comes at a time it is read to where it stays; else through a buffer that all share, which costs a copy but no
 * memory while there is nothing to read. */
static int read_much(struct stream *s)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, LOOP_READ_BYTES);
    if (bytes == NULL)
        return -1;
    ssize_t n = receive(s, PyBytes_AS_STRING(bytes), LOOP_READ_BYTES);
    s->reads_much = n > LOOP_READ_BYTES / 2;
    if (n <= 0) {
        int error = errno;
        Py_DECREF(bytes);
        errno = error;
        return n < 0 ? read_failed(s) : stream_call(s, stream_state(s)->str__read_ready__on_eof, NULL);
    }
    if (n < LOOP_READ_BYTES)
        _PyBytes_Resize(&bytes, n);
    return pass_on(s, bytes);
}

static int read_data(struct stream *s)
{
    char *into = loop_read_buffer(s->loop->loop);
    ssize_t n = receive(s, into, LOOP_READ_BYTES);
    if (n < 0)
        return read_failed(s);
    if (n == 0)
        return stream_call(s, stream_state(s)->str__read_ready__on_eof, NULL);
    if (s->tls)
        return read_tls(s, into, n);
    s->reads_much = n > LOOP_READ_BYTES / 2;
    return pass_on(s, PyBytes_FromStringAndSize(into, n));
}

/* A buffer of the protocol's own: -1 with an exception. */
static int get_buffer(struct stream *s, Py_buffer *view)
{
    PyObject *hint = PyLong_FromLong(-1), *args[] = { Py_NewRef(s->protocol), hint };
    PyObject *buffer = hint ? PyObject_VectorcallMethod(stream_state(s)->str_get_buffer, args, 2, NULL) : NULL;
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
        return stream_fatal(s, "Fatal error: protocol.get_buffer() call failed.");
    ssize_t n = receive(s, view.buf, (size_t)view.len);
    int error = errno;
    PyBuffer_Release(&view);
    errno = error;
    if (n < 0)
        return read_failed(s);
    if (n == 0)
        return stream_call(s, stream_state(s)->str__read_ready__on_eof, NULL);
    return call_protocol(s, stream_state(s)->str_buffer_updated, PyLong_FromSsize_t(n),
                         "Fatal error: protocol.buffer_updated() call failed.");
}

int stream_on_readable(struct stream *s)
{
    if (s->conn_lost)
        return 0;
    if (s->buffered_protocol && !s->tls)
        return read_into_buffer(s);
    return s->reads_much && !s->tls ? read_much(s) : read_data(s);
}

