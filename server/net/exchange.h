/* exchange: where workers pass idle connections on to each other: one SOCK_SEQPACKET pair for each listening socket, made
 * by the master, shared by all who accept there. Whoever wants to give a connection away sends it in at one end; whoever is
 * free takes it out at the other, like a second listener.
 *
 *      worker 0 --exchange_send--> [out ···· queue ···· in] --exchange_receive--> worker 1, 2, …: the first that is free
 *
 * The queue is the kernel's: what is in it outlives the worker that sent it. When the listening socket is closed for good
 * the exchange is shut: nothing goes in any more, what is in comes out. If nobody is left to take it, the kernel closes
 * what is there with the last descriptor of the pair. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/str.h"

#define EXCHANGE_VERSION 2         /* workers of two generations may be of two versions of the package */
#define EXCHANGE_BYTES (64 * 1024) /* of what was read of a connection and not used: more stays where it is */

enum { EXCHANGE_OUT, EXCHANGE_IN };

/* A connection between two messages. */
struct parcel {
    int fd;
    struct sockaddr_in6 peer; /* or sockaddr_in, or AF_UNIX alone */
    struct sockaddr_in6 proxied; /* where it had connected to, as the PROXY protocol says; AF_UNSPEC: it does not */
    uint64_t since_ms;        /* when it became idle (CLOCK_MONOTONIC) */
    bool fresh;               /* nothing was ever asked on it … */
    bool awaits_proxy;        /* … nor has the proxy said whose it is */
    bool speaks_uwsgi;        /* not HTTP */
    struct str unread;        /* read from the socket, not used; at most EXCHANGE_BYTES */
};

enum exchange_result {
    EXCHANGE_SENT, /* it is somebody else's: close the descriptor, do not shut it down */
    EXCHANGE_FULL, /* not now: wait until `out` is writable */
    EXCHANGE_SHUT, /* never: nobody is there, or it cannot be sent */
};

/* 0 or -1 with errno. Non-blocking, close-on-exec. */
int exchange_pair(int pair[2]);
/* For all who share it. */
void exchange_shut(int in);

/* Async-signal-safe in all but name: no locks, no memory; the guard calls it while the loop is stuck. */
enum exchange_result exchange_send(int out, const struct parcel *parcel);

/* 1: parcel->fd is the caller's, parcel->unread lies in `room` (EXCHANGE_BYTES long). 0: nothing is there, or it was
 * nothing that this version understands. -1: it was shut, and is empty.
 * See that a descriptor is free: the kernel drops what it has no number for. */
int exchange_receive(int in, char *room, struct parcel *parcel);
