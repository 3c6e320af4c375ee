/* asgi_task: the task that each request and each WebSocket of an ASGI application is: how it begins, and what it ended with. The
 * object that it is for (asgi_http, asgi_websocket) is its `receive`, its `send` and its done-callback in one. */
#include "pyglue/asgi.h"

#include "pyglue/aioloop.h"
#include "pyglue/names.h"
#include "pyglue/pyerr.h"

PyObject *asgi_client_disconnected;
PyObject *asgi_cancelled_error;

static struct {
    PyTypeObject *type; /* asyncio.Task; NULL: it is no class, but something that somebody has put there */
    PyObject *done, *exception;
} task_methods;

/* ------------------------------------------------------------------------------------------------------ how it ended */

/* Frameworks raise theirs while handling ours. */
bool asgi_from_disconnect(PyObject *exception)
{
    bool found = false;
    Py_INCREF(exception);
    for (int depth = 0; exception != NULL && !found && depth < 20; depth++) {
        found = PyErr_GivenExceptionMatches(exception, asgi_client_disconnected);
        PyObject *cause = PyException_GetCause(exception);
        if (cause == NULL)
            cause = PyException_GetContext(exception);
        Py_SETREF(exception, cause);
    }
    Py_XDECREF(exception);
    return found;
}

/* asyncio.Task's own methods need no looking up. */
static PyObject *task_call(PyObject *task, PyObject *method, PyObject *name)
{
    return Py_IS_TYPE(task, task_methods.type) ? PyObject_CallOneArg(method, task) : PyObject_CallMethodNoArgs(task, name);
}

bool asgi_task_done(PyObject *task)
{
    PyObject *done = task_call(task, task_methods.done, names.done);
    Py_XDECREF(done);
    return done == Py_True;
}

PyObject *asgi_task_exception(PyObject *task)
{
    PyObject *exception = task_call(task, task_methods.exception, names.exception);
    if (exception == NULL) {
        exception = pyerr_take(); /* CancelledError; or InvalidStateError: not done */
        if (!asgi_task_done(task))
            Py_CLEAR(exception);
    }
    if (exception == Py_None)
        Py_CLEAR(exception);
    return exception;
}

void asgi_task_cancel(PyObject *task)
{
    PyObject *cancelled = PyObject_CallMethodNoArgs(task, names.cancel);
    if (cancelled == NULL)
        pyerr_log("Cannot cancel the task of a request that has timed out");
    Py_XDECREF(cancelled);
}

/* ------------------------------------------------------------------------------------------------------ how it begins */

/* Steals `scope`; new reference. */
static PyObject *coroutine_of(struct asgi *asgi, PyObject *scope, PyObject *self)
{
    if (scope == NULL)
        return NULL;
    PyObject *args[] = { NULL, scope, self, self };
    PyObject *coroutine = PyObject_Vectorcall(asgi->application, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(scope);
    return coroutine;
}

/* It could not start; or SystemExit, KeyboardInterrupt, which a task's step lets through: the loop must raise those as well. */
static PyObject *not_begun(struct asgi *asgi)
{
    PyObject *exception = pyerr_take();
    if (!PyErr_GivenExceptionMatches(exception, PyExc_Exception))
        Py_XSETREF(asgi->raised, Py_NewRef(exception));
    return exception;
}

/* All such callbacks of a runtime share a context, as no code of the application's runs in it: each would keep one of its own
 * otherwise. */
static PyObject *add_done_callback(struct asgi *asgi, PyObject *task, PyObject *callback)
{
    static PyObject *keywords;
    if ((asgi->done_context == NULL && (asgi->done_context = PyContext_New()) == NULL) ||
        (keywords == NULL && (keywords = PyTuple_Pack(1, names.context)) == NULL))
        return NULL;
    PyObject *args[] = { task, callback, asgi->done_context };
    return PyObject_VectorcallMethod(names.add_done_callback, args, 2, keywords);
}

/* On a loop that is not ours: as a plain task, which begins with the loop's next turn, unless asyncio can begin it here. */
static PyObject *start_foreign(struct asgi *asgi, PyObject *coroutine)
{
    PyObject *start = PyObject_GetAttrString(asgi->helpers, "start");
    PyObject *args[] = { NULL, asgi->loop, coroutine, asgi->task_name };
    PyObject *task = start != NULL ? PyObject_Vectorcall(start, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL) : NULL;
    Py_XDECREF(start);
    return task;
}

/* In the context of whoever serves: a task takes a copy of the one it is made in. */
static PyObject *start_embedded(struct asgi *asgi, PyObject *coroutine, bool *done)
{
    if (PyContext_Enter(asgi->context) < 0)
        return NULL;
    PyObject *task = asgi->foreign ? start_foreign(asgi, coroutine)
                                   : aioloop_start_task(asgi->loop, coroutine, asgi->task_name, done);
    if (asgi->foreign && task != NULL)
        *done = asgi_task_done(task);
    PyObject *exception = task == NULL ? pyerr_take() : NULL;
    if (PyContext_Exit(asgi->context) < 0)
        pyerr_log("Cannot leave the context of a request");
    if (exception != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_XDECREF(exception);
    return task;
}

static PyObject *start(struct asgi *asgi, PyObject *coroutine, bool *done)
{
    if (coroutine == NULL)
        return NULL;
    return asgi->embedded ? start_embedded(asgi, coroutine, done)
                          : aioloop_start_task(asgi->loop, coroutine, asgi->task_name, done);
}

static void watch(struct asgi *asgi, PyObject *task, PyObject *self)
{
    PyObject *added = add_done_callback(asgi, task, self);
    if (added == NULL)
        pyerr_log("Cannot watch over the task of a request");
    Py_XDECREF(added);
}

void asgi_task_forget(PyObject *task, PyObject *self)
{
    PyObject *removed = task != NULL ? PyObject_CallMethodOneArg(task, names.remove_done_callback, self) : NULL;
    if (PyErr_Occurred())
        pyerr_log("Cannot let go of the task of a request");
    Py_XDECREF(removed);
    Py_XDECREF(task);
}

PyObject *asgi_task_begin(struct asgi *asgi, PyObject *scope, PyObject *self, PyObject **exception)
{
    PyObject *coroutine = coroutine_of(asgi, scope, self);
    bool done = false;
    PyObject *task = start(asgi, coroutine, &done);
    Py_XDECREF(coroutine);
    *exception = NULL;
    if (task == NULL) {
        *exception = not_begun(asgi);
    } else if (done) {
        *exception = asgi_task_exception(task);
        Py_CLEAR(task);
    } else {
        watch(asgi, task, self);
    }
    return task;
}

int asgi_task_init(PyObject *asyncio)
{
    if (asgi_cancelled_error != NULL)
        return 0;
    PyObject *type = PyObject_GetAttrString(asyncio, "Task");
    if (type != NULL && PyType_Check(type)) {
        task_methods.type = (PyTypeObject *)Py_NewRef(type);
        task_methods.done = PyObject_GetAttr(type, names.done);
        task_methods.exception = PyObject_GetAttr(type, names.exception);
    }
    Py_XDECREF(type);
    asgi_cancelled_error = PyErr_Occurred() ? NULL : PyObject_GetAttrString(asyncio, "CancelledError");
    return asgi_cancelled_error == NULL ? -1 : 0;
}

int asgi_task_add(PyObject *module)
{
    if (asgi_client_disconnected == NULL)
        asgi_client_disconnected = PyErr_NewExceptionWithDoc(
            "licorne.ClientDisconnected",
            "Raised by send(): the client has closed the connection, nobody reads the response.\n\n"
            "An application may let it pass: it is not logged as an error.",
            PyExc_OSError, NULL);
    return asgi_client_disconnected == NULL
               ? -1
               : PyModule_AddObjectRef(module, "ClientDisconnected", asgi_client_disconnected);
}
