/* master: see master.h. This file: the turn, signals, deadlines, stopping. */
#include "server/process/master.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/process/channel.h"
#include "server/process/control.h"
#include "server/process/descriptors.h"
#include "server/process/generation.h"
#include "server/process/interpreter.h"
#include "server/process/metrics.h"
#include "server/process/mold_handle.h"
#include "server/process/notify.h"
#include "server/process/report.h"
#include "server/process/signals.h"
#include "server/process/source_watch.h"
#include "server/process/title.h"
#include "server/process/turnaway.h"
#include "server/process/worker_handle.h"

#define ECHO_MS 100 /* the same signal so soon again is the same signal */

/* --- stopping ------------------------------------------------------------------------------------------------- */

static void stop_worker(struct master *master, struct worker_handle *worker)
{
    struct channel_stop stop = { .graceful = master->graceful,
                                 .last = !master->listeners.shared,
                                 .alone = !upgrade_has_neighbour(master) };
    worker_handle_stop(worker, &stop);
    master_look_at(master, worker->due_ms);
}

static void say_stopped(struct master *master)
{
    if (master->stopping && !master->said_stopped && !master->checking && !master->given->print_config &&
        !master->given->check_config && master->exit_code != EXIT_TO_BACKGROUND)
        log_info("Stopped");
    master->said_stopped |= master->stopping;
}

static void stop_mold(struct master *master, struct mold_handle *mold)
{
    if (mold->state == MOLD_STOPPING || master_needs_mold(master, mold))
        return;
    master_tell_exit(master, mold);
    if (mold == master_listening_mold(master) && mold->logs != LOG_ALONE)
        say_stopped(master); /* while there is somebody who logs it */
    mold_handle_stop(mold);
    master_look_at(master, mold->due_ms);
}

static void stop_molds(struct master *master)
{
    LIST_EACH(it, &master->molds)
        stop_mold(master, LIST_ENTRY(it, struct mold_handle, node));
}

void master_stop(struct master *master, bool graceful)
{
    if (!master->stopping) {
        upgrade_stopping(master);
        notify_stopping(master->notify);
    }
    master->stopping = true;
    master->graceful = graceful;
    listeners_turn_syns_away(&master->listeners);
    listeners_shut_exchanges(&master->listeners);
    LIST_EACH(it, &master->workers)
        stop_worker(master, LIST_ENTRY(it, struct worker_handle, node));
    stop_molds(master);
    listeners_close(&master->listeners); /* the workers have their own and empty the backlog */
    master->drain_ms = 0;
}

void master_kill_all(struct master *master)
{
    LIST_EACH(it, &master->workers)
        worker_handle_kill(LIST_ENTRY(it, struct worker_handle, node));
    LIST_EACH(it, &master->molds)
        mold_handle_kill(LIST_ENTRY(it, struct mold_handle, node));
}

static bool master_finished(const struct master *master)
{
    return master->stopping && list_empty(&master->workers) && list_empty(&master->molds);
}

/* Load balancers are given the time to see that this server ends; it serves as before until then. */
static void begin_drain_delay(struct master *master, int64_t delay_ms)
{
    log_info("The server stops in %g s (--drain-delay)", (double)delay_ms / 1e3);
    notify_stopping(master->notify);
    master->drain_ms = clock_ms() + (uint64_t)delay_ms;
}

void master_end(struct master *master)
{
    int64_t delay_ms = master->serving ? master->serving->settings.drain_delay_ms : 0;
    if (delay_ms > 0 && !master->stopping && master->drain_ms == 0)
        begin_drain_delay(master, delay_ms);
    else if (!master->stopping && master->drain_ms == 0)
        master_stop(master, true);
}

/* timeout(1), shells and supervisors signal a process and then its group: that is one signal, not an insisting second. */
static bool is_echo(struct master *master, int number)
{
    uint64_t now = clock_ms();
    bool echo = number == master->end_signal && now - master->end_signal_ms < ECHO_MS;
    if (!echo) {
        master->end_signal = number;
        master->end_signal_ms = now;
    }
    return echo;
}

static void on_end(struct master *master, int number)
{
    if (is_echo(master, number))
        return;
    if (master->stopping) {
        log_warning("Received %s again: what still runs is killed", signals_name(number));
        master_kill_all(master);
        return;
    }
    bool graceful = number == SIGTERM && master->drain_ms == 0;
    log_info("Received %s: %s", signals_name(number),
             graceful ? "requests in flight are finished, then the server ends" : "the server ends at once");
    if (graceful)
        master_end(master);
    else
        master_stop(master, false);
}

/* --- signals -------------------------------------------------------------------------------------------------- */

void master_reopen_logs(struct master *master)
{
    master_give_logs(master);
    if (log_reopen() != 0)
        log_error("Cannot reopen the error log: %s", strerror(errno));
    LIST_EACH(it, &master->molds)
        channel_send(LIST_ENTRY(it, struct mold_handle, node)->channel, CHANNEL_REOPEN, NULL, 0, NULL, 0);
    LIST_EACH(it, &master->workers)
        channel_send(LIST_ENTRY(it, struct worker_handle, node)->channel, CHANNEL_REOPEN, NULL, 0, NULL, 0);
    log_info("Reopened the logs");
}

void master_upgrade(struct master *master)
{
    const char *reason = upgrade_begin(master);
    if (reason)
        log_error("No new master is started: %s", reason);
}

static void on_signal(struct master *master, int number)
{
    switch (number) {
    case SIGTERM:
    case SIGINT:
    case SIGQUIT:
        on_end(master, number);
        break;
    case SIGHUP:
        master_reload(master);
        break;
    case SIGTTIN:
        master_scale(master, 1);
        break;
    case SIGTTOU:
        master_scale(master, -1);
        break;
    case SIGUSR1:
        master_reopen_logs(master);
        break;
    case SIGUSR2:
        master_upgrade(master);
        break;
    case SIGWINCH: /* from a terminal it means a window that has changed, and docker passes that on */
        if (master->serving && master->serving->settings.daemon)
            master_park(master);
        break;
    default: /* SIGCHLD: the turn reaps anyway */
        break;
    }
}

static void take_signals(struct master *master)
{
    int number;
    while ((number = signals_take()) != 0)
        on_signal(master, number);
}

/* --- hearing, deadlines --------------------------------------------------------------------------------------- */

static void hear_children(struct master *master)
{
    LIST_EACH(it, &master->molds) {
        struct mold_handle *mold = LIST_ENTRY(it, struct mold_handle, node);
        if (mold->readable)
            master_hear_mold(master, mold);
    }
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->readable)
            master_hear_worker(master, worker);
    }
}

void master_look_at(struct master *master, uint64_t due_ms)
{
    if (due_ms > 0 && (master->look_ms == 0 || due_ms < master->look_ms))
        master->look_ms = due_ms;
}

static void check_mold(struct master *master, struct mold_handle *mold, uint64_t now_ms)
{
    if (!mold_handle_overdue(mold, now_ms)) {
        master_look_at(master, mold->due_ms);
        return;
    }
    if (mold->state != MOLD_STOPPING) {
        log_error("Loading has taken longer than --boot-timeout allows: process %d is killed", (int)mold->pid);
        mold->failed = true;
    }
    mold_handle_kill(mold);
    if (mold->failed)
        master_generation_failed(master, master_generation(master, mold->generation), EXIT_BOOT);
}

/* A request for a worker that the mold has not answered in time: it will not answer the next one either. */
static void check_spawning(struct master *master, struct worker_handle *worker, uint64_t now_ms)
{
    struct generation *generation = master_generation(master, worker->generation);
    if (worker->due_ms == 0 || now_ms < worker->due_ms || !generation || !generation->mold || generation->mold->failed)
        return;
    log_error("Process %d has not forked a worker within --boot-timeout: killed", (int)generation->mold->pid);
    generation->mold->failed = true;
    mold_handle_kill(generation->mold);
    master_generation_failed(master, generation, EXIT_BOOT);
}

void master_end_report(struct master *master, struct worker_handle *worker, struct str stacks)
{
    struct buf text = { 0 };
    if (!worker->report)
        return; /* it comes too late */
    report_end(worker, stacks, &text);
    if (master->here.control)
        control_reported(master->here.control, worker->age, buf_str(&text));
    buf_done(&text);
}

static void check_report(struct master *master, struct worker_handle *worker, uint64_t now_ms)
{
    if (!worker->report)
        return;
    if (now_ms >= worker->report->due_ms)
        master_end_report(master, worker, STR("(it does not answer)"));
    else
        master_look_at(master, worker->report->due_ms);
}

static void check_deadlines(struct master *master)
{
    uint64_t now_ms = clock_ms();
    if (master->drain_ms > 0 && now_ms >= master->drain_ms)
        master_stop(master, true);
    master->look_ms = notify_watchdog(master->notify, now_ms);
    master_look_at(master, master->drain_ms);
    LIST_EACH(it, &master->molds)
        check_mold(master, LIST_ENTRY(it, struct mold_handle, node), now_ms);
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->state == WORKER_HANDLE_SPAWNING)
            check_spawning(master, worker, now_ms);
        check_report(master, worker, now_ms);
        master_look_at(master, worker_handle_check(worker, now_ms));
        if (worker->report)
            master_look_at(master, worker->report->due_ms);
    }
    master_look_at(master, autoscale_look(master, now_ms));
}

/* --- while no worker is ready -------------------------------------------------------------------------------------- */

/* One that is blocked counts as ready. */
static bool anyone_ready(const struct master *master)
{
    LIST_EACH(it, &master->workers)
        if (LIST_ENTRY(it, struct worker_handle, node)->state == WORKER_HANDLE_READY)
            return true;
    return false;
}

static void set_turning_away(struct master *master, bool turns_away)
{
    if (turns_away && !master->turns_away)
        log_warning("No worker is ready (--no-worker-grace): newcomers get 503 from the master");
    else if (!turns_away && master->turns_away)
        log_info("A worker is ready: newcomers are served again");
    master->turns_away = turns_away;
}

static void check_readiness(struct master *master, uint64_t now_ms)
{
    const struct generation *generation = master->serving ? master->serving : master->coming;
    bool ready = anyone_ready(master);
    master_look_at(master, turnaway_check(master->turnaway, now_ms));
    if (ready || !generation || !generation->configured || master->listeners.shared) /* others are ready, or will say */
        master->last_ready_ms = now_ms;
    uint64_t grace_ms = generation ? (uint64_t)generation->settings.no_worker_grace_ms : 0;
    if (ready || master->stopping || master->listeners.shared || grace_ms == 0 || master->last_ready_ms == now_ms) {
        set_turning_away(master, false);
        return;
    }
    set_turning_away(master, now_ms >= master->last_ready_ms + grace_ms);
    if (!master->turns_away)
        master_look_at(master, master->last_ready_ms + grace_ms);
}

/* --- the application's files (--reload) ------------------------------------------------------------------------------ */

static void check_sources(struct master *master)
{
    const char *changed;
    if (!master->sources)
        return;
    source_watch_read(master->sources, clock_ms());
    if (source_watch_take(master->sources, clock_ms(), &changed)) {
        log_info("%s has changed", changed);
        master_reload(master);
    }
    master_look_at(master, source_watch_due_ms(master->sources));
}

/* --- waiting -------------------------------------------------------------------------------------------------- */

/* The children's channels, in the order of the lists, from `polled` on: before the poll they are put in, after it they
 * are told. Returns how many there are. */
static size_t poll_children(struct master *master, struct pollfd *polled, bool told)
{
    size_t count = 0;
    LIST_EACH(it, &master->molds) {
        struct mold_handle *mold = LIST_ENTRY(it, struct mold_handle, node);
        if (told)
            mold->readable = polled[count].revents != 0;
        else
            polled[count] = (struct pollfd){ .fd = mold->channel, .events = POLLIN };
        count++;
    }
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (told)
            worker->readable = polled[count].revents != 0;
        else
            polled[count] = (struct pollfd){ .fd = worker->channel, .events = POLLIN };
        count++;
    }
    return count;
}

static size_t count_children(const struct master *master)
{
    size_t count = 0;
    LIST_EACH(it, &master->molds)
        count++;
    LIST_EACH(it, &master->workers)
        count++;
    return count;
}

static int milliseconds_until(uint64_t due_ms)
{
    uint64_t now = clock_ms();
    if (due_ms == 0)
        return -1;
    return due_ms <= now ? 0 : due_ms - now > 3600000 ? 3600000 : (int)(due_ms - now);
}

/* poll() refuses more entries than a process may have descriptors: those without one are left out. */
static void poll_open(struct pollfd *polled, size_t count, int timeout_ms)
{
    struct pollfd *open = mem_alloc(count * sizeof(*open));
    size_t open_count = 0;
    for (size_t i = 0; i < count; i++)
        if (polled[i].fd >= 0)
            open[open_count++] = polled[i];
    bool any = poll(open, open_count, timeout_ms) > 0; /* EINTR: a signal is in the queue */
    const struct pollfd *next = open;
    for (size_t i = 0; i < count; i++) {
        polled[i].revents = any && polled[i].fd >= 0 ? next->revents : 0;
        next += polled[i].fd >= 0;
    }
    free(open);
}

static void wait_for_news(struct master *master)
{
    size_t most = count_children(master) + 2 + UPGRADE_POLLED + CONTROL_POLLED + turnaway_polled_max(&master->listeners);
    struct pollfd *polled = mem_alloc(most * sizeof(*polled));
    int sources = master->sources ? source_watch_fd(master->sources) : -1;
    polled[0] = (struct pollfd){ .fd = master->signals, .events = POLLIN };
    polled[1] = (struct pollfd){ .fd = sources, .events = POLLIN };
    size_t children = poll_children(master, polled + 2, false) + 2, count = children;
    struct pollfd *masters = polled + count;
    count += upgrade_poll(&master->upgrade, masters);
    struct control *control = master->here.control;
    struct pollfd *asked = polled + count;
    if (control)
        count += control_poll(control, asked);
    struct pollfd *strangers = polled + count;
    size_t stranger_count = turnaway_poll(master->turnaway, &master->listeners, master->turns_away, strangers);
    count += stranger_count;
    poll_open(polled, count, milliseconds_until(master->look_ms));
    poll_children(master, polled + 2, true);
    turnaway_turn(master->turnaway, strangers, stranger_count, clock_ms());
    upgrade_turn(master, masters);
    if (control)
        control_turn(control, asked, master);
    free(polled);
}

/* --- what ps shows ---------------------------------------------------------------------------------------------- */

static void describe_state(const struct master *master, const struct generation *generation, char *text, size_t size)
{
    int workers = generation->configured ? master_wanted_workers(master, generation) : 0;
    if (master->stopping || !master->serving)
        snprintf(text, size, "%s", master->stopping ? "stopping" : "starting");
    else
        snprintf(text, size, "%d worker%s%s", workers, workers == 1 ? "" : "s", master->coming ? ", reloading" : "");
}

/* Written only when it changes. */
static void show_title(struct master *master)
{
    const struct generation *generation = master->serving ? master->serving : master->coming;
    char state[64], title[sizeof(master->title)];
    if (!generation || master->checking)
        return;
    describe_state(master, generation, state, sizeof(state));
    snprintf(title, sizeof(title), "licorne: master [gen %u, %s] %s%s", generation->number, state,
             settings_name(&generation->settings), upgrade_has_predecessor(&master->upgrade) ? ".2" : "");
    if (strcmp(title, master->title) == 0)
        return;
    memcpy(master->title, title, sizeof(title));
    title_set("%s", title);
}

/* --- the turn, and what is around it --------------------------------------------------------------------------- */

static void master_turn(struct master *master)
{
    take_signals(master);
    hear_children(master);
    master_reap(master);
    check_deadlines(master);
    check_readiness(master, clock_ms());
    check_sources(master);
    master_reconcile(master);
    master_look_at(master, metrics_turn(master, clock_ms()));
    if (master->stopping && list_empty(&master->workers))
        stop_molds(master); /* those that were kept for the workers' sake */
    show_title(master);
}

/* 0, or -1: logged. */
static int master_init(struct master *master)
{
    list_init(&master->molds);
    list_init(&master->workers);
    master->message = mem_alloc(sizeof(*master->message));
    master->began_ms = master->last_ready_ms = clock_ms();
    master->notify = notify_new();
    master->turnaway = turnaway_new();
    master->passed_listeners = notify_listeners();
    descriptors_limit(master->given->open_files);
    master->signals = signals_open();
    master->board = scoreboard_new(&master->board_fd);
    master->bell = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
    if (home_init(&master->home) == 0 && master->signals >= 0 && master->board && master->bell >= 0 &&
        prctl(PR_SET_CHILD_SUBREAPER, 1) == 0)
        return upgrade_init(master);
    log_error("Cannot start: %s", strerror(errno));
    return -1;
}

static int master_find_python(struct master *master)
{
    struct buf errors = { 0 };
    master->python = interpreter_find(master->given->python, &errors);
    if (!master->python)
        log_error("%.*s", (int)buf_len(&errors) - 1, buf_str(&errors).p);
    buf_done(&errors);
    master->jemalloc = interpreter_jemalloc();
    if (master->given->malloc == MALLOC_JEMALLOC && !master->jemalloc)
        log_debug("jemalloc was not found: the system's allocator is used");
    return master->python ? 0 : -1;
}

static void master_done(struct master *master)
{
    listeners_close(&master->listeners);
    master_vacate(master);
    upgrade_done(master);
    home_done(&master->home);
    notify_free(master->notify);
    turnaway_free(master->turnaway);
    source_watch_free(master->sources);
    generation_free(master->serving);
    generation_free(master->coming);
    free(master->python);
    free(master->jemalloc);
    free(master->message);
}

static int run(const struct settings *given, struct settings *told, bool checking)
{
    struct master *master = mem_zalloc(sizeof(*master));
    master->given = given;
    master->told = told;
    master->checking = checking;
    if (master_init(master) != 0 || master_find_python(master) != 0) {
        master->exit_code = EXIT_CONFIG;
    } else {
        master_log_begin(master);
        master_reload(master);
        master_reconcile(master);
        show_title(master);
        while (!master_finished(master)) {
            wait_for_news(master);
            master_turn(master);
        }
        say_stopped(master);
    }
    int exit_code = master->exit_code;
    master_log_end();
    master_done(master);
    free(master);
    return exit_code;
}

int master_run(const struct settings *given, struct settings *told)
{
    return run(given, told, false);
}

int master_check(const struct settings *given)
{
    return run(given, NULL, true);
}
