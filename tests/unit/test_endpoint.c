/* Endpoints: internet addresses of both kinds, unix sockets with and without a name. */
#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/un.h>

#include "server/http/http_server.h"

static void internet_addresses(void)
{
    struct endpoint e;
    struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(8000) };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(443) };
    inet_pton(AF_INET, "192.0.2.1", &v4.sin_addr);
    inet_pton(AF_INET6, "2001:db8::1", &v6.sin6_addr);
    endpoint_init(&e, (struct sockaddr *)&v4, sizeof(v4));
    CHECK_BYTES(e.host.p, e.host.len, "192.0.2.1");
    CHECK_INT(e.port, 8000);
    CHECK(!e.is_unix);
    endpoint_done(&e);
    endpoint_init(&e, (struct sockaddr *)&v6, sizeof(v6));
    CHECK_BYTES(e.host.p, e.host.len, "2001:db8::1");
    CHECK_INT(e.port, 443);
    endpoint_done(&e);
}

static void check_path(const char *path, size_t path_len, const char *expected)
{
    struct endpoint e;
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    memcpy(un.sun_path, path, path_len);
    endpoint_init(&e, (struct sockaddr *)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_len));
    CHECK_BYTES(e.host.p, e.host.len, expected);
    CHECK_INT(e.port, -1);
    CHECK(e.is_unix);
    endpoint_done(&e);
}

static void unix_sockets(void)
{
    char full[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];
    memset(full, 'x', sizeof(full));
    full[sizeof(full) - 1] = 0;
    check_path("/run/a.sock", 12, "/run/a.sock");
    check_path("", 0, "");
    check_path("\0name", 5, "@name");
    check_path(full, sizeof(full) - 1, full); /* no room for a NUL */
}

CHECK_MAIN(TEST(internet_addresses), TEST(unix_sockets))
