/* wsgi: see wsgi.h. A request's way:
 *
 *     on_request -> wsgi_serve -> environ -> application(environ, call) -> wsgi_respond -> close() -> over
 *
 * What the application raises, SystemExit and KeyboardInterrupt included, costs it one request: the traceback goes to
 * the log, the client gets a 500, or a broken connection if the head is out already, and the worker goes on. */
#include "pyglue/wsgi.h"

#include <stdlib.h>
#include <string.h>
#include <structmember.h>

#include "config/settings.h"
#include "pyglue/deadline.h"
#include "pyglue/environ.h"
#include "pyglue/module.h"
#include "pyglue/names.h"
#include "pyglue/pyerr.h"
#include "server/base/clock.h"
#include "server/base/mem.h"

#define PREBUFFER_BYTES (64 * 1024) /* a body up to this size has come before a thread is taken */
#define FREE_CALLS 64
#define LONG_MS 10 /* a request that lasted longer leaves the loop's clock behind */

/* --- the type of a call ------------------------------------------------------------------------------------------ */

static PyTypeObject *call_type;
static struct wsgi_call *free_calls[FREE_CALLS]; /* under the GIL */
static int free_call_count;

/* What request->app_data says before there is a call: the client has left while the request waited for a thread. */
static char left_early;

static struct wsgi_call *call_alloc(void)
{
    if (free_call_count > 0) {
        struct wsgi_call *call = free_calls[--free_call_count];
        return (struct wsgi_call *)PyObject_Init((PyObject *)call, call_type);
    }
    struct wsgi_call *call = PyObject_New(struct wsgi_call, call_type);
    if (call != NULL)
        pthread_cond_init(&call->changed, NULL);
    return call;
}

static void call_dealloc(PyObject *self)
{
    struct wsgi_call *call = (struct wsgi_call *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (free_call_count < FREE_CALLS) {
        free_calls[free_call_count++] = call;
    } else {
        pthread_cond_destroy(&call->changed);
        PyObject_Free(self);
    }
    Py_DECREF(type);
}

static PyMemberDef call_members[] = {
    { "__vectorcalloffset__", T_PYSSIZET, offsetof(struct wsgi_call, vectorcall), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot call_slots[] = {
    { Py_tp_doc, "A WSGI request: start_response, write and wsgi.input." },
    { Py_tp_dealloc, call_dealloc },
    { Py_tp_call, PyVectorcall_Call },
    { Py_tp_iter, PyObject_SelfIter },
    { Py_tp_iternext, wsgi_input_next },
    { Py_tp_methods, wsgi_input_methods },
    { Py_tp_members, call_members },
    { 0, NULL },
};

#ifndef Py_TPFLAGS_HAVE_VECTORCALL
#define Py_TPFLAGS_HAVE_VECTORCALL _Py_TPFLAGS_HAVE_VECTORCALL
#endif

static PyType_Spec call_spec = {
    .name = "licorne._core.WsgiCall",
    .basicsize = sizeof(struct wsgi_call),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_slots,
};

/* Inside the core; GIL held. */
static struct wsgi_call *call_new(struct wsgi *wsgi, struct request *request)
{
    struct wsgi_call *call = call_alloc();
    if (call == NULL)
        return NULL;
    memset(&call->wsgi, 0, sizeof(*call) - offsetof(struct wsgi_call, wsgi));
    call->vectorcall = wsgi_call_vectorcall;
    call->wsgi = wsgi;
    call->request = request;
    call->declared_length = -1;
    list_init(&call->overdue);
    call->disconnected = request->app_data == &left_early;
    request->app_data = call;
    request->flush_end = wsgi->pool != NULL; /* the thread that ran the application writes, not the loop's */
    return call;
}

/* --- what is let go ---------------------------------------------------------------------------------------------- */

void wsgi_drop(struct wsgi *wsgi, PyObject *object)
{
    if (wsgi->has_gil) {
        Py_DECREF(object);
        return;
    }
    if (wsgi->drop_count == wsgi->drop_room) {
        wsgi->drop_room = wsgi->drop_room ? wsgi->drop_room * 2 : 64;
        wsgi->drops = mem_realloc(wsgi->drops, wsgi->drop_room * sizeof(*wsgi->drops));
    }
    wsgi->drops[wsgi->drop_count++] = object;
}

/* They are bytes and strings: nothing of the application's runs. */
void wsgi_drop_pending(struct wsgi *wsgi)
{
    while (wsgi->drop_count > 0)
        Py_DECREF(wsgi->drops[--wsgi->drop_count]);
}

/* --- failures ---------------------------------------------------------------------------------------------------- */

void wsgi_log_exception(struct wsgi_call *call, const char *what)
{
    PyObject *exception = pyerr_take();
    if (exception == NULL)
        return;
    const struct request *request = call->request;
    bool left = (call->gone || call->disconnected) && PyErr_GivenExceptionMatches(exception, PyExc_ConnectionError);
    enum log_level level = left ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR;
    if (call->timed_out && PyErr_GivenExceptionMatches(exception, deadline_timeout_error)) {
        level = LOG_LEVEL_WARNING;
        what = "The request that timed out was here:";
    }
    pyerr_log_exception(level, exception, "%s %.*s %.*s", what,
                        (int)request->method.len, request->method.p, (int)request->target.len, request->target.p);
    Py_DECREF(exception);
}

static void call_failed(struct wsgi_call *call)
{
    PyThreadState *saved;
    wsgi_log_exception(call, "Error handling request");
    core_enter(call->wsgi, &saved);
    request_fail(call->request, 500);
    core_leave(call->wsgi, saved);
}

/* The client has left: the core knows what that means for the connection. */
static void call_abandoned(struct wsgi_call *call)
{
    PyThreadState *saved;
    core_enter(call->wsgi, &saved);
    request_fail(call->request, 500);
    core_leave(call->wsgi, saved);
}

/* --- a request --------------------------------------------------------------------------------------------------- */

/* Exactly once, whatever happened before. */
static void call_close(struct wsgi_call *call, PyObject *result)
{
    if (PyList_CheckExact(result) || PyTuple_CheckExact(result))
        return;
    PyObject *close = PyObject_GetAttr(result, names.close);
    if (close == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_Clear();
        else
            wsgi_log_exception(call, "Error closing the response to");
        return;
    }
    PyObject *closed = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    if (closed == NULL)
        wsgi_log_exception(call, "Error closing the response to");
    Py_XDECREF(closed);
}

static void call_run(struct wsgi_call *call, PyObject *environ)
{
    if (call->wsgi->timed)
        wsgi_deadline_begin(call);
    PyObject *args[] = { NULL, environ, (PyObject *)call };
    PyObject *result =
        PyObject_Vectorcall(call->wsgi->application, args + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    switch (result == NULL ? SEND_FAILED : wsgi_respond(call, result)) {
    case SEND_OK:
        break;
    case SEND_GONE:
        call_abandoned(call);
        break;
    case SEND_FAILED:
        call_failed(call);
    }
    if (result != NULL) {
        call_close(call, result);
        Py_DECREF(result);
    }
    if (call->wsgi->timed)
        wsgi_deadline_end(call);
}

/* The call and its environ; false when the connection is gone, or with an exception. */
static bool serve_prepare(struct wsgi *wsgi, struct request *request, struct wsgi_call **call, PyObject **environ)
{
    *call = NULL;
    *environ = NULL;
    core_enter_with_gil(wsgi);
    wsgi_drop_pending(wsgi);
    if (wsgi->pool && wsgi->settings->timeout_ms > 0)
        request_run_within(request, wsgi->settings->timeout_ms);
    if (wsgi->pool)
        inflight_set_thread(request->place);
    if (request->conn != NULL && (*call = call_new(wsgi, request)) != NULL)
        *environ = environ_make(wsgi->environ, request, (PyObject *)*call);
    core_leave_with_gil(wsgi);
    if (wsgi->timed && *environ != NULL && wsgi_deadline_put(*environ, *call) < 0)
        Py_CLEAR(*environ);
    return *environ != NULL;
}

/* From here on the call belongs to the application alone, if it has kept it. */
static void serve_end(struct wsgi *wsgi, struct request *request, struct wsgi_call *call)
{
    PyThreadState *saved;
    core_enter(wsgi, &saved);
    request->app_data = NULL;
    if (call != NULL) {
        call->request = NULL;
        list_remove(&call->overdue);
        if (wsgi->pool)
            pthread_cond_broadcast(&call->changed);
    }
    request_unref(request);
    core_leave(wsgi, saved);
    Py_XDECREF(call);
}

void wsgi_serve(struct wsgi *wsgi, struct request *request)
{
    struct wsgi_call *call;
    PyObject *environ;
    if (serve_prepare(wsgi, request, &call, &environ)) {
        call_run(call, environ);
        Py_DECREF(environ);
    } else if (call != NULL) {
        call_failed(call);
    } else if (PyErr_Occurred()) {
        PyThreadState *saved;
        pyerr_log("A request could not be served");
        core_enter(wsgi, &saved);
        request_fail(request, 500);
        core_leave(wsgi, saved);
    }
    serve_end(wsgi, request, call);
}

/* --- what the core calls ----------------------------------------------------------------------------------------- */

static struct wsgi *wsgi_of(struct app *app)
{
    return LIST_ENTRY(app, struct wsgi, app);
}

/* The loop's clock stands still while the application runs; time limits that begin now must not begin in the past. */
static void catch_up(struct wsgi *wsgi)
{
    if (clock_coarse_ms() > loop_now_ms(wsgi->runtime.loop) + LONG_MS)
        loop_update_now(wsgi->runtime.loop);
}

static void on_request(struct app *app, struct request *request)
{
    struct wsgi *wsgi = wsgi_of(app);
    request_ref(request);
    if (wsgi->pool) {
        wsgi_pool_queue(wsgi->pool, request);
        return;
    }
    wsgi_serve(wsgi, request);
    catch_up(wsgi);
}

static struct wsgi_call *call_of(struct request *request)
{
    return request->app_data == &left_early ? NULL : request->app_data;
}

static void call_changed(struct wsgi_call *call)
{
    if (call->wsgi->pool)
        pthread_cond_broadcast(&call->changed);
}

/* Bytes stay in the core until they are read. */
static size_t on_body(struct request *request, struct str data, bool end)
{
    struct wsgi_call *call = call_of(request);
    (void)data, (void)end;
    if (call)
        call_changed(call);
    return 0;
}

static void on_writable(struct request *request)
{
    struct wsgi_call *call = call_of(request);
    if (call) {
        call->room = true;
        call_changed(call);
    }
}

static void on_disconnect(struct request *request)
{
    struct wsgi_call *call = call_of(request);
    if (call) {
        call->disconnected = true;
        call_changed(call);
    } else {
        request->app_data = &left_early;
    }
}

/* One that still waits for a thread is dropped when its turn comes: nothing was begun. */
static enum app_given_up on_deadline(struct request *request)
{
    struct wsgi_call *call = call_of(request);
    if (call == NULL)
        return APP_HAD_NOT_BEGUN;
    call->timed_out = true;
    call_changed(call);
    if (call->wsgi->pool)
        wsgi_pool_interrupt(call->wsgi->pool, call);
    return APP_IS_BROKEN_OFF;
}

static const struct app_ops app_ops = {
    .on_request = on_request,
    .on_body = on_body,
    .on_writable = on_writable,
    .on_disconnect = on_disconnect,
    .on_deadline = on_deadline,
};

/* --- the runtime ------------------------------------------------------------------------------------------------- */

static struct wsgi *wsgi_from(struct runtime *runtime)
{
    return LIST_ENTRY(runtime, struct wsgi, runtime);
}

static void release_gil(void *arg)
{
    struct wsgi *wsgi = arg;
    wsgi->has_gil = false;
    wsgi->saved = PyEval_SaveThread();
}

static void acquire_gil(void *arg)
{
    struct wsgi *wsgi = arg;
    PyEval_RestoreThread(wsgi->saved);
    wsgi->has_gil = true;
}

/* A handler of a Python signal has raised. What means "end" ends the loop. */
static void signal_raised(struct wsgi *wsgi)
{
    wsgi->stopped = PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
    pyerr_log("A signal handler raised");
}

static void run_inline(struct wsgi *wsgi)
{
    wsgi->owner = PyThread_get_thread_ident();
    wsgi->has_gil = true;
    loop_set_release(wsgi->runtime.loop, release_gil, acquire_gil, wsgi);
    wsgi_deadline_start(wsgi);
    while (!wsgi->stopped) {
        loop_poll(wsgi->runtime.loop, true);
        loop_settle(wsgi->runtime.loop);
        wsgi_drop_pending(wsgi);
        if (PyErr_CheckSignals() < 0)
            signal_raised(wsgi);
    }
    wsgi_deadline_stop(wsgi);
    loop_set_release(wsgi->runtime.loop, NULL, NULL, NULL);
}

static int runtime_startup(struct runtime *runtime)
{
    struct wsgi *wsgi = wsgi_from(runtime);
    if (wsgi->pool == NULL || wsgi_pool_start(wsgi->pool) == 0)
        return 0;
    pyerr_log("The threads could not be started");
    return -1;
}

static void runtime_run(struct runtime *runtime)
{
    struct wsgi *wsgi = wsgi_from(runtime);
    if (wsgi->pool)
        wsgi_pool_run(wsgi->pool);
    else
        run_inline(wsgi);
}

static void runtime_stop(struct runtime *runtime)
{
    struct wsgi *wsgi = wsgi_from(runtime);
    wsgi->stopped = true;
    if (wsgi->pool)
        wsgi_pool_stop(wsgi->pool);
}

static void runtime_shutdown(struct runtime *runtime, int64_t timeout_ms)
{
    struct wsgi *wsgi = wsgi_from(runtime);
    if (wsgi->pool && !wsgi_pool_join(wsgi->pool, timeout_ms))
        wsgi->abandoned = true;
}

/* Threads that would not end still use all of this: then the end of the process frees it. */
static void runtime_free(struct runtime *runtime)
{
    struct wsgi *wsgi = wsgi_from(runtime);
    if (wsgi->abandoned)
        return;
    wsgi_drop_pending(wsgi);
    wsgi_pool_free(wsgi->pool);
    environ_free(wsgi->environ);
    Py_XDECREF(wsgi->application);
    loop_free(wsgi->runtime.loop);
    free(wsgi->drops);
    free(wsgi);
}

static const struct runtime_ops runtime_ops = {
    .startup = runtime_startup,
    .run = runtime_run,
    .stop = runtime_stop,
    .shutdown = runtime_shutdown,
    .free = runtime_free,
};

struct runtime *wsgi_runtime_new(const struct settings *settings, PyObject *application)
{
    struct wsgi *wsgi = mem_zalloc(sizeof(*wsgi));
    wsgi->runtime.ops = &runtime_ops;
    wsgi->runtime.app = &wsgi->app;
    wsgi->runtime.may_block = settings->threads == 1;
    wsgi->app.ops = &app_ops;
    wsgi->app.prebuffer_bytes = PREBUFFER_BYTES;
    wsgi->settings = settings;
    wsgi->timed = settings->request_timeout_ms > 0;
    wsgi->application = Py_NewRef(application);
    wsgi->runtime.loop = loop_new();
    wsgi->environ = environ_new(wsgi);
    if (wsgi->runtime.loop == NULL)
        PyErr_SetFromErrno(PyExc_OSError);
    if (wsgi->runtime.loop == NULL || wsgi->environ == NULL) {
        runtime_free(&wsgi->runtime);
        return NULL;
    }
    if (settings->threads > 1)
        wsgi->pool = wsgi_pool_new(wsgi, (size_t)settings->threads);
    return &wsgi->runtime;
}

int wsgi_add(PyObject *module)
{
    if (wsgi_file_add(module) < 0)
        return -1;
    call_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &call_spec, NULL);
    return call_type == NULL ? -1 : 0;
}
