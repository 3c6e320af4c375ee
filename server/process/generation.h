/* generation: one configuration and the mold that was started with it. A reload makes the next one; the workers of the
 * present one retire when the next has all of its own ready. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "config/settings.h"
#include "server/process/backoff.h"

struct channel_message;
struct mold_handle;

struct generation {
    uint32_t number;
    struct settings settings; /* valid once `configured`; what was given on the command line before */
    bool configured;
    int passed_listeners;     /* so many sockets from NOTIFY_FIRST_FD on take the place of `bind` */
    struct mold_handle *mold; /* NULL: not started, or dead; made again when needed. The master's list owns it */
    struct backoff backoff;   /* its workers' and molds' crashes */
};

/* `given`: the settings of command line and environment. */
struct generation *generation_new(uint32_t number, const struct settings *given);
void generation_free(struct generation *generation);

/* Merges what the mold says of the config file into the settings, validates them, and finds out how many workers `auto`
 * means. False with messages in `errors`. */
bool generation_configure(struct generation *generation, const struct channel_message *answer, struct buf *errors);
/* Sends the mold its question, or the settings that hold. 0, or -1 with errno. */
int generation_ask(const struct generation *generation, const struct settings *given);
int generation_tell(const struct generation *generation);
