/* uwsgi: the head of a request in uWSGI's binary protocol, which nginx (uwsgi_pass), Apache (mod_proxy_uwsgi) and uWSGI's routers
 * speak to applications. It carries the variables of CGI rather than a head of HTTP; what is filled in is the same struct request.
 *
 *     modifier1 (0) · size of the variables, 16 bits · modifier2 (0)        all numbers little-endian
 *     size, name · size, value · size, name · …                             sizes of 16 bits
 *     CONTENT_LENGTH bytes of body
 *
 * One request a connection. The front end is believed what it says, so only who is in uwsgi_allow_ips may speak it. Makes no system
 * calls; the result depends on the bytes alone, never on how they were split. */
#pragma once

#include <stddef.h>

#include "server/http/head.h"

#define UWSGI_VARS 1000 /* of one request, header fields (limit_request_fields) included */

struct request;
struct settings;

enum uwsgi_result { UWSGI_MORE, UWSGI_DONE, UWSGI_ERROR };

/* Takes bytes of the head into `request`, which is new from request_new(); *used says how many. UWSGI_DONE: it is complete and
 * judged, content_length says how much body follows. UWSGI_ERROR: *refusal says what to answer. */
enum uwsgi_result uwsgi_head(struct request *request, const struct settings *settings, const char *data, size_t len,
                             size_t *used, struct head_refusal *refusal);
