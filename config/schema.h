/* schema: the settings as a JSON schema (draft 7), for the table [tool.licorne] in pyproject.toml: for editors. */
#pragma once

#include "server/base/buf.h"

void schema_print(struct buf *out);
