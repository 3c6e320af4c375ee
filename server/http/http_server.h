/* http_server: the HTTP side of a worker: its connections, their limits, the pools and the access log. It gets
 * connected sockets and gives requests to the app; it knows no processes and makes no listeners. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "server/base/list.h"
#include "server/base/tally.h"
#include "server/http/access_log.h"
#include "server/http/request.h"
#include "server/net/loop.h"

struct app;
struct settings;
struct inflight_table;
struct io;
struct parcel;

struct http_server;

/* `settings` and `app` must outlive it. */
struct http_server *http_server_new(struct loop *loop, const struct settings *settings, struct app *app);

/* Before the first connection: counts here, and lists the requests in flight there, where others see them. Both are zeroes
 * now and outlive the server and its requests. (Without: it counts for itself.) */
void http_server_publish(struct http_server *server, struct tally *tally, struct inflight_table *inflight);

/* SCRIPT_NAME of the environment (NULL: none), below which all requests have to be; must outlive the server. */
void http_server_mount(struct http_server *server, const char *script_name);

/* A new connection; `fd` is taken over. `local`: the listener's endpoint, must outlive the server. */
void http_server_accept(struct http_server *server, int fd, const struct sockaddr *peer, socklen_t peer_len,
                        const struct endpoint *local);

/* Told when the number of open connections falls below worker_connections again. */
void http_server_on_room(struct http_server *server, void (*on_room)(void *arg), void *arg);
bool http_server_has_room(const struct http_server *server);
/* So many at most, should worker_connections say more. */
void http_server_limit(struct http_server *server, int64_t conns);
/* All places are taken, and others wait: until there is room again every response is the last of its connection, so that
 * all get their turn. Each call makes some of the connections go that have nothing to do. */
void http_server_crowd(struct http_server *server);

/* --- hand_over.c: connections between two messages pass from one worker to another ---------------------------------- */

enum hand_over_result {
    HAND_OVER_DONE,  /* a sibling has it, or will */
    HAND_OVER_LATER, /* not now: http_server_move_on() says when */
    HAND_OVER_NEVER, /* nobody takes it: it is closed as if there were no siblings */
};

/* What a draining server does with them from now on; without it they are closed. `local`: as it was accepted. */
void http_server_on_hand_over(struct http_server *server,
                              enum hand_over_result (*hand_over)(void *arg, const struct parcel *parcel,
                                                                 const struct endpoint *local),
                              void *arg);
/* After HAND_OVER_LATER: there is room. */
void http_server_move_on(struct http_server *server);
/* After HAND_OVER_LATER: those that are left stay, and are closed after what they have already asked. */
void http_server_stay(struct http_server *server);
/* What a sibling has handed over; parcel->fd is taken over. */
void http_server_take(struct http_server *server, const struct parcel *parcel, const struct endpoint *local);

/* For a thread that has the io's claim (net/claim.h): what there is to hand over; returns `local`. */
const struct endpoint *http_server_pack(struct io *io, struct parcel *parcel);
/* On the loop's thread, afterwards: it is not ours any more. */
void http_server_gave(struct io *io);

/* Leaves: idle connections are handed over or closed, and so are others as they become idle; where that cannot be, responses
 * from now on say `Connection: close`. `on_empty` comes when the last connection is gone (possibly before the return). */
void http_server_drain(struct http_server *server, void (*on_empty)(void *arg), void *arg);
/* Closes all connections at once. */
void http_server_abort(struct http_server *server);

/* Told after each finished request, with the total: max_requests. */
void http_server_on_finished(struct http_server *server, void (*on_finished)(void *arg, uint64_t requests), void *arg);

/* on_worn: the application was interrupted in a way that may have left something half done: replace the process.
 * on_shorter: from now on there are requests that may take at most so long, or the process is to be killed. */
void http_server_on_deadline(struct http_server *server, void (*on_worn)(void *arg, const char *reason),
                             void (*on_shorter)(void *arg, uint64_t limit_ms), void *arg);

/* Told of each finished request for an access log elsewhere: see access_log_new_for(). */
void http_server_on_access(struct http_server *server, void (*take)(struct str facts), enum access_facts facts);
/* Nothing is written to the access log's file by the server itself. */
void http_server_close_access_log(struct http_server *server);

/* With statsd (it is open before the server is made): sends what was counted since the last tenth of a second. */
void http_server_send_metrics(struct http_server *server);

/* Changes whenever memory may have been used and freed: no figure to report. */
uint64_t http_server_turnover(const struct http_server *server);
const struct tally *http_server_tally(const struct http_server *server);
void http_server_reopen_log(struct http_server *server);

/* All connections are closed; requests that the application still holds stay valid until it lets them go. */
void http_server_free(struct http_server *server);

/* Fills an endpoint from a socket address; its strings are malloc'ed: endpoint_done(). */
void endpoint_init(struct endpoint *endpoint, const struct sockaddr *address, socklen_t len);
void endpoint_done(struct endpoint *endpoint);
