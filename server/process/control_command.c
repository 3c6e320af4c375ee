/* control_command: the questions of `licorne ctl` and their answers. gunicornc's words are understood too. Reading is
 * free; what changes something does what the signal of the same meaning does. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/address.h"
#include "config/settings.h"
#include "server/process/control.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/report.h"
#include "server/process/scoreboard.h"
#include "server/process/worker_handle.h"

#define WORDS_MAX 4

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
    control_status(master, strcmp(words->items[1], "--json") == 0, answer);
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
