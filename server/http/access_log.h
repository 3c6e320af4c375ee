/* access_log: one line a request, in a format with gunicorn's atoms. The format is compiled once. Lines leave at the
 * end of the turn, together (base/line_file.h). */
#pragma once

#include <stdint.h>

#include "server/base/str.h"

struct access_log;
struct loop;
struct request;

/* `path`: "-" is standard output. NULL with errno when it cannot be opened. */
struct access_log *access_log_new(struct loop *loop, const char *path, const char *format);
/* One whose atoms go to `take` instead, at once: name, NUL, value, NUL for each of gunicorn's of one letter, for those in braces
 * that the format uses, and "client" (HOST:PORT). Values are escaped as in a line. */
struct access_log *access_log_new_for(void (*take)(struct str atoms), const char *format);
/* `request` is over and still has its connection. `ended_ns`: CLOCK_MONOTONIC. */
void access_log_add(struct access_log *log, struct request *request, uint64_t ended_ns);
/* Opens the file anew (log rotation); keeps the old one when that fails: -1 with errno. */
int access_log_reopen(struct access_log *log);
void access_log_free(struct access_log *log);
