/* listener: accepts connections on one listening socket that it does not own, and for which sibling processes wait too:
 * one of them is woken for a connection (loop_line_up). EMFILE, ENFILE, ENOBUFS or ENOMEM pause it for
 * LISTENER_RETRY_MS (one log line a minute, no spin); listener_pause() is for the owner's own limit,
 * listener_set_aside() for leaving newcomers to siblings. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

#include "server/net/libev.h"
#include "server/net/loop.h"

#define LISTENER_RETRY_MS 100
#define LISTENER_LOG_MS 60000
#define LISTENER_BATCH 16 /* accepts a turn at most */

struct listener {
    struct loop *loop;
    struct ev_io acceptable;
    struct coarse_timer retry;
    int fd;
    bool is_unix, started, paused, aside;
    bool starved;            /* out of descriptors or memory … */
    uint64_t starved_log_ms; /* … which is not said again before */
    struct sockaddr_storage address; /* where it listens */
    socklen_t address_len;
    /* How many connections may be accepted now. With 1 it goes to the end of the line afterwards; with 0 it has been
     * set aside. NULL: LISTENER_BATCH. */
    int (*share)(struct listener *listener);
    /* It has stepped into the line or out of it: for whatever reason. May be NULL. */
    void (*on_line)(struct listener *listener, bool in_line);
    /* A connection: non-blocking, close-on-exec, TCP_NODELAY set. The callee owns `fd`. */
    void (*on_accept)(struct listener *listener, int fd, const struct sockaddr *peer, socklen_t peer_len);
    void *arg, *share_arg; /* for on_accept; for share and on_line */
};

/* `fd` is bound and listening, non-blocking. */
void listener_init(struct listener *listener, struct loop *loop, int fd);
void listener_start(struct listener *listener);
/* Stop and go on accepting: worker_connections. Idempotent. */
void listener_pause(struct listener *listener);
void listener_resume(struct listener *listener);
/* As pausing, but independent of it. */
void listener_set_aside(struct listener *listener, bool aside);
/* Waits for newcomers at the moment. */
bool listener_in_line(const struct listener *listener);
/* Accepts one if it is there, whatever share() says. */
void listener_accept_one(struct listener *listener);
/* Looks anew whether there is something to accept. */
void listener_look_again(struct listener *listener);
/* Stops for good; the descriptor stays open. */
void listener_done(struct listener *listener);
/* listener_done(), and closes this process's descriptor. Idempotent. */
void listener_close(struct listener *listener);
