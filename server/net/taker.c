/* taker: see taker.h. */
#include "server/net/taker.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "server/net/listener.h"

static void taker_update(struct taker *taker)
{
    if (taker->started && !taker->paused && !taker->starved && !taker->aside)
        ev_io_start(loop_ev(taker->loop), &taker->readable);
    else
        ev_io_stop(loop_ev(taker->loop), &taker->readable);
}

static bool keep_number(struct taker *taker)
{
    if (taker->spare < 0)
        taker->spare = fcntl(taker->in, F_DUPFD_CLOEXEC, 0);
    taker->starved = taker->spare < 0;
    if (taker->starved)
        coarse_timer_arm(taker->loop, &taker->retry, LISTENER_RETRY_MS);
    return !taker->starved;
}

static void free_number(struct taker *taker)
{
    if (taker->spare >= 0)
        close(taker->spare);
    taker->spare = -1;
}

static void on_retry(struct coarse_timer *timer)
{
    struct taker *taker = LIST_ENTRY(timer, struct taker, retry);
    keep_number(taker);
    taker_update(taker);
}

static void take_one(struct taker *taker)
{
    struct parcel parcel;
    if (!keep_number(taker)) {
        taker_update(taker);
        return;
    }
    free_number(taker);
    int got = exchange_receive(taker->in, loop_read_buffer(taker->loop), &parcel);
    keep_number(taker);
    if (got < 0)
        taker->started = false;
    taker_update(taker);
    if (got > 0)
        taker->on_take(taker, &parcel);
}

static void on_readable(struct ev_loop *ev, struct ev_io *watcher, int revents)
{
    (void)ev, (void)revents;
    struct taker *taker = LIST_ENTRY(watcher, struct taker, readable);
    taker->aside = taker->admits && !taker->admits(taker);
    if (taker->aside)
        taker_update(taker);
    else
        take_one(taker);
}

void taker_init(struct taker *taker, struct loop *loop, int in)
{
    *taker = (struct taker){ .loop = loop, .in = in, .spare = -1 };
    coarse_timer_init(&taker->retry, on_retry);
    ev_io_init(&taker->readable, on_readable, in, EV_READ);
}

void taker_start(struct taker *taker)
{
    taker->started = true;
    keep_number(taker);
    taker_update(taker);
}

void taker_return(struct taker *taker)
{
    bool was_aside = taker->aside;
    taker->aside = false;
    if (was_aside && taker->started && !taker->paused && !taker->starved)
        take_one(taker);
    taker_update(taker);
}

void taker_pause(struct taker *taker)
{
    taker->paused = true;
    taker_update(taker);
}

void taker_resume(struct taker *taker)
{
    taker->paused = false;
    taker_update(taker);
}

/* Siblings hold the same socket: closing alone would leave it in the poller. */
void taker_close(struct taker *taker)
{
    if (taker->in < 0)
        return;
    taker->started = false;
    taker_update(taker);
    coarse_timer_done(taker->loop, &taker->retry);
    epoll_ctl(loop_poll_fd(taker->loop), EPOLL_CTL_DEL, taker->in, NULL);
    free_number(taker);
    close(taker->in);
    taker->in = -1;
}
