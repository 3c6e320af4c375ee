/* leftover: see leftover.h. */
#include "pyglue/leftover.h"

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <sys/stat.h>

#include "server/base/log.h"

/* threading.enumerate(), but what is in `known`. New reference or NULL. */
static PyObject *new_threads(PyObject *known)
{
    PyObject *threading = PyImport_ImportModule("threading"), *found = PyList_New(0);
    PyObject *all = threading != NULL ? PyObject_CallMethod(threading, "enumerate", NULL) : NULL;
    for (Py_ssize_t i = 0; all != NULL && found != NULL && i < PyList_GET_SIZE(all); i++) {
        PyObject *thread = PyList_GET_ITEM(all, i); // borrowed
        if (PySequence_Contains(known, thread) == 0)
            PyList_Append(found, thread);
    }
    Py_XDECREF(all);
    Py_XDECREF(threading);
    return found;
}

static PyObject *main_thread_only(void)
{
    PyObject *threading = PyImport_ImportModule("threading");
    PyObject *thread = threading != NULL ? PyObject_CallMethod(threading, "main_thread", NULL) : NULL;
    PyObject *known = thread != NULL ? Py_BuildValue("[O]", thread) : NULL;
    Py_XDECREF(thread);
    Py_XDECREF(threading);
    return known;
}

/* "Thread-1 (poll), pool_0" */
static PyObject *names_of(PyObject *threads)
{
    PyObject *names = PyList_New(0), *comma = PyUnicode_FromString(", "), *text = NULL;
    for (Py_ssize_t i = 0; names != NULL && i < PyList_GET_SIZE(threads); i++) {
        PyObject *name = PyObject_GetAttrString(PyList_GET_ITEM(threads, i), "name");
        if (name != NULL)
            PyList_Append(names, name);
        Py_XDECREF(name);
    }
    if (names != NULL && comma != NULL)
        text = PyUnicode_Join(comma, names);
    Py_XDECREF(comma);
    Py_XDECREF(names);
    return text;
}

static void warn_of_pythons(PyObject *threads, const char *cause, const char *place)
{
    Py_ssize_t count = PyList_GET_SIZE(threads);
    PyObject *names = names_of(threads);
    const char *text = names != NULL ? PyUnicode_AsUTF8(names) : NULL;
    log_warning("%s left %zd thread%s running: %s. They do not exist in the workers: start them there, not %s", cause,
                count, count > 1 ? "s" : "", text != NULL ? text : "?", place);
    Py_XDECREF(names);
}

static long count_native(void)
{
    struct stat tasks;
    return stat("/proc/self/task", &tasks) == 0 ? (long)tasks.st_nlink - 2 : 1;
}

void leftover_warn(const char *cause, const char *place)
{
    static PyObject *known; /* as long as the process lives */
    static long natives = 1;
    if (known == NULL)
        known = main_thread_only();
    PyObject *threads = known != NULL ? new_threads(known) : NULL;
    Py_ssize_t count = threads != NULL ? PyList_GET_SIZE(threads) : 0;
    long now = count_native();
    if (count > 0)
        warn_of_pythons(threads, cause, place);
    else if (now > natives)
        log_warning("%s left %ld native thread%s running (a C library's): they do not exist in the workers", cause,
                    now - natives, now - natives > 1 ? "s" : "");
    natives = now;
    if (count > 0)
        PyList_SetSlice(known, PyList_GET_SIZE(known), PyList_GET_SIZE(known), threads);
    PyErr_Clear();
    Py_XDECREF(threads);
}
