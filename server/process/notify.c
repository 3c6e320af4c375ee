/* notify: see notify.h. */
#include "server/process/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"

struct notify {
    int fd; /* -1: nobody wants to know */
    struct sockaddr_un address;
    socklen_t address_len;
    uint64_t watchdog_ms, pat_ms; /* between two pats; when the next one is due; 0: no watchdog */
    bool muted;
};

/* --- what the environment says ----------------------------------------------------------------------------------- */

/* A number, or 0; `name` is gone afterwards. */
static unsigned long long take_number(const char *name)
{
    const char *text = getenv(name);
    unsigned long long number = text ? strtoull(text, NULL, 10) : 0;
    unsetenv(name);
    return number;
}

static void take_socket(struct notify *notify)
{
    const char *path = getenv("NOTIFY_SOCKET");
    size_t len = path ? strlen(path) : 0;
    if (len > 1 && len < sizeof(notify->address.sun_path) && (path[0] == '/' || path[0] == '@')) {
        notify->address.sun_family = AF_UNIX;
        memcpy(notify->address.sun_path, path, len);
        if (path[0] == '@')
            notify->address.sun_path[0] = '\0';
        notify->address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
        notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    }
    unsetenv("NOTIFY_SOCKET");
}

static void take_watchdog(struct notify *notify)
{
    unsigned long long microseconds = take_number("WATCHDOG_USEC"), pid = take_number("WATCHDOG_PID");
    if (notify->fd < 0 || microseconds == 0 || (pid != 0 && pid != (unsigned long long)getpid()))
        return;
    notify->watchdog_ms = microseconds / 2000 > 0 ? microseconds / 2000 : 1; /* twice as often as it must be */
}

struct notify *notify_new(void)
{
    struct notify *notify = mem_zalloc(sizeof(*notify));
    notify->fd = -1;
    take_socket(notify);
    take_watchdog(notify);
    return notify;
}

void notify_free(struct notify *notify)
{
    if (!notify)
        return;
    if (notify->fd >= 0)
        close(notify->fd);
    free(notify);
}

int notify_listeners(void)
{
    unsigned long long pid = take_number("LISTEN_PID"), count = take_number("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    if (pid != (unsigned long long)getpid() || count > 1000)
        return 0;
    for (int i = 0; i < (int)count; i++)
        fcntl(NOTIFY_FIRST_FD + i, F_SETFD, FD_CLOEXEC);
    return (int)count;
}

/* --- what is told ------------------------------------------------------------------------------------------------ */

static void tell(struct notify *notify, const char *text)
{
    if (notify->fd < 0 || notify->muted)
        return;
    if (sendto(notify->fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&notify->address, notify->address_len) <
        0)
        log_debug("Cannot notify the service manager: %s", strerror(errno));
}

void notify_ready(struct notify *notify, uint32_t generation, int workers)
{
    char text[128];
    snprintf(text, sizeof(text), "READY=1\nMAINPID=%d\nSTATUS=Generation %u serves with %d worker%s", (int)getpid(),
             generation, workers, workers == 1 ? "" : "s");
    tell(notify, text);
}

void notify_reloading(struct notify *notify)
{
    char text[96];
    snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=Reloading",
             (unsigned long long)(clock_ns() / 1000));
    tell(notify, text);
}

void notify_stopping(struct notify *notify)
{
    tell(notify, "STOPPING=1\nSTATUS=Stopping");
}

void notify_status(struct notify *notify, const char *format, ...)
{
    char text[512] = "STATUS=";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + 7, sizeof(text) - 7, format, arguments);
    va_end(arguments);
    tell(notify, text);
}

void notify_mute(struct notify *notify, bool muted)
{
    notify->muted = muted;
}

/* The service manager listens to its main process: this one, for the last time. */
void notify_hand_over(struct notify *notify, pid_t successor)
{
    char text[128];
    snprintf(text, sizeof(text), "READY=1\nMAINPID=%d\nWATCHDOG=1\nSTATUS=Process %d has taken over from %d",
             (int)successor, (int)successor, (int)getpid());
    tell(notify, text);
    notify->muted = true;
}

void notify_take_back(struct notify *notify, const char *status)
{
    char text[256];
    notify->muted = false;
    snprintf(text, sizeof(text), "READY=1\nMAINPID=%d\nSTATUS=%s", (int)getpid(), status);
    tell(notify, text);
}

void notify_bequeath(const struct notify *notify)
{
    char number[32];
    if (notify->fd < 0)
        return;
    size_t len = notify->address_len - offsetof(struct sockaddr_un, sun_path);
    char path[sizeof(notify->address.sun_path) + 1] = "";
    memcpy(path, notify->address.sun_path, len);
    if (path[0] == '\0')
        path[0] = '@';
    setenv("NOTIFY_SOCKET", path, 1);
    if (notify->watchdog_ms == 0)
        return;
    snprintf(number, sizeof(number), "%llu", (unsigned long long)notify->watchdog_ms * 2000);
    setenv("WATCHDOG_USEC", number, 1);
    snprintf(number, sizeof(number), "%d", (int)getpid());
    setenv("WATCHDOG_PID", number, 1);
}

uint64_t notify_watchdog(struct notify *notify, uint64_t now_ms)
{
    if (notify->watchdog_ms == 0 || notify->muted)
        return 0;
    if (now_ms >= notify->pat_ms) {
        tell(notify, "WATCHDOG=1");
        notify->pat_ms = now_ms + notify->watchdog_ms;
    }
    return notify->pat_ms;
}
