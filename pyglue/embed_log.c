/* embed_log: see embed_log.h. */
#include "pyglue/embed_log.h"

#include "pyglue/module.h"
#include "pyglue/pyerr.h"
#include "pyglue/pylog.h"

static PyObject *module; /* licorne._embed_log; NULL: nobody serves */
static int servers;
static enum log_level threshold_before;
static _Thread_local bool is_logging; /* what logging itself says goes to the file */

/* Steals `result`; true: there was one. */
static bool logged(PyObject *result)
{
    if (result == NULL)
        pyerr_log("Logging failed:");
    Py_XDECREF(result);
    return result != NULL;
}

static bool on_line(enum log_level level, const char *message)
{
    if (is_logging || !PyGILState_Check() || PyErr_Occurred() || module == NULL)
        return false;
    is_logging = true;
    PyObject *text = PyUnicode_DecodeUTF8(message, (Py_ssize_t)strlen(message), "backslashreplace");
    bool done = logged(text != NULL ? PyObject_CallMethod(module, "emit", "iO", (int)level, text) : NULL);
    Py_XDECREF(text);
    is_logging = false;
    return done;
}

bool embed_log_exception(enum log_level level, const char *message, PyObject *exception)
{
    if (module == NULL || is_logging || !log_enabled(level))
        return false;
    is_logging = true;
    bool done = logged(PyObject_CallMethod(module, "emit_exception", "isO", (int)level, message, exception));
    is_logging = false;
    return done;
}

/* In the middle of the core's work: an exception may be pending. */
void embed_log_access(struct str facts)
{
    PyObject *pending = pyerr_take();
    if (module != NULL)
        logged(PyObject_CallMethod(module, "emit_access", "y#", facts.p, (Py_ssize_t)facts.len));
    if (pending != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(pending), pending);
    Py_XDECREF(pending);
}

/* level() answers the index of the least level that counts. 0, or -1 with an exception. */
static int begin(void)
{
    PyObject *python = PyImport_ImportModule("licorne._embed_log");
    PyObject *answer = python != NULL ? PyObject_CallMethod(python, "level", NULL) : NULL;
    int level = answer != NULL ? (int)PyLong_AsLong(answer) : -1;
    Py_XDECREF(answer);
    if (PyErr_Occurred()) {
        Py_XDECREF(python);
        return -1;
    }
    if (module == NULL)
        threshold_before = log_threshold();
    Py_XSETREF(module, python);
    log_set_threshold((enum log_level)level);
    log_set_sink(on_line);
    return 0;
}

static PyObject *py_log_embed(PyObject *self, PyObject *nothing)
{
    (void)self, (void)nothing;
    if (!pylog_is_there() && begin() < 0)
        return NULL;
    servers++;
    Py_RETURN_NONE;
}

static PyObject *py_log_leave(PyObject *self, PyObject *nothing)
{
    (void)self, (void)nothing;
    if (servers > 0)
        servers--;
    if (servers == 0 && module != NULL) {
        log_set_sink(NULL);
        log_set_threshold(threshold_before);
        Py_CLEAR(module);
    }
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    { "log_embed", py_log_embed, METH_NOARGS, "From now on the core's lines go to Python's logging, where they come up." },
    { "log_leave", py_log_leave, METH_NOARGS, "Ends one log_embed()." },
    { NULL, NULL, 0, NULL },
};

int embed_log_add(PyObject *core)
{
    return PyModule_AddFunctions(core, functions);
}
