/* arena: see arena.h. */
#include "server/base/arena.h"

#include <stdlib.h>
#include <string.h>

#include "server/base/mem.h"

#define ARENA_BLOCK_BYTES 2048

struct arena_block {
    struct arena_block *older;
    size_t cap;
    _Alignas(8) char data[];
};

static void arena_add_block(struct arena *a, size_t need)
{
    size_t cap = need > ARENA_BLOCK_BYTES ? need : ARENA_BLOCK_BYTES;
    struct arena_block *block = mem_alloc(sizeof(*block) + cap);
    block->older = a->blocks;
    block->cap = cap;
    a->blocks = block;
    a->next = block->data;
    a->end = block->data + cap;
}

void *arena_alloc(struct arena *a, size_t n)
{
    n = (n + 7) & ~(size_t)7;
    if ((size_t)(a->end - a->next) < n)
        arena_add_block(a, n);
    void *p = a->next;
    a->next += n;
    return p;
}

struct str arena_copy(struct arena *a, struct str s)
{
    char *copy = arena_alloc(a, s.len);
    if (s.len > 0)
        memcpy(copy, s.p, s.len);
    return (struct str){ copy, s.len };
}

static void arena_free_until(struct arena *a, struct arena_block *last)
{
    while (a->blocks != last) {
        struct arena_block *older = a->blocks->older;
        free(a->blocks);
        a->blocks = older;
    }
}

void arena_reset(struct arena *a)
{
    struct arena_block *first = a->blocks;
    if (first == NULL)
        return;
    while (first->older != NULL)
        first = first->older;
    if (first->cap > ARENA_BLOCK_BYTES)
        first = NULL; /* one that a large request made is not kept */
    arena_free_until(a, first);
    a->next = first ? first->data : NULL;
    a->end = first ? first->data + first->cap : NULL;
}

void arena_done(struct arena *a)
{
    arena_free_until(a, NULL);
    *a = (struct arena){ 0 };
}
