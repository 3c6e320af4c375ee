/* cli_environment: what the environment says: a variable for each row, those of other servers, the platform's, and what of it
 * nobody knows. Part of cli.h. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "config/cli.h"
#include "config/option.h"
#include "config/setting_row.h"
#include "server/base/mem.h"

/* A variable that is set and not empty, or NULL. */
static const char *variable(char **environment, struct str name)
{
    for (; *environment; environment++)
        if (strncmp(*environment, name.p, name.len) == 0 && (*environment)[name.len] == '=')
            return (*environment)[name.len + 1] ? *environment + name.len + 1 : NULL;
    return NULL;
}

static bool read_command_args(struct settings *settings, const char *name, char **environment, struct buf *errors)
{
    const char *text = variable(environment, str_from(name));
    return !text || cli_parse_variable(settings, name, text, errors);
}

static bool set_items(struct settings *settings, const struct setting_row *row, const char *text,
                      enum settings_source source, const char *where, struct buf *errors)
{
    struct str item;
    bool good = true;
    while (setting_row_word(&text, ',', &item)) {
        char *value = mem_strndup(item.p, item.len);
        good &= settings_set(settings, row->name, value, source, where, errors);
        free(value);
    }
    return good;
}

static bool set_from(struct settings *settings, const struct setting_row *row, struct str name, const char *text,
                     enum settings_source source, struct buf *errors)
{
    char *where = mem_printf("$%.*s", (int)name.len, name.p), *scaled = cli_scaled(name, text);
    bool good = row->kind == SETTING_LIST
                    ? set_items(settings, row, text, source, where, errors)
                    : settings_set(settings, row->name, scaled ? scaled : text, source, where, errors);
    free(scaled);
    free(where);
    return good;
}

char *cli_own_variable(const char *name)
{
    char *own = mem_printf("LICORNE_%s", name);
    for (char *c = own; *c; c++)
        *c = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
    return own;
}

/* Kubernetes tells each container of all services: of one that is called "licorne", LICORNE_PORT=tcp://10.0.0.1:80. */
static bool is_service_link(const struct setting_row *row, const char *text)
{
    return row->kind == SETTING_INT && strstr(text, "://") != NULL;
}

/* The row's variables in their order; the first that is set decides. */
static bool read_row(struct settings *settings, const struct setting_row *row, char **environment, struct buf *errors)
{
    char *own = cli_own_variable(row->name);
    const char *variables = row->variables, *text = variable(environment, str_from(own));
    struct str name = str_from(own);
    enum settings_source source = SOURCE_ENVIRONMENT;
    if (text && is_service_link(row, text))
        text = NULL;
    while (!text && setting_row_word(&variables, ' ', &name)) {
        bool proposed = name.p[name.len - 1] == '?';
        name.len -= proposed;
        source = proposed ? SOURCE_DEFAULT : SOURCE_ENVIRONMENT;
        text = variable(environment, name);
        if (text && is_service_link(row, text))
            text = NULL;
    }
    bool good = !text || set_from(settings, row, name, text, source, errors);
    free(own);
    return good;
}

/* What platforms set for the process that they route to: as in gunicorn the default of bind. */
static bool read_port(struct settings *settings, char **environment, struct buf *errors)
{
    const char *port = variable(environment, STR("PORT"));
    char *bind = port ? mem_printf("0.0.0.0:%s", port) : NULL;
    bool good = !bind || settings_set(settings, "bind", bind, SOURCE_DEFAULT, "$PORT", errors);
    free(bind);
    return good;
}

/* Variables that say yes or no where we have options, one for each answer. */
static const struct {
    const char *variable, *yes, *no;
} switches[] = {
    { "UVICORN_ACCESS_LOG", "--access-log", "--no-access-log" },
    { "GRANIAN_LOG_ACCESS_ENABLED", "--access-log", "--no-access-log" },
    { "GRANIAN_LOG_ENABLED", "--log", "--no-log" },
    { "GRANIAN_WEBSOCKETS", "", "--no-ws" },
    { "GRANIAN_HTTP1_KEEP_ALIVE", "--http1-keep-alive", "--no-http1-keep-alive" },
    { "GRANIAN_SSL_CLIENT_VERIFY", "--ssl-client-verify", "--no-ssl-client-verify" },
};

static bool read_switch(struct settings *settings, size_t i, char **environment, struct buf *errors)
{
    const char *name = switches[i].variable, *text = variable(environment, str_from(name));
    bool yes;
    if (!text)
        return true;
    if (!setting_row_parse_bool(text, &yes)) {
        buf_printf(errors, "$%s = '%.100s': must be true or false\n", name, text);
        return false;
    }
    return cli_parse_variable(settings, name, yes ? switches[i].yes : switches[i].no, errors);
}

bool cli_environment(struct settings *settings, char **environment, struct buf *errors)
{
    bool good = read_port(settings, environment, errors);
    for (size_t i = 0; i < setting_row_count; i++)
        good &= read_row(settings, &setting_rows[i], environment, errors);
    for (size_t i = 0; i < sizeof(switches) / sizeof(switches[0]); i++)
        good &= read_switch(settings, i, environment, errors);
    good &= read_command_args(settings, "GUNICORN_CMD_ARGS", environment, errors);
    good &= read_command_args(settings, "LICORNE_CMD_ARGS", environment, errors);
    return good & cli_unknown_variables(settings, environment, settings->strict_config, errors);
}

/* --- What nobody knows */

static bool word_among(const char *list, struct str wanted)
{
    struct str word;
    while (setting_row_word(&list, ' ', &word)) {
        word.len -= word.p[word.len - 1] == '?';
        if (str_eq(word, wanted))
            return true;
    }
    return false;
}

static bool is_own_variable(const struct setting_row *row, struct str name)
{
    char *own = cli_own_variable(row->name);
    bool same = str_eq(str_from(own), name);
    free(own);
    return same;
}

/* Between our own processes, for the build, and what Kubernetes and Docker say of services with such names. */
static bool is_not_for_us(const char *name)
{
    const char *port = strstr(name, "_PORT_");
    return strncmp(name, "LICORNE_SAVED_", 14) == 0 || strcmp(name, "LICORNE_HERITAGE") == 0 ||
           strstr(name, "_SERVICE_") || (port && isdigit((unsigned char)port[6])) ||
           strcmp(name, "LICORNE_CMD_ARGS") == 0 || strcmp(name, "LICORNE_CMAKE_ARGS") == 0 ||
           strcmp(name, "LICORNE_BUILD_DIR") == 0;
}

static bool is_switch(const char *name)
{
    for (size_t i = 0; i < sizeof(switches) / sizeof(switches[0]); i++)
        if (strcmp(switches[i].variable, name) == 0)
            return true;
    return false;
}

static bool is_known(const char *name)
{
    for (size_t i = 0; i < setting_row_count; i++)
        if (word_among(setting_rows[i].variables, str_from(name)) || is_own_variable(&setting_rows[i], str_from(name)))
            return true;
    return is_switch(name) || is_not_for_us(name);
}

/* Behind LICORNE_, UVICORN_ or GRANIAN_; NULL: none of our business. */
static const char *behind_prefix(const char *name)
{
    static const char *const prefixes[] = { "LICORNE_", "UVICORN_", "GRANIAN_" };
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return name + strlen(prefixes[i]);
    return NULL;
}

/* "LOG_LEVEL" as "--log-level" */
static char *option_name(const char *words)
{
    char *name = mem_printf("--%s", words);
    for (char *c = name; *c; c++)
        *c = *c == '_' ? '-' : (char)tolower((unsigned char)*c);
    return name;
}

/* How a variable of the setting is called where `name` comes from: UVICORN_WORKERS, or LICORNE_WORKERS. */
static char *variable_like(const struct setting_row *row, const char *name)
{
    const char *variables = row->variables;
    struct str word;
    while (setting_row_word(&variables, ' ', &word))
        if (strncmp(word.p, name, 8) == 0)
            return mem_strndup(word.p, word.len);
    return cli_own_variable(row->name);
}

static void tell_unknown(const char *name, const char *words, struct buf *out)
{
    char *lower = option_name(words);
    for (char *c = lower; *c; c++)
        *c = *c == '-' ? '_' : *c;
    const struct setting_row *near = setting_row_find_by_option(lower + 2);
    near = near ? near : setting_row_nearest(lower + 2);
    buf_printf(out, "$%.100s: no such setting%s", name, near ? "; did you mean $" : "");
    if (near) {
        char *meant = variable_like(near, name);
        buf_printf(out, "%s?", meant);
        free(meant);
    }
    buf_append_str(out, STR("\n"));
    free(lower);
}

/* GRANIAN_METRICS=false asks for nothing. */
static bool asks_for_nothing(const struct option *option, const char *value)
{
    bool yes;
    return !option->takes_value && setting_row_parse_bool(value, &yes) && !yes;
}

static bool judge(struct settings *settings, const char *name, const char *value, bool strict, struct buf *errors)
{
    struct option_list options;
    option_list_init(&options);
    char *spelling = option_name(behind_prefix(name));
    const struct option *option = option_find(&options, str_from(spelling));
    bool good = true;
    if (option && option->role >= OPTION_IGNORED && asks_for_nothing(option, value)) {
        good = true;
    } else if (option && option->role == OPTION_IGNORED) {
        good = cli_note_ignored(settings, option, value, name, errors);
    } else if (option && option->role == OPTION_FOREIGN) {
        buf_printf(errors, "$%s: %s\n", name, option->fixed);
        good = false;
    } else {
        tell_unknown(name, behind_prefix(name), strict ? errors : &settings->warnings);
        good = !strict;
    }
    free(spelling);
    option_list_done(&options);
    return good;
}

bool cli_unknown_variables(struct settings *settings, char **environment, bool strict, struct buf *errors)
{
    bool good = true;
    for (; *environment; environment++) {
        const char *equals = strchr(*environment, '=');
        char *name = mem_strndup(*environment, equals ? (size_t)(equals - *environment) : 0);
        if (equals && behind_prefix(name) && equals[1] && !is_known(name))
            good &= judge(settings, name, equals + 1, strict, errors);
        free(name);
    }
    return good;
}
