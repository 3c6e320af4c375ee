/* schema: see schema.h. A property a setting; its other spellings point to it. What cannot stand in a file is left out. */
#include "config/schema.h"

#include <stdlib.h>
#include <string.h>

#include "config/cli.h"
#include "config/setting_row.h"
#include "server/base/mem.h"

static const char head[] =
    "{\n"
    "  \"$schema\": \"http://json-schema.org/draft-07/schema#\",\n"
    "  \"title\": \"licorne\",\n"
    "  \"description\": \"The table [tool.licorne] of pyproject.toml: settings of the application server licorne.\",\n"
    "  \"type\": \"object\",\n"
    "  \"additionalProperties\": false,\n"
    "  \"properties\": {";

#define BYTES_TEXT "^[0-9]+([kKmMgGtT]([iI]?[bB])?|[bB])?$"
#define SECONDS_TEXT "^([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ms|s|m|min|h)?$"

static bool stands_in_a_file(const struct setting_row *row)
{
    static const char *const others[] = { "config", "python", "check_config", "print_config" };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (strcmp(row->name, others[i]) == 0)
            return false;
    return true;
}

static void append_string(struct buf *out, struct str text)
{
    buf_append_str(out, STR("\""));
    for (size_t i = 0; i < text.len; i++)
        if ((unsigned char)text.p[i] < 0x20)
            buf_printf(out, "\\u%04x", (unsigned)text.p[i]);
        else
            buf_printf(out, "%s%c", strchr("\"\\", text.p[i]) ? "\\" : "", text.p[i]);
    buf_append_str(out, STR("\""));
}

/* --- What a value may be */

/* Seconds in the schema, milliseconds in the row. */
static void append_bound(struct buf *out, const struct setting_row *row, const char *name, int64_t number)
{
    struct buf text = { 0 };
    if (row->kind == SETTING_SECONDS)
        setting_row_format(row, number, &text);
    else
        buf_printf(&text, "%lld", (long long)number);
    buf_printf(out, ", \"%s\": %.*s", name, (int)buf_len(&text), buf_str(&text).p);
    buf_done(&text);
}

static void append_number(struct buf *out, const struct setting_row *row)
{
    buf_printf(out, "{\"type\": \"%s\"", row->kind == SETTING_SECONDS ? "number" : "integer");
    append_bound(out, row, "minimum", row->min);
    if (row->max != INT64_MAX)
        append_bound(out, row, "maximum", row->max);
    buf_append_str(out, STR("}"));
}

static void append_enum(struct buf *out, const struct setting_row *row)
{
    const char *choices = row->choices, *comma = "";
    struct str choice;
    buf_append_str(out, STR("{\"enum\": ["));
    for (; setting_row_word(&choices, '|', &choice); comma = ", ") {
        buf_append_str(out, str_from(comma));
        append_string(out, choice);
    }
    buf_append_str(out, STR("]}"));
}

/* Texts that a file may say in a way of its own; NULL: text and nothing else. */
static const char *special_type(const struct setting_row *row)
{
    static const struct {
        const char *name, *schema;
    } special[] = {
        { "umask", "{\"type\": \"string\", \"pattern\": \"^(0[oO]?[0-7]{0,3}|[1-9][0-9]{0,2})$\"}, {\"type\": \"integer\", \"minimum\": 0, "
                   "\"maximum\": 511}" },
        { "user", "{\"type\": [\"string\", \"integer\"]}" },
        { "group", "{\"type\": [\"string\", \"integer\"]}" },
        { "logconfig_dict", "{\"type\": \"object\"}" },
        { "headers", "{\"type\": \"array\", \"items\": {\"type\": \"string\", \"pattern\": \":\"}}, {\"type\": \"object\", "
                     "\"additionalProperties\": {\"type\": [\"string\", \"integer\"]}}" },
        { "secure_scheme_headers", "{\"type\": \"object\", \"additionalProperties\": {\"type\": \"string\"}}" },
    };
    for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++)
        if (strcmp(special[i].name, row->name) == 0)
            return special[i].schema;
    return NULL;
}

static void append_text_type(struct buf *out, const struct setting_row *row)
{
    const char *special = special_type(row);
    if (special)
        buf_append_str(out, str_from(special));
    else if (row->kind == SETTING_LIST)
        buf_append_str(out, STR("{\"type\": \"array\", \"items\": {\"type\": \"string\"}}, {\"type\": \"string\"}"));
    else
        buf_append_str(out, STR("{\"type\": \"string\"}"));
}

static void append_types(struct buf *out, const struct setting_row *row)
{
    int64_t on;
    buf_append_str(out, STR("\"anyOf\": ["));
    switch (row->kind) {
    case SETTING_BOOL:
        buf_append_str(out, STR("{\"type\": \"boolean\"}"));
        break;
    case SETTING_CHOICE:
        append_enum(out, row);
        if (setting_row_parse(row, "true", &on))
            buf_append_str(out, STR(", {\"type\": \"boolean\"}"));
        break;
    case SETTING_COUNT:
        append_number(out, row);
        buf_append_str(out, STR(", {\"const\": \"auto\"}"));
        break;
    case SETTING_BYTES:
        append_number(out, row);
        buf_append_str(out, STR(", {\"type\": \"string\", \"pattern\": "));
        append_string(out, STR(BYTES_TEXT));
        buf_append_str(out, STR("}"));
        break;
    case SETTING_SECONDS:
        append_number(out, row);
        buf_append_str(out, STR(", {\"type\": \"string\", \"pattern\": "));
        append_string(out, STR(SECONDS_TEXT));
        buf_append_str(out, STR("}"));
        break;
    case SETTING_INT:
        append_number(out, row);
        break;
    case SETTING_STRING:
    case SETTING_LIST:
        append_text_type(out, row);
        break;
    }
    buf_append_str(out, STR("]"));
}

/* --- A property */

static void append_list_default(struct buf *out, const char *items)
{
    struct str item;
    const char *comma = "";
    buf_append_str(out, STR("["));
    for (; setting_row_word(&items, ',', &item); comma = ", ") {
        buf_append_str(out, str_from(comma));
        append_string(out, item);
    }
    buf_append_str(out, STR("]"));
}

static void append_default(struct buf *out, const struct setting_row *row)
{
    struct buf text = { 0 };
    bool is_text = row->kind == SETTING_STRING || row->kind == SETTING_LIST;
    if (is_text ? !row->fallback_text || special_type(row) : row->fallback < row->min && row->kind != SETTING_COUNT)
        return;
    setting_row_default(row, &text);
    buf_append_str(out, STR(", \"default\": "));
    if (row->kind == SETTING_LIST)
        append_list_default(out, row->fallback_text);
    else if (row->kind == SETTING_BOOL)
        buf_printf(out, "%s", row->fallback ? "true" : "false");
    else if (row->kind == SETTING_STRING || row->kind == SETTING_CHOICE)
        append_string(out, buf_str(&text));
    else
        buf_append_str(out, buf_str(&text));
    buf_done(&text);
}

static void append_property(struct buf *out, const struct setting_row *row, const char *comma)
{
    char *variable = cli_own_variable(row->name);
    buf_printf(out, "%s\n    \"%s\": {\"description\": ", comma, row->name);
    append_string(out, str_from(row->text));
    buf_append_str(out, STR(", "));
    append_types(out, row);
    append_default(out, row);
    if (*row->unit)
        buf_printf(out, ", \"x-unit\": \"%s\"", row->unit);
    if (*row->spellings)
        buf_printf(out, ", \"x-options\": \"%s\"", row->spellings);
    buf_printf(out, ", \"x-variable\": \"%s\", \"x-since\": \"%s\"}", variable, row->since);
    free(variable);
}

static void append_reference(struct buf *out, const struct setting_row *row, const char *name)
{
    buf_printf(out, ",\n    \"%s\": {\"$ref\": \"#/properties/%s\"}", name, row->name);
}

static char *replaced(const char *text, size_t len, char old, char new)
{
    char *copy = mem_strndup(text, len);
    for (char *c = copy; *c; c++)
        *c = *c == old ? new : *c;
    return copy;
}

/* The name with dashes, and its long options, with dashes or underscores. */
static void append_references(struct buf *out, const struct setting_row *row)
{
    const char *spellings = row->spellings;
    struct str word;
    char *dashed = replaced(row->name, strlen(row->name), '_', '-');
    if (strcmp(dashed, row->name) != 0)
        append_reference(out, row, dashed);
    while (setting_row_word(&spellings, ' ', &word)) {
        if (word.len < 3 || word.p[1] != '-' || strncmp(word.p, "--no-", 5) == 0)
            continue;
        char *option = replaced(word.p + 2, word.len - 2, '_', '-'), *name = replaced(option, strlen(option), '-', '_');
        if (strcmp(option, dashed) != 0)
            append_reference(out, row, option);
        if (strcmp(option, dashed) != 0 && strcmp(option, name) != 0)
            append_reference(out, row, name);
        free(option);
        free(name);
    }
    free(dashed);
}

void schema_print(struct buf *out)
{
    const char *comma = "";
    buf_append_str(out, str_from(head));
    for (size_t i = 0; i < setting_row_count; i++) {
        if (!stands_in_a_file(&setting_rows[i]))
            continue;
        append_property(out, &setting_rows[i], comma);
        append_references(out, &setting_rows[i]);
        comma = ",";
    }
    buf_append_str(out, STR("\n  }\n}\n"));
}
