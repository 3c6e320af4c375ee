/* hooks: the configuration file's functions that are called at events of the server's life. licorne/hooks.py knows them and
 * what they are given; this tells it of the events, in the mold and in the workers. Without hooks nothing happens here.
 *
 * All functions may be called with or without the GIL, except hooks_wrap(). What a hook raises is logged. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "pyglue/detect.h"

struct settings;

/* The configuration file has run: looks whether it had hooks. False: failed. */
bool hooks_begin(const struct settings *settings);
/* There are some. */
bool hooks_any(void);

/* Calls `event` of licorne/hooks.py, if there are hooks; arguments as in Py_BuildValue, in parentheses. False: it raised. */
bool hooks_tell(const char *event, const char *format, ...);

/* The application inside what calls pre_request and post_request, or itself: a new reference, NULL with an exception.
 * `kind` becomes that of the result. */
PyObject *hooks_wrap(PyObject *application, enum application_kind *kind);

/* What server.LISTENERS is made from. */
void hooks_listen(const int *fds, size_t count);

/* Where worker.nr is counted. */
void hooks_count(const _Atomic uint64_t *requests);
