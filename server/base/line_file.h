/* line_file: a file of lines that several processes append to. Lines are gathered and written by one write(2); to a pipe, socket or
 * terminal by writes of at most PIPE_BUF, each of whole lines, so that no line is torn between processes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "server/base/buf.h"

struct line_file {
    char *path;
    int fd;
    bool is_regular;
    struct buf lines; /* not yet written; append here, then line_file_end() */
};

/* `path`: "-" is standard output. -1 with errno. */
int line_file_open(struct line_file *file, const char *path);
/* Ends the line that began at `start`, a former buf_len(&file->lines). Cuts it where it could not be written at once. */
void line_file_end(struct line_file *file, size_t start);
/* What cannot be written (a full disk, a pipe that nobody reads) is dropped: -1 with errno. */
int line_file_flush(struct line_file *file);
/* Flushes and opens the path anew; on failure the old file stays in use: -1 with errno. */
int line_file_reopen(struct line_file *file);
void line_file_close(struct line_file *file);
