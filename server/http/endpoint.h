/* endpoint: what the core needs beyond endpoint_init() and endpoint_done() of http_server.h. */
#pragma once

#include <sys/socket.h>

#include "server/http/request.h"

/* An internet address; `text` (at least INET6_ADDRSTRLEN) holds the host afterwards. Of any other family: no host. */
struct endpoint endpoint_format(const struct sockaddr *address, char *text, size_t size);
