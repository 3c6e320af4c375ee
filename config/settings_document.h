/* settings_document: docs/settings.md, from the table. */
#pragma once

#include "server/base/buf.h"

void settings_document(struct buf *out);
