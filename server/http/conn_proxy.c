/* conn_proxy: the state PROXY: before the first head a proxy may say whose connection it is. */
#include "server/http/conn_log.h"
#include "server/http/conn_states.h"

#include <stdlib.h>

#include "config/settings.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/http/http1.h"
#include "server/net/proxy_protocol.h"

void conn_expect_proxy(struct conn *c)
{
    c->proxy = mem_alloc(sizeof(*c->proxy));
    proxy_protocol_init(c->proxy, (enum proxy_versions)c->server->settings->proxy_protocol);
    conn_enter(c, CONN_PROXY);
}

bool conn_proxy_rests(const struct conn *c)
{
    return c->proxy->len == 0;
}

void conn_proxy_over(struct conn *c)
{
    free(c->proxy);
    c->proxy = NULL;
}

void conn_proxied(struct conn *c, const struct sockaddr_in6 *target)
{
    c->proxy = mem_alloc(sizeof(*c->proxy));
    proxy_protocol_init(c->proxy, PROXY_OFF);
    c->proxy->target = *target;
}

static void refuse_proxy(struct conn *c, int status, const char *reason)
{
    conn_log_refused(c, status, reason);
    conn_proxy_over(c);
    conn_begin_request(c);
    http1_abandon(&c->http1);
    conn_refuse(c, status, CLOSE_REQUEST_REFUSED);
}

/* The peer is from now on who the proxy says it is. */
static void proxy_done(struct conn *c)
{
    if (!address_set_has(&c->server->proxies, (const struct sockaddr *)&c->peer_address)) {
        refuse_proxy(c, 403, "a PROXY header from a peer that is not in proxy_allow_ips");
        return;
    }
    if (c->proxy->client.sin6_family != AF_UNSPEC) {
        c->peer_address = c->proxy->client;
        c->peer_known = false;
        conn_log_client(c);
    } else {
        conn_proxy_over(c);
    }
    conn_await_head(c);
}

/* What was taken for the beginning of a PROXY header is that of a request: too short to be a whole head. */
static void proxy_absent(struct conn *c)
{
    struct proxy_protocol *proxy = c->proxy;
    c->proxy = NULL;
    conn_await_head(c);
    conn_take(c, (char *)proxy->bytes, proxy->len);
    free(proxy);
}

size_t conn_proxy_take(struct conn *c, char *data, size_t len)
{
    size_t used;
    switch (proxy_protocol_feed(c->proxy, data, len, &used)) {
    case PROXY_MORE:
        c->io.may_rest = false;
        break;
    case PROXY_DONE:
        proxy_done(c);
        break;
    case PROXY_ABSENT:
        proxy_absent(c);
        break;
    case PROXY_ERROR:
        refuse_proxy(c, 400, "not a PROXY header");
        return len;
    }
    return used;
}

void conn_proxy_timeout(struct conn *c)
{
    conn_close(c, c->server->draining ? CLOSE_DRAIN : CLOSE_HEADER_TIMEOUT);
}
