/* worker_handle_check: the limits of time and memory of one worker, as the master sees them from outside: in its slot of
 * the scoreboard and in /proc. It never needs the worker's help.
 *
 * Nor does it wake up for one that has nothing to do: found waiting a whole time limit after its last sign of life, the
 * worker's slot is marked `unseen`, and after one more look, a limit later, it is left alone. The next turn of its loop
 * finds the mark and tells (CHANNEL_AWAKE), before it runs anything. The look after the mark catches a turn that began
 * just before the mark could be seen there: so the turn needs no memory barrier. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#include "server/base/log.h"
#include "server/process/procfs.h"
#include "server/process/scoreboard.h"
#include "server/process/worker_handle.h"

#define ABORT_MS 2000       /* between SIGABRT, at which the worker tells where it is stuck, and SIGKILL */
#define MEMORY_LOOK_MS 1000 /* how often the memory is looked at, where it has a limit */
#define QUIET_MS 30000      /* left alone after so long, where `timeout` says nothing */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b > 0 && b < a) ? b : a;
}

/* --- a turn that does not end --------------------------------------------------------------------------------- */

static void kill_stuck(struct worker_handle *worker, uint64_t now_ms)
{
    log_error("Worker %d was stuck in one turn for more than %g s (--timeout): killed", (int)worker->pid,
              (double)worker->turn_timeout_ms / 1e3);
    worker->failed = true;
    worker->state = WORKER_HANDLE_DYING;
    worker->due_ms = now_ms + ABORT_MS;
    kill(worker->pid, SIGABRT);
}

/* It waits for something to do. No turn that begins from now on can be overdue before now + limit. */
static uint64_t check_waiting(struct worker_handle *worker, uint64_t limit_ms, uint64_t now_ms)
{
    if (atomic_load(&worker->slot->unseen))
        return now_ms < worker->unseen_ms + limit_ms ? worker->unseen_ms + limit_ms : 0;
    if (now_ms < worker->awake_ms + limit_ms)
        return worker->awake_ms + limit_ms;
    worker->unseen_ms = now_ms;
    atomic_store(&worker->slot->unseen, 1);
    return now_ms + limit_ms;
}

/* When to look again; 0: it is left alone, or being killed. */
static uint64_t check_turn(struct worker_handle *worker, uint64_t now_ms)
{
    uint64_t limit_ms = worker->turn_timeout_ms > 0 ? (uint64_t)worker->turn_timeout_ms : QUIET_MS;
    uint64_t began_ns = atomic_load(&worker->slot->turn_began_ns);
    if (!began_ns)
        return check_waiting(worker, limit_ms, now_ms);
    uint64_t due_ms = began_ns / 1000000 + limit_ms;
    if (now_ms < due_ms)
        return due_ms;
    if (worker->turn_timeout_ms == 0)
        return now_ms + limit_ms;
    kill_stuck(worker, now_ms);
    return 0;
}

/* --- memory ---------------------------------------------------------------------------------------------------- */

static void kill_fat(struct worker_handle *worker, int64_t rss)
{
    log_error("Worker %d has taken %.1f MiB of memory, more than %.1f MiB (--max-worker-memory-hard): killed",
              (int)worker->pid, (double)rss / 1048576, (double)worker->memory_hard_bytes / 1048576);
    worker->failed = true;
    worker_handle_kill(worker);
}

static void replace_fat(struct worker_handle *worker, int64_t rss)
{
    char reason[64];
    snprintf(reason, sizeof(reason), "max_worker_memory: %.1f MiB", (double)rss / 1048576);
    worker_handle_leave(worker, reason);
}

/* At the first look, before it has done much: a successor would be as large. */
static void refuse_limit(struct worker_handle *worker, int64_t rss)
{
    log_warning("Worker %d has %.1f MiB as soon as it is ready: max_worker_memory is too low, and left aside",
                (int)worker->pid, (double)rss / 1048576);
    worker->memory_bytes = 0;
}

static uint64_t check_memory(struct worker_handle *worker, uint64_t now_ms)
{
    if (worker->memory_bytes == 0 && worker->memory_hard_bytes == 0)
        return 0;
    if (now_ms < worker->memory_look_ms)
        return worker->memory_look_ms;
    bool first = worker->memory_look_ms == 0;
    int64_t rss = procfs_rss(worker->pid);
    worker->memory_look_ms = now_ms + MEMORY_LOOK_MS;
    if (worker->memory_hard_bytes > 0 && rss > worker->memory_hard_bytes)
        kill_fat(worker, rss);
    else if (worker->memory_bytes > 0 && rss > worker->memory_bytes)
        (first ? refuse_limit : replace_fat)(worker, rss);
    return worker->memory_look_ms;
}

/* --- time ------------------------------------------------------------------------------------------------------- */

static uint64_t check_lifetime(struct worker_handle *worker, uint64_t now_ms)
{
    char reason[64];
    if (worker->lifetime_ms == 0 || worker->leaving)
        return 0;
    uint64_t due_ms = worker->ready_ms + (uint64_t)worker->lifetime_ms;
    if (now_ms < due_ms)
        return due_ms;
    snprintf(reason, sizeof(reason), "max_worker_lifetime: %.1f s", (double)(now_ms - worker->ready_ms) / 1e3);
    worker_handle_leave(worker, reason);
    return 0;
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

/* --- entry point ------------------------------------------------------------------------------------------------ */

static bool has_limits(const struct worker_handle *worker)
{
    return worker->turn_timeout_ms > 0 || worker->memory_bytes > 0 || worker->memory_hard_bytes > 0 || worker->scaled;
}

/* Memory is looked at as long as there are turns: without them it does not grow. */
static uint64_t check_ready(struct worker_handle *worker, uint64_t now_ms)
{
    uint64_t turn_ms = has_limits(worker) ? check_turn(worker, now_ms) : 0, look_ms = turn_ms;
    if (turn_ms > 0)
        look_ms = earlier(look_ms, check_memory(worker, now_ms));
    if (worker->state == WORKER_HANDLE_READY)
        look_ms = earlier(look_ms, check_lifetime(worker, now_ms));
    return worker->state == WORKER_HANDLE_READY ? look_ms : worker->due_ms;
}

uint64_t worker_handle_check(struct worker_handle *worker, uint64_t now_ms)
{
    if (worker->state == WORKER_HANDLE_READY)
        return check_ready(worker, now_ms);
    if (worker->due_ms == 0 || now_ms < worker->due_ms)
        return worker->due_ms;
    if (worker->state != WORKER_HANDLE_SPAWNING)
        kill_overdue(worker);
    return 0;
}
