/* conn_log: see conn_log.h. */
#include "server/http/conn_log.h"

#include <stdio.h>

#define WHO_BYTES 96
#define LINE_BYTES 512 /* of a request line that are shown */

static const char *const reason_texts[] = {
#define CLOSE(name, text) text,
#include "server/http/close_reason.def"
#undef CLOSE
};

/* "Connection 12 (127.0.0.1:53412)" */
static const char *who(struct conn *c, char *text)
{
    const struct endpoint *peer = conn_peer(c);
    if (peer->port < 0)
        snprintf(text, WHO_BYTES, "Connection %d (unix)", c->io.fd);
    else
        snprintf(text, WHO_BYTES, "Connection %d (%.*s:%d)", c->io.fd, (int)peer->host.len, peer->host.p, peer->port);
    return text;
}

static int at_most(size_t len, int most)
{
    return len < (size_t)most ? (int)len : most;
}

void conn_log(struct conn *c, const char *what)
{
    char name[WHO_BYTES];
    log_write(LOG_LEVEL_DEBUG, "%s %s", who(c, name), what);
}

void conn_log_refusal(struct conn *c, int status, const char *reason)
{
    char name[WHO_BYTES];
    log_write(LOG_LEVEL_DEBUG, "%s refused with %d: %s", who(c, name), status, reason);
}

void conn_log_head(struct conn *c)
{
    const struct request *r = c->request;
    char name[WHO_BYTES];
    log_write(LOG_LEVEL_DEBUG, "%s: %.*s %.*s%s HTTP/1.%d", who(c, name), (int)r->method.len, r->method.p,
              at_most(r->target.len, LINE_BYTES), r->target.p, r->target.len > LINE_BYTES ? "…" : "", r->version_minor);
}

void conn_log_response(struct conn *c, bool kept)
{
    const struct request *r = c->request;
    char name[WHO_BYTES];
    log_write(LOG_LEVEL_DEBUG, "%s answered %d, %llu bytes; %s", who(c, name), r->status,
              (unsigned long long)r->body_sent, kept ? "kept" : "the last response");
}

void conn_log_end(struct conn *c, enum close_reason reason)
{
    char name[WHO_BYTES];
    log_write(LOG_LEVEL_DEBUG, "%s closed: %s", who(c, name), reason_texts[reason]);
}
