/* clock: monotonic and wall time, and the Date header's text. All times that outlive a call are monotonic. */
#pragma once

#include <stdint.h>
#include <time.h>

#include "server/base/str.h"

uint64_t clock_ns(void);        /* CLOCK_MONOTONIC */
uint64_t clock_coarse_ns(void); /* the same, up to some milliseconds late: a few ns */

static inline uint64_t clock_ms(void)
{
    return clock_ns() / 1000000;
}

/* The same clock as it was at the last tick of the kernel, some milliseconds ago: a fifth of the cost. */
static inline uint64_t clock_coarse_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Seconds since the epoch. */
static inline double clock_wall(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* "Sat, 21 Nov 2026 15:41:00 GMT" (RFC 9110 5.6.7), formatted at most once a second. Valid until the next call
 * from this thread. */
struct str clock_http_date(void);
