/* warmup: see warmup.h. */
#include "pyglue/warmup.h"

#include <stdlib.h>

#include "config/settings.h"
#include "pyglue/pyerr.h"

static int asgi_version(enum application_kind kind)
{
    return kind == APPLICATION_WSGI ? 0 : kind == APPLICATION_ASGI2 ? 2 : 3;
}

static void tell_failure(const char *item, struct buf *message)
{
    PyObject *exception = pyerr_take();
    char *line = pyerr_line(exception);
    pyerr_log_exception(LOG_LEVEL_ERROR, exception, "The warm-up failed, at %s:", item);
    buf_printf(message, "The warm-up failed (--warmup): %s: %s\n", item, line);
    free(line);
    Py_DECREF(exception);
}

static bool run_item(PyObject *module, const char *item, const struct application *application,
                     const struct settings *settings, struct buf *message)
{
    PyObject *note = PyObject_CallMethod(module, "run", "sOis", item, application->callable,
                                         asgi_version(application->kind), settings->root_path);
    const char *text = note != NULL && note != Py_None ? PyUnicode_AsUTF8(note) : NULL;
    if (text != NULL)
        log_warning("Warm-up: %s %s", item, text);
    if (PyErr_Occurred())
        tell_failure(item, message);
    bool good = note != NULL;
    Py_XDECREF(note);
    return good;
}

static void settle(PyObject *module)
{
    PyObject *result = PyObject_CallMethod(module, "settle", NULL);
    if (result == NULL)
        pyerr_log("The warm-up's threads cannot be waited for:");
    Py_XDECREF(result);
}

bool warm_up(const struct application *application, const struct settings *settings, struct buf *message)
{
    if (settings->warmup.count == 0)
        return true;
    PyObject *module = PyImport_ImportModule("licorne._warmup");
    bool good = module != NULL;
    if (!good)
        tell_failure("licorne", message);
    for (size_t i = 0; good && i < settings->warmup.count; i++)
        good = run_item(module, settings->warmup.items[i], application, settings, message);
    if (good)
        settle(module);
    Py_XDECREF(module);
    return good;
}
