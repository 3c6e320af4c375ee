/* aioloop_handle: Handle and TimerHandle, what call_soon() and call_later() return. They look like asyncio's to
 * whoever looks (repr, comparison of timers, _run, _callback, _args), but keep up to three arguments inline and come
 * from a free list: most live for one turn. */
#include "pyglue/aioloop_impl.h"

#include <structmember.h>

static struct handle_spares *spares_of(struct aioloop_state *state, PyTypeObject *type)
{
    return type == state->timer_type ? &state->spare_timers : &state->spare_handles;
}

static struct handle *handle_alloc(struct aioloop_state *state, PyTypeObject *type)
{
    struct handle_spares *spares = spares_of(state, type);
    struct handle *h = spares->first;
    if (h == NULL)
        return type == state->timer_type ? (struct handle *)PyObject_GC_New(struct timer, type)
                                         : PyObject_GC_New(struct handle, type);
    spares->first = (struct handle *)h->callback;
    spares->count--;
    return (struct handle *)PyObject_Init((PyObject *)h, type);
}

void handle_spares_free(struct aioloop_state *state)
{
    struct handle_spares *lists[] = { &state->spare_handles, &state->spare_timers };
    for (int i = 0; i < 2; i++)
        while (lists[i]->first != NULL) {
            struct handle *h = lists[i]->first;
            lists[i]->first = (struct handle *)h->callback;
            PyObject_GC_Del(h);
        }
}

static int handle_keep_args(struct handle *h, PyObject *const *args, Py_ssize_t nargs)
{
    h->nargs = nargs;
    if (nargs <= HANDLE_INLINE_ARGS) {
        for (Py_ssize_t i = 0; i < nargs; i++)
            h->slots[1 + i] = Py_NewRef(args[i]);
        return 0;
    }
    h->slots[1] = PyTuple_New(nargs);
    if (h->slots[1] == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < nargs; i++)
        PyTuple_SET_ITEM(h->slots[1], i, Py_NewRef(args[i]));
    return 0;
}

/* Lets go of callback and arguments. */
static void handle_drop(struct handle *h)
{
    Py_CLEAR(h->callback);
    Py_ssize_t used = h->nargs <= HANDLE_INLINE_ARGS ? h->nargs : 1;
    h->nargs = 0;
    for (Py_ssize_t i = 1; i <= used; i++)
        Py_CLEAR(h->slots[i]);
}

static int handle_clear(PyObject *self)
{
    struct handle *h = (struct handle *)self;
    handle_drop(h);
    Py_CLEAR(h->context);
    Py_CLEAR(h->source_traceback);
    Py_CLEAR(h->repr);
    return 0;
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct handle *h = (struct handle *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(h->loop);
    Py_VISIT(h->callback);
    Py_VISIT(h->context);
    Py_VISIT(h->source_traceback);
    Py_ssize_t used = h->nargs <= HANDLE_INLINE_ARGS ? h->nargs : 1;
    for (Py_ssize_t i = 1; i <= used; i++)
        Py_VISIT(h->slots[i]);
    return 0;
}

static void handle_dealloc(PyObject *self)
{
    struct handle *h = (struct handle *)self;
    struct aioloop *loop = h->loop;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (h->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    handle_clear(self);
    struct handle_spares *spares = spares_of(loop->state, type);
    if (spares->count < HANDLE_SPARES) {
        h->callback = (PyObject *)spares->first;
        spares->first = h;
        spares->count++;
    } else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
    Py_DECREF(loop); /* last: the state with its free list lives as long as a loop does */
}

static int handle_note_source(struct handle *h)
{
    h->source_traceback = PyObject_CallNoArgs(h->loop->state->extract_stack);
    return h->source_traceback ? 0 : -1;
}

static struct handle *handle_make(struct aioloop *loop, PyTypeObject *type, PyObject *callback, PyObject *const *args,
                                  Py_ssize_t nargs, PyObject *context)
{
    struct handle *h = handle_alloc(loop->state, type);
    if (h == NULL)
        return NULL;
    h->loop = AIOLOOP(Py_NewRef((PyObject *)loop));
    h->callback = Py_NewRef(callback);
    memset(h->slots, 0, sizeof(h->slots));
    h->source_traceback = h->repr = h->weakrefs = NULL;
    h->cancelled = h->running = false;
    h->context = context ? Py_NewRef(context) : PyContext_CopyCurrent();
    bool ok = handle_keep_args(h, args, nargs) == 0 && h->context != NULL;
    if (!ok || (loop->debug && handle_note_source(h) < 0)) {
        PyObject_GC_Track(h);
        Py_DECREF(h);
        return NULL;
    }
    return h;
}

struct handle *handle_new(struct aioloop *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *context)
{
    struct handle *h = handle_make(loop, loop->state->handle_type, callback, args, nargs, context);
    if (h != NULL)
        PyObject_GC_Track(h);
    return h;
}

struct timer *timer_new(struct aioloop *loop, double when, PyObject *callback, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *context)
{
    struct timer *t = (struct timer *)handle_make(loop, loop->state->timer_type, callback, args, nargs, context);
    if (t == NULL)
        return NULL;
    t->when = when;
    t->place = -1;
    PyObject_GC_Track(t);
    return t;
}

/* --- running ------------------------------------------------------------------------------------------------------ */

static PyObject *handle_call(struct handle *h)
{
    if (h->nargs > HANDLE_INLINE_ARGS)
        return PyObject_Call(h->callback, h->slots[1], NULL);
    return PyObject_Vectorcall(h->callback, h->slots + 1, (size_t)h->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
}

static PyObject *handle_call_in_context(struct handle *h)
{
    if (PyContext_Enter(h->context) < 0)
        return NULL;
    PyObject *result = handle_call(h);
    if (PyContext_Exit(h->context) < 0)
        Py_CLEAR(result);
    return result;
}

static int handle_failed(struct handle *h)
{
    if (exception_leaves_loop())
        return -1;
    PyObject *exception = exception_take();
    PyObject *args[] = { (PyObject *)h->loop, (PyObject *)h, exception };
    PyObject *result = PyObject_VectorcallMethod(h->loop->state->str__callback_failed, args, 3, NULL);
    Py_DECREF(exception);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

int handle_run(struct handle *h)
{
    if (h->callback == NULL)
        return 0;
    bool outer = h->running;
    h->running = true;
    PyObject *result = handle_call_in_context(h);
    int outcome = result ? 0 : handle_failed(h);
    Py_XDECREF(result);
    h->running = outer;
    if (h->cancelled && !outer)
        handle_drop(h);
    return outcome;
}

/* --- methods ------------------------------------------------------------------------------------------------------ */

void handle_cancel(struct handle *h)
{
    if (h->cancelled)
        return;
    h->cancelled = true;
    if (h->loop->debug) {
        Py_XSETREF(h->repr, PyObject_Repr((PyObject *)h));
        if (h->repr == NULL)
            PyErr_WriteUnraisable((PyObject *)h);
    }
    if (!h->running)
        handle_drop(h);
}

static PyObject *handle_method_cancel(PyObject *self, PyObject *none)
{
    (void)none;
    handle_cancel((struct handle *)self);
    Py_RETURN_NONE;
}

static PyObject *handle_method_cancelled(PyObject *self, PyObject *none)
{
    (void)none;
    return PyBool_FromLong(((struct handle *)self)->cancelled);
}

static PyObject *handle_method_run(PyObject *self, PyObject *none)
{
    (void)none;
    if (handle_run((struct handle *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *handle_get_context(PyObject *self, PyObject *none)
{
    (void)none;
    PyObject *context = ((struct handle *)self)->context;
    return Py_NewRef(context ? context : Py_None);
}

static PyObject *timer_method_cancel(PyObject *self, PyObject *none)
{
    (void)none;
    struct timer *t = (struct timer *)self;
    if (t->place >= 0)
        Py_DECREF(timer_heap_take(&t->handle.loop->timers, t->place)); /* the caller has another reference */
    handle_cancel(&t->handle);
    Py_RETURN_NONE;
}

static PyObject *timer_method_when(PyObject *self, PyObject *none)
{
    (void)none;
    return PyFloat_FromDouble(((struct timer *)self)->when);
}

/* --- attributes --------------------------------------------------------------------------------------------------- */

static PyObject *or_none(PyObject *object)
{
    return Py_NewRef(object ? object : Py_None);
}

static PyObject *handle_get_callback(PyObject *self, void *closure)
{
    (void)closure;
    return or_none(((struct handle *)self)->callback);
}

static PyObject *handle_get_args(PyObject *self, void *closure)
{
    (void)closure;
    struct handle *h = (struct handle *)self;
    if (h->callback == NULL)
        Py_RETURN_NONE;
    if (h->nargs > HANDLE_INLINE_ARGS)
        return Py_NewRef(h->slots[1]);
    PyObject *args = PyTuple_New(h->nargs);
    for (Py_ssize_t i = 0; args != NULL && i < h->nargs; i++)
        PyTuple_SET_ITEM(args, i, Py_NewRef(h->slots[1 + i]));
    return args;
}

static PyObject *handle_get_source_traceback(PyObject *self, void *closure)
{
    (void)closure;
    return or_none(((struct handle *)self)->source_traceback);
}

static PyObject *handle_get_context_attribute(PyObject *self, void *closure)
{
    (void)closure;
    return handle_get_context(self, NULL);
}

static PyObject *timer_get_when(PyObject *self, void *closure)
{
    (void)closure;
    return timer_method_when(self, NULL);
}

static PyObject *timer_get_scheduled(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(((struct timer *)self)->place >= 0);
}

static PyObject *handle_repr_parts(PyObject *self)
{
    struct handle *h = (struct handle *)self;
    PyObject *parts = PyObject_CallOneArg(h->loop->state->repr_info, self);
    if (parts == NULL || Py_TYPE(self) != h->loop->state->timer_type)
        return parts;
    PyObject *number = PyFloat_FromDouble(((struct timer *)self)->when);
    PyObject *when = number ? PyUnicode_FromFormat("when=%R", number) : NULL;
    if (when == NULL || PyList_Insert(parts, h->cancelled ? 2 : 1, when) < 0)
        Py_CLEAR(parts);
    Py_XDECREF(when);
    Py_XDECREF(number);
    return parts;
}

static PyObject *handle_repr(PyObject *self)
{
    struct handle *h = (struct handle *)self;
    if (h->repr != NULL)
        return Py_NewRef(h->repr);
    PyObject *result = NULL, *parts = handle_repr_parts(self), *space = PyUnicode_FromString(" ");
    PyObject *text = parts && space ? PyUnicode_Join(space, parts) : NULL;
    if (text != NULL)
        result = PyUnicode_FromFormat("<%U>", text);
    Py_XDECREF(text);
    Py_XDECREF(space);
    Py_XDECREF(parts);
    return result;
}

/* As asyncio has it: ordered by time, equal only if all is equal. */
static PyObject *timer_richcompare(PyObject *self, PyObject *other, int op)
{
    if (Py_TYPE(other) != Py_TYPE(self))
        Py_RETURN_NOTIMPLEMENTED;
    double a = ((struct timer *)self)->when, b = ((struct timer *)other)->when;
    bool or_equal = op == Py_LE || op == Py_GE;
    if (op == Py_LT || op == Py_GT || (or_equal && a != b))
        return PyBool_FromLong(op == Py_LT || op == Py_LE ? a < b : a > b);
    struct handle *left = (struct handle *)self, *right = (struct handle *)other;
    int equal = a == b && left->cancelled == right->cancelled && left->nargs == right->nargs;
    if (equal && left->callback != right->callback)
        equal = left->callback && right->callback ? PyObject_RichCompareBool(left->callback, right->callback, Py_EQ) : 0;
    for (Py_ssize_t i = 1; equal > 0 && i <= HANDLE_INLINE_ARGS; i++)
        if (left->slots[i] && right->slots[i])
            equal = PyObject_RichCompareBool(left->slots[i], right->slots[i], Py_EQ);
    return equal < 0 ? NULL : PyBool_FromLong(op == Py_NE ? !equal : equal);
}

static Py_hash_t timer_hash(PyObject *self)
{
    PyObject *when = timer_method_when(self, NULL);
    Py_hash_t hash = when ? PyObject_Hash(when) : -1;
    Py_XDECREF(when);
    return hash;
}

/* --- the types ---------------------------------------------------------------------------------------------------- */

#define HANDLE_METHODS                                                                                             \
    { "cancelled", handle_method_cancelled, METH_NOARGS, "Whether it was cancelled." },                            \
    { "get_context", handle_get_context, METH_NOARGS, "The context that it runs in." },                            \
    { "_run", handle_method_run, METH_NOARGS, NULL }

#define HANDLE_ATTRIBUTES                                                                                          \
    { "_callback", handle_get_callback, NULL, NULL, NULL },                                                        \
    { "_args", handle_get_args, NULL, NULL, NULL },                                                                \
    { "_context", handle_get_context_attribute, NULL, NULL, NULL },                                                \
    { "_source_traceback", handle_get_source_traceback, NULL, NULL, NULL }

#define HANDLE_MEMBERS                                                                                             \
    { "_cancelled", T_BOOL, offsetof(struct handle, cancelled), READONLY, NULL },                                  \
    { "_loop", T_OBJECT, offsetof(struct handle, loop), READONLY, NULL },                                          \
    { "__weaklistoffset__", T_PYSSIZET, offsetof(struct handle, weakrefs), READONLY, NULL }

static PyMethodDef handle_methods[] = {
    { "cancel", handle_method_cancel, METH_NOARGS, "Cancel the callback; no effect if it ran or was cancelled." },
    HANDLE_METHODS,
    { 0 },
};
static PyMethodDef timer_methods[] = {
    { "cancel", timer_method_cancel, METH_NOARGS, "Cancel the callback; no effect if it ran or was cancelled." },
    { "when", timer_method_when, METH_NOARGS, "The time that it is due, as loop.time() tells it." },
    HANDLE_METHODS,
    { 0 },
};
static PyGetSetDef handle_attributes[] = { HANDLE_ATTRIBUTES, { 0 } };
static PyGetSetDef timer_attributes[] = {
    HANDLE_ATTRIBUTES,
    { "_when", timer_get_when, NULL, NULL, NULL },
    { "_scheduled", timer_get_scheduled, NULL, NULL, NULL },
    { 0 },
};
static PyMemberDef handle_members[] = { HANDLE_MEMBERS, { 0 } };
static PyMemberDef timer_members[] = { HANDLE_MEMBERS, { 0 } };

static PyType_Slot handle_slots[] = {
    { Py_tp_doc, "A callback that the loop will call, as call_soon() returns it." },
    { Py_tp_dealloc, handle_dealloc },
    { Py_tp_traverse, handle_traverse },
    { Py_tp_clear, handle_clear },
    { Py_tp_repr, handle_repr },
    { Py_tp_methods, handle_methods },
    { Py_tp_getset, handle_attributes },
    { Py_tp_members, handle_members },
    { 0, NULL },
};
static PyType_Slot timer_slots[] = {
    { Py_tp_doc, "A callback that the loop will call at a given time, as call_later() returns it." },
    { Py_tp_dealloc, handle_dealloc },
    { Py_tp_traverse, handle_traverse },
    { Py_tp_clear, handle_clear },
    { Py_tp_repr, handle_repr },
    { Py_tp_richcompare, timer_richcompare },
    { Py_tp_hash, timer_hash },
    { Py_tp_methods, timer_methods },
    { Py_tp_getset, timer_attributes },
    { Py_tp_members, timer_members },
    { 0, NULL },
};

#define HANDLE_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Spec handle_spec = { "licorne._core.Handle", sizeof(struct handle), 0, HANDLE_FLAGS, handle_slots };
static PyType_Spec timer_spec = { "licorne._core.TimerHandle", sizeof(struct timer), 0, HANDLE_FLAGS, timer_slots };

int handle_add(struct aioloop_state *state, PyObject *module)
{
    state->handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &handle_spec, NULL);
    state->timer_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &timer_spec, NULL);
    if (state->handle_type == NULL || state->timer_type == NULL)
        return -1;
    if (PyModule_AddType(module, state->handle_type) < 0 || PyModule_AddType(module, state->timer_type) < 0)
        return -1;
    return 0;
}
