/* percent: the percent-encoding of URIs (RFC 3986 2.1). What is no valid escape stands for itself. */
#pragma once

#include <stddef.h>

#include "server/base/str.h"

/* The byte that `text` begins with; returns how many bytes of it that takes, 0 at its end. */
size_t percent_decode_one(struct str text, char *c);
/* Writes at most text.len bytes; returns how many. */
size_t percent_decode(struct str text, char *to);
/* Writes at most 3 * path.len bytes, which are valid in a path and decode to `path`; returns how many. */
size_t percent_encode(struct str path, char *to);
