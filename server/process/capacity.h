/* capacity: how many workers this process has room for: `workers = auto`. */
#pragma once

#include <stdint.h>

#include "server/base/buf.h"

#define CAPACITY_WORKER_BYTES (INT64_C(128) * 1024 * 1024) /* what a worker is taken to need, where nothing says so */

/* What the machine and the process's cgroups (version 2) allow. */
struct capacity {
    int affinity;         /* CPUs on which it may run */
    int64_t quota_milli;  /* cpu.max, thousandths of a CPU: the least one up to the root; 0: none */
    int64_t memory_bytes; /* memory.max, likewise, or the machine's memory where that is less */
};

/* `membership`: as /proc/self/cgroup; `root`: where cgroup2 is mounted. */
void capacity_read(struct capacity *capacity, const char *membership, const char *root);
/* At least 1; appends to `why` what it follows from. */
int capacity_fit(const struct capacity *capacity, int64_t worker_bytes, struct buf *why);

/* What $WEB_CONCURRENCY says, else what fits. `worker_bytes`: 0: CAPACITY_WORKER_BYTES. */
int capacity_workers(int64_t worker_bytes, struct buf *why);
