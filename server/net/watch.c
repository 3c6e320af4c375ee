/* watch: see watch.h. */
#include "server/net/watch.h"

#include "server/base/clock.h"
#include "server/base/list.h"
#include "server/net/loop.h"

static void on_io(struct ev_loop *ev, struct ev_io *io, int events)
{
    (void)ev, (void)events;
    struct watch *watch = LIST_ENTRY(io, struct watch, io);
    watch->on_readable(watch);
}

void watch_start(struct watch *watch, struct loop *loop, int fd, void (*on_readable)(struct watch *))
{
    watch->loop = loop;
    watch->on_readable = on_readable;
    ev_io_init(&watch->io, on_io, fd, EV_READ);
    loop_touch(loop);
    ev_io_start(loop_ev(loop), &watch->io);
}

void watch_stop(struct watch *watch)
{
    if (watch->loop)
        ev_io_stop(loop_ev(watch->loop), &watch->io);
}

void watch_line_up(struct watch *watch, struct loop *loop, int fd, void (*on_readable)(struct watch *))
{
    if (!ev_is_active(&watch->io)) {
        watch->loop = loop;
        watch->on_readable = on_readable;
        ev_io_init(&watch->io, on_io, fd, EV_READ);
    }
    loop_line_up(loop, &watch->io);
}

void watch_step_out(struct watch *watch)
{
    if (watch->loop)
        loop_step_out(watch->loop, &watch->io);
}

static void on_timer(struct ev_loop *ev, struct ev_timer *timer, int events)
{
    (void)ev, (void)events;
    struct alarm *alarm = LIST_ENTRY(timer, struct alarm, timer);
    alarm->on_alarm(alarm);
}

/* libev counts from the begin of its turn, which may be long ago if the application has just been running. */
static double seconds_from_turn(struct loop *loop, uint64_t in_ms)
{
    uint64_t now = clock_ms(), turn = loop_now_ms(loop);
    return (double)(in_ms + (now > turn ? now - turn : 0)) / 1e3;
}

void alarm_set(struct alarm *alarm, struct loop *loop, uint64_t in_ms, void (*on_alarm)(struct alarm *))
{
    alarm_clear(alarm);
    loop_touch(loop);
    alarm->loop = loop;
    alarm->on_alarm = on_alarm;
    ev_timer_init(&alarm->timer, on_timer, seconds_from_turn(loop, in_ms), 0.);
    ev_timer_start(loop_ev(loop), &alarm->timer);
}

void alarm_clear(struct alarm *alarm)
{
    if (alarm->loop)
        ev_timer_stop(loop_ev(alarm->loop), &alarm->timer);
}
