/* pyerr: what becomes of a Python exception that reaches C: a traceback in the error log, and one line for a message.
 *
 * Tracebacks are the user's: frames of importlib and of licorne itself are left out. No function here leaves an
 * exception pending, whatever happens while it works. All need the GIL. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "server/base/log.h"

/* The pending exception, taken out of the thread: normalized, with its traceback. New reference; NULL: none was
 * pending. */
PyObject *pyerr_take(void);

/* Logs the pending exception as an error: the message, then the traceback, in one write; clears it. The message may be
 * NULL. Nothing pending: only the message is logged. */
void pyerr_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same for an exception that was taken (borrowed), at any level. */
void pyerr_log_exception(enum log_level level, PyObject *exception, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "ValueError: no such table (shop/models.py:12)": type, text, and where in the user's code it was raised; one line.
 * Allocated with malloc, never NULL. */
char *pyerr_line(PyObject *exception);
