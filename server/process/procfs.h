/* procfs: what the kernel tells about another process. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Resident memory in bytes, shared pages included; -1: there is no such process. */
int64_t procfs_rss(pid_t pid);
/* The program's name, as the kernel knows it (15 characters at most). False: there is no such process. */
bool procfs_name(pid_t pid, char *name, size_t size);
