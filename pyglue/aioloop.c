/* aioloop: LoopBase, the native half of licorne.Loop: its life, its attributes and its table of methods. The other half
 * is the standard library's selector loop, over our readers and writers (licorne/loop.py joins them). The attributes
 * that the standard library's code writes are descriptors here, so that C reads them without a dictionary. */
#include "pyglue/aioloop.h"
#include "pyglue/aioloop_impl.h"
#include "pyglue/module.h"

#include "server/base/clock.h"

PyObject *exception_take(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

void exception_restore(PyObject *exception)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exception);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exception)), exception, PyException_GetTraceback(exception));
#endif
}

int aioloop_check_open(const struct aioloop *self)
{
    if (!self->closed && self->loop != NULL)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    return -1;
}

/* As time.monotonic() computes it. */
double aioloop_time(void)
{
    return (double)clock_ns() / 1e9;
}

bool aioloop_is(PyObject *object)
{
    struct aioloop_state *state = aioloop_state_of(Py_TYPE(object));
    PyErr_Clear();
    return state != NULL && PyObject_TypeCheck(object, state->loop_type);
}

struct loop *aioloop_loop(PyObject *object)
{
    struct aioloop_state *state = aioloop_state_of(Py_TYPE(object));
    if (state == NULL || !PyObject_TypeCheck(object, state->loop_type)) {
        PyErr_Format(PyExc_TypeError, "a licorne.Loop is needed, got %R", object);
        return NULL;
    }
    return aioloop_check_open(AIOLOOP(object)) < 0 ? NULL : AIOLOOP(object)->loop;
}

struct aioloop *aioloop_loop_checked(PyObject *object)
{
    return aioloop_loop(object) ? AIOLOOP(object) : NULL;
}

/* --- life ------------------------------------------------------------------------------------------------------------- */

static PyObject *aioloop_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args, (void)kwargs;
    struct aioloop_state *state = aioloop_state_of(type);
    struct aioloop *self = state ? AIOLOOP(type->tp_alloc(type, 0)) : NULL;
    if (self == NULL)
        return NULL;
    self->state = state;
    self->current_handle = Py_NewRef(Py_None);
    self->task_factory = Py_NewRef(Py_None);
    list_init(&self->unflushed);
    self->loop = loop_new();
    if (self->loop == NULL) {
        PyErr_SetFromErrno(PyExc_OSError);
        self->closed = true; /* nothing to warn about */
        Py_DECREF(self);
        return NULL;
    }
    aioloop_run_init(self);
    return (PyObject *)self;
}

static void drop_ready(struct aioloop *self)
{
    while (self->ready.count > 0) {
        struct ready entry = ready_pop(&self->ready);
        if (entry.function == NULL)
            Py_DECREF((PyObject *)entry.object);
    }
}

static void drop_timers(struct aioloop *self)
{
    while (self->timers.count > 0)
        Py_DECREF(timer_heap_take(&self->timers, self->timers.count - 1));
}

static int aioloop_clear(PyObject *object)
{
    struct aioloop *self = AIOLOOP(object);
    drop_ready(self);
    drop_timers(self);
    streams_drop(self);
    if (self->loop != NULL)
        watches_free(self);
    Py_CLEAR(self->current_handle);
    Py_CLEAR(self->task_factory);
    Py_CLEAR(self->captured_step);
    Py_CLEAR(self->captured_context);
    Py_CLEAR(self->task_args);
    Py_CLEAR(self->task_keywords);
    Py_CLEAR(self->raised);
    return 0;
}

static int aioloop_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct aioloop *self = AIOLOOP(object);
    Py_VISIT(Py_TYPE(object));
    for (size_t i = 0; i < self->ready.count; i++)
        if (ready_at(&self->ready, i)->function == NULL)
            Py_VISIT((PyObject *)ready_at(&self->ready, i)->object);
    for (Py_ssize_t i = 0; i < self->timers.count; i++)
        Py_VISIT(self->timers.entries[i].timer);
    Py_VISIT(self->current_handle);
    Py_VISIT(self->task_factory);
    Py_VISIT(self->captured_step);
    Py_VISIT(self->captured_context);
    Py_VISIT(self->task_args);
    Py_VISIT(self->task_keywords);
    Py_VISIT(self->raised);
    int outcome = streams_traverse(self, visit, arg);
    return outcome ? outcome : watches_traverse(self, visit, arg);
}

/* Frees what belongs to the poller. */
static void aioloop_dispose(struct aioloop *self)
{
    if (self->loop == NULL)
        return;
    watches_free(self);
    ev_timer_stop(loop_ev(self->loop), &self->alarm);
    loop_free(self->loop);
    self->loop = NULL;
}

static void aioloop_dealloc(PyObject *object)
{
    struct aioloop *self = AIOLOOP(object);
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    aioloop_clear(object);
    aioloop_dispose(self);
    PyMem_Free(self->ready.ring);
    PyMem_Free(self->timers.entries);
    type->tp_free(object);
    Py_DECREF(type);
}

/* --- methods ------------------------------------------------------------------------------------------------------------ */

static PyObject *aioloop_method_time(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    return PyFloat_FromDouble(aioloop_time());
}

static PyObject *aioloop_get_debug(PyObject *self, PyObject *none)
{
    (void)none;
    return PyBool_FromLong(AIOLOOP(self)->debug);
}

static PyObject *aioloop_is_running(PyObject *self, PyObject *none)
{
    (void)none;
    return PyBool_FromLong(AIOLOOP(self)->thread_id != 0);
}

static PyObject *aioloop_is_closed(PyObject *self, PyObject *none)
{
    (void)none;
    return PyBool_FromLong(AIOLOOP(self)->closed);
}

static PyObject *aioloop_check_closed(PyObject *self, PyObject *none)
{
    (void)none;
    if (aioloop_check_open(AIOLOOP(self)) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *aioloop_stop(PyObject *self, PyObject *none)
{
    (void)none;
    AIOLOOP(self)->stopping = true;
    Py_RETURN_NONE;
}

static PyObject *aioloop_write_to_self(PyObject *self, PyObject *none)
{
    (void)none;
    aioloop_wake(AIOLOOP(self));
    Py_RETURN_NONE;
}

static PyObject *aioloop_after_fork(PyObject *self, PyObject *none)
{
    (void)none;
    if (AIOLOOP(self)->loop != NULL)
        loop_after_fork(AIOLOOP(self)->loop);
    Py_RETURN_NONE;
}

static PyObject *aioloop_close(PyObject *object, PyObject *none)
{
    (void)none;
    struct aioloop *self = AIOLOOP(object);
    if (self->thread_id != 0 || self->turning) {
        PyErr_SetString(PyExc_RuntimeError, "Cannot close a running event loop");
        return NULL;
    }
    self->closed = true;
    drop_ready(self);
    drop_timers(self);
    streams_drop(self);
    aioloop_dispose(self);
    Py_RETURN_NONE;
}

/* --- attributes ----------------------------------------------------------------------------------------------------------- */

static bool *flag_of(PyObject *self, void *closure)
{
    return (bool *)((char *)self + (size_t)closure);
}

static PyObject *get_flag(PyObject *self, void *closure)
{
    return PyBool_FromLong(*flag_of(self, closure));
}

static int set_flag(PyObject *self, PyObject *value, void *closure)
{
    int truth = value ? PyObject_IsTrue(value) : 0;
    if (truth >= 0)
        *flag_of(self, closure) = truth;
    return truth < 0 ? -1 : 0;
}

static PyObject *get_thread_id(PyObject *self, void *closure)
{
    (void)closure;
    unsigned long id = AIOLOOP(self)->thread_id;
    return id ? PyLong_FromUnsignedLong(id) : Py_NewRef(Py_None);
}

static int set_thread_id(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    unsigned long id = value == NULL || value == Py_None ? 0 : PyLong_AsUnsignedLong(value);
    if (id == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    AIOLOOP(self)->thread_id = id;
    return 0;
}

static PyObject *get_object(PyObject *self, void *closure)
{
    PyObject *object = *(PyObject **)((char *)self + (size_t)closure);
    return Py_NewRef(object ? object : Py_None);
}

static int set_object(PyObject *self, PyObject *value, void *closure)
{
    Py_XSETREF(*(PyObject **)((char *)self + (size_t)closure), Py_NewRef(value ? value : Py_None));
    return 0;
}

/* What waits, as a list: for whoever looks. The standard library's code only ever empties what it gets. */
static PyObject *get_ready(PyObject *object, void *closure)
{
    (void)closure;
    struct aioloop *self = AIOLOOP(object);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list != NULL && i < self->ready.count; i++) {
        struct ready *entry = ready_at(&self->ready, i);
        if (entry->function == NULL && PyList_Append(list, entry->object) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *get_scheduled(PyObject *object, void *closure)
{
    (void)closure;
    struct aioloop *self = AIOLOOP(object);
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && i < self->timers.count; i++)
        if (PyList_Append(list, (PyObject *)self->timers.entries[i].timer) < 0)
            Py_CLEAR(list);
    return list;
}

static int set_nothing(PyObject *self, PyObject *value, void *closure)
{
    (void)self, (void)value, (void)closure;
    return 0;
}

/* --- the type ---------------------------------------------------------------------------------------------------------------- */

#define FAST(function) ((PyCFunction)(void (*)(void))(function))
#define VARIADIC (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef aioloop_methods[] = {
    { "call_soon", FAST(aioloop_call_soon), VARIADIC, "Call the callback in the next turn." },
    { "call_soon_threadsafe", FAST(aioloop_call_soon_threadsafe), VARIADIC, "call_soon() from any thread." },
    { "call_later", FAST(aioloop_call_later), VARIADIC, "Call the callback after so many seconds." },
    { "call_at", FAST(aioloop_call_at), VARIADIC, "Call the callback at a time of loop.time()." },
    { "create_future", aioloop_create_future, METH_NOARGS, "A new asyncio.Future of this loop." },
    { "create_task", FAST(aioloop_create_task), VARIADIC, "Schedule a coroutine as an asyncio.Task." },
    { "_start_task", FAST(aioloop_start_task_method), METH_FASTCALL, "A task whose first step runs at once." },
    { "time", aioloop_method_time, METH_NOARGS, "Seconds of the monotonic clock." },
    { "stop", aioloop_stop, METH_NOARGS, "run_forever() returns at the end of the present turn." },
    { "get_debug", aioloop_get_debug, METH_NOARGS, "Whether debug mode is on." },
    { "is_running", aioloop_is_running, METH_NOARGS, "Whether it is running." },
    { "is_closed", aioloop_is_closed, METH_NOARGS, "Whether it was closed." },
    { "_check_closed", aioloop_check_closed, METH_NOARGS, NULL },
    { "_add_reader", FAST(aioloop_add_reader), METH_FASTCALL, NULL },
    { "_add_writer", FAST(aioloop_add_writer), METH_FASTCALL, NULL },
    { "_remove_reader", aioloop_remove_reader, METH_O, NULL },
    { "_remove_writer", aioloop_remove_writer, METH_O, NULL },
    { "_watched", aioloop_watched, METH_O, "What is watched of a descriptor: 1 read, 2 write, 3 both." },
    { "_accept", FAST(aioloop_accept), METH_FASTCALL, "Accept what waits: (type, protocol factory, descriptor, server, how many)." },
    { "_connect", FAST(aioloop_connect), METH_FASTCALL, "Begin to connect: (descriptor, future or None, address), or None." },
    { "_connected", FAST(aioloop_connected), METH_FASTCALL, "A transport: (type, descriptor, protocol, waiter)." },
    { "_attempt_recv", FAST(aioloop_sock_recv), METH_FASTCALL, "These return what came, or a Future." },
    { "_attempt_recv_into", FAST(aioloop_sock_recv_into), METH_FASTCALL, NULL },
    { "_attempt_recvfrom", FAST(aioloop_sock_recvfrom), METH_FASTCALL, NULL },
    { "_attempt_recvfrom_into", FAST(aioloop_sock_recvfrom_into), METH_FASTCALL, NULL },
    { "_attempt_sendall", FAST(aioloop_sock_sendall), METH_FASTCALL, NULL },
    { "_attempt_sendto", FAST(aioloop_sock_sendto), METH_FASTCALL, NULL },
    { "_attempt_accept", FAST(aioloop_sock_accept), METH_FASTCALL, NULL },
    { "_attempt_connect", FAST(aioloop_sock_connect), METH_FASTCALL, NULL },
    { "_attempt_ended", FAST(aioloop_sock_forget), METH_FASTCALL, "Ends what waits for a descriptor: (future, descriptor)." },
    { "_ensure_fd_no_transport", aioloop_ensure_no_transport, METH_O, NULL },
    { "_add_callback", aioloop_add_callback, METH_O, NULL },
    { "_add_callback_signalsafe", aioloop_add_callback_signalsafe, METH_O, NULL },
    { "_write_to_self", aioloop_write_to_self, METH_NOARGS, NULL },
    { "_run", aioloop_run, METH_NOARGS, "Turns until it is stopped." },
    { "_run_once", aioloop_run_once, METH_NOARGS, "One turn." },
    { "_poller_after_fork", aioloop_after_fork, METH_NOARGS, "In the child: a poller of its own." },
    { "_poller_close", aioloop_close, METH_NOARGS, "Drops all that waits, and the poller." },
    { 0 },
};

#define FLAG(name, member) { name, get_flag, set_flag, NULL, (void *)offsetof(struct aioloop, member) }
#define OBJECT(name, member) { name, get_object, set_object, NULL, (void *)offsetof(struct aioloop, member) }

static PyGetSetDef aioloop_attributes[] = {
    FLAG("_debug", debug),
    FLAG("_closed", closed),
    FLAG("_stopping", stopping),
    FLAG("_has_standard_transports", has_standard_transports),
    OBJECT("_current_handle", current_handle),
    OBJECT("_task_factory", task_factory),
    { "_thread_id", get_thread_id, set_thread_id, NULL, NULL },
    { "_ready", get_ready, set_nothing, NULL, NULL },
    { "_scheduled", get_scheduled, set_nothing, NULL, NULL },
    { 0 },
};

static PyType_Slot aioloop_slots[] = {
    { Py_tp_doc, "The native half of licorne.Loop." },
    { Py_tp_new, aioloop_new },
    { Py_tp_dealloc, aioloop_dealloc },
    { Py_tp_traverse, aioloop_traverse },
    { Py_tp_clear, aioloop_clear },
    { Py_tp_methods, aioloop_methods },
    { Py_tp_getset, aioloop_attributes },
    { 0, NULL },
};

static PyType_Spec aioloop_spec = {
    .name = "licorne._core.LoopBase",
    .basicsize = sizeof(struct aioloop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = aioloop_slots,
};

int aioloop_add(PyObject *module)
{
    PyObject *capsule = aioloop_state_new(module), *type = NULL;
    int outcome = -1;
    if (capsule == NULL)
        return -1;
    struct aioloop_state *state = PyCapsule_GetPointer(capsule, AIOLOOP_STATE_NAME);
    type = PyType_FromModuleAndSpec(module, &aioloop_spec, NULL);
    if (type == NULL || PyObject_SetAttrString(type, AIOLOOP_STATE_ATTRIBUTE, capsule) < 0 ||
        tls_add(state, module, capsule) < 0)
        goto done;
    state->loop_type = (PyTypeObject *)type;
    outcome = PyModule_AddObjectRef(module, "LoopBase", type);
done:
    Py_XDECREF(type);
    Py_DECREF(capsule);
    return outcome;
}
