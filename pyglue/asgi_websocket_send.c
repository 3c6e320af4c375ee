/* asgi_websocket_send: send() of a WebSocket: messages once the offer is accepted; before that what answers it. */
#include "pyglue/asgi_websocket.h"

#include "pyglue/names.h"
#include "server/http/request.h"

#define SEND_REF_BYTES (16 * 1024)
#define FIELDS_INLINE 32

static PyObject *disconnected(void)
{
    PyErr_SetString(asgi_client_disconnected, "the WebSocket is closed");
    return NULL;
}

/* ----------------------------------------------------------------------------------------------------------- send */

static PyObject *room_poll(PyObject *owner)
{
    struct asgi_websocket *self = (struct asgi_websocket *)owner;
    if (self->full && !self->closed && (self->ws != NULL || self->request != NULL))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *wait_for_room(struct asgi_websocket *self)
{
    self->full = true;
    return asgi_awaitable_new((PyObject *)self, room_poll, &self->senders, self->asgi->loop);
}

/* The value of `key`, borrowed; NULL: absent or None, with an exception if the lookup failed. */
static PyObject *value_of(PyObject *event, PyObject *key)
{
    PyObject *value = PyDict_GetItemWithError(event, key); // borrowed
    return value == Py_None ? NULL : value;
}

static void release_object(void *object)
{
    Py_DECREF((PyObject *)object);
}

static PyObject *send_result(struct asgi_websocket *self, enum websocket_result result)
{
    switch (result) {
    case WEBSOCKET_OK:
        return asgi_awaitable_none();
    case WEBSOCKET_FULL:
        return wait_for_room(self);
    default:
        return disconnected();
    }
}

/* `owner` keeps the bytes alive. */
static PyObject *send_data(struct asgi_websocket *self, struct str data, bool is_text, PyObject *owner)
{
    struct body_ref ref = { release_object, owner };
    bool by_ref = owner != NULL && data.len >= SEND_REF_BYTES;
    if (by_ref)
        Py_INCREF(owner);
    return send_result(self, websocket_send(self->ws, data, is_text, by_ref ? &ref : NULL));
}

static PyObject *send_text(struct asgi_websocket *self, PyObject *text)
{
    Py_ssize_t len;
    if (!PyUnicode_Check(text))
        return PyErr_Format(PyExc_TypeError, "websocket.send: \"text\" must be a str, not %.100s",
                            Py_TYPE(text)->tp_name);
    const char *p = PyUnicode_AsUTF8AndSize(text, &len);
    return p != NULL ? send_data(self, (struct str){ p, (size_t)len }, true, text) : NULL;
}

static PyObject *send_bytes(struct asgi_websocket *self, PyObject *bytes)
{
    Py_buffer view;
    if (PyBytes_Check(bytes))
        return send_data(self, (struct str){ PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes) }, false, bytes);
    if (PyUnicode_Check(bytes) || PyObject_GetBuffer(bytes, &view, PyBUF_SIMPLE) < 0)
        return PyErr_Format(PyExc_TypeError, "websocket.send: \"bytes\" must be bytes, not %.100s",
                            Py_TYPE(bytes)->tp_name);
    PyObject *ready = send_data(self, (struct str){ view.buf, (size_t)view.len }, false, NULL);
    PyBuffer_Release(&view);
    return ready;
}

static PyObject *send_message(struct asgi_websocket *self, PyObject *event)
{
    if (!self->accepted && !self->closed)
        return PyErr_Format(PyExc_RuntimeError, "websocket.send was sent before websocket.accept");
    PyObject *text = value_of(event, names.text), *bytes = value_of(event, names.bytes);
    if (PyErr_Occurred())
        return NULL;
    if ((text == NULL) == (bytes == NULL))
        return PyErr_Format(PyExc_ValueError, "websocket.send needs either \"text\" or \"bytes\"");
    if (self->ws == NULL)
        return disconnected();
    return text != NULL ? send_text(self, text) : send_bytes(self, bytes);
}

/* --- accept */

static PyObject *accepted(struct asgi_websocket *self, struct websocket *ws)
{
    struct request *request = self->request;
    if (ws == NULL && request->error != NULL)
        return PyErr_Format(PyExc_ValueError, "websocket.accept: %s", request->error);
    if (ws == NULL)
        return disconnected();
    self->accepted = true;
    self->request = NULL;
    request->app_data = NULL;
    request_unref(request);
    self->ws = ws;
    ws->app_data = self;
    if (ws->state == WEBSOCKET_CLOSING) /* the worker is leaving */
        asgi_websocket_closed(self, WS_CODE_RESTART, STR("the server is restarting"));
    return asgi_awaitable_none();
}

static int protocol_of(PyObject *event, struct str *protocol)
{
    Py_ssize_t len;
    *protocol = (struct str){ "", 0 };
    PyObject *value = value_of(event, names.subprotocol);
    if (value == NULL)
        return PyErr_Occurred() ? -1 : 0;
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "websocket.accept: \"subprotocol\" must be a str, not %.100s",
                     Py_TYPE(value)->tp_name);
        return -1;
    }
    protocol->p = PyUnicode_AsUTF8AndSize(value, &len);
    protocol->len = (size_t)len;
    return protocol->p != NULL ? 0 : -1;
}

/* The event's headers, or NULL when it has none; new reference. -1 with an exception. */
static int headers_of(PyObject *event, PyObject **headers)
{
    PyObject *value = value_of(event, names.headers);
    *headers = value != NULL ? PySequence_Fast(value, "\"headers\" must be an iterable of pairs") : NULL;
    return PyErr_Occurred() ? -1 : 0;
}

struct fields {
    struct field here[FIELDS_INLINE], *all;
    size_t count;
    PyObject *headers, *keep;
};

static void fields_done(struct fields *fields)
{
    if (fields->all != fields->here)
        PyMem_Free(fields->all);
    Py_XDECREF(fields->headers);
    Py_XDECREF(fields->keep);
}

/* 0; or -1 with an exception. fields_done() in any case. */
static int fields_init(struct fields *fields, PyObject *event)
{
    fields->all = fields->here;
    fields->count = 0;
    fields->keep = NULL;
    if (headers_of(event, &fields->headers) < 0)
        return -1;
    size_t count = fields->headers != NULL ? (size_t)PySequence_Fast_GET_SIZE(fields->headers) : 0;
    if (count > FIELDS_INLINE && (fields->all = PyMem_New(struct field, count)) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; fields->count < count; fields->count++) {
        PyObject *pair = PySequence_Fast_GET_ITEM(fields->headers, (Py_ssize_t)fields->count); // borrowed
        if (asgi_field_of(pair, &fields->all[fields->count], &fields->keep) < 0)
            return -1;
    }
    return 0;
}

static PyObject *send_accept(struct asgi_websocket *self, PyObject *event)
{
    struct fields fields;
    struct str protocol;
    PyObject *ready = NULL;
    if (self->accepted || self->denying)
        return PyErr_Format(PyExc_RuntimeError, "websocket.accept was sent after the offer was answered");
    if (self->request == NULL || self->closed)
        return disconnected();
    if (protocol_of(event, &protocol) < 0)
        return NULL;
    if (fields_init(&fields, event) == 0)
        ready =
            accepted(self, websocket_accept(self->request, &asgi_websocket_ops, protocol, fields.all, fields.count));
    fields_done(&fields);
    return ready;
}

/* --- close */

static int code_of(PyObject *event)
{
    PyObject *value = value_of(event, names.code);
    if (value == NULL)
        return PyErr_Occurred() ? -1 : WS_CODE_NORMAL;
    int overflow;
    long code = PyLong_Check(value) ? PyLong_AsLongAndOverflow(value, &overflow) : -1;
    if (code == WS_CODE_NONE || (code > 0 && code < 5000 && ws_code_valid((int)code)))
        return (int)code;
    PyErr_Format(PyExc_ValueError,
                 "websocket.close: %R is no code that a close frame may have (1000 to 1003, 1007 to 1014, "
                 "3000 to 4999)",
                 value);
    return -1;
}

static int reason_of(PyObject *event, struct str *reason)
{
    Py_ssize_t len;
    *reason = (struct str){ "", 0 };
    PyObject *value = value_of(event, names.reason);
    if (value == NULL)
        return PyErr_Occurred() ? -1 : 0;
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "websocket.close: \"reason\" must be a str, not %.100s", Py_TYPE(value)->tp_name);
        return -1;
    }
    reason->p = PyUnicode_AsUTF8AndSize(value, &len);
    reason->len = (size_t)len;
    return reason->p != NULL ? 0 : -1;
}

/* Without a body, as the specification says. */
static PyObject *refuse(struct asgi_websocket *self)
{
    if (request_start(self->request, 403, (struct str){ NULL, 0 }, NULL, 0) == REQUEST_OK)
        request_finish(self->request);
    asgi_websocket_closed(self, WS_CODE_ABNORMAL, STR(""));
    asgi_websocket_let_go(self);
    return asgi_awaitable_none();
}

static PyObject *send_close(struct asgi_websocket *self, PyObject *event)
{
    struct str reason;
    int code = code_of(event);
    if (code < 0 || reason_of(event, &reason) < 0)
        return NULL;
    if (self->denying)
        return PyErr_Format(PyExc_RuntimeError, "websocket.close was sent after websocket.http.response.start");
    if (self->request != NULL)
        return refuse(self);
    if (self->ws != NULL) {
        asgi_websocket_queue_clear(self);
        asgi_websocket_closed(self, code, reason);
        websocket_close(self->ws, code, reason);
    }
    return asgi_awaitable_none(); /* closing twice changes nothing */
}

/* --- denial */

static PyObject *send_denial_start(struct asgi_websocket *self, PyObject *event)
{
    struct fields fields;
    PyObject *ready = NULL;
    if (self->accepted || self->denying)
        return PyErr_Format(PyExc_RuntimeError, "websocket.http.response.start was sent after the offer was answered");
    if (self->request == NULL || self->request->conn == NULL)
        return disconnected();
    int status = asgi_status_of(value_of(event, names.status));
    if (status < 0)
        return NULL;
    if (fields_init(&fields, event) == 0) {
        struct str reason = { NULL, 0 };
        switch (request_start(self->request, status, reason, fields.all, fields.count)) {
        case REQUEST_GONE:
            ready = disconnected();
            break;
        case REQUEST_INVALID:
            PyErr_Format(PyExc_ValueError, "websocket.http.response.start: %s", self->request->error);
            break;
        default:
            self->denying = true;
            ready = asgi_awaitable_none();
        }
    }
    fields_done(&fields);
    return ready;
}

static PyObject *denial_result(struct asgi_websocket *self, enum request_result result, bool more)
{
    if (result == REQUEST_GONE)
        return disconnected();
    if (result != REQUEST_OK && result != REQUEST_FULL)
        return PyErr_Format(PyExc_RuntimeError, "websocket.http.response.body: %s",
                            self->request->error != NULL ? self->request->error : "more body than Content-Length");
    if (more)
        return result == REQUEST_FULL ? wait_for_room(self) : asgi_awaitable_none();
    asgi_websocket_closed(self, WS_CODE_ABNORMAL, STR(""));
    asgi_websocket_let_go(self);
    return asgi_awaitable_none();
}

static PyObject *send_denial_body(struct asgi_websocket *self, PyObject *event)
{
    Py_buffer view = { .buf = "" };
    if (!self->denying)
        return PyErr_Format(PyExc_RuntimeError,
                            "websocket.http.response.body was sent before websocket.http.response.start");
    PyObject *body = value_of(event, names.body), *more = value_of(event, names.more_body);
    if (PyErr_Occurred())
        return NULL;
    if (self->request == NULL)
        return asgi_awaitable_none();
    int is_more = more == NULL ? 0 : PyObject_IsTrue(more);
    if (is_more < 0)
        return NULL;
    if (body != NULL && (PyUnicode_Check(body) || PyObject_GetBuffer(body, &view, PyBUF_SIMPLE) < 0))
        return PyErr_Format(PyExc_TypeError, "websocket.http.response.body: \"body\" must be bytes, not %.100s",
                            Py_TYPE(body)->tp_name);
    struct str data = { view.buf, (size_t)view.len };
    PyObject *ready = denial_result(self, request_write(self->request, data, is_more, NULL), is_more);
    if (body != NULL)
        PyBuffer_Release(&view);
    return ready;
}

PyObject *asgi_websocket_send(struct asgi_websocket *self, PyObject *event)
{
    PyObject *type = asgi_event_type(event); // borrowed
    if (type == NULL)
        return NULL;
    if (asgi_is(type, names.websocket_send))
        return send_message(self, event);
    if (asgi_is(type, names.websocket_accept))
        return send_accept(self, event);
    if (asgi_is(type, names.websocket_close))
        return send_close(self, event);
    if (asgi_is(type, names.websocket_http_response_start))
        return send_denial_start(self, event);
    if (asgi_is(type, names.websocket_http_response_body))
        return send_denial_body(self, event);
    return PyErr_Format(PyExc_ValueError,
                        "unexpected event %R: websocket.accept, .send, .close and websocket.http.response.start "
                        "and .body can be sent here",
                        type);
}
