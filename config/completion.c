/* completion: see completion.h. Every option that is ours is offered, with the values of those that have few, files, folders;
 * as the application, the modules that lie in the current folder. */
#include "config/completion.h"

#include <string.h>

#include "config/option.h"

/* What `licorne ctl` knows: control_client.c. */
#define CTL_COMMANDS "status top config listeners reload upgrade scale dump reopen stop shutdown show worker help"

/* "a|b" as "a b"; "" for options whose values are not few. */
static void append_choices(const struct option *option, struct buf *out)
{
    const char *choices = option->role == OPTION_COMPLETION ? "bash|zsh|fish" : option->row ? option->row->choices : NULL;
    struct str choice;
    for (const char *blank = ""; choices && setting_row_word(&choices, '|', &choice); blank = " ")
        buf_printf(out, "%s%.*s", blank, (int)choice.len, choice.p);
}

static bool has_choices(const struct option *option)
{
    return option->role == OPTION_COMPLETION || (option->row && option->row->choices);
}

static enum setting_text value_of(const struct option *option)
{
    return option->row ? option->row->names : TEXT_ANY;
}

/* The first sentence of what the option means. */
static struct str summary(const struct option *option)
{
    switch (option->role) {
    case OPTION_HELP:
        return STR("Show the options");
    case OPTION_VERSION:
        return STR("Show the version");
    case OPTION_SCHEMA:
        return STR("Print the JSON schema of the settings");
    case OPTION_COMPLETION:
        return STR("Print the completion for a shell");
    default:
        break;
    }
    const char *text = option->row ? option->row->text : "", *end = strstr(text, ". ");
    size_t len = end ? (size_t)(end - text) : strlen(text);
    return (struct str){ text, len > 0 && text[len - 1] == '.' ? len - 1 : len };
}

/* Text within single quotes; a backslash before each of `special`. */
static void append_quoted(struct str text, const char *special, struct buf *out)
{
    for (size_t i = 0; i < text.len; i++)
        if (text.p[i] == '\'')
            buf_append_str(out, STR("'\\''"));
        else
            buf_printf(out, "%s%c", strchr(special, text.p[i]) ? "\\" : "", text.p[i]);
}

static void each_option(struct buf *out, void (*append)(const struct option *option, struct buf *out))
{
    struct option_list list;
    option_list_init(&list);
    for (size_t i = 0; i < list.count; i++)
        if (list.options[i].role < OPTION_IGNORED) /* ours */
            append(&list.options[i], out);
    option_list_done(&list);
}

/* --- bash */

static const char bash_head[] =
    "# Completion of licorne for bash:  eval \"$(licorne --completion bash)\"\n"
    "_licorne() {\n"
    "    local word=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]} name\n"
    "    if [[ $word == '=' ]]; then\n"
    "        word=\n"
    "    elif [[ $option == '=' ]]; then\n"
    "        option=${COMP_WORDS[COMP_CWORD - 2]}\n"
    "    fi\n"
    "    COMPREPLY=()\n"
    "    if [[ ${COMP_WORDS[1]} == ctl && $COMP_CWORD -gt 1 ]]; then\n"
    "        COMPREPLY=($(compgen -W '" CTL_COMMANDS "' -- \"$word\"))\n"
    "        return\n"
    "    fi\n"
    "    case $option in\n";

static const char bash_tail[] = "' -- \"$word\"))\n"
                                "        return\n"
                                "    fi\n"
                                "    for name in *.py */__init__.py; do\n"
                                "        name=${name%.py}\n"
                                "        [[ -e $name.py ]] && COMPREPLY+=(\"${name%/__init__}\")\n"
                                "    done\n"
                                "    [[ $COMP_CWORD == 1 ]] && COMPREPLY+=(ctl convert)\n"
                                "    COMPREPLY=($(compgen -W \"${COMPREPLY[*]}\" -- \"$word\"))\n"
                                "}\n"
                                "complete -F _licorne licorne\n";

static void append_bash_value(const struct option *option, struct buf *out)
{
    if (!option->takes_value)
        return;
    buf_printf(out, "    %s) ", option->name);
    if (has_choices(option)) {
        buf_append_str(out, STR("COMPREPLY=($(compgen -W '"));
        append_choices(option, out);
        buf_append_str(out, STR("' -- \"$word\")); "));
    } else if (value_of(option) == TEXT_PATH || value_of(option) == TEXT_FOLDER) {
        buf_printf(out, "local IFS=$'\\n'; compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -%c -- \"$word\")); ",
                   value_of(option) == TEXT_PATH ? 'f' : 'd');
    }
    buf_append_str(out, STR("return ;;\n"));
}

static void append_bash_name(const struct option *option, struct buf *out)
{
    buf_printf(out, "%s ", option->name);
}

void completion_bash(struct buf *out)
{
    buf_append_str(out, str_from(bash_head));
    each_option(out, append_bash_value);
    buf_append_str(out, STR("    esac\n    if [[ $word == -* ]]; then\n        COMPREPLY=($(compgen -W '"));
    each_option(out, append_bash_name);
    buf_append_str(out, str_from(bash_tail));
}

/* --- zsh */

static const char zsh_head[] = "#compdef licorne\n"
                               "# Completion of licorne for zsh: as _licorne in a folder of $fpath, or\n"
                               "#     eval \"$(licorne --completion zsh)\"\n"
                               "_licorne_applications() {\n"
                               "    local -a modules\n"
                               "    modules=(*.py(N:r) */__init__.py(N:h))\n"
                               "    (( CURRENT == 2 )) && modules+=(ctl convert)\n"
                               "    compadd -a modules\n"
                               "}\n"
                               "_licorne() {\n"
                               "    if [[ $words[2] == ctl ]] && (( CURRENT > 2 )); then\n"
                               "        compadd " CTL_COMMANDS "\n"
                               "        return\n"
                               "    fi\n"
                               "    _arguments -s \\\n";

static void append_zsh_value(const struct option *option, struct buf *out)
{
    if (has_choices(option)) {
        buf_append_str(out, STR(":value:("));
        append_choices(option, out);
        buf_append_str(out, STR(")"));
    } else if (value_of(option) == TEXT_PATH) {
        buf_append_str(out, STR(":file:_files"));
    } else if (value_of(option) == TEXT_FOLDER) {
        buf_append_str(out, STR(":folder:_files -/"));
    } else {
        buf_append_str(out, STR(":value: "));
    }
}

static void append_zsh(const struct option *option, struct buf *out)
{
    bool repeats = option->row && option->row->kind == SETTING_LIST, is_long = option->name[1] == '-';
    buf_printf(out, "        '%s%s%s[", repeats ? "*" : "", option->name,
               !option->takes_value ? "" : is_long ? "=" : "+");
    append_quoted(summary(option), "[]:\\", out);
    buf_append_str(out, STR("]"));
    if (option->takes_value)
        append_zsh_value(option, out);
    buf_append_str(out, STR("' \\\n"));
}

void completion_zsh(struct buf *out)
{
    buf_append_str(out, str_from(zsh_head));
    each_option(out, append_zsh);
    buf_append_str(out, STR("        '1:application:_licorne_applications'\n"
                            "}\n"
                            "if [[ $funcstack[1] == _licorne ]]; then\n"
                            "    _licorne \"$@\"\n"
                            "else\n"
                            "    compdef _licorne licorne\n"
                            "fi\n"));
}

/* --- fish */

static const char fish_head[] =
    "# Completion of licorne for fish:  licorne --completion fish | source\n"
    "function __licorne_applications\n"
    "    for file in *.py */__init__.py\n"
    "        string replace -r '(/__init__)?\\.py$' '' -- $file\n"
    "    end\n"
    "end\n"
    "complete -c licorne -f\n"
    "complete -c licorne -n 'not __fish_seen_subcommand_from ctl' -a '(__licorne_applications)'\n"
    "complete -c licorne -n '__fish_is_first_token' -a ctl -d 'Talk to a server that runs'\n"
    "complete -c licorne -n '__fish_is_first_token' -a convert -d 'Turn a uWSGI ini file into a configuration file'\n"
    "complete -c licorne -n '__fish_seen_subcommand_from ctl' -a '" CTL_COMMANDS "'\n";

static void append_fish(const struct option *option, struct buf *out)
{
    bool is_long = option->name[1] == '-';
    buf_printf(out, "complete -c licorne -%c %s", is_long ? 'l' : 's', option->name + 1 + is_long);
    if (has_choices(option)) {
        buf_append_str(out, STR(" -x -a '"));
        append_choices(option, out);
        buf_append_str(out, STR("'"));
    } else if (value_of(option) == TEXT_PATH) {
        buf_append_str(out, STR(" -r -F"));
    } else if (value_of(option) == TEXT_FOLDER) {
        buf_append_str(out, STR(" -x -a '(__fish_complete_directories)'"));
    } else if (option->takes_value) {
        buf_append_str(out, STR(" -x"));
    }
    buf_append_str(out, STR(" -d '"));
    append_quoted(summary(option), "\\", out);
    buf_append_str(out, STR("'\n"));
}

void completion_fish(struct buf *out)
{
    buf_append_str(out, str_from(fish_head));
    each_option(out, append_fish);
}
