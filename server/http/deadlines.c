/* deadlines: see deadlines.h. */
#include "server/http/deadlines.h"

#include "config/settings.h"
#include "server/app.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/http/conn.h"
#include "server/http/request.h"

#define NEVER_MS UINT64_MAX
#define LEAST_MS 64      /* the master need not look more often */
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

/* --- for the master ----------------------------------------------------------------------------------------------------- */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a == 0 || (b > 0 && b < a) ? b : a;
}

static void publish(const struct request *r)
{
    inflight_set_deadlines(r->place, r->core.deadlines ? r->core.deadline_ms : 0,
                           earlier(r->core.hard_ms, r->core.run_ms));
}

/* It looks as often as the settings make it necessary. More is told rarely: it is a message. */
static void tell_shorter(struct deadlines *d, uint64_t in_ms)
{
    if (in_ms >= d->least_ms)
        return;
    while (in_ms < d->least_ms && d->least_ms > LEAST_MS)
        d->least_ms /= 2;
    http_server_shorter(d->server, d->least_ms);
}

/* `in_ms`: how far away that is. */
static void set_due(struct deadlines *d, struct request *r, uint64_t due_ms, uint64_t in_ms)
{
    bool dies = d->grace_ms > 0 && due_ms != NEVER_MS;
    r->core.deadline_ms = due_ms;
    r->core.hard_ms = dies ? due_ms + d->grace_ms : 0;
    publish(r);
    if (dies)
        tell_shorter(d, in_ms + d->grace_ms);
}

/* --- entry points ------------------------------------------------------------------------------------------------------- */

void deadlines_init(struct deadlines *d, struct http_server *server)
{
    d->server = server;
    d->loop = server->loop;
    d->timeout_ms = (uint64_t)server->settings->request_timeout_ms;
    d->grace_ms = (uint64_t)server->settings->request_timeout_grace_ms;
    d->least_ms = d->timeout_ms + d->grace_ms;
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
    set_due(d, r, r->core.given_ms + d->timeout_ms, d->timeout_ms);
    if (list_empty(&d->usual)) /* else the timer fires before this one is due */
        wake_at(d, r->core.deadline_ms);
    list_append(&d->usual, &r->core.deadline_node);
}

static void take_out(struct request *r)
{
    r->core.deadlines = NULL;
    list_remove(&r->core.deadline_node);
}

void deadlines_end(struct request *r)
{
    if (r->core.deadlines == NULL)
        return;
    take_out(r);
    r->core.hard_ms = 0;
    publish(r);
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
    set_due(d, r, in_ms == REQUEST_NO_DEADLINE ? NEVER_MS : clock_ms() + (uint64_t)in_ms, (uint64_t)in_ms);
    list_remove(&r->core.deadline_node);
    list_append(&d->own, &r->core.deadline_node);
    wake_at(d, r->core.deadline_ms);
}

void request_run_within(struct request *r, int64_t limit_ms)
{
    r->core.run_ms = clock_coarse_ms() + (uint64_t)limit_ms; /* the loop's clock may stand still meanwhile */
    publish(r);
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
    struct str client = request_client(r)->host;
    if (client.len == 0)
        client = STR("a unix socket");
    int target_len = r->target.len < LOGGED_BYTES ? (int)r->target.len : LOGGED_BYTES;
    log_warning("Request timed out after %.1f s (--request-timeout): %.*s %.*s from %.*s: %s",
                (double)(clock_ms() - r->core.given_ms) / 1e3, (int)r->method.len, r->method.p, target_len, r->target.p,
                (int)client.len, client.p, outcome_of(r));
}

static void tell_app(struct http_server *server, struct request *r)
{
    const struct app_ops *ops = server->app->ops;
    switch (ops->on_deadline ? ops->on_deadline(r) : APP_GIVES_UP) {
    case APP_HAD_NOT_BEGUN:
        r->core.hard_ms = 0;
        publish(r);
        break;
    case APP_GIVES_UP:
        break;
    case APP_IS_BROKEN_OFF:
        http_server_worn(server, "request_timeout");
    }
}

void request_expire(struct request *r)
{
    struct deadlines *d = r->core.deadlines;
    if (d == NULL)
        return;
    request_ref(r);
    r->core.expired = true;
    take_out(r);
    log_expired(r);
    if (r->conn)
        conn_expire(r->conn);
    tell_app(d->server, r);
    request_unref(r);
}
