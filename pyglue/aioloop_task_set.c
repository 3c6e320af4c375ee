/* aioloop_task_set: asyncio's set of all tasks, made cheap. One for the process, as asyncio's.
 *
 * Up to CPython 3.13 every task is entered into a weakref.WeakSet when it is made, and leaves it when it dies: two calls of
 * Python functions, a tenth of what a small request costs. Here that set gets a subclass with these two in C. What it says
 * stays the same at any time: a task whose first step is run at once is only noted, and entered if it outlives that step, or
 * when anybody looks.
 *
 * The subclass is made by calling `type`, so that the set's layout stays what it is and its class can be exchanged; then it
 * gets
 *
 *     add     the method that a new task calls: a weak reference whose callback is C
 *     data    the set of weak references, which every other method of WeakSet goes through: first enters what is noted
 *
 * WeakSet's own callback is Python; ours obeys the same rule: while somebody iterates, what dies is put on a list. */
#include "pyglue/aioloop_impl.h"

static struct {
    PyObject *set;   /* asyncio's; NULL: not installed. The others are its attributes. */
    PyObject *data;  /* set of weak references */
    PyObject *gone;  /* list: those that died during an iteration */
    PyObject *loops; /* set: the iterations under way */
    PyObject *on_gone, *base_add;
    PyObject *noted; /* a task that is not in `data` yet */
    bool defer;
} tasks;

/* ----------------------------------------------------------------------------------------------------- coming, leaving */

static PyObject *on_gone(PyObject *none, PyObject *reference)
{
    (void)none;
    bool iterated = PySet_GET_SIZE(tasks.loops) > 0;
    int result = iterated ? PyList_Append(tasks.gone, reference) : PySet_Discard(tasks.data, reference);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static int enter(PyObject *task)
{
    PyObject *reference = PyWeakref_NewRef(task, tasks.on_gone);
    int result = reference != NULL ? PySet_Add(tasks.data, reference) : -1;
    Py_XDECREF(reference);
    return result;
}

static int enter_noted(void)
{
    PyObject *task = tasks.noted;
    if (task == NULL)
        return 0;
    tasks.noted = NULL;
    int result = enter(task);
    Py_DECREF(task);
    return result;
}

/* What WeakSet does with it, too, whenever it adds. */
static int drop_gone(void)
{
    for (Py_ssize_t count; (count = PyList_GET_SIZE(tasks.gone)) > 0;) {
        PyObject *reference = Py_NewRef(PyList_GET_ITEM(tasks.gone, count - 1));
        int result = PyList_SetSlice(tasks.gone, count - 1, count, NULL);
        if (result == 0)
            result = PySet_Discard(tasks.data, reference);
        Py_DECREF(reference);
        if (result < 0)
            return -1;
    }
    return 0;
}

static PyObject *add(PyObject *self, PyObject *task)
{
    if (self != tasks.set)
        return PyObject_CallFunctionObjArgs(tasks.base_add, self, task, NULL);
    if (tasks.defer && tasks.noted == NULL) {
        tasks.defer = false;
        tasks.noted = Py_NewRef(task);
        Py_RETURN_NONE;
    }
    if (drop_gone() < 0 || enter(task) < 0)
        return NULL;
    Py_RETURN_NONE;
}

void task_set_defer(void)
{
    tasks.defer = tasks.set != NULL;
}

void task_set_settle(PyObject *task, bool done)
{
    tasks.defer = false;
    if (done && tasks.noted == task) {
        Py_CLEAR(tasks.noted);
        return;
    }
    if (tasks.noted == NULL)
        return;
    PyObject *exception = PyErr_Occurred() ? exception_take() : NULL;
    if (enter_noted() < 0)
        PyErr_WriteUnraisable(tasks.set);
    if (exception != NULL)
        exception_restore(exception);
}

/* ---------------------------------------------------------------------------------------------------------- the class */

static PyObject *get_data(PyObject *self, void *closure)
{
    (void)closure;
    if (self == tasks.set)
        return enter_noted() < 0 ? NULL : Py_NewRef(tasks.data);
    PyObject *attributes = PyObject_GenericGetDict(self, NULL);
    PyObject *data = attributes != NULL ? PyDict_GetItemString(attributes, "data") : NULL; // borrowed
    Py_XINCREF(data);
    Py_XDECREF(attributes);
    if (data == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_AttributeError, "data");
    return data;
}

/* Of sets that are made from asyncio's: by copy(), and by operators. */
static int set_data(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    PyObject *attributes = self != tasks.set && value != NULL ? PyObject_GenericGetDict(self, NULL) : NULL;
    int result = attributes != NULL ? PyDict_SetItemString(attributes, "data", value) : -1;
    Py_XDECREF(attributes);
    if (result < 0 && !PyErr_Occurred())
        PyErr_SetString(PyExc_AttributeError, "data cannot be set");
    return result;
}

static PyMethodDef on_gone_method = { "_task_is_gone", on_gone, METH_O, NULL };
static PyMethodDef add_method = { "add", add, METH_O, NULL };
static PyGetSetDef data_attribute = { "data", get_data, set_data, NULL, NULL };

static int put(PyObject *type, const char *name, PyObject *value)
{
    int result = value != NULL ? PyObject_SetAttrString(type, name, value) : -1;
    Py_XDECREF(value);
    return result;
}

static PyObject *class_new(PyObject *base)
{
    PyObject *type = PyObject_CallFunction((PyObject *)&PyType_Type, "s(O){ss}", "TaskSet", base, "__module__", "licorne._core");
    if (type != NULL && (put(type, "add", PyDescr_NewMethod((PyTypeObject *)type, &add_method)) < 0 ||
                         put(type, "data", PyDescr_NewGetSet((PyTypeObject *)type, &data_attribute)) < 0))
        Py_CLEAR(type);
    return type;
}

/* ---------------------------------------------------------------------------------------------------------- installing */

/* The set's name was _all_tasks before 3.12. From 3.14 on, tasks are in a list of the interpreter's own. */
static PyObject *set_of_asyncio(void)
{
    PyObject *module = PyImport_ImportModule("_asyncio");
    if (module == NULL) {
        PyErr_Clear();
        return NULL;
    }
    const char *name = PY_VERSION_HEX < 0x030C0000 ? "_all_tasks" : "_scheduled_tasks";
    PyObject *set = PY_VERSION_HEX < 0x030E0000 ? PyObject_GetAttrString(module, name) : NULL;
    PyErr_Clear();
    Py_DECREF(module);
    return set;
}

/* An attribute of the set, if it is what we know it to be. */
static PyObject *known_attribute(PyObject *set, const char *name, PyTypeObject *type)
{
    PyObject *value = PyObject_GetAttrString(set, name);
    PyErr_Clear();
    if (value != NULL && !Py_IS_TYPE(value, type))
        Py_CLEAR(value);
    return value;
}

static bool is_weak_set(PyObject *set)
{
    PyObject *module = PyImport_ImportModule("weakref");
    PyObject *type = module != NULL ? PyObject_GetAttrString(module, "WeakSet") : NULL;
    bool result = set != NULL && type == (PyObject *)Py_TYPE(set);
    Py_XDECREF(type);
    Py_XDECREF(module);
    PyErr_Clear();
    return result;
}

int task_set_install(void)
{
    PyObject *set = tasks.set == NULL ? set_of_asyncio() : NULL;
    if (!is_weak_set(set)) {
        Py_XDECREF(set);
        return 0;
    }
    PyObject *base = (PyObject *)Py_TYPE(set), *type = NULL;
    tasks.data = known_attribute(set, "data", &PySet_Type);
    tasks.gone = known_attribute(set, "_pending_removals", &PyList_Type);
    tasks.loops = known_attribute(set, "_iterating", &PySet_Type);
    tasks.base_add = PyObject_GetAttrString(base, "add");
    tasks.on_gone = PyCFunction_New(&on_gone_method, NULL);
    if (tasks.base_add != NULL && tasks.on_gone != NULL)
        type = class_new(base);
    bool known = tasks.data != NULL && tasks.gone != NULL && tasks.loops != NULL;
    if (type != NULL && known && PyObject_SetAttrString(set, "__class__", type) == 0)
        tasks.set = Py_NewRef(set);
    Py_XDECREF(type);
    Py_DECREF(set);
    return PyErr_Occurred() ? -1 : 0;
}
