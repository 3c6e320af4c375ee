/* balance: see balance.h. */
#include "server/process/balance.h"

#include <stdatomic.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/net/listener.h"
#include "server/process/scoreboard.h"

#define ASIDE_LEAST_MS 1
#define ASIDE_MOST_MS 5
#define EXCESS_A_MS 5     /* so much above the average is worth a millisecond */
#define SLACK_FRACTION 32 /* above the average by this part of it, and by one, is not worth waking another */

/* --- the decision ------------------------------------------------------------------------------------------------- */

struct sum {
    uint64_t load, count;
};

static void add(struct sum *sum, uint32_t published)
{
    sum->load += published - 1;
    sum->count++;
}

static bool fits(struct sum sum, uint32_t own)
{
    return own * sum.count <= sum.load + sum.load / SLACK_FRACTION + sum.count;
}

static bool is_stuck(struct slot *slot, uint64_t now_ns)
{
    uint64_t began_ns = atomic_load_explicit(&slot->turn_began_ns, memory_order_relaxed);
    return began_ns > 0 && now_ns > began_ns + BALANCE_STUCK_MS * UINT64_C(1000000);
}

static uint32_t published(struct scoreboard *board, uint32_t slot)
{
    return atomic_load_explicit(&board->loads[slot], memory_order_relaxed);
}

/* The loads lie close together and are looked at first; whose turn lasts too long, only when that matters. */
bool balance_admits(struct scoreboard *board, uint32_t own, uint64_t now_ns, uint32_t *excess)
{
    uint32_t end = atomic_load_explicit(&board->loads_end, memory_order_relaxed), mine = published(board, own), load;
    struct sum all = { 0 }, able = { 0 };
    for (uint32_t i = 0; i < end; i++)
        if ((load = published(board, i)) > 0)
            add(&all, load);
    if (mine == 0 || fits(all, mine - 1))
        return true;
    add(&able, mine);
    for (uint32_t i = 0; i < end; i++)
        if (i != own && (load = published(board, i)) > 0 && !is_stuck(&board->slots[i], now_ns))
            add(&able, load);
    *excess = mine - 1 - (uint32_t)(able.load / able.count);
    return fits(able, mine - 1);
}

/* --- the line ----------------------------------------------------------------------------------------------------- */

static bool is_alone(const struct balance *balance)
{
    return !balance->board || atomic_load_explicit(&balance->board->loads_end, memory_order_relaxed) <= 1;
}

static void set_aside(struct balance *balance, bool aside)
{
    balance->aside = aside;
    for (int i = 0; i < balance->listener_count; i++)
        listener_set_aside(&balance->listeners[i], aside);
}

/* What was left to the others is nobody's as long as they are all busy. */
static void on_back(struct alarm *alarm)
{
    struct balance *balance = LIST_ENTRY(alarm, struct balance, back);
    for (int i = 0; i < balance->listener_count; i++)
        listener_accept_one(&balance->listeners[i]);
    set_aside(balance, false);
}

static void step_aside(struct balance *balance, uint32_t excess)
{
    uint64_t ms = ASIDE_LEAST_MS + excess / EXCESS_A_MS;
    set_aside(balance, true);
    alarm_set(&balance->back, balance->loop, ms < ASIDE_MOST_MS ? ms : ASIDE_MOST_MS, on_back);
}

static int share(struct listener *listener)
{
    struct balance *balance = listener->share_arg;
    uint32_t excess = 0;
    if (!balance->counted || is_alone(balance))
        return LISTENER_BATCH;
    if (balance_admits(balance->board, balance->slot, clock_ns(), &excess))
        return 1;
    step_aside(balance, excess);
    return 0;
}

static bool in_line(const struct balance *balance)
{
    for (int i = 0; i < balance->listener_count; i++)
        if (listener_in_line(&balance->listeners[i]))
            return true;
    return false;
}

static void publish(const struct balance *balance)
{
    bool takes = balance->counted && (balance->aside || in_line(balance));
    if (balance->board)
        atomic_store_explicit(&balance->board->loads[balance->slot], takes ? balance->load + 1 : 0,
                              memory_order_relaxed);
}

/* --- the bell ----------------------------------------------------------------------------------------------------- */

static void on_rung(struct watch *watch)
{
    struct balance *balance = LIST_ENTRY(watch, struct balance, rung);
    uint64_t one;
    if (read(balance->bell, &one, sizeof(one)) < 0)
        return; /* another one was quicker */
    for (int i = 0; i < balance->listener_count; i++)
        listener_look_again(&balance->listeners[i]);
    watch_line_up(&balance->rung, balance->loop, balance->bell, on_rung);
}

void balance_ring(int bell)
{
    if (write(bell, &(uint64_t){ 1 }, sizeof(uint64_t)) < 0) {
        /* it has been ringing for long: nobody is there to hear it */
    }
}

/* Who has left the line does not hear the bell, or would hear his own. */
static void on_line(struct listener *listener, bool joined)
{
    struct balance *balance = listener->share_arg;
    publish(balance);
    if (balance->bell < 0)
        return;
    if (joined)
        watch_line_up(&balance->rung, balance->loop, balance->bell, on_rung);
    else if (!in_line(balance))
        watch_step_out(&balance->rung);
    if (!joined && !is_alone(balance))
        balance_ring(balance->bell);
}

/* --- entry points ------------------------------------------------------------------------------------------------- */

void balance_init(struct balance *balance, struct loop *loop, struct scoreboard *board, uint32_t slot, int bell)
{
    *balance = (struct balance){ .loop = loop, .board = board, .slot = slot, .bell = board ? bell : -1 };
}

void balance_listeners(struct balance *balance, struct listener *listeners, int count)
{
    balance->listeners = listeners;
    balance->listener_count = count;
    for (int i = 0; i < count; i++) {
        listeners[i].share_arg = balance;
        listeners[i].share = share;
        listeners[i].on_line = on_line;
    }
}

void balance_count(struct balance *balance, bool counted)
{
    balance->counted = counted;
    publish(balance);
}

void balance_load(struct balance *balance, uint32_t load)
{
    if (load == balance->load)
        return;
    balance->load = load;
    publish(balance);
}

void balance_done(struct balance *balance)
{
    balance_count(balance, false);
    alarm_clear(&balance->back);
    watch_step_out(&balance->rung);
}
