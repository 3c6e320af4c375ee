/* cli: the command line, and the same from GUNICORN_CMD_ARGS and LICORNE_CMD_ARGS. What options there are is
 * option.h's; reading goes on after an error, so that all of them come out at once. */
#include "config/cli.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "config/option.h"
#include "config/words.h"
#include "server/base/mem.h"

struct parser {
    struct settings *settings;
    enum settings_source source;
    const char *variable; /* whose words these are; NULL: the command line's */
    struct buf *errors;
    struct option_list list;
    char **words;
    size_t count, next;
    bool has_app, is_malformed, has_bad_value, wants_help, wants_version;
};

static void parser_init(struct parser *parser, struct settings *settings, enum settings_source source,
                        struct buf *errors)
{
    *parser = (struct parser){ .settings = settings, .source = source, .errors = errors };
    option_list_init(&parser->list);
}

static void parser_done(struct parser *parser)
{
    option_list_done(&parser->list);
}

/* Begins a message: the option, and where it stands when that is not the command line. */
static void complain(struct parser *parser, const char *about)
{
    parser->is_malformed = true;
    for (; *about; about++)
        if ((unsigned char)*about < 0x20 || *about == 0x7f)
            buf_printf(parser->errors, "\\x%02x", (unsigned char)*about);
        else
            buf_append(parser->errors, about, 1);
    if (parser->variable)
        buf_printf(parser->errors, " (in $%s)", parser->variable);
    buf_append_str(parser->errors, STR(": "));
}

static void set(struct parser *parser, const char *setting, const char *value, const char *spelling)
{
    char *where = parser->variable ? mem_printf("%s in $%s", spelling, parser->variable) : mem_strdup(spelling);
    if (!settings_set(parser->settings, setting, value, parser->source, where, parser->errors))
        parser->has_bad_value = true;
    free(where);
}

/* As argparse has it: what looks like an option is not the value of the one before; "-" and "-1" do not look so. */
static bool looks_like_option(const char *word)
{
    return word[0] == '-' && word[1] && !isdigit((unsigned char)word[1]) && word[1] != '.';
}

/* The next word as a value; NULL: there is none. */
static const char *take_value(struct parser *parser)
{
    if (parser->next == parser->count || looks_like_option(parser->words[parser->next]))
        return NULL;
    return parser->words[parser->next++];
}

static void apply_flag(struct parser *parser, const struct option *option, const char *value)
{
    bool is_switch = option->row->kind == SETTING_BOOL && option->fixed[0] == 'T';
    if (!value)
        set(parser, option->row->name, option->fixed, option->name);
    else if (is_switch)
        set(parser, option->row->name, value, option->name);
    else {
        complain(parser, option->name);
        buf_append_str(parser->errors, STR("takes no value\n"));
    }
}

/* --proxy-protocol, which may do without a value: the next word is it only if it is one of those allowed. */
static const char *take_optional_value(struct parser *parser, const struct option *option)
{
    int64_t number;
    const char *next = parser->next < parser->count ? parser->words[parser->next] : NULL;
    return next && setting_row_parse(option->row, next, &number) ? take_value(parser) : "true";
}

static void apply_value(struct parser *parser, const struct option *option, const char *value)
{
    if (!value)
        value = option->may_be_bare ? take_optional_value(parser, option) : take_value(parser);
    if (value) {
        set(parser, option->row->name, value, option->name);
        return;
    }
    complain(parser, option->name);
    buf_append_str(parser->errors, STR("needs a value: "));
    setting_row_allowed(option->row, parser->errors);
    buf_append_str(parser->errors, STR(" must follow\n"));
}

static void apply_foreign(struct parser *parser, const struct option *option, const char *value)
{
    if (option->takes_value && !value)
        take_value(parser);
    complain(parser, option->name);
    buf_printf(parser->errors, "%s\n", option->fixed);
}

/* The log is not open yet: whoever opens it says it. */
static void apply_ignored(struct parser *parser, const struct option *option, const char *value)
{
    struct buf *notes = &parser->settings->notes;
    if (option->takes_value && !value)
        take_value(parser);
    buf_append_str(notes, str_from(option->name));
    if (parser->variable)
        buf_printf(notes, " (in $%s)", parser->variable);
    buf_printf(notes, " has no effect: %s\n", option->fixed);
}

/* `value` is the one attached to the option by '=' or, to a short one, directly; NULL: none is. */
static void apply(struct parser *parser, const struct option *option, const char *value)
{
    switch (option->role) {
    case OPTION_FLAG:
        apply_flag(parser, option, value);
        break;
    case OPTION_VALUE:
        apply_value(parser, option, value);
        break;
    case OPTION_HELP:
        parser->wants_help = true;
        break;
    case OPTION_VERSION:
        parser->wants_version = true;
        break;
    case OPTION_IGNORED:
        apply_ignored(parser, option, value);
        break;
    case OPTION_FOREIGN:
        apply_foreign(parser, option, value);
        break;
    }
}

/* The word after it goes with it, if that is how the option works that was meant. */
static void refuse_unknown(struct parser *parser, const char *name, bool has_value)
{
    const struct option *near = option_nearest(&parser->list, name);
    complain(parser, name);
    buf_append_str(parser->errors, STR("no such option"));
    if (near)
        buf_printf(parser->errors, "; did you mean %s?", near->name);
    buf_append_str(parser->errors, STR("\n"));
    if (near && near->takes_value && !has_value)
        take_value(parser);
}

static void refuse_ambiguous(struct parser *parser, const char *name, bool has_value, const struct option *found[2])
{
    complain(parser, name);
    buf_printf(parser->errors, "ambiguous: %s or %s?\n", found[0]->name, found[1]->name);
    if (found[0]->takes_value && found[1]->takes_value && !has_value)
        take_value(parser);
}

static const struct option *find_long(struct parser *parser, struct str name, bool has_value)
{
    const struct option *found[2], *option = option_find(&parser->list, name);
    size_t matches = option ? 1 : option_match(&parser->list, name, found);
    char *text = mem_strndup(name.p, name.len);
    if (matches == 0)
        refuse_unknown(parser, text, has_value);
    if (matches > 1)
        refuse_ambiguous(parser, text, has_value, found);
    free(text);
    return option ? option : matches == 1 ? found[0] : NULL;
}

static void parse_long(struct parser *parser, const char *word)
{
    const char *equals = strchr(word, '=');
    struct str name = { word, equals ? (size_t)(equals - word) : strlen(word) };
    const struct option *option = find_long(parser, name, equals != NULL);
    if (option)
        apply(parser, option, equals ? equals + 1 : NULL);
}

/* -w4, -w=4, -hv. The first that takes a value takes the rest of the word. */
static void parse_short(struct parser *parser, const char *word)
{
    for (const char *letter = word + 1; *letter; letter++) {
        char name[] = { '-', *letter, 0 };
        const struct option *option = option_find(&parser->list, str_from(name));
        if (!option) {
            refuse_unknown(parser, letter == word + 1 ? word : name, true);
            return;
        }
        if (option->takes_value) {
            const char *rest = letter[1] == '=' ? letter + 2 : letter + 1;
            apply(parser, option, letter[1] ? rest : NULL);
            return;
        }
        apply(parser, option, NULL);
    }
}

static void parse_positional(struct parser *parser, const char *word)
{
    if (!parser->has_app) {
        parser->has_app = true;
        set(parser, "app", word, "APP");
        return;
    }
    complain(parser, word);
    buf_printf(parser->errors, "unexpected: the application is already %s\n",
               parser->settings->app ? parser->settings->app : "given");
}

static void parse_words(struct parser *parser)
{
    bool options_over = false;
    while (parser->next < parser->count) {
        const char *word = parser->words[parser->next++];
        if (options_over || word[0] != '-' || !word[1])
            parse_positional(parser, word);
        else if (strcmp(word, "--") == 0)
            options_over = true;
        else if (word[1] == '-')
            parse_long(parser, word);
        else
            parse_short(parser, word);
    }
}

static enum cli_action outcome(const struct parser *parser)
{
    if (parser->wants_help)
        return CLI_HELP;
    if (parser->wants_version)
        return CLI_VERSION;
    if (parser->is_malformed)
        return CLI_USAGE_ERROR;
    return parser->has_bad_value ? CLI_VALUE_ERROR : CLI_SERVE;
}

enum cli_action cli_parse(struct settings *settings, int argc, char **argv, struct buf *errors)
{
    struct parser parser;
    parser_init(&parser, settings, SOURCE_COMMAND_LINE, errors);
    parser.words = argv + 1;
    parser.count = argc > 1 ? (size_t)argc - 1 : 0;
    parse_words(&parser);
    parser_done(&parser);
    return outcome(&parser);
}

/* --- The environment */

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
    struct parser parser;
    struct words words;
    if (!text)
        return true;
    if (!words_split(text, &words)) {
        buf_printf(errors, "$%s: a quotation mark is not closed\n", name);
        return false;
    }
    parser_init(&parser, settings, SOURCE_ENVIRONMENT, errors);
    parser.variable = name;
    parser.words = words.items;
    parser.count = words.count;
    parse_words(&parser);
    parser_done(&parser);
    words_done(&words);
    return !parser.is_malformed && !parser.has_bad_value;
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
    char *where = mem_printf("$%.*s", (int)name.len, name.p);
    bool good = row->kind == SETTING_LIST ? set_items(settings, row, text, source, where, errors)
                                          : settings_set(settings, row->name, text, source, where, errors);
    free(where);
    return good;
}

/* "LICORNE_WORKERS" */
static char *own_variable(const struct setting_row *row)
{
    char *name = mem_printf("LICORNE_%s", row->name);
    for (char *c = name; *c; c++)
        *c = (char)toupper((unsigned char)*c);
    return name;
}

/* The row's variables in their order; the first that is set decides. */
static bool read_row(struct settings *settings, const struct setting_row *row, char **environment, struct buf *errors)
{
    char *own = own_variable(row);
    const char *variables = row->variables, *text = variable(environment, str_from(own));
    struct str name = str_from(own);
    enum settings_source source = SOURCE_ENVIRONMENT;
    while (!text && setting_row_word(&variables, ' ', &name)) {
        bool proposed = name.p[name.len - 1] == '?';
        name.len -= proposed;
        source = proposed ? SOURCE_DEFAULT : SOURCE_ENVIRONMENT;
        text = variable(environment, name);
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

bool cli_environment(struct settings *settings, char **environment, struct buf *errors)
{
    bool good = read_port(settings, environment, errors);
    for (size_t i = 0; i < setting_row_count; i++)
        good &= read_row(settings, &setting_rows[i], environment, errors);
    good &= read_command_args(settings, "GUNICORN_CMD_ARGS", environment, errors);
    good &= read_command_args(settings, "LICORNE_CMD_ARGS", environment, errors);
    return good;
}
