/* aioloop_call: call_soon() and its relations: from the arguments of a call to a handle in the ready queue or a
 * timer in the heap. */
#include "pyglue/aioloop_impl.h"

int ready_push(struct ready_queue *queue, struct ready entry)
{
    if (queue->count == queue->capacity) {
        size_t capacity = queue->capacity ? queue->capacity * 2 : 64;
        struct ready *ring = PyMem_Malloc(capacity * sizeof(*ring));
        if (ring == NULL) {
            if (entry.function == NULL)
                Py_DECREF((PyObject *)entry.object);
            PyErr_NoMemory();
            return -1;
        }
        for (size_t i = queue->head; i < queue->head + queue->count; i++)
            ring[i & (capacity - 1)] = queue->ring[i & (queue->capacity - 1)];
        PyMem_Free(queue->ring);
        queue->ring = ring;
        queue->capacity = capacity;
    }
    *ready_at(queue, queue->count) = entry;
    queue->count++;
    return 0;
}

/* --- arguments ---------------------------------------------------------------------------------------------------- */

/* The keyword argument context=: borrowed, NULL for none or None. -1 with TypeError for any other keyword. */
static int context_argument(struct aioloop *self, const char *method, PyObject *const *kwargs, PyObject *kwnames,
                            PyObject **context)
{
    *context = NULL;
    if (kwnames == NULL)
        return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i); // borrowed
        if (name != self->state->str_context && PyUnicode_Compare(name, self->state->str_context) != 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument %R", method, name);
            return -1;
        }
        *context = kwargs[i] == Py_None ? NULL : kwargs[i];
    }
    if (*context != NULL && !PyContext_CheckExact(*context)) {
        PyErr_Format(PyExc_TypeError, "%s() expects a contextvars.Context, got %R", method, *context);
        return -1;
    }
    return 0;
}

static int check_count(const char *method, Py_ssize_t nargs, Py_ssize_t least)
{
    if (nargs >= least)
        return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes at least %zd positional arguments, got %zd", method, least, nargs);
    return -1;
}

static int check_thread(struct aioloop *self)
{
    if (self->thread_id == 0 || self->thread_id == PyThread_get_thread_ident())
        return 0;
    PyErr_SetString(PyExc_RuntimeError,
                    "Non-thread-safe operation invoked on an event loop other than the current one");
    return -1;
}

static int check_callback(struct aioloop *self, const char *method, PyObject *callback)
{
    PyObject *result =
        PyObject_CallMethod((PyObject *)self, "_check_callback", "Os", callback, method);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int check_debug(struct aioloop *self, const char *method, PyObject *callback, bool any_thread)
{
    if (!any_thread && check_thread(self) < 0)
        return -1;
    return check_callback(self, method, callback);
}

/* --- call_soon ---------------------------------------------------------------------------------------------------- */

static PyObject *queue_handle(struct aioloop *self, PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    struct handle *h = handle_new(self, args[0], args + 1, nargs - 1, context);
    if (h == NULL)
        return NULL;
    if (ready_push(&self->ready, (struct ready){ NULL, Py_NewRef((PyObject *)h) }) < 0)
        Py_CLEAR(h);
    return (PyObject *)h;
}

PyObject *aioloop_call_soon(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct aioloop *self = AIOLOOP(object);
    PyObject *context;
    if (check_count("call_soon", nargs, 1) < 0 || aioloop_check_open(self) < 0 ||
        context_argument(self, "call_soon", args + nargs, kwnames, &context) < 0)
        return NULL;
    if (self->debug && check_debug(self, "call_soon", args[0], false) < 0)
        return NULL;
    if (self->capture && task_step_capture(self, args[0], context))
        Py_RETURN_NONE;
    return queue_handle(self, args, nargs, context);
}

PyObject *aioloop_call_soon_threadsafe(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct aioloop *self = AIOLOOP(object);
    PyObject *context;
    if (check_count("call_soon_threadsafe", nargs, 1) < 0 || aioloop_check_open(self) < 0 ||
        context_argument(self, "call_soon_threadsafe", args + nargs, kwnames, &context) < 0)
        return NULL;
    if (self->debug && check_debug(self, "call_soon_threadsafe", args[0], true) < 0)
        return NULL;
    PyObject *handle = queue_handle(self, args, nargs, context);
    if (handle != NULL)
        aioloop_wake(self);
    return handle;
}

int aioloop_call_soon_c(PyObject *self, void (*function)(void *arg), void *arg)
{
    return ready_push(&AIOLOOP(self)->ready, (struct ready){ function, arg });
}

/* --- call_later --------------------------------------------------------------------------------------------------- */

static PyObject *add_timer(struct aioloop *self, double when, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *context)
{
    if (when != when) {
        PyErr_SetString(PyExc_ValueError, "a timer cannot be due at NaN");
        return NULL;
    }
    struct timer *t = timer_new(self, when, args[0], args + 1, nargs - 1, context);
    if (t != NULL && timer_heap_add(&self->timers, t) < 0)
        Py_CLEAR(t);
    return (PyObject *)t;
}

static PyObject *schedule(struct aioloop *self, const char *method, const char *unset, double base,
                          PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *context;
    if (check_count(method, nargs, 2) < 0)
        return NULL;
    if (args[0] == Py_None) {
        PyErr_SetString(PyExc_TypeError, unset);
        return NULL;
    }
    double when = PyFloat_AsDouble(args[0]);
    if (when == -1.0 && PyErr_Occurred())
        return NULL;
    if (aioloop_check_open(self) < 0 || context_argument(self, method, args + nargs, kwnames, &context) < 0)
        return NULL;
    if (self->debug && check_debug(self, "call_at", args[1], false) < 0)
        return NULL;
    return add_timer(self, base + when, args + 1, nargs - 1, context);
}

PyObject *aioloop_call_later(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return schedule(AIOLOOP(self), "call_later", "delay must not be None", aioloop_time(), args, nargs, kwnames);
}

PyObject *aioloop_call_at(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    return schedule(AIOLOOP(self), "call_at", "when cannot be None", 0.0, args, nargs, kwnames);
}

/* --- handles of others (asyncio's own, for signals) ----------------------------------------------------------------- */

PyObject *aioloop_add_callback(PyObject *object, PyObject *handle)
{
    struct aioloop *self = AIOLOOP(object);
    PyObject *cancelled = PyObject_GetAttr(handle, self->state->str__cancelled);
    int skip = cancelled ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    if (skip < 0 || (!skip && ready_push(&self->ready, (struct ready){ NULL, Py_NewRef(handle) }) < 0))
        return NULL;
    Py_RETURN_NONE;
}

PyObject *aioloop_add_callback_signalsafe(PyObject *self, PyObject *handle)
{
    PyObject *result = aioloop_add_callback(self, handle);
    aioloop_wake(AIOLOOP(self));
    return result;
}
