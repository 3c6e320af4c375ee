/* words: see words.h. What Python's shlex.split() makes of the same text. */
#include "config/words.h"

#include <stdlib.h>
#include <string.h>

#include "server/base/mem.h"

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Within double quotes a backslash protects only these. */
static bool is_protected(char c)
{
    return c == '"' || c == '\\';
}

/* Copies up to the closing quote; returns what follows it, NULL when it is missing. */
static const char *take_quoted(const char *in, char quote, char **out)
{
    while (*in != quote) {
        if (quote == '"' && *in == '\\' && is_protected(in[1]))
            in++;
        if (!*in)
            return NULL;
        *(*out)++ = *in++;
    }
    return in + 1;
}

/* Copies one word; returns what follows it, NULL when it has no end. */
static const char *take_word(const char *in, char **out)
{
    while (in && *in && !is_blank(*in)) {
        if (*in == '\'' || *in == '"') {
            in = take_quoted(in + 1, *in, out);
            continue;
        }
        in += *in == '\\';
        if (!*in)
            return NULL;
        *(*out)++ = *in++;
    }
    return in;
}

static void add(struct words *words, char *word)
{
    words->items = mem_realloc(words->items, (words->count + 1) * sizeof(*words->items));
    words->items[words->count++] = word;
}

bool words_split(const char *text, struct words *words)
{
    char *room = mem_alloc(strlen(text) + 1); /* no word is longer than its source */
    *words = (struct words){ NULL, 0 };
    while (text) {
        char *end = room;
        while (is_blank(*text))
            text++;
        if (!*text)
            break;
        text = take_word(text, &end);
        if (text)
            add(words, mem_strndup(room, (size_t)(end - room)));
    }
    if (!text)
        words_done(words);
    free(room);
    return text != NULL;
}

void words_done(struct words *words)
{
    for (size_t i = 0; i < words->count; i++)
        free(words->items[i]);
    free(words->items);
    *words = (struct words){ NULL, 0 };
}
