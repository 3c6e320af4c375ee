/* server_state: the inside of struct http_server, shared by the files of server/http and nobody else. */
#pragma once

#include "config/address_set.h"
#include "config/settings.h"
#include "server/base/list.h"
#include "server/http/deadlines.h"
#include "server/http/http_server.h"
#include "server/net/loop.h"

enum close_reason {
#define CLOSE(name, text) CLOSE_##name,
#include "server/http/close_reason.def"
#undef CLOSE
    CLOSE_REASONS
};

#define CONN_SPARES 256 /* closed connections whose memory is kept for the next */

struct http_server {
    struct loop *loop;
    const struct settings *settings;
    struct app *app;
    struct access_log *access_log, *access_tap; /* NULL: none. access_tap: what on_access gets */
    struct request_metrics *metrics; /* NULL: nobody wants them */
    struct request_pool *requests;
    struct deadlines deadlines;
    struct forwarded *forwarded;   /* NULL: what proxies say is not looked at */
    struct str script_name;        /* the environment's; the caller's memory */
    struct address_set fronts;     /* who may speak uwsgi */
    struct address_set proxies;    /* who may say by the PROXY protocol whose connection it is */
    struct list conns;             /* open */
    struct list dead;              /* closed in this turn: freed at its end */
    struct list spares;
    size_t spare_count;
    struct list gone;   /* requests whose application is to be told of the disconnect */
    struct list fallen; /* WebSockets whose end is to be dealt with */
    struct loop_task reap_task, gone_task, fallen_task;
    struct buf own_fields; /* the setting `headers`, formatted */
    bool sends_date, sends_server;
    char known_host[64]; /* the last Host that was found valid */
    size_t known_host_len; /* 0: none yet */
    int64_t conns_most;
    bool draining, crowded;
    bool hands_over; /* draining, and there is somebody to hand over to */
    struct loop_task move_task;
    enum hand_over_result (*hand_over)(void *arg, const struct parcel *parcel, const struct endpoint *local);
    void *hand_over_arg;
    bool was_full; /* on_room is owed */
    void (*on_room)(void *arg);
    void *on_room_arg;
    void (*on_empty)(void *arg);
    void *on_empty_arg;
    void (*on_finished)(void *arg, uint64_t requests);
    void *on_finished_arg;
    void (*on_worn)(void *arg, const char *reason);
    void (*on_shorter)(void *arg, uint64_t limit_ms);
    void *on_deadline_arg;
    struct tally *tally; /* own_tally, or where others see it */
    struct tally own_tally;
    uint64_t closed[CLOSE_REASONS];
    uint64_t turnover; /* what came and went besides requests: connections closed, WebSocket messages, memory given back */
};

/* limit_concurrency: a request that comes now is not to be served. */
static inline bool http_server_is_busy(const struct http_server *server)
{
    uint64_t limit = (uint64_t)server->settings->limit_concurrency;
    return limit > 0 && (tally_get(&server->tally->conns) > limit || tally_get(&server->tally->in_flight) >= limit);
}

/* Somebody wants to know how long requests take. */
static inline bool http_server_times(const struct http_server *server)
{
    return server->access_log || server->access_tap || server->metrics;
}

/* For conn.c: the application gets the request now. */
void http_server_begun(struct http_server *server, struct request *request);
/* A request is over, its response complete or not. Logs and counts it. */
void http_server_finished(struct http_server *server, struct request *request);
/* The application is told, at the end of the turn, that the client has left. Takes a reference meanwhile. */
void http_server_tell_gone(struct http_server *server, struct request *request);
/* The time of a request was over, and what the application does with it now is not known to end well. */
void http_server_worn(struct http_server *server, const char *reason);
/* A request has less time until its hard limit than any had before. */
void http_server_shorter(struct http_server *server, uint64_t limit_ms);
/* Who does not close soon must go: the place is needed. */
static inline bool http_server_hurries(const struct http_server *server)
{
    return server->draining || server->crowded;
}
/* At the end of the turn, what has come to rest is handed over. */
void http_server_move_soon(struct http_server *server);
void http_server_hand_over_init(struct http_server *server);
/* A connection was closed: its memory goes at the end of the turn. */
struct conn;
void http_server_bury(struct http_server *server, struct conn *conn);
/* A new connection, which is counted as open. */
struct conn *http_server_add(struct http_server *server, int fd, const struct sockaddr *peer, socklen_t peer_len,
                             const struct endpoint *local);
