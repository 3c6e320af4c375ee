/* option: see option.h. The list is made from the table when it is needed: once a start. */
#include "config/option.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/foreign.h"
#include "config/nearest.h"
#include "server/base/mem.h"

/* Switches of others that are a value of one of our settings. */
static const struct {
    const char *name, *setting, *value;
} short_cuts[] = {
    { "--access-log", "accesslog", "-" },
    { "--no-access-log", "accesslog", NULL },
    { "--no-control-socket", "control_socket", "" },
    { "--no-use-colors", "use_colors", "false" },
    { "--log", "errorlog", "-" },
    { "--no-log", "errorlog", "/dev/null" },
    { "--ssl-client-verify", "cert_reqs", "2" },
    { "--no-ssl-client-verify", "cert_reqs", "0" },
    { "--http1-keep-alive", "keepalive", NULL },
    { "--no-http1-keep-alive", "keepalive", "0" },
};

static struct option *add(struct option_list *list, struct str name, enum option_role role)
{
    struct option *option;
    if (list->count % 64 == 0)
        list->options = mem_realloc(list->options, (list->count + 64) * sizeof(*option));
    option = &list->options[list->count++];
    *option = (struct option){ .role = role };
    memcpy(option->name, name.p, name.len < sizeof(option->name) ? name.len : sizeof(option->name) - 1);
    return option;
}

/* uvicorn's spelling of a switch that takes its value: --ws-per-message-deflate false. */
static bool is_valued(struct str name)
{
    return str_eq(name, STR("--ws-per-message-deflate"));
}

static void add_setting(struct option_list *list, struct str name, const struct setting_row *row, const char *fixed)
{
    bool takes_value = row->kind != SETTING_BOOL || is_valued(name);
    struct option *option = add(list, name, takes_value ? OPTION_VALUE : OPTION_FLAG);
    int64_t on;
    option->takes_value = takes_value;
    option->may_be_bare = row->kind == SETTING_CHOICE && setting_row_parse(row, "true", &on);
    option->row = row;
    option->fixed = takes_value ? NULL : fixed;
}

static bool starts_with(struct str s, const char *prefix)
{
    size_t len = strlen(prefix);
    return s.len >= len && memcmp(s.p, prefix, len) == 0;
}

static void add_row(struct option_list *list, const struct setting_row *row)
{
    const char *spellings = row->spellings;
    struct str name;
    while (setting_row_word(&spellings, ' ', &name))
        add_setting(list, name, row, row->kind != SETTING_BOOL ? NULL : starts_with(name, "--no-") ? "False" : "True");
}

/* "--x" has "--no-x", and the reverse, unless another row took the name. */
static void add_opposite(struct option_list *list, struct str name, const struct setting_row *row)
{
    char opposite[64];
    bool negative = starts_with(name, "--no-");
    if (!starts_with(name, "--") || name.len + 3 >= sizeof(opposite))
        return;
    int skip = negative ? 5 : 2;
    int len =
        snprintf(opposite, sizeof(opposite), "--%s%.*s", negative ? "" : "no-", (int)name.len - skip, name.p + skip);
    struct str text = { opposite, (size_t)len };
    if (!option_find(list, text))
        add_setting(list, text, row, negative ? "True" : "False");
}

static void add_opposites(struct option_list *list, const struct setting_row *row)
{
    const char *spellings = row->spellings;
    struct str name;
    while (row->kind == SETTING_BOOL && setting_row_word(&spellings, ' ', &name))
        add_opposite(list, name, row);
}

static void add_short_cuts(struct option_list *list)
{
    for (size_t i = 0; i < sizeof(short_cuts) / sizeof(short_cuts[0]); i++) {
        struct option *option = add(list, str_from(short_cuts[i].name), OPTION_FLAG);
        option->row = setting_row_find(short_cuts[i].setting);
        option->fixed = short_cuts[i].value;
    }
}

/* A row that has come to be wins over what is still written here. */
static void add_foreign(struct option_list *list)
{
    struct str name;
    for (size_t i = 0; i < foreign_row_count; i++) {
        const struct foreign_row *foreign = &foreign_rows[i];
        const char *spellings = foreign->spellings;
        while (setting_row_word(&spellings, ' ', &name)) {
            if (option_find(list, name))
                continue;
            struct option *option =
                add(list, name, foreign->role == FOREIGN_IGNORED ? OPTION_IGNORED : OPTION_FOREIGN);
            option->takes_value = foreign->takes_value;
            option->choices = foreign->choices;
            option->fixed = foreign->advice;
        }
    }
}

void option_list_init(struct option_list *list)
{
    *list = (struct option_list){ NULL, 0 };
    for (size_t i = 0; i < setting_row_count; i++)
        add_row(list, &setting_rows[i]);
    add_short_cuts(list);
    for (size_t i = 0; i < setting_row_count; i++)
        add_opposites(list, &setting_rows[i]);
    add(list, STR("-h"), OPTION_HELP);
    add(list, STR("--help"), OPTION_HELP);
    add(list, STR("-v"), OPTION_VERSION);
    add(list, STR("--version"), OPTION_VERSION);
    add(list, STR("--print-schema"), OPTION_SCHEMA);
    add(list, STR("--completion"), OPTION_COMPLETION)->takes_value = true;
    add_foreign(list);
}

void option_list_done(struct option_list *list)
{
    free(list->options);
    *list = (struct option_list){ NULL, 0 };
}

const struct option *option_find(const struct option_list *list, struct str name)
{
    for (size_t i = 0; i < list->count; i++)
        if (str_eq(str_from(list->options[i].name), name))
            return &list->options[i];
    return NULL;
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_meaning(const struct option *a, const struct option *b)
{
    return a->role == b->role && a->row == b->row && same_text(a->fixed, b->fixed);
}

size_t option_match(const struct option_list *list, struct str prefix, const struct option *found[2])
{
    size_t count = 0;
    if (prefix.len < 3)
        return 0;
    for (size_t i = 0; i < list->count; i++) {
        const struct option *option = &list->options[i];
        if (option->role >= OPTION_IGNORED || strncmp(option->name, prefix.p, prefix.len) != 0)
            continue;
        if (count > 0 && same_meaning(option, found[0]))
            continue;
        if (count < 2)
            found[count] = option;
        count++;
    }
    return count;
}

const struct option *option_nearest(const struct option_list *list, const char *name)
{
    struct nearest nearest = nearest_to(name);
    for (size_t i = 0; i < list->count; i++)
        if (list->options[i].role < OPTION_IGNORED && strlen(list->options[i].name) > 2)
            nearest_offer(&nearest, list->options[i].name, list->options[i].name);
    return nearest.best ? option_find(list, str_from(nearest.best)) : NULL;
}
