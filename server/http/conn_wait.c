/* conn_wait: for an application that waits inside its own call (WSGI inline): the connection is pumped from there. */
#include "server/http/conn_states.h"

#include <poll.h>

#include "config/settings.h"

static int timeout_of(int64_t limit_ms)
{
    return limit_ms <= 0 || limit_ms > INT32_MAX ? -1 : (int)limit_ms;
}

/* Also bounded by the request's own deadline: then 0 as well, and the connection is not the request's any more. */
static int conn_wait(struct conn *c, short events, int64_t limit_ms)
{
    struct request *r = c->request;
    int64_t left_ms = request_time_left(r);
    bool outer = c->in_wait, expires = left_ms != REQUEST_NO_DEADLINE && (limit_ms <= 0 || left_ms <= limit_ms);
    c->in_wait = true;
    int progress = io_wait(&c->io, events, expires && left_ms == 0 ? 0 : timeout_of(expires ? left_ms : limit_ms));
    c->in_wait = outer;
    if (progress == 0 && expires)
        request_expire(r);
    return progress;
}

int conn_wait_body(struct conn *c)
{
    struct request *r = c->request;
    while (r->conn && !r->body_end && buf_len(&r->body) == 0) {
        io_flush(&c->io);
        if (c->io.eof)
            return -1;
        int progress = conn_wait(c, POLLIN, c->server->settings->body_timeout_ms);
        if (progress == 0 && r->conn)
            conn_refuse(c, 408, CLOSE_BODY_TIMEOUT);
        if (progress <= 0)
            return progress;
    }
    return r->conn ? 1 : -1;
}

int conn_wait_writable(struct conn *c)
{
    struct request *r = c->request;
    io_flush(&c->io);
    while (r->conn && c->io.queued_bytes > IO_LOW_WATER) {
        int progress = conn_wait(c, POLLOUT, c->server->settings->write_timeout_ms);
        if (progress == 0 && r->conn)
            conn_cut_off(c);
        if (progress <= 0)
            return progress;
    }
    return r->conn ? 1 : -1;
}
