/* autoscale: see autoscale.h. */
#include "server/process/autoscale.h"

#include <stdatomic.h>
#include <stdbool.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/tally.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/scoreboard.h"
#include "server/process/worker_handle.h"

#define LOOK_MS 500
#define BUSY_AT_MOST 0.75 /* of their time, on average: above, there are more at once, */
#define BUSY_THEN 0.6     /* so many that they are this busy */
#define BUSY_AT_LEAST 0.5 /* one fewer goes when the others would not be busier than this */

int autoscale_least(const struct settings *settings)
{
    return settings->workers_max > 0 ? (int)settings->workers_min : 1;
}

int autoscale_most(const struct settings *settings)
{
    return settings->workers_max > 0 ? (int)settings->workers_max : WORKERS_MAX;
}

/* --- how busy they are -------------------------------------------------------------------------------------------- */

/* The time that it has spent inside turns, the present one included. */
static uint64_t turns_ns(struct slot *slot, uint64_t now_ns)
{
    uint64_t began_ns = atomic_load(&slot->turn_began_ns);
    return atomic_load(&slot->turns_ns) + (began_ns > 0 && began_ns < now_ns ? now_ns - began_ns : 0);
}

static double threads_share(struct slot *slot, int64_t threads)
{
    double share = (double)tally_get(&slot->tally.in_flight) / (double)threads;
    return threads < 2 ? 0 : share < 1 ? share : 1;
}

/* Between 0 and 1, since the last look. */
static double busyness(struct worker_handle *worker, int64_t threads, uint64_t now_ns, uint64_t since_ns)
{
    uint64_t turns = turns_ns(worker->slot, now_ns), before = worker->turns_seen_ns;
    worker->turns_seen_ns = turns;
    double share = turns > before ? (double)(turns - before) / (double)since_ns : 0;
    double used = threads_share(worker->slot, threads);
    share = share < 1 ? share : 1;
    return share > used ? share : used;
}

struct crew {
    int ready;
    bool awake;  /* one of them has had something to do not long ago */
    double busy; /* the sum of theirs */
};

static struct crew look_at_all(struct master *master, const struct generation *generation, uint64_t since_ms)
{
    struct crew crew = { 0 };
    uint64_t now_ns = clock_ns(), since_ns = since_ms * UINT64_C(1000000);
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->generation != generation->number || worker->state != WORKER_HANDLE_READY || worker->outgoing)
            continue;
        crew.ready++;
        crew.awake |= atomic_load(&worker->slot->unseen) == 0;
        crew.busy += busyness(worker, generation->settings.threads, now_ns, since_ns);
    }
    return crew;
}

/* --- how many that makes ------------------------------------------------------------------------------------------ */

/* At most twice as many at once. */
static int more(const struct crew *crew, int wanted)
{
    int enough = (int)(crew->busy / BUSY_THEN + 1);
    return enough > 2 * wanted ? 2 * wanted : enough > wanted ? enough : wanted + 1;
}

static int decide(struct autoscale *autoscale, const struct crew *crew, int wanted, int64_t down_ms, uint64_t now_ms)
{
    bool calm = wanted > 1 && crew->busy <= BUSY_AT_LEAST * (wanted - 1);
    if (!calm)
        autoscale->calm_ms = now_ms;
    if (crew->busy > BUSY_AT_MOST * wanted)
        return more(crew, wanted);
    if (now_ms - autoscale->calm_ms < (uint64_t)down_ms)
        return wanted;
    autoscale->calm_ms = now_ms;
    return wanted - calm;
}

static void scale_to(struct master *master, const struct generation *generation, const struct crew *crew, int wanted,
                     int better)
{
    int least = autoscale_least(&generation->settings), most = autoscale_most(&generation->settings);
    better = better < least ? least : better > most ? most : better;
    if (better == wanted)
        return;
    log_info("The workers are busy for %.0f %% of their time", 100 * crew->busy / crew->ready);
    master_scale(master, better - wanted);
}

uint64_t autoscale_look(struct master *master, uint64_t now_ms)
{
    struct autoscale *autoscale = &master->autoscale;
    const struct generation *generation = master->serving;
    if (!generation || generation->settings.workers_max == 0 || master->coming || master->stopping || master->parked)
        return 0; /* a reload ends with a turn of the master */
    if (now_ms < autoscale->looked_ms + LOOK_MS)
        return autoscale->looked_ms + LOOK_MS;
    bool rested = now_ms > autoscale->looked_ms + 2 * LOOK_MS; /* what was seen then says nothing about now */
    struct crew crew = look_at_all(master, generation, now_ms - autoscale->looked_ms);
    int wanted = master_wanted_workers(master, generation);
    int64_t down_ms = generation->settings.scale_down_delay_ms;
    autoscale->looked_ms = now_ms;
    if (rested)
        autoscale->calm_ms = now_ms;
    else if (crew.ready == wanted)
        scale_to(master, generation, &crew, wanted, decide(autoscale, &crew, wanted, down_ms, now_ms));
    bool at_rest = !crew.awake && wanted == autoscale_least(&generation->settings);
    return at_rest ? 0 : now_ms + LOOK_MS;
}
