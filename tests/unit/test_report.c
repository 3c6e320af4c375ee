/* The report on a worker: what the master knows of it, and the stacks that came. */
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/process/report.h"
#include "server/process/scoreboard.h"
#include "server/process/worker.h"
#include "server/process/worker_handle.h"
#include "tests/unit/check.h"

static struct scoreboard *board;
static struct inflight inflight;
static struct worker_handle worker;
static int board_fd;

static pid_t start_worker(void)
{
    signal(WORKER_DUMP_SIGNAL, SIG_IGN);
    pid_t pid = fork();
    if (pid == 0)
        for (;;)
            pause();
    signal(WORKER_DUMP_SIGNAL, SIG_DFL);
    return pid;
}

static void begin_test(void)
{
    board = scoreboard_new(&board_fd);
    inflight_init(&inflight, &board->inflight[3]);
    worker = (struct worker_handle){ .state = WORKER_HANDLE_READY,
                                     .pid = start_worker(),
                                     .age = 9,
                                     .generation = 2,
                                     .slot = &board->slots[3],
                                     .inflight = &board->inflight[3] };
    worker.spawned_ms = clock_ms() - 1500;
}

static void end_test(void)
{
    report_drop(&worker);
    if (worker.pid > 0) {
        kill(worker.pid, SIGKILL);
        waitpid(worker.pid, NULL, 0);
    }
    munmap(board, sizeof(*board));
    close(board_fd);
}

static void list(const char *target, int64_t age_ms)
{
    inflight_begin(&inflight, STR("GET"), str_from(target), STR("192.0.2.1"), 4711,
                   clock_ns() - (uint64_t)age_ms * 1000000);
    tally_add(&worker.slot->tally.in_flight, 1);
}

/* The report's text with these stacks; the caller's to free. */
static char *report(const char *stacks)
{
    struct buf text = { 0 };
    report_begin(&worker, REPORT_ASKED, "Worker %d", 9);
    report_end(&worker, str_from(stacks), &text);
    buf_append(&text, "", 1);
    return text.data + text.start;
}

static void requests_are_told_oldest_first(void)
{
    begin_test();
    list("/young", 100);
    list("/old", 5000);
    atomic_store(&worker.slot->tally.in_flight, 7);
    char *text = report("");
    CHECK(strstr(text, "Worker 9\n    worker 9 of generation 2, "));
    CHECK(strstr(text, " s old, 0 requests answered, 0 connections\n"));
    const char *old = strstr(text, "      GET /old from 192.0.2.1:4711, for 5."), *young = strstr(text, "GET /young");
    CHECK(old && young && old < young);
    CHECK(strstr(text, "      and 5 more\n"));
    CHECK(strstr(text, "    where it is:\n      (it does not tell)"));
    CHECK(worker.report == NULL);
    free(text);
    end_test();
}

static void whoever_only_asks_is_left_out(void)
{
    begin_test();
    char *text = report("Current thread 0x01 (most recent call first):\n  <no Python frame>\n\n"
                        "Thread 0x02 (most recent call first):\n  <no Python frame>\n\n"
                        "Thread 0x03 (most recent call first):\n  File \"a.py\", line 1 in f\n\n"
                        "Task 'x' (most recent call first):\n  waits for y\n\n\n");
    const char *stacks = strstr(text, "    where it is:\n");
    CHECK(stacks != NULL);
    const char *expected = "    where it is:\n"
                           "      Thread 0x03 (most recent call first):\n        File \"a.py\", line 1 in f\n\n"
                           "      Task 'x' (most recent call first):\n        waits for y";
    CHECK_BYTES(stacks, strlen(stacks), expected);
    free(text);
    end_test();
}

static void the_kernel_is_asked_of_its_threads(void)
{
    char expected[64];
    begin_test();
    char *text = report("");
    snprintf(expected, sizeof(expected), "      thread %d ", (int)worker.pid);
    CHECK(strstr(text, expected));
    CHECK(strstr(text, " MiB resident, ") && strstr(text, " 1 threads\n"));
    free(text);
    end_test();
}

static void a_kill_comes_after_its_report_and_takes_precedence(void)
{
    int status;
    begin_test();
    report_begin(&worker, REPORT_ASKED, "Worker");
    report_kill(&worker, "It was stuck");
    CHECK_INT(worker.state, WORKER_HANDLE_DYING);
    CHECK_INT(worker.report->kind, REPORT_KILL);
    report_kill(&worker, "Once more");
    CHECK(strncmp(buf_str(&worker.report->text).p, "It was stuck\n", 13) == 0);
    CHECK_INT(waitpid(worker.pid, &status, WNOHANG), 0);
    report_end(&worker, STR("Thread 1\n"), NULL);
    CHECK_INT(waitpid(worker.pid, &status, 0), worker.pid);
    worker.pid = 0;
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(worker.due_ms > clock_ms());
    end_test();
}

CHECK_MAIN(TEST(requests_are_told_oldest_first), TEST(whoever_only_asks_is_left_out),
           TEST(the_kernel_is_asked_of_its_threads), TEST(a_kill_comes_after_its_report_and_takes_precedence))
