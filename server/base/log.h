/* log: the error log. One line a message, in gunicorn's form, written by a single write(2) so that lines of
 * several processes never mix:
 *
 *     [2026-11-21 15:41:00 +0000] [4711] [INFO] Listening at: http://127.0.0.1:8000
 *
 * Control bytes in the message are escaped (\x1b), embedded newlines excepted: a traceback keeps its lines.
 * Callable from any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/base/str.h"

/* In the order of gunicorn's names; `trace` is uvicorn's. */
enum log_level { LOG_LEVEL_TRACE, LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARNING, LOG_LEVEL_ERROR, LOG_LEVEL_CRITICAL };

/* `path`: a file, "-" or NULL for stderr. Returns -1 with errno when the file cannot be opened. */
int log_open(const char *path, enum log_level level);
int log_reopen(void);
void log_set_threshold(enum log_level level);

/* Whether lines are in colour: when the file is a terminal, unless $NO_COLOR or $FORCE_COLOR say otherwise; always; never. */
enum log_colours { LOG_COLOURS_AUTO, LOG_COLOURS_ALWAYS, LOG_COLOURS_NEVER };
void log_set_colours(enum log_colours colours);
/* For who writes to `fd` himself. */
bool log_has_colours(int fd);
/* From now on standard output and standard error are the log's file too, also after it was reopened. */
void log_capture(void);
/* What somebody else does with log lines: nothing, or write them instead of the error log, or beside it. */
enum log_sharing { LOG_ALONE, LOG_INSTEAD, LOG_BESIDE };

/* From now on messages go there first (from any thread; escaped, without the prefix); true: the file need not have them.
 * NULL: to the file alone. */
void log_set_sink(bool (*sink)(enum log_level level, const char *message));
/* Told of each message that is logged, from any thread; NULL: nobody. */
void log_set_counter(void (*counter)(enum log_level level, const char *message));
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What is known of a line that others write. */
struct log_line {
    int32_t level, pid;
    double when;  /* seconds since the epoch */
    bool written; /* the error log's file has it already */
};

/* Past the sink: a line whose way has led through Python. `level`: -1: without the prefix. */
void log_put(int level, int pid, struct str text);

/* A message of any length, by one write, to `fd` (-1: the error log). */
void log_block(int fd, enum log_level level, struct str text);

extern enum log_level log_least; /* log_set_threshold() sets it */

static inline enum log_level log_threshold(void)
{
    return log_least;
}

static inline bool log_enabled(enum log_level level)
{
    return level >= log_least;
}

#define log_at(level, ...) (log_enabled(level) ? log_write((level), __VA_ARGS__) : (void)0)
#define log_trace(...) log_at(LOG_LEVEL_TRACE, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)
#define log_info(...) log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_error(...) log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_critical(...) log_at(LOG_LEVEL_CRITICAL, __VA_ARGS__)

/* Logs at critical and aborts: only before the first accept, or on a broken invariant. */
_Noreturn void log_fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));
