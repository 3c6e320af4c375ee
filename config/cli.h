/* cli: the command line and the environment, over the rows of settings.def. */
#pragma once

#include "config/settings.h"

struct option;

enum cli_action {
    CLI_SERVE,
    CLI_HELP,
    CLI_VERSION,
    CLI_SCHEMA,
    CLI_COMPLETE_BASH,
    CLI_COMPLETE_ZSH,
    CLI_COMPLETE_FISH,
    CLI_USAGE_ERROR,
    CLI_VALUE_ERROR,
};

/* Reads argv into `settings` (source: command line); argv[0] is the program. CLI_USAGE_ERROR (exit 2): the line itself
 * is malformed, CLI_VALUE_ERROR (exit 1): a value is not allowed; either way all messages are in `errors`. Accepts
 * --x=V, --x V, -xV, -x V, bundled flags, `--`, and unambiguous prefixes of long options as argparse does. --help,
 * --version, --print-schema and --completion win over everything. */
enum cli_action cli_parse(struct settings *settings, int argc, char **argv, struct buf *errors);

/* What `value` means to the option or variable `name`, when that is another server's and counts in another unit; NULL: what
 * it says. Allocated with malloc. */
char *cli_scaled(struct str name, const char *value);

/* The words of the variable `name`, as options. */
bool cli_parse_variable(struct settings *settings, const char *name, const char *text, struct buf *errors);

/* An option of others that has no effect: a note, unless its value is none that they take. `value` may be NULL; `where`
 * is NULL for the command line. */
bool cli_note_ignored(struct settings *settings, const struct option *option, const char *value, const char *where,
                      struct buf *errors);

/* LICORNE_<NAME>, LICORNE_CMD_ARGS, GUNICORN_CMD_ARGS and the rows' own variables, PORT included. Lists in variables
 * are separated by commas; an empty variable counts as not set. */
bool cli_environment(struct settings *settings, char **environment, struct buf *errors);
/* Variables that look like ours, uvicorn's or granian's and are not: a warning, with `strict` an error. */
bool cli_unknown_variables(struct settings *settings, char **environment, bool strict, struct buf *errors);

/* "LICORNE_WORKERS". Allocated with malloc. */
char *cli_own_variable(const char *name);

/* --help, grouped; `width`: columns of the terminal. */
void cli_help(struct buf *out, int width);
