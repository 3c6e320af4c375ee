/* aioloop_connection: what makes connections: aioloop_accept.c for servers, aioloop_connect.c for clients. */
#pragma once

#include "pyglue/aioloop_address.h"
#include "pyglue/aioloop_stream.h"

/* A new transport of `type`, a Connection, for a connected descriptor, which it owns from then on: calls
 * connection_made() soon. `peer`: NULL asks the kernel; `waiter`, `server`: or None. NULL with an exception; the descriptor
 * is the caller's then. */
PyObject *connection_new(PyTypeObject *type, struct aioloop *loop, int fd, const struct address *peer,
                         PyObject *protocol, PyObject *waiter, PyObject *server);
