/* hand_over: how connections leave a draining server without being closed. One that is between two messages is a socket, its
 * peer's address, and what was read ahead: a parcel that a sibling goes on with (conn_unpack()). What is in the middle of a
 * message stays until that is done; so do WebSockets.
 *
 *     conn comes to rest ──http_server_move_soon──> end of the turn: hand_over() ─┬─ DONE   the sibling's
 *                                                                                 ├─ LATER  all wait: http_server_move_on/stay
 *                                                                                 └─ NEVER  conn_stay(): closed
 *
 * A connection that is to move begins no further request here: what the client has sent ahead moves along. */
#include "server/http/conn.h"
#include "server/http/conn_log.h"
#include "server/http/http_server.h"
#include "server/http/server_state.h"
#include "server/net/exchange.h"
#include "server/net/proxy_protocol.h"

static struct parcel parcel_of(const struct conn *c)
{
    static const struct sockaddr_in6 not_told = { .sin6_family = AF_UNSPEC };
    bool told = c->proxy != NULL && c->state != CONN_PROXY;
    return (struct parcel){ .fd = c->io.fd,
                            .peer = c->peer_address,
                            .proxied = told ? c->proxy->target : not_told,
                            .since_ms = c->since_ms,
                            .fresh = c->state <= CONN_HEAD,
                            .awaits_proxy = c->state == CONN_PROXY,
                            .speaks_uwsgi = c->speaks_uwsgi,
                            .unread = buf_str(&c->io.in) };
}

static enum hand_over_result hand_over(struct http_server *s, struct conn *c)
{
    struct parcel parcel = parcel_of(c);
    if (parcel.unread.len > EXCHANGE_BYTES)
        return HAND_OVER_NEVER;
    return s->hand_over(s->hand_over_arg, &parcel, c->local);
}

/* False: not now, nor the others. */
static bool move(struct http_server *s, struct conn *c)
{
    switch (hand_over(s, c)) {
    case HAND_OVER_DONE:
        conn_moved(c);
        return true;
    case HAND_OVER_NEVER:
        conn_stay(c);
        return true;
    case HAND_OVER_LATER:
        break;
    }
    return false;
}

static void on_move(struct loop_task *task)
{
    struct http_server *s = LIST_ENTRY(task, struct http_server, move_task);
    LIST_EACH(node, &s->conns) {
        struct conn *c = LIST_ENTRY(node, struct conn, node);
        if (!conn_will_move(c) || !io_claim(&c->io))
            continue;
        if (c->state == CONN_IDLE && c->io.queued_bytes > 0)
            io_notify_drained(&c->io); /* comes again then */
        bool now = !conn_can_move(c) || move(s, c);
        io_rest(&c->io);
        if (!now)
            return;
    }
}

void http_server_move_soon(struct http_server *s)
{
    loop_defer(s->loop, &s->move_task);
}

void http_server_move_on(struct http_server *s)
{
    if (s->hands_over)
        http_server_move_soon(s);
}

void http_server_stay(struct http_server *s)
{
    s->hands_over = false;
    LIST_EACH(node, &s->conns)
        conn_stay(LIST_ENTRY(node, struct conn, node));
}

void http_server_on_hand_over(struct http_server *s,
                              enum hand_over_result (*hand_over)(void *arg, const struct parcel *parcel,
                                                                 const struct endpoint *local),
                              void *arg)
{
    s->hand_over = hand_over;
    s->hand_over_arg = arg;
}

void http_server_hand_over_init(struct http_server *s)
{
    loop_task_init(&s->move_task, on_move);
}

void http_server_take(struct http_server *s, const struct parcel *parcel, const struct endpoint *local)
{
    struct conn *c =
        http_server_add(s, parcel->fd, (const struct sockaddr *)&parcel->peer, sizeof(parcel->peer), local);
    conn_unpack(c, parcel);
    conn_log_taken(c);
    if (s->draining)
        conn_drain(c);
    io_rest(&c->io);
}

/* --- for the guard: the loop is stuck ------------------------------------------------------------------------------- */

static struct conn *conn_of(struct io *io)
{
    return LIST_ENTRY(io, struct conn, io);
}

const struct endpoint *http_server_pack(struct io *io, struct parcel *parcel)
{
    const struct conn *c = conn_of(io);
    *parcel = parcel_of(c);
    return c->local;
}

void http_server_gave(struct io *io)
{
    io_claim(io); /* waits until the guard has let go of it */
    conn_moved(conn_of(io));
}
