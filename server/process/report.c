/* report: see report.h. */
#include "server/process/report.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/base/inflight.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/process/procfs.h"
#include "server/process/scoreboard.h"
#include "server/process/worker.h"
#include "server/process/worker_handle.h"

#define ABORT_MS 2000 /* between SIGABRT, which a hook may answer (worker_abort), and SIGKILL */

/* --- what is known without the worker -------------------------------------------------------------------------------- */

static const char *state_note(enum inflight_state state)
{
    switch (state) {
    case INFLIGHT_ANSWERED:
        return ", answered; the application goes on";
    case INFLIGHT_GONE:
        return ", its client has left; the application goes on";
    default:
        return "";
    }
}

/* It may be for a terminal: a client's bytes that are no plain ASCII are spelled out. */
static void put_plain(const char *bytes, struct buf *text)
{
    for (const unsigned char *p = (const unsigned char *)bytes; *p; p++)
        if (*p >= 0x20 && *p < 0x7f)
            buf_append(text, p, 1);
        else
            buf_printf(text, "\\x%02x", *p);
}

static void put_request(const struct inflight_view *view, struct buf *text)
{
    buf_append_str(text, STR("      "));
    put_plain(view->line, text);
    buf_printf(text, "%s from ", view->truncated ? "..." : "");
    put_plain(*view->client ? view->client : "a unix socket", text);
    if (view->client_port >= 0)
        buf_printf(text, ":%d", view->client_port);
    buf_printf(text, ", for %.3f s%s", inflight_age(view), state_note(view->state));
    if (view->thread_ident)
        buf_printf(text, ", in thread 0x%016llx", (unsigned long long)view->thread_ident);
    buf_append_str(text, STR("\n"));
}

void report_requests(const struct worker_handle *worker, const char *title, uint32_t most, struct buf *text)
{
    struct inflight_view *views;
    uint32_t listed = inflight_read_all(worker->inflight, &views), left = tally_get(&worker->slot->tally.in_flight);
    if (title && (listed > 0 || left > 0))
        buf_printf(text, "    %s\n", title);
    for (uint32_t i = 0; i < listed && i < most; i++) {
        put_request(&views[i], text);
        left -= views[i].state == INFLIGHT_SERVING && left > 0;
    }
    if (left > 0)
        buf_printf(text, "      and %u more\n", left);
    free(views);
}

static void put_worker(const struct worker_handle *worker, struct buf *text)
{
    uint64_t began_ns = atomic_load(&worker->slot->turn_began_ns), now_ns = clock_ns();
    double age = (double)(clock_ms() - worker->spawned_ms) / 1e3;
    buf_printf(text, "    worker %u of generation %u, %.1f s old, %llu requests answered, %u connections\n",
               worker->age, worker->generation, age, (unsigned long long)tally_get(&worker->slot->tally.requests),
               tally_get(&worker->slot->tally.conns));
    if (began_ns > 0 && began_ns < now_ns)
        buf_printf(text, "    its loop has been in one turn for %.3f s\n", (double)(now_ns - began_ns) / 1e9);
}

/* --- where it goes ---------------------------------------------------------------------------------------------------- */

static struct str trimmed(struct str text)
{
    while (text.len > 0 && text.p[text.len - 1] == '\n')
        text.len--;
    return text;
}

/* Opened for each report: they are rare, and whoever rotates the file need tell nobody. */
static int open_slowlog(const struct worker_handle *worker)
{
    if (!worker->slowlog)
        return -1;
    int fd = open(worker->slowlog, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);
    if (fd < 0)
        log_warning("Cannot open the slowlog %s: %s. The error log is used", worker->slowlog, strerror(errno));
    return fd;
}

static void log_slow(const struct worker_handle *worker, struct str text)
{
    int fd = open_slowlog(worker);
    log_block(fd, LOG_LEVEL_WARNING, text);
    if (fd >= 0)
        close(fd);
}

/* SIGABRT first: gunicorn's hook, and a core file where those are wanted. */
static void abort_worker(struct worker_handle *worker)
{
    worker->due_ms = clock_ms() + ABORT_MS;
    kill(worker->pid, SIGABRT);
}

/* Up to the end of the paragraph, a thread's stack, and of the empty line behind it. */
static struct str take_paragraph(struct str *rest)
{
    const char *end = memmem(rest->p, rest->len, "\n\n", 2);
    struct str paragraph = { rest->p, end ? (size_t)(end - rest->p) + 2 : rest->len };
    *rest = (struct str){ rest->p + paragraph.len, rest->len - paragraph.len };
    return paragraph;
}

/* The witness of pyglue/dump.c, which is there only because it was asked. */
static bool has_frames(struct str paragraph)
{
    return !memmem(paragraph.p, paragraph.len, STR("\n  <no Python frame>").p, STR("\n  <no Python frame>").len);
}

static void put_indented(struct str lines, struct buf *text)
{
    while (lines.len > 0) {
        const char *end = memchr(lines.p, '\n', lines.len);
        size_t len = end ? (size_t)(end - lines.p) + 1 : lines.len;
        if (len > 1)
            buf_append_str(text, STR("      "));
        buf_append(text, lines.p, len);
        lines = (struct str){ lines.p + len, lines.len - len };
    }
}

static void put_stacks(struct str stacks, struct buf *text)
{
    buf_append_str(text, STR("    where it is:\n"));
    if (stacks.len == 0)
        buf_append_str(text, STR("      (it does not tell)"));
    while (stacks.len > 0) {
        struct str paragraph = take_paragraph(&stacks);
        if (has_frames(paragraph))
            put_indented(paragraph, text);
    }
    text->end = text->start + trimmed(buf_str(text)).len;
}

void report_end(struct worker_handle *worker, struct str stacks, struct buf *text)
{
    struct report *report = worker->report;
    put_stacks(stacks, &report->text);
    if (report->kind == REPORT_KILL)
        log_block(-1, LOG_LEVEL_ERROR, buf_str(&report->text));
    else if (report->kind == REPORT_SLOW)
        log_slow(worker, buf_str(&report->text));
    if (report->kind == REPORT_KILL)
        abort_worker(worker);
    if (text)
        buf_append_str(text, buf_str(&report->text));
    report_drop(worker);
}

void report_drop(struct worker_handle *worker)
{
    if (!worker->report)
        return;
    buf_done(&worker->report->text);
    free(worker->report);
    worker->report = NULL;
}

/* --- asking ----------------------------------------------------------------------------------------------------------- */

static void condemn(struct worker_handle *worker)
{
    worker->failed = true; /* why it dies is in the report */
    snprintf(worker->reason, sizeof(worker->reason), "killed: see the log");
    worker->state = WORKER_HANDLE_DYING;
    worker->due_ms = 0; /* not before the report is complete */
}

void report_begin(struct worker_handle *worker, enum report_kind kind, const char *format, ...)
{
    char line[512];
    va_list args;
    if (worker->state == WORKER_HANDLE_DYING)
        return;
    report_drop(worker); /* of a lesser kind */
    struct report *report = worker->report = mem_zalloc(sizeof(*report));
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    report->kind = kind;
    report->due_ms = clock_ms() + REPORT_MS;
    buf_printf(&report->text, "%s\n", line);
    put_worker(worker, &report->text);
    report_requests(worker, kind == REPORT_KILL ? "lost with it:" : "requests in flight:", INFLIGHT_CELLS,
                    &report->text);
    procfs_describe(worker->pid, &report->text);
    if (kind == REPORT_KILL)
        condemn(worker);
    kill(worker->pid, WORKER_DUMP_SIGNAL);
}
