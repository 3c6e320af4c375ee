/* aioloop_address: see aioloop_address.h. What is not the plain case (names, '<broadcast>', wrong types) is left to the
 * `socket` module, which has the errors too. */
#include "pyglue/aioloop_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

static PyObject *path_to_python(const struct sockaddr_un *name, size_t length)
{
    if (length > 0 && name->sun_path[0] == '\0')
        return PyBytes_FromStringAndSize(name->sun_path, (Py_ssize_t)length);
    return PyUnicode_DecodeFSDefaultAndSize(name->sun_path, (Py_ssize_t)strnlen(name->sun_path, length));
}

PyObject *address_to_python(const struct address *address)
{
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&address->storage;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&address->storage;
    if (address->length >= sizeof(*v4) && v4->sin_family == AF_INET) {
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        return Py_BuildValue("(si)", host, ntohs(v4->sin_port));
    }
    if (address->length >= sizeof(*v6) && v6->sin6_family == AF_INET6) {
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        return Py_BuildValue("(siII)", host, ntohs(v6->sin6_port), ntohl(v6->sin6_flowinfo), v6->sin6_scope_id);
    }
    if (address->length >= offsetof(struct sockaddr_un, sun_path) && address->storage.ss_family == AF_UNIX)
        return path_to_python((const struct sockaddr_un *)&address->storage,
                              address->length - offsetof(struct sockaddr_un, sun_path));
    Py_RETURN_NONE;
}

/* Item `i` as a number up to `max`; 0 if there is no such item, -1 if it is something else. No exception. */
static long item_number(PyObject *tuple, Py_ssize_t i, long max)
{
    if (i >= PyTuple_GET_SIZE(tuple))
        return 0;
    PyObject *item = PyTuple_GET_ITEM(tuple, i); // borrowed
    int overflow = 0;
    long number = PyLong_CheckExact(item) ? PyLong_AsLongAndOverflow(item, &overflow) : -1;
    return number >= 0 && number <= max ? number : -1;
}

static bool v4_from_python(PyObject *tuple, const char *host, struct address *address)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&address->storage;
    long port = item_number(tuple, 1, 65535);
    *v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    address->length = sizeof(*v4);
    return port >= 0 && PyTuple_GET_SIZE(tuple) == 2 && inet_pton(AF_INET, host, &v4->sin_addr) == 1;
}

static bool v6_from_python(PyObject *tuple, const char *host, struct address *address)
{
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address->storage;
    long port = item_number(tuple, 1, 65535), flow = item_number(tuple, 2, 0xfffff);
    long scope = item_number(tuple, 3, UINT32_MAX);
    *v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port),
                                 .sin6_flowinfo = htonl((uint32_t)flow), .sin6_scope_id = (uint32_t)scope };
    address->length = sizeof(*v6);
    return port >= 0 && flow >= 0 && scope >= 0 && PyTuple_GET_SIZE(tuple) <= 4 &&
           inet_pton(AF_INET6, host, &v6->sin6_addr) == 1;
}

bool address_from_python(PyObject *tuple, int family, struct address *address)
{
    if (!PyTuple_CheckExact(tuple) || PyTuple_GET_SIZE(tuple) < 2 || !PyUnicode_CheckExact(PyTuple_GET_ITEM(tuple, 0)))
        return false;
    const char *host = PyUnicode_AsUTF8(PyTuple_GET_ITEM(tuple, 0));
    if (host == NULL) {
        PyErr_Clear(); /* lone surrogates */
        return false;
    }
    return family == AF_INET ? v4_from_python(tuple, host, address) :
           family == AF_INET6 ? v6_from_python(tuple, host, address) : false;
}
