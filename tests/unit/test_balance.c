/* Who may take a newcomer, by what the scoreboard says. */
#include <stdatomic.h>

#include "server/process/balance.h"
#include "server/process/scoreboard.h"
#include "tests/unit/check.h"

#define NOW_NS UINT64_C(1000000000000)
#define MS_NS UINT64_C(1000000)

static struct scoreboard scoreboard, *board = &scoreboard;

/* -1: it takes none. */
static void set_loads(const int *loads, uint32_t count)
{
    atomic_store(&board->loads_end, count);
    for (uint32_t i = 0; i < count; i++) {
        atomic_store(&board->loads[i], (uint32_t)(loads[i] + 1));
        atomic_store(&board->slots[i].turn_began_ns, 0);
    }
}

#define LOADS(...) set_loads((int[]){ __VA_ARGS__ }, sizeof((int[]){ __VA_ARGS__ }) / sizeof(int))

static bool admits(uint32_t slot)
{
    uint32_t excess;
    return balance_admits(board, slot, NOW_NS, &excess);
}

static uint32_t excess_of(uint32_t slot)
{
    uint32_t excess = 0;
    balance_admits(board, slot, NOW_NS, &excess);
    return excess;
}

static void equal_loads_take_turns(void)
{
    LOADS(5, 5, 5);
    CHECK(admits(0) && admits(1) && admits(2));
    LOADS(1, 0);
    CHECK(admits(0) && admits(1));
}

static void who_has_more_than_the_average_does_not(void)
{
    LOADS(3, 0);
    CHECK(!admits(0));
    CHECK(admits(1));
    LOADS(100, 100, 100, 0);
    CHECK(!admits(0));
    CHECK(admits(3));
    CHECK_INT(excess_of(0), 25);
}

static void a_little_more_is_not_worth_a_wake_up(void)
{
    LOADS(102, 100, 100, 100);
    CHECK(admits(0));
    LOADS(120, 100, 100, 100);
    CHECK(!admits(0));
}

static void who_takes_none_does_not_count(void)
{
    LOADS(100, -1, -1);
    CHECK(admits(0));
}

static void who_is_stuck_does_not_count(void)
{
    LOADS(100, 0);
    atomic_store(&board->slots[1].turn_began_ns, NOW_NS - 2 * MS_NS);
    CHECK(!admits(0));
    atomic_store(&board->slots[1].turn_began_ns, NOW_NS - 4 * MS_NS);
    CHECK(admits(0));
}

/* Its own turn may have begun long ago. */
static void a_worker_itself_always_counts(void)
{
    LOADS(100, 0);
    atomic_store(&board->slots[0].turn_began_ns, NOW_NS - 4 * MS_NS);
    CHECK(!admits(0));
    CHECK(admits(1));
}

CHECK_MAIN(TEST(equal_loads_take_turns), TEST(who_has_more_than_the_average_does_not),
           TEST(a_little_more_is_not_worth_a_wake_up), TEST(who_takes_none_does_not_count),
           TEST(who_is_stuck_does_not_count), TEST(a_worker_itself_always_counts))
