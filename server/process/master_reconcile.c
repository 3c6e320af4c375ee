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
#include "server/process/worker_handle.h"

#define SPAWNS_AT_ONCE 8 /* requests that a mold has not answered yet: it forks one after the other anyway */
#define WORKERS_MAX 1024

struct census {
    int serving;  /* alive and not on their way out */
    int ready;    /* of those */
    int spawning; /* of those */
};

static struct census count_workers(const struct master *master, const struct generation *generation)
{
    struct census census = { 0 };
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->generation != generation->number || !worker_handle_serves(worker))
            continue;
        census.serving++;
        census.ready += worker->state == WORKER_HANDLE_READY;
        census.spawning += worker->state == WORKER_HANDLE_SPAWNING;
    }
    return census;
}

static int wanted_workers(const struct master *master, const struct generation *generation)
{
    int wanted = (int)generation->settings.workers + master->scale;
    return wanted < 1 ? 1 : wanted > WORKERS_MAX ? WORKERS_MAX : wanted;
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
        .jemalloc = master->jemalloc,
        .scoreboard = master->board_fd,
        .folder = master->start_folder,
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

void master_drop_worker(struct master *master, struct worker_handle *worker)
{
    master->slot_used[worker->slot_index] = false;
    worker_handle_free(worker);
}

static int send_spawn(const struct master *master, const struct generation *generation,
                      const struct worker_handle *worker, int child_channel)
{
    struct channel_spawn spawn = { worker->slot_index, worker->generation, worker->age };
    int fds[1 + LISTENERS_MAX] = { child_channel };
    memcpy(fds + 1, master->listeners.fds, sizeof(int) * (size_t)master->listeners.count);
    return channel_send(generation->mold->channel, CHANNEL_SPAWN, &spawn, sizeof(spawn), fds,
                        1 + master->listeners.count);
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
    master->slot_used[slot] = true;
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

static void retire(struct master *master, struct worker_handle *worker)
{
    worker_handle_stop(worker, true, false);
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
        retire(master, worker);
        surplus--;
    }
}

/* Those that asked for it, once the others suffice. */
static void retire_leaving(struct master *master, const struct generation *generation)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->generation == generation->number && worker->leaving && worker->state == WORKER_HANDLE_READY)
            retire(master, worker);
    }
}

static void retire_outdated(struct master *master)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->state <= WORKER_HANDLE_READY && !worker->abandoned &&
            !master_generation(master, worker->generation))
            retire(master, worker);
    }
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
    if (master->stopping)
        return;
    if (master->coming) {
        master->reload_again = true;
        return;
    }
    if (master->serving)
        log_info("Reloading: generation %u is started beside the present one", master->last_generation + 1);
    master->coming = generation_new(++master->last_generation, master->given);
}

static void reload_if_asked(struct master *master)
{
    bool again = master->reload_again;
    master->reload_again = false;
    if (again)
        master_reload(master);
}

static void warn_of_other_addresses(const struct generation *old, const struct generation *new)
{
    char *before = settings_get(&old->settings, "bind"), *after = settings_get(&new->settings, "bind");
    if (strcmp(before, after) != 0)
        log_warning("bind is now %s: that needs a restart, the server still listens at %s", after, before);
    free(before);
    free(after);
}

static void reopen_log_for(const struct generation *generation)
{
    const struct settings *settings = &generation->settings;
    if (log_open(settings->errorlog, settings->loglevel) != 0)
        log_error("Cannot open the error log %s: %s", settings->errorlog, strerror(errno));
}

/* All its workers are ready: it serves, and its predecessor is outdated from now on. */
static void promote(struct master *master)
{
    struct generation *old = master->serving, *new = master->coming;
    int workers = wanted_workers(master, new);
    master->serving = new;
    master->coming = NULL;
    if (old) {
        reopen_log_for(new);
        warn_of_other_addresses(old, new);
        log_info("Reloaded: generation %u serves", new->number);
        generation_free(old);
    } else {
        log_info("Ready: %d worker%s after %.2f s", workers, workers == 1 ? "" : "s",
                 (double)(clock_ms() - master->began_ms) / 1e3);
    }
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

void master_scale(struct master *master, int by)
{
    const struct generation *generation = master->serving ? master->serving : master->coming;
    if (master->stopping || !generation || !generation->configured)
        return;
    int before = wanted_workers(master, generation);
    if (before + by >= 1 && before + by <= WORKERS_MAX)
        master->scale += by;
    log_info("Workers wanted: %d", wanted_workers(master, generation));
}

static struct census reconcile_generation(struct master *master, struct generation *generation)
{
    struct census census = count_workers(master, generation);
    int wanted = wanted_workers(master, generation);
    if (census.serving < wanted)
        spawn_missing(master, generation, census, wanted);
    else
        retire_surplus(master, generation, census.serving - wanted);
    if (census.ready >= wanted)
        retire_leaving(master, generation);
    return census;
}

void master_reconcile(struct master *master)
{
    if (master->stopping)
        return;
    if (master->serving)
        reconcile_generation(master, master->serving);
    if (master->coming && reconcile_generation(master, master->coming).ready >= wanted_workers(master, master->coming))
        promote(master);
    retire_outdated(master);
}
