/* aioloop_task: create_future(), create_task(), and the request's task: a real asyncio.Task whose first step runs at
 * once, so that an application that never waits is done when aioloop_start_task() returns.
 *
 * From CPython 3.12.5 a task can start eagerly. Before (3.12 has the feature, but get_coro() of a task that finished
 * eagerly crashes there), the task is made in the normal way, and the step that Task.__init__ hands to call_soon() is
 * caught and called here, in the context that came with it. */
#include "pyglue/aioloop.h"
#include "pyglue/aioloop_impl.h"

#define EAGER_SINCE 0x030C05F0

static PyObject *attribute_of(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *value = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return value;
}

static PyObject *base_create_task(void)
{
    PyObject *base = attribute_of("asyncio.base_events", "BaseEventLoop");
    PyObject *method = base ? PyObject_GetAttrString(base, "create_task") : NULL;
    Py_XDECREF(base);
    return method;
}

/* Of the interpreter that runs, not of the headers: 0 when it cannot be read. */
unsigned long runtime_version(void)
{
    PyObject *version = PySys_GetObject("hexversion"); // borrowed
    return version ? PyLong_AsUnsignedLong(version) : 0;
}

int task_state_init(struct aioloop_state *state)
{
    state->eager_start = runtime_version() >= EAGER_SINCE;
    state->task_type = attribute_of("asyncio", "Task");
    state->future_type = attribute_of("asyncio", "Future");
    state->base_create_task = base_create_task();
    state->kw_loop = Py_BuildValue("(N)", PyUnicode_InternFromString("loop"));
    state->kw_name_loop = Py_BuildValue("(ON)", state->str_name, PyUnicode_InternFromString("loop"));
    state->task_done = state->task_type ? PyObject_GetAttrString(state->task_type, "done") : NULL;
    return PyErr_Occurred() ? -1 : task_set_install();
}

PyObject *aioloop_create_future(PyObject *self, PyObject *none)
{
    (void)none;
    struct aioloop_state *state = AIOLOOP(self)->state;
    PyObject *args[] = { NULL, self };
    return PyObject_Vectorcall(state->future_type, args + 1, PY_VECTORCALL_ARGUMENTS_OFFSET, state->kw_loop);
}

/* --- create_task ---------------------------------------------------------------------------------------------------- */

/* With a task factory: the standard library knows how this version calls it. */
static PyObject *create_by_factory(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t total = nargs + (kwnames ? PyTuple_GET_SIZE(kwnames) : 0);
    PyObject **all = PyMem_New(PyObject *, 1 + total);
    if (all == NULL)
        return PyErr_NoMemory();
    all[0] = self;
    memcpy(all + 1, args, (size_t)total * sizeof(*all));
    PyObject *task = PyObject_Vectorcall(AIOLOOP(self)->state->base_create_task, all, 1 + (size_t)nargs, kwnames);
    PyMem_Free(all);
    return task;
}

/* The caller's keywords and loop=. New reference. */
static PyObject *keywords_and_loop(struct aioloop_state *state, PyObject *kwnames)
{
    if (kwnames == NULL)
        return Py_NewRef(state->kw_loop);
    if (PyTuple_GET_SIZE(kwnames) == 1 && PyTuple_GET_ITEM(kwnames, 0) == state->str_name)
        return Py_NewRef(state->kw_name_loop);
    return PySequence_Concat(kwnames, state->kw_loop);
}

#define MAX_KEYWORDS 8 /* Task takes 4 */

static PyObject *create_plain(PyObject *self, PyObject *coro, PyObject *const *kwargs, PyObject *kwnames)
{
    struct aioloop_state *state = AIOLOOP(self)->state;
    Py_ssize_t count = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    if (count > MAX_KEYWORDS) {
        PyErr_SetString(PyExc_TypeError, "create_task() got too many keyword arguments");
        return NULL;
    }
    PyObject *args[1 + 1 + MAX_KEYWORDS + 1] = { NULL, coro }, *names = keywords_and_loop(state, kwnames);
    if (names == NULL)
        return NULL;
    if (count > 0)
        memcpy(args + 2, kwargs, (size_t)count * sizeof(*args));
    args[2 + count] = self;
    PyObject *task = PyObject_Vectorcall(state->task_type, args + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
    Py_DECREF(names);
    return task;
}

PyObject *aioloop_create_task(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (aioloop_check_open(AIOLOOP(self)) < 0)
        return NULL;
    if (AIOLOOP(self)->task_factory != Py_None || nargs != 1) /* 0 or 2: the standard library says what is wrong */
        return create_by_factory(self, args, nargs, kwnames);
    return create_plain(self, args[0], args + nargs, kwnames);
}

/* --- making a request's task -------------------------------------------------------------------------------------------- */

/* loop=, name=, and from 3.12.5 on eager_start=. */
static PyObject *keywords_of(struct aioloop *self, PyObject *name)
{
    if (self->task_keywords != NULL && self->task_name == name)
        return self->task_keywords;
    PyObject *keywords = Py_BuildValue("{sOsO}", "loop", self, "name", name);
    if (keywords != NULL && self->state->eager_start && PyDict_SetItemString(keywords, "eager_start", Py_True) < 0)
        Py_CLEAR(keywords);
    Py_XSETREF(self->task_keywords, keywords);
    self->task_name = name;
    return keywords;
}

static PyObject *call_type(PyObject *object, PyObject *args, PyObject *keywords)
{
    PyTypeObject *type = (PyTypeObject *)object;
    if (!PyType_CheckExact(object)) /* somebody has put something of his own into the place of asyncio.Task */
        return PyObject_Call(object, args, keywords);
    PyObject *task = type->tp_new(type, args, keywords);
    if (task != NULL && type->tp_init(task, args, keywords) < 0)
        Py_CLEAR(task);
    return task;
}

/* Task(coro, ...) as the interpreter would call it, but that its arguments are kept for the next time: making them costs as
 * much as what they are made for. */
static PyObject *task_new(struct aioloop *self, PyObject *coro, PyObject *name)
{
    PyObject *keywords = keywords_of(self, name); // borrowed
    PyObject *args = self->task_args ? self->task_args : PyTuple_Pack(1, Py_None);
    self->task_args = NULL; /* a finalizer may bring us here again */
    if (keywords == NULL || args == NULL) {
        Py_XDECREF(args);
        return NULL;
    }
    Py_INCREF(keywords);
    PyTuple_SET_ITEM(args, 0, Py_NewRef(coro)); /* where None was */
    PyObject *task = call_type(self->state->task_type, args, keywords);
    Py_DECREF(keywords);
    if (Py_REFCNT(args) == 1 && self->task_args == NULL) {
        PyTuple_SET_ITEM(args, 0, Py_NewRef(Py_None));
        self->task_args = args;
        Py_DECREF(coro);
    } else {
        Py_DECREF(args);
    }
    return task;
}

/* --- the first step, inline --------------------------------------------------------------------------------------------- */

static bool is_step(struct aioloop_state *state, PyObject *callback)
{
    if (state->step_type == NULL) {
        const char *name = strrchr(Py_TYPE(callback)->tp_name, '.');
        if (strcmp(name ? name + 1 : Py_TYPE(callback)->tp_name, "TaskStepMethWrapper") == 0)
            state->step_type = Py_TYPE(callback); /* asyncio's own: it stays */
    }
    return Py_IS_TYPE(callback, state->step_type);
}

bool task_step_capture(struct aioloop *self, PyObject *callback, PyObject *context)
{
    if (context == NULL || !is_step(self->state, callback))
        return false; /* a finalizer that ran meanwhile */
    self->capture = false;
    self->captured_step = Py_NewRef(callback);
    self->captured_context = Py_NewRef(context);
    return true;
}

static int call_step(PyObject *step, PyObject *context)
{
    if (PyContext_Enter(context) < 0)
        return -1;
    PyObject *result = PyObject_CallNoArgs(step);
    if (PyContext_Exit(context) < 0)
        Py_CLEAR(result);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int is_same(PyObject *object, void *other)
{
    return object == other;
}

/* A finalizer may have made a task of its own while ours was made, and its step been caught: that one waits its turn,
 * and ours is in the queue already. */
static int run_captured(struct aioloop *self, PyObject *task, PyObject *step, PyObject *context)
{
    if (Py_TYPE(step)->tp_traverse(step, is_same, task)) /* step.__self__ is task */
        return call_step(step, context);
    struct handle *h = handle_new(self, step, NULL, 0, context);
    return h ? ready_push(&self->ready, (struct ready){ NULL, h }) : -1;
}

static PyObject *start_captured(struct aioloop *self, PyObject *coro, PyObject *name)
{
    self->capture = true;
    task_set_defer();
    PyObject *task = task_new(self, coro, name);
    self->capture = false;
    PyObject *step = self->captured_step, *context = self->captured_context;
    self->captured_step = self->captured_context = NULL;
    if (task != NULL && step != NULL && run_captured(self, task, step, context) < 0)
        Py_CLEAR(task);
    Py_XDECREF(step);
    Py_XDECREF(context);
    return task;
}

static bool task_is_done(struct aioloop_state *state, PyObject *task)
{
    PyObject *done = Py_IS_TYPE(task, (PyTypeObject *)state->task_type) ? PyObject_CallOneArg(state->task_done, task)
                                                                        : PyObject_CallMethod(task, "done", NULL);
    Py_XDECREF(done);
    return done == Py_True;
}

static PyObject *start_inline(struct aioloop *self, PyObject *coro, PyObject *name, bool *done)
{
    PyObject *task = self->state->eager_start ? task_new(self, coro, name) : start_captured(self, coro, name);
    *done = task != NULL && task_is_done(self->state, task);
    task_set_settle(task, *done);
    return task;
}

/* KeyboardInterrupt and SystemExit must leave run_forever(), though the step was not called by it. */
static void keep_raised(struct aioloop *self)
{
    if (!exception_leaves_loop())
        return;
    PyObject *exception = exception_take();
    Py_XSETREF(self->raised, Py_NewRef(exception));
    exception_restore(exception);
}

PyObject *aioloop_start_task(PyObject *object, PyObject *coro, PyObject *name, bool *done)
{
    struct aioloop *self = AIOLOOP(object);
    PyObject *task;
    *done = false;
    if (aioloop_check_open(self) < 0)
        return NULL;
    if (self->task_factory != Py_None) {
        PyObject *args[] = { coro, name };
        PyObject *names = PyTuple_Pack(1, self->state->str_name);
        task = names ? create_by_factory(object, args, 1, names) : NULL;
        *done = task != NULL && task_is_done(self->state, task);
        Py_XDECREF(names);
    } else {
        task = start_inline(self, coro, name, done);
    }
    if (task == NULL)
        keep_raised(self);
    return task;
}

PyObject *aioloop_start_task_method(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    bool done;
    if (nargs == 2)
        return aioloop_start_task(self, args[0], args[1], &done);
    PyErr_SetString(PyExc_TypeError, "_start_task() takes a coroutine and a name");
    return NULL;
}
