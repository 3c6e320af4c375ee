/* embed_log: where the core's lines go while it serves in the caller's process: into Python's logging, at once, in the thread where
 * they come up (licorne/_embed_log.py). From log_embed() to log_leave(), functions of licorne._core, which count. In licorne's own
 * processes nothing changes: there pylog.h sees to it. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "server/base/log.h"
#include "server/base/str.h"

/* For http_server_on_access(), with ACCESS_ATOMS. */
void embed_log_access(struct str facts);
/* True: it is logged, as `message` with the exception as exc_info. Nothing is pending afterwards. */
bool embed_log_exception(enum log_level level, const char *message, PyObject *exception);
