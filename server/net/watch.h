/* watch: a descriptor and a one-shot timer on a loop, for those who live on it but do not speak libev: the worker's
 * channel, its signals, its drain. Not for connections: those have io and the coarse timers. */
#pragma once

#include <stdint.h>

#include "server/net/libev.h"

struct loop;

struct watch {
    struct ev_io io;
    struct loop *loop;
    void (*on_readable)(struct watch *watch);
};

/* Calls on_readable while `fd` is readable, EOF included. The descriptor stays the caller's. */
void watch_start(struct watch *watch, struct loop *loop, int fd, void (*on_readable)(struct watch *));
/* Idempotent; also on a zeroed watch. Before the descriptor is closed. */
void watch_stop(struct watch *watch);

/* The same for a descriptor that sibling processes wait for too: loop_line_up(). Again: to the end of the line. */
void watch_line_up(struct watch *watch, struct loop *loop, int fd, void (*on_readable)(struct watch *));
/* Idempotent; also on a zeroed watch. */
void watch_step_out(struct watch *watch);

struct alarm {
    struct ev_timer timer;
    struct loop *loop;
    void (*on_alarm)(struct alarm *alarm);
};

/* Rings once, `in_ms` from now; setting it again moves it. */
void alarm_set(struct alarm *alarm, struct loop *loop, uint64_t in_ms, void (*on_alarm)(struct alarm *));
/* Idempotent; also on a zeroed alarm. */
void alarm_clear(struct alarm *alarm);
