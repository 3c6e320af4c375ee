/* scoreboard: one shared mapping (a memfd) with a slot a worker. The worker writes its slot, anyone reads, no locks:
 * every field is written by one process and read whole. Slots are cache-line padded. */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/inflight.h"
#include "server/base/tally.h"

#define SCOREBOARD_VERSION 7
#define SCOREBOARD_SLOTS 2048 /* workers of all generations at once; untouched pages cost nothing */

enum slot_state { SLOT_FREE, SLOT_BOOTING, SLOT_READY, SLOT_DRAINING };

struct slot {
    _Alignas(64) _Atomic uint32_t state;
    uint32_t generation, age;
    _Atomic int32_t pid;
    _Atomic uint64_t turn_began_ns; /* when the loop's current turn began (CLOCK_MONOTONIC); 0 while it polls */
    _Atomic uint32_t unseen; /* the master's: it looks no more, and is to be told of the next turn (CHANNEL_AWAKE) */
    _Atomic uint64_t last_turn_ns, longest_turn_ns; /* how long turns lasted: the last one, the longest one, */
    _Atomic uint64_t turns_ns;                      /* all that are over */
    _Atomic uint64_t handed_over, taken_over;       /* connections given to siblings, and got from them */
    struct tally tally;
    _Atomic uint64_t request_limit_ms; /* the application has set limits as short as this; 0: none but the settings' */
};

struct scoreboard {
    uint32_t version, slot_count;
    _Atomic uint32_t neighbour; /* another server's workers take from the exchanges too (upgrade.h); the master's */
    /* By slot, 1 + connections + requests in flight of a worker that takes newcomers, else 0 (balance.h). Close together:
     * they are looked at for each newcomer, and change seldom. */
    _Atomic uint32_t loads_end; /* there are none from here on; the master's */
    _Alignas(64) _Atomic uint32_t loads[SCOREBOARD_SLOTS];
    struct slot slots[SCOREBOARD_SLOTS];
    struct inflight_table inflight[SCOREBOARD_SLOTS]; /* of the slot with the same number */
};

/* The master's: makes the memfd (close-on-exec; *fd) and maps it. NULL with errno. */
struct scoreboard *scoreboard_new(int *fd);
/* A child's: maps an inherited descriptor; NULL when version or size do not fit. */
struct scoreboard *scoreboard_map(int fd);
/* In a child that the application has forked: what it writes from now on, nobody sees. */
void scoreboard_leave(void);
