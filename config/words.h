/* words: a text split as a POSIX shell would, without expansions: blanks separate, quotes and backslashes protect. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct words {
    char **items;
    size_t count;
};

/* False: a quotation mark is not closed, or the text ends in a backslash; nothing is to be freed then. */
bool words_split(const char *text, struct words *words);
void words_done(struct words *words);
