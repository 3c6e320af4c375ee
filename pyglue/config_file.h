/* config_file: the settings of the user's configuration file (Python), put into the table. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "server/base/buf.h"

struct settings;

/* Puts the variables of that file (setting env_file) into os.environ, but for those that are set. False with one line. */
bool config_file_environment(const char *path, struct buf *message);

/* Runs the file that `given->config` names ("PATH", "file:PATH", "python:MODULE"; NULL: ./licorne.conf.py, else
 * ./gunicorn.conf.py, else [tool.licorne] in ./pyproject.toml, else none) and sets what it says in `settings`, with the source SOURCE_CONFIG_FILE. `given`: what
 * stronger sources say. False with one line in `message`; an exception of the file's code has been logged with its
 * traceback. GIL held; no exception is left pending. */
bool config_file_read(struct settings *settings, const struct settings *given, struct buf *message);
