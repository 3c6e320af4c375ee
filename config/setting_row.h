/* setting_row: settings.def as data: what one setting is called, may be, and means. Values live in settings.h. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/buf.h"
#include "server/base/str.h"

enum setting_kind {
    SETTING_BOOL,
    SETTING_INT,
    SETTING_COUNT, /* an INT, or auto: 0 */
    SETTING_BYTES,
    SETTING_SECONDS, /* in milliseconds */
    SETTING_STRING,
    SETTING_LIST,
    SETTING_CHOICE, /* the index of the choice */
};

/* What the text of a STRING names: for completion, and for people. */
enum setting_text { TEXT_ANY, TEXT_PATH, TEXT_FOLDER, TEXT_SECRET };

struct setting_row {
    const char *name;
    enum setting_kind kind;
    enum setting_text names;
    size_t offset;              /* of the member in struct settings */
    const char *fallback_text;  /* STRING (may be NULL), LIST (comma separated) */
    int64_t fallback, min, max; /* the other kinds */
    const char *choices;        /* CHOICE: separated by '|' */
    const char *unit;           /* of a number; "" for the others */
    const char *spellings, *variables, *group, *since, *text;
};

extern const struct setting_row setting_rows[];
extern const size_t setting_row_count;

/* By its name, or by gunicorn's where that differs. NULL: no such setting. */
const struct setting_row *setting_row_find(const char *name);
/* By a long option written with underscores: "access_logfile" is accesslog. */
const struct setting_row *setting_row_find_by_option(const char *name);
/* The one that was probably meant, or NULL. */
const struct setting_row *setting_row_nearest(const char *name);

/* Takes the next word off a list separated by `separator`; false at its end. */
bool setting_row_word(const char **list, char separator, struct str *word);

/* Text into the number of a BOOL, INT, BYTES, SECONDS or CHOICE, within its limits; false: not allowed. */
bool setting_row_parse(const struct setting_row *row, const char *text, int64_t *number);
bool setting_row_parse_bool(const char *text, bool *value);
/* The inverse: the text that setting_row_parse() takes. */
void setting_row_format(const struct setting_row *row, int64_t number, struct buf *text);
/* What is allowed, as in "must be ...". */
void setting_row_allowed(const struct setting_row *row, struct buf *text);
/* The choice that was probably meant by a refused value; false: none. */
bool setting_row_nearest_choice(const struct setting_row *row, const char *value, struct str *choice);
/* The default for people: "" when there is none. */
void setting_row_default(const struct setting_row *row, struct buf *text);
