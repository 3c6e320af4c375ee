/* clock: see clock.h. */
#include "server/base/clock.h"

#include <stdio.h>

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t clock_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_coarse_ns(void)
{
    return read_clock(CLOCK_MONOTONIC_COARSE);
}

/* Not strftime: its day and month names follow the locale that the application may set. */
static int format_http_date(char *text, size_t size, time_t when)
{
    static const char days[7][4] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
    static const char months[12][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    struct tm t;
    gmtime_r(&when, &t);
    return snprintf(text, size, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[t.tm_wday], t.tm_mday, months[t.tm_mon],
                    t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
}

struct str clock_http_date(void)
{
    static _Thread_local char text[64];
    static _Thread_local time_t formatted;
    static _Thread_local size_t len;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec != formatted || len == 0) {
        len = (size_t)format_http_date(text, sizeof(text), now.tv_sec);
        formatted = now.tv_sec;
    }
    return (struct str){ text, len };
}
