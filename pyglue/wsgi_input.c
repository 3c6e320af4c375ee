/* wsgi_input: the body of the request as a file (PEP 3333), which ends where the body ends. What has come lies in
 * request->body; a read that needs more waits for it, and the first wait is what sends `100 Continue`. When the client
 * leaves before its body is complete, reading raises ConnectionResetError once everything that came was read: a part
 * is never taken for the whole.
 *
 * Results are filled outside of the core: `take` copies what is here, at most what was asked for, under it. */
#include "pyglue/wsgi.h"


/* How much is here, and whether it is all. (Another thread may have ended the request while this one had to let the GIL
 * go to get into the core; hence the looks at call->request inside.) */
struct present {
    size_t bytes;
    bool end;
};

static struct present look(struct wsgi_call *call)
{
    PyThreadState *saved;
    core_enter(call->wsgi, &saved);
    struct present present = { 0, true };
    if (call->request != NULL)
        present = (struct present){ buf_len(&call->request->body), call->request->body_end };
    core_leave_unchanged(call->wsgi, saved);
    return present;
}

/* Waits until there is something to read. False: the end of the body, or an exception is pending. */
static bool wait_for_bytes(struct wsgi_call *call, struct present *present)
{
    for (;;) {
        if (call->request == NULL) {
            PyErr_SetString(PyExc_ValueError, "wsgi.input was read after the request was over");
            return false;
        }
        *present = look(call);
        if (present->bytes > 0)
            return true;
        if (present->end)
            return false;
        if (wsgi_wait_body(call) < 0) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ConnectionResetError,
                             "the client left before the whole body had come: %llu bytes of it are here",
                             (unsigned long long)call->read_total);
            return false;
        }
    }
}

/* Moves up to `n` bytes to `to`; with `line`, up to and including the first line feed. Returns how many. */
static size_t take(struct wsgi_call *call, char *to, size_t n, bool line)
{
    PyThreadState *saved;
    core_enter(call->wsgi, &saved);
    struct str here = call->request ? buf_str(&call->request->body) : (struct str){ 0 };
    if (here.len < n)
        n = here.len;
    const char *feed = line && n > 0 ? memchr(here.p, '\n', n) : NULL;
    if (feed)
        n = (size_t)(feed - here.p) + 1;
    if (n > 0) {
        memcpy(to, here.p, n);
        request_consume(call->request, n);
    }
    call->read_total += n;
    if (here.len > REQUEST_BODY_LOW_WATER && here.len - n <= REQUEST_BODY_LOW_WATER)
        core_leave(call->wsgi, saved); /* reading goes on */
    else
        core_leave_unchanged(call->wsgi, saved);
    return n;
}

/* A bytes object that grows. */
struct result {
    PyObject *bytes;
    size_t used, room;
};

static bool result_grow(struct result *result, size_t room)
{
    result->room = room;
    if (result->bytes == NULL)
        return (result->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room)) != NULL;
    return _PyBytes_Resize(&result->bytes, (Py_ssize_t)room) == 0;
}

static PyObject *result_done(struct result *result)
{
    if (result->bytes == NULL)
        return PyBytes_FromStringAndSize(NULL, 0);
    if (result->used < result->room && _PyBytes_Resize(&result->bytes, (Py_ssize_t)result->used) < 0)
        return NULL;
    return result->bytes;
}

/* Room for what is here now, and no more than was asked for: a length that a client only claims takes no memory. */
static bool result_reserve(struct result *result, size_t limit, size_t here)
{
    size_t left = limit - result->used, wanted = result->used + (here < left ? here : left);
    if (result->room >= wanted)
        return true;
    if (wanted < result->room * 2)
        wanted = result->room * 2 < limit ? result->room * 2 : limit;
    return result_grow(result, wanted);
}

/* Up to `limit` bytes; less only at the end of the body, or with `line` after a line feed, or with `once` after what
 * was there. */
static PyObject *read_bytes(struct wsgi_call *call, size_t limit, bool line, bool once)
{
    struct result result = { 0 };
    struct present present;
    while (result.used < limit && wait_for_bytes(call, &present)) {
        if (!result_reserve(&result, limit, present.bytes))
            break;
        char *to = PyBytes_AS_STRING(result.bytes) + result.used;
        size_t got = take(call, to, result.room - result.used, line);
        result.used += got;
        if (once || (line && got > 0 && to[got - 1] == '\n'))
            break;
    }
    if (PyErr_Occurred()) {
        Py_XDECREF(result.bytes);
        return NULL;
    }
    return result_done(&result);
}

/* The argument of read(), readline() and readlines(): None and negative numbers mean no limit. */
static bool parse_size(PyObject *const *args, Py_ssize_t count, const char *name, size_t *size)
{
    *size = PY_SSIZE_T_MAX;
    if (count > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most one argument, not %zd", name, count);
        return false;
    }
    if (count == 0 || args[0] == Py_None)
        return true;
    Py_ssize_t n = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
    if (n == -1 && PyErr_Occurred())
        return false;
    if (n >= 0)
        *size = (size_t)n;
    return true;
}

static PyObject *input_read(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    size_t size;
    return parse_size(args, count, "read", &size) ? read_bytes((struct wsgi_call *)self, size, false, false) : NULL;
}

static PyObject *input_read1(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    size_t size;
    return parse_size(args, count, "read1", &size) ? read_bytes((struct wsgi_call *)self, size, false, true) : NULL;
}

static PyObject *input_readline(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    size_t size;
    return parse_size(args, count, "readline", &size) ? read_bytes((struct wsgi_call *)self, size, true, false) : NULL;
}

/* Lines until their lengths reach the hint, as io.IOBase does it; 0 is no hint. */
static PyObject *input_readlines(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    size_t hint, total = 0;
    if (!parse_size(args, count, "readlines", &hint))
        return NULL;
    PyObject *lines = PyList_New(0), *line = NULL;
    while (lines != NULL && (hint == 0 || total < hint)) {
        line = read_bytes((struct wsgi_call *)self, PY_SSIZE_T_MAX, true, false);
        if (line == NULL || PyBytes_GET_SIZE(line) == 0)
            break;
        total += (size_t)PyBytes_GET_SIZE(line);
        if (PyList_Append(lines, line) < 0)
            Py_CLEAR(line);
        if (line == NULL)
            break;
        Py_CLEAR(line);
    }
    Py_XDECREF(line);
    if (PyErr_Occurred())
        Py_CLEAR(lines);
    return lines;
}

PyObject *wsgi_input_next(PyObject *self)
{
    PyObject *line = read_bytes((struct wsgi_call *)self, PY_SSIZE_T_MAX, true, false);
    if (line != NULL && PyBytes_GET_SIZE(line) == 0)
        Py_CLEAR(line);
    return line;
}

/* One piece, as a raw file's readinto() does: what is here, after waiting for at least a byte. */
static PyObject *input_readinto(PyObject *self, PyObject *target)
{
    struct wsgi_call *call = (struct wsgi_call *)self;
    struct present present;
    Py_buffer buffer;
    size_t got = 0;
    if (PyObject_GetBuffer(target, &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    if (buffer.len > 0 && wait_for_bytes(call, &present))
        got = take(call, buffer.buf, (size_t)buffer.len, false);
    PyBuffer_Release(&buffer);
    return PyErr_Occurred() ? NULL : PyLong_FromSize_t(got);
}

static PyObject *input_true(PyObject *self, PyObject *ignored)
{
    (void)self, (void)ignored;
    Py_RETURN_TRUE;
}

static PyObject *input_false(PyObject *self, PyObject *ignored)
{
    (void)self, (void)ignored;
    Py_RETURN_FALSE;
}

#define FAST(function) (PyCFunction)(void (*)(void))(function)

PyMethodDef wsgi_input_methods[] = {
    { "read", FAST(input_read), METH_FASTCALL, "read(size=-1): that many bytes, fewer only at the end of the body." },
    { "read1", FAST(input_read1), METH_FASTCALL, "read1(size=-1): what is here, after waiting for at least a byte." },
    { "readline", FAST(input_readline), METH_FASTCALL, "readline(size=-1): a line, with its line feed." },
    { "readlines", FAST(input_readlines), METH_FASTCALL, "readlines(hint=-1): the lines, up to about `hint` bytes." },
    { "readinto", input_readinto, METH_O, "readinto(buffer): fills it with what is here; how many bytes." },
    { "readable", input_true, METH_NOARGS, NULL },
    { "writable", input_false, METH_NOARGS, NULL },
    { "seekable", input_false, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};
