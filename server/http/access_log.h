/* access_log: one line a request, in a format with gunicorn's atoms. The format is compiled once. Lines leave at the
 * end of the turn, together (base/line_file.h). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/base/str.h"

struct access_log;
struct loop;
struct request;

/* `path`: "-" is standard output. NULL with errno when it cannot be opened. */
struct access_log *access_log_new(struct loop *loop, const char *path, const char *format);
/* What somebody else makes lines from: name, NUL, value, NUL for each fact. */
enum access_facts {
    ACCESS_ATOMS, /* gunicorn's of one letter; {name}i and {name}o of all header fields; "client" (HOST:PORT); escaped as in a line */
    ACCESS_LINE,  /* and "line" */
    ACCESS_ALL,   /* as it is: method, path, query, target, minor (version), scheme, host, port, status (with its phrase),
                     sent, micros; then <name and >name of all header fields */
};
/* One whose facts go to `take` instead, at once. `colours`: for "line". */
struct access_log *access_log_new_for(void (*take)(struct str facts), enum access_facts facts, const char *format,
                                      bool colours);
/* `request` is over and still has its connection. `ended_ns`: CLOCK_MONOTONIC. */
void access_log_add(struct access_log *log, struct request *request, uint64_t ended_ns);
/* Opens the file anew (log rotation); keeps the old one when that fails: -1 with errno. */
int access_log_reopen(struct access_log *log);
void access_log_free(struct access_log *log);
