/* sources: where the application's modules were imported from, for the master to watch (--reload). */
#pragma once

#include "server/base/buf.h"

/* Folders of imported modules, a line each, without those of the interpreter and of what is installed. */
void sources_list(struct buf *text);
