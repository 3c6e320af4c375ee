/* report: what a worker is at, told by the master: why it asks, the requests that the worker has, what the kernel says of
 * its threads, and their Python stacks, all in one message. Before a worker is killed, when a request lasts longer than
 * slow_request, and when `licorne ctl dump` asks.
 *
 *     report_begin ──DUMP_SIGNAL──> worker (pyglue/dump.c) ──CHANNEL_DUMP──> report_end
 *          └───────────────── or no answer within REPORT_MS ──────────────────────^
 *
 * All but the stacks is there without the worker's help. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/base/buf.h"
#include "server/base/str.h"

struct worker_handle;

#define REPORT_MS 2000 /* how long a worker may take to write its stacks */

enum report_kind {
    REPORT_ASKED, /* for `licorne ctl dump` alone */
    REPORT_SLOW,  /* into slowlog, else the error log */
    REPORT_KILL   /* into the error log; then the worker is killed */
};

struct report {
    enum report_kind kind;
    struct buf text;
    uint64_t due_ms;
};

/* At most one a worker at a time; the first line is printf's. */
void report_begin(struct worker_handle *worker, enum report_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The stacks are here (or empty): writes the report where it belongs and, if it was the last one, ends the worker.
 * worker->report is NULL afterwards; its text goes to `text`, if that is not NULL. */
void report_end(struct worker_handle *worker, struct str stacks, struct buf *text);

/* It is not to be finished any more. */
void report_drop(struct worker_handle *worker);

/* The worker will be killed, and its report says why: see report_begin(). Nothing happens if it is dying already. */
#define report_kill(worker, ...) report_begin((worker), REPORT_KILL, __VA_ARGS__)

/* The requests that it has, oldest first, a line each, at most so many; `title` (or NULL) stands before them. Nothing if there
 * are none. */
void report_requests(const struct worker_handle *worker, const char *title, uint32_t most, struct buf *text);
