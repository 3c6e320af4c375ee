/* pylog: error log and access log into Python's logging, where the configuration asks for it (logconfig, syslog). The
 * Python side is licorne/_logging.py.
 *
 * In the mold a line is logged at once. In a worker lines may come from any thread, with the GIL or without, in the middle
 * of anything: they are queued, and a thread of Python's takes them out. A queue that is full refuses lines: those of the
 * error log then go to its file. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/base/buf.h"
#include "server/base/log.h"
#include "server/base/str.h"

struct settings;

/* The mold's, once the settings are known: configures logging. False: it cannot be, `message` says why. */
bool pylog_begin(const struct settings *settings, struct buf *message);
/* What the master is to do with its lines. */
enum log_sharing pylog_wants(void);
/* A line of the master's. */
void pylog_hear(int level, int pid, struct str text);
/* In the worker, once Python runs again after the fork. */
void pylog_forked(void);
/* What http_server_on_access() is given; NULL: nobody wants the access log. */
void (*pylog_access(void))(struct str atoms);
/* Waits until what was queued is logged. */
void pylog_end(void);
