/* names: Python strings and bytes made once: interned keys, event types, and the bytes of well-known header names.
 * The rows are in names.def. One interpreter a process: the table is not in the module's state. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "server/base/str.h"

/* Every NAME row; borrowed by whoever reads it. */
struct names {
#define NAME(id, text) PyObject *id;
#include "pyglue/names.def"
};
extern struct names names;

/* bytes object for a lower-case header name: the shared one if it is well known, else new. New reference, NULL with an
 * exception. */
PyObject *names_header(struct str lower_case_name);
/* "HTTP_ACCEPT" for "accept", "CONTENT_TYPE" for "content-type": str, shared if well known. New reference. */
PyObject *names_environ(struct str lower_case_name);
/* "GET" …: str, shared if well known. New reference. */
PyObject *names_method(struct str method);
