/* aioloop_address: socket addresses as Python's `socket` has them. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <sys/socket.h>

struct address {
    struct sockaddr_storage storage;
    socklen_t length;
};

/* (host, port), (host, port, flowinfo, scope_id), or a unix socket's path (bytes if it is abstract); None for any other
 * family, or if there is none. New reference. */
PyObject *address_to_python(const struct address *address);

/* IPv4 and IPv6. False if it is not a tuple with a numeric host of that family: whoever knows more is to be asked. No exception. */
bool address_from_python(PyObject *tuple, int family, struct address *address);
