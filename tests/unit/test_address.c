/* The forms of bind, and the names of bound sockets. */
#include <arpa/inet.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "config/address.h"

static struct address address;
static const char *reason;

static bool is_tcp(const char *text, const char *host, int port)
{
    return address_parse(text, &address, &reason) && address.kind == ADDRESS_TCP && strcmp(address.host, host) == 0 &&
           address.port == port;
}

static bool is_unix(const char *text, const char *path)
{
    return address_parse(text, &address, &reason) && address.kind == ADDRESS_UNIX && strcmp(address.path, path) == 0;
}

static void test_tcp(void)
{
    CHECK(is_tcp("127.0.0.1:80", "127.0.0.1", 80));
    CHECK(is_tcp("127.0.0.1", "127.0.0.1", 8000));
    CHECK(is_tcp("localhost:0", "localhost", 0));
    CHECK(is_tcp(":8080", "", 8080));
    CHECK(is_tcp("*:65535", "*", 65535));
    CHECK(is_tcp("[::]:9", "::", 9));
    CHECK(is_tcp("[::1]", "::1", 8000));
    CHECK(is_tcp("[fe80::1%eth0]:80", "fe80::1%eth0", 80));
    CHECK(is_tcp("tcp://0.0.0.0:81", "0.0.0.0", 81));
    CHECK(is_tcp("tcp://[::1]:82", "::1", 82));
}

static void test_unix(void)
{
    CHECK(is_unix("unix:/run/app.sock", "/run/app.sock"));
    CHECK(is_unix("unix:app.sock", "app.sock"));
    CHECK(is_unix("unix:///run/a b,c:1", "/run/a b,c:1"));
    CHECK(is_unix("unix:@licorne", "@licorne"));
}

static void test_fd(void)
{
    CHECK(address_parse("fd://3", &address, &reason));
    CHECK_INT(address.kind, ADDRESS_FD);
    CHECK_INT(address.fd, 3);
}

static void test_refused(void)
{
    static const char *const cases[] = { "",
                                         ":",
                                         "host:",
                                         "host:x",
                                         ":65536",
                                         ":-1",
                                         ":99999999999999999999",
                                         "a:1:2",
                                         "::1",
                                         "::1:8000",
                                         "[::1",
                                         "[]:1",
                                         "[::1]8000",
                                         "[::1]:",
                                         "[host]:1",
                                         "unix:",
                                         "unix://",
                                         "unix:@",
                                         "fd://",
                                         "fd://x",
                                         "fd://-1",
                                         "fd://99999999999",
                                         "http://a",
                                         "https://a:1",
                                         "a/b:1",
                                         "a b:1",
                                         "tcp://",
                                         "8000",
                                         "a@b:1",
                                         ":80 ",
                                         ":0x50",
                                         "h\n:1" };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        bool taken = address_parse(cases[i], &address, &reason);
        if (taken || !reason || !reason[0])
            fprintf(stderr, "'%s'\n", cases[i]);
        CHECK(!taken && reason && reason[0]);
    }
}

static void test_lengths(void)
{
    char text[400] = "unix:";
    memset(text + 5, 'a', 107);
    CHECK(address_parse(text, &address, &reason));
    text[5 + 107] = 'a';
    CHECK(!address_parse(text, &address, &reason));
    memset(text, 'a', sizeof(text) - 1);
    text[255] = 0;
    CHECK(address_parse(text, &address, &reason));
    text[255] = 'a';
    text[256] = 0;
    CHECK(!address_parse(text, &address, &reason));
}

static bool named(int domain, const void *sockaddr, socklen_t len, const char *expected)
{
    int fd = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool bound = fd >= 0 && bind(fd, sockaddr, len) == 0;
    char *name = bound ? address_name(fd) : NULL;
    bool good = name && strncmp(name, expected, strlen(expected)) == 0;
    if (!good)
        fprintf(stderr, "'%s' is not '%s'\n", name ? name : "(unbound)", expected);
    free(name);
    close(fd);
    return good;
}

static void test_names_tcp(void)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
    CHECK(named(AF_INET, &in, sizeof(in), "http://127.0.0.1:"));
    int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool has_v6 = probe >= 0 && bind(probe, (struct sockaddr *)&in6, sizeof(in6)) == 0;
    close(probe);
    if (has_v6)
        CHECK(named(AF_INET6, &in6, sizeof(in6), "http://[::1]:"));
}

static void test_names_unix(void)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    char directory[] = "/tmp/licorne-test-XXXXXX", expected[128];
    CHECK(mkdtemp(directory));
    snprintf(un.sun_path, sizeof(un.sun_path), "%s/s", directory);
    snprintf(expected, sizeof(expected), "unix:%s/s", directory);
    bool good = named(AF_UNIX, &un, sizeof(un), expected);
    unlink(un.sun_path);
    rmdir(directory);
    CHECK(good);
    int len = snprintf(un.sun_path + 1, sizeof(un.sun_path) - 1, "licorne-test-%d", (int)getpid());
    un.sun_path[0] = 0;
    snprintf(expected, sizeof(expected), "unix:@licorne-test-%d", (int)getpid());
    CHECK(named(AF_UNIX, &un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len), expected));
}

static void test_name_of_something_else(void)
{
    int fds[2];
    CHECK(pipe(fds) == 0);
    char *name = address_name(fds[0]);
    CHECK(strncmp(name, "fd://", 5) == 0);
    free(name);
    close(fds[0]);
    close(fds[1]);
}

CHECK_MAIN(TEST(test_tcp), TEST(test_unix), TEST(test_fd), TEST(test_refused), TEST(test_lengths), TEST(test_names_tcp),
           TEST(test_names_unix), TEST(test_name_of_something_else))
