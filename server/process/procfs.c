/* procfs: see procfs.h. */
#include "server/process/procfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX 16 /* described */

/* The beginning of /proc/<pid>/<name>, as text; its length or -1. */
static ssize_t read_text(pid_t pid, const char *name, char *text, size_t size)
{
    char path[96];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t len = read(fd, text, size - 1);
    close(fd);
    text[len > 0 ? len : 0] = '\0';
    return len;
}

int64_t procfs_rss(pid_t pid)
{
    char text[128];
    long long size, resident;
    if (read_text(pid, "statm", text, sizeof(text)) < 0 || sscanf(text, "%lld %lld", &size, &resident) != 2)
        return -1;
    return resident * sysconf(_SC_PAGESIZE);
}

bool procfs_name(pid_t pid, char *name, size_t size)
{
    return read_text(pid, "comm", name, size) > 0;
}

/* --- memory --------------------------------------------------------------------------------------------------------- */

/* "Pss:      1234 kB" in bytes; 0 if it is not there. */
static int64_t memory_field(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    return line ? strtoll(line + strlen(name), NULL, 10) * 1024 : 0;
}

bool procfs_memory(pid_t pid, struct procfs_memory *memory)
{
    char text[2048];
    if (read_text(pid, "smaps_rollup", text, sizeof(text)) <= 0)
        return false;
    memory->rss = memory_field(text, "\nRss:");
    memory->pss = memory_field(text, "\nPss:");
    memory->private = memory_field(text, "\nPrivate_Clean:") + memory_field(text, "\nPrivate_Dirty:");
    return true;
}

/* --- what a thread does ---------------------------------------------------------------------------------------------- */

static ssize_t read_thread(pid_t pid, const char *tid, const char *name, char *text, size_t size)
{
    char path[80];
    snprintf(path, sizeof(path), "task/%s/%s", tid, name);
    return read_text(pid, path, text, size);
}

static const char *state_name(char state)
{
    switch (state) {
    case 'R':
        return "runs";
    case 'S':
        return "sleeps";
    case 'D':
        return "sleeps uninterruptibly";
    case 'T':
    case 't':
        return "is stopped";
    default:
        return "is dead";
    }
}

/* The kernel's functions, innermost first: "hrtimer_nanosleep < common_nsleep < …"; its lines are "[<0>] name+0x1/0x2". */
static void put_kernel_stack(char *stack, struct buf *text)
{
    const char *between = ", stack: ";
    for (char *line, *rest = stack; (line = strsep(&rest, "\n")) != NULL;) {
        char *name = strchr(line, ']'), *end = name ? strchr(name, '+') : NULL;
        if (!end || strstr(line, "do_syscall") || strstr(line, "entry_SYSCALL"))
            continue; /* where every system call begins */
        buf_printf(text, "%s%.*s", between, (int)(end - name - 2), name + 2);
        between = " < ";
    }
}

/* Where it waits is told to whoever may trace it. */
static void describe_thread(pid_t pid, const char *tid, struct buf *text)
{
    char stat[512], wchan[64], call[160], stack[2048];
    if (read_thread(pid, tid, "stat", stat, sizeof(stat)) <= 0)
        return;
    const char *end = strrchr(stat, ')');
    buf_printf(text, "      thread %s %s", tid, state_name(end && end[1] ? end[2] : 'X'));
    if (read_thread(pid, tid, "wchan", wchan, sizeof(wchan)) > 0 && strcmp(wchan, "0") != 0)
        buf_printf(text, " in %s", wchan);
    if (read_thread(pid, tid, "syscall", call, sizeof(call)) > 0 && strchr("0123456789", call[0]))
        buf_printf(text, ", system call %d", atoi(call));
    if (read_thread(pid, tid, "stack", stack, sizeof(stack)) > 0)
        put_kernel_stack(stack, text);
    buf_append_str(text, STR("\n"));
}

static void describe_process(pid_t pid, struct buf *text)
{
    char status[4096];
    if (read_text(pid, "status", status, sizeof(status)) <= 0)
        return;
    buf_printf(text, "    process %d: %.1f MiB resident, %.1f MiB swapped, %lld threads\n", (int)pid,
               (double)memory_field(status, "\nVmRSS:") / 1048576, (double)memory_field(status, "\nVmSwap:") / 1048576,
               (long long)memory_field(status, "\nThreads:") / 1024);
}

void procfs_describe(pid_t pid, struct buf *text)
{
    char path[64];
    int left = THREADS_MAX;
    describe_process(pid, text);
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    for (struct dirent *entry; tasks && left > 0 && (entry = readdir(tasks)) != NULL; left -= entry->d_name[0] != '.')
        if (entry->d_name[0] != '.')
            describe_thread(pid, entry->d_name, text);
    if (tasks)
        closedir(tasks);
}
