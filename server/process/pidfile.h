/* pidfile: a file with the master's pid in it, for scripts. */
#pragma once

#include <stdbool.h>

#include "server/base/buf.h"

/* Writes it. False with a message in `errors`: another licorne lives whose pid is there, or it cannot be written. A pid
 * of a process that is gone, or is another program by now, is overwritten. */
bool pidfile_write(const char *path, struct buf *errors);
/* Removes it if it still names this process. NULL: does nothing. */
void pidfile_remove(const char *path);
