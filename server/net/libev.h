/* libev: the one place that says how libev is configured. Its structs depend on these macros, so nobody includes
 * <ev.h> directly. loop.c compiles the library itself in: Debian's shared one aborts the process when an application
 * closes a watched descriptor, and its archive is not position independent. */
#pragma once

#define EV_STANDALONE 1
#define EV_MULTIPLICITY 1
#define EV_COMPAT3 0
#define EV_MINPRI 0
#define EV_MAXPRI 1
#define EV_VERIFY 0
#define EV_USE_MONOTONIC 1
#define EV_USE_EPOLL 1
#define EV_USE_EVENTFD 1
#define EV_USE_SELECT 0
#define EV_USE_POLL 0
#define EV_USE_LINUXAIO 0
#define EV_USE_IOURING 0
#define EV_USE_SIGNALFD 0
#define EV_USE_TIMERFD 0
#define EV_USE_INOTIFY 0
#define EV_USE_4HEAP 1
#define EV_USE_FLOOR 1
#define EV_ASYNC_ENABLE 1
#define EV_PERIODIC_ENABLE 0
#define EV_STAT_ENABLE 0
#define EV_PREPARE_ENABLE 0
#define EV_CHECK_ENABLE 0
#define EV_IDLE_ENABLE 0
#define EV_SIGNAL_ENABLE 0
#define EV_CHILD_ENABLE 0
#define EV_FORK_ENABLE 0
#define EV_CLEANUP_ENABLE 0
#define EV_EMBED_ENABLE 0

#include <ev.h>

/* All have priority 0 but what accepts (loop_line_up). And the project is compiled without strict aliasing, which libev's own
 * memmove stands for. */
#undef ev_set_priority
#define ev_set_priority(ev, pri) ((void)((ev)->priority = (pri)))
#undef ev_set_cb
#define ev_set_cb(ev, cb_) ((void)(ev_cb_(ev) = (cb_)))
