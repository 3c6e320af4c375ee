/* cli: the command line, and the same from GUNICORN_CMD_ARGS and LICORNE_CMD_ARGS. What options there are is
 * option.h's; reading goes on after an error, so that all of them come out at once. The environment is in cli_environment.c. */
#include "config/cli.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "config/foreign.h"
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
    bool has_app, is_malformed, has_bad_value;
    enum cli_action order; /* what is to be done instead of serving; CLI_SERVE: nothing */
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

char *cli_scaled(struct str name, const char *value)
{
    const char *unit = foreign_unit(name);
    return unit && *value && !value[strspn(value, "0123456789")] ? mem_printf("%s%s", value, unit) : NULL;
}

/* A bare number means the unit of the server whose option it is. */
static void set_scaled(struct parser *parser, const struct option *option, const char *value)
{
    char *scaled = cli_scaled(str_from(option->name), value);
    set(parser, option->row->name, scaled ? scaled : value, option->name);
    free(scaled);
}

static void apply_value(struct parser *parser, const struct option *option, const char *value)
{
    if (!value)
        value = option->may_be_bare ? take_optional_value(parser, option) : take_value(parser);
    if (value) {
        set_scaled(parser, option, value);
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
bool cli_note_ignored(struct settings *settings, const struct option *option, const char *value, const char *where,
                      struct buf *errors)
{
    if (value && !foreign_allows(option->choices, value)) {
        const char *advice = foreign_advice(option->name, value);
        buf_printf(errors, "%s = '%.100s'%s%s: must be one of %s%s%s\n", option->name, value, where ? " in $" : "",
                   where ? where : "", option->choices, advice ? "; " : "", advice ? advice : "");
        return false;
    }
    buf_append_str(&settings->notes, str_from(option->name));
    if (where)
        buf_printf(&settings->notes, " (in $%s)", where);
    buf_printf(&settings->notes, " has no effect: %s\n", option->fixed);
    return true;
}

static void apply_ignored(struct parser *parser, const struct option *option, const char *value)
{
    if (option->takes_value && !value)
        value = take_value(parser);
    if (!cli_note_ignored(parser->settings, option, value, parser->variable, parser->errors))
        parser->has_bad_value = true;
}

static void order(struct parser *parser, enum cli_action action)
{
    if (parser->order == CLI_SERVE)
        parser->order = action;
}

static void apply_completion(struct parser *parser, const struct option *option, const char *value)
{
    static const char *const shells[] = { "bash", "zsh", "fish" };
    if (!value)
        value = take_value(parser);
    for (int i = 0; value && i < 3; i++)
        if (strcmp(value, shells[i]) == 0) {
            order(parser, CLI_COMPLETE_BASH + i);
            return;
        }
    complain(parser, option->name);
    buf_append_str(parser->errors, STR("needs the name of a shell: bash, zsh or fish\n"));
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
        order(parser, CLI_HELP);
        break;
    case OPTION_VERSION:
        order(parser, CLI_VERSION);
        break;
    case OPTION_SCHEMA:
        order(parser, CLI_SCHEMA);
        break;
    case OPTION_COMPLETION:
        apply_completion(parser, option, value);
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
    if (parser->order != CLI_SERVE)
        return parser->order;
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

bool cli_parse_variable(struct settings *settings, const char *name, const char *text, struct buf *errors)
{
    struct parser parser;
    struct words words;
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
