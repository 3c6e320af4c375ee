/* control_command: the questions of `licorne ctl` and their answers. gunicornc's words are understood too. Reading is
 * free; what changes something does what the signal of the same meaning does. */
#include <ctype.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/address.h"
#include "config/settings.h"
#include "config/version.h"
#include "server/base/clock.h"
#include "server/process/control.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/procfs.h"
#include "server/process/report.h"
#include "server/process/scoreboard.h"
#include "server/process/worker_handle.h"

#define WORDS_MAX 4

static const char *const state_names[] = {
    [WORKER_HANDLE_SPAWNING] = "spawning", [WORKER_HANDLE_BOOTING] = "booting", [WORKER_HANDLE_READY] = "ready",
    [WORKER_HANDLE_RETIRING] = "draining", [WORKER_HANDLE_DYING] = "dying",
};

static double seconds_since(uint64_t ms)
{
    return (double)(clock_ms() - ms) / 1e3;
}

/* How long its loop has been inside the present turn: what a newcomer waits at least. */
static double turn_seconds(const struct worker_handle *worker)
{
    uint64_t began_ns = atomic_load(&worker->slot->turn_began_ns), now_ns = clock_ns();
    return began_ns && worker->ready_ms && began_ns < now_ns ? (double)(now_ns - began_ns) / 1e9 : 0;
}

static int64_t worker_rss(const struct worker_handle *worker)
{
    int64_t rss = worker->pid > 0 ? procfs_rss(worker->pid) : 0;
    return rss > 0 ? rss : 0;
}

/* --- status, as a table ------------------------------------------------------------------------------------------ */

static void put_server(const struct master *master, struct buf *answer)
{
    const struct generation *generation = master->serving ? master->serving : master->coming;
    buf_printf(answer, "licorne %s, master %d, up %.0f s: %s, generation %u%s%s\n", LICORNE_VERSION, (int)getpid(),
               seconds_since(master->began_ms), generation && generation->settings.app ? generation->settings.app : "-",
               generation ? generation->number : 0, master->serving && master->coming ? ", reloading" : "",
               master->stopping ? ", stopping" : "");
    if (master->upgrade.successor > 0)
        buf_printf(answer, "master %d %s\n", (int)master->upgrade.successor,
                   master->upgrade.succeeded ? "serves beside it" : "is starting beside it");
    if (master->upgrade.predecessor > 0)
        buf_printf(answer, "beside its predecessor, master %d\n", (int)master->upgrade.predecessor);
    for (int i = 0; i < master->listeners.count; i++) {
        char *name = address_name(master->listeners.fds[i]);
        buf_printf(answer, "listening at %s\n", name ? name : "?");
        free(name);
    }
}

static void put_worker(const struct worker_handle *worker, struct buf *answer)
{
    struct slot *slot = worker->slot;
    buf_printf(answer, "%6u %4u %8d  %-8s %9.1f %10llu %9u %6u %7.1f %7.3f  %s\n", worker->age, worker->generation,
               (int)worker->pid, state_names[worker->state], seconds_since(worker->spawned_ms),
               (unsigned long long)atomic_load(&slot->tally.requests), atomic_load(&slot->tally.in_flight),
               atomic_load(&slot->tally.conns), (double)worker_rss(worker) / 1048576, turn_seconds(worker), worker->reason);
}

static void status_table(struct master *master, struct buf *answer)
{
    put_server(master, answer);
    buf_printf(answer, "%6s %4s %8s  %-8s %9s %10s %9s %6s %7s %7s  %s\n", "WORKER", "GEN", "PID", "STATE", "UP s",
               "REQUESTS", "IN FLIGHT", "CONNS", "RSS MiB", "TURN s", "LEAVES BECAUSE OF");
    LIST_EACH(it, &master->workers)
        put_worker(LIST_ENTRY(it, struct worker_handle, node), answer);
}

/* --- status, as JSON --------------------------------------------------------------------------------------------- */

static void put_string(struct buf *answer, const char *text)
{
    buf_append_str(answer, STR("\""));
    for (const unsigned char *p = (const unsigned char *)(text ? text : ""); *p; p++)
        if (*p < 0x20 || *p == '"' || *p == '\\')
            buf_printf(answer, "\\u%04x", *p);
        else
            buf_append(answer, p, 1);
    buf_append_str(answer, STR("\""));
}

static void put_listeners_json(const struct master *master, struct buf *answer)
{
    for (int i = 0; i < master->listeners.count; i++) {
        char *name = address_name(master->listeners.fds[i]);
        buf_append_str(answer, i > 0 ? STR(", ") : STR(""));
        put_string(answer, name ? name : "?");
        free(name);
    }
}

static void put_worker_json(const struct worker_handle *worker, struct buf *answer)
{
    struct slot *slot = worker->slot;
    buf_printf(answer, "\n  {\"worker\": %u, \"generation\": %u, \"pid\": %d, \"state\": \"%s\", \"up_s\": %.3f",
               worker->age, worker->generation, (int)worker->pid, state_names[worker->state],
               seconds_since(worker->spawned_ms));
    buf_printf(answer, ", \"requests\": %llu, \"in_flight\": %u, \"connections\": %u, \"connections_accepted\": %llu",
               (unsigned long long)atomic_load(&slot->tally.requests), atomic_load(&slot->tally.in_flight),
               atomic_load(&slot->tally.conns), (unsigned long long)atomic_load(&slot->tally.conns_accepted));
    buf_append_str(answer, STR(", \"status\": {"));
    for (int i = 1; i < 6; i++)
        buf_printf(answer, "%s\"%dxx\": %llu", i > 1 ? ", " : "", i,
                   (unsigned long long)atomic_load(&slot->tally.status_class[i]));
    buf_printf(answer, "}, \"rss_bytes\": %lld, \"turn_s\": %.6f, \"leaving\": ", (long long)worker_rss(worker),
               turn_seconds(worker));
    put_string(answer, worker->reason);
    buf_append_str(answer, STR("}"));
}

static void status_json(struct master *master, struct buf *answer)
{
    const struct generation *generation = master->serving ? master->serving : master->coming;
    buf_append_str(answer, STR("{\"version\": "));
    put_string(answer, LICORNE_VERSION);
    buf_printf(answer, ", \"pid\": %d, \"up_s\": %.3f, \"app\": ", (int)getpid(), seconds_since(master->began_ms));
    put_string(answer, generation ? generation->settings.app : "");
    buf_printf(answer, ", \"generation\": %u, \"reloading\": %s, \"stopping\": %s, \"workers_wanted\": %d",
               generation ? generation->number : 0, master->serving && master->coming ? "true" : "false",
               master->stopping ? "true" : "false", generation ? master_wanted_workers(master, generation) : 0);
    buf_append_str(answer, STR(", \"listeners\": ["));
    put_listeners_json(master, answer);
    buf_append_str(answer, STR("], \"workers\": ["));
    LIST_EACH(it, &master->workers) {
        put_worker_json(LIST_ENTRY(it, struct worker_handle, node), answer);
        buf_append_str(answer, it->next != &master->workers ? STR(",") : STR("\n"));
    }
    buf_append_str(answer, STR("]}\n"));
}

/* --- commands ---------------------------------------------------------------------------------------------------- */

struct words {
    const char *items[WORDS_MAX]; /* "" beyond the last one */
    int count;
};

static void refuse(struct buf *answer, const char *reason)
{
    buf_printf(answer, "ERROR %s\n", reason);
}

static void agree(struct buf *answer)
{
    buf_append_str(answer, STR("OK\n"));
}

static void do_status(struct master *master, const struct words *words, struct buf *answer)
{
    agree(answer);
    (strcmp(words->items[1], "--json") == 0 ? status_json : status_table)(master, answer);
}

static void do_config(struct master *master, const struct words *words, struct buf *answer)
{
    (void)words;
    const struct generation *generation = master->serving ? master->serving : master->coming;
    if (!generation || !generation->configured) {
        refuse(answer, "the configuration is not known yet");
        return;
    }
    agree(answer);
    settings_print(&generation->settings, answer);
}

static void do_listeners(struct master *master, const struct words *words, struct buf *answer)
{
    (void)words;
    agree(answer);
    for (int i = 0; i < master->listeners.count; i++) {
        char *name = address_name(master->listeners.fds[i]);
        buf_printf(answer, "%s\n", name ? name : "?");
        free(name);
    }
}

static void do_reload(struct master *master, const struct words *words, struct buf *answer)
{
    (void)words;
    if (master->stopping) {
        refuse(answer, "the server is stopping");
        return;
    }
    master_reload(master);
    agree(answer);
}

static void do_upgrade(struct master *master, const struct words *words, struct buf *answer)
{
    (void)words;
    const char *reason = upgrade_begin(master);
    if (reason) {
        refuse(answer, reason);
        return;
    }
    agree(answer);
    buf_printf(answer, "process %d is started beside this one\n", (int)master->upgrade.successor);
}

static void scale_by(struct master *master, int by, struct buf *answer)
{
    const struct generation *generation = master->serving ? master->serving : master->coming;
    if (master->stopping || !generation || !generation->configured) {
        refuse(answer, master->stopping ? "the server is stopping" : "the server is starting");
        return;
    }
    int wanted = master_wanted_workers(master, generation) + by;
    int least = autoscale_least(&generation->settings), most = autoscale_most(&generation->settings);
    if (wanted < least || wanted > most) {
        char reason[64];
        snprintf(reason, sizeof(reason), "between %d and %d workers can be had", least, most);
        refuse(answer, reason);
        return;
    }
    master_scale(master, by);
    agree(answer);
    buf_printf(answer, "%d workers wanted\n", wanted);
}

/* "+1", "-2", "=4" */
static void do_scale(struct master *master, const struct words *words, struct buf *answer)
{
    const char *text = words->items[1];
    char *end;
    long number = strtol(text + (*text == '='), &end, 10);
    if (!*text || !strchr("+-=", *text) || *end || end == text + 1 || number < -WORKERS_MAX || number > WORKERS_MAX) {
        refuse(answer, "scale takes +N, -N or =N");
        return;
    }
    const struct generation *generation = master->serving ? master->serving : master->coming;
    int present = generation ? master_wanted_workers(master, generation) : 0;
    scale_by(master, *text == '=' ? (int)number - present : (int)number, answer);
}

static void do_stop(struct master *master, const struct words *words, struct buf *answer)
{
    bool now = strcmp(words->items[1], "--now") == 0 || strcmp(words->items[1], "quick") == 0;
    if (master->stopping && now)
        master_kill_all(master);
    else if (now)
        master_stop(master, false);
    else
        master_end(master);
    agree(answer);
}

static void do_reopen(struct master *master, const struct words *words, struct buf *answer)
{
    (void)words;
    master_reopen_logs(master);
    agree(answer);
}

/* gunicornc: show all|workers|stats|config|listeners */
static void do_show(struct master *master, const struct words *words, struct buf *answer)
{
    const char *what = words->items[1];
    if (strcmp(what, "config") == 0)
        do_config(master, words, answer);
    else if (strcmp(what, "listeners") == 0)
        do_listeners(master, words, answer);
    else
        do_status(master, &(struct words){ { "status", words->items[2], "", "" }, 2 }, answer);
}

static void kill_worker(struct master *master, pid_t pid, struct buf *answer)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (pid <= 0 || worker->pid != pid || worker->state != WORKER_HANDLE_READY)
            continue;
        worker_handle_leave(worker, "control socket");
        agree(answer);
        return;
    }
    refuse(answer, "there is no ready worker with that pid");
}

/* By its running number or its pid. */
static struct worker_handle *find_serving(const struct master *master, const char *text)
{
    long number = strtol(text, NULL, 10);
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        bool serving = worker->state == WORKER_HANDLE_READY || worker->state == WORKER_HANDLE_RETIRING;
        if (serving && number > 0 && (worker->age == number || worker->pid == number))
            return worker;
    }
    return NULL;
}

static void do_dump(struct master *master, const struct words *words, struct buf *answer)
{
    struct worker_handle *worker = find_serving(master, words->items[1]);
    if (!worker) {
        refuse(answer, "there is no ready worker with that number or pid");
        return;
    }
    if (!worker->report)
        report_begin(worker, REPORT_ASKED, "Worker %d", (int)worker->pid);
    control_await_report(master->here.control, worker->age);
}

/* gunicornc: worker add|remove [N], worker kill PID. A killed one is replaced first, as everything here. */
static void do_worker(struct master *master, const struct words *words, struct buf *answer)
{
    int number = *words->items[2] ? atoi(words->items[2]) : 1;
    if (strcmp(words->items[1], "add") == 0)
        scale_by(master, number, answer);
    else if (strcmp(words->items[1], "remove") == 0)
        scale_by(master, -number, answer);
    else if (strcmp(words->items[1], "kill") == 0)
        kill_worker(master, number, answer);
    else
        refuse(answer, "worker add [N], worker remove [N] or worker kill PID");
}

static void do_help(struct master *master, const struct words *words, struct buf *answer);

static const struct command {
    const char *name, *text;
    void (*run)(struct master *master, const struct words *words, struct buf *answer);
} commands[] = {
    { "status", "[--json]: the server and its workers", do_status },
    { "config", ": all settings, and where they come from", do_config },
    { "listeners", ": where it listens", do_listeners },
    { "reload", ": new configuration and code, as HUP", do_reload },
    { "upgrade", ": a new executable takes over, as USR2", do_upgrade },
    { "scale", "+N | -N | =N: more or fewer workers", do_scale },
    { "dump", "WORKER | PID: what it is at: its requests, and the stacks of its threads and tasks", do_dump },
    { "reopen", ": opens the log files anew, as USR1", do_reopen },
    { "stop", "[--now]: ends the server, as TERM; --now: as INT", do_stop },
    { "shutdown", "[graceful | quick]: as stop", do_stop },
    { "show", "all | workers | stats | config | listeners", do_show },
    { "worker", "add [N] | remove [N] | kill PID (which replaces it first)", do_worker },
    { "help", ": this list", do_help },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void do_help(struct master *master, const struct words *words, struct buf *answer)
{
    (void)master, (void)words;
    agree(answer);
    for (size_t i = 0; i < COMMANDS; i++)
        buf_printf(answer, "%s%s%s\n", commands[i].name, commands[i].text[0] == ':' ? "" : " ", commands[i].text);
}

static struct words split(char *text)
{
    struct words words = { { "", "", "", "" }, 0 };
    char *rest = text, *word;
    while ((word = strsep(&rest, " \t\r")) != NULL && words.count < WORDS_MAX)
        if (*word)
            words.items[words.count++] = word;
    return words;
}

void control_answer(struct master *master, struct str question, struct buf *answer)
{
    char text[256];
    size_t len = question.len < sizeof(text) - 1 ? question.len : sizeof(text) - 1;
    memcpy(text, question.p, len);
    text[len] = '\0';
    struct words words = split(text);
    for (size_t i = 0; i < COMMANDS; i++)
        if (strcmp(words.items[0], commands[i].name) == 0) {
            commands[i].run(master, &words, answer);
            return;
        }
    refuse(answer, "no such command; `licorne ctl help` lists them");
}
