/* listener: see listener.h. */
#include "server/net/listener.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "server/base/log.h"

static void listener_update(struct listener *listener)
{
    bool wanted = listener->started && !listener->paused && !listener->aside && !listener->starved;
    if (wanted == listener_in_line(listener))
        return;
    (wanted ? loop_line_up : loop_step_out)(listener->loop, &listener->acceptable);
    if (listener->on_line)
        listener->on_line(listener, wanted);
}

static void on_retry(struct coarse_timer *timer)
{
    struct listener *listener = LIST_ENTRY(timer, struct listener, retry);
    listener->starved = false;
    listener_update(listener);
}

/* Descriptors or memory have run out: the connection waits in the backlog, and so do we. */
static void listener_starve(struct listener *listener, int error)
{
    uint64_t now_ms = loop_now_ms(listener->loop);
    if (now_ms >= listener->starved_log_ms) {
        log_warning("Cannot accept connections: %s; trying again every %d ms (raise the limit: ulimit -n)",
                    strerror(error), LISTENER_RETRY_MS);
        listener->starved_log_ms = now_ms + LISTENER_LOG_MS;
    }
    listener->starved = true;
    listener_update(listener);
    coarse_timer_arm(listener->loop, &listener->retry, LISTENER_RETRY_MS);
}

/* True: go on with the next one. */
static bool listener_failed(struct listener *listener, int error)
{
    switch (error) {
    case EAGAIN:
        return false;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        listener_starve(listener, error);
        return false;
    default: /* ECONNABORTED, EINTR, and network errors that accept(2) passes on: of that connection alone */
        return true;
    }
}

/* False: there is no more to be had. */
static bool accept_next(struct listener *listener)
{
    struct sockaddr_storage peer;
    socklen_t len = sizeof(peer);
    int fd = accept4(listener->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return listener_failed(listener, errno);
    listener->on_accept(listener, fd, (struct sockaddr *)&peer, len);
    return true;
}

static void on_acceptable(struct ev_loop *ev, struct ev_io *watcher, int revents)
{
    (void)ev, (void)revents;
    struct listener *listener = LIST_ENTRY(watcher, struct listener, acceptable);
    int share = listener->share ? listener->share(listener) : LISTENER_BATCH;
    for (int i = 0; i < share && !listener->paused && accept_next(listener); i++) {
    }
    if (share == 1 && listener_in_line(listener))
        loop_line_up(listener->loop, &listener->acceptable);
}

void listener_init(struct listener *listener, struct loop *loop, int fd)
{
    *listener = (struct listener){ .loop = loop, .fd = fd, .address_len = sizeof(listener->address) };
    if (getsockname(fd, (struct sockaddr *)&listener->address, &listener->address_len) == 0)
        listener->is_unix = listener->address.ss_family == AF_UNIX;
    if (!listener->is_unix) /* what is accepted inherits it: no call a connection */
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    coarse_timer_init(&listener->retry, on_retry);
    ev_io_init(&listener->acceptable, on_acceptable, fd, EV_READ);
}

void listener_start(struct listener *listener)
{
    listener->started = true;
    listener_update(listener);
}

void listener_pause(struct listener *listener)
{
    listener->paused = true;
    listener_update(listener);
}

void listener_resume(struct listener *listener)
{
    listener->paused = false;
    listener_update(listener);
}

void listener_set_aside(struct listener *listener, bool aside)
{
    listener->aside = aside;
    listener_update(listener);
}

bool listener_in_line(const struct listener *listener)
{
    return ev_is_active(&listener->acceptable);
}

void listener_accept_one(struct listener *listener)
{
    if (listener->started && !listener->paused && !listener->starved)
        accept_next(listener);
}

void listener_look_again(struct listener *listener)
{
    if (listener_in_line(listener))
        loop_line_up(listener->loop, &listener->acceptable);
}

void listener_done(struct listener *listener)
{
    listener->started = false;
    listener->paused = true;
    listener_update(listener);
    coarse_timer_done(listener->loop, &listener->retry);
}

void listener_close(struct listener *listener)
{
    if (listener->fd < 0)
        return;
    listener_done(listener);
    close(listener->fd);
    listener->fd = -1;
}
