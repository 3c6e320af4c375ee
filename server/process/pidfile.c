/* pidfile: see pidfile.h. */
#include "server/process/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/mem.h"
#include "server/process/procfs.h"

/* 0: there is none to be read. */
static pid_t read_pid(const char *path)
{
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return 0;
    ssize_t len = read(fd, text, sizeof(text) - 1);
    close(fd);
    long pid = len > 0 ? strtol(text, NULL, 10) : 0;
    return pid > 0 ? (pid_t)pid : 0;
}

/* Pids come round: the same program must run under it. */
static bool is_alive(pid_t pid)
{
    char ours[64], theirs[64];
    return pid > 0 && pid != getpid() && procfs_name(getpid(), ours, sizeof(ours)) &&
           procfs_name(pid, theirs, sizeof(theirs)) && strcmp(ours, theirs) == 0;
}

static int write_to(const char *path)
{
    char text[32];
    int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, text, (size_t)len);
    fchmod(fd, 0644);
    close(fd);
    return written == len ? 0 : -1;
}

/* Whoever reads it finds the old or the new one, never half of it. */
static int replace(const char *path)
{
    char *beside = mem_printf("%s.%d", path, (int)getpid());
    int outcome = write_to(beside) == 0 ? rename(beside, path) : -1, error = errno;
    if (outcome != 0)
        unlink(beside);
    free(beside);
    errno = error;
    return outcome;
}

bool pidfile_write(const char *path, struct buf *errors)
{
    pid_t pid = read_pid(path);
    if (is_alive(pid)) {
        buf_printf(errors,
                   "Already running: process %d is named by the pidfile %s. Stop it, or choose another pidfile\n",
                   (int)pid, path);
        return false;
    }
    if (replace(path) == 0)
        return true;
    buf_printf(errors, "Cannot write the pidfile %s: %s\n", path, strerror(errno));
    return false;
}

void pidfile_remove(const char *path)
{
    if (path && read_pid(path) == getpid())
        unlink(path);
}
