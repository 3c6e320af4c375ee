/* scoreboard: one shared mapping (a memfd) with a slot a worker. The worker writes its slot, anyone reads, no locks:
 * every field is written by one process and read whole. Slots are cache-line padded. */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define SCOREBOARD_VERSION 2
#define SCOREBOARD_SLOTS 2048 /* workers of all generations at once; untouched pages cost nothing */

enum slot_state { SLOT_FREE, SLOT_BOOTING, SLOT_READY, SLOT_DRAINING };

struct slot {
    _Alignas(64) _Atomic uint32_t state;
    uint32_t generation, age;
    _Atomic int32_t pid;
    _Atomic uint64_t turn_began_ns; /* when the loop's current turn began (CLOCK_MONOTONIC); 0 while it polls */
    _Atomic uint64_t requests, conns_accepted;
    _Atomic uint32_t conns, in_flight;
    _Atomic uint64_t status_class[6];
    _Atomic uint32_t unseen; /* the master's: it looks no more, and is to be told of the next turn (CHANNEL_AWAKE) */
};

struct scoreboard {
    uint32_t version, slot_count;
    struct slot slots[SCOREBOARD_SLOTS];
};

/* The master's: makes the memfd (close-on-exec; *fd) and maps it. NULL with errno. */
struct scoreboard *scoreboard_new(int *fd);
/* A child's: maps an inherited descriptor; NULL when version or size do not fit. */
struct scoreboard *scoreboard_map(int fd);
