/* pylog: error log and access log into Python's logging, where the configuration or the application asks for it. The Python
 * side is licorne/_logging.py, which says who that is.
 *
 * In the mold a line is logged at once. In a worker lines may come from any thread, with the GIL or without, in the middle
 * of anything: they are queued, and a thread of Python's takes them out. A queue that is full refuses lines: those of the
 * error log then go to its file. What Python has for the server's own logs comes back by log_put() and a file of its own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/base/buf.h"
#include "server/base/log.h"
#include "server/base/str.h"

struct settings;

/* The mold's, once the settings are known: configures logging. False: it cannot be, `message` says why. */
bool pylog_begin(const struct settings *settings, struct buf *message);
/* It has begun: this is a process of licorne's own. */
bool pylog_is_there(void);
/* The application has been loaded, or has started: it may have changed something. */
void pylog_look(void);
/* What the master is to do with its lines. */
enum log_sharing pylog_wants(void);
/* A line of the master's. */
void pylog_hear(const struct log_line *line, struct str text);
/* In the worker, once Python runs again after the fork. */
void pylog_forked(void);
/* What takes the accesses; NULL: nobody wants them. In the worker, when nothing changes any more. */
void (*pylog_access(void))(struct str facts);
/* They are wanted as they are, not as atoms. */
bool pylog_access_raw(void);
/* The server itself writes no access log. */
bool pylog_owns_access(void);
/* The files were moved away. */
void pylog_reopen(void);
/* Waits until what was queued is logged. */
void pylog_end(void);
