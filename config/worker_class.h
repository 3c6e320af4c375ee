/* worker_class: gunicorn's choice among kinds of workers. Here is one kind, which serves what all of those do; the setting
 * is accepted so that old command lines and files work. */
#pragma once

#include <stdbool.h>

#include "server/base/buf.h"

struct settings;

/* False, with a message appended to `errors`: what that worker does is not done here. */
bool worker_class_check(const struct settings *settings, struct buf *errors);
