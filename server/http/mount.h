/* mount: below which path the application is served, as SCRIPT_NAME says: a trusted proxy's header (forwarder_headers), the
 * environment, or uwsgi's variable. */
#pragma once

#include "server/base/str.h"
#include "server/http/head.h"

struct request;

/* How many bytes of the encoded `path` are `prefix` (decoded, not empty), which must end where a segment does; 0: it does not
 * begin with it. */
size_t mount_match(struct str path, struct str prefix);

/* Without slashes at its end. */
struct str mount_trim(struct str path);

/* The request's path must begin with `script_name` (may be encoded), or it was not meant for this application: 500, as in
 * gunicorn. */
struct head_refusal mount_apply(struct request *request, struct str script_name);
