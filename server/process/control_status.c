/* control_status: what `licorne ctl status` shows: the server, its workers and the requests that they have, as a table and
 * as JSON. All of it is read from outside: scoreboard and /proc; no worker is asked. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/address.h"
#include "config/settings.h"
#include "config/version.h"
#include "server/base/clock.h"
#include "server/base/inflight.h"
#include "server/process/control.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/procfs.h"
#include "server/process/report.h"
#include "server/process/scoreboard.h"
#include "server/process/worker_handle.h"

#define REQUESTS_SHOWN 10  /* of each worker, in the table */
#define MEMORY_TIME_MS 250 /* for PSS all pages are walked: after so long, no more of them */

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

static double nanoseconds(const _Atomic uint64_t *ns)
{
    return (double)atomic_load(ns) / 1e9;
}

/* As much as can be had before `until_ms`; -1: not known. */
static struct procfs_memory worker_memory(const struct worker_handle *worker, uint64_t until_ms)
{
    struct procfs_memory memory = { -1, -1, -1 };
    if (worker->pid > 0 && (clock_ms() >= until_ms || !procfs_memory(worker->pid, &memory)))
        memory.rss = procfs_rss(worker->pid);
    return memory;
}

/* --- as a table ------------------------------------------------------------------------------------------ */

static void put_server(const struct master *master, struct buf *answer)
{
    const struct generation *generation = master->serving ? master->serving : master->coming;
    buf_printf(answer, "licorne %s, master %d, up %.0f s: %s, generation %u%s%s\n", LICORNE_VERSION, (int)getpid(),
               seconds_since(master->began_ms), generation && *settings_application(&generation->settings) ? settings_application(&generation->settings) : "-",
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

static void put_last_left(const struct master *master, struct buf *answer)
{
    const struct last_left *left = &master->last_left;
    if (left->age > 0)
        buf_printf(answer, "worker %u (pid %d) has left %.0f s ago: %s\n", left->age, (int)left->pid,
                   seconds_since(left->at_ms), left->reason);
}

static void put_size(int64_t bytes, struct buf *answer)
{
    if (bytes >= 0)
        buf_printf(answer, " %7.1f", (double)bytes / 1048576);
    else
        buf_printf(answer, " %7s", "-");
}

static const char heading[] =
    "WORKER  GEN      PID  STATE         UP s   REQUESTS IN FLIGHT  CONNS WEBSOCKETS RSS MiB PSS MiB PRIVATE"
    "  TURN s LONGEST  HANDED  TAKEN  LEAVES BECAUSE OF\n";

static void put_worker(const struct worker_handle *worker, uint64_t until_ms, struct buf *answer)
{
    struct slot *slot = worker->slot;
    struct procfs_memory memory = worker_memory(worker, until_ms);
    buf_printf(answer, "%6u %4u %8d  %-8s %9.1f %10llu %9u %6u %10u", worker->age, worker->generation, (int)worker->pid,
               state_names[worker->state], seconds_since(worker->spawned_ms),
               (unsigned long long)tally_get(&slot->tally.requests), tally_get(&slot->tally.in_flight),
               tally_get(&slot->tally.conns), tally_get(&slot->tally.websockets));
    put_size(memory.rss, answer);
    put_size(memory.pss, answer);
    put_size(memory.private, answer);
    buf_printf(answer, " %7.3f %7.3f %7llu %6llu  %s\n", turn_seconds(worker), nanoseconds(&slot->longest_turn_ns),
               (unsigned long long)atomic_load(&slot->handed_over), (unsigned long long)atomic_load(&slot->taken_over),
               worker->reason);
    report_requests(worker, NULL, REQUESTS_SHOWN, answer);
}

static void status_table(struct master *master, struct buf *answer)
{
    uint64_t until_ms = clock_ms() + MEMORY_TIME_MS;
    put_server(master, answer);
    put_last_left(master, answer);
    buf_append_str(answer, STR(heading));
    LIST_EACH(it, &master->workers)
        put_worker(LIST_ENTRY(it, struct worker_handle, node), until_ms, answer);
}

/* --- as JSON --------------------------------------------------------------------------------------------- */

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

/* What a client has sent may be any bytes: each is a character. */
static void put_bytes(struct buf *answer, const char *text)
{
    buf_append_str(answer, STR("\""));
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        if (*p < 0x20 || *p >= 0x7f || *p == '"' || *p == '\\')
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

static void put_number(const char *name, int64_t number, struct buf *answer)
{
    if (number >= 0)
        buf_printf(answer, ", \"%s\": %lld", name, (long long)number);
    else
        buf_printf(answer, ", \"%s\": null", name);
}

/* Seconds from now, perhaps negative. */
static void put_deadline(const char *name, uint64_t deadline_ms, struct buf *answer)
{
    if (deadline_ms > 0)
        buf_printf(answer, ", \"%s\": %.3f", name, ((double)deadline_ms - (double)clock_ms()) / 1e3);
    else
        buf_printf(answer, ", \"%s\": null", name);
}

static void put_request_json(const struct inflight_view *view, struct buf *answer)
{
    static const char *const states[] = { "serving", "answered", "gone" };
    buf_append_str(answer, STR("\n    {\"request\": "));
    put_bytes(answer, view->line);
    buf_append_str(answer, STR(", \"client\": "));
    put_bytes(answer, view->client);
    put_number("port", view->client_port, answer);
    buf_printf(answer, ", \"state\": \"%s\", \"elapsed_s\": %.3f", states[view->state <= 2 ? view->state : 2],
               inflight_age(view));
    put_number("thread", view->thread > 0 ? view->thread : -1, answer);
    put_deadline("deadline_s", view->soft_ms, answer);
    put_deadline("hard_deadline_s", view->hard_ms, answer);
    buf_append_str(answer, STR("}"));
}

static void put_requests_json(const struct worker_handle *worker, struct buf *answer)
{
    struct inflight_view *views;
    uint32_t count = inflight_read_all(worker->inflight, &views);
    buf_append_str(answer, STR(", \"current\": ["));
    for (uint32_t i = 0; i < count; i++) {
        put_request_json(&views[i], answer);
        buf_append_str(answer, i + 1 < count ? STR(",") : STR(""));
    }
    buf_append_str(answer, STR("]"));
    free(views);
}

static void put_tally_json(struct tally *tally, struct buf *answer)
{
    buf_printf(answer, ", \"requests\": %llu, \"in_flight\": %u, \"connections\": %u, \"connections_accepted\": %llu",
               (unsigned long long)tally_get(&tally->requests), tally_get(&tally->in_flight), tally_get(&tally->conns),
               (unsigned long long)tally_get(&tally->conns_accepted));
    buf_printf(answer, ", \"websockets\": %u", tally_get(&tally->websockets));
    buf_append_str(answer, STR(", \"status\": {"));
    for (int i = 1; i < 6; i++)
        buf_printf(answer, "%s\"%dxx\": %llu", i > 1 ? ", " : "", i,
                   (unsigned long long)tally_get(&tally->status_class[i]));
    buf_append_str(answer, STR("}"));
}

static void put_worker_json(const struct worker_handle *worker, uint64_t until_ms, struct buf *answer)
{
    struct slot *slot = worker->slot;
    struct procfs_memory memory = worker_memory(worker, until_ms);
    buf_printf(answer, "\n  {\"worker\": %u, \"generation\": %u, \"pid\": %d, \"state\": \"%s\", \"up_s\": %.3f",
               worker->age, worker->generation, (int)worker->pid, state_names[worker->state],
               seconds_since(worker->spawned_ms));
    put_tally_json(&slot->tally, answer);
    put_number("rss_bytes", memory.rss, answer);
    put_number("pss_bytes", memory.pss, answer);
    put_number("private_bytes", memory.private, answer);
    buf_printf(answer, ", \"turn_s\": %.6f, \"last_turn_s\": %.6f, \"longest_turn_s\": %.6f", turn_seconds(worker),
               nanoseconds(&slot->last_turn_ns), nanoseconds(&slot->longest_turn_ns));
    put_number("handed_over", (int64_t)atomic_load(&slot->handed_over), answer);
    put_number("taken_over", (int64_t)atomic_load(&slot->taken_over), answer);
    buf_append_str(answer, STR(", \"leaving\": "));
    put_string(answer, worker->reason);
    put_requests_json(worker, answer);
    buf_append_str(answer, STR("}"));
}

static void put_last_left_json(const struct master *master, struct buf *answer)
{
    const struct last_left *left = &master->last_left;
    buf_append_str(answer, STR(", \"last_left\": "));
    if (left->age == 0) {
        buf_append_str(answer, STR("null"));
        return;
    }
    buf_printf(answer, "{\"worker\": %u, \"pid\": %d, \"ago_s\": %.3f, \"reason\": ", left->age, (int)left->pid,
               seconds_since(left->at_ms));
    put_string(answer, left->reason);
    buf_append_str(answer, STR("}"));
}

static void status_json(struct master *master, struct buf *answer)
{
    uint64_t until_ms = clock_ms() + MEMORY_TIME_MS;
    const struct generation *generation = master->serving ? master->serving : master->coming;
    buf_append_str(answer, STR("{\"version\": "));
    put_string(answer, LICORNE_VERSION);
    buf_printf(answer, ", \"pid\": %d, \"up_s\": %.3f, \"app\": ", (int)getpid(), seconds_since(master->began_ms));
    put_string(answer, generation ? settings_application(&generation->settings) : "");
    buf_printf(answer, ", \"generation\": %u, \"reloading\": %s, \"stopping\": %s, \"workers_wanted\": %d",
               generation ? generation->number : 0, master->serving && master->coming ? "true" : "false",
               master->stopping ? "true" : "false", generation ? master_wanted_workers(master, generation) : 0);
    put_last_left_json(master, answer);
    buf_append_str(answer, STR(", \"listeners\": ["));
    put_listeners_json(master, answer);
    buf_append_str(answer, STR("], \"workers\": ["));
    LIST_EACH(it, &master->workers) {
        put_worker_json(LIST_ENTRY(it, struct worker_handle, node), until_ms, answer);
        buf_append_str(answer, it->next != &master->workers ? STR(",") : STR("\n"));
    }
    buf_append_str(answer, STR("]}\n"));
}

/* --- entry point --------------------------------------------------------------------------------------------------- */

void control_status(struct master *master, bool json, struct buf *answer)
{
    (json ? status_json : status_table)(master, answer);
}
