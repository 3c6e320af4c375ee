/* listener: see listener.h. */
#include "server/net/listener.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "server/base/log.h"

static void listener_update(struct listener *listener)
{
    if (listener->started && !listener->paused && !listener->starved)
        ev_io_start(loop_ev(listener->loop), &listener->acceptable);
    else
        ev_io_stop(loop_ev(listener->loop), &listener->acceptable);
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
    if (!listener->starved_logged)
        log_warning("Cannot accept connections: %s; trying again every %d ms (raise the limit: ulimit -n)", strerror(error),
                    LISTENER_RETRY_MS);
    listener->starved_logged = listener->starved = true;
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

static void on_acceptable(struct ev_loop *ev, struct ev_io *watcher, int revents)
{
    (void)ev, (void)revents;
    struct listener *listener = LIST_ENTRY(watcher, struct listener, acceptable);
    for (int i = 0; i < LISTENER_BATCH && !listener->paused; i++) {
        struct sockaddr_storage peer;
        socklen_t len = sizeof(peer);
        int fd = accept4(listener->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (listener_failed(listener, errno))
                continue;
            return;
        }
        listener->starved_logged = false;
        listener->on_accept(listener, fd, (struct sockaddr *)&peer, len);
    }
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

void listener_done(struct listener *listener)
{
    listener->started = false;
    listener->paused = true;
    ev_io_stop(loop_ev(listener->loop), &listener->acceptable);
    coarse_timer_done(listener->loop, &listener->retry);
}

/* Siblings hold the same socket: closing alone would leave it in the poller. */
void listener_close(struct listener *listener)
{
    if (listener->fd < 0)
        return;
    listener_done(listener);
    epoll_ctl(loop_poll_fd(listener->loop), EPOLL_CTL_DEL, listener->fd, NULL);
    close(listener->fd);
    listener->fd = -1;
}
