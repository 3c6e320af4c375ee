/* procfs: what the kernel tells about another process. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "server/base/buf.h"

/* Resident memory in bytes, shared pages included; -1: there is no such process. */
int64_t procfs_rss(pid_t pid);
/* The program's name, as the kernel knows it (15 characters at most). False: there is no such process. */
/* Resident, proportional and private memory in bytes, all pages walked: for a question, not for the clock. */
struct procfs_memory {
    int64_t rss, pss, private;
};
bool procfs_memory(pid_t pid, struct procfs_memory *memory);
/* What the kernel says of it and its threads: state, what it waits in, and the system call and the kernel's stack where that
 * may be seen. Lines, indented; nothing if there is no such process. */
void procfs_describe(pid_t pid, struct buf *text);
bool procfs_name(pid_t pid, char *name, size_t size);
