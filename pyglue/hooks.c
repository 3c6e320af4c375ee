/* hooks: see hooks.h. */
#include "pyglue/hooks.h"

#include <stdatomic.h>
#include <string.h>

#include "config/settings.h"
#include "pyglue/module.h"
#include "pyglue/pyerr.h"
#include "server/base/mem.h"

static PyObject *module; /* licorne.hooks; NULL: no hooks */
static const _Atomic uint64_t *requests;
static int *listeners;
static size_t listener_count;

bool hooks_any(void)
{
    return module != NULL;
}

/* New reference; NULL: the event raised. */
static PyObject *tell(const char *event, const char *format, va_list values)
{
    PyObject *arguments = Py_VaBuildValue(format, values), *function = PyObject_GetAttrString(module, event);
    PyObject *result = arguments != NULL && function != NULL ? PyObject_CallObject(function, arguments) : NULL;
    Py_XDECREF(function);
    Py_XDECREF(arguments);
    return result;
}

bool hooks_tell(const char *event, const char *format, ...)
{
    va_list values;
    if (module == NULL)
        return true;
    PyGILState_STATE gil = PyGILState_Ensure();
    va_start(values, format);
    PyObject *result = tell(event, format, values);
    va_end(values);
    bool ok = result != NULL;
    if (!ok)
        pyerr_log("A hook of the configuration file failed (%s):", event);
    Py_XDECREF(result);
    PyGILState_Release(gil);
    return ok;
}

/* licorne.hooks, if the configuration file's hooks made someone import it. */
static PyObject *imported(void)
{
    PyObject *name = PyUnicode_FromString("licorne.hooks"), *found = name != NULL ? PyImport_GetModule(name) : NULL;
    PyErr_Clear();
    Py_XDECREF(name);
    return found;
}

bool hooks_begin(const struct settings *settings)
{
    struct buf text = { 0 };
    module = imported();
    if (module == NULL)
        return true;
    settings_print(settings, &text);
    bool ok = hooks_tell("begin", "(s#)", buf_str(&text).p, (Py_ssize_t)buf_len(&text));
    buf_done(&text);
    return ok;
}

PyObject *hooks_wrap(PyObject *application, enum application_kind *kind)
{
    PyObject *wanted = module != NULL ? PyObject_CallMethod(module, "wants_requests", NULL) : Py_NewRef(Py_False);
    PyObject *wrapped = NULL;
    PyObject *told = module != NULL ? PyObject_CallMethod(module, "has_application", "O", application) : NULL;
    if (told == NULL)
        PyErr_Clear();
    Py_XDECREF(told);
    if (wanted == Py_False)
        wrapped = Py_NewRef(application);
    else if (wanted != NULL && *kind == APPLICATION_WSGI)
        wrapped = PyObject_CallMethod(module, "wrap_wsgi", "O", application);
    else if (wanted != NULL) {
        wrapped = PyObject_CallMethod(module, "wrap_asgi", "Oi", application, *kind == APPLICATION_ASGI2 ? 2 : 3);
        *kind = APPLICATION_ASGI3;
    }
    Py_XDECREF(wanted);
    return wrapped;
}

void hooks_listen(const int *fds, size_t count)
{
    listeners = mem_realloc(listeners, (count + 1) * sizeof(*listeners));
    memcpy(listeners, fds, count * sizeof(*listeners));
    listener_count = count;
}

void hooks_count(const _Atomic uint64_t *counter)
{
    requests = counter;
}

/* ---- for licorne/hooks.py --------------------------------------------------------------------------------------- */

static PyObject *py_requests_served(PyObject *self, PyObject *nothing)
{
    (void)self, (void)nothing;
    return PyLong_FromUnsignedLongLong(requests != NULL ? atomic_load(requests) : 0);
}

static PyObject *py_listening(PyObject *self, PyObject *nothing)
{
    PyObject *list = PyList_New(0);
    (void)self, (void)nothing;
    for (size_t i = 0; list != NULL && i < listener_count; i++) {
        PyObject *fd = PyLong_FromLong(listeners[i]);
        if (fd == NULL || PyList_Append(list, fd) < 0)
            Py_CLEAR(list);
        Py_XDECREF(fd);
    }
    return list;
}

static PyMethodDef functions[] = {
    { "listening", py_listening, METH_NOARGS, "The descriptors of the listening sockets, as far as they are here." },
    { "requests_served", py_requests_served, METH_NOARGS, "How many requests this worker has served." },
    { NULL, NULL, 0, NULL },
};

int hooks_add(PyObject *core)
{
    return PyModule_AddFunctions(core, functions);
}
