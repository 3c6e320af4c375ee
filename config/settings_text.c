/* settings_text: all settings together as text: for the other process (to_text, from_text) and for people (print). */
#include <stdlib.h>
#include <string.h>

#include "config/setting_row.h"
#include "config/settings.h"
#include "server/base/mem.h"

enum { FIELDS = 4 }; /* name, source, origin, value */

static const char none[] = "\\N"; /* a value that is None; a text of these two letters is escaped */

static void append_escaped(struct buf *text, const char *value)
{
    for (; *value; value++)
        switch (*value) {
        case '\\':
            buf_append_str(text, STR("\\\\"));
            break;
        case '\n':
            buf_append_str(text, STR("\\n"));
            break;
        case '\t':
            buf_append_str(text, STR("\\t"));
            break;
        default:
            buf_append(text, value, 1);
        }
}

static char unescaped(char c)
{
    return c == 'n' ? '\n' : c == 't' ? '\t' : c;
}

/* A field in place, NUL-terminated; NULL for None. */
static char *unescape(char *field)
{
    char *out = field;
    if (strcmp(field, none) == 0)
        return NULL;
    for (const char *in = field; *in; in++)
        if (*in == '\\' && in[1])
            *out++ = unescaped(*++in);
        else
            *out++ = *in;
    *out = 0;
    return field;
}

/* --- To the other process */

static void append_line(const struct settings *settings, size_t i, const char *value, struct buf *text)
{
    buf_printf(text, "%s\t%d\t", setting_rows[i].name, settings->sources[i]);
    append_escaped(text, settings->origins[i]);
    buf_append_str(text, STR("\t"));
    if (value)
        append_escaped(text, value);
    else
        buf_append_str(text, str_from(none));
    buf_append_str(text, STR("\n"));
}

static void append_list(const struct settings *settings, size_t i, struct buf *text)
{
    const struct str_list *list = (const void *)((const char *)settings + setting_rows[i].offset);
    for (size_t item = 0; item < list->count; item++)
        append_line(settings, i, list->items[item], text);
    if (list->count == 0)
        append_line(settings, i, NULL, text);
}

static bool is_none(const struct settings *settings, const struct setting_row *row)
{
    return row->kind == SETTING_STRING && !*(char *const *)((const char *)settings + row->offset);
}

static void append_row(const struct settings *settings, size_t i, struct buf *text)
{
    const struct setting_row *row = &setting_rows[i];
    if (row->kind == SETTING_LIST) {
        append_list(settings, i, text);
        return;
    }
    char *value = is_none(settings, row) ? NULL : settings_get(settings, row->name);
    append_line(settings, i, value, text);
    free(value);
}

void settings_to_text(const struct settings *settings, enum settings_source least, struct buf *text)
{
    bool all = least <= SOURCE_CONFIG_FILE;
    for (size_t i = 0; i < setting_row_count; i++)
        if (settings->origins[i] && (all || settings->sources[i] >= least))
            append_row(settings, i, text);
}

/* --- From the other process */

/* Splits a line at its tabs; false: not FIELDS of them. */
static bool split(char *line, char *fields[FIELDS])
{
    for (int i = 0; i < FIELDS; i++) {
        fields[i] = line;
        line = line ? strchr(line, '\t') : NULL;
        if (!line)
            return i == FIELDS - 1;
        *line++ = 0;
    }
    return false;
}

/* The first line about a list replaces what is there, the others append: the list loses its origin, and so its items.
 */
static void forget_list(struct settings *settings, const char *name, enum settings_source source, bool *seen)
{
    const struct setting_row *row = setting_row_find(name);
    size_t i = row ? (size_t)(row - setting_rows) : 0;
    if (!row || row->kind != SETTING_LIST || seen[i])
        return;
    seen[i] = true;
    if (settings->sources[i] > source)
        return;
    settings->sources[i] = SOURCE_DEFAULT;
    free(settings->origins[i]);
    settings->origins[i] = NULL;
}

static bool set_line(struct settings *settings, char *line, bool *seen, struct buf *errors)
{
    char *fields[FIELDS];
    if (!split(line, fields) || fields[1][0] < '0' || fields[1][0] > '0' + SOURCE_COMMAND_LINE || fields[1][1]) {
        buf_append_str(
            errors, STR("a line of settings from another process is malformed: are two versions of licorne mixed?\n"));
        return false;
    }
    enum settings_source source = (enum settings_source)(fields[1][0] - '0');
    const char *origin = unescape(fields[2]);
    forget_list(settings, fields[0], source, seen);
    return settings_set(settings, fields[0], unescape(fields[3]), source, origin ? origin : "?", errors);
}

bool settings_from_text(struct settings *settings, struct str text, struct buf *errors)
{
    bool good = true, *seen = mem_zalloc(setting_row_count * sizeof(*seen));
    char *copy = mem_strndup(text.len ? text.p : "", text.len), *rest = copy, *line;
    while ((line = strsep(&rest, "\n")))
        if (*line)
            good &= set_line(settings, line, seen, errors);
    free(copy);
    free(seen);
    return good;
}

/* --- For people: Python, so that it can be a config file */

static void append_printable(struct buf *text, const char *value)
{
    for (; *value; value++)
        if (*value == '"' || *value == '\\')
            buf_printf(text, "\\%c", *value);
        else if ((unsigned char)*value < 0x20 || *value == 0x7f)
            buf_printf(text, "\\x%02x", (unsigned char)*value);
        else
            buf_append(text, value, 1);
}

static void append_python_text(struct buf *text, const char *value)
{
    buf_append_str(text, STR("\""));
    append_printable(text, value);
    buf_append_str(text, STR("\""));
}

static void append_python_list(struct buf *text, const struct str_list *list)
{
    buf_append_str(text, STR("["));
    for (size_t i = 0; i < list->count; i++) {
        buf_append_str(text, i ? STR(", ") : STR(""));
        append_python_text(text, list->items[i]);
    }
    buf_append_str(text, STR("]"));
}

/* A number below its limits means "not set". */
static bool is_unset(const struct settings *settings, const struct setting_row *row)
{
    return is_none(settings, row) ||
           (row->kind == SETTING_INT && *(const int64_t *)((const char *)settings + row->offset) < row->min);
}

static void append_python(const struct settings *settings, const struct setting_row *row, struct buf *text)
{
    char *value = settings_get(settings, row->name);
    if (is_unset(settings, row) || row->names == TEXT_SECRET)
        buf_append_str(text, STR("None"));
    else if (row->kind == SETTING_LIST)
        append_python_list(text, (const void *)((const char *)settings + row->offset));
    else if (row->kind == SETTING_STRING || row->kind == SETTING_CHOICE ||
             (row->kind == SETTING_COUNT && strcmp(value, "auto") == 0))
        append_python_text(text, value);
    else
        buf_append_str(text, str_from(value));
    free(value);
}

/* What the command is to do, once: a file that says so would serve nothing. */
static bool is_order(const struct setting_row *row)
{
    return strcmp(row->name, "check_config") == 0 || strcmp(row->name, "print_config") == 0;
}

void settings_print(const struct settings *settings, struct buf *text)
{
    for (size_t i = 0; i < setting_row_count; i++) {
        if (is_order(&setting_rows[i]))
            continue;
        buf_printf(text, "%-34s = ", setting_rows[i].name);
        append_python(settings, &setting_rows[i], text);
        buf_append_str(text, STR("  # "));
        append_printable(text, settings_origin(settings, setting_rows[i].name));
        if (setting_rows[i].names == TEXT_SECRET && !is_none(settings, &setting_rows[i]))
            buf_append_str(text, STR(", not shown"));
        buf_append_str(text, STR("\n"));
    }
}
