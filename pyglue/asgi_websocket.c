/* asgi_websocket: the life of one WebSocket: see asgi_websocket.h. */
#include "pyglue/asgi_websocket.h"

#include <structmember.h>

#include "pyglue/names.h"
#include "pyglue/pyerr.h"
#include "server/base/log.h"
#include "server/http/request.h"

static PyTypeObject *websocket_type;

/* ---------------------------------------------------------------------------------------------- what it lets go */

/* Nothing goes out or comes in any more. */
void asgi_websocket_let_go(struct asgi_websocket *self)
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

void asgi_websocket_closed(struct asgi_websocket *self, int code, struct str reason)
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

/* ---------------------------------------------------------------------------------------------- what the core tells */

static PyObject *ascii_new(struct str data)
{
    PyObject *text = PyUnicode_New((Py_ssize_t)data.len, 127);
    if (text != NULL && data.len > 0)
        memcpy(PyUnicode_1BYTE_DATA(text), data.p, data.len);
    return text;
}

static PyObject *message_new(struct str data, enum websocket_message kind)
{
    switch (kind) {
    case WEBSOCKET_ASCII:
        return ascii_new(data);
    case WEBSOCKET_TEXT:
        return PyUnicode_DecodeUTF8(data.p, (Py_ssize_t)data.len, NULL);
    default:
        return PyBytes_FromStringAndSize(data.p, (Py_ssize_t)data.len);
    }
}

static void on_message(struct websocket *ws, struct str data, enum websocket_message kind)
{
    struct asgi_websocket *self = ws->app_data;
    PyObject *object = message_new(data, kind);
    int added = object != NULL ? asgi_websocket_queue(self, object, data.len) : -1;
    Py_XDECREF(object);
    if (added < 0) {
        PyErr_Clear();
        log_error("A WebSocket message of %zu bytes was too much for the memory: the connection is closed", data.len);
        asgi_websocket_closed(self, WS_CODE_INTERNAL_ERROR, STR("out of memory"));
        websocket_close(ws, WS_CODE_INTERNAL_ERROR, STR("out of memory"));
    }
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
    asgi_websocket_closed(self, code, reason);
    return !list_empty(&self->queue);
}

const struct websocket_ops asgi_websocket_ops = { on_message, on_writable, on_close };

/* The client has gone before the offer was answered. */
void asgi_websocket_disconnected(struct request *request)
{
    asgi_websocket_closed(request->app_data, WS_CODE_ABNORMAL, STR(""));
}

void asgi_websocket_writable(struct request *request)
{
    struct asgi_websocket *self = request->app_data;
    self->full = false;
    asgi_awaitable_wake(&self->senders);
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
    asgi_websocket_queue_clear(self);
    asgi_websocket_closed(self, WS_CODE_ABNORMAL, STR(""));
    asgi_websocket_let_go(self);
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
    if (count + keywords == 0)
        return asgi_websocket_receive(self);
    if (count + keywords > 1)
        return PyErr_Format(PyExc_TypeError, "receive() takes no argument and send() one (%zd given)",
                            count + keywords);
    if (keywords == 0 && args[0] == self->task && self->task != NULL && asgi_task_done(self->task))
        return websocket_task_done(self);
    return asgi_websocket_send(self, args[0]);
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
    asgi_websocket_queue_clear(self);
    asgi_websocket_let_go(self);
    Py_CLEAR(self->task);
    Py_CLEAR(self->reason);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* ------------------------------------------------------------------------------------------------ how it begins */

static void websocket_run(struct asgi *asgi, struct asgi_websocket *self)
{
    PyObject *exception;
    self->task = asgi_task_begin(asgi, scope_websocket(&asgi->scopes, self->request), (PyObject *)self, &exception);
    if (self->task == NULL) {
        websocket_end(self, exception);
        return;
    }
    Py_INCREF(self);
    list_append(&asgi->websockets, &self->node);
}

/* One of those that wait. Nobody runs an application for a client that has left before its turn came. */
static void begin_next(struct loop_task *task)
{
    struct asgi *asgi = LIST_ENTRY(task, struct asgi, begin_task);
    struct asgi_websocket *self = LIST_ENTRY(list_pop(&asgi->offers), struct asgi_websocket, node);
    if (!list_empty(&asgi->offers))
        loop_defer_bulk(asgi->runtime.loop, &asgi->begin_task);
    if (self->closed)
        asgi_websocket_let_go(self);
    else
        websocket_run(asgi, self);
    Py_DECREF(self);
}

void asgi_websocket_start(struct asgi *asgi, struct request *request)
{
    struct asgi_websocket *self = websocket_new(asgi, request);
    if (self == NULL) {
        pyerr_log("Cannot handle a WebSocket");
        request_fail(request, 500);
        return;
    }
    list_append(&asgi->offers, &self->node);
    loop_defer_bulk(asgi->runtime.loop, &asgi->begin_task);
}

void asgi_websockets_init(struct asgi *asgi)
{
    list_init(&asgi->websockets);
    list_init(&asgi->offers);
    loop_task_init(&asgi->begin_task, begin_next);
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

int asgi_websocket_tasks(struct asgi *asgi, PyObject *list)
{
    LIST_EACH(node, &asgi->websockets) {
        PyObject *task = LIST_ENTRY(node, struct asgi_websocket, node)->task;
        if (task != NULL && PyList_Append(list, task) < 0)
            return -1;
    }
    return 0;
}

void asgi_websockets_forget(struct asgi *asgi)
{
    loop_task_cancel(&asgi->begin_task);
    list_splice(&asgi->websockets, &asgi->offers);
    for (struct list *node; (node = list_pop(&asgi->websockets)) != NULL;) {
        struct asgi_websocket *self = LIST_ENTRY(node, struct asgi_websocket, node);
        asgi_websocket_queue_clear(self);
        asgi_websocket_closed(self, WS_CODE_ABNORMAL, STR(""));
        asgi_websocket_let_go(self);
        self->asgi = NULL;
        PyObject *task = self->task;
        self->task = NULL;
        asgi_task_forget(task, (PyObject *)self);
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
