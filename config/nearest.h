/* nearest: which of some known words a mistyped one was meant to be. Offer the candidates, then ask. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct nearest {
    const char *wanted;
    const char *best; /* NULL: none is near enough */
    size_t distance;
};

static inline struct nearest nearest_to(const char *wanted)
{
    return (struct nearest){ wanted, NULL, SIZE_MAX };
}

/* `candidate` is compared, `name` (which must outlive the struct) is what to propose. */
void nearest_offer(struct nearest *nearest, const char *candidate, const char *name);

/* Insertions, deletions, substitutions and swaps of neighbours that turn one into the other, letters' case aside. */
size_t nearest_distance(const char *a, const char *b);
