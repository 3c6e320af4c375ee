/* upgrade: see upgrade.h. */
#include "server/process/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/process/channel.h"
#include "server/process/master.h"
#include "server/process/notify.h"
#include "server/process/scoreboard.h"
#include "server/process/signals.h"

#define VARIABLE "LICORNE_HERITAGE"

static char **command; /* what this process was started with */

void upgrade_remember(char **argv)
{
    size_t count = 0;
    while (argv[count])
        count++;
    command = mem_zalloc((count + 1) * sizeof(*command));
    for (size_t i = 0; i < count; i++)
        command[i] = mem_strdup(argv[i]);
}

bool upgrade_is_successor(void)
{
    return getenv(VARIABLE) != NULL;
}

static void close_channel(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* --- the predecessor's side: starting ----------------------------------------------------------------------------- */

/* "<pid> <sockets that the service manager passed>", then a line a socket. */
static int send_heritage(const struct master *master, int channel)
{
    struct buf text = { 0 };
    buf_printf(&text, "%d %d\n", (int)getpid(), master->passed_listeners);
    listeners_describe(&master->listeners, &text);
    int fds[LISTENERS_MAX * 3], count = listeners_descriptors(&master->listeners, fds);
    int outcome = channel_send(channel, CHANNEL_HERITAGE, buf_str(&text).p, buf_len(&text), fds, count);
    buf_done(&text);
    return outcome;
}

static _Noreturn void become_successor(const struct master *master, int channel)
{
    char number[16];
    snprintf(number, sizeof(number), "%d", channel);
    signals_reset();
    notify_bequeath(master->notify);
    setenv(VARIABLE, number, 1);
    fcntl(channel, F_SETFD, 0);
    umask(master->upgrade.umask);
    if (home_enter(&master->home) == 0)
        execvp(command[0], command);
    log_error("Cannot run %s: %s", command[0], strerror(errno));
    _exit(127);
}

/* 0, or -1 with errno. */
static int start_successor(struct master *master)
{
    int channel[2];
    if (channel_pair(channel) != 0)
        return -1;
    pid_t pid = send_heritage(master, channel[0]) == 0 ? fork() : -1;
    if (pid == 0)
        become_successor(master, channel[1]);
    int error = errno;
    close(channel[1]);
    if (pid > 0) {
        master->upgrade.successor = pid;
        master->upgrade.to_successor = channel[0];
        return 0;
    }
    close(channel[0]);
    errno = error;
    return -1;
}

static const char *reason_against(const struct master *master)
{
    if (getpid() == 1)
        return "as process 1 this one cannot be followed by another: with it the container ends. HUP serves new code "
               "and configuration";
    if (master->stopping || master->drain_ms > 0)
        return "the server is stopping";
    if (!master->serving)
        return "the server is starting";
    if (master->upgrade.successor > 0)
        return "the new master is there already";
    if (master->upgrade.predecessor > 0)
        return "the old master is still there: end it first (TERM)";
    return NULL;
}

const char *upgrade_begin(struct master *master)
{
    const char *reason = reason_against(master);
    if (reason)
        return reason;
    master_tell_upgrade(master);
    if (start_successor(master) != 0)
        return strerror(errno);
    master->upgrade.succeeded = false;
    master->listeners.shared = true;
    log_info("A new master, process %d, is started beside this one from the same command line",
             (int)master->upgrade.successor);
    return NULL;
}

static void set_neighbour(struct master *master, bool there)
{
    atomic_store(&master->board->neighbour, there);
}

bool upgrade_has_neighbour(const struct master *master)
{
    return atomic_load(&master->board->neighbour);
}

/* --- the predecessor's side: what becomes of it ---------------------------------------------------------------------- */

static void hear_successor(struct master *master)
{
    struct upgrade *upgrade = &master->upgrade;
    int got;
    while ((got = channel_receive(upgrade->to_successor, master->message)) > 0) {
        channel_close_fds(master->message);
        if (master->message->type != CHANNEL_SUCCEEDED || upgrade->succeeded)
            continue;
        upgrade->succeeded = true;
        set_neighbour(master, true);
        notify_hand_over(master->notify, upgrade->successor);
        log_info("The new master %d is ready, and serves beside this one: TERM ends this one, and QUIT at once",
                 (int)upgrade->successor);
    }
    if (got < 0) /* that it has ended, waitid says */
        close_channel(&upgrade->to_successor);
}

/* No other serves what comes: whether anybody is ready counts from now on. */
static void be_alone(struct master *master)
{
    master->listeners.shared = false;
    set_neighbour(master, false);
    master->last_ready_ms = clock_ms();
}

static void log_end_of_successor(const struct master *master, const siginfo_t *death, const char *description)
{
    bool well = death->si_code == CLD_EXITED && death->si_status == 0;
    const char *when = master->upgrade.succeeded ? "" : " before it was ready";
    const char *now = master->stopping ? "nobody follows this one" : "this one serves on alone";
    if (well && !master->stopping)
        log_info("The new master %d has ended%s: %s", (int)death->si_pid, when, now);
    else
        log_error("The new master %d %s%s: %s", (int)death->si_pid, description, when, now);
}

bool upgrade_reap(struct master *master, const siginfo_t *death, const char *description)
{
    struct upgrade *upgrade = &master->upgrade;
    if (upgrade->successor == 0 || death->si_pid != upgrade->successor)
        return false;
    log_end_of_successor(master, death, description);
    upgrade->successor = 0;
    close_channel(&upgrade->to_successor);
    be_alone(master);
    if (!master->stopping)
        notify_take_back(master->notify, "The new master has ended: the old one serves on");
    if (master->parked)
        master_unpark(master);
    return true;
}

/* That the service manager does not take the end of this process for the end of the service. */
void upgrade_stopping(struct master *master)
{
    struct upgrade *upgrade = &master->upgrade;
    if (upgrade->successor == 0 || upgrade->succeeded)
        return;
    log_warning("The new master %d is not ready yet: newcomers wait for it", (int)upgrade->successor);
    set_neighbour(master, true);
    notify_hand_over(master->notify, upgrade->successor);
}

/* --- the successor's side -------------------------------------------------------------------------------------------- */

static bool take_heritage(struct master *master, const struct channel_message *message)
{
    int pid = 0, passed = 0, len = 0;
    if (message->type != CHANNEL_HERITAGE || sscanf(message->data, "%d %d%n", &pid, &passed, &len) != 2 || pid <= 0 ||
        message->data[len] != '\n')
        return false;
    master->upgrade.predecessor = pid;
    master->passed_listeners = passed;
    len++;
    return listeners_adopt(&master->listeners, (struct str){ message->data + len, message->len - (size_t)len },
                           message->fds, message->fd_count);
}

static int inherit(struct master *master, int channel)
{
    master->upgrade.to_predecessor = channel;
    fcntl(channel, F_SETFD, FD_CLOEXEC);
    if (channel_receive(channel, master->message) <= 0 || !take_heritage(master, master->message)) {
        log_error("The old master's sockets cannot be taken over (" VARIABLE
                  " is licorne's own): stop it and start anew");
        return -1;
    }
    set_neighbour(master, true);
    notify_mute(master->notify, true);
    log_info("Taking over from master %d", (int)master->upgrade.predecessor);
    return 0;
}

int upgrade_init(struct master *master)
{
    struct upgrade *upgrade = &master->upgrade;
    const char *text = getenv(VARIABLE);
    int channel = text ? atoi(text) : -1;
    upgrade->to_successor = upgrade->to_predecessor = -1;
    umask(upgrade->umask = umask(0));
    unsetenv(VARIABLE);
    return text ? inherit(master, channel) : 0;
}

void upgrade_ready(struct master *master)
{
    if (master->upgrade.predecessor == 0)
        return;
    notify_mute(master->notify, false);
    master_look_at(master, clock_ms()); /* the watchdog */
    if (channel_send(master->upgrade.to_predecessor, CHANNEL_SUCCEEDED, NULL, 0, NULL, 0) != 0)
        log_debug("The old master does not hear: %s", strerror(errno));
}

/* Nothing is ever said on this channel: what comes is its end. */
static void on_predecessors_end(struct master *master)
{
    struct upgrade *upgrade = &master->upgrade;
    log_info("The old master %d has ended: this one has taken over", (int)upgrade->predecessor);
    close_channel(&upgrade->to_predecessor);
    upgrade->predecessor = 0;
    be_alone(master);
    master_take_names(master);
    notify_mute(master->notify, false);
}

/* --- both ------------------------------------------------------------------------------------------------------------- */

size_t upgrade_poll(const struct upgrade *upgrade, struct pollfd polled[UPGRADE_POLLED])
{
    polled[0] = (struct pollfd){ .fd = upgrade->to_successor, .events = POLLIN };
    polled[1] = (struct pollfd){ .fd = upgrade->to_predecessor, .events = POLLIN };
    return UPGRADE_POLLED;
}

void upgrade_turn(struct master *master, const struct pollfd polled[UPGRADE_POLLED])
{
    if (polled[0].fd >= 0 && polled[0].revents)
        hear_successor(master);
    if (polled[1].fd >= 0 && polled[1].revents)
        on_predecessors_end(master);
}

void upgrade_done(struct master *master)
{
    close_channel(&master->upgrade.to_successor);
    close_channel(&master->upgrade.to_predecessor);
}
