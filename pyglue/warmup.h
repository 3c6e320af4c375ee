/* warmup: runs what the setting `warmup` lists through the application, once, before anything is served: in the mold,
 * before its heap is frozen, or in a worker that loads the application itself, before its event loop is made. The work
 * is done in licorne/_warmup.py, with an asyncio loop of its own of which nothing stays. */
#pragma once

#include "pyglue/load.h"

struct settings;

/* True if all went well, or there is nothing to do. Otherwise one line in `message`; an exception of the user's code
 * has been logged with its traceback. GIL held; no exception is left pending. */
bool warm_up(const struct application *application, const struct settings *settings, struct buf *message);
