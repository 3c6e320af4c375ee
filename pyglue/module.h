/* module: the extension module `licorne._core`. Each noun adds its types and functions to it by one function here;
 * module.c calls them in turn. 0, or -1 with an exception. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

int names_add(PyObject *module);   /* names.c: interned strings, known header names */
int aioloop_add(PyObject *module); /* aioloop.c: LoopBase */
int deadline_add(PyObject *module); /* deadline.c: Deadline, RequestTimeout */
int asgi_add(PyObject *module);    /* asgi_http.c, asgi_lifespan.c: their types */
int wsgi_add(PyObject *module);    /* wsgi.c, wsgi_input.c: their types */
int detect_add(PyObject *module);  /* detect.c: application_kind() */
int mold_add(PyObject *module);    /* mold.c: mold() */
int hooks_add(PyObject *module);   /* hooks.c: log_message(), requests_served() */
int pylog_add(PyObject *module);   /* pylog.c: log_take(), log_close() */
int embed_log_add(PyObject *module); /* embed_log.c: log_embed(), log_leave() */
int embed_add(PyObject *module);   /* embed.c: HttpServer */
