/* settings: every setting of licorne, typed and validated; const once the server runs. The rows are in settings.def.
 *
 * A setting knows where its value came from. Sources override each other in this order:
 *
 *     default < config file < environment < command line
 *
 * Master and mold exchange settings as text (settings_to_text, settings_from_text); people read settings_print(). */
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
enum { PROTOCOL_HTTP, PROTOCOL_UWSGI };
enum { HEADER_MAP_DROP, HEADER_MAP_REFUSE, HEADER_MAP_DANGEROUS };

struct str_list {
    char **items;
    size_t count;
};

enum settings_source { SOURCE_DEFAULT, SOURCE_CONFIG_FILE, SOURCE_ENVIRONMENT, SOURCE_COMMAND_LINE };

#define BOOL(name, ...) bool name;
#define INT(name, ...) int64_t name;
#define COUNT(name, ...) int64_t name;
#define BYTES(name, ...) int64_t name;
#define SECONDS(name, ...) int64_t name##_ms;
#define STRING(name, ...) const char *name;
#define LIST(name, ...) struct str_list name;
#define CHOICE(name, ...) int name;
struct settings {
#include "config/settings.def"
    uint8_t *sources; /* enum settings_source, by row */
    char **origins;   /* by row: what set it, as `where` in settings_set(); NULL: nothing did */
    struct buf notes; /* lines for the log: what was accepted and has no effect; not part of the text form */
    struct buf warnings; /* the same, for what was probably meant otherwise */
};
#undef BOOL
#undef INT
#undef COUNT
#undef BYTES
#undef SECONDS
#undef STRING
#undef LIST
#undef CHOICE

/* Fills in the defaults. settings_done() gives all memory back. */
void settings_init(struct settings *settings);
void settings_done(struct settings *settings);

/* Sets one from text, unless its present value came from a stronger source. `value`: a LIST takes one item a call; NULL
 * is Python's None: no text, no items, otherwise the default. `where`: for messages, e.g. "--workers", "$PORT",
 * "gunicorn.conf.py:3". Returns false with a complete message appended to `errors` (one line, newline included):
 * unknown name (with the nearest one), or bad value (with what is allowed); a value that a stronger source overrides is
 * checked too. A LIST from a stronger source replaces, from the same one appends. `name` may also be gunicorn's
 * (wsgi_app) and, but for the config file, a long option with underscores (log_level). */
bool settings_set(struct settings *settings, const char *name, const char *value, enum settings_source source,
                  const char *where, struct buf *errors);
bool settings_known(const char *name);          /* in a config file */
const char *settings_nearest(const char *name); /* NULL: none is near */
/* Under which heading it is documented; `name` as for settings_set(). NULL: no such setting. */
const char *settings_group(const char *name);

/* Rules between settings, and what follows from them: host, port, uds and fd turn into bind. False with messages in
 * `errors`. */
bool settings_validate(struct settings *settings, struct buf *errors);

/* What is served, by its name: paste, else app; "" when there is none. */
const char *settings_application(const struct settings *settings);

/* What processes are called: proc_name, else the application. */
const char *settings_name(const struct settings *settings);

/* The error log goes to Python's logging rather than to its file. */
bool settings_log_to_python(const struct settings *settings);

/* There is an application to serve; false with a message that says how to name one. */
bool settings_has_app(const struct settings *settings, struct buf *errors);

/* The value as text; a LIST's items joined by ','; "" for none. Allocated with malloc; NULL: no such setting. */
char *settings_get(const struct settings *settings, const char *name);

/* The setting umask as a number; -1: not set. */
int settings_umask(const struct settings *settings);
/* What set it: "--workers", "gunicorn.conf.py:3", "default". Lives as long as the setting is not set again. */
const char *settings_origin(const struct settings *settings, const char *name);

/* For --print-config: a line a setting, "name = value  # origin"; pasted into a config file it sets the same. */
void settings_print(const struct settings *settings, struct buf *text);

/* All settings that a source of at least `least` has set, a line each (a LIST: a line an item), fields separated by
 * tabs and escaped: name, source's number, origin, value. What the platform proposed ($PORT: a default with an origin)
 * goes with the config file's. Reading it back replaces lists, so reading twice changes nothing. */
void settings_to_text(const struct settings *settings, enum settings_source least, struct buf *text);
bool settings_from_text(struct settings *settings, struct str text, struct buf *errors);
