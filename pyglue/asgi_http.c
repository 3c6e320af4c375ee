/* asgi_http: one request of an ASGI application, from on_request() to the end of its task.
 *
 *     on_request ── scope, coroutine, Task: first step inline ──┬─ done: http_end()
 *                                                               └─ suspended: kept in asgi->suspended, and the object
 *                                                                  itself is the task's done-callback ── http_end()
 *
 * The object is `receive` (no argument), `send` (one argument, a dict) and the done-callback (one argument, its task) in
 * one: dispatching on the arguments is cheaper than making three. It is not tracked by the collector: the cycle object ->
 * task -> frame -> object is broken in http_end(), which comes for every task. */
#include "pyglue/asgi.h"

#include <structmember.h>

#include "pyglue/deadline.h"
#include "pyglue/names.h"
#include "pyglue/pyerr.h"
#include "server/http/request.h"

#define FREE_MAX 128

static PyTypeObject *http_type;
static struct asgi_http *free_https[FREE_MAX];
static int free_count;

/* ----------------------------------------------------------------------------------------------------- the object */

static PyObject *http_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames);

static struct asgi_http *http_new(struct asgi *asgi, struct request *request)
{
    struct asgi_http *http;
    if (free_count > 0)
        http = (struct asgi_http *)PyObject_Init((PyObject *)free_https[--free_count], http_type);
    else if ((http = PyObject_New(struct asgi_http, http_type)) == NULL)
        return NULL;
    http->vectorcall = http_call;
    http->asgi = asgi;
    http->request = request;
    http->task = http->chunk = NULL;
    list_init(&http->node);
    list_init(&http->receivers);
    list_init(&http->senders);
    http->started = http->complete = http->body_asked = http->body_told = http->disconnected = http->full = false;
    http->timed_out = false;
    request_ref(request);
    request->app_data = http;
    return http;
}

void asgi_http_complete(struct asgi_http *http)
{
    if (http->complete)
        return;
    http->complete = true;
    http->request->app_data = NULL;
    Py_CLEAR(http->chunk);
    if (!list_empty(&http->receivers))
        asgi_awaitable_wake(&http->receivers);
    if (!list_empty(&http->senders))
        asgi_awaitable_wake(&http->senders);
}

void asgi_http_release(struct asgi_http *http)
{
    struct request *request = http->request;
    if (request == NULL)
        return;
    asgi_http_complete(http);
    http->request = NULL;
    request_unref(request);
}

static void http_dealloc(PyObject *self)
{
    struct asgi_http *http = (struct asgi_http *)self;
    PyTypeObject *type = Py_TYPE(self);
    list_remove(&http->node);
    asgi_http_release(http);
    Py_CLEAR(http->task);
    if (free_count < FREE_MAX)
        free_https[free_count++] = http;
    else
        PyObject_Free(http);
    Py_DECREF(type);
}

/* -------------------------------------------------------------------------------------------------- how it ended */

/* As much of the target as a log line should have. */
static int target_len(const struct request *request)
{
    return request->target.len < 200 ? (int)request->target.len : 200;
}

static void log_failure(const struct asgi_http *http, PyObject *exception)
{
    const struct request *request = http->request;
    if (http->timed_out && PyErr_GivenExceptionMatches(exception, asgi_cancelled_error)) {
        pyerr_log_exception(LOG_LEVEL_WARNING, exception, "The request that timed out was here: %.*s %.*s",
                            (int)request->method.len, request->method.p, target_len(request), request->target.p);
        return;
    }
    bool gone = request->conn == NULL && !http->complete;
    if (asgi_from_disconnect(exception) || (gone && PyErr_GivenExceptionMatches(exception, asgi_cancelled_error))) {
        log_debug("The application ended as the client has closed the connection");
        return;
    }
    pyerr_log_exception(LOG_LEVEL_ERROR, exception, "Error in the ASGI application%s: %.*s %.*s",
                        http->complete ? " after its response" : "", (int)request->method.len, request->method.p,
                        target_len(request), request->target.p);
}

static void log_incomplete(const struct asgi_http *http)
{
    const struct request *request = http->request;
    if (request->conn == NULL || http->disconnected)
        return;
    log_error("The ASGI application returned without %s: %.*s %.*s",
              http->started ? "completing its response (http.response.body with more_body false)"
                            : "sending a response (http.response.start)",
              (int)request->method.len, request->method.p, target_len(request), request->target.p);
}

/* The task is over. `exception`: stolen, NULL if it returned. */
static void http_end(struct asgi_http *http, PyObject *exception)
{
    if (exception != NULL)
        log_failure(http, exception);
    else if (!http->complete)
        log_incomplete(http);
    if (!http->complete && http->request->conn != NULL)
        request_fail(http->request, 500);
    asgi_http_release(http);
    Py_XDECREF(exception);
}

/* The loop calls back: the task that had suspended is done. */
static PyObject *http_task_done(struct asgi_http *http)
{
    PyObject *task = http->task;
    http->task = NULL;
    http_end(http, asgi_task_exception(task));
    Py_DECREF(task);
    if (!list_empty(&http->node)) {
        list_remove(&http->node);
        Py_DECREF(http); /* asgi->suspended's; the caller has its own */
    }
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------------------------------- how it is called */

/* `send(message=event)`: nobody should, but a Python function would take it. */
static PyObject *http_call_keyword(struct asgi_http *http, PyObject *const *args, Py_ssize_t count, PyObject *kwnames)
{
    if (count == 0 && PyTuple_GET_SIZE(kwnames) == 1)
        return asgi_send(http, args[0]);
    return PyErr_Format(PyExc_TypeError, "send() takes one argument, the event");
}

static PyObject *http_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct asgi_http *http = (struct asgi_http *)callable;
    Py_ssize_t count = PyVectorcall_NARGS(nargsf);
    if (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0)
        return http_call_keyword(http, args, count, kwnames);
    if (count == 0)
        return asgi_receive(http);
    if (count > 1)
        return PyErr_Format(PyExc_TypeError, "receive() takes no argument and send() one (%zd given)", count);
    if (args[0] == http->task && http->task != NULL && asgi_task_done(http->task))
        return http_task_done(http);
    return asgi_send(http, args[0]);
}

/* ------------------------------------------------------------------------------------- what the server reports */

static int64_t move_deadline(PyObject *owner, enum deadline_move move, int64_t ms)
{
    return deadline_apply(((struct asgi_http *)owner)->request, move, ms);
}

static PyObject *http_scope(struct asgi *asgi, struct asgi_http *http)
{
    if (!asgi->scopes.timed)
        return scope_http(&asgi->scopes, http->request, NULL);
    PyObject *deadline = deadline_new((PyObject *)http, move_deadline);
    PyObject *scope = deadline != NULL ? scope_http(&asgi->scopes, http->request, deadline) : NULL;
    Py_XDECREF(deadline);
    return scope;
}

/* The application's own task; its first step is taken. */
static void http_run(struct asgi *asgi, struct asgi_http *http)
{
    PyObject *exception;
    http->task = asgi_task_begin(asgi, http_scope(asgi, http), (PyObject *)http, &exception);
    if (http->task == NULL) {
        http_end(http, exception);
        return;
    }
    Py_INCREF(http);
    list_append(&asgi->suspended, &http->node);
}

static void on_request(struct app *app, struct request *request)
{
    struct asgi *asgi = LIST_ENTRY(app, struct asgi, app);
    if (request->is_websocket) {
        asgi_websocket_start(asgi, request);
        return;
    }
    struct asgi_http *http = http_new(asgi, request);
    if (http == NULL) {
        pyerr_log("Cannot handle a request");
        request_fail(request, 500);
        return;
    }
    http_run(asgi, http);
    Py_DECREF(http);
}

static void on_writable(struct request *request)
{
    struct asgi_http *http = request->app_data;
    if (http == NULL)
        return;
    if (request->is_websocket) {
        asgi_websocket_writable(request);
        return;
    }
    http->full = false;
    asgi_awaitable_wake(&http->senders);
}

static void on_disconnect(struct request *request)
{
    struct asgi_http *http = request->app_data;
    if (http == NULL)
        return;
    if (request->is_websocket) {
        asgi_websocket_disconnected(request);
        return;
    }
    http->disconnected = true;
    asgi_awaitable_wake(&http->receivers);
    asgi_awaitable_wake(&http->senders);
}

/* Cancelling is what asyncio's own timeouts do: nothing is left half done that was not written to be. */
static enum app_given_up on_deadline(struct request *request)
{
    struct asgi_http *http = request->app_data;
    if (http == NULL)
        return APP_GIVES_UP;
    if (request->is_websocket) {
        asgi_websocket_timed_out(request);
        return APP_GIVES_UP;
    }
    http->timed_out = true;
    if (http->task != NULL)
        asgi_task_cancel(http->task);
    return APP_GIVES_UP;
}

const struct app_ops asgi_http_ops = {
    .on_request = on_request,
    .on_body = asgi_on_body,
    .on_writable = on_writable,
    .on_disconnect = on_disconnect,
    .on_deadline = on_deadline,
};

/* ------------------------------------------------------------------------------------------------------- the type */

static PyMemberDef http_members[] = {
    { "__vectorcalloffset__", T_PYSSIZET, offsetof(struct asgi_http, vectorcall), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot http_slots[] = {
    { Py_tp_doc, "receive() and send(event) of one HTTP request." },
    { Py_tp_dealloc, http_dealloc },
    { Py_tp_call, PyVectorcall_Call },
    { Py_tp_members, http_members },
    { 0, NULL },
};

static PyType_Spec http_spec = {
    .name = "licorne._core.AsgiHttp",
    .basicsize = sizeof(struct asgi_http),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = http_slots,
};

int asgi_http_add(PyObject *module)
{
    (void)module;
    if (http_type == NULL && (http_type = (PyTypeObject *)PyType_FromSpec(&http_spec)) == NULL)
        return -1;
    return 0;
}
