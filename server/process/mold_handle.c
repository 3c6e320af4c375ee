/* mold_handle: see mold_handle.h. */
#include "server/process/mold_handle.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/process/channel.h"
#include "server/process/home.h"
#include "server/process/signals.h"
#include "server/process/title.h"

/* For memory that comes back after a busy spell: one arena, so that little is scattered; no threads of its own, which a
 * fork would lose; freed pages go back within a second or so of further use. */
#define MALLOC_CONF "narenas:1,background_thread:false,dirty_decay_ms:1000,muzzy_decay_ms:0"

/* --- in the child, between fork and exec ---------------------------------------------------------------------- */

/* Puts `ours` before the user's value and keeps that where the mold finds it. */
static void override(const char *name, const char *saved_name, const char *ours, char separator)
{
    const char *users = getenv(name);
    setenv(saved_name, users ? users : "", 1);
    char *value = users && *users ? mem_printf("%s%c%s", ours, separator, users) : mem_strdup(ours);
    setenv(name, value, 1);
    free(value);
}

static void preload(const char *jemalloc)
{
    const char *users = getenv("LD_PRELOAD");
    if (!jemalloc || (users && strstr(users, "malloc")))
        return;
    override("LD_PRELOAD", "LICORNE_SAVED_LD_PRELOAD", jemalloc, ':');
    override("MALLOC_CONF", "LICORNE_SAVED_MALLOC_CONF", MALLOC_CONF, ',');
}

static _Noreturn void become_mold(const struct mold_start *start, int channel)
{
    signals_reset();
    if (home_enter(start->home) != 0)
        log_warning("Cannot return to the folder of the start: %s", strerror(errno));
    fcntl(channel, F_SETFD, 0);
    fcntl(start->scoreboard, F_SETFD, 0);
    preload(start->jemalloc);
    char *code = mem_printf("from licorne._core import mold; mold(%d, %d)" TITLE_ROOM, channel, start->scoreboard);
    execl(start->python, start->python, "-c", code, (char *)NULL);
    log_error("Cannot run %s: %s", start->python, strerror(errno));
    _exit(127);
}

/* --- entry points --------------------------------------------------------------------------------------------- */

static struct mold_handle *mold_record(const struct mold_start *start, pid_t pid, int channel)
{
    struct mold_handle *mold = mem_zalloc(sizeof(*mold));
    list_init(&mold->node);
    mold->pid = pid;
    mold->channel = channel;
    mold->generation = start->generation;
    mold->began_ms = clock_ms();
    if (start->boot_timeout_ms > 0)
        mold->due_ms = mold->began_ms + (uint64_t)start->boot_timeout_ms;
    return mold;
}

struct mold_handle *mold_handle_new(const struct mold_start *start)
{
    int channel[2];
    if (channel_pair(channel) != 0)
        return NULL;
    pid_t pid = fork();
    if (pid == 0)
        become_mold(start, channel[1]);
    int error = errno;
    close(channel[1]);
    if (pid > 0)
        return mold_record(start, pid, channel[0]);
    close(channel[0]);
    errno = error;
    return NULL;
}

void mold_handle_close_channel(struct mold_handle *mold)
{
    if (mold->channel >= 0)
        close(mold->channel);
    mold->channel = -1;
}

void mold_handle_free(struct mold_handle *mold)
{
    if (!mold)
        return;
    list_remove(&mold->node);
    mold_handle_close_channel(mold);
    free(mold);
}

void mold_handle_stop(struct mold_handle *mold)
{
    if (mold->state == MOLD_STOPPING)
        return;
    struct channel_stop stop = { .graceful = 1 };
    bool busy = mold->state != MOLD_LOADED; /* it is loading and does not listen; it has nothing to lose either */
    if (busy || channel_send(mold->channel, CHANNEL_STOP, &stop, sizeof(stop), NULL, 0) != 0) {
        mold_handle_kill(mold);
        return;
    }
    mold->state = MOLD_STOPPING;
    mold->due_ms = clock_ms() + MOLD_STOP_MS + (mold->hooks ? MOLD_HOOKS_MS : 0);
}

void mold_handle_kill(struct mold_handle *mold)
{
    mold->state = MOLD_STOPPING;
    mold->due_ms = 0;
    kill(mold->pid, SIGKILL);
}

bool mold_handle_overdue(const struct mold_handle *mold, uint64_t now_ms)
{
    return mold->due_ms > 0 && now_ms >= mold->due_ms;
}
