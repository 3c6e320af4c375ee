/* procfs: see procfs.h. */
#include "server/process/procfs.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* The beginning of /proc/<pid>/<name>, as text; its length or -1. */
static ssize_t read_text(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];
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
