/* turnaway: what the master does for clients while no worker is ready (a crash loop, a start that takes long): each new
 * connection is answered with the same few bytes, 503, without looking at what it asks. The answer is followed by a
 * shutdown, and what the client still sends is read and dropped for a while: closed at once, it could see a reset in
 * place of the answer. Nothing here blocks; so many clients at a time, the others wait in the backlog. */
#pragma once

#include <poll.h>
#include <stddef.h>
#include <stdint.h>

struct listeners;
struct turnaway;

#define TURNAWAY_CLIENTS 64

struct turnaway *turnaway_new(void);
void turnaway_free(struct turnaway *turnaway);

/* How many entries turnaway_poll() may fill in. */
size_t turnaway_polled_max(const struct listeners *listeners);
/* Its part of the poll. `active`: new connections are taken too. Returns how many entries. */
size_t turnaway_poll(const struct turnaway *turnaway, const struct listeners *listeners, int active,
                     struct pollfd *polled);
/* After the poll, with the same entries. */
void turnaway_turn(struct turnaway *turnaway, const struct pollfd *polled, size_t count, uint64_t now_ms);
/* Drops whom has taken too long. Returns when the next one will have; 0: there is none. */
uint64_t turnaway_check(struct turnaway *turnaway, uint64_t now_ms);
