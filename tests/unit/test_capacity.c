/* How many workers fit, by cgroups that lie in a folder of the test's own. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/process/capacity.h"
#include "tests/unit/check.h"

#define MIB (INT64_C(1) << 20)

static char root[40], membership[64];

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        abort();
}

static void write_in(const char *group, const char *name, const char *text)
{
    char path[200];
    snprintf(path, sizeof(path), "%s%s/%s", root, group, name);
    write_file(path, text);
}

/* The process is in /a/b. */
static void set_up(void)
{
    char path[200];
    snprintf(root, sizeof(root), "/tmp/licorne-capacity-XXXXXX");
    if (!mkdtemp(root))
        abort();
    snprintf(path, sizeof(path), "%s/a", root);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/a/b", root);
    mkdir(path, 0700);
    snprintf(membership, sizeof(membership), "%s/membership", root);
    write_file(membership, "12:cpu:/elsewhere\n0::/a/b\n");
}

static void tear_down(void)
{
    char command[100];
    snprintf(command, sizeof(command), "rm -rf %s", root);
    if (system(command) != 0)
        abort();
}

static struct capacity seen(void)
{
    struct capacity capacity;
    capacity_read(&capacity, membership, root);
    return capacity;
}

static void without_limits_the_machine_counts(void)
{
    cpu_set_t set;
    set_up();
    struct capacity capacity = seen();
    sched_getaffinity(0, sizeof(set), &set);
    CHECK_INT(capacity.affinity, CPU_COUNT(&set));
    CHECK_INT(capacity.quota_milli, 0);
    CHECK(capacity.memory_bytes >= 64 * MIB);
    tear_down();
}

static void the_strictest_limit_up_to_the_root_holds(void)
{
    set_up();
    write_in("/a/b", "cpu.max", "max 100000\n");
    write_in("/a", "cpu.max", "150000 100000\n");
    write_in("/a/b", "memory.max", "33554432\n");
    write_in("/a", "memory.max", "max\n");
    CHECK_INT(seen().quota_milli, 1500);
    CHECK_INT(seen().memory_bytes, 32 * MIB);
    write_in("", "cpu.max", "50000 100000\n");
    CHECK_INT(seen().quota_milli, 500);
    tear_down();
}

static void nonsense_is_no_limit(void)
{
    set_up();
    write_in("/a/b", "cpu.max", "-1\n");
    write_in("/a", "cpu.max", "");
    write_in("", "cpu.max", "100000 0\n");
    write_in("/a", "memory.max", "-5\n");
    CHECK_INT(seen().quota_milli, 0);
    CHECK(seen().memory_bytes >= 64 * MIB);
    write_file(membership, "");
    CHECK_INT(seen().quota_milli, 0);
    tear_down();
}

static int fit(int affinity, int64_t quota_milli, int64_t memory_bytes, int64_t worker_bytes)
{
    struct buf why = { 0 };
    int workers = capacity_fit(&(struct capacity){ affinity, quota_milli, memory_bytes }, worker_bytes, &why);
    buf_done(&why);
    return workers;
}

static void the_least_of_them_decides(void)
{
    CHECK_INT(fit(8, 0, 64 * 1024 * MIB, 0), 8);
    CHECK_INT(fit(8, 1500, 64 * 1024 * MIB, 0), 2);
    CHECK_INT(fit(8, 200, 64 * 1024 * MIB, 0), 1);
    CHECK_INT(fit(2, 16000, 64 * 1024 * MIB, 0), 2);
    CHECK_INT(fit(8, 0, 512 * MIB, 0), 4);
    CHECK_INT(fit(8, 0, 512 * MIB, 200 * MIB), 2);
    CHECK_INT(fit(8, 0, 64 * MIB, 0), 1);
    CHECK_INT(fit(4000, 0, 0, 0), 1024);
}

CHECK_MAIN(TEST(without_limits_the_machine_counts), TEST(the_strictest_limit_up_to_the_root_holds),
           TEST(nonsense_is_no_limit), TEST(the_least_of_them_decides))
