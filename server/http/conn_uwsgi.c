/* conn_uwsgi: the state UWSGI: the head of a request comes in the uwsgi protocol. Its body, and all that follows, is as in HTTP, but
 * that the connection ends with the response. */
#include "server/http/conn_states.h"

#include "server/http/conn_log.h"
#include "server/http/uwsgi.h"

static size_t refuse(struct conn *c, struct head_refusal refusal, size_t len)
{
    conn_log_refused(c, refusal.status, refusal.reason);
    conn_refuse(c, refusal.status, CLOSE_REQUEST_REFUSED);
    return len;
}

static bool peer_is_allowed(const struct conn *c)
{
    return address_set_has(&c->server->fronts, (const struct sockaddr *)&c->peer_address);
}

size_t conn_uwsgi_take(struct conn *c, char *data, size_t len)
{
    struct head_refusal refusal = { 403, "a peer that is not in uwsgi_allow_ips" };
    size_t used = 0;
    bool first = c->request == NULL;
    if (first)
        conn_begin_request(c);
    if (!peer_is_allowed(c))
        return refuse(c, refusal, len);
    switch (uwsgi_head(c->request, c->server->settings, data, len, &used, &refusal)) {
    case UWSGI_MORE:
        if (first)
            conn_enter(c, CONN_UWSGI);
        break;
    case UWSGI_ERROR:
        return refuse(c, refusal, len);
    case UWSGI_DONE:
        http1_expect_length(&c->http1, c->request->content_length > 0 ? (uint64_t)c->request->content_length : 0);
        conn_head_done(c);
    }
    return used;
}
