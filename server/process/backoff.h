/* backoff: how long to wait before the next attempt when processes die young: 1 s, doubling to 30 s. The first death
 * costs no wait, so that a worker killed from outside is replaced at once. */
#pragma once

#include <stdint.h>

#define BACKOFF_FIRST_MS 1000
#define BACKOFF_MAX_MS 30000
#define BACKOFF_FORGET_MS 10000 /* so long after a wait was over without a strike: all is forgotten */

struct backoff {
    unsigned strikes;
    uint64_t struck_ms, until_ms;
};

/* A process died young that was started at `started_ms`. Those that were started before the last strike are part of it.
 * Returns how long the wait is that follows from this strike; 0: none. */
static inline uint64_t backoff_strike(struct backoff *backoff, uint64_t started_ms, uint64_t now_ms)
{
    if (backoff->strikes > 0 && started_ms < backoff->struck_ms)
        return 0;
    if (now_ms > backoff->until_ms + BACKOFF_FORGET_MS)
        backoff->strikes = 0;
    unsigned doublings = backoff->strikes++;
    uint64_t wait = 0;
    if (doublings > 0)
        wait = doublings > 5 ? BACKOFF_MAX_MS : (uint64_t)BACKOFF_FIRST_MS << (doublings - 1);
    backoff->struck_ms = now_ms;
    backoff->until_ms = now_ms + (wait < BACKOFF_MAX_MS ? wait : BACKOFF_MAX_MS);
    return backoff->until_ms - now_ms;
}
