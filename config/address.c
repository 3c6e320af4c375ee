/* address: see address.h. Nothing is resolved here: a host name is looked up by whoever binds. */
#include "config/address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "server/base/mem.h"
#include "server/base/str.h"

enum { DEFAULT_PORT = 8000, PORT_MAX = 65535, FD_MAX = 1048576 };

static bool refuse(const char **reason, const char *text)
{
    *reason = text;
    return false;
}

static bool skip_prefix(const char **text, const char *prefix)
{
    size_t len = strlen(prefix);
    if (strncmp(*text, prefix, len) != 0)
        return false;
    *text += len;
    return true;
}

/* Decimal digits alone, at most `max`; -1: something else. */
static int number_of(const char *text, int max)
{
    long number = 0;
    if (!*text)
        return -1;
    for (; isdigit((unsigned char)*text); text++)
        if ((number = number * 10 + *text - '0') > max)
            return -1;
    return *text ? -1 : (int)number;
}

static bool parse_unix(const char *path, struct address *address, const char **reason)
{
    address->kind = ADDRESS_UNIX;
    if (!*path || strcmp(path, "@") == 0)
        return refuse(reason, "the path of the socket is missing: unix:/run/app.sock");
    if (strlen(path) >= sizeof(address->path))
        return refuse(reason, "the path of a unix socket has at most 107 bytes");
    memcpy(address->path, path, strlen(path) + 1);
    return true;
}

static bool parse_fd(const char *number, struct address *address, const char **reason)
{
    address->kind = ADDRESS_FD;
    address->fd = number_of(number, FD_MAX);
    return address->fd >= 0 || refuse(reason, "the number of a descriptor is missing: fd://3");
}

static bool parse_port(const char *text, struct address *address, const char **reason)
{
    address->port = number_of(text, PORT_MAX);
    return address->port >= 0 || refuse(reason, "the port must be a number from 0 to 65535");
}

static bool copy_host(const char *host, size_t len, struct address *address, const char **reason)
{
    if (len >= sizeof(address->host))
        return refuse(reason, "the host name is too long");
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)host[i] <= ' ' || host[i] == 0x7f || strchr("/[],@\"'", host[i]))
            return refuse(reason, "must be HOST:PORT, [IPV6]:PORT, unix:PATH or fd://N");
    memcpy(address->host, host, len);
    address->host[len] = 0;
    return true;
}

/* The text between brackets, a %scope aside. */
static bool is_ipv6(const char *host)
{
    char plain[INET6_ADDRSTRLEN];
    struct in6_addr binary;
    size_t len = strcspn(host, "%");
    if (len >= sizeof(plain))
        return false;
    memcpy(plain, host, len);
    plain[len] = 0;
    return inet_pton(AF_INET6, plain, &binary) == 1;
}

static bool parse_bracketed(const char *text, struct address *address, const char **reason)
{
    size_t len = strcspn(text, "]");
    const char *rest = text + len + 1;
    if (text[len] != ']' || !copy_host(text, len, address, reason) || !is_ipv6(address->host))
        return refuse(reason, "an IPv6 address is needed between the brackets: [::1]:8000");
    if (!*rest)
        return true;
    return *rest == ':' ? parse_port(rest + 1, address, reason)
                        : refuse(reason, "after the bracket only :PORT may follow: [::1]:8000");
}

static bool parse_host(const char *text, struct address *address, const char **reason)
{
    const char *colon = strchr(text, ':');
    if (colon && strchr(colon + 1, ':'))
        return refuse(reason, "an IPv6 address needs brackets: [::1]:8000");
    if (colon)
        return copy_host(text, (size_t)(colon - text), address, reason) && parse_port(colon + 1, address, reason);
    if (number_of(text, PORT_MAX) >= 0)
        return refuse(reason,
                      "a port alone does not say where: 127.0.0.1:PORT for this machine, :PORT for every interface");
    return copy_host(text, strlen(text), address, reason);
}

static bool parse_tcp(const char *text, struct address *address, const char **reason)
{
    address->kind = ADDRESS_TCP;
    address->port = DEFAULT_PORT;
    if (!*text)
        return refuse(reason, "the address is empty: 127.0.0.1:8000 for this machine, :8000 for every interface");
    return *text == '[' ? parse_bracketed(text + 1, address, reason) : parse_host(text, address, reason);
}

bool address_parse(const char *text, struct address *address, const char **reason)
{
    *address = (struct address){ .fd = -1 };
    *reason = NULL;
    if (skip_prefix(&text, "unix://") || skip_prefix(&text, "unix:"))
        return parse_unix(text, address, reason);
    if (skip_prefix(&text, "fd://"))
        return parse_fd(text, address, reason);
    if (strncmp(text, "http://", 7) == 0 || strncmp(text, "https://", 8) == 0)
        return refuse(reason, "must be an address, not a URL: HOST:PORT");
    skip_prefix(&text, "tcp://");
    return parse_tcp(text, address, reason);
}

/* --- The name of a socket */

static char *name_unix(const struct sockaddr_un *un, socklen_t len)
{
    size_t path_len = len - offsetof(struct sockaddr_un, sun_path);
    if (len <= offsetof(struct sockaddr_un, sun_path))
        return mem_strdup("unix:");
    if (un->sun_path[0] == 0)
        return mem_printf("unix:@%.*s", (int)path_len - 1, un->sun_path + 1);
    return mem_printf("unix:%.*s", (int)strnlen(un->sun_path, path_len), un->sun_path);
}

static char *name_tcp(const struct sockaddr *sockaddr, socklen_t len)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    bool v6 = sockaddr->sa_family == AF_INET6;
    if (getnameinfo(sockaddr, len, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return mem_strdup("http://?");
    return mem_printf(v6 ? "http://[%s]:%s" : "http://%s:%s", host, port);
}

char *address_name(int listening_fd)
{
    struct sockaddr_storage storage = { 0 };
    socklen_t len = sizeof(storage);
    struct sockaddr *sockaddr = (struct sockaddr *)&storage;
    if (getsockname(listening_fd, sockaddr, &len) == 0) {
        if (sockaddr->sa_family == AF_UNIX)
            return name_unix((struct sockaddr_un *)&storage, len);
        if (sockaddr->sa_family == AF_INET || sockaddr->sa_family == AF_INET6)
            return name_tcp(sockaddr, len);
    }
    return mem_printf("fd://%d", listening_fd);
}
