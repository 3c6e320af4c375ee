/* pyexit: how a process with an interpreter ends: as Python programs expect it, but in bounded time. */
#pragma once

#include <stdint.h>

/* Writes out what the application has printed. GIL held; errors are forgotten. */
void pyexit_flush(void);

/* Joins the application's non-daemon threads, runs its atexit handlers, flushes stdio, and exits without taking the
 * interpreter apart. What takes longer than `limit_ms` is cut short, with a warning. GIL held; main thread. */
_Noreturn void pyexit(int code, int64_t limit_ms);
