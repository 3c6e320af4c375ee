/* line_file: see line_file.h. */
#include "server/base/line_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/mem.h"

#define KEEP_BYTES (64 * 1024)

static int open_path(const char *path)
{
    return strcmp(path, "-") == 0 ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                                  : open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

static void take_fd(struct line_file *file, int fd)
{
    struct stat st;
    file->fd = fd;
    file->is_regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

int line_file_open(struct line_file *file, const char *path)
{
    int fd = open_path(path);
    if (fd < 0)
        return -1;
    *file = (struct line_file){ .path = mem_strdup(path) };
    take_fd(file, fd);
    return 0;
}

void line_file_end(struct line_file *file, size_t start)
{
    if (!file->is_regular && buf_len(&file->lines) - start >= PIPE_BUF)
        file->lines.end = file->lines.start + start + PIPE_BUF - 1;
    buf_append(&file->lines, "\n", 1);
}

/* The largest run of whole lines that one write may take. */
static size_t batch_len(const struct line_file *file)
{
    size_t len = buf_len(&file->lines);
    if (file->is_regular || len <= PIPE_BUF)
        return len;
    const char *p = file->lines.data + file->lines.start, *end = memrchr(p, '\n', PIPE_BUF);
    return end ? (size_t)(end - p) + 1 : PIPE_BUF;
}

int line_file_flush(struct line_file *file)
{
    int result = 0;
    while (buf_len(&file->lines) > 0) {
        ssize_t n = write(file->fd, file->lines.data + file->lines.start, batch_len(file));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            result = -1;
            break;
        }
        buf_consume(&file->lines, (size_t)n);
    }
    buf_reset(&file->lines, KEEP_BYTES);
    return result;
}

int line_file_reopen(struct line_file *file)
{
    line_file_flush(file);
    int fd = open_path(file->path);
    if (fd < 0)
        return -1;
    close(file->fd);
    take_fd(file, fd);
    return 0;
}

void line_file_close(struct line_file *file)
{
    line_file_flush(file);
    close(file->fd);
    buf_done(&file->lines);
    free(file->path);
}
