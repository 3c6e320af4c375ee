/* asgi_runtime: the worker's asyncio loop, and how serving begins and ends on it (pyglue/runtime.h).
 *
 * While the worker serves, run_until_complete() runs a root task that waits for stop(): libraries look for such a task
 * (anyio ties its threads to it), and one that an application cancels or stops by mistake is started again. */
#include "pyglue/asgi.h"

#include <stdlib.h>

#include "config/settings.h"
#include "pyglue/aioloop.h"
#include "pyglue/module.h"
#include "pyglue/names.h"
#include "pyglue/pyerr.h"
#include "server/base/clock.h"
#include "server/base/mem.h"
#include "server/http/request.h"

#define TARGET_SHOWN 200 /* bytes of a target that a dump shows */

PyObject *asgi_run_until(struct asgi *asgi, PyObject *awaitable)
{
    if (awaitable == NULL)
        return NULL;
    PyObject *result = PyObject_CallMethod(asgi->loop, "run_until_complete", "O", awaitable);
    Py_DECREF(awaitable);
    return result;
}

static int runtime_startup(struct runtime *runtime)
{
    return asgi_lifespan_startup(asgi_of(runtime));
}

/* Was it a request's task that raised it? That request answers for it alone (500), not the worker. */
static bool raised_by_request(struct asgi *asgi, PyObject *exception)
{
    if (exception == asgi->raised || asgi_websocket_raised(asgi, exception))
        return true;
    LIST_EACH(node, &asgi->suspended) {
        PyObject *raised = asgi_task_exception(LIST_ENTRY(node, struct asgi_http, node)->task);
        Py_XDECREF(raised); /* the task keeps it */
        if (raised == exception)
            return true;
    }
    return false;
}

static bool loop_usable(struct asgi *asgi)
{
    PyObject *closed = PyObject_CallMethod(asgi->loop, "is_closed", NULL);
    bool usable = closed == Py_False;
    Py_XDECREF(closed);
    PyErr_Clear();
    return usable;
}

/* The root task ended although nobody said stop(). True: serving goes on. */
static bool interrupted(struct asgi *asgi, PyObject *exception)
{
    if (PyErr_GivenExceptionMatches(exception, PyExc_SystemExit) ||
        PyErr_GivenExceptionMatches(exception, PyExc_KeyboardInterrupt)) {
        bool goes_on = raised_by_request(asgi, exception);
        Py_CLEAR(asgi->raised);
        if (!goes_on)
            pyerr_log_exception(LOG_LEVEL_ERROR, exception, "The application ends its worker");
        return goes_on;
    }
    /* loop.stop(), or a cancelled root task */
    pyerr_log_exception(LOG_LEVEL_WARNING, exception, "The application interrupted the event loop");
    return loop_usable(asgi);
}

/* One life of the root task. True: it needs another. */
static bool serve_once(struct asgi *asgi)
{
    PyObject *result = asgi_run_until(asgi, PyObject_CallMethod(asgi->helpers, "serve", "O", asgi->stopped));
    if (result != NULL) {
        Py_DECREF(result);
        return !asgi->stopping;
    }
    PyObject *exception = pyerr_take();
    bool goes_on = interrupted(asgi, exception);
    Py_DECREF(exception);
    return goes_on && !asgi->stopping;
}

static void runtime_run(struct runtime *runtime)
{
    struct asgi *asgi = asgi_of(runtime);
    bool entered = asgi->context != NULL && PyContext_Enter(asgi->context) == 0;
    while (serve_once(asgi))
        ;
    if (entered && PyContext_Exit(asgi->context) < 0)
        pyerr_log("Cannot leave the lifespan's context");
}

static void runtime_stop(struct runtime *runtime)
{
    struct asgi *asgi = asgi_of(runtime);
    asgi->stopping = true;
    PyObject *result = PyObject_CallMethod(asgi->stopped, "set", NULL);
    if (result == NULL)
        pyerr_log("Cannot stop the event loop");
    Py_XDECREF(result);
}

static void log_unfinished(PyObject *tasks)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tasks); i++) {
        const char *text = PyUnicode_AsUTF8(PyList_GET_ITEM(tasks, i));
        log_warning("A task was still running at the end and was cancelled: %s", text != NULL ? text : "?");
        PyErr_Clear();
    }
}

static void runtime_shutdown(struct runtime *runtime, int64_t timeout_ms)
{
    struct asgi *asgi = asgi_of(runtime);
    uint64_t began_ms = clock_ms();
    asgi_lifespan_shutdown(asgi, timeout_ms);
    int64_t left_ms = timeout_ms - (int64_t)(clock_ms() - began_ms);
    double left = left_ms > 0 ? (double)left_ms / 1000 : 0.0;
    PyObject *tasks = asgi_run_until(asgi, PyObject_CallMethod(asgi->helpers, "finish", "d", left));
    if (tasks == NULL)
        pyerr_log("Cannot end the event loop's tasks");
    else
        log_unfinished(tasks);
    Py_XDECREF(tasks);
}

/* What still waits will wait for ever; it must not reach back here. */
static void suspended_forget(struct asgi *asgi)
{
    for (struct list *node; (node = list_pop(&asgi->suspended)) != NULL;) {
        struct asgi_http *http = LIST_ENTRY(node, struct asgi_http, node);
        asgi_http_release(http);
        http->asgi = NULL;
        PyObject *task = http->task;
        http->task = NULL;
        asgi_task_forget(task, (PyObject *)http);
        Py_DECREF(http);
    }
}

static void loop_close(struct asgi *asgi)
{
    if (asgi->loop == NULL || asgi->embedded)
        return;
    PyObject *asyncio = PyImport_ImportModule("asyncio");
    PyObject *reset = asyncio != NULL ? PyObject_CallMethod(asyncio, "set_event_loop", "O", Py_None) : NULL;
    PyObject *closed = PyObject_CallMethod(asgi->loop, "close", NULL);
    if (reset == NULL || closed == NULL)
        pyerr_log("Cannot close the event loop");
    Py_XDECREF(reset);
    Py_XDECREF(closed);
    Py_XDECREF(asyncio);
}

static void runtime_free(struct runtime *runtime)
{
    if (runtime == NULL)
        return;
    struct asgi *asgi = asgi_of(runtime);
    suspended_forget(asgi);
    asgi_websockets_forget(asgi);
    loop_close(asgi);
    scope_maker_done(&asgi->scopes);
    Py_XDECREF(asgi->application);
    Py_XDECREF(asgi->helpers);
    Py_XDECREF(asgi->task_name);
    Py_XDECREF(asgi->stopped);
    Py_XDECREF(asgi->lifespan);
    Py_XDECREF(asgi->context);
    Py_XDECREF(asgi->raised);
    Py_XDECREF(asgi->done_context);
    Py_XDECREF(asgi->loop);
    free(asgi);
}

static PyObject *request_text(struct request *request)
{
    const struct endpoint *client = request_client(request);
    struct buf line = { 0 };
    buf_printf(&line, "%.*s %.*s", (int)request->method.len, request->method.p,
               request->target.len < TARGET_SHOWN ? (int)request->target.len : TARGET_SHOWN, request->target.p);
    if (client->port >= 0)
        buf_printf(&line, " from %.*s:%d", (int)client->host.len, client->host.p, client->port);
    PyObject *text = PyUnicode_DecodeLatin1(buf_str(&line).p, (Py_ssize_t)buf_len(&line), NULL);
    buf_done(&line);
    return text;
}

static int add_task(PyObject *list, PyObject *task, struct request *request)
{
    PyObject *text = request_text(request), *pair = text != NULL ? PyTuple_Pack(2, task, text) : NULL;
    int added = pair != NULL ? PyList_Append(list, pair) : -1;
    Py_XDECREF(pair);
    Py_XDECREF(text);
    return added;
}

/* Nothing here runs Python code, finalizers included, or lets the GIL go: so the list stays as it is. */
static PyObject *runtime_tasks(struct runtime *runtime)
{
    struct asgi *asgi = asgi_of(runtime);
    int collects = PyGC_Disable();
    PyObject *list = PyList_New(0), *known = NULL;
    int added = list != NULL ? 0 : -1;
    LIST_EACH(node, &asgi->suspended) {
        struct asgi_http *http = LIST_ENTRY(node, struct asgi_http, node);
        if (added == 0 && http->task != NULL && http->request != NULL)
            added = add_task(list, http->task, http->request);
    }
    if (added == 0)
        known = PyTuple_Pack(2, asgi->loop, list);
    Py_XDECREF(list);
    if (collects)
        PyGC_Enable();
    return known;
}

static const struct runtime_ops ops = {
    .tasks = runtime_tasks,
    .startup = runtime_startup,
    .run = runtime_run,
    .stop = runtime_stop,
    .shutdown = runtime_shutdown,
    .free = runtime_free,
};

/* licorne.loop.Loop(), made the current event loop of this thread. */
static PyObject *loop_make(PyObject *asyncio)
{
    PyObject *module = PyImport_ImportModule("licorne.loop");
    PyObject *loop = module != NULL ? PyObject_CallMethod(module, "Loop", NULL) : NULL;
    PyObject *set = loop != NULL ? PyObject_CallMethod(asyncio, "set_event_loop", "O", loop) : NULL;
    if (set == NULL)
        Py_CLEAR(loop);
    Py_XDECREF(set);
    Py_XDECREF(module);
    return loop;
}

/* The worker's own loop, and what its root task waits for. */
static int loop_init(struct asgi *asgi)
{
    PyObject *asyncio = PyImport_ImportModule("asyncio");
    asgi->loop = asyncio != NULL ? loop_make(asyncio) : NULL;
    asgi->stopped = asgi->loop != NULL ? PyObject_CallMethod(asyncio, "Event", NULL) : NULL;
    Py_XDECREF(asyncio);
    return asgi->stopped == NULL || (asgi->runtime.loop = aioloop_loop(asgi->loop)) == NULL ? -1 : 0;
}

static int task_init(void)
{
    PyObject *asyncio = PyImport_ImportModule("asyncio");
    int done = asyncio != NULL ? asgi_task_init(asyncio) : -1;
    Py_XDECREF(asyncio);
    return done;
}

/* What runtime_free() can take apart however far it came. 0, or -1 with an exception. */
static int runtime_init(struct asgi *asgi, PyObject *application, int version)
{
    if (task_init() < 0 || (!asgi->embedded && loop_init(asgi) < 0) ||
        (asgi->helpers = PyImport_ImportModule("licorne._asgi")) == NULL ||
        (asgi->task_name = PyUnicode_InternFromString("licorne-request")) == NULL)
        return -1;
    asgi->application = PyObject_CallMethod(asgi->helpers, "adapt", "Oi", application, version);
    if (asgi->application != NULL && asgi->embedded)
        Py_SETREF(asgi->application, PyObject_CallMethod(asgi->helpers, "contain", "O", asgi->application));
    if (asgi->application == NULL)
        return -1;
    if (scope_maker_init(&asgi->scopes, version == 2 ? "2.0" : "3.0", asgi->settings->root_path) < 0)
        return -1;
    asgi->scopes.timed = asgi->settings->request_timeout_ms > 0;
    asgi->scopes.sends_files = asgi->settings->sendfile;
    return 0;
}

static struct asgi *asgi_alloc(const struct settings *settings)
{
    struct asgi *asgi = mem_zalloc(sizeof(*asgi));
    asgi->settings = settings;
    asgi->app.ops = &asgi_http_ops;
    asgi->runtime.ops = &ops;
    asgi->runtime.app = &asgi->app;
    asgi->runtime.may_block = true;
    list_init(&asgi->suspended);
    asgi_websockets_init(asgi);
    return asgi;
}

/* NULL, and the exception that is set stays. */
static struct asgi *asgi_discard(struct asgi *asgi)
{
    PyObject *exception = pyerr_take();
    runtime_free(&asgi->runtime);
    PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_DECREF(exception);
    return NULL;
}

struct runtime *asgi_runtime_new(const struct settings *settings, PyObject *application, int asgi_version)
{
    struct asgi *asgi = asgi_alloc(settings);
    if (runtime_init(asgi, application, asgi_version) < 0)
        asgi = asgi_discard(asgi);
    return asgi != NULL ? &asgi->runtime : NULL;
}

struct asgi *asgi_runtime_on(PyObject *loop, struct loop *core, const struct settings *settings, PyObject *application,
                             int version, PyObject *state, PyObject *context)
{
    struct asgi *asgi = asgi_alloc(settings);
    asgi->embedded = true;
    asgi->foreign = !aioloop_is(loop);
    asgi->loop = Py_NewRef(loop);
    asgi->runtime.loop = core;
    asgi->context = Py_NewRef(context);
    if (runtime_init(asgi, application, version) < 0)
        return asgi_discard(asgi);
    asgi->scopes.state = Py_XNewRef(state);
    return asgi;
}

void asgi_runtime_free(struct asgi *asgi)
{
    runtime_free(asgi != NULL ? &asgi->runtime : NULL);
}

PyObject *asgi_tasks(struct asgi *asgi)
{
    PyObject *list = PyList_New(0);
    int added = list != NULL ? 0 : -1;
    LIST_EACH(node, &asgi->suspended) {
        PyObject *task = LIST_ENTRY(node, struct asgi_http, node)->task;
        if (added == 0 && task != NULL)
            added = PyList_Append(list, task);
    }
    if (added == 0)
        added = asgi_websocket_tasks(asgi, list);
    if (added < 0)
        Py_CLEAR(list);
    return list;
}

int asgi_add(PyObject *module)
{
    if (asgi_awaitable_add(module) < 0 || asgi_task_add(module) < 0 || asgi_receive_add(module) < 0 ||
        asgi_http_add(module) < 0 || asgi_websocket_add(module) < 0)
        return -1;
    return asgi_lifespan_add(module);
}
