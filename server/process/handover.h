/* handover: a worker's place at the exchanges (net/exchange.h), one for each of its listening sockets: what it gives to
 * siblings, and what it takes from them. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/net/exchange.h"
#include "server/net/taker.h"
#include "server/net/watch.h"

struct inherit;

struct handover {
    const struct inherit *inherit;
    struct loop *loop;
    struct taker *takers;     /* by listener; none: there are no exchanges */
    int count;
    struct alarm retry, back; /* back: of takers that were set aside */
    int64_t most;             /* connections that a worker may have */
    uint64_t given;           /* since the queue was last seen empty */
    uint64_t full_since_ms;   /* nothing went in since then; 0: it did */
    void (*on_take)(struct handover *handover, int listener, const struct parcel *parcel);
    /* After EXCHANGE_FULL: try again; or, when that was tried for long enough, do not. */
    void (*on_room)(struct handover *handover, bool room);
};

/* The callbacks are the caller's to set. */
void handover_init(struct handover *handover, const struct inherit *inherit, struct loop *loop);
void handover_start(struct handover *handover);
/* As a listener is paused: there is no room. */
void handover_pause(struct handover *handover, bool paused);
/* Takes no more. Giving goes on. Idempotent. */
void handover_stop_taking(struct handover *handover);
/* The master is gone, and so are the siblings soon: nobody passes anything on any more, but to another server's workers:
 * true if there are such. */
bool handover_shut(struct handover *handover);

/* To whoever takes it. EXCHANGE_SHUT also if nobody is there who could. */
enum exchange_result handover_give(struct handover *handover, int listener, const struct parcel *parcel);
/* The same without looking whether anybody is there; from any thread. */
enum exchange_result handover_send(const struct handover *handover, int listener, const struct parcel *parcel);
void handover_done(struct handover *handover);
