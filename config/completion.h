/* completion: what a shell needs to complete licorne's command line, made from the table. */
#pragma once

#include "server/base/buf.h"

void completion_bash(struct buf *out);
void completion_zsh(struct buf *out);
void completion_fish(struct buf *out);
