/* cli_help: --help, from the table: groups in the table's order, one paragraph an option, wrapped. */
#include <stdlib.h>
#include <string.h>

#include "config/cli.h"
#include "config/setting_row.h"

enum { INDENT = 2, TEXT_COLUMN = 30, WIDTH_MIN = 60, WIDTH_MAX = 110 };

/* Writes words from `column` on, continuing at TEXT_COLUMN. */
static void append_wrapped(struct buf *out, const char *text, int column, int width)
{
    struct str word;
    bool first = true;
    while (setting_row_word(&text, ' ', &word)) {
        if (!first && column + 1 + (int)word.len > width) {
            buf_printf(out, "\n%*s", TEXT_COLUMN, "");
            column = TEXT_COLUMN;
            first = true;
        }
        buf_printf(out, "%s%.*s", first ? "" : " ", (int)word.len, word.p);
        column += (int)word.len + !first;
        first = false;
    }
    buf_append_str(out, STR("\n"));
}

static void append_placeholder(const struct setting_row *row, struct buf *out)
{
    switch (row->kind) {
    case SETTING_BOOL:
        break;
    case SETTING_INT:
        buf_append_str(out, STR(" N"));
        break;
    case SETTING_COUNT:
        buf_append_str(out, STR(" N|auto"));
        break;
    case SETTING_BYTES:
        buf_append_str(out, STR(" BYTES"));
        break;
    case SETTING_SECONDS:
        buf_append_str(out, STR(" SECONDS"));
        break;
    case SETTING_CHOICE:
        buf_printf(out, " %s", row->choices);
        break;
    case SETTING_STRING:
        buf_append_str(out, row->names == TEXT_PATH ? STR(" PATH") : row->names == TEXT_FOLDER ? STR(" FOLDER") : STR(" TEXT"));
        break;
    case SETTING_LIST:
        buf_append_str(out, STR(" TEXT"));
        break;
    }
}

static void append_spellings(const struct setting_row *row, struct buf *out)
{
    const char *spellings = row->spellings, *comma = "";
    struct str spelling;
    for (; setting_row_word(&spellings, ' ', &spelling); comma = ", ")
        buf_printf(out, "%s%.*s", comma, (int)spelling.len, spelling.p);
    append_placeholder(row, out);
}

static void append_text(const struct setting_row *row, struct buf *text)
{
    struct buf fallback = { 0 };
    buf_printf(text, "%s", row->text);
    if (row->kind != SETTING_BOOL)
        setting_row_default(row, &fallback);
    if (buf_len(&fallback) > 0)
        buf_printf(text, " [%.*s]", (int)buf_len(&fallback), buf_str(&fallback).p);
    buf_append(text, "", 1);
    buf_done(&fallback);
}

/* The left column, and the text beside it, or below where there is no room. */
static void append_entry(struct buf *out, struct str left, const char *text, int width)
{
    int column = INDENT + (int)left.len;
    buf_printf(out, "%*s%.*s", INDENT, "", (int)left.len, left.p);
    if (column + 2 > TEXT_COLUMN)
        buf_printf(out, "\n%*s", TEXT_COLUMN, "");
    else
        buf_printf(out, "%*s", TEXT_COLUMN - column, "");
    append_wrapped(out, text, TEXT_COLUMN, width);
}

static void append_row(struct buf *out, const struct setting_row *row, int width)
{
    struct buf left = { 0 }, text = { 0 };
    append_spellings(row, &left);
    append_text(row, &text);
    append_entry(out, buf_str(&left), buf_str(&text).p, width);
    buf_done(&left);
    buf_done(&text);
}

/* The rows of a group stand together in the table. */
static bool begins_group(size_t i)
{
    return i == 0 || strcmp(setting_rows[i].group, setting_rows[i - 1].group) != 0;
}

static void append_closing(struct buf *out, int width)
{
    buf_append_str(out, STR("\nOther:\n"));
    append_entry(out, STR("--access-log"), "Access log on standard output; --no-access-log: none.", width);
    append_entry(out, STR("--completion SHELL"), "Print what bash, zsh or fish needs to complete a command line.", width);
    append_entry(out, STR("--print-schema"), "Print a JSON schema of [tool.licorne] in pyproject.toml.", width);
    append_entry(out, STR("-h, --help"), "Show this.", width);
    append_entry(out, STR("-v, --version"), "Show the version.", width);
    buf_append_str(
        out, STR("\nEvery setting can stand in the configuration file under its name, in a variable LICORNE_<NAME>,\n"
                 "and its option in LICORNE_CMD_ARGS. Stronger wins: file, environment, command line.\n"
                 "\nAlso: licorne ctl (asks a running server),\n"
                 "      licorne convert uwsgi.ini (prints a configuration file).\n"));
}

void cli_help(struct buf *out, int width)
{
    width = width < WIDTH_MIN ? WIDTH_MIN : width > WIDTH_MAX ? WIDTH_MAX : width;
    buf_append_str(out, STR("Usage: licorne [OPTIONS] APP\n\nServes a Python web application, ASGI or WSGI.\n"));
    append_entry(out, STR("APP"), setting_row_find("app")->text, width);
    for (size_t i = 0; i < setting_row_count; i++) {
        if (begins_group(i))
            buf_printf(out, "\n%s:\n", setting_rows[i].group);
        if (*setting_rows[i].spellings)
            append_row(out, &setting_rows[i], width);
    }
    append_closing(out, width);
}
