/* forwarded: what a trusted proxy says about the client that it speaks for: X-Forwarded-For, X-Forwarded-Proto and those
 * like it (secure_scheme_headers), X-Forwarded-Host, X-Forwarded-Port, Forwarded (RFC 7239). The client is the right-most hop
 * that is not trusted itself; the rest is read at the same place of its list. */
#pragma once

#include <stdbool.h>

#include "server/base/str.h"
#include "server/http/head.h"

struct forwarded;
struct request;
struct settings;

/* Whom to trust; NULL: nobody, the headers mean nothing. */
struct forwarded *forwarded_new(const struct settings *settings);
void forwarded_free(struct forwarded *forwarded);

/* Whether a field of this name (in lower case) may be one of them. */
static inline bool forwarded_may_be(struct str name)
{
    return name.len >= 9 && (name.p[0] == 'x' || name.p[0] == 'f') &&
           (memcmp(name.p, "x-forward", 9) == 0 || memcmp(name.p, "forwarded", 9) == 0);
}

/* One of them has come: sets the request's client, scheme and host if its peer is trusted. Schemes and hosts that contradict
 * each other are refused: who of them would be right decides about cookies and redirects. */
struct head_refusal forwarded_apply(const struct forwarded *forwarded, struct request *request);
/* The peer is trusted to send a header of this name, with an underscore (forwarder_headers). */
bool forwarded_may_set(const struct forwarded *forwarded, const struct request *request, struct str name);
/* The setting names headers of other names too. */
bool forwarded_has_others(const struct forwarded *forwarded);
