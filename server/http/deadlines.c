/* deadlines: see deadlines.h. */
#include "server/http/deadlines.h"

#include "config/settings.h"
#include "server/app.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/http/conn.h"
#include "server/http/request.h"

#define NEVER_MS UINT64_MAX
#define LOGGED_BYTES 200 /* as much of a target as a log line should have */

static struct request *request_at(struct list *node)
{
    return LIST_ENTRY(node, struct request, core.deadline_node);
}

/* --- the timer ---------------------------------------------------------------------------------------------------------- */

static void wake_at(struct deadlines *d, uint64_t due_ms)
{
    uint64_t now = loop_now_ms(d->loop);
    if (due_ms != NEVER_MS && (d->timer.due_ms == 0 || due_ms < d->timer.due_ms))
        coarse_timer_arm(d->loop, &d->timer, due_ms > now ? due_ms - now : 0);
}

static void expire_usual(struct deadlines *d, uint64_t now)
{
    struct request *r;
    while (!list_empty(&d->usual) && (r = request_at(d->usual.next))->core.deadline_ms <= now)
        request_expire(r);
    if (!list_empty(&d->usual))
        wake_at(d, request_at(d->usual.next)->core.deadline_ms);
}

/* Each is looked at once, wherever the application that is told of one takes others out. */
static void expire_own(struct deadlines *d, uint64_t now)
{
    uint64_t next_ms = NEVER_MS;
    struct list rest, *node;
    list_init(&rest);
    list_splice(&rest, &d->own);
    while ((node = list_pop(&rest)) != NULL) {
        struct request *r = request_at(node);
        list_append(&d->own, node);
        if (r->core.deadline_ms <= now)
            request_expire(r);
        else if (r->core.deadline_ms < next_ms)
            next_ms = r->core.deadline_ms;
    }
    wake_at(d, next_ms);
}

static void on_timer(struct coarse_timer *timer)
{
    struct deadlines *d = LIST_ENTRY(timer, struct deadlines, timer);
    uint64_t now = loop_now_ms(d->loop);
    expire_usual(d, now);
    expire_own(d, now);
}

/* --- entry points ------------------------------------------------------------------------------------------------------- */

void deadlines_init(struct deadlines *d, struct http_server *server)
{
    d->server = server;
    d->loop = server->loop;
    d->timeout_ms = (uint64_t)server->settings->request_timeout_ms;
    list_init(&d->usual);
    list_init(&d->own);
    coarse_timer_init(&d->timer, on_timer);
}

void deadlines_done(struct deadlines *d)
{
    while (!list_empty(&d->usual))
        deadlines_end(request_at(d->usual.next));
    while (!list_empty(&d->own))
        deadlines_end(request_at(d->own.next));
    coarse_timer_done(d->loop, &d->timer);
}

void deadlines_begin(struct deadlines *d, struct request *r)
{
    r->core.deadlines = d;
    r->core.given_ms = loop_now_ms(d->loop);
    r->core.deadline_ms = r->core.given_ms + d->timeout_ms;
    if (list_empty(&d->usual)) /* else the timer fires before this one is due */
        wake_at(d, r->core.deadline_ms);
    list_append(&d->usual, &r->core.deadline_node);
}

void deadlines_end(struct request *r)
{
    if (r->core.deadlines == NULL)
        return;
    r->core.deadlines = NULL;
    list_remove(&r->core.deadline_node);
}

int64_t request_time_left(const struct request *r)
{
    if (r->core.expired)
        return 0;
    if (r->core.deadlines == NULL || r->core.deadline_ms == NEVER_MS)
        return REQUEST_NO_DEADLINE;
    uint64_t now = clock_ms(); /* the loop's stands still while the application runs */
    return r->core.deadline_ms > now ? (int64_t)(r->core.deadline_ms - now) : 0;
}

void request_set_deadline(struct request *r, int64_t in_ms)
{
    struct deadlines *d = r->core.deadlines;
    if (d == NULL)
        return;
    r->core.deadline_ms = in_ms == REQUEST_NO_DEADLINE ? NEVER_MS : clock_ms() + (uint64_t)in_ms;
    list_remove(&r->core.deadline_node);
    list_append(&d->own, &r->core.deadline_node);
    wake_at(d, r->core.deadline_ms);
}

/* --- the time is over ------------------------------------------------------------------------------------------------------ */

static const char *outcome_of(const struct request *r)
{
    if (r->conn == NULL)
        return "its client had left";
    return r->response > RESPONSE_HELD ? "its connection was cut" : "answered with 504";
}

static void log_expired(struct request *r)
{
    const struct endpoint *client = request_client(r);
    int target_len = r->target.len < LOGGED_BYTES ? (int)r->target.len : LOGGED_BYTES;
    log_warning("Request timed out after %.1f s (--request-timeout): %.*s %.*s from %.*s: %s",
                (double)(clock_ms() - r->core.given_ms) / 1e3, (int)r->method.len, r->method.p, target_len, r->target.p,
                (int)client->host.len, client->host.p, outcome_of(r));
}

void request_expire(struct request *r)
{
    struct deadlines *d = r->core.deadlines;
    if (d == NULL)
        return;
    struct http_server *server = d->server;
    const struct app_ops *ops = server->app->ops;
    request_ref(r);
    r->core.expired = true;
    deadlines_end(r);
    log_expired(r);
    if (r->conn)
        conn_expire(r->conn);
    if (ops->on_deadline && ops->on_deadline(r))
        http_server_worn(server, "request_timeout");
    request_unref(r);
}
