/* detect: what a callable speaks, told by its shape alone: nothing is called. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

enum application_kind { APPLICATION_WSGI, APPLICATION_ASGI2, APPLICATION_ASGI3 };

/* Needs the GIL; leaves no exception pending. */
enum application_kind application_kind(PyObject *callable);
const char *application_kind_name(enum application_kind kind); /* "ASGI", "ASGI 2", "WSGI" */
