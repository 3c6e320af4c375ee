/* worker_handle: see worker_handle.h. */
#include "server/process/worker_handle.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/process/channel.h"
#include "server/process/scoreboard.h"

#define FAST_STOP_MS 2000  /* INT, QUIT: then the kill */
#define EXIT_GRACE_MS 1000 /* after graceful_timeout: for the worker's own abort and the application's shutdown */
#define ABORT_MS 1000      /* between SIGABRT, which may write a traceback, and SIGKILL */

static uint64_t due_after(int64_t limit_ms)
{
    return limit_ms > 0 ? clock_ms() + (uint64_t)limit_ms : 0;
}

static void slot_clear(struct slot *slot)
{
    atomic_store(&slot->state, SLOT_FREE);
    atomic_store(&slot->pid, 0);
    atomic_store(&slot->turn_began_ns, 0);
    atomic_store(&slot->requests, 0);
    atomic_store(&slot->conns_accepted, 0);
    atomic_store(&slot->conns, 0);
    atomic_store(&slot->in_flight, 0);
    for (size_t i = 0; i < sizeof(slot->status_class) / sizeof(slot->status_class[0]); i++)
        atomic_store(&slot->status_class[i], 0);
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
    worker->slot_index = slot_index;
    worker->generation = worker->slot->generation = generation;
    worker->age = worker->slot->age = age;
    worker->boot_timeout_ms = settings->boot_timeout_ms;
    worker->turn_timeout_ms = settings->timeout_ms;
    worker->graceful_timeout_ms = settings->graceful_timeout_ms;
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
    slot_clear(worker->slot);
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
    worker->ready_ms = clock_ms();
    worker->due_ms = 0;
}

void worker_handle_kill(struct worker_handle *worker)
{
    if (worker->pid > 0)
        kill(worker->pid, SIGKILL);
    worker->state = worker->pid > 0 ? WORKER_HANDLE_DYING : worker->state;
    worker->due_ms = 0;
}

static void tell_to_stop(struct worker_handle *worker, bool graceful, bool last)
{
    struct channel_stop stop = { .graceful = graceful, .last = last };
    if (worker->channel < 0 || channel_send(worker->channel, CHANNEL_STOP, &stop, sizeof(stop), NULL, 0) != 0)
        kill(worker->pid, graceful ? SIGTERM : SIGQUIT);
}

void worker_handle_stop(struct worker_handle *worker, bool graceful, bool last)
{
    if (worker->state == WORKER_HANDLE_DYING)
        return;
    if (worker->state < WORKER_HANDLE_READY) {
        worker->abandoned = true;
        worker_handle_kill(worker);
        return;
    }
    worker->state = WORKER_HANDLE_RETIRING;
    tell_to_stop(worker, graceful, last);
    worker->due_ms = clock_ms() + (graceful ? (uint64_t)worker->graceful_timeout_ms + EXIT_GRACE_MS : FAST_STOP_MS);
}

/* --- time limits ----------------------------------------------------------------------------------------------- */

/* While a worker waits for something to do there is nothing to see, and no turn that began since can be overdue before
 * `now + limit`: the next look is due then, and finds such a turn exactly when it is. */
static uint64_t check_turn(struct worker_handle *worker, uint64_t now_ms)
{
    if (worker->turn_timeout_ms == 0)
        return 0;
    uint64_t limit = (uint64_t)worker->turn_timeout_ms, began_ns = atomic_load(&worker->slot->turn_began_ns);
    uint64_t due = (began_ns ? began_ns / 1000000 : now_ms) + limit;
    if (now_ms < due)
        return due;
    log_error("Worker %d was stuck in one turn for more than %g s (--timeout): killed", (int)worker->pid,
              (double)limit / 1e3);
    worker->failed = true;
    worker->state = WORKER_HANDLE_DYING;
    worker->due_ms = now_ms + ABORT_MS;
    kill(worker->pid, SIGABRT);
    return worker->due_ms;
}

static void kill_overdue(struct worker_handle *worker)
{
    if (worker->state == WORKER_HANDLE_BOOTING)
        log_error("Worker %d was not ready within %g s (--boot-timeout): killed", (int)worker->pid,
                  (double)worker->boot_timeout_ms / 1e3);
    else if (worker->state == WORKER_HANDLE_RETIRING)
        log_warning("Worker %d had not ended in time: killed", (int)worker->pid);
    worker->failed = true;
    worker_handle_kill(worker);
}

uint64_t worker_handle_check(struct worker_handle *worker, uint64_t now_ms)
{
    if (worker->state == WORKER_HANDLE_READY)
        return check_turn(worker, now_ms);
    if (worker->due_ms == 0 || now_ms < worker->due_ms)
        return worker->due_ms;
    if (worker->state != WORKER_HANDLE_SPAWNING)
        kill_overdue(worker);
    return 0;
}
