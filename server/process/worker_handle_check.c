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

#include "server/base/inflight.h"
#include "server/base/log.h"
#include "server/process/procfs.h"
#include "server/process/report.h"
#include "server/process/scoreboard.h"
#include "server/process/worker_handle.h"

#define MEMORY_LOOK_MS 1000  /* how often the memory is looked at, where it has a limit */
#define SPARED_MS 1000       /* when one that has others' requests too is looked at again */
#define REPORT_EVERY_MS 1000 /* of slow requests: no more often, each then tells of several */
#define QUIET_MS 30000       /* left alone after so long, where `timeout` says nothing */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b > 0 && b < a) ? b : a;
}

/* --- a turn that does not end --------------------------------------------------------------------------------- */

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

/* A turn, or a request, that begins right after a look is seen in time if the next look is so much later. */
static uint64_t look_again_ms(const struct worker_handle *worker)
{
    uint64_t limit_ms = worker->turn_timeout_ms > 0 ? (uint64_t)worker->turn_timeout_ms : QUIET_MS;
    limit_ms = earlier(limit_ms, (uint64_t)worker->slow_request_ms);
    limit_ms = earlier(limit_ms, (uint64_t)worker->request_limit_ms);
    return earlier(limit_ms, atomic_load(&worker->slot->request_limit_ms));
}

/* When to look again; 0: it is left alone, or being killed. */
static uint64_t check_turn(struct worker_handle *worker, uint64_t now_ms)
{
    uint64_t limit_ms = look_again_ms(worker);
    uint64_t began_ns = atomic_load(&worker->slot->turn_began_ns);
    if (!began_ns)
        return check_waiting(worker, limit_ms, now_ms);
    uint64_t due_ms = began_ns / 1000000 + (uint64_t)worker->turn_timeout_ms;
    if (worker->turn_timeout_ms == 0 || now_ms < due_ms)
        return worker->turn_timeout_ms > 0 ? earlier(due_ms, now_ms + limit_ms) : now_ms + limit_ms;
    report_kill(worker, "Worker %d was stuck in one turn for more than %g s (--timeout): killed", (int)worker->pid,
                (double)worker->turn_timeout_ms / 1e3);
    return 0;
}

/* --- requests that last -------------------------------------------------------------------------------------------- */

/* One that was reported already, or is answered, is looked at no more. */
static bool may_be_slow(const struct inflight_view *view)
{
    return view->state != INFLIGHT_ANSWERED && view->dumped_id != view->id;
}

static void report_slow(struct worker_handle *worker, const struct inflight_view *oldest, uint32_t count,
                        uint64_t now_ms)
{
    char others[32] = "";
    if (count > 1)
        snprintf(others, sizeof(others), " and %u more", count - 1);
    report_begin(worker, REPORT_SLOW, "Slow in worker %d, for %.1f s already (--slow-request): %s%s%s",
                 (int)worker->pid, inflight_age(oldest), oldest->line,
                 oldest->truncated ? "..." : "", others);
    worker->slow_report_ms = now_ms + REPORT_EVERY_MS;
}

/* When the next request will have lasted too long; 0: none is in flight. *count are by now, *oldest first. */
static uint64_t find_slow(const struct worker_handle *worker, uint64_t now_ms, struct inflight_view *oldest,
                          uint32_t *count)
{
    uint64_t next_ms = 0;
    struct inflight_view view;
    for (uint32_t i = 0; i < inflight_used(worker->inflight); i++) {
        if (!inflight_read(worker->inflight, i, &view) || !may_be_slow(&view))
            continue;
        uint64_t due_ms = view.began_ns / 1000000 + (uint64_t)worker->slow_request_ms;
        next_ms = earlier(next_ms, due_ms);
        if (now_ms < due_ms || now_ms < worker->slow_report_ms)
            continue;
        atomic_store(&worker->inflight->cells[i].dumped_id, view.id);
        if ((*count)++ == 0 || view.began_ns < oldest->began_ns)
            *oldest = view;
    }
    return next_ms < worker->slow_report_ms && next_ms > 0 ? worker->slow_report_ms : next_ms;
}

/* One report tells all that are slow by now: when everything is, the log must not drown in reports. */
static uint64_t check_requests(struct worker_handle *worker, uint64_t now_ms)
{
    struct inflight_view oldest;
    uint32_t count = 0;
    if (worker->report)
        return worker->report->due_ms;
    uint64_t next_ms = find_slow(worker, now_ms, &oldest, &count);
    if (count == 0)
        return next_ms;
    report_slow(worker, &oldest, count, now_ms);
    return worker->report->due_ms;
}

/* --- requests that have had their time, and the time to give up ---------------------------------------------------- */

static bool is_overdue(const struct inflight_view *view, uint64_t now_ms)
{
    return view->hard_ms > 0 && now_ms >= view->hard_ms;
}

/* When the next one will be; 0: none. *overdue is one that is; *others: how many of the rest are being served. */
static uint64_t find_overdue(const struct worker_handle *worker, uint64_t now_ms, struct inflight_view *overdue,
                             uint32_t *others)
{
    uint64_t next_ms = 0;
    struct inflight_view view;
    for (uint32_t i = 0; i < inflight_used(worker->inflight); i++) {
        if (!inflight_read(worker->inflight, i, &view))
            continue;
        if (is_overdue(&view, now_ms)) {
            *overdue = view;
            continue;
        }
        next_ms = earlier(next_ms, view.hard_ms);
        *others += view.state == INFLIGHT_SERVING;
    }
    return next_ms;
}

static void kill_for(struct worker_handle *worker, const struct inflight_view *view)
{
    bool had_grace = view->soft_ms > 0 && view->hard_ms == view->soft_ms + (uint64_t)worker->request_grace_ms;
    report_kill(worker, "Worker %d was still at a request after %.1f s (%s): killed. It was %s%s", (int)worker->pid,
                inflight_age(view), had_grace ? "--request-timeout, --request-timeout-grace" : "--timeout", view->line,
                view->truncated ? "..." : "");
}

/* One that leaves takes nobody new: it is spared for the others' sake, until graceful_timeout ends it. */
static uint64_t check_overdue(struct worker_handle *worker, uint64_t now_ms)
{
    struct inflight_view overdue = { 0 };
    uint32_t others = 0;
    if (worker->request_limit_ms == 0)
        return 0;
    uint64_t next_ms = find_overdue(worker, now_ms, &overdue, &others);
    if (overdue.id == 0)
        return next_ms;
    if (worker->state == WORKER_HANDLE_RETIRING && others > 0)
        return now_ms + SPARED_MS;
    kill_for(worker, &overdue);
    return 0;
}

/* --- a kill that cannot wait for a report ------------------------------------------------------------------------ */

/* `text`: why, a line, or nothing if that was said; it is freed. */
static void log_kill(struct worker_handle *worker, enum log_level level, struct buf *text)
{
    if (buf_len(text) > 0) {
        report_requests(worker, "lost with it:", INFLIGHT_CELLS, text);
        log_block(-1, level, (struct str){ buf_str(text).p, buf_len(text) - 1 });
    }
    buf_done(text);
    worker->failed = true;
    snprintf(worker->reason, sizeof(worker->reason), "killed: see the log");
    worker_handle_kill(worker);
}

/* --- memory ---------------------------------------------------------------------------------------------------- */

static void kill_fat(struct worker_handle *worker, int64_t rss)
{
    struct buf text = { 0 };
    buf_printf(&text, "Worker %d has taken %.1f MiB of memory, more than %.1f MiB (--max-worker-memory-hard): killed\n",
               (int)worker->pid, (double)rss / 1048576, (double)worker->memory_hard_bytes / 1048576);
    log_kill(worker, LOG_LEVEL_ERROR, &text);
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
    struct buf text = { 0 };
    if (worker->state == WORKER_HANDLE_BOOTING)
        log_error("Worker %d was not ready within %g s (--boot-timeout): killed", (int)worker->pid,
                  (double)worker->boot_timeout_ms / 1e3);
    else if (worker->state == WORKER_HANDLE_RETIRING)
        buf_printf(&text, "Worker %d had not ended in time: killed\n", (int)worker->pid);
    log_kill(worker, LOG_LEVEL_WARNING, &text);
}

/* --- entry point ------------------------------------------------------------------------------------------------ */

static bool has_limits(const struct worker_handle *worker)
{
    return worker->turn_timeout_ms > 0 || worker->memory_bytes > 0 || worker->memory_hard_bytes > 0 ||
           worker->slow_request_ms > 0 || worker->request_limit_ms > 0 || worker->scaled;
}

/* Memory is looked at as long as there are turns: without them it does not grow. */
static uint64_t check_ready(struct worker_handle *worker, uint64_t now_ms)
{
    uint64_t turn_ms = has_limits(worker) ? check_turn(worker, now_ms) : 0, look_ms = turn_ms;
    if (turn_ms > 0)
        look_ms = earlier(look_ms, check_memory(worker, now_ms));
    if (worker->state == WORKER_HANDLE_READY)
        look_ms = earlier(look_ms, check_overdue(worker, now_ms));
    if (worker->slow_request_ms > 0 && worker->state == WORKER_HANDLE_READY)
        look_ms = earlier(look_ms, check_requests(worker, now_ms));
    if (worker->state == WORKER_HANDLE_READY)
        look_ms = earlier(look_ms, check_lifetime(worker, now_ms));
    return worker->state == WORKER_HANDLE_READY ? look_ms : worker->due_ms;
}

uint64_t worker_handle_check(struct worker_handle *worker, uint64_t now_ms)
{
    if (worker->state == WORKER_HANDLE_READY)
        return check_ready(worker, now_ms);
    uint64_t look_ms = worker->state == WORKER_HANDLE_RETIRING ? check_overdue(worker, now_ms) : 0;
    if (worker->due_ms == 0 || now_ms < worker->due_ms)
        return earlier(worker->due_ms, look_ms);
    if (worker->state != WORKER_HANDLE_SPAWNING)
        kill_overdue(worker);
    return 0;
}
