/* http_server: see http_server.h. The list of connections and what they share. */
#include "server/http/http_server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/app.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/base/statsd.h"
#include "server/http/access_log.h"
#include "server/http/conn.h"
#include "server/http/conn_log.h"
#include "server/http/forwarded.h"
#include "server/http/headers.h"
#include "server/http/request_metrics.h"
#include "server/http/server_state.h"
#include "server/http/websocket_conn.h"

#define CROWD_PART 8 /* so large a part of all places is free when nobody waits any more */

/* --- the end of the turn --------------------------------------------------------------------------------------------------- */

static struct conn *conn_at(struct list *node)
{
    return LIST_ENTRY(node, struct conn, node);
}

static void reap(struct http_server *s)
{
    struct list *node;
    while ((node = list_pop(&s->dead)) != NULL) {
        if (s->spare_count < CONN_SPARES) {
            list_append(&s->spares, node);
            s->spare_count++;
        } else {
            free(conn_at(node));
        }
    }
}

static void on_reap(struct loop_task *task)
{
    reap(LIST_ENTRY(task, struct http_server, reap_task));
}

/* Once. Who was told when the client half-closed, and waits for room, learns by it that there will be none. */
static void tell_one_gone(const struct app_ops *ops, struct request *r)
{
    bool told = r->core.disconnect_told;
    r->core.disconnect_told = true;
    if (!told && ops->on_disconnect)
        ops->on_disconnect(r);
    else if (told && r->core.writable_owed && ops->on_writable) {
        r->core.writable_owed = false;
        ops->on_writable(r);
    }
}

static void tell_gone(struct http_server *s)
{
    struct list *node;
    while ((node = list_pop(&s->gone)) != NULL) {
        struct request *r = LIST_ENTRY(node, struct request, core.node);
        if (r->response != RESPONSE_DONE)
            tell_one_gone(s->app->ops, r);
        request_unref(r);
    }
}

static void on_gone(struct loop_task *task)
{
    tell_gone(LIST_ENTRY(task, struct http_server, gone_task));
}

void http_server_tell_gone(struct http_server *s, struct request *r)
{
    if (!list_empty(&r->core.node) || (r->core.disconnect_told && !r->core.writable_owed))
        return;
    request_ref(r);
    list_append(&s->gone, &r->core.node);
    loop_defer(s->loop, &s->gone_task);
}

void http_server_bury(struct http_server *s, struct conn *c)
{
    s->turnover++;
    list_remove(&c->node);
    list_append(&s->dead, &c->node);
    loop_defer_last(s->loop, &s->reap_task);
    tally_add(&s->tally->conns, -1u);
    if (s->crowded && tally_get(&s->tally->conns) < (uint64_t)(s->conns_most - s->conns_most / CROWD_PART))
        s->crowded = false;
    if (s->was_full && http_server_has_room(s)) {
        s->was_full = false;
        if (s->on_room)
            s->on_room(s->on_room_arg);
    }
    if (s->draining && tally_get(&s->tally->conns) == 0 && s->on_empty)
        s->on_empty(s->on_empty_arg);
}

/* --- counting ---------------------------------------------------------------------------------------------------------------- */

void http_server_begun(struct http_server *s, struct request *r)
{
    r->core.told_app = true;
    tally_add(&s->tally->in_flight, 1);
    request_list(r);
}

void http_server_finished(struct http_server *s, struct request *r)
{
    struct tally *tally = s->tally;
    if (r->method.len == 0 && r->status == 0)
        return; /* a connection that ended in the middle of a first line */
    if (r->core.told_app) {
        tally_add(&tally->in_flight, -1u);
        inflight_set_state(r->place, r->response == RESPONSE_DONE ? INFLIGHT_ANSWERED : INFLIGHT_GONE);
    }
    tally_add(&tally->requests, 1);
    tally_add(&tally->status_class[r->status >= 100 && r->status < 600 ? r->status / 100 : 0], 1);
    if (s->access_log)
        access_log_add(s->access_log, r, clock_ns());
    if (s->access_tap)
        access_log_add(s->access_tap, r, clock_ns());
    if (s->metrics)
        request_metrics_add(s->metrics, r, clock_ns());
    if (s->on_finished)
        s->on_finished(s->on_finished_arg, tally_get(&tally->requests));
}

uint64_t http_server_turnover(const struct http_server *s)
{
    return tally_get(&s->tally->requests) + s->turnover;
}

const struct tally *http_server_tally(const struct http_server *s)
{
    return s->tally;
}

/* --- life --------------------------------------------------------------------------------------------------------------------- */

/* "X-Frame-Options:DENY" */
static void prepare_field(struct http_server *s, struct str item)
{
    size_t colon = (size_t)((const char *)memchr(item.p, ':', item.len) - item.p);
    struct str name = { item.p, colon }, value = headers_trim((struct str){ item.p + colon + 1, item.len - colon - 1 });
    s->sends_date &= !str_ieq(name, STR("date"));
    s->sends_server &= !str_ieq(name, STR("server"));
    buf_append_str(&s->own_fields, name);
    buf_append_str(&s->own_fields, STR(": "));
    buf_append_str(&s->own_fields, value);
    buf_append_str(&s->own_fields, STR("\r\n"));
}

static void prepare_fields(struct http_server *s)
{
    s->sends_date = s->settings->date_header;
    s->sends_server = s->settings->server_header;
    for (size_t i = 0; i < s->settings->headers.count; i++)
        prepare_field(s, str_from(s->settings->headers.items[i]));
}

struct http_server *http_server_new(struct loop *loop, const struct settings *settings, struct app *app)
{
    struct http_server *s = mem_zalloc(sizeof(*s));
    s->loop = loop;
    s->settings = settings;
    s->conns_most = settings->worker_connections;
    s->app = app;
    s->tally = &s->own_tally;
    s->requests = request_pool_new();
    deadlines_init(&s->deadlines, s);
    s->forwarded = forwarded_new(settings);
    s->metrics = statsd_is_open() ? request_metrics_new(loop) : NULL;
    prepare_fields(s);
    char *bad = NULL;
    address_set_init(&s->proxies, &settings->proxy_allow_ips, &bad); /* was validated */
    address_set_init(&s->fronts, &settings->uwsgi_allow_ips, &bad);
    free(bad);
    list_init(&s->conns);
    list_init(&s->dead);
    list_init(&s->spares);
    list_init(&s->gone);
    loop_task_init(&s->reap_task, on_reap);
    loop_task_init(&s->gone_task, on_gone);
    websocket_fallen_init(s);
    http_server_hand_over_init(s);
    if (settings->accesslog && *settings->accesslog) {
        s->access_log = access_log_new(loop, settings->accesslog, settings->access_log_format);
        if (s->access_log == NULL)
            log_error("Cannot open the access log %s: %s. Requests are served without one.", settings->accesslog,
                      strerror(errno));
    }
    return s;
}

void http_server_publish(struct http_server *s, struct tally *tally, struct inflight_table *inflight)
{
    s->tally = tally;
    request_pool_publish(s->requests, inflight);
}

void http_server_mount(struct http_server *s, const char *script_name)
{
    s->script_name = str_from(script_name);
}

struct conn *http_server_add(struct http_server *s, int fd, const struct sockaddr *peer, socklen_t peer_len,
                             const struct endpoint *local)
{
    struct list *spare = list_pop(&s->spares);
    s->spare_count -= spare != NULL;
    struct conn *c = conn_new(s, spare ? conn_at(spare) : NULL, fd, peer, peer_len, local);
    list_append(&s->conns, &c->node);
    tally_add(&s->tally->conns, 1);
    if (!http_server_has_room(s))
        s->was_full = true;
    return c;
}

void http_server_accept(struct http_server *s, int fd, const struct sockaddr *peer, socklen_t peer_len,
                        const struct endpoint *local)
{
    struct conn *c = http_server_add(s, fd, peer, peer_len, local);
    tally_add(&s->tally->conns_accepted, 1);
    conn_log_accepted(c);
    c->speaks_uwsgi = s->settings->protocol == PROTOCOL_UWSGI;
    if (s->settings->proxy_protocol)
        conn_expect_proxy(c);
    else if (c->speaks_uwsgi)
        conn_await_head(c);
    if (s->draining)
        conn_drain(c);
    io_rest(&c->io);
}

void http_server_on_room(struct http_server *s, void (*on_room)(void *arg), void *arg)
{
    s->on_room = on_room;
    s->on_room_arg = arg;
}

bool http_server_has_room(const struct http_server *s)
{
    return tally_get(&s->tally->conns) < (uint64_t)s->conns_most;
}

void http_server_limit(struct http_server *s, int64_t conns)
{
    if (conns < s->conns_most)
        s->conns_most = conns;
}

void http_server_crowd(struct http_server *s)
{
    int64_t wanted = s->conns_most / CROWD_PART + 1;
    s->crowded = true;
    for (struct list *it = s->conns.next; it != &s->conns && wanted > 0; it = it->next)
        wanted -= conn_yield(conn_at(it));
}

void http_server_on_finished(struct http_server *s, void (*on_finished)(void *arg, uint64_t requests), void *arg)
{
    s->on_finished = on_finished;
    s->on_finished_arg = arg;
}

void http_server_on_deadline(struct http_server *s, void (*on_worn)(void *arg, const char *reason),
                             void (*on_shorter)(void *arg, uint64_t limit_ms), void *arg)
{
    s->on_worn = on_worn;
    s->on_shorter = on_shorter;
    s->on_deadline_arg = arg;
}

void http_server_worn(struct http_server *s, const char *reason)
{
    if (s->on_worn)
        s->on_worn(s->on_deadline_arg, reason);
}

void http_server_shorter(struct http_server *s, uint64_t limit_ms)
{
    if (s->on_shorter)
        s->on_shorter(s->on_deadline_arg, limit_ms);
}

void http_server_drain(struct http_server *s, void (*on_empty)(void *arg), void *arg)
{
    s->on_empty = on_empty;
    s->on_empty_arg = arg;
    s->draining = true;
    s->hands_over = s->hand_over != NULL;
    LIST_EACH(node, &s->conns)
        conn_drain(conn_at(node));
    if (tally_get(&s->tally->conns) == 0 && on_empty)
        on_empty(arg);
}

void http_server_abort(struct http_server *s)
{
    LIST_EACH(node, &s->conns)
        conn_close(conn_at(node), CLOSE_ABORT);
}

void http_server_on_access(struct http_server *s, void (*take)(struct str facts), enum access_facts facts)
{
    const char *path = s->settings->accesslog;
    bool colours = path && strcmp(path, "-") == 0 && log_has_colours(STDOUT_FILENO);
    access_log_free(s->access_tap);
    s->access_tap = access_log_new_for(take, facts, s->settings->access_log_format, colours);
}

void http_server_send_metrics(struct http_server *s)
{
    if (s->metrics)
        request_metrics_send(s->metrics);
}

void http_server_close_access_log(struct http_server *s)
{
    access_log_free(s->access_log);
    s->access_log = NULL;
}

void http_server_reopen_log(struct http_server *s)
{
    if (s->access_log && access_log_reopen(s->access_log) < 0)
        log_error("Cannot reopen the access log %s: %s. The old file stays in use.", s->settings->accesslog,
                  strerror(errno));
}

void http_server_free(struct http_server *s)
{
    if (s == NULL)
        return;
    http_server_abort(s);
    tell_gone(s);
    reap(s);
    loop_task_cancel(&s->reap_task);
    loop_task_cancel(&s->gone_task);
    loop_task_cancel(&s->move_task);
    loop_task_cancel(&s->fallen_task);
    struct list *node;
    while ((node = list_pop(&s->spares)) != NULL)
        free(conn_at(node));
    access_log_free(s->access_log);
    access_log_free(s->access_tap);
    request_metrics_free(s->metrics);
    forwarded_free(s->forwarded);
    address_set_done(&s->proxies);
    address_set_done(&s->fronts);
    buf_done(&s->own_fields);
    deadlines_done(&s->deadlines);
    request_pool_close(s->requests);
    free(s);
}
