/* conn_leave: the states DISCARD, FLUSH and LINGER: nothing more is served. */
#include "server/http/conn_states.h"

#include "config/settings.h"
#include "server/net/loop.h"

size_t conn_discard_take(struct conn *c, char *data, size_t len)
{
    struct str body;
    size_t used;
    enum http1_result result = http1_body(&c->http1, data, len, &used, &body);
    c->discarded += (uint32_t)used;
    if (result == HTTP1_ERROR || c->discarded > CONN_DISCARD_BYTES) {
        conn_leave(c, CLOSE_UNREAD_BODY);
        return len;
    }
    if (result == HTTP1_DONE)
        conn_enter(c, CONN_IDLE);
    return used;
}

void conn_discard_timeout(struct conn *c)
{
    if (conn_reading_timed_out(c))
        conn_leave(c, CLOSE_BODY_TIMEOUT);
}

size_t conn_nothing_take(struct conn *c, char *data, size_t len)
{
    (void)c, (void)data;
    return len;
}

void conn_leave_eof(struct conn *c)
{
    conn_close(c, c->state == CONN_LINGER ? c->reason : CLOSE_CLIENT_LEFT);
}

void conn_flush_timeout(struct conn *c)
{
    if (conn_writing_timed_out(c))
        conn_cut_off(c);
}

void conn_linger_timeout(struct conn *c)
{
    conn_close(c, CLOSE_LINGER_TIMEOUT);
}

void conn_linger_briefly(struct conn *c)
{
    uint64_t due_ms = loop_now_ms(c->server->loop) + CONN_LINGER_BRIEFLY_MS;
    if (due_ms < c->timer.due_ms)
        coarse_timer_arm(c->server->loop, &c->timer, CONN_LINGER_BRIEFLY_MS);
}

void conn_flush_drained(struct conn *c)
{
    if (c->reset_after)
        io_abort(&c->io);
    if (c->reset_after || c->io.eof || c->server->settings->linger_timeout_ms == 0) {
        conn_close(c, c->reason);
        return;
    }
    io_shutdown(&c->io);
    conn_enter(c, CONN_LINGER);
    if (http_server_hurries(c->server))
        conn_linger_briefly(c);
}
