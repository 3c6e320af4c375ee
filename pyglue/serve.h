/* serve: one worker's life, from the fork to the exit: composes the process side (server/process/worker.h), the HTTP
 * side (server/http/http_server.h) and the application (pyglue/runtime.h). */
#pragma once

#include "pyglue/load.h"

struct inherit;

/* The worker, after worker_hello(): loads the application unless it is loaded, serves, and exits the process. GIL held.
 */
_Noreturn void serve(struct inherit *inherit, struct application *application);

/* Loads what the settings name; see application_load(). */
struct settings;
bool serve_load(struct application *application, const struct settings *settings, struct buf *message);
