/* cli: the command line and the environment, over the rows of settings.def. */
#pragma once

#include "config/settings.h"

enum cli_action { CLI_SERVE, CLI_HELP, CLI_VERSION, CLI_USAGE_ERROR };

/* Reads argv into `settings` (source: command line). CLI_USAGE_ERROR: messages are in `errors`. Accepts --x=V, --x V, -xV, -x V, bundled
 * flags, `--`, and unambiguous prefixes of long options as argparse does. */
enum cli_action cli_parse(struct settings *settings, int argc, char **argv, struct buf *errors);

/* LICORNE_<NAME>, LICORNE_CMD_ARGS, GUNICORN_CMD_ARGS and the rows' own variables, PORT included. */
bool cli_environment(struct settings *settings, char **environment, struct buf *errors);

/* --help, grouped; `width`: columns of the terminal. */
void cli_help(struct buf *out, int width);
