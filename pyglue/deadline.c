/* deadline: see deadline.h. The object is made with each request that is timed, so from a free list. */
#include "pyglue/deadline.h"

#include <math.h>

#include "pyglue/module.h"
#include "server/http/request.h"

#define FREE_MAX 64
#define MAX_SECONDS 1e9 /* more is no limit */

struct deadline {
    PyObject_HEAD PyObject *owner;
    int64_t (*mover)(PyObject *owner, enum deadline_move move, int64_t ms);
};

PyObject *deadline_timeout_error;

static PyTypeObject *deadline_type;
static struct deadline *free_deadlines[FREE_MAX];
static int free_count;

/* --- life -------------------------------------------------------------------------------------------------------- */

PyObject *deadline_new(PyObject *owner, int64_t (*mover)(PyObject *, enum deadline_move, int64_t))
{
    struct deadline *self;
    if (free_count > 0)
        self = (struct deadline *)PyObject_Init((PyObject *)free_deadlines[--free_count], deadline_type);
    else if ((self = PyObject_New(struct deadline, deadline_type)) == NULL)
        return NULL;
    self->owner = Py_NewRef(owner);
    self->mover = mover;
    return (PyObject *)self;
}

static void deadline_dealloc(PyObject *object)
{
    struct deadline *self = (struct deadline *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_CLEAR(self->owner);
    if (free_count < FREE_MAX)
        free_deadlines[free_count++] = self;
    else
        PyObject_Free(object);
    Py_DECREF(type);
}

/* --- what it does ------------------------------------------------------------------------------------------------ */

int64_t deadline_apply(struct request *request, enum deadline_move move, int64_t ms)
{
    if (request == NULL)
        return REQUEST_NO_DEADLINE;
    int64_t left = request_time_left(request);
    if (move == DEADLINE_EXTEND && left != REQUEST_NO_DEADLINE)
        request_set_deadline(request, left + ms);
    else if (move == DEADLINE_SET)
        request_set_deadline(request, ms);
    return request_time_left(request);
}

static PyObject *move_by(PyObject *object, enum deadline_move move, int64_t ms)
{
    struct deadline *self = (struct deadline *)object;
    int64_t left = self->mover(self->owner, move, ms);
    if (left == REQUEST_NO_DEADLINE)
        Py_RETURN_NONE;
    return PyFloat_FromDouble((double)left / 1e3);
}

/* False with an exception. */
static bool parse_seconds(PyObject *argument, double *seconds)
{
    *seconds = PyFloat_AsDouble(argument);
    if (*seconds == -1.0 && PyErr_Occurred())
        return false;
    if (*seconds >= 0) /* not for NaN */
        return true;
    PyErr_Format(PyExc_ValueError, "a time limit must be seconds from 0 on, not %R", argument);
    return false;
}

static int64_t milliseconds(double seconds)
{
    return (int64_t)ceil(fmin(seconds, MAX_SECONDS) * 1e3);
}

static PyObject *deadline_remaining(PyObject *self, PyObject *ignored)
{
    (void)ignored;
    return move_by(self, DEADLINE_LOOK, 0);
}

static PyObject *deadline_extend(PyObject *self, PyObject *argument)
{
    double seconds;
    return parse_seconds(argument, &seconds) ? move_by(self, DEADLINE_EXTEND, milliseconds(seconds)) : NULL;
}

static PyObject *deadline_set(PyObject *self, PyObject *argument)
{
    double seconds;
    if (argument == Py_None)
        return move_by(self, DEADLINE_SET, REQUEST_NO_DEADLINE);
    return parse_seconds(argument, &seconds) ? move_by(self, DEADLINE_SET, milliseconds(seconds)) : NULL;
}

static PyObject *deadline_repr(PyObject *object)
{
    PyObject *left = move_by(object, DEADLINE_LOOK, 0);
    PyObject *text = left == NULL      ? NULL
                     : left == Py_None ? PyUnicode_FromString("<licorne.Deadline: no limit>")
                                       : PyUnicode_FromFormat("<licorne.Deadline: %R s left>", left);
    Py_XDECREF(left);
    return text;
}

/* --- the types --------------------------------------------------------------------------------------------------- */

static PyMethodDef deadline_methods[] = {
    { "remaining", deadline_remaining, METH_NOARGS,
      "remaining(): the seconds that are left; None: there is no limit, or the response is complete." },
    { "extend", deadline_extend, METH_O, "extend(seconds): so much more; returns what remains." },
    { "set", deadline_set, METH_O, "set(seconds): so much from now on, None for no limit; returns what remains." },
    { NULL, NULL, 0, NULL },
};

static PyType_Slot deadline_slots[] = {
    { Py_tp_doc, "The time limit of one request (request_timeout)." },
    { Py_tp_dealloc, deadline_dealloc },
    { Py_tp_repr, deadline_repr },
    { Py_tp_methods, deadline_methods },
    { 0, NULL },
};

static PyType_Spec deadline_spec = {
    .name = "licorne.Deadline",
    .basicsize = sizeof(struct deadline),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = deadline_slots,
};

int deadline_add(PyObject *module)
{
    if (deadline_type == NULL && (deadline_type = (PyTypeObject *)PyType_FromSpec(&deadline_spec)) == NULL)
        return -1;
    if (deadline_timeout_error == NULL)
        deadline_timeout_error = PyErr_NewExceptionWithDoc(
            "licorne.RequestTimeout",
            "Raised in a WSGI application whose request has taken longer than request_timeout.\n\n"
            "A BaseException, as asyncio.CancelledError is: it is there to end the request, not to be answered.",
            PyExc_BaseException, NULL);
    if (deadline_timeout_error == NULL)
        return -1;
    return PyModule_AddObjectRef(module, "RequestTimeout", deadline_timeout_error) < 0
               ? -1
               : PyModule_AddObjectRef(module, "Deadline", (PyObject *)deadline_type);
}
