/* metrics: see metrics.h. */
#include "server/process/metrics.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "config/settings.h"
#include "server/base/log.h"
#include "server/base/statsd.h"
#include "server/process/master.h"

#define BACKLOG_MS 1000

static struct {
    int workers; /* as told last; -1: nothing yet */
    bool backlog;
    uint64_t backlog_ms; /* when it is due */
} state = { .workers = -1 };

void metrics_open(const struct settings *settings)
{
    const char *reason = NULL;
    if (!statsd_open(settings->statsd_host, settings->statsd_prefix, settings->dogstatsd_tags, &reason))
        log_warning("statsd_host = \"%s\" cannot be used, so there are no metrics: %s", settings->statsd_host, reason);
    statsd_count_log();
    state.workers = -1;
    state.backlog = settings->enable_backlog_metric;
    state.backlog_ms = 0;
}

static int count_workers(const struct master *master)
{
    int count = 0;
    LIST_EACH(it, &master->workers)
        count++;
    return count;
}

/* What waits on one socket to be accepted; a unix socket does not tell. */
static int waiting(int fd)
{
    struct tcp_info info = { 0 };
    socklen_t len = sizeof(info);
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 ? (int)info.tcpi_unacked : 0;
}

static void tell_backlog(const struct master *master)
{
    int sum = 0;
    for (int i = 0; i < master->listeners.count; i++)
        sum += waiting(master->listeners.fds[i]);
    statsd_histogram("gunicorn.backlog", sum);
}

uint64_t metrics_turn(const struct master *master, uint64_t now_ms)
{
    if (!statsd_is_open())
        return 0;
    int workers = count_workers(master);
    if (workers != state.workers)
        statsd_gauge("gunicorn.workers", workers);
    state.workers = workers;
    if (state.backlog && now_ms >= state.backlog_ms) {
        tell_backlog(master);
        state.backlog_ms = now_ms + BACKLOG_MS;
    }
    statsd_flush();
    return state.backlog && !master->stopping ? state.backlog_ms : 0;
}
