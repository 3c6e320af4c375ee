/* procfs: what the kernel tells about another process. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

/* Resident memory in bytes, shared pages included; -1: there is no such process. */
int64_t procfs_rss(pid_t pid);
