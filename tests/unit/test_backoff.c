/* How long the master waits when workers die young. */
#include "server/process/backoff.h"
#include "tests/unit/check.h"

static void the_first_costs_nothing_then_it_doubles(void)
{
    static const uint64_t waits[] = { 0, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000 };
    struct backoff backoff = { 0 };
    uint64_t now = 100000;
    for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); i++) {
        CHECK_INT(backoff_strike(&backoff, now, now + 5), waits[i]);
        CHECK_INT(backoff.until_ms, now + 5 + waits[i]);
        now = backoff.until_ms;
    }
}

static void a_wave_is_one_strike(void)
{
    struct backoff backoff = { 0 };
    CHECK_INT(backoff_strike(&backoff, 1000, 2000), 0);
    CHECK_INT(backoff_strike(&backoff, 1000, 2001), 0); /* started before the first strike */
    CHECK_INT(backoff_strike(&backoff, 1001, 2002), 0);
    CHECK_INT(backoff_strike(&backoff, 2003, 2100), 1000);
}

static void peace_is_remembered(void)
{
    struct backoff backoff = { 0 };
    backoff_strike(&backoff, 1000, 1000);
    CHECK_INT(backoff_strike(&backoff, 1000, 1100), 1000);
    CHECK_INT(backoff_strike(&backoff, 2100, 2100 + BACKOFF_FORGET_MS + 1), 0);
    CHECK_INT(backoff_strike(&backoff, 2100 + BACKOFF_FORGET_MS + 1, 2100 + BACKOFF_FORGET_MS + 1), 1000);
}

CHECK_MAIN(TEST(the_first_costs_nothing_then_it_doubles), TEST(a_wave_is_one_strike), TEST(peace_is_remembered))
