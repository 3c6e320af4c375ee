/* settings: every setting of licorne, typed and validated; const once the server runs. The rows are in settings.def.
 *
 * A setting knows where its value came from. Sources override each other in this order:
 *
 *     default < config file < environment < command line
 *
 * Master and mold exchange settings as text (settings_to_text, settings_from_text): "name=value\n", newlines and
 * backslashes in values escaped, a list as one line an item. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/buf.h"
#include "server/base/log.h"
#include "server/base/str.h"

enum { INTERFACE_AUTO, INTERFACE_ASGI3, INTERFACE_ASGI2, INTERFACE_WSGI };
enum { LIFESPAN_AUTO, LIFESPAN_ON, LIFESPAN_OFF };
enum { MALLOC_JEMALLOC, MALLOC_SYSTEM };
enum { HEADER_MAP_DROP, HEADER_MAP_REFUSE, HEADER_MAP_DANGEROUS };

struct str_list {
    char **items;
    size_t count;
};

enum settings_source { SOURCE_DEFAULT, SOURCE_CONFIG_FILE, SOURCE_ENVIRONMENT, SOURCE_COMMAND_LINE };

#define BOOL(name, ...) bool name;
#define INT(name, ...) int64_t name;
#define BYTES(name, ...) int64_t name;
#define SECONDS(name, ...) int64_t name##_ms;
#define STRING(name, ...) const char *name;
#define LIST(name, ...) struct str_list name;
#define CHOICE(name, ...) int name;
struct settings {
#include "config/settings.def"
    uint8_t *sources; /* enum settings_source, by row */
};
#undef BOOL
#undef INT
#undef BYTES
#undef SECONDS
#undef STRING
#undef LIST
#undef CHOICE

/* Fills in the defaults. settings_done() gives all memory back. */
void settings_init(struct settings *settings);
void settings_done(struct settings *settings);

/* Sets one from text, unless its present value came from a stronger source. `where`: for messages, e.g. "--workers", "$PORT",
 * "gunicorn.conf.py:3". Returns false with a complete message appended to `errors` (one line, newline included): unknown name
 * (with the nearest one), or bad value (with what is allowed). A LIST from a stronger source replaces, from the same one appends. */
bool settings_set(struct settings *settings, const char *name, const char *value, enum settings_source source,
                  const char *where, struct buf *errors);
bool settings_known(const char *name);
const char *settings_nearest(const char *name); /* NULL: none is near */

/* Rules between settings, and what follows from them (host and port into bind, …). False with messages in `errors`. */
bool settings_validate(struct settings *settings, struct buf *errors);

/* The value as text, as settings_set() takes it; a LIST's items joined by ','. Allocated with malloc. */
char *settings_get(const struct settings *settings, const char *name);

/* All settings whose source is at least `least`, as text lines with their source's number:  "name\tsource\tvalue\n". */
void settings_to_text(const struct settings *settings, enum settings_source least, struct buf *text);
bool settings_from_text(struct settings *settings, struct str text, struct buf *errors);
