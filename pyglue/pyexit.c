/* pyexit: see pyexit.h. The limit is kept by a thread that never takes the GIL: what hangs here hangs in Python. */
#include "pyglue/pyexit.h"

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "pyglue/pyerr.h"
#include "pyglue/pylog.h"

#define WATCHDOG_STACK_BYTES (128 * 1024)

#ifdef LICORNE_COUNTS /* built for coverage or for a profile: the counters are written at exit(), which is not called */
void __gcov_dump(void);
#else
#define __gcov_dump() (void)0
#endif

static struct {
    int code;
    int64_t limit_ms;
} ending;

static void *watch_the_end(void *arg)
{
    struct timespec left = { .tv_sec = ending.limit_ms / 1000, .tv_nsec = ending.limit_ms % 1000 * 1000000 };
    while (nanosleep(&left, &left) != 0) {
    }
    log_warning("Threads or atexit handlers of the application did not end within %.1f s: exiting without them",
                (double)ending.limit_ms / 1e3);
    _exit(ending.code);
    return arg;
}

static void start_watchdog(void)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, WATCHDOG_STACK_BYTES);
    if (pthread_create(&thread, &attributes, watch_the_end, NULL) != 0)
        log_warning("No thread can be started to bound the end of this process");
    pthread_attr_destroy(&attributes);
}

/* Only what the application has imported can have something to end. */
static void call_if_imported(const char *module_name, const char *function)
{
    PyObject *name = PyUnicode_FromString(module_name), *module = name != NULL ? PyImport_GetModule(name) : NULL;
    PyObject *result = module != NULL ? PyObject_CallMethod(module, function, NULL) : NULL;
    if (module != NULL && result == NULL)
        pyerr_log("An error while the process ended:");
    PyErr_Clear();
    Py_XDECREF(result);
    Py_XDECREF(module);
    Py_XDECREF(name);
}

static void flush(const char *stream)
{
    PyObject *file = PySys_GetObject(stream); // borrowed
    PyObject *result = file != NULL && file != Py_None ? PyObject_CallMethod(file, "flush", NULL) : NULL;
    PyErr_Clear();
    Py_XDECREF(result);
}

void pyexit_flush(void)
{
    flush("stdout");
    flush("stderr");
    fflush(NULL);
}

void pyexit(int code, int64_t limit_ms)
{
    ending.code = code;
    ending.limit_ms = limit_ms;
    PyErr_Clear();
    start_watchdog();
    call_if_imported("threading", "_shutdown");
    pylog_end();
    call_if_imported("atexit", "_run_exitfuncs"); /* logging.shutdown() among them */
    pyexit_flush();
    __gcov_dump();
    _exit(code);
}
