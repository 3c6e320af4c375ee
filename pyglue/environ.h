/* environ: the dictionary that a WSGI application gets (PEP 3333): a copy of a template for the listener, the
 * connection's REMOTE_ADDR and REMOTE_PORT, and what the request says. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

struct environ;
struct request;
struct wsgi;

/* NULL with an exception. `wsgi` outlives it. */
struct environ *environ_new(struct wsgi *wsgi);
void environ_free(struct environ *environ);

/* The environ of a request whose connection is there; a new dict, NULL with an exception. GIL held, inside the core. */
PyObject *environ_make(struct environ *environ, struct request *request, PyObject *input);
