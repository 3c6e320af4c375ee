/* asgi_awaitable: what receive() and send() return. Under asyncio they pass for coroutines (`asyncio.create_task(receive())`
 * works): they have send(), throw() and close() besides __await__.
 *
 * Awaiting costs no exception where CPython lets it: 3.10 and 3.11 resume through am_send, which says PYGEN_RETURN;
 * 3.12 and later through tp_iternext, where NULL without an exception means None.
 *
 * A waiting one yields an asyncio.Future that only says "ask again": the result is taken when the task resumes, so a
 * cancellation in between loses no message. Not tracked by the collector: whatever it waits for ends, at the latest
 * with the request, and the cycle future -> task -> frame -> awaitable is broken then. */
#include "pyglue/asgi.h"

#include <structmember.h>

#include "pyglue/names.h"

#define FREE_MAX 64

struct awaitable {
    PyObject_HEAD
    PyObject *owner; /* what poll() asks; NULL: awaited already */
    PyObject *(*poll)(PyObject *owner);
    struct list *waiters;
    PyObject *loop;   /* borrowed from the owner's runtime, used only while that lives */
    PyObject *future; /* while waiting */
    struct list node; /* in waiters */
};

static PyTypeObject *awaitable_type, *none_type;
static PyObject *none_ready;
static struct awaitable *free_awaitables[FREE_MAX];
static int free_count;

/* ------------------------------------------------------------------------------------------------------- waiting */

static void stop_waiting(struct awaitable *self)
{
    list_remove(&self->node);
    Py_CLEAR(self->future);
}

static void finish(struct awaitable *self)
{
    stop_waiting(self);
    Py_CLEAR(self->owner);
}

/* The collector need not look at the future: see above. */
static int start_waiting(struct awaitable *self)
{
    self->future = PyObject_CallMethodNoArgs(self->loop, names.create_future);
    if (self->future == NULL)
        return -1;
    PyObject_GC_UnTrack(self->future);
    list_append(self->waiters, &self->node);
    return 0;
}

/* What `yield from` the future would yield. */
static PySendResult yield_future(struct awaitable *self, PyObject **result)
{
    if (PyObject_SetAttr(self->future, names.asyncio_future_blocking, Py_True) < 0)
        return PYGEN_ERROR;
    *result = Py_NewRef(self->future);
    return PYGEN_NEXT;
}

static bool is_done(PyObject *future)
{
    PyObject *done = PyObject_CallMethodNoArgs(future, names.done);
    Py_XDECREF(done);
    return done == Py_True;
}

/* PYGEN_NEXT: waits, *result is the future. PYGEN_RETURN: ended with *result. */
static PySendResult step(struct awaitable *self, PyObject **result)
{
    if (self->owner == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited receive() or send()");
        return PYGEN_ERROR;
    }
    PySendResult stepped = PYGEN_ERROR;
    if (self->future == NULL || is_done(self->future)) { /* else whoever steps us did not wait for it */
        stop_waiting(self);
        *result = self->poll(self->owner);
        if (*result != NULL) {
            finish(self);
            return PYGEN_RETURN;
        }
        if (PyErr_Occurred() || start_waiting(self) < 0)
            goto fail;
    }
    stepped = yield_future(self, result);
fail:
    if (stepped == PYGEN_ERROR) {
        finish(self);
        *result = NULL;
    }
    return stepped;
}

void asgi_awaitable_wake(struct list *waiters)
{
    /* set_result() only queues the task's step, so nothing joins or leaves the list meanwhile, but take no chance. */
    struct list woken;
    list_init(&woken);
    list_splice(&woken, waiters);
    for (struct list *node; (node = list_pop(&woken)) != NULL;) {
        struct awaitable *self = LIST_ENTRY(node, struct awaitable, node);
        PyObject *future = Py_NewRef(self->future);
        if (!is_done(future))
            Py_XDECREF(PyObject_CallMethodOneArg(future, names.set_result, Py_None));
        if (PyErr_Occurred())
            PyErr_WriteUnraisable(future);
        Py_DECREF(future);
    }
}

/* ------------------------------------------------------------------------------------------------- as a coroutine */

static PySendResult awaitable_am_send(PyObject *self, PyObject *arg, PyObject **result)
{
    (void)arg;
    return step((struct awaitable *)self, result);
}

static PyObject *awaitable_next(PyObject *self)
{
    PyObject *result;
    switch (step((struct awaitable *)self, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        if (result != Py_None)
            PyErr_SetObject(PyExc_StopIteration, result);
        Py_DECREF(result);
        return NULL;
    default:
        return NULL;
    }
}

static PyObject *awaitable_send(PyObject *self, PyObject *arg)
{
    (void)arg;
    PyObject *result = Py_TYPE(self)->tp_iternext(self);
    if (result == NULL && !PyErr_Occurred())
        PyErr_SetNone(PyExc_StopIteration);
    return result;
}

/* throw(exception) or throw(type, value, traceback). */
static PyObject *throw_into(PyObject *const *args, Py_ssize_t count)
{
    PyObject *type = args[0], *value = count > 1 && args[1] != Py_None ? args[1] : NULL;
    PyObject *traceback = count > 2 && args[2] != Py_None ? args[2] : NULL;
    if (value == NULL && PyExceptionInstance_Check(type)) {
        value = type;
        type = (PyObject *)Py_TYPE(value);
    }
    if (!PyExceptionClass_Check(type))
        return PyErr_Format(PyExc_TypeError, "exceptions must derive from BaseException, not %s", Py_TYPE(type)->tp_name);
    if (value != NULL && PyExceptionInstance_Check(value) && traceback != NULL)
        PyException_SetTraceback(value, traceback);
    PyErr_SetObject(type, value);
    return NULL;
}

static PyObject *awaitable_throw(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 3)
        return PyErr_Format(PyExc_TypeError, "throw() takes 1 to 3 arguments (%zd given)", count);
    if (self != none_ready)
        finish((struct awaitable *)self);
    return throw_into(args, count);
}

static PyObject *awaitable_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (self != none_ready)
        finish((struct awaitable *)self);
    Py_RETURN_NONE;
}

static PyObject *awaitable_self(PyObject *self)
{
    return Py_NewRef(self);
}

static void awaitable_dealloc(PyObject *object)
{
    struct awaitable *self = (struct awaitable *)object;
    finish(self);
    PyTypeObject *type = Py_TYPE(object);
    if (free_count < FREE_MAX)
        free_awaitables[free_count++] = self;
    else
        PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef awaitable_methods[] = {
    { "send", awaitable_send, METH_O, NULL },
    { "throw", (PyCFunction)(void (*)(void))awaitable_throw, METH_FASTCALL, NULL },
    { "close", awaitable_close, METH_NOARGS, NULL },
    { NULL, NULL, 0, NULL },
};

static PyType_Slot awaitable_slots[] = {
    { Py_tp_doc, "What receive() and send() return: await it once." },
    { Py_tp_dealloc, awaitable_dealloc },
    { Py_tp_iter, awaitable_self },
    { Py_tp_iternext, awaitable_next },
    { Py_tp_methods, awaitable_methods },
    { Py_am_await, awaitable_self },
    { Py_am_send, awaitable_am_send },
    { 0, NULL },
};

static PyType_Spec awaitable_spec = {
    .name = "licorne._core.Awaitable",
    .basicsize = sizeof(struct awaitable),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = awaitable_slots,
};

/* ------------------------------------------------------------------------------------------- ready with None: one */

static PySendResult none_am_send(PyObject *self, PyObject *arg, PyObject **result)
{
    (void)self, (void)arg;
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static PyObject *none_next(PyObject *self)
{
    (void)self;
    return NULL;
}

static void none_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot none_slots[] = {
    { Py_tp_doc, "What send() returns when it need not wait." },
    { Py_tp_dealloc, none_dealloc },
    { Py_tp_iter, awaitable_self },
    { Py_tp_iternext, none_next },
    { Py_tp_methods, awaitable_methods },
    { Py_am_await, awaitable_self },
    { Py_am_send, none_am_send },
    { 0, NULL },
};

static PyType_Spec none_spec = {
    .name = "licorne._core.Ready",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = none_slots,
};

PyObject *asgi_awaitable_none(void)
{
    return Py_NewRef(none_ready);
}

PyObject *asgi_awaitable_new(PyObject *owner, PyObject *(*poll)(PyObject *), struct list *waiters, PyObject *loop)
{
    struct awaitable *self;
    if (free_count > 0)
        self = (struct awaitable *)PyObject_Init((PyObject *)free_awaitables[--free_count], awaitable_type);
    else if ((self = PyObject_New(struct awaitable, awaitable_type)) == NULL)
        return NULL;
    self->owner = Py_NewRef(owner);
    self->poll = poll;
    self->waiters = waiters;
    self->loop = loop;
    self->future = NULL;
    list_init(&self->node);
    return (PyObject *)self;
}

int asgi_awaitable_add(PyObject *module)
{
    (void)module;
    if (awaitable_type == NULL && (awaitable_type = (PyTypeObject *)PyType_FromSpec(&awaitable_spec)) == NULL)
        return -1;
    if (none_type == NULL && (none_type = (PyTypeObject *)PyType_FromSpec(&none_spec)) == NULL)
        return -1;
    if (none_ready == NULL && (none_ready = (PyObject *)PyObject_New(PyObject, none_type)) == NULL)
        return -1;
    return 0;
}
