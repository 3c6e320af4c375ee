/* source_watch: the files of the application during development (--reload): tells when one was changed, made, moved or
 * deleted, once it has been quiet for reload_delay. By inotify(7): nothing is looked at while nothing changes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/base/str.h"

struct settings;
struct source_watch;

/* Watches what the settings say; relative paths are those of the working directory. NULL: it cannot (logged). */
struct source_watch *source_watch_new(const struct settings *settings);
void source_watch_free(struct source_watch *watch);

/* Watches more folders, a line each, but not what is below them. */
void source_watch_add(struct source_watch *watch, struct str folders);

/* To be polled for reading; then source_watch_read() takes what there is. */
int source_watch_fd(const struct source_watch *watch);
void source_watch_read(struct source_watch *watch, uint64_t now_ms);
/* When a change is to be acted on; 0: there is none. */
uint64_t source_watch_due_ms(const struct source_watch *watch);
/* True once, when it is due: `*changed` names a file. */
bool source_watch_take(struct source_watch *watch, uint64_t now_ms, const char **changed);
/* Blocks until then. */
void source_watch_wait(struct source_watch *watch, const char **changed);
