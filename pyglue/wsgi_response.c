/* wsgi_response: what the application answers: start_response(), write(), and the object that it returns (PEP 3333).
 *
 * The head goes to the core at once, so that what is wrong with it is raised in the application; the core holds it
 * until the first byte of the body. A yielded block leaves before the next is asked for; a list or tuple is known as a
 * whole, so it leaves in one write, with a Content-Length. */
#include "pyglue/wsgi.h"

#include <stdlib.h>

#include "pyglue/names.h"
#include "server/base/mem.h"

#define FIELDS_ON_STACK 48
#define REF_BYTES (16 * 1024)  /* from here on the core sends from the bytes object itself */
#define JOIN_BYTES (64 * 1024) /* a sequence up to this size is joined into one write */

/* --- start_response ---------------------------------------------------------------------------------------------- */

/* The bytes of a str whose characters are all latin-1; lives as long as the str. */
static bool str_latin1(PyObject *text, struct str *bytes)
{
#if PY_VERSION_HEX < 0x030c0000
    if (PyUnicode_READY(text) < 0)
        return false;
#endif
    if (PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND) {
        PyErr_Format(PyExc_ValueError, "%R has characters outside of latin-1: encode them first (PEP 3333)", text);
        return false;
    }
    *bytes = (struct str){ (const char *)PyUnicode_1BYTE_DATA(text), (size_t)PyUnicode_GET_LENGTH(text) };
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "200 OK": three digits, a blank, the reason. */
static bool parse_status(PyObject *text, int *status, struct str *reason)
{
    struct str line;
    if (!PyUnicode_Check(text)) {
        PyErr_Format(PyExc_TypeError, "the status must be a str like '200 OK', not %.100s", Py_TYPE(text)->tp_name);
        return false;
    }
    if (!str_latin1(text, &line))
        return false;
    if (line.len < 4 || !is_digit(line.p[0]) || !is_digit(line.p[1]) || !is_digit(line.p[2]) || line.p[3] != ' ') {
        PyErr_Format(PyExc_ValueError, "the status must be three digits, a blank and a reason, not %R", text);
        return false;
    }
    *status = (line.p[0] - '0') * 100 + (line.p[1] - '0') * 10 + line.p[2] - '0';
    *reason = (struct str){ line.p + 4, line.len - 4 };
    return true;
}

/* Fields of the connection are the server's: an application's are not passed on (as gunicorn does; many set
 * `Connection: keep-alive` beside an event stream). `Connection` itself the core reads, for its `close`. */
static bool is_hop_by_hop(struct str name)
{
    static const struct str hops[] = {
        { "te", 2 },
        { "upgrade", 7 },
        { "trailers", 8 },
        { "keep-alive", 10 },
        { "transfer-encoding", 17 },
        { "proxy-authenticate", 18 },
        { "proxy-authorization", 19 },
    };
    for (size_t i = 0; i < sizeof(hops) / sizeof(hops[0]); i++)
        if (str_ieq(name, hops[i]))
            return true;
    return false;
}

static bool parse_field(PyObject *item, struct field *field)
{
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
        PyErr_Format(PyExc_TypeError, "each header must be a tuple (name, value), not %R", item);
        return false;
    }
    PyObject *name = PyTuple_GET_ITEM(item, 0), *value = PyTuple_GET_ITEM(item, 1); // borrowed
    if (!PyUnicode_Check(name) || !PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "header names and values must be str, not (%.100s, %.100s)",
                     Py_TYPE(name)->tp_name, Py_TYPE(value)->tp_name);
        return false;
    }
    return str_latin1(name, &field->name) && str_latin1(value, &field->value);
}

/* Fills `fields`, which has room for all; returns how many there are, -1 with an exception. */
static Py_ssize_t parse_fields(PyObject *headers, struct field *fields)
{
    Py_ssize_t count = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        if (!parse_field(PyList_GET_ITEM(headers, i), &fields[count]))
            return -1;
        count += !is_hop_by_hop(fields[count].name);
    }
    return count;
}

/* The core has checked that it is a number, once. */
static int64_t find_length(const struct field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (str_ieq(fields[i].name, STR("content-length"))) {
            int64_t n = 0;
            for (size_t j = 0; j < fields[i].value.len && is_digit(fields[i].value.p[j]); j++)
                n = n * 10 + fields[i].value.p[j] - '0';
            return n;
        }
    return -1;
}

static bool start_with_fields(struct wsgi_call *call, int status, struct str reason, const struct field *fields,
                              size_t count)
{
    PyThreadState *saved;
    core_enter(call->wsgi, &saved);
    enum request_result result = REQUEST_GONE;
    if (call->request != NULL) /* as in send_bytes() */
        result = request_start(call->request, status, reason, fields, count);
    core_leave(call->wsgi, saved);
    if (result == REQUEST_OK)
        call->declared_length = find_length(fields, count);
    return wsgi_send_result(call, result) != SEND_FAILED;
}

static bool start(struct wsgi_call *call, PyObject *status_text, PyObject *headers)
{
    struct field on_stack[FIELDS_ON_STACK], *fields = on_stack;
    struct str reason;
    int status;
    if (!parse_status(status_text, &status, &reason))
        return false;
    if (!PyList_CheckExact(headers)) {
        PyErr_Format(PyExc_TypeError, "the headers must be a list of tuples, not %.100s", Py_TYPE(headers)->tp_name);
        return false;
    }
    if (PyList_GET_SIZE(headers) > FIELDS_ON_STACK)
        fields = mem_alloc((size_t)PyList_GET_SIZE(headers) * sizeof(*fields));
    Py_ssize_t count = parse_fields(headers, fields);
    bool ok = count >= 0 && start_with_fields(call, status, reason, fields, (size_t)count);
    if (fields != on_stack)
        free(fields);
    return ok;
}

/* With exc_info: raises it again if the head is on its way; else the new head takes the place of the old one. */
static bool start_again(struct wsgi_call *call, PyObject *exc_info)
{
    if (!PyTuple_Check(exc_info) || PyTuple_GET_SIZE(exc_info) != 3) {
        PyErr_SetString(PyExc_TypeError, "exc_info must be the tuple that sys.exc_info() gives");
        return false;
    }
    if (call->request->response >= RESPONSE_BODY) {
        PyErr_Restore(Py_NewRef(PyTuple_GET_ITEM(exc_info, 0)), Py_NewRef(PyTuple_GET_ITEM(exc_info, 1)),
                      Py_NewRef(PyTuple_GET_ITEM(exc_info, 2)));
        return false;
    }
    PyThreadState *saved;
    core_enter(call->wsgi, &saved);
    if (call->request != NULL)
        request_recall(call->request);
    core_leave(call->wsgi, saved);
    call->started = false;
    return true;
}

static PyObject *start_response(struct wsgi_call *call, PyObject *status, PyObject *headers, PyObject *exc_info)
{
    if (exc_info != NULL && exc_info != Py_None) {
        if (!start_again(call, exc_info))
            return NULL;
    } else if (call->started) {
        PyErr_SetString(PyExc_AssertionError, "start_response() was called before: again only with exc_info");
        return NULL;
    }
    if (!start(call, status, headers))
        return NULL;
    call->started = true;
    return Py_NewRef((PyObject *)call);
}

/* --- sending ----------------------------------------------------------------------------------------------------- */

bool wsgi_check_started(struct wsgi_call *call)
{
    if (!call->started)
        PyErr_SetString(PyExc_AssertionError, "the application sent a body, or returned, before start_response()");
    return call->started;
}

enum send_result wsgi_send_result(struct wsgi_call *call, enum request_result result)
{
    switch (result) {
    case REQUEST_OK:
    case REQUEST_FULL:
        return SEND_OK;
    case REQUEST_GONE:
        call->gone = true;
        return SEND_GONE;
    case REQUEST_TOO_LONG:
        PyErr_Format(PyExc_ValueError, "the body is longer than its Content-Length, %lld",
                     (long long)call->declared_length);
        return SEND_FAILED;
    case REQUEST_INVALID:
        break;
    }
    PyErr_SetString(PyExc_ValueError, call->request->error ? call->request->error : "invalid response");
    return SEND_FAILED;
}

/* Keeps a bytes object while the core sends from it. */
struct sent_bytes {
    struct wsgi *wsgi;
    PyObject *bytes;
};

static void release_bytes(void *arg)
{
    struct sent_bytes *sent = arg;
    wsgi_drop(sent->wsgi, sent->bytes);
    free(sent);
}

static struct body_ref keep_bytes(struct wsgi *wsgi, PyObject *bytes)
{
    struct sent_bytes *sent = mem_alloc(sizeof(*sent));
    *sent = (struct sent_bytes){ wsgi, Py_NewRef(bytes) };
    return (struct body_ref){ release_bytes, sent };
}

/* `more`: the block leaves now, and this waits until the next one has room. */
static enum send_result send_bytes(struct wsgi_call *call, PyObject *bytes, bool more)
{
    struct str data = { PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes) };
    struct body_ref ref, *kept = NULL;
    PyThreadState *saved;
    if (data.len >= REF_BYTES) {
        ref = keep_bytes(call->wsgi, bytes);
        kept = &ref;
    }
    core_enter(call->wsgi, &saved);
    call->room = false;
    enum request_result result = REQUEST_GONE;
    if (call->request != NULL) /* else another thread has ended it while this one waited */
        result = request_write(call->request, data, more, kept);
    else if (kept)
        kept->release(kept->arg);
    if (more && (result == REQUEST_OK || result == REQUEST_FULL))
        result = request_flush(call->request);
    core_leave(call->wsgi, saved);
    if (result == REQUEST_FULL && more && wsgi_wait_room(call) < 0)
        return PyErr_Occurred() ? SEND_FAILED : wsgi_send_result(call, REQUEST_GONE);
    return wsgi_send_result(call, result);
}

static bool check_bytes(PyObject *item)
{
    if (!PyBytes_Check(item))
        PyErr_Format(PyExc_TypeError, "a WSGI body is made of bytes, not of %.100s", Py_TYPE(item)->tp_name);
    return PyBytes_Check(item);
}

static enum send_result send_last(struct wsgi_call *call, PyObject *bytes)
{
    Py_INCREF(bytes); /* the application may still change its list */
    enum send_result sent = send_bytes(call, bytes, false);
    Py_DECREF(bytes);
    return sent;
}

/* Ends a response whose body has been sent, or is empty. */
static enum send_result finish(struct wsgi_call *call)
{
    PyThreadState *saved;
    if (!wsgi_check_started(call))
        return SEND_FAILED;
    core_enter(call->wsgi, &saved);
    enum request_result result = request_finish(call->request);
    core_leave(call->wsgi, saved);
    return wsgi_send_result(call, result);
}

static PyObject *write_body(struct wsgi_call *call, PyObject *data)
{
    if (!check_bytes(data) || !wsgi_check_started(call))
        return NULL;
    if (PyBytes_GET_SIZE(data) > 0) {
        switch (call->gone ? SEND_GONE : send_bytes(call, data, true)) {
        case SEND_OK:
            break;
        case SEND_GONE:
            PyErr_SetString(PyExc_BrokenPipeError, "the client has left");
            return NULL;
        case SEND_FAILED:
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

/* --- what the application returned ------------------------------------------------------------------------------- */

enum send_result wsgi_send_iterable(struct wsgi_call *call, PyObject *iterable)
{
    PyObject *iterator = PyObject_GetIter(iterable), *item = NULL;
    enum send_result sent = iterator ? SEND_OK : SEND_FAILED;
    call->request->flush_end = true; /* before close(), which may take long */
    while (sent == SEND_OK && (item = PyIter_Next(iterator)) != NULL) {
        if (!check_bytes(item) || (PyBytes_GET_SIZE(item) > 0 && !wsgi_check_started(call)))
            sent = SEND_FAILED;
        else if (PyBytes_GET_SIZE(item) > 0)
            sent = send_bytes(call, item, true);
        Py_DECREF(item);
    }
    Py_XDECREF(iterator);
    if (sent == SEND_OK)
        sent = PyErr_Occurred() ? SEND_FAILED : finish(call);
    return sent;
}

/* The sum of the blocks' lengths; -1 with an exception if one is no bytes. */
static Py_ssize_t sequence_length(PyObject **items, Py_ssize_t count)
{
    Py_ssize_t total = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!check_bytes(items[i]))
            return -1;
        total += PyBytes_GET_SIZE(items[i]);
    }
    return total;
}

static enum send_result send_joined(struct wsgi_call *call, PyObject **items, Py_ssize_t count, Py_ssize_t total)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, total);
    if (bytes == NULL)
        return SEND_FAILED;
    char *to = PyBytes_AS_STRING(bytes);
    for (Py_ssize_t i = 0; i < count; i++) {
        memcpy(to, PyBytes_AS_STRING(items[i]), (size_t)PyBytes_GET_SIZE(items[i]));
        to += PyBytes_GET_SIZE(items[i]);
    }
    enum send_result sent = send_last(call, bytes);
    Py_DECREF(bytes);
    return sent;
}

/* `sequence`: a list or tuple. */
static enum send_result send_sequence(struct wsgi_call *call, PyObject *sequence)
{
    PyObject **items = PySequence_Fast_ITEMS(sequence);
    Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence), total = sequence_length(items, count);
    if (total < 0)
        return SEND_FAILED;
    if (total == 0)
        return finish(call);
    if (!wsgi_check_started(call))
        return SEND_FAILED;
    if (count == 1)
        return send_last(call, items[0]);
    return total <= JOIN_BYTES ? send_joined(call, items, count, total) : wsgi_send_iterable(call, sequence);
}

enum send_result wsgi_respond(struct wsgi_call *call, PyObject *result)
{
    enum send_result sent;
    if (call->gone)
        return SEND_GONE;
    if (PyList_CheckExact(result) || PyTuple_CheckExact(result))
        return send_sequence(call, result);
    if (Py_TYPE(result) == wsgi_file_type() && wsgi_file_send(call, result, &sent))
        return sent;
    return wsgi_send_iterable(call, result);
}

/* --- the call ---------------------------------------------------------------------------------------------------- */

/* exc_info by its name; 0, or -1 with an exception. */
static int keyword_exc_info(PyObject *const *values, PyObject *kwnames, PyObject **exc_info)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i); // borrowed
        if (*exc_info != NULL || PyUnicode_CompareWithASCIIString(name, "exc_info") != 0) {
            PyErr_Format(PyExc_TypeError, "start_response() got an unexpected keyword argument %R", name);
            return -1;
        }
        *exc_info = values[i];
    }
    return 0;
}

PyObject *wsgi_call_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct wsgi_call *call = (struct wsgi_call *)self;
    Py_ssize_t count = PyVectorcall_NARGS(nargsf);
    PyObject *exc_info = count == 3 ? args[2] : NULL;
    if (call->request == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the request is over: nothing can be sent any more");
        return NULL;
    }
    if (count == 1 && kwnames == NULL)
        return write_body(call, args[0]);
    if (count != 2 && count != 3) {
        PyErr_SetString(PyExc_TypeError, "start_response(status, headers, exc_info=None) or write(data)");
        return NULL;
    }
    if (kwnames != NULL && keyword_exc_info(args + count, kwnames, &exc_info) < 0)
        return NULL;
    return start_response(call, args[0], args[1], exc_info);
}
