/* worker_handle: see worker_handle.h. */
#include "server/process/worker_handle.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/process/channel.h"
#include "server/process/report.h"
#include "server/process/scoreboard.h"

#define FAST_STOP_MS 2000  /* INT, QUIT: then the kill */
#define EXIT_GRACE_MS 1000 /* after graceful_timeout: for the worker's own abort and the application's shutdown */

static uint64_t due_after(int64_t limit_ms)
{
    return limit_ms > 0 ? clock_ms() + (uint64_t)limit_ms : 0;
}

static void slot_clear(struct slot *slot)
{
    atomic_store(&slot->state, SLOT_FREE);
    atomic_store(&slot->pid, 0);
    atomic_store(&slot->turn_began_ns, 0);
    atomic_store(&slot->last_turn_ns, 0);
    atomic_store(&slot->longest_turn_ns, 0);
    atomic_store(&slot->turns_ns, 0);
    atomic_store(&slot->handed_over, 0);
    atomic_store(&slot->taken_over, 0);
    atomic_store(&slot->request_limit_ms, 0);
    atomic_store(&slot->unseen, 0);
    memset(&slot->tally, 0, sizeof(slot->tally)); /* its writer is dead */
}

/* Siblings that were started together are not to leave together. */
static int64_t draw_lifetime(const struct settings *settings)
{
    uint64_t random = 0;
    if (settings->max_worker_lifetime_ms == 0)
        return 0;
    if (getrandom(&random, sizeof(random), 0) < 0)
        random = clock_ns();
    return settings->max_worker_lifetime_ms +
           (int64_t)(random % ((uint64_t)settings->max_worker_lifetime_jitter_ms + 1));
}

/* The least time in which one can be overdue for the master, unless the application sets it a limit of its own. */
static int64_t least_request_limit(const struct settings *settings)
{
    bool dies = settings->request_timeout_ms > 0 && settings->request_timeout_grace_ms > 0;
    int64_t soft_ms = dies ? settings->request_timeout_ms + settings->request_timeout_grace_ms : 0;
    int64_t call_ms = settings->threads > 1 ? settings->timeout_ms : 0;
    return soft_ms == 0 || (call_ms > 0 && call_ms < soft_ms) ? call_ms : soft_ms;
}

static void take_limits(struct worker_handle *worker, const struct settings *settings)
{
    worker->boot_timeout_ms = settings->boot_timeout_ms;
    worker->turn_timeout_ms = settings->timeout_ms;
    worker->graceful_timeout_ms = settings->graceful_timeout_ms;
    worker->request_limit_ms = least_request_limit(settings);
    worker->request_grace_ms = settings->request_timeout_grace_ms;
    worker->lifetime_ms = draw_lifetime(settings);
    worker->scaled = settings->workers_max > 0;
    worker->memory_bytes = settings->max_worker_memory;
    worker->memory_hard_bytes = settings->max_worker_memory_hard;
    worker->slow_request_ms = settings->slow_request_ms;
}

struct worker_handle *worker_handle_new(struct scoreboard *board, uint32_t slot_index, uint32_t generation,
                                        uint32_t age, const struct settings *settings, int *child_channel)
{
    int channel[2];
    if (channel_pair(channel) != 0)
        return NULL;
    struct worker_handle *worker = mem_zalloc(sizeof(*worker));
    list_init(&worker->node);
    *child_channel = channel[1];
    worker->channel = channel[0];
    worker->slot = &board->slots[slot_index];
    worker->inflight = &board->inflight[slot_index];
    worker->load = &board->loads[slot_index];
    worker->slot_index = slot_index;
    worker->generation = worker->slot->generation = generation;
    worker->age = worker->slot->age = age;
    take_limits(worker, settings);
    worker->spawned_ms = clock_ms();
    worker->due_ms = due_after(worker->boot_timeout_ms);
    return worker;
}

void worker_handle_close_channel(struct worker_handle *worker)
{
    if (worker->channel >= 0)
        close(worker->channel);
    worker->channel = -1;
}

void worker_handle_free(struct worker_handle *worker)
{
    if (!worker)
        return;
    list_remove(&worker->node);
    worker_handle_close_channel(worker);
    report_drop(worker);
    slot_clear(worker->slot);
    inflight_clear(worker->inflight);
    atomic_store(worker->load, 0);
    free(worker->slowlog);
    free(worker);
}

void worker_handle_booting(struct worker_handle *worker, pid_t pid)
{
    worker->pid = pid;
    worker->state = WORKER_HANDLE_BOOTING;
}

void worker_handle_ready(struct worker_handle *worker)
{
    worker->state = WORKER_HANDLE_READY;
    worker->ready_ms = worker->awake_ms = clock_ms();
    worker->due_ms = 0;
}

void worker_handle_kill(struct worker_handle *worker)
{
    if (worker->pid > 0)
        kill(worker->pid, SIGKILL);
    worker->state = worker->pid > 0 ? WORKER_HANDLE_DYING : worker->state;
    worker->due_ms = 0;
}

static void tell_to_stop(struct worker_handle *worker, const struct channel_stop *stop)
{
    if (worker->channel < 0 || channel_send(worker->channel, CHANNEL_STOP, stop, sizeof(*stop), NULL, 0) != 0)
        kill(worker->pid, stop->graceful ? SIGTERM : SIGQUIT);
}

void worker_handle_stop(struct worker_handle *worker, const struct channel_stop *stop)
{
    if (worker->state == WORKER_HANDLE_DYING)
        return;
    if (worker->state < WORKER_HANDLE_READY) {
        worker->abandoned = true;
        worker_handle_kill(worker);
        return;
    }
    worker->state = WORKER_HANDLE_RETIRING;
    tell_to_stop(worker, stop);
    worker->due_ms = clock_ms() + (stop->graceful ? (uint64_t)worker->graceful_timeout_ms + EXIT_GRACE_MS : FAST_STOP_MS);
}

void worker_handle_leave(struct worker_handle *worker, const char *reason)
{
    if (worker->leaving)
        return;
    worker->leaving = true;
    snprintf(worker->reason, sizeof(worker->reason), "%s", reason);
    log_info("Worker %d is to be replaced: %s", (int)worker->pid, worker->reason);
}
