/* endpoint: one end of a connection as text and number (request.h, http_server.h). */
#include "server/http/endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/un.h>

#include "server/base/mem.h"
#include "server/http/http_server.h"

/* The path of a unix socket ends at a NUL or at `len`, whichever comes first; an abstract one begins with a NUL. */
static char *unix_path(const struct sockaddr_un *address, socklen_t len)
{
    size_t before = offsetof(struct sockaddr_un, sun_path);
    char *path = mem_strndup(address->sun_path, len > before ? len - before : 0);
    if (len > before && path[0] == 0)
        path[0] = '@';
    return path;
}

struct endpoint endpoint_format(const struct sockaddr *address, char *text, size_t size)
{
    struct endpoint endpoint = { .host = STR(""), .port = -1, .is_unix = address->sa_family == AF_UNIX };
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    bool is_v4 = address->sa_family == AF_INET;
    if (!is_v4 && address->sa_family != AF_INET6)
        return endpoint;
    const void *bytes = is_v4 ? (const void *)&v4->sin_addr : (const void *)&v6->sin6_addr;
    if (inet_ntop(address->sa_family, bytes, text, (socklen_t)size) != NULL)
        endpoint.host = str_from(text);
    endpoint.port = ntohs(is_v4 ? v4->sin_port : v6->sin6_port);
    return endpoint;
}

void endpoint_init(struct endpoint *endpoint, const struct sockaddr *address, socklen_t len)
{
    char text[INET6_ADDRSTRLEN] = "";
    *endpoint = endpoint_format(address, text, sizeof(text));
    endpoint->host =
        str_from(endpoint->is_unix ? unix_path((const struct sockaddr_un *)address, len) : mem_strdup(text));
}

void endpoint_done(struct endpoint *endpoint)
{
    free((char *)endpoint->host.p);
    *endpoint = (struct endpoint){ .port = -1 };
}
