/* master_reap: who has died, and what follows. A dead child is looked at before it is reaped: what it said before is
 * heard first, and its pid cannot be another's yet. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/mold_handle.h"
#include "server/process/report.h"
#include "server/process/signals.h"
#include "server/process/worker_handle.h"

#define YOUNG_MS 1000 /* a worker that dies within this time of being ready has died young */

/* "exited with status 1", "was killed by SIGSEGV" */
static const char *describe(const siginfo_t *death)
{
    static char text[64];
    if (death->si_code == CLD_EXITED)
        snprintf(text, sizeof(text), "exited with status %d", death->si_status);
    else
        snprintf(text, sizeof(text), "was killed by %s", signals_name(death->si_status));
    return text;
}

static double seconds_since(uint64_t ms)
{
    return (double)(clock_ms() - ms) / 1e3;
}

static bool died_well(const siginfo_t *death)
{
    return death->si_code == CLD_EXITED && death->si_status == 0;
}

/* --- workers -------------------------------------------------------------------------------------------------- */

static struct worker_handle *find_worker(const struct master *master, pid_t pid)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->pid == pid)
            return worker;
    }
    return NULL;
}

/* It was told to go, or said that it would. */
static bool worker_was_to_go(const struct master *master, const struct worker_handle *worker, const siginfo_t *death)
{
    return master->stopping || worker->abandoned || worker->state == WORKER_HANDLE_RETIRING ||
           (worker->leaving && died_well(death));
}

/* By a signal that nobody of us has sent: a crash, or the kernel's killer. One of those that end a process on purpose may
 * have gone to the whole group. */
static bool has_crashed(const struct worker_handle *worker, const siginfo_t *death)
{
    int number = death->si_status;
    bool ends = number == SIGTERM || number == SIGINT || number == SIGQUIT || number == SIGHUP;
    return death->si_code != CLD_EXITED && worker->state != WORKER_HANDLE_DYING && !ends;
}

/* Nobody has said why: what it had in flight may be the reason, and is lost. */
static void log_lost(const struct worker_handle *worker, const char *how, double age, const char *then)
{
    struct buf text = { 0 };
    buf_printf(&text, "Worker %d %s at the age of %.1f s%s\n", (int)worker->pid, how, age, then);
    report_requests(worker, "lost with it:", INFLIGHT_CELLS, &text);
    struct str all = buf_str(&text);
    log_block(-1, LOG_LEVEL_ERROR, (struct str){ all.p, all.len - 1 });
    buf_done(&text);
}

static void log_worker_death(const struct master *master, const struct worker_handle *worker, const siginfo_t *death)
{
    double age = seconds_since(worker->spawned_ms);
    if (worker->failed || worker->abandoned || (master->stopping && died_well(death)))
        log_debug("Worker %d %s at the age of %.1f s", (int)worker->pid, describe(death), age);
    else if (worker_was_to_go(master, worker, death) && has_crashed(worker, death))
        log_lost(worker, describe(death), age, ", while it was to end");
    else if (worker_was_to_go(master, worker, death) && died_well(death))
        log_info("Worker %d has left at the age of %.1f s", (int)worker->pid, age);
    else if (worker_was_to_go(master, worker, death))
        log_info("Worker %d %s at the age of %.1f s", (int)worker->pid, describe(death), age);
    else
        log_lost(worker, describe(death), age, "; it is replaced");
}

static void note_left(struct master *master, const struct worker_handle *worker, const siginfo_t *death)
{
    struct last_left *left = &master->last_left;
    *left = (struct last_left){ .age = worker->age, .pid = worker->pid, .at_ms = clock_ms() };
    snprintf(left->reason, sizeof(left->reason), "%s", *worker->reason ? worker->reason : describe(death));
}

static bool died_young(const struct worker_handle *worker)
{
    return worker->ready_ms == 0 || clock_ms() - worker->ready_ms < YOUNG_MS;
}

/* While a generation comes up, a worker that does not get ready ends it, and in a reload one that dies does. */
static bool ends_generation(const struct master *master, const struct generation *generation,
                            const struct worker_handle *worker)
{
    return generation && generation == master->coming && (worker->ready_ms == 0 || master->serving);
}

static void on_worker_death(struct master *master, struct worker_handle *worker, const siginfo_t *death)
{
    struct generation *generation = master_generation(master, worker->generation);
    bool unexpected = !worker_was_to_go(master, worker, death);
    log_worker_death(master, worker, death);
    note_left(master, worker, death);
    master_tell_death(master, worker);
    if (unexpected && ends_generation(master, generation, worker))
        master_generation_failed(master, generation, EXIT_BOOT);
    else if (unexpected && died_young(worker))
        master_strike(master, generation, worker->spawned_ms);
    master_drop_worker(master, worker);
}

/* --- molds ---------------------------------------------------------------------------------------------------- */

static struct mold_handle *find_mold(const struct master *master, pid_t pid)
{
    LIST_EACH(it, &master->molds) {
        struct mold_handle *mold = LIST_ENTRY(it, struct mold_handle, node);
        if (mold->pid == pid)
            return mold;
    }
    return NULL;
}

/* What was asked of it is answered by nobody; a worker that it has forked nevertheless gets a kill at its hello. */
static void abandon_spawning(struct master *master, uint32_t generation)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->generation != generation || worker->state != WORKER_HANDLE_SPAWNING)
            continue;
        worker->abandoned = true;
        worker->due_ms = 0;
        master_hear_worker(master, worker);
    }
}

static void log_mold_death(const struct master *master, const struct mold_handle *mold, const siginfo_t *death)
{
    if (mold->failed || master->stopping || mold->state == MOLD_STOPPING)
        log_debug("Mold %d %s", (int)mold->pid, describe(death));
    else if (!mold->said_hello)
        log_error("%s cannot run licorne's extension (it %s): is licorne installed for it? "
                  "Another one is chosen by --python",
                  master->python, describe(death));
    else if (mold->state != MOLD_LOADED)
        log_error("The mold (pid %d) %s while it was loading the application", (int)mold->pid, describe(death));
    else
        log_warning("The mold (pid %d) %s; it is made again when a worker is needed", (int)mold->pid, describe(death));
}

static void on_mold_death(struct master *master, struct mold_handle *mold, const siginfo_t *death)
{
    struct generation *generation = master_generation(master, mold->generation);
    bool was_loading = mold->state < MOLD_LOADED;
    log_mold_death(master, mold, death);
    if (generation && generation->mold == mold)
        generation->mold = NULL;
    if (!generation || !generation->mold) /* else another has its place */
        abandon_spawning(master, mold->generation);
    if (was_loading)
        master_generation_failed(master, generation, EXIT_BOOT);
    mold_handle_free(mold);
}

/* --- entry point ---------------------------------------------------------------------------------------------- */

static void hear_unborn(struct master *master)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->state == WORKER_HANDLE_SPAWNING)
            master_hear_worker(master, worker);
    }
}

static void on_death(struct master *master, const siginfo_t *death)
{
    struct mold_handle *mold = find_mold(master, death->si_pid);
    if (mold) {
        master_hear_mold(master, mold);
        on_mold_death(master, mold, death);
        return;
    }
    if (upgrade_reap(master, death, describe(death)))
        return;
    if (!find_worker(master, death->si_pid))
        hear_unborn(master); /* its hello may be waiting */
    struct worker_handle *worker = find_worker(master, death->si_pid);
    if (!worker)
        return; /* an orphan of the application's */
    master_hear_worker(master, worker);
    on_worker_death(master, worker, death);
}

void master_reap(struct master *master)
{
    siginfo_t death;
    for (;;) {
        memset(&death, 0, sizeof(death));
        if (waitid(P_ALL, 0, &death, WEXITED | WNOHANG | WNOWAIT) != 0 || death.si_pid == 0)
            return;
        on_death(master, &death);
        waitpid(death.si_pid, NULL, WNOHANG);
    }
}
