/* master_hear: what molds and workers say to the master. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/settings.h"
#include "config/version.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/process/channel.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/mold_handle.h"
#include "server/process/source_watch.h"
#include "server/process/worker_handle.h"

#define STACKS_MAX (128 * 1024) /* of a worker's dump that are read */

/* Messages are structs of this version; a shorter one leaves zeros. Text in them is cut off at its end. */
#define TAKE(message, to) take((message), &(to), sizeof(to))

static void take(const struct channel_message *message, void *to, size_t size)
{
    memset(to, 0, size);
    memcpy(to, message->data, message->len < size ? message->len : size);
}

static void log_errors(struct buf *errors)
{
    buf_append(errors, "", 1);
    char *rest = (char *)buf_str(errors).p, *line;
    while ((line = strsep(&rest, "\n")))
        if (*line)
            log_error("%s", line);
    buf_done(errors);
}

/* --- a mold --------------------------------------------------------------------------------------------------- */

static void on_mold_hello(struct master *master, struct mold_handle *mold, const struct channel_message *message)
{
    struct channel_hello hello;
    TAKE(message, hello);
    hello.python[sizeof(hello.python) - 1] = '\0';
    memcpy(mold->python, hello.python, sizeof(mold->python));
    hello.package[sizeof(hello.package) - 1] = '\0';
    mold->said_hello = true;
    if (hello.version == CHANNEL_VERSION && (!*hello.package || strcmp(hello.package, LICORNE_VERSION) == 0))
        return;
    log_error("%s has an extension of licorne that is of another version (%s, protocol %u) than this executable (%s, "
              "protocol %u): %s",
              master->python, *hello.package ? hello.package : "?", hello.version, LICORNE_VERSION, CHANNEL_VERSION,
              master->serving ? "use USR2, which exchanges the executable too" : "install licorne anew");
    mold->failed = true;
    mold_handle_kill(mold);
    master_generation_failed(master, master_generation(master, mold->generation), EXIT_BOOT);
}

static void print_settings(const struct settings *settings)
{
    struct buf text = { 0 };
    settings_print(settings, &text);
    fwrite(buf_str(&text).p, 1, buf_len(&text), stdout);
    fflush(stdout);
    buf_done(&text);
}

/* --check-config: nothing is opened, only the application is still to be loaded. */
static bool only_check(struct master *master, const struct generation *generation, struct buf *errors)
{
    (void)master, (void)generation, (void)errors;
    return true;
}

/* Whether the configuration was all that was wanted. */
static bool settings_suffice(struct master *master, const struct settings *settings)
{
    if (master->serving || (!master->checking && !settings->print_config))
        return false;
    if (!master->checking)
        print_settings(settings);
    master_stop(master, true);
    return true;
}

/* The configuration file wants the background: the server begins anew, there. */
static bool wants_background(struct master *master, const struct settings *settings)
{
    if (master->serving || master->given->daemon || !settings->daemon || settings->check_config || upgrade_is_successor())
        return false;
    master->exit_code = EXIT_TO_BACKGROUND;
    master_stop(master, true);
    return true;
}

/* For what outlives this run. */
static void tell_settings(struct master *master, const struct settings *settings)
{
    struct buf text = { 0 }, errors = { 0 };
    if (!master->told)
        return;
    settings_to_text(settings, SOURCE_CONFIG_FILE, &text);
    settings_from_text(master->told, buf_str(&text), &errors); /* they were valid there */
    buf_done(&text);
    buf_done(&errors);
}

static bool configure(struct master *master, struct generation *generation, const struct channel_message *message)
{
    struct buf errors = { 0 };
    bool (*settle)(struct master *, const struct generation *, struct buf *) = master_settle;
    bool good = generation_configure(generation, message, &errors);
    if (good)
        tell_settings(master, &generation->settings);
    if (good && (settings_suffice(master, &generation->settings) || wants_background(master, &generation->settings)))
        return false;
    if (good)
        master_log_decide(&generation->settings);
    if (!master->serving && generation->settings.check_config)
        settle = only_check;
    if (good && settle(master, generation, &errors))
        return true;
    log_errors(&errors);
    master_generation_failed(master, generation, EXIT_CONFIG);
    return false;
}

static void on_mold_settings(struct master *master, struct mold_handle *mold, const struct channel_message *message)
{
    struct generation *generation = master_generation(master, mold->generation);
    if (!generation || mold->state != MOLD_STARTING)
        return;
    mold->state = MOLD_ANSWERED;
    int malloc_was = generation->settings.malloc;
    if (!generation->configured && !configure(master, generation, message))
        return;
    if (generation->settings.malloc != malloc_was) {
        log_debug("Mold %d runs with another allocator than the configuration file names: it is made again", (int)mold->pid);
        generation->mold = NULL;
        mold_handle_kill(mold);
        return;
    }
    if (generation_tell(generation) != 0) {
        log_error("Cannot tell process %d its settings: %s", (int)mold->pid, strerror(errno));
        mold_handle_kill(mold);
        return;
    }
    master_log_send(mold);
    mold->state = MOLD_LOADING;
    int64_t limit_ms = generation->settings.boot_timeout_ms;
    mold->due_ms = limit_ms > 0 ? clock_ms() + (uint64_t)limit_ms : 0;
}

static void on_sources(const struct master *master, const struct channel_message *message)
{
    if (master->sources)
        source_watch_add(master->sources, (struct str){ message->data, message->len });
}

static void on_mold_logs(struct mold_handle *mold, const struct channel_message *message)
{
    struct channel_logs logs;
    TAKE(message, logs);
    mold->logs = logs.sharing;
    master_log_told();
}

static void on_mold_loaded(struct master *master, struct mold_handle *mold, const struct channel_message *message)
{
    struct channel_loaded loaded;
    TAKE(message, loaded);
    const struct generation *generation = master_generation(master, mold->generation);
    if (mold->state != MOLD_LOADING)
        return;
    mold->state = MOLD_LOADED;
    mold->due_ms = 0;
    if (generation && !master->serving && generation->settings.check_config) {
        master_stop(master, true);
        return;
    }
    mold->hooks = loaded.hooks != 0;
    master_tell_loaded(master, mold);
}

static struct worker_handle *spawning_worker(const struct master *master, uint32_t slot)
{
    LIST_EACH(it, &master->workers) {
        struct worker_handle *worker = LIST_ENTRY(it, struct worker_handle, node);
        if (worker->slot_index == slot && worker->state == WORKER_HANDLE_SPAWNING)
            return worker;
    }
    return NULL;
}

static void on_fork_failed(struct master *master, struct mold_handle *mold, const struct channel_failed *failed)
{
    struct worker_handle *worker = spawning_worker(master, failed->slot);
    if (!worker)
        return;
    log_error("%s", failed->message);
    master_strike(master, master_generation(master, mold->generation), worker->spawned_ms);
    master_drop_worker(master, worker);
}

static void on_mold_failed(struct master *master, struct mold_handle *mold, const struct channel_message *message)
{
    struct channel_failed failed;
    TAKE(message, failed);
    failed.message[sizeof(failed.message) - 1] = '\0';
    if (failed.slot != UINT32_MAX) {
        on_fork_failed(master, mold, &failed);
        return;
    }
    mold->logs = LOG_ALONE;
    if (!mold->failed && !master->stopping)
        log_error("%s", failed.message);
    mold->failed = true;
    master_generation_failed(master, master_generation(master, mold->generation), failed.exit_code);
}

static void on_mold_message(struct master *master, struct mold_handle *mold, const struct channel_message *message)
{
    switch (message->type) {
    case CHANNEL_HELLO:
        on_mold_hello(master, mold, message);
        break;
    case CHANNEL_SETTINGS:
        on_mold_settings(master, mold, message);
        break;
    case CHANNEL_LOADED:
        on_mold_loaded(master, mold, message);
        break;
    case CHANNEL_SOURCES:
        on_sources(master, message);
        break;
    case CHANNEL_LOGS:
        on_mold_logs(mold, message);
        break;
    case CHANNEL_FAILED:
        on_mold_failed(master, mold, message);
        break;
    default:
        log_warning("The mold sent a message that the master does not know: %d", (int)message->type);
    }
}

void master_hear_mold(struct master *master, struct mold_handle *mold)
{
    int got = 0;
    while (mold->channel >= 0 && (got = channel_receive(mold->channel, master->message)) > 0) {
        on_mold_message(master, mold, master->message);
        channel_close_fds(master->message);
    }
    if (got < 0) /* it is ending; that it has ended, waitid says */
        mold_handle_close_channel(mold);
}

/* --- a worker ------------------------------------------------------------------------------------------------- */

static void on_worker_hello(struct master *master, struct worker_handle *worker, const struct channel_message *message)
{
    if (worker->state != WORKER_HANDLE_SPAWNING || message->sender <= 0)
        return;
    worker_handle_booting(worker, message->sender);
    if (worker->abandoned || master->stopping) {
        worker_handle_kill(worker);
        return;
    }
    log_info("Booting worker with pid: %d", (int)worker->pid);
    master_tell_birth(master, worker);
}

static void on_worker_failed(struct master *master, struct worker_handle *worker, const struct channel_message *message)
{
    struct channel_failed failed;
    TAKE(message, failed);
    failed.message[sizeof(failed.message) - 1] = '\0';
    struct generation *generation = master_generation(master, worker->generation);
    worker->failed = true;
    if (!generation || master->stopping)
        return; /* several workers fail alike: the first one has said it */
    log_error("%s", failed.message);
    if (generation == master->coming)
        master_generation_failed(master, generation, failed.exit_code);
}

static void on_worker_leaving(const struct master *master, struct worker_handle *worker,
                              const struct channel_message *message)
{
    struct channel_leaving leaving;
    TAKE(message, leaving);
    leaving.reason[sizeof(leaving.reason) - 1] = '\0';
    if (!master->stopping)
        worker_handle_leave(worker, leaving.reason);
}

/* The stacks, from a memfd: of another kind of file this process would not know when it has an end. */
static void read_stacks(int fd, struct buf *text)
{
    struct stat file;
    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode))
        return;
    char *room = buf_reserve(text, STACKS_MAX);
    ssize_t len = pread(fd, room, STACKS_MAX, 0);
    buf_commit(text, len > 0 ? (size_t)len : 0);
}

static void on_worker_dump(struct master *master, struct worker_handle *worker, const struct channel_message *message)
{
    struct buf stacks = { 0 };
    if (message->fd_count > 0)
        read_stacks(message->fds[0], &stacks);
    master_end_report(master, worker, buf_str(&stacks));
    buf_done(&stacks);
}

static void on_worker_message(struct master *master, struct worker_handle *worker,
                              const struct channel_message *message)
{
    switch (message->type) {
    case CHANNEL_HELLO:
        on_worker_hello(master, worker, message);
        break;
    case CHANNEL_READY:
        if (worker->state == WORKER_HANDLE_BOOTING)
            worker_handle_ready(worker);
        break;
    case CHANNEL_FAILED:
        on_worker_failed(master, worker, message);
        break;
    case CHANNEL_LEAVING:
        on_worker_leaving(master, worker, message);
        break;
    case CHANNEL_SOURCES:
        on_sources(master, message);
        break;
    case CHANNEL_AWAKE:
        worker->awake_ms = clock_ms();
        break;
    case CHANNEL_DUMP:
        on_worker_dump(master, worker, message);
        break;
    default:
        log_warning("Worker %d sent a message that the master does not know: %d", (int)worker->pid, (int)message->type);
    }
}

/* Nobody has the other end: this worker was never forked, or has died before its first word. */
static void on_never_born(struct master *master, struct worker_handle *worker)
{
    if (!worker->abandoned)
        master_strike(master, master_generation(master, worker->generation), worker->spawned_ms);
    master_drop_worker(master, worker);
}

void master_hear_worker(struct master *master, struct worker_handle *worker)
{
    int got = 0;
    while (worker->channel >= 0 && (got = channel_receive(worker->channel, master->message)) > 0) {
        on_worker_message(master, worker, master->message);
        channel_close_fds(master->message);
    }
    if (got >= 0)
        return;
    worker_handle_close_channel(worker);
    if (worker->state == WORKER_HANDLE_SPAWNING)
        on_never_born(master, worker);
}
