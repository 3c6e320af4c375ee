/* conn: one client connection: the order of its messages, its time limits and its end. Requests are served one after the other;
 * what the client sends ahead waits in io. Owned by the http_server's list; io, parser and timer are its own.
 *
 *                    ┌────────────────────────────── next message ──────────────────────────────┐
 *                    v                                                                           │
 *     accept ──> HEAD / IDLE ──head──> BODY ──prebuffered──> SERVING ──response done──┬──> (body read) IDLE
 *                    │                  │                       │                     ├──> DISCARD ──body read──> IDLE
 *                    └──── refused ─────┴───────────────────────┴── close said ───────┴──> FLUSH ──sent──> LINGER ──> CLOSED
 *
 * With proxy_protocol, PROXY comes first; UWSGI stands for HEAD in that protocol (uwsgi.h). The body is a machine of its own (request->body, body_end), and so is the response (response.c). */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "server/base/list.h"
#include "server/http/http1.h"
#include "server/http/request.h"
#include "server/http/server_state.h"
#include "server/net/io.h"

#define CONN_PIPELINE_PER_TURN 32      /* requests of one connection in one turn: others want theirs */
#define CONN_DISCARD_BYTES (64 * 1024) /* of an unread body that are read to keep the connection */

struct proxy_protocol;
struct websocket;

enum conn_state {
    CONN_PROXY,   /* before the first head: the peer may say by the PROXY protocol whose connection it is */
    CONN_UWSGI,   /* as HEAD, of the uwsgi protocol */
    CONN_HEAD,    /* a request head is awaited (new connection) or has begun */
    CONN_IDLE,    /* between messages */
    CONN_BODY,    /* the head is complete, the application waits for the start of the body */
    CONN_SERVING, /* the application has the request */
    CONN_WEBSOCKET, /* no HTTP any more: see websocket.h */
    CONN_DISCARD, /* the response is done, the rest of the body is read and dropped */
    CONN_FLUSH,   /* nothing more is parsed: what is queued leaves */
    CONN_LINGER,  /* our side is shut: wait for the client to close, so that it reads the response */
    CONN_CLOSED
};

struct conn {
    struct list node;
    struct http_server *server;
    struct io io;
    struct http1 http1;
    struct request *request; /* being received or served; one reference */
    struct websocket *websocket; /* in WEBSOCKET; one reference */
    struct proxy_protocol *proxy; /* in PROXY; then, if it has said so, where the client had connected to */
    struct coarse_timer timer;
    uint64_t since_ms;            /* when the state was entered, or the client had its last chance to make progress */
    enum conn_state state : 8;    /* small from here on: an idle connection is this struct, and 768 bytes are a size class */
    enum close_reason reason : 8; /* once it is in FLUSH */
    uint8_t turn_requests;        /* how many this turn may still take */
    bool in_wait : 1;             /* the application waits inside request_wait_*: it is not called back */
    bool stays : 1;               /* it was tried: nobody takes it over */
    bool reset_after : 1;         /* FLUSH ends in a reset: what was sent must not look complete */
    bool speaks_uwsgi : 1;        /* since it was accepted */
    bool peer_known : 1;          /* `peer` was made from peer_address */
    uint32_t discarded;           /* of an unread body */
    const struct endpoint *local;
    struct endpoint peer;
    struct sockaddr_in6 peer_address; /* or sockaddr_in, or AF_UNIX alone */
    char peer_text[INET6_ADDRSTRLEN];
    void *cache;
    void (*free_cache)(void *);
};

/* Takes `fd` over. `memory`: of a closed connection, or NULL. */
struct conn *conn_new(struct http_server *server, struct conn *memory, int fd, const struct sockaddr *peer,
                      socklen_t peer_len, const struct endpoint *local);

/* Nothing has come yet: a head comes, in the protocol that it speaks. */
void conn_await_head(struct conn *conn);
/* Nothing has come yet: the peer may say first, by the PROXY protocol, whose connection it is. */
void conn_expect_proxy(struct conn *conn);

/* Ends the connection now. Its request is taken from it: the application, if it has it, is told at the end of the turn. */
void conn_close(struct conn *conn, enum close_reason reason);
/* Ends it when everything queued was sent, and lingers. */
void conn_leave(struct conn *conn, enum close_reason reason);
/* The worker leaves: idle connections are handed over, or go when a turn has brought nothing more. */
void conn_drain(struct conn *conn);
/* Goes likewise if it waits for a further request. */
bool conn_yield(struct conn *conn);

/* --- for hand_over.c ------------------------------------------------------------------------------------------------ */

struct parcel;

/* A sibling has passed it on: goes on where that has left off. */
void conn_unpack(struct conn *conn, const struct parcel *parcel);
/* Between two messages, and all that was sent has left: any other worker can go on with it. */
bool conn_can_move(const struct conn *conn);
/* It leaves this worker when it comes to rest, and begins no further request here. */
bool conn_will_move(const struct conn *conn);
/* A sibling has it: as conn_close(), but the client feels nothing. */
void conn_moved(struct conn *conn);
/* Nobody takes it: it ends here, after what has come already. */
void conn_stay(struct conn *conn);

/* --- for request.c and response.c ----------------------------------------------------------------------------------- */

/* The response is complete. The request is no longer the connection's. */
void conn_response_done(struct conn *conn);
/* The answer 101 is queued, the request is over: the connection is `websocket`'s, which takes one reference with it. */
void conn_upgrade(struct conn *conn, struct websocket *websocket);
/* The response can not be completed: the client must see that. */
void conn_response_broken(struct conn *conn);
/* The application has had its time: 504, or an end that does not look like one. It is not the connection's any more. */
void conn_expire(struct conn *conn);
/* The application waits for room. */
void conn_response_full(struct conn *conn);
/* The application waits for the body, or has made room for more. */
void conn_body_wanted(struct conn *conn);
/* How much of the body is still to come, as far as that is known; a chunked one counts as CONN_DISCARD_BYTES + 1. */
uint64_t conn_body_left(const struct conn *conn);
const struct endpoint *conn_peer(struct conn *conn);
/* Pumps the connection until there is progress, see request_wait_body(). */
int conn_wait_body(struct conn *conn);
int conn_wait_writable(struct conn *conn);
