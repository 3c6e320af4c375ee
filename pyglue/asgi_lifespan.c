/* asgi_lifespan: one long conversation with the application, in a task of its own on the worker's loop.
 *
 *     NEW -> STARTING -> STARTED -> STOPPING -> STOPPED
 *                \-> FAILED                        any -> its task is over
 *
 * startup() and shutdown() turn the loop until `settled`, a future that send() and the task's end resolve. The object
 * is receive, send and done-callback in one, as asgi_http is. */
#include "pyglue/asgi.h"

#include <stdlib.h>
#include <structmember.h>

#include "config/settings.h"
#include "pyglue/names.h"
#include "pyglue/pyerr.h"

enum lifespan_state { LIFESPAN_NEW, LIFESPAN_STARTING, LIFESPAN_STARTED, LIFESPAN_STOPPING, LIFESPAN_STOPPED, LIFESPAN_FAILED };

struct asgi_lifespan {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    struct asgi *asgi;
    PyObject *task;
    PyObject *settled;   /* what startup() or shutdown() waits for */
    PyObject *exception; /* what the task raised */
    PyObject *message;   /* of startup.failed, shutdown.failed */
    PyObject *state;     /* scope["state"] */
    struct list receivers;
    enum lifespan_state state_now;
    bool over;           /* its task is done */
    bool shutdown_told;
};

static PyTypeObject *lifespan_type;

/* ------------------------------------------------------------------------------------------------------- receive */

static PyObject *event_new(PyObject *type)
{
    PyObject *event = PyDict_New();
    if (event != NULL && PyDict_SetItem(event, names.type, type) < 0)
        Py_CLEAR(event);
    return event;
}

static PyObject *receive_poll(PyObject *owner)
{
    struct asgi_lifespan *self = (struct asgi_lifespan *)owner;
    if (self->state_now == LIFESPAN_NEW) {
        self->state_now = LIFESPAN_STARTING;
        return event_new(names.lifespan_startup);
    }
    if (self->state_now == LIFESPAN_STOPPING && !self->shutdown_told) {
        self->shutdown_told = true;
        return event_new(names.lifespan_shutdown);
    }
    return NULL;
}

/* ---------------------------------------------------------------------------------------------------------- send */

/* Whoever turns the loop for us goes on. */
static void settle(struct asgi_lifespan *self)
{
    PyObject *done = self->settled != NULL ? PyObject_CallMethodNoArgs(self->settled, names.done) : NULL;
    if (done == Py_False)
        Py_XDECREF(PyObject_CallMethodOneArg(self->settled, names.set_result, Py_None));
    Py_XDECREF(done);
    if (PyErr_Occurred())
        pyerr_log("Cannot tell the end of a lifespan event");
}

static PyObject *enter(struct asgi_lifespan *self, enum lifespan_state from, enum lifespan_state to, PyObject *event)
{
    if (self->state_now != from)
        return PyErr_Format(PyExc_RuntimeError, "%R was sent at the wrong time", PyDict_GetItem(event, names.type));
    PyObject *message = PyDict_GetItemWithError(event, names.message); // borrowed
    if (message == NULL && PyErr_Occurred())
        return NULL;
    if (message != NULL && !PyUnicode_Check(message))
        return PyErr_Format(PyExc_TypeError, "\"message\" must be a str, not %.100s", Py_TYPE(message)->tp_name);
    Py_XSETREF(self->message, Py_XNewRef(message));
    self->state_now = to;
    settle(self);
    return asgi_awaitable_none();
}

static PyObject *startup_complete(struct asgi_lifespan *self, PyObject *event)
{
    PyObject *ready = enter(self, LIFESPAN_STARTING, LIFESPAN_STARTED, event);
    /* We are inside the task's step: this is its context, whatever the Python version lets us ask of a task. */
    if (ready != NULL)
        Py_XSETREF(self->asgi->context, PyContext_CopyCurrent());
    return ready;
}

static PyObject *lifespan_send(struct asgi_lifespan *self, PyObject *event)
{
    PyObject *type = asgi_event_type(event); // borrowed
    if (type == NULL)
        return NULL;
    if (self->asgi == NULL)
        return asgi_awaitable_none();
    if (asgi_is(type, names.lifespan_startup_complete))
        return startup_complete(self, event);
    if (asgi_is(type, names.lifespan_startup_failed))
        return enter(self, LIFESPAN_STARTING, LIFESPAN_FAILED, event);
    if (asgi_is(type, names.lifespan_shutdown_complete))
        return enter(self, LIFESPAN_STOPPING, LIFESPAN_STOPPED, event);
    if (asgi_is(type, names.lifespan_shutdown_failed))
        return enter(self, LIFESPAN_STOPPING, LIFESPAN_FAILED, event);
    return PyErr_Format(PyExc_ValueError, "unexpected event %R in the lifespan scope", type);
}

/* ------------------------------------------------------------------------------------------------------ the object */

static PyObject *task_over(struct asgi_lifespan *self)
{
    self->over = true;
    Py_XSETREF(self->exception, asgi_task_exception(self->task));
    settle(self);
    Py_RETURN_NONE;
}

static PyObject *lifespan_call(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    struct asgi_lifespan *self = (struct asgi_lifespan *)callable;
    Py_ssize_t count = PyVectorcall_NARGS(nargsf) + (kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0);
    if (count == 0)
        return asgi_awaitable_new(callable, receive_poll, &self->receivers, self->asgi != NULL ? self->asgi->loop : NULL);
    if (count > 1)
        return PyErr_Format(PyExc_TypeError, "receive() takes no argument and send() one (%zd given)", count);
    return args[0] == self->task ? task_over(self) : lifespan_send(self, args[0]);
}

static struct asgi_lifespan *lifespan_new(struct asgi *asgi)
{
    struct asgi_lifespan *self = PyObject_New(struct asgi_lifespan, lifespan_type);
    if (self == NULL)
        return NULL;
    self->vectorcall = lifespan_call;
    self->asgi = asgi;
    self->task = self->settled = self->exception = self->message = NULL;
    self->state = PyDict_New();
    list_init(&self->receivers);
    self->state_now = LIFESPAN_NEW;
    self->over = self->shutdown_told = false;
    if (self->state == NULL)
        Py_CLEAR(self);
    return self;
}

static void lifespan_dealloc(PyObject *object)
{
    struct asgi_lifespan *self = (struct asgi_lifespan *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->task);
    Py_XDECREF(self->settled);
    Py_XDECREF(self->exception);
    Py_XDECREF(self->message);
    Py_XDECREF(self->state);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* ---------------------------------------------------------------------------------------------- start-up and end */

/* The task, its done-callback in place. 0, or -1 with an exception. */
static int lifespan_start(struct asgi *asgi, struct asgi_lifespan *self)
{
    PyObject *scope = scope_lifespan(&asgi->scopes, self->state);
    if (scope == NULL)
        return -1;
    PyObject *coroutine = PyObject_CallFunctionObjArgs(asgi->application, scope, self, self, NULL);
    Py_DECREF(scope);
    if (coroutine == NULL)
        return -1;
    self->task = PyObject_CallMethod(asgi->loop, "create_task", "O", coroutine);
    Py_DECREF(coroutine);
    PyObject *added = self->task == NULL ? NULL : PyObject_CallMethodOneArg(self->task, names.add_done_callback, (PyObject *)self);
    Py_XDECREF(added);
    return added == NULL ? -1 : 0;
}

static int settled_renew(struct asgi_lifespan *self)
{
    Py_XSETREF(self->settled, PyObject_CallMethodNoArgs(self->asgi->loop, names.create_future));
    return self->settled == NULL ? -1 : 0;
}

static int lifespan_run_startup(struct asgi *asgi, struct asgi_lifespan *self)
{
    if (settled_renew(self) < 0 || lifespan_start(asgi, self) < 0)
        return -1;
    PyObject *result = asgi_run_until(asgi, Py_NewRef(self->settled));
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The lifespan is over before it said startup.complete. 0: the application just does not support it. */
static int lifespan_unsupported(struct asgi *asgi, struct asgi_lifespan *self)
{
    bool must = asgi->settings->lifespan == LIFESPAN_ON;
    if (self->exception == NULL) {
        if (must)
            log_error("The application returned from its lifespan before lifespan.startup.complete");
    } else if (must) {
        pyerr_log_exception(LOG_LEVEL_ERROR, self->exception, "The application's lifespan failed");
    } else {
        char *line = pyerr_line(self->exception);
        log_info("The application has no lifespan: %s", line);
        free(line);
    }
    return must ? -1 : 0;
}

static int startup_failed(struct asgi_lifespan *self)
{
    const char *message = self->message != NULL ? PyUnicode_AsUTF8(self->message) : "";
    PyErr_Clear();
    log_error("The application's start-up failed%s%s", message && *message ? ": " : "", message ? message : "");
    return -1;
}

int asgi_lifespan_startup(struct asgi *asgi)
{
    if (asgi->settings->lifespan == LIFESPAN_OFF)
        return 0;
    int result = -1;
    struct asgi_lifespan *self = lifespan_new(asgi);
    if (self == NULL || lifespan_run_startup(asgi, self) < 0)
        pyerr_log("The application's lifespan could not run");
    else if (self->state_now == LIFESPAN_STARTED)
        result = 1;
    else if (self->state_now == LIFESPAN_FAILED)
        result = startup_failed(self);
    else
        result = lifespan_unsupported(asgi, self);
    if (result == 1) {
        asgi->lifespan = (PyObject *)self;
        asgi->scopes.state = Py_NewRef(self->state);
        return 0;
    }
    if (self != NULL)
        self->asgi = NULL;
    Py_XDECREF(self);
    return result;
}

static PyObject *wait_settled(struct asgi *asgi, struct asgi_lifespan *self, int64_t timeout_ms)
{
    if (settled_renew(self) < 0)
        return NULL;
    self->state_now = LIFESPAN_STOPPING;
    asgi_awaitable_wake(&self->receivers);
    return asgi_run_until(asgi, PyObject_CallMethod(asgi->helpers, "wait", "Od", self->settled, (double)timeout_ms / 1000));
}

static void log_shutdown(struct asgi_lifespan *self, bool in_time)
{
    if (self->state_now == LIFESPAN_FAILED) {
        const char *message = self->message != NULL ? PyUnicode_AsUTF8(self->message) : NULL;
        PyErr_Clear();
        log_error("The application's shutdown failed%s%s", message && *message ? ": " : "", message ? message : "");
    } else if (self->exception != NULL) {
        pyerr_log_exception(LOG_LEVEL_ERROR, self->exception, "The application's lifespan failed");
    } else if (!in_time) {
        log_warning("The application's shutdown takes too long: not waiting for it");
    }
}

void asgi_lifespan_shutdown(struct asgi *asgi, int64_t timeout_ms)
{
    struct asgi_lifespan *self = (struct asgi_lifespan *)asgi->lifespan;
    if (self == NULL)
        return;
    if (!self->over) {
        PyObject *in_time = wait_settled(asgi, self, timeout_ms);
        if (in_time == NULL)
            pyerr_log("The application's lifespan could not end");
        else
            log_shutdown(self, in_time == Py_True);
        Py_XDECREF(in_time);
    } else if (self->exception != NULL) {
        log_shutdown(self, true);
    }
    self->asgi = NULL;
    asgi->lifespan = NULL;
    Py_DECREF(self);
}

/* ------------------------------------------------------------------------------------------------------- the type */

static PyMemberDef lifespan_members[] = {
    { "__vectorcalloffset__", T_PYSSIZET, offsetof(struct asgi_lifespan, vectorcall), READONLY, NULL },
    { NULL, 0, 0, 0, NULL },
};

static PyType_Slot lifespan_slots[] = {
    { Py_tp_doc, "receive() and send(event) of the lifespan scope." },
    { Py_tp_dealloc, lifespan_dealloc },
    { Py_tp_call, PyVectorcall_Call },
    { Py_tp_members, lifespan_members },
    { 0, NULL },
};

static PyType_Spec lifespan_spec = {
    .name = "licorne._core.AsgiLifespan",
    .basicsize = sizeof(struct asgi_lifespan),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lifespan_slots,
};

int asgi_lifespan_add(PyObject *module)
{
    (void)module;
    if (lifespan_type == NULL)
        lifespan_type = (PyTypeObject *)PyType_FromSpec(&lifespan_spec);
    return lifespan_type == NULL ? -1 : 0;
}
