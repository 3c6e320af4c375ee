/* request_metrics: see request_metrics.h. */
#include "server/http/request_metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/base/mem.h"
#include "server/base/statsd.h"
#include "server/http/request.h"
#include "server/net/loop.h"

#define SEND_MS 100
#define STATUSES 1000
#define STATUS_GONE 499 /* the client left before there was one; nginx's number, as in the access log */

struct request_metrics {
    struct loop *loop;
    struct coarse_timer timer;
    uint32_t requests;
    uint32_t statuses[STATUSES];
};

void request_metrics_send(struct request_metrics *m)
{
    char name[64];
    coarse_timer_disarm(&m->timer);
    if (m->requests > 0)
        statsd_count("gunicorn.requests", m->requests);
    for (int status = 0; status < STATUSES && m->requests > 0; status++) {
        if (m->statuses[status] == 0)
            continue;
        snprintf(name, sizeof(name), "gunicorn.request.status.%d", status);
        statsd_count(name, m->statuses[status]);
    }
    m->requests = 0;
    memset(m->statuses, 0, sizeof(m->statuses));
    statsd_flush();
}

static void on_timer(struct coarse_timer *timer)
{
    request_metrics_send(LIST_ENTRY(timer, struct request_metrics, timer));
}

void request_metrics_add(struct request_metrics *m, const struct request *r, uint64_t ended_ns)
{
    uint64_t took_ns = ended_ns > r->began_ns ? ended_ns - r->began_ns : 0;
    int status = r->status > 0 && r->status < STATUSES ? r->status : STATUS_GONE;
    m->requests++;
    m->statuses[status]++;
    statsd_time("gunicorn.request.duration", (double)took_ns / 1e6);
    if (m->timer.due_ms == 0)
        coarse_timer_arm(m->loop, &m->timer, SEND_MS);
}

struct request_metrics *request_metrics_new(struct loop *loop)
{
    struct request_metrics *m = mem_zalloc(sizeof(*m));
    m->loop = loop;
    coarse_timer_init(&m->timer, on_timer);
    return m;
}

void request_metrics_free(struct request_metrics *m)
{
    if (m == NULL)
        return;
    request_metrics_send(m);
    coarse_timer_done(m->loop, &m->timer);
    free(m);
}
