/* capacity: see capacity.h. */
#include "server/process/capacity.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/base/mem.h"
#include "server/process/master.h"

#define MOST_CPUS 8192

static int64_t least(int64_t a, int64_t b)
{
    return a == 0 || (b > 0 && b < a) ? b : a;
}

/* --- the machine -------------------------------------------------------------------------------------------------- */

static int count_affinity(void)
{
    cpu_set_t *set = CPU_ALLOC(MOST_CPUS);
    size_t size = CPU_ALLOC_SIZE(MOST_CPUS);
    int count = set && sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    return count > 0 ? count : 1;
}

static int64_t machine_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (int64_t)pages * size : 0;
}

/* --- cgroups ------------------------------------------------------------------------------------------------------ */

/* The first line of a file in a cgroup's folder. False: there is none. */
static bool read_line(const char *root, const char *group, const char *name, char *line, int size)
{
    char *path = mem_printf("%s%s/%s", root, group, name);
    FILE *file = fopen(path, "re");
    bool good = file && fgets(line, size, file);
    if (file)
        fclose(file);
    free(path);
    return good;
}

/* "150000 100000", or "max 100000". 0: no limit. */
static int64_t quota_of(const char *root, const char *group)
{
    char line[64];
    long long quota, period;
    if (!read_line(root, group, "cpu.max", line, sizeof(line)) || sscanf(line, "%lld %lld", &quota, &period) != 2)
        return 0;
    return quota > 0 && period > 0 ? quota * 1000 / period : 0;
}

/* "1073741824", or "max". */
static int64_t memory_of(const char *root, const char *group)
{
    char line[64];
    long long bytes;
    if (!read_line(root, group, "memory.max", line, sizeof(line)) || sscanf(line, "%lld", &bytes) != 1)
        return 0;
    return bytes > 0 ? bytes : 0;
}

/* "0::/system.slice/app.service" is the line of version 2. "": none. */
static void find_group(const char *membership, char *group, int size)
{
    char line[PATH_MAX];
    FILE *file = fopen(membership, "re");
    *group = '\0';
    while (file && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::/", 4) == 0)
            snprintf(group, (size_t)size, "%s", line + 3);
    }
    if (file)
        fclose(file);
}

/* The process's own group and all that it is in; a limit of any of them holds. */
static void read_groups(struct capacity *capacity, const char *root, char *group)
{
    for (;;) {
        capacity->quota_milli = least(capacity->quota_milli, quota_of(root, group));
        capacity->memory_bytes = least(capacity->memory_bytes, memory_of(root, group));
        char *end = strrchr(group, '/');
        if (!end)
            return;
        *end = '\0';
    }
}

void capacity_read(struct capacity *capacity, const char *membership, const char *root)
{
    char group[PATH_MAX];
    *capacity = (struct capacity){ .affinity = count_affinity(), .memory_bytes = machine_memory() };
    find_group(membership, group, sizeof(group));
    read_groups(capacity, root, group);
}

/* --- the rule ----------------------------------------------------------------------------------------------------- */

int capacity_fit(const struct capacity *capacity, int64_t worker_bytes, struct buf *why)
{
    int64_t bytes = worker_bytes > 0 ? worker_bytes : CAPACITY_WORKER_BYTES;
    int64_t quota = (capacity->quota_milli + 999) / 1000, room = capacity->memory_bytes / bytes;
    int64_t workers = least(capacity->affinity, quota);
    if (quota > 0 && quota < capacity->affinity)
        buf_printf(why, "as cpu.max allows %.2f CPUs", (double)capacity->quota_milli / 1e3);
    else
        buf_printf(why, "as %d CPU%s can be used", capacity->affinity, capacity->affinity == 1 ? "" : "s");
    if (capacity->memory_bytes > 0 && room < workers) {
        workers = room > 0 ? room : 1;
        buf_printf(why, ", and %lld MiB of memory suffice for %lld of %lld MiB",
                   (long long)(capacity->memory_bytes >> 20), (long long)workers, (long long)(bytes >> 20));
    }
    return workers < WORKERS_MAX ? (int)workers : WORKERS_MAX;
}

static int proposed(void)
{
    const char *text = getenv("WEB_CONCURRENCY");
    char *end;
    long number = text ? strtol(text, &end, 10) : 0;
    return number >= 1 && number <= WORKERS_MAX && *end == '\0' ? (int)number : 0;
}

int capacity_workers(int64_t worker_bytes, struct buf *why)
{
    struct capacity capacity;
    int workers = proposed();
    if (workers > 0) {
        buf_append_str(why, STR("as $WEB_CONCURRENCY says"));
        return workers;
    }
    capacity_read(&capacity, "/proc/self/cgroup", "/sys/fs/cgroup");
    return capacity_fit(&capacity, worker_bytes, why);
}
