/* settings_document: see settings_document.h. A chapter a group, a section a setting, in the table's order. */
#include "config/settings_document.h"

#include <ctype.h>
#include <string.h>

#include "config/setting_row.h"

static const char head[] =
    "# Settings\n\n"
    "<!-- Written from config/settings.def by `ninja -C build docs`. -->\n\n"
    "A setting can come from four places; the stronger wins:\n\n"
    "| | |\n|--|--|\n"
    "| command line | `licorne main:app --workers 4` |\n"
    "| environment | `LICORNE_WORKERS=4`, or options in `LICORNE_CMD_ARGS=\"--workers 4\"` (`GUNICORN_CMD_ARGS` too) "
    "|\n"
    "| config file | `workers = 4` in `licorne.conf.py`, else `gunicorn.conf.py`, or the file that `--config` names |\n"
    "| default | as below; where a platform sets `PORT`, bind is `0.0.0.0:$PORT` |\n\n"
    "Long options may be shortened as long as they stay unambiguous, and a switch `--x` has its opposite `--no-x`. In "
    "variables, lists "
    "are separated by commas, and an empty variable counts as not set. Times are in seconds (`30`, `0.5`, `500ms`, "
    "`5m`, `1h`), sizes in "
    "bytes (`65536`, `64k`, `1M`). `--access-log` is short for `--access-logfile -`, `--no-access-log` for none.\n\n"
    "`eval \"$(licorne --completion bash)\"` (or `zsh`; `licorne --completion fish | source`) makes the shell complete options, "
    "values and modules. `licorne --print-schema` prints a JSON schema of the table `[tool.licorne]` for editors; names there are "
    "those of the settings or of their options. A variable `LICORNE_…`, `UVICORN_…` or `GRANIAN_…` that nobody knows is told, with "
    "`strict_config` refused.\n";

static void append_code_words(struct buf *out, const char *words)
{
    const char *comma = "";
    struct str word;
    for (; setting_row_word(&words, ' ', &word); comma = ", ")
        buf_printf(out, "%s`%.*s`", comma, (int)word.len, word.p);
}

static void append_variables(struct buf *out, const struct setting_row *row)
{
    const char *variables = row->variables;
    struct str word;
    buf_append_str(out, STR("`LICORNE_"));
    for (const char *c = row->name; *c; c++)
        buf_append(out, &(char){ (char)toupper((unsigned char)*c) }, 1);
    buf_append_str(out, STR("`"));
    while (setting_row_word(&variables, ' ', &word)) {
        bool proposed = word.p[word.len - 1] == '?';
        buf_printf(out, ", `%.*s`%s", (int)(word.len - proposed), word.p,
                   proposed ? " (weaker than the config file)" : "");
    }
}

static void append_default(struct buf *out, const struct setting_row *row)
{
    struct buf text = { 0 };
    setting_row_default(row, &text);
    if (buf_len(&text) > 0)
        buf_printf(out, "`%.*s`", (int)buf_len(&text), buf_str(&text).p);
    else
        buf_printf(out, "%s", row->fallback_text ? "empty" : "none");
    buf_done(&text);
}

static void append_allowed(struct buf *out, const struct setting_row *row)
{
    if (row->kind == SETTING_LIST)
        buf_append_str(out, STR("a list of text"));
    else
        setting_row_allowed(row, out);
}

/* Text into Markdown: none of its characters is meant as markup. */
static void append_prose(struct buf *out, const char *text)
{
    for (; *text; text++)
        buf_printf(out, "%s%c", strchr("_*<>`[]", *text) ? "\\" : "", *text);
}

static void append_section(struct buf *out, const struct setting_row *row)
{
    buf_printf(out, "\n### `%s`\n\n", row->name);
    append_prose(out, row->text);
    buf_append_str(out, STR("\n\n"));
    if (*row->spellings) {
        buf_append_str(out, STR("* Option: "));
        append_code_words(out, row->spellings);
        buf_append_str(out, STR("\n"));
    }
    buf_append_str(out, STR("* Variable: "));
    append_variables(out, row);
    buf_append_str(out, STR("\n* Value: "));
    append_allowed(out, row);
    buf_append_str(out, STR("\n* Default: "));
    append_default(out, row);
    if (*row->unit)
        buf_printf(out, "\n* Unit: %s", row->unit);
    buf_printf(out, "\n* Since: %s\n", row->since);
}

void settings_document(struct buf *out)
{
    const char *group = "";
    buf_append_str(out, str_from(head));
    for (size_t i = 0; i < setting_row_count; i++) {
        if (strcmp(group, setting_rows[i].group) != 0)
            buf_printf(out, "\n## %s\n", setting_rows[i].group);
        group = setting_rows[i].group;
        append_section(out, &setting_rows[i]);
    }
}
