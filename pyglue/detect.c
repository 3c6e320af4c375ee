/* detect: see detect.h. The rules, first match wins:
 *
 *     a class     that is awaitable (__await__)                                   ASGI 3
 *                 whose instances have an async __call__, or that takes           ASGI 2
 *                 one argument (scope)
 *     otherwise   a coroutine function, or an object whose __call__ is one        ASGI 3
 *                 takes exactly three arguments (scope, receive, send)            ASGI 3
 *                 takes exactly one (scope), and gives the second callable        ASGI 2
 *     else                                                                        WSGI
 *
 * Bound methods, functools.partial, decorators (__wrapped__) are looked through. Functions are read by their code
 * object: `inspect` would say the same, but costs an import. */
#include "pyglue/detect.h"

#include <limits.h>
#include <stdbool.h>

#include "pyglue/module.h"

#define DEPTH_MAX 16 /* partials of methods of partials … */

/* What a call accepts. */
struct shape {
    bool coroutine;
    int least, most; /* positional arguments; most is INT_MAX for *args */
};

/* The attribute, or NULL with nothing pending. New reference. */
static PyObject *attribute(PyObject *object, const char *name)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    if (value == NULL)
        PyErr_Clear();
    return value;
}

static bool has(PyObject *object, const char *name)
{
    PyObject *value = attribute(object, name);
    Py_XDECREF(value);
    return value != NULL;
}

static bool is_partial(PyObject *object)
{
    PyObject *functools = PyImport_ImportModule("functools");
    PyObject *type = functools != NULL ? attribute(functools, "partial") : NULL;
    int result = type != NULL ? PyObject_IsInstance(object, type) : 0;
    PyErr_Clear();
    Py_XDECREF(type);
    Py_XDECREF(functools);
    return result == 1;
}

static void bind_arguments(struct shape *shape, int count)
{
    shape->least = shape->least > count ? shape->least - count : 0;
    if (shape->most != INT_MAX)
        shape->most = shape->most > count ? shape->most - count : 0;
}

static bool shape_of(PyObject *callable, struct shape *shape, int depth);

static bool shape_of_function(PyObject *function, struct shape *shape, int depth)
{
    const PyCodeObject *code = (const PyCodeObject *)PyFunction_GET_CODE(function);
    PyObject *defaults = PyFunction_GET_DEFAULTS(function); // borrowed
    shape->coroutine = (code->co_flags & CO_COROUTINE) != 0 || has(function, "_is_coroutine_mark") ||
                       has(function, "_is_coroutine"); /* inspect's and asyncio's marks for functions that return one */
    shape->least = code->co_argcount - (defaults != NULL ? (int)PyTuple_GET_SIZE(defaults) : 0);
    shape->most = (code->co_flags & CO_VARARGS) != 0 ? INT_MAX : code->co_argcount;
    PyObject *wrapped = shape->most == INT_MAX && !shape->coroutine ? attribute(function, "__wrapped__") : NULL;
    if (wrapped != NULL)
        shape_of(wrapped, shape, depth - 1); /* unknown: what was read stands */
    Py_XDECREF(wrapped);
    return true;
}

static bool shape_of_partial(PyObject *partial, struct shape *shape, int depth)
{
    PyObject *function = attribute(partial, "func"), *arguments = attribute(partial, "args");
    bool known =
        function != NULL && arguments != NULL && PyTuple_Check(arguments) && shape_of(function, shape, depth - 1);
    if (known)
        bind_arguments(shape, (int)PyTuple_GET_SIZE(arguments));
    Py_XDECREF(arguments);
    Py_XDECREF(function);
    return known;
}

/* An object of a C type that stands for another one: wrapt's, by which tracing agents wrap applications. */
static bool shape_of_wrapped(PyObject *proxy, struct shape *shape, int depth)
{
    PyObject *wrapped = attribute(proxy, "__wrapped__");
    bool known = wrapped != NULL && shape_of(wrapped, shape, depth - 1);
    Py_XDECREF(wrapped);
    return known;
}

/* False: nothing is known (written in C, or too deep). */
static bool shape_of(PyObject *callable, struct shape *shape, int depth)
{
    if (depth == 0)
        return false;
    if (PyFunction_Check(callable))
        return shape_of_function(callable, shape, depth);
    if (PyMethod_Check(callable)) {
        bool known = shape_of(PyMethod_GET_FUNCTION(callable), shape, depth - 1);
        bind_arguments(shape, 1);
        return known;
    }
    if (is_partial(callable))
        return shape_of_partial(callable, shape, depth);
    PyObject *call = attribute(callable, "__call__");
    bool known = call != NULL && (PyFunction_Check(call) || PyMethod_Check(call) || is_partial(call)) &&
                 shape_of(call, shape, depth - 1);
    Py_XDECREF(call);
    return known || shape_of_wrapped(callable, shape, depth);
}

static enum application_kind kind_of_class(PyObject *class)
{
    struct shape shape = { 0 };
    if (has(class, "__await__"))
        return APPLICATION_ASGI3;
    PyObject *call = attribute(class, "__call__"), *init = attribute(class, "__init__");
    bool asgi2 = (call != NULL && shape_of(call, &shape, DEPTH_MAX) && shape.coroutine) ||
                 (init != NULL && PyFunction_Check(init) && shape_of(init, &shape, DEPTH_MAX) && shape.least == 2 &&
                  shape.most == 2); /* self and scope */
    Py_XDECREF(init);
    Py_XDECREF(call);
    return asgi2 ? APPLICATION_ASGI2 : APPLICATION_WSGI;
}

enum application_kind application_kind(PyObject *callable)
{
    struct shape shape = { 0 };
    if (PyType_Check(callable))
        return kind_of_class(callable);
    if (!shape_of(callable, &shape, DEPTH_MAX))
        return APPLICATION_WSGI;
    if (shape.coroutine || (shape.least == 3 && shape.most == 3))
        return APPLICATION_ASGI3;
    return shape.least == 1 && shape.most == 1 ? APPLICATION_ASGI2 : APPLICATION_WSGI;
}

const char *application_kind_name(enum application_kind kind)
{
    static const char *const names[] = { "WSGI", "ASGI 2", "ASGI" };
    return names[kind];
}

static PyObject *py_application_kind(PyObject *self, PyObject *callable)
{
    (void)self;
    return PyUnicode_FromString(application_kind_name(application_kind(callable)));
}

static PyMethodDef functions[] = {
    { "application_kind", py_application_kind, METH_O,
      "What an application speaks: \"ASGI\", \"ASGI 2\" or \"WSGI\"." },
    { NULL, NULL, 0, NULL },
};

int detect_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
