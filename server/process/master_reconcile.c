/* master_reconcile: makes the real processes equal the wanted ones. Nothing here waits: what cannot be done yet is done
 * in a later turn. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/process/channel.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/mold_handle.h"
#include "server/process/notify.h"
#include "server/process/scoreboard.h"
#include "server/process/worker_handle.h"

#define SPAWNS_AT_ONCE 8 /* requests that a mold has not answered yet: it forks one after the other anyway */

struct census {
    int serving;        /* alive and not on their way out */
    int ready;          /* of those */
    int settled;        /* of those, ready for boot_grace */
    int spawning;       /* of `serving` */
    uint64_t settle_ms; /* when the next one will be settled; 0: all that are ready are */
};

/* When it will have been ready long enough for its predecessors to go. */
static uint64_t settles_ms(const struct worker_handle *worker, const struct generation *generation)
{
    return worker->ready_ms + (uint64_t)generation->settings.boot_grace_ms;
}

static void count_ready(struct census *census, uint64_t settles)
{
    census->ready++;
    if (clock_ms() >= settles)
        census->settled++;
    else if (census->settle_ms == 0 || settles < census->settle_ms)
        census->settle_ms = settles;
}

static struct census count_workers(const struct master *master, const struct generation *generation)
{
    struct census census = { 0 };
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->generation != generation->number || !worker_handle_serves(worker))
            continue;
        census.serving++;
        if (worker->state == WORKER_HANDLE_READY)
            count_ready(&census, settles_ms(worker, generation));
        census.spawning += worker->state == WORKER_HANDLE_SPAWNING;
    }
    return census;
}

int master_wanted_workers(const struct master *master, const struct generation *generation)
{
    int wanted = (int)generation->settings.workers + master->scale;
    if (master->parked)
        return 0;
    int least = autoscale_least(&generation->settings), most = autoscale_most(&generation->settings);
    return wanted < least ? least : wanted > most ? most : wanted;
}

struct generation *master_generation(const struct master *master, uint32_t number)
{
    if (master->serving && master->serving->number == number)
        return master->serving;
    return master->coming && master->coming->number == number ? master->coming : NULL;
}

/* --- spawning ------------------------------------------------------------------------------------------------- */

void master_strike(struct master *master, struct generation *generation, uint64_t started_ms)
{
    if (!generation || master->stopping)
        return;
    uint64_t wait_ms = backoff_strike(&generation->backoff, started_ms, clock_ms());
    if (wait_ms > 0)
        log_warning("Processes die young: the next one is started in %g s", (double)wait_ms / 1e3);
}

static void start_mold(struct master *master, struct generation *generation)
{
    struct mold_start start = {
        .python = master->python,
        .jemalloc = generation->settings.malloc == MALLOC_JEMALLOC ? master->jemalloc : NULL,
        .scoreboard = master->board_fd,
        .home = &master->home,
        .generation = generation->number,
        .boot_timeout_ms = generation->settings.boot_timeout_ms,
    };
    uint64_t now_ms = clock_ms();
    generation->mold = mold_handle_new(&start);
    if (!generation->mold) {
        log_error("Cannot start %s: %s", master->python, strerror(errno));
        master_strike(master, generation, now_ms);
        return;
    }
    list_append(&master->molds, &generation->mold->node);
    master_look_at(master, generation->mold->due_ms);
    if (generation_ask(generation, master->given) != 0)
        mold_handle_kill(generation->mold); /* its death tells */
}

static int free_slot(const struct master *master)
{
    for (int i = 0; i < SCOREBOARD_SLOTS; i++)
        if (!master->slot_used[i])
            return i;
    return -1;
}

/* Slots beyond the last one that is used need not be looked at. */
static void tell_loads_end(const struct master *master)
{
    uint32_t end = SCOREBOARD_SLOTS;
    while (end > 0 && !master->slot_used[end - 1])
        end--;
    atomic_store(&master->board->loads_end, end);
}

void master_drop_worker(struct master *master, struct worker_handle *worker)
{
    master->slot_used[worker->slot_index] = false;
    master_end_report(master, worker, STR("(it has died)"));
    worker_handle_free(worker);
    tell_loads_end(master);
}

static int send_spawn(const struct master *master, const struct generation *generation,
                      const struct worker_handle *worker, int child_channel)
{
    struct channel_spawn spawn = { worker->slot_index, worker->generation, worker->age };
    int fds[2 + 3 * LISTENERS_MAX] = { child_channel, master->bell };
    int count = 2 + listeners_of(&master->listeners, &generation->settings.bind, fds + 2);
    count += listeners_exchanges_of(&master->listeners, &generation->settings.bind, fds + count);
    return channel_send(generation->mold->channel, CHANNEL_SPAWN, &spawn, sizeof(spawn), fds, count);
}

static char *slowlog_of(const struct master *master, const struct settings *settings)
{
    const char *path = settings->slowlog;
    return path && *path && strcmp(path, "-") != 0 ? home_resolve(&master->home, settings->chdir, path) : NULL;
}

/* Asks the mold for a worker. False: not now. */
static bool spawn(struct master *master, struct generation *generation)
{
    int slot = free_slot(master), child_channel;
    struct worker_handle *worker = NULL;
    if (slot >= 0)
        worker = worker_handle_new(master->board, (uint32_t)slot, generation->number, ++master->last_age,
                                   &generation->settings, &child_channel);
    if (!worker) {
        log_error("Cannot start a worker: %s", slot < 0 ? "too many of them are still ending" : strerror(errno));
        master_strike(master, generation, clock_ms());
        return false;
    }
    int outcome = send_spawn(master, generation, worker, child_channel);
    close(child_channel);
    if (outcome != 0) { /* the mold is dying, which is heard of, or busy */
        worker_handle_free(worker);
        master_look_at(master, clock_ms() + BACKOFF_FIRST_MS);
        return false;
    }
    worker->slowlog = slowlog_of(master, &generation->settings);
    master->slot_used[slot] = true;
    tell_loads_end(master);
    list_append(&master->workers, &worker->node);
    master_look_at(master, worker->due_ms);
    return true;
}

static void spawn_missing(struct master *master, struct generation *generation, struct census census, int wanted)
{
    if (clock_ms() < generation->backoff.until_ms) {
        master_look_at(master, generation->backoff.until_ms);
        return;
    }
    if (!generation->mold)
        start_mold(master, generation);
    else if (generation->mold->state == MOLD_LOADED)
        for (; census.serving < wanted && census.spawning < SPAWNS_AT_ONCE; census.serving++, census.spawning++)
            if (!spawn(master, generation))
                return;
}

/* --- retiring ------------------------------------------------------------------------------------------------- */

static void retire(struct master *master, struct worker_handle *worker, bool last)
{
    struct channel_stop stop = { .graceful = true, .last = last, .alone = master->parked && !upgrade_has_neighbour(master) };
    worker_handle_stop(worker, &stop);
    master_look_at(master, worker->due_ms);
}

/* The oldest go first. */
static void retire_surplus(struct master *master, const struct generation *generation, int surplus)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (surplus <= 0)
            return;
        if (worker->generation != generation->number || !worker_handle_serves(worker))
            continue;
        retire(master, worker, false);
        surplus--;
    }
}

static bool leaves(const struct worker_handle *worker, const struct generation *generation)
{
    return worker->generation == generation->number && worker->leaving && worker->state == WORKER_HANDLE_READY;
}

/* It was signalled, and does not wait for its replacement. */
static bool drains_already(const struct worker_handle *worker)
{
    return atomic_load(&worker->slot->state) == SLOT_DRAINING;
}

static int recycled_at_once(const struct generation *generation, int wanted)
{
    int limit = (int)generation->settings.recycle_concurrency;
    return limit > 0 ? limit : wanted >= 10 ? wanted / 10 : 1;
}

/* Of those that are to be replaced, so many have their replacements made at a time: the others serve on until then. None
 * while a reload waits for all to be settled. */
static void admit_leaving(struct master *master, const struct generation *generation, int wanted)
{
    bool settling = generation == master->coming && master->serving;
    int room = settling ? 0 : recycled_at_once(generation, wanted);
    LIST_EACH(it, &master->workers)
        room -= leaves(LIST_ENTRY(it, struct worker_handle, node), generation) &&
                LIST_ENTRY(it, struct worker_handle, node)->outgoing;
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (!leaves(worker, generation) || worker->outgoing || (room <= 0 && !drains_already(worker)))
            continue;
        worker->outgoing = true;
        room--;
    }
}

/* Those whose replacements are ready. */
static void retire_outgoing(struct master *master, const struct generation *generation)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (leaves(worker, generation) && worker->outgoing)
            retire(master, worker, false);
    }
}

/* Workers of generations that are no more. Those that serve do so until the serving generation is whole: after a reload
 * that failed half-way it has to be made whole first. */
static void retire_outdated_workers(struct master *master, bool whole)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->state <= WORKER_HANDLE_READY && !worker->abandoned &&
            !master_generation(master, worker->generation) && (whole || worker->state != WORKER_HANDLE_READY))
            retire(master, worker, master->drops_addresses);
    }
}

static void retire_outdated_molds(struct master *master)
{
    LIST_EACH(it, &master->molds) {
        struct mold_handle *mold = LIST_ENTRY(it, struct mold_handle, node);
        if (mold->state != MOLD_STOPPING && !master_generation(master, mold->generation)) {
            mold_handle_stop(mold);
            master_look_at(master, mold->due_ms);
        }
    }
}

/* --- generations ---------------------------------------------------------------------------------------------- */

void master_reload(struct master *master)
{
    if (master->stopping || master->drain_ms > 0)
        return;
    if (master->coming) {
        master->reload_again = true;
        return;
    }
    master->parked = false;
    if (master->serving)
        log_info("Reloading: generation %u is started beside the present one", master->last_generation + 1);
    if (master->serving)
        notify_reloading(master->notify);
    master->coming = generation_new(++master->last_generation, master->given);
    master->coming->passed_listeners = master->passed_listeners;
}

static void reload_if_asked(struct master *master)
{
    bool again = master->reload_again;
    master->reload_again = false;
    if (again)
        master_reload(master);
}

/* What the predecessor's workers still accept there is served by them: nobody else does. */
static void keep_listeners(struct master *master, const struct generation *generation)
{
    const struct settings *settings = &generation->settings;
    master->drops_addresses = listeners_keep(&master->listeners, &settings->bind, (int)settings->backlog) > 0;
}

/* All its workers are ready: it serves, and its predecessor is outdated from now on. */
static void promote(struct master *master)
{
    struct generation *old = master->serving, *new = master->coming;
    int workers = master_wanted_workers(master, new);
    master->serving = new;
    master->coming = NULL;
    if (old) {
        master_moved(master);
        keep_listeners(master, new);
        log_info("Reloaded: generation %u serves", new->number);
        generation_free(old);
    } else {
        log_info("Ready: %d worker%s after %.2f s", workers, workers == 1 ? "" : "s",
                 (double)(clock_ms() - master->began_ms) / 1e3);
    }
    notify_ready(master->notify, new->number, workers);
    if (!old)
        upgrade_ready(master);
    reload_if_asked(master);
}

static void end_server(struct master *master, int exit_code)
{
    if (master->stopping)
        return;
    master->exit_code = exit_code;
    master_stop(master, false);
}

static void end_reload(struct master *master)
{
    log_error("The reload has failed: generation %u serves on", master->serving->number);
    generation_free(master->coming);
    master->coming = NULL;
    master_stayed(master);
    keep_listeners(master, master->serving);
    notify_ready(master->notify, master->serving->number, master_wanted_workers(master, master->serving));
    reload_if_asked(master);
}

void master_generation_failed(struct master *master, struct generation *generation, int exit_code)
{
    if (!generation || master->stopping)
        return;
    if (!master->serving)
        end_server(master, exit_code);
    else if (generation == master->coming)
        end_reload(master);
    else /* its mold was being made again */
        master_strike(master, generation, clock_ms());
}

void master_park(struct master *master)
{
    if (master->stopping || master->coming || !master->serving || master->parked)
        return;
    master->parked = true;
    log_info("The workers end when their requests are finished; TTIN or HUP brings workers back");
}

void master_unpark(struct master *master)
{
    master->parked = false;
    if (master->serving)
        log_info("Workers are started again: %d wanted", master_wanted_workers(master, master->serving));
}

void master_scale(struct master *master, int by)
{
    const struct generation *generation = master->serving ? master->serving : master->coming;
    if (master->stopping || !generation || !generation->configured)
        return;
    if (master->parked) {
        master_unpark(master);
        return;
    }
    int before = master_wanted_workers(master, generation);
    int least = autoscale_least(&generation->settings), most = autoscale_most(&generation->settings);
    if (before + by >= least && before + by <= most)
        master->scale = before + by - (int)generation->settings.workers;
    log_info("Workers wanted: %d", master_wanted_workers(master, generation));
    master_tell_workers(master);
}

static struct census reconcile_generation(struct master *master, struct generation *generation, int wanted)
{
    admit_leaving(master, generation, master_wanted_workers(master, generation));
    struct census census = count_workers(master, generation);
    if (census.serving < wanted)
        spawn_missing(master, generation, census, wanted);
    else
        retire_surplus(master, generation, census.serving - wanted);
    if (census.ready >= wanted)
        retire_outgoing(master, generation);
    return census;
}

/* The exchange: so many of the coming generation's workers as are settled let as many of the serving one's go, if
 * reload_step says so; otherwise these go together, when all of those are settled. Returns how many of the present ones
 * are still wanted. */
static int reconcile_coming(struct master *master)
{
    struct generation *serving = master->serving, *coming = master->coming;
    int all = master_wanted_workers(master, coming), present = serving ? master_wanted_workers(master, serving) : 0;
    int step = coming->configured && coming->settings.reload_step > 0 ? (int)coming->settings.reload_step : all;
    int settled = count_workers(master, coming).settled;
    int now = serving && settled + step < all ? settled + step : all;
    struct census census = reconcile_generation(master, coming, now);
    if ((serving ? census.settled : census.ready) >= all) {
        promote(master);
        return master_wanted_workers(master, master->serving);
    }
    master_look_at(master, serving ? census.settle_ms : 0);
    return step >= all ? present : present > census.settled ? present - census.settled : 0;
}

void master_reconcile(struct master *master)
{
    int wanted = 0;
    bool whole = false;
    if (master->stopping)
        return;
    if (master->coming)
        wanted = reconcile_coming(master);
    else if (master->serving)
        wanted = master_wanted_workers(master, master->serving);
    if (master->serving)
        whole = reconcile_generation(master, master->serving, wanted).ready >= wanted;
    retire_outdated_workers(master, whole);
    retire_outdated_molds(master);
}
