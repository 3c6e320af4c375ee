/* arena: memory that is given back all at once. Allocation is a pointer bump; blocks beyond the first are
 * freed by arena_reset(), the first is kept for the next use. */
#pragma once

#include <stddef.h>

#include "server/base/str.h"

struct arena_block;

struct arena {
    struct arena_block *blocks; /* newest first; the oldest is the one that is kept */
    char *next, *end;
};

/* Aligned to 8 bytes, not zeroed. */
void *arena_alloc(struct arena *a, size_t n);
struct str arena_copy(struct arena *a, struct str s);
void arena_reset(struct arena *a);
void arena_done(struct arena *a);
