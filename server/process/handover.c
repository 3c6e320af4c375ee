/* handover: see handover.h. */
#include "server/process/handover.h"

#include <linux/sockios.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/mem.h"
#include "server/net/loop.h"
#include "server/process/balance.h"
#include "server/process/descriptors.h"
#include "server/process/inherit.h"
#include "server/process/scoreboard.h"

#define RETRY_MS 5
#define ASIDE_MS 2
#define FULL_MS 1000 /* so long nobody has taken anything: nobody will */

/* --- taking ------------------------------------------------------------------------------------------------------- */

static void on_take(struct taker *taker, const struct parcel *parcel)
{
    struct handover *handover = taker->arg;
    atomic_fetch_add_explicit(&handover->inherit->slot->taken_over, 1, memory_order_relaxed);
    handover->on_take(handover, (int)(taker - handover->takers), parcel);
}

static void on_back(struct alarm *alarm)
{
    struct handover *handover = LIST_ENTRY(alarm, struct handover, back);
    for (int i = 0; i < handover->count; i++)
        taker_return(&handover->takers[i]);
}

/* Who has more than its share leaves them to the others for a moment, as with newcomers. */
static bool admits(struct taker *taker)
{
    struct handover *handover = taker->arg;
    const struct inherit *inherit = handover->inherit;
    uint32_t excess = 0;
    if (!inherit->scoreboard || balance_admits(inherit->scoreboard, inherit->slot_index, clock_ns(), &excess))
        return true;
    alarm_set(&handover->back, handover->loop, ASIDE_MS, on_back);
    return false;
}

void handover_init(struct handover *handover, const struct inherit *inherit, struct loop *loop)
{
    *handover = (struct handover){ .inherit = inherit, .loop = loop };
    if (!inherit->exchanges)
        return;
    handover->count = inherit->listener_count;
    handover->most = descriptors_room();
    if (handover->most > inherit->settings->worker_connections)
        handover->most = inherit->settings->worker_connections;
    handover->takers = mem_zalloc(sizeof(struct taker) * (size_t)(handover->count + 1));
    for (int i = 0; i < handover->count; i++) {
        taker_init(&handover->takers[i], loop, inherit->exchanges[i][EXCHANGE_IN]);
        handover->takers[i].on_take = on_take;
        handover->takers[i].admits = admits;
        handover->takers[i].arg = handover;
    }
}

void handover_start(struct handover *handover)
{
    for (int i = 0; i < handover->count; i++)
        taker_start(&handover->takers[i]);
}

void handover_pause(struct handover *handover, bool paused)
{
    for (int i = 0; i < handover->count; i++)
        (paused ? taker_pause : taker_resume)(&handover->takers[i]);
}

void handover_stop_taking(struct handover *handover)
{
    for (int i = 0; i < handover->count; i++) {
        taker_close(&handover->takers[i]);
        handover->inherit->exchanges[i][EXCHANGE_IN] = -1;
    }
}

static bool has_neighbour(const struct handover *handover)
{
    const struct scoreboard *board = handover->inherit->scoreboard;
    return board && atomic_load_explicit(&board->neighbour, memory_order_relaxed);
}

bool handover_shut(struct handover *handover)
{
    bool neighbour = has_neighbour(handover);
    for (int i = 0; i < handover->count && !neighbour; i++)
        exchange_shut(handover->inherit->exchanges[i][EXCHANGE_IN]);
    return neighbour;
}

/* --- giving ------------------------------------------------------------------------------------------------------- */

static uint64_t room_of(const struct handover *handover, uint32_t i)
{
    const struct scoreboard *board = handover->inherit->scoreboard;
    uint64_t limit = (uint64_t)handover->most, conns = tally_get(&board->slots[i].tally.conns);
    bool takes = i != handover->inherit->slot_index && atomic_load_explicit(&board->loads[i], memory_order_relaxed) > 0;
    return takes && conns < limit ? limit - conns : 0;
}

/* How many connections the siblings could take, all together. Who takes newcomers has a load (balance.h). */
static uint64_t room(const struct handover *handover)
{
    const struct scoreboard *board = handover->inherit->scoreboard;
    if (has_neighbour(handover))
        return UINT64_MAX;
    uint32_t end = board ? atomic_load_explicit(&board->loads_end, memory_order_relaxed) : 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < end; i++)
        sum += room_of(handover, i);
    return sum;
}

static bool is_empty(int out)
{
    int queued = 0;
    return ioctl(out, SIOCOUTQ, &queued) == 0 && queued == 0;
}

static void on_retry(struct alarm *alarm)
{
    struct handover *handover = LIST_ENTRY(alarm, struct handover, retry);
    bool room = clock_ms() - handover->full_since_ms < FULL_MS;
    handover->on_room(handover, room);
}

static void wait_for_room(struct handover *handover)
{
    if (handover->full_since_ms == 0)
        handover->full_since_ms = clock_ms();
    alarm_set(&handover->retry, handover->loop, RETRY_MS, on_retry);
}

enum exchange_result handover_send(const struct handover *handover, int listener, const struct parcel *parcel)
{
    const struct inherit *inherit = handover->inherit;
    if (listener >= handover->count)
        return EXCHANGE_SHUT;
    enum exchange_result result = exchange_send(inherit->exchanges[listener][EXCHANGE_OUT], parcel);
    if (result == EXCHANGE_SENT)
        atomic_fetch_add_explicit(&inherit->slot->handed_over, 1, memory_order_relaxed);
    return result;
}

/* No more than there is room for goes into the queue: what nobody has room for would wait there. `given` counts what was
 * sent since the queue was last seen empty. */
static enum exchange_result give(struct handover *handover, int listener, const struct parcel *parcel)
{
    uint64_t most = room(handover);
    if (listener >= handover->count || most == 0)
        return EXCHANGE_SHUT;
    if (handover->given >= most && !is_empty(handover->inherit->exchanges[listener][EXCHANGE_OUT]))
        return EXCHANGE_FULL;
    if (handover->given >= most)
        handover->given = 0;
    return handover_send(handover, listener, parcel);
}

enum exchange_result handover_give(struct handover *handover, int listener, const struct parcel *parcel)
{
    enum exchange_result result = give(handover, listener, parcel);
    if (result == EXCHANGE_FULL)
        wait_for_room(handover);
    if (result != EXCHANGE_SENT)
        return result;
    handover->full_since_ms = 0;
    handover->given++;
    return result;
}

void handover_done(struct handover *handover)
{
    handover_stop_taking(handover);
    alarm_clear(&handover->retry);
    alarm_clear(&handover->back);
    free(handover->takers);
    handover->takers = NULL;
    handover->count = 0;
}
