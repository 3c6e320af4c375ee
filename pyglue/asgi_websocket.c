/* asgi_websocket: one WebSocket of an ASGI application, from the offer to the end of its task.
 *
 *     on_request ──> websocket.connect ──┬─ websocket.accept ──> messages both ways ──> websocket.close / websocket.disconnect
 *                                        ├─ websocket.close ──> 403
 *                                        └─ websocket.http.response.start/.body ──> that response
 *
 * Like asgi_http, the object is `receive`, `send` and the done-callback of its task in one. Until the offer is answered it holds
 * the request, then the websocket; an idle one owns nothing else. Messages that nobody waits for are queued here, up to
 * ws_max_queue or QUEUE_BYTES: then the client is made to wait. */
#include "pyglue/asgi.h"

#include <structmember.h>

#include "config/settings.h"
#include "pyglue/aioloop.h"
#include "pyglue/names.h"
#include "pyglue/pyerr.h"
#include "server/base/log.h"
#include "server/http/request.h"
#include "server/http/websocket.h"

#define QUEUE_BYTES (64 * 1024) /* in the queue: no more is read */
#define SEND_REF_BYTES (16 * 1024)
#define FIELDS_INLINE 32

struct message {
    struct list node;
    PyObject *data; /* str or bytes */
    size_t len;
};

struct asgi_websocket {
    PyObject_HEAD vectorcallfunc vectorcall;
    struct asgi *asgi;              /* NULL: the runtime is gone */
    struct request *request;        /* counted, until the offer is answered; NULL afterwards */
    struct websocket *ws;           /* counted, from then on until it is over; NULL otherwise */
    PyObject *task;                 /* once it has suspended, until it is done */
    PyObject *reason;               /* of the end, str; NULL: empty */
    struct list node;               /* in asgi->websockets, with a reference */
    struct list receivers, senders; /* awaitables */
    struct list queue;              /* of struct message */
    size_t queue_bytes;
    int queue_count;
    int code; /* of the end */
    bool connect_told;
    bool accepted;
    bool denying; /* websocket.http.response.start was sent */
    bool closed;  /* no message comes any more */
    bool full;    /* on_writable is owed */
    bool paused;
};

static PyTypeObject *websocket_type;

static PyObject *disconnected(void)
{
    PyErr_SetString(asgi_client_disconnected, "the WebSocket is closed");
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------ the queue */

static void message_free(struct asgi_websocket *self, struct message *message)
{
    list_remove(&message->node);
    self->queue_count--;
    self->queue_bytes -= message->len;
    Py_XDECREF(message->data);
    PyMem_Free(message);
}

static void queue_clear(struct asgi_websocket *self)
{
    LIST_EACH(node, &self->queue)
        message_free(self, LIST_ENTRY(node, struct message, node));
}

static bool queue_is_full(const struct asgi_websocket *self)
{
    return self->queue_count >= self->asgi->settings->ws_max_queue || self->queue_bytes >= QUEUE_BYTES;
}

static int queue_add(struct asgi_websocket *self, PyObject *data, size_t len)
{
    struct message *message = PyMem_Malloc(sizeof(*message));
    if (message == NULL)
        return -1;
    message->data = Py_NewRef(data);
    message->len = len;
    list_append(&self->queue, &message->node);
    self->queue_count++;
    self->queue_bytes += len;
    return 0;
}

/* The oldest message's data: new reference. */
static PyObject *queue_take(struct asgi_websocket *self)
{
    struct message *message = LIST_ENTRY(self->queue.next, struct message, node);
    PyObject *data = Py_NewRef(message->data);
    message_free(self, message);
    if (self->paused && self->ws != NULL && self->queue_count <= self->asgi->settings->ws_max_queue / 2 &&
        self->queue_bytes <= QUEUE_BYTES / 2) {
        self->paused = false;
        websocket_resume(self->ws);
    }
    return data;
}

/* ---------------------------------------------------------------------------------------------- what it lets go */

/* Nothing goes out or comes in any more. */
static void let_go(struct asgi_websocket *self)
{
    struct request *request = self->request;
    struct websocket *ws = self->ws;
    self->request = NULL;
    self->ws = NULL;
    if (request != NULL) {
        request->app_data = NULL;
        request_unref(request);
    }
    if (ws != NULL)
        websocket_release(ws);
    asgi_awaitable_wake(&self->receivers);
    asgi_awaitable_wake(&self->senders);
}

static void closed_with(struct asgi_websocket *self, int code, struct str reason)
{
    if (self->closed)
        return;
    self->closed = true;
    self->code = code;
    self->reason = reason.len > 0 ? PyUnicode_DecodeUTF8(reason.p, (Py_ssize_t)reason.len, "replace") : NULL;
    if (PyErr_Occurred())
        PyErr_Clear();
    asgi_awaitable_wake(&self->receivers);
    asgi_awaitable_wake(&self->senders);
}

/* -------------------------------------------------------------------------------------------------------- receive */

/* {"type": type, key: value}; steals `value`. */
static PyObject *event_new(PyObject *type, PyObject *key, PyObject *value)
{
    PyObject *event = PyDict_New();
    if (event != NULL && (PyDict_SetItem(event, names.type, type) < 0 ||
                          (key != NULL && (value == NULL || PyDict_SetItem(event, key, value) < 0))))
        Py_CLEAR(event);
    Py_XDECREF(value);
    return event;
}

static PyObject *disconnect_event(struct asgi_websocket *self)
{
    PyObject *reason = self->reason != NULL ? self->reason : names.empty; // borrowed
    PyObject *event = event_new(names.websocket_disconnect, names.code, PyLong_FromLong(self->code));
    if (event != NULL && PyDict_SetItem(event, names.reason, reason) < 0)
        Py_CLEAR(event);
    if (self->ws != NULL)
        websocket_answer(self->ws);
    return event;
}

static PyObject *receive_poll(PyObject *owner)
{
    struct asgi_websocket *self = (struct asgi_websocket *)owner;
    if (!self->connect_told) {
        self->connect_told = true;
        return event_new(names.websocket_connect, NULL, NULL);
    }
    if (!list_empty(&self->queue)) {
        PyObject *data = queue_take(self);
        return event_new(names.websocket_receive, PyUnicode_Check(data) ? names.text : names.bytes, data);
    }
    return self->closed ? disconnect_event(self) : NULL;
}

/* ---------------------------------------------------------------------------------------------- what the core tells */

static void on_message(struct websocket *ws, struct str data, bool is_text)
{
    struct asgi_websocket *self = ws->app_data;
    PyObject *object = is_text ? PyUnicode_DecodeUTF8(data.p, (Py_ssize_t)data.len, NULL)
                               : PyBytes_FromStringAndSize(data.p, (Py_ssize_t)data.len);
    int added = object != NULL ? queue_add(self, object, data.len) : -1;
    Py_XDECREF(object);
    if (added < 0) {
        PyErr_Clear();
        log_error("A WebSocket message of %zu bytes was too much for the memory: the connection is closed", data.len);
        closed_with(self, WS_CODE_INTERNAL_ERROR, STR("out of memory"));
        websocket_close(ws, WS_CODE_INTERNAL_ERROR, STR("out of memory"));
        return;
    }
    if (queue_is_full(self)) {
        self->paused = true;
        websocket_pause(ws);
    }
    asgi_awaitable_wake(&self->receivers);
}

static void on_writable(struct websocket *ws)
{
    struct asgi_websocket *self = ws->app_data;
    self->full = false;
    asgi_awaitable_wake(&self->senders);
}

static bool on_close(struct websocket *ws, int code, struct str reason)
{
    struct asgi_websocket *self = ws->app_data;
    closed_with(self, code, reason);
    return !list_empty(&self->queue);
}

static const struct websocket_ops websocket_ops = { on_message, on_writable, on_close };

/* The client has gone before the offer was answered. */
void asgi_websocket_disconnected(struct request *request)
{
    closed_with(request->app_data, WS_CODE_ABNORMAL, STR(""));
}

void asgi_websocket_writable(struct request *request)
{
    struct asgi_websocket *self = request->app_data;
    self->full = false;
    asgi_awaitable_wake(&self->senders);
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
        closed_with(self, WS_CODE_RESTART, STR("the server is restarting"));
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
        ready = accepted(self, websocket_accept(self->request, &websocket_ops, protocol, fields.all, fields.count));
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
    closed_with(self, WS_CODE_ABNORMAL, STR(""));
    let_go(self);
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
        queue_clear(self);
        closed_with(self, code, reason);
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
    int status = asgi_status_of(event);
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
    closed_with(self, WS_CODE_ABNORMAL, STR(""));
    let_go(self);
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

static PyObject *websocket_send_event(struct asgi_websocket *self, PyObject *event)
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

/* -------------------------------------------------------------------------------------------------- how it ended */

static bool is_expected(struct asgi_websocket *self, PyObject *exception)
{
    return asgi_from_disconnect(exception) ||
           (self->closed && PyErr_GivenExceptionMatches(exception, asgi_cancelled_error));
}

static void log_failure(struct asgi_websocket *self, PyObject *exception)
{
    struct request *request = self->request;
    if (request != NULL)
        pyerr_log_exception(LOG_LEVEL_ERROR, exception, "Error in the ASGI application: WebSocket %.*s",
                            request->target.len < 200 ? (int)request->target.len : 200, request->target.p);
    else
        pyerr_log_exception(LOG_LEVEL_ERROR, exception, "Error in the ASGI application: WebSocket");
}

/* The offer was not answered, or not wholly. */
static void end_unanswered(struct asgi_websocket *self, bool failed)
{
    struct request *request = self->request;
    if (request->conn == NULL)
        return;
    if (!failed && !self->closed)
        log_error("The ASGI application returned without %s: WebSocket %.*s",
                  self->denying ? "completing its response (websocket.http.response.body with more_body false)"
                                : "answering (websocket.accept or websocket.close)",
                  request->target.len < 200 ? (int)request->target.len : 200, request->target.p);
    request_fail(request, 500);
}

void asgi_websocket_timed_out(struct request *request)
{
    struct asgi_websocket *self = request->app_data;
    if (self->task != NULL)
        asgi_task_cancel(self->task);
}

/* The task is over. `exception`: stolen, NULL if it returned. */
static void websocket_end(struct asgi_websocket *self, PyObject *exception)
{
    bool expected = exception != NULL && is_expected(self, exception);
    bool failed = exception != NULL && !expected;
    if (failed)
        log_failure(self, exception);
    if (self->request != NULL)
        end_unanswered(self, exception != NULL);
    if (self->ws != NULL && !self->closed)
        websocket_close(self->ws, failed ? WS_CODE_INTERNAL_ERROR : WS_CODE_NORMAL, STR(""));
    queue_clear(self);
    closed_with(self, WS_CODE_ABNORMAL, STR(""));
    let_go(self);
    Py_XDECREF(exception);
}

static PyObject *websocket_task_done(struct asgi_websocket *self)
{
    PyObject *task = self->task;
    self->task = NULL;
    websocket_end(self, asgi_task_exception(task));
    Py_DECREF(task);
    if (!list_empty(&self->node)) {
        list_remove(&self->node);
        Py_DECREF(self); /* asgi->websockets'; the caller has its own */
    }
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------------------------------- how it is called */

static PyObject *websocket_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct asgi_websocket *self = (struct asgi_websocket *)callable;
    Py_ssize_t count = PyVectorcall_NARGS(nargsf), keywords = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;
    if (count + keywords == 0) {
        PyObject *loop = self->asgi != NULL ? self->asgi->loop : NULL; // borrowed
        return asgi_awaitable_new(callable, receive_poll, &self->receivers, loop);
    }
    if (count + keywords > 1)
        return PyErr_Format(PyExc_TypeError, "receive() takes no argument and send() one (%zd given)",
                            count + keywords);
    if (keywords == 0 && args[0] == self->task && self->task != NULL && asgi_task_done(self->task))
        return websocket_task_done(self);
    return websocket_send_event(self, args[0]);
}

static struct asgi_websocket *websocket_new(struct asgi *asgi, struct request *request)
{
    struct asgi_websocket *self = PyObject_New(struct asgi_websocket, websocket_type);
    if (self == NULL)
        return NULL;
    memset((char *)self + sizeof(PyObject), 0, sizeof(*self) - sizeof(PyObject));
    self->vectorcall = websocket_call;
    self->asgi = asgi;
    self->request = request;
    self->code = WS_CODE_ABNORMAL;
    list_init(&self->node);
    list_init(&self->receivers);
    list_init(&self->senders);
    list_init(&self->queue);
    request_ref(request);
    request->app_data = self;
    return self;
}

static void websocket_dealloc(PyObject *object)
{
    struct asgi_websocket *self = (struct asgi_websocket *)object;
    PyTypeObject *type = Py_TYPE(object);
    list_remove(&self->node);
    queue_clear(self);
    let_go(self);
    Py_CLEAR(self->task);
    Py_CLEAR(self->reason);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* ------------------------------------------------------------------------------------------------ how it begins */

static PyObject *websocket_coroutine(struct asgi *asgi, struct asgi_websocket *self)
{
    PyObject *scope = scope_websocket(&asgi->scopes, self->request);
    if (scope == NULL)
        return NULL;
    PyObject *args[] = { NULL, scope, (PyObject *)self, (PyObject *)self };
    PyObject *coroutine = PyObject_Vectorcall(asgi->application, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(scope);
    return coroutine;
}

/* Steals `task`. */
static void websocket_suspend(struct asgi *asgi, struct asgi_websocket *self, PyObject *task)
{
    self->task = task;
    Py_INCREF(self);
    list_append(&asgi->websockets, &self->node);
    PyObject *added = PyObject_CallMethodOneArg(task, names.add_done_callback, (PyObject *)self);
    if (added == NULL)
        pyerr_log("Cannot watch over the task of a WebSocket");
    Py_XDECREF(added);
}

static void websocket_run(struct asgi *asgi, struct asgi_websocket *self)
{
    PyObject *coroutine = websocket_coroutine(asgi, self);
    PyObject *task = coroutine != NULL ? aioloop_start_task(asgi->loop, coroutine, asgi->task_name) : NULL;
    Py_XDECREF(coroutine);
    if (task == NULL) {
        PyObject *exception = pyerr_take();
        if (!PyErr_GivenExceptionMatches(exception, PyExc_Exception))
            Py_XSETREF(asgi->raised, Py_NewRef(exception));
        websocket_end(self, exception);
    } else if (asgi_task_done(task)) {
        websocket_end(self, asgi_task_exception(task));
        Py_DECREF(task);
    } else {
        websocket_suspend(asgi, self, task);
    }
}

void asgi_websocket_start(struct asgi *asgi, struct request *request)
{
    struct asgi_websocket *self = websocket_new(asgi, request);
    if (self == NULL) {
        pyerr_log("Cannot handle a WebSocket");
        request_fail(request, 500);
        return;
    }
    websocket_run(asgi, self);
    Py_DECREF(self);
}

/* ------------------------------------------------------------------------------------------------- for the runtime */

bool asgi_websocket_raised(struct asgi *asgi, PyObject *exception)
{
    LIST_EACH(node, &asgi->websockets) {
        PyObject *raised = asgi_task_exception(LIST_ENTRY(node, struct asgi_websocket, node)->task);
        Py_XDECREF(raised); /* the task keeps it */
        if (raised == exception)
            return true;
    }
    return false;
}

void asgi_websockets_forget(struct asgi *asgi)
{
    for (struct list *node; (node = list_pop(&asgi->websockets)) != NULL;) {
        struct asgi_websocket *self = LIST_ENTRY(node, struct asgi_websocket, node);
        queue_clear(self);
        closed_with(self, WS_CODE_ABNORMAL, STR(""));
        let_go(self);
        self->asgi = NULL;
        Py_CLEAR(self->task);
        Py_DECREF(self);
    }
}

/* ------------------------------------------------------------------------------------------------------- the type */

static PyMemberDef websocket_members[] = {
    { "__vectorcalloffset__", T_PYSSIZET, offsetof(struct asgi_websocket, vectorcall), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot websocket_slots[] = {
    { Py_tp_doc, "receive() and send(event) of one WebSocket." },
    { Py_tp_dealloc, websocket_dealloc },
    { Py_tp_call, PyVectorcall_Call },
    { Py_tp_members, websocket_members },
    { 0, NULL },
};

static PyType_Spec websocket_spec = {
    .name = "licorne._core.AsgiWebSocket",
    .basicsize = sizeof(struct asgi_websocket),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = websocket_slots,
};

int asgi_websocket_add(PyObject *module)
{
    (void)module;
    if (websocket_type == NULL && (websocket_type = (PyTypeObject *)PyType_FromSpec(&websocket_spec)) == NULL)
        return -1;
    return 0;
}
