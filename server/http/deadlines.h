/* deadlines: until when the application must have answered each request (request_timeout, or what it has set itself). Part of
 * the http_server; one coarse timer for all requests.
 *
 *     dispatch --deadlines_begin--> [usual | own] --response complete, or let go--> none
 *                                        |
 *                                        +--time is over--> request_expire(): 504 or a cut connection, and the
 *                                                           application is told (app_ops.on_deadline)
 *
 * All requests begin with the same time, so `usual` is in order as it is appended to, and a request costs one append and one
 * removal: no timer is touched while one is armed. Those whose deadline the application has moved are in `own`, in no
 * order, looked through when the first of them may be due. Both are empty when request_timeout is 0.
 *
 * That is the soft limit. The hard one, request_timeout_grace later, is for the master: it stands where the request is
 * listed (server/base/inflight.h), and the master kills whoever still has the request then. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/base/list.h"
#include "server/net/loop.h"

struct http_server;
struct request;

struct deadlines {
    struct http_server *server;
    struct loop *loop;
    uint64_t timeout_ms; /* 0: there are none */
    uint64_t grace_ms;   /* 0: no hard limit */
    uint64_t least_ms;   /* the shortest time from now until a hard limit that there ever was, roughly */
    struct list usual, own;
    struct coarse_timer timer;
};

void deadlines_init(struct deadlines *deadlines, struct http_server *server);
/* The requests that the application still has are not timed any more. */
void deadlines_done(struct deadlines *deadlines);

/* The application gets the request. */
void deadlines_begin(struct deadlines *deadlines, struct request *request);
/* Its response is complete, or nobody has it any more; idempotent. */
void deadlines_end(struct request *request);
