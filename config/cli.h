/* cli: the command line and the environment, over the rows of settings.def. */
#pragma once

#include "config/settings.h"

enum cli_action { CLI_SERVE, CLI_HELP, CLI_VERSION, CLI_USAGE_ERROR, CLI_VALUE_ERROR };

/* Reads argv into `settings` (source: command line); argv[0] is the program. CLI_USAGE_ERROR (exit 2): the line itself
 * is malformed, CLI_VALUE_ERROR (exit 1): a value is not allowed; either way all messages are in `errors`. Accepts
 * --x=V, --x V, -xV, -x V, bundled flags, `--`, and unambiguous prefixes of long options as argparse does. --help and
 * --version win over everything. */
enum cli_action cli_parse(struct settings *settings, int argc, char **argv, struct buf *errors);

/* LICORNE_<NAME>, LICORNE_CMD_ARGS, GUNICORN_CMD_ARGS and the rows' own variables, PORT included. Lists in variables
 * are separated by commas; an empty variable counts as not set. */
bool cli_environment(struct settings *settings, char **environment, struct buf *errors);

/* --help, grouped; `width`: columns of the terminal. */
void cli_help(struct buf *out, int width);
