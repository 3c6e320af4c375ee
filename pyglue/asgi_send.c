/* asgi_send: the events that an application sends. What is wrong is told by an exception out of send(); keys that we do
 * not know are none of our business; after the complete response everything is ignored. */
#include "pyglue/asgi.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pyglue/names.h"
#include "server/http/request.h"

#define FIELDS_INLINE 32
#define BODY_REF_BYTES (16 * 1024) /* from this size on a body is sent from where it lies */

/* -------------------------------------------------------------------------------------------------------- events */

bool asgi_is(PyObject *text, PyObject *name)
{
    if (text == name)
        return true;
    Py_ssize_t len = PyUnicode_GET_LENGTH(name);
    return PyUnicode_GET_LENGTH(text) == len && PyUnicode_IS_COMPACT_ASCII(text) &&
           memcmp(PyUnicode_1BYTE_DATA(text), PyUnicode_1BYTE_DATA(name), (size_t)len) == 0;
}

static PyObject *not_a_dict(PyObject *event)
{
    return PyErr_Format(PyExc_TypeError, "send() takes an event, a dict, not %.100s", Py_TYPE(event)->tp_name);
}

/* Borrowed, as given; NULL with an exception. */
static PyObject *checked_type(PyObject *type)
{
    if (type != NULL && PyUnicode_Check(type))
        return type;
    if (type != NULL)
        return PyErr_Format(PyExc_TypeError, "an event's \"type\" must be a str, not %.100s", Py_TYPE(type)->tp_name);
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "an event needs the key \"type\"");
    return NULL;
}

PyObject *asgi_event_type(PyObject *event)
{
    if (!PyDict_Check(event))
        return not_a_dict(event);
    return checked_type(PyDict_GetItemWithError(event, names.type));
}

/* What events have. */
struct event {
    PyObject *type, *status, *headers, *body, *more_body; /* borrowed; NULL: not there */
};

static int event_look_up(PyObject *dict, PyObject *name, PyObject **value)
{
    if (*value == NULL)
        *value = PyDict_GetItemWithError(dict, name);
    return *value == NULL && PyErr_Occurred() ? -1 : 0;
}

/* Keys are literals, which are interned: one pass over the few there are costs less than looking each of them up. */
static int event_read(PyObject *dict, struct event *event)
{
    bool strange = false;
    PyObject *key, *value;
    *event = (struct event){ 0 };
    for (Py_ssize_t at = 0; PyDict_Next(dict, &at, &key, &value);) {
        if (key == names.type)
            event->type = value;
        else if (key == names.body)
            event->body = value;
        else if (key == names.more_body)
            event->more_body = value;
        else if (key == names.status)
            event->status = value;
        else if (key == names.headers)
            event->headers = value;
        else
            strange = true;
    }
    if (strange &&
        (event_look_up(dict, names.type, &event->type) < 0 || event_look_up(dict, names.body, &event->body) < 0 ||
         event_look_up(dict, names.more_body, &event->more_body) < 0 ||
         event_look_up(dict, names.status, &event->status) < 0 ||
         event_look_up(dict, names.headers, &event->headers) < 0))
        return -1;
    return 0;
}

static PyObject *disconnected(void)
{
    PyErr_SetString(asgi_client_disconnected, "the client has closed the connection");
    return NULL;
}

/* ------------------------------------------------------------------------------------------ http.response.start */

int asgi_status_of(PyObject *status)
{
    if (status == NULL) {
        PyErr_SetString(PyExc_ValueError, "http.response.start needs the key \"status\"");
        return -1;
    }
    if (!PyLong_Check(status)) {
        PyErr_Format(PyExc_TypeError, "http.response.start: \"status\" must be an int, not %.100s",
                     Py_TYPE(status)->tp_name);
        return -1;
    }
    int overflow;
    long value = PyLong_AsLongAndOverflow(status, &overflow);
    if (overflow == 0 && value >= 100 && value <= 999)
        return (int)value;
    PyErr_Format(PyExc_ValueError, "http.response.start: \"status\" must have three digits, not %S", status);
    return -1;
}

static int str_of(PyObject *bytes, struct str *to)
{
    if (!PyBytes_Check(bytes)) {
        PyErr_Format(PyExc_TypeError, "http.response.start: header names and values must be bytes, not %.100s (%R)",
                     Py_TYPE(bytes)->tp_name, bytes);
        return -1;
    }
    *to = (struct str){ PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes) };
    return 0;
}

/* `keep` gets the pair if it was made here, so that the bytes live until request_start() has copied them. */
int asgi_field_of(PyObject *pair, struct field *field, PyObject **keep)
{
    if (PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2)
        return str_of(PyTuple_GET_ITEM(pair, 0), &field->name) < 0 ? -1
                                                                   : str_of(PyTuple_GET_ITEM(pair, 1), &field->value);
    PyObject *items = PySequence_Tuple(pair);
    if (items == NULL)
        return -1;
    if (PyTuple_GET_SIZE(items) != 2) {
        PyErr_Format(PyExc_ValueError, "http.response.start: a header is a pair [name, value], not %R", pair);
        Py_DECREF(items);
        return -1;
    }
    if (*keep == NULL && (*keep = PyList_New(0)) == NULL) {
        Py_DECREF(items);
        return -1;
    }
    int result = PyList_Append(*keep, items);
    Py_DECREF(items);
    if (result < 0)
        return -1;
    return str_of(PyTuple_GET_ITEM(items, 0), &field->name) < 0 ? -1
                                                                : str_of(PyTuple_GET_ITEM(items, 1), &field->value);
}

static PyObject *start_result(struct asgi_http *http, enum request_result result)
{
    switch (result) {
    case REQUEST_OK:
    case REQUEST_FULL:
        http->started = true;
        return asgi_awaitable_none();
    case REQUEST_GONE:
        return disconnected();
    default:
        return PyErr_Format(PyExc_ValueError, "http.response.start: %s", http->request->error);
    }
}

/* `headers`: a list or tuple. */
static PyObject *start_with(struct asgi_http *http, int status, PyObject *headers)
{
    struct field here[FIELDS_INLINE], *fields = here;
    PyObject *keep = NULL, *ready = NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(headers);
    if (count > FIELDS_INLINE && (fields = PyMem_New(struct field, (size_t)count)) == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++)
        if (asgi_field_of(PySequence_Fast_GET_ITEM(headers, i), &fields[i], &keep) < 0)
            goto done;
    ready = start_result(http, request_start(http->request, status, (struct str){ NULL, 0 }, fields, (size_t)count));
done:
    Py_XDECREF(keep);
    if (fields != here)
        PyMem_Free(fields);
    return ready;
}

static PyObject *send_start(struct asgi_http *http, const struct event *event)
{
    if (http->started) {
        PyErr_SetString(PyExc_RuntimeError, "http.response.start was sent twice");
        return NULL;
    }
    int status = asgi_status_of(event->status);
    if (status < 0)
        return NULL;
    PyObject *headers = event->headers; // borrowed
    if (headers == NULL)
        return start_result(http, request_start(http->request, status, (struct str){ NULL, 0 }, NULL, 0));
    headers = PySequence_Fast(headers, "http.response.start: \"headers\" must be an iterable of pairs");
    if (headers == NULL)
        return NULL;
    PyObject *ready = start_with(http, status, headers);
    Py_DECREF(headers);
    return ready;
}

/* ------------------------------------------------------------------------------------------- http.response.body */

/* Waits for room: None once there is some. */
static PyObject *room_poll(PyObject *owner)
{
    struct asgi_http *http = (struct asgi_http *)owner;
    if (http->complete)
        Py_RETURN_NONE;
    if (http->request->conn == NULL)
        return disconnected();
    if (http->full)
        return NULL;
    Py_RETURN_NONE;
}

/* The last event was taken: whatever still waits in receive() learns that it is over. The application is not made to
 * wait until a slow client has taken the rest: it is done, and the bytes are in the server's hands. */
static PyObject *complete(struct asgi_http *http)
{
    asgi_http_complete(http);
    return asgi_awaitable_none();
}

static PyObject *body_result(struct asgi_http *http, enum request_result result, bool more)
{
    switch (result) {
    case REQUEST_OK:
        return more ? asgi_awaitable_none() : complete(http);
    case REQUEST_FULL:
        if (!more)
            return complete(http);
        http->full = true;
        return asgi_awaitable_new((PyObject *)http, room_poll, &http->senders, http->asgi->loop);
    case REQUEST_GONE:
        return disconnected();
    default:
        /* More than Content-Length: nothing went out. Less: the core has closed the connection, visibly. */
        PyErr_Format(PyExc_RuntimeError, "http.response.body: %s",
                     http->request->error != NULL ? http->request->error : "more body than Content-Length");
        if (result == REQUEST_INVALID && !more)
            asgi_http_complete(http);
        return NULL;
    }
}

static void release_bytes(void *bytes)
{
    Py_DECREF((PyObject *)bytes);
}

static PyObject *write_bytes(struct asgi_http *http, PyObject *bytes, bool more)
{
    struct str data = { PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes) };
    if (data.len < BODY_REF_BYTES)
        return body_result(http, request_write(http->request, data, more, NULL), more);
    struct body_ref ref = { release_bytes, Py_NewRef(bytes) };
    return body_result(http, request_write(http->request, data, more, &ref), more);
}

/* bytearray, memoryview: mutable or borrowed, so copied. */
static PyObject *write_buffer(struct asgi_http *http, PyObject *body, bool more)
{
    Py_buffer view;
    if (PyUnicode_Check(body) || PyObject_GetBuffer(body, &view, PyBUF_SIMPLE) < 0)
        return PyErr_Format(PyExc_TypeError, "http.response.body: \"body\" must be bytes, not %.100s",
                            Py_TYPE(body)->tp_name);
    struct str data = { view.buf, (size_t)view.len };
    PyObject *ready = body_result(http, request_write(http->request, data, more, NULL), more);
    PyBuffer_Release(&view);
    return ready;
}

static PyObject *write_body(struct asgi_http *http, PyObject *body, bool more)
{
    if (body == NULL)
        return body_result(http, request_write(http->request, (struct str){ "", 0 }, more, NULL), more);
    return PyBytes_Check(body) ? write_bytes(http, body, more) : write_buffer(http, body, more);
}

static PyObject *send_body(struct asgi_http *http, const struct event *event)
{
    if (!http->started) {
        PyErr_SetString(PyExc_RuntimeError, "http.response.body was sent before http.response.start");
        return NULL;
    }
    PyObject *body =
        Py_XNewRef(event->body); /* "more_body" may be an object that takes the event to pieces when asked */
    int more = event->more_body == NULL ? 0 : PyObject_IsTrue(event->more_body);
    PyObject *ready = more < 0 ? NULL : write_body(http, body, more);
    Py_XDECREF(body);
    return ready;
}

/* --------------------------------------------------------------------------------------- http.response.pathsend */

static void release_fd(void *arg)
{
    close((int)(intptr_t)arg);
}

/* Of a regular file: -1 with an OSError that names it. O_NONBLOCK: a FIFO does not hold the loop up. */
static int open_file(PyObject *path, struct stat *info)
{
    PyObject *bytes = NULL;
    if (!PyUnicode_FSConverter(path, &bytes))
        return -1;
    int fd = open(PyBytes_AS_STRING(bytes), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    Py_DECREF(bytes);
    if (fd >= 0 && fstat(fd, info) == 0 && S_ISREG(info->st_mode))
        return fd;
    if (fd >= 0) {
        close(fd);
        errno = S_ISDIR(info->st_mode) ? EISDIR : EINVAL;
    }
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    return -1;
}

/* One that has grown since the application looked goes out as far as Content-Length says. */
static PyObject *write_file(struct asgi_http *http, PyObject *path)
{
    struct stat info;
    int fd = open_file(path, &info);
    if (fd < 0)
        return NULL;
    int64_t declared = request_declared_length(http->request);
    size_t count = (size_t)(declared >= 0 && declared < info.st_size ? declared : info.st_size);
    struct body_ref ref = { release_fd, (void *)(intptr_t)fd };
    return body_result(http, request_write_file(http->request, fd, 0, count, false, &ref), false);
}

/* The extension "Path Send": the whole file, and with it the end of the response. */
static PyObject *send_path(struct asgi_http *http, PyObject *dict)
{
    if (!http->started || http->request->body_sent > 0) {
        PyErr_SetString(PyExc_RuntimeError, http->started
                                                ? "http.response.pathsend was sent after http.response.body"
                                                : "http.response.pathsend was sent before http.response.start");
        return NULL;
    }
    PyObject *path = Py_XNewRef(PyDict_GetItemWithError(dict, names.path));
    if (path == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "http.response.pathsend needs the key \"path\"");
    PyObject *ready = path != NULL ? write_file(http, path) : NULL;
    Py_XDECREF(path);
    return ready;
}

PyObject *asgi_send(struct asgi_http *http, PyObject *dict)
{
    struct event event;
    if (!PyDict_Check(dict))
        return not_a_dict(dict);
    if (event_read(dict, &event) < 0)
        return NULL;
    PyObject *type = checked_type(event.type); // borrowed
    if (type == NULL)
        return NULL;
    if (http->complete)
        return asgi_awaitable_none();
    if (http->request->conn == NULL)
        return disconnected();
    if (asgi_is(type, names.http_response_body))
        return send_body(http, &event);
    if (asgi_is(type, names.http_response_start))
        return send_start(http, &event);
    if (asgi_is(type, names.http_response_pathsend))
        return send_path(http, dict);
    return PyErr_Format(PyExc_ValueError,
                        "unexpected event %R: http.response.start, .body and .pathsend can be sent here", type);
}
