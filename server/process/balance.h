/* balance: how siblings share newcomers. Each worker publishes its load (connections + requests in flight) in the
 * scoreboard. The kernel wakes one waiting worker for a newcomer, in turn (net/loop.h: loop_line_up). If that one has
 * clearly more than the others have on average, it steps aside for a moment, and rings a bell that wakes one of the
 * others:
 *
 *     woken -> no more than its share?
 *                yes -> accepts one, goes to the end of the line
 *                no  -> out of the line, rings; back 1 to 5 ms later, and accepts one if it is still there
 *
 * Those who cannot take it (stuck in a turn; booting, draining, full: no load published) are left out of the average.
 * So a newcomer costs one wake-up, whatever the number of workers; the bell is for loads that have drifted apart.
 * Alone, a worker accepts all that is there. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/net/watch.h"

struct listener;
struct loop;
struct scoreboard;

#define BALANCE_STUCK_MS 3 /* who is in one turn for longer takes no newcomers now */

struct balance {
    struct scoreboard *board; /* NULL: it is alone */
    uint32_t slot, load;
    int bell;                 /* shared by all workers: an eventfd that counts who is to be woken */
    bool counted, aside;      /* takes newcomers; or will soon again */
    struct loop *loop;
    struct listener *listeners;
    int listener_count;
    struct watch rung;
    struct alarm back;
};

/* `board` may be NULL, `bell` -1. Takes the listeners' hooks over; nothing happens before they are started. */
void balance_init(struct balance *balance, struct loop *loop, struct scoreboard *board, uint32_t slot, int bell);
void balance_listeners(struct balance *balance, struct listener *listeners, int count);
/* From now on it takes its share, and no more than that; or no longer: it takes what there is, and does not count. */
void balance_count(struct balance *balance, bool counted);
void balance_load(struct balance *balance, uint32_t load);
void balance_done(struct balance *balance);

/* Wakes one of those in line, to look for newcomers. From any thread. */
void balance_ring(int bell);

/* Whether slot `own` may take a newcomer; *excess: by how much it is above the average of those who could. */
bool balance_admits(struct scoreboard *board, uint32_t own, uint64_t now_ns, uint32_t *excess);
