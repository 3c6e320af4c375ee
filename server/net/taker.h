/* taker: takes over connections that siblings pass on, at the end EXCHANGE_IN of an exchange: the listener's like. One a
 * turn, so that those who are free share them. Without a free descriptor it pauses for LISTENER_RETRY_MS and leaves them to
 * the others: a number is kept free, as the kernel drops a connection that it has no number for. */
#pragma once

#include <stdbool.h>

#include "server/net/exchange.h"
#include "server/net/libev.h"
#include "server/net/loop.h"

struct taker {
    struct loop *loop;
    struct ev_io readable;
    struct coarse_timer retry;
    int in;
    int spare; /* the number that is kept; -1: there was none */
    bool started, paused, starved, aside;
    /* Whether one may be taken now; else it is set aside. NULL: always. */
    bool (*admits)(struct taker *taker);
    /* The callee owns parcel->fd; parcel->unread lies in the loop's read buffer. */
    void (*on_take)(struct taker *taker, const struct parcel *parcel);
    void *arg;
};

/* `in` stays open until taker_close(). */
void taker_init(struct taker *taker, struct loop *loop, int in);
void taker_start(struct taker *taker);
void taker_pause(struct taker *taker);
void taker_resume(struct taker *taker);
/* From being set aside: takes one, if it is still there, whatever admits() says. */
void taker_return(struct taker *taker);
/* Stops for good and closes this process's descriptor. Idempotent. */
void taker_close(struct taker *taker);
