/* hooks: see hooks.h. */
#include "pyglue/hooks.h"

#include <stdatomic.h>

#include "config/settings.h"
#include "pyglue/module.h"
#include "pyglue/pyerr.h"
#include "server/base/mem.h"

static PyObject *module; /* licorne.hooks; NULL: no hooks */
static const _Atomic uint64_t *requests;

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

/* logging's numbers into ours. */
static enum log_level level_of(int number)
{
    return number >= 50   ? LOG_LEVEL_CRITICAL
           : number >= 40 ? LOG_LEVEL_ERROR
           : number >= 30 ? LOG_LEVEL_WARNING
           : number >= 20 ? LOG_LEVEL_INFO
           : number >= 10 ? LOG_LEVEL_DEBUG
                          : LOG_LEVEL_TRACE;
}

static PyObject *py_log_message(PyObject *self, PyObject *args)
{
    int level;
    const char *text;
    (void)self;
    if (!PyArg_ParseTuple(args, "is:log_message", &level, &text))
        return NULL;
    log_at(level_of(level), "%s", text);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    { "log_message", py_log_message, METH_VARARGS, "log_message(level, text): a line in the error log." },
    { "requests_served", py_requests_served, METH_NOARGS, "How many requests this worker has served." },
    { NULL, NULL, 0, NULL },
};

int hooks_add(PyObject *core)
{
    return PyModule_AddFunctions(core, functions);
}
