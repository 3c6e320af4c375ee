/* What leaves for the statsd daemon: the form of lines, how they share datagrams, and which addresses can be. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/log.h"
#include "server/base/statsd.h"
#include "tests/unit/check.h"

static char got[65536];

static bool same(const char *a, const char *b)
{
    if (strcmp(a, b) != 0)
        fprintf(stderr, "\"%s\" instead of \"%s\"\n", a, b);
    return strcmp(a, b) == 0;
}

static int receiver(char *address, size_t size)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(here);
    if (bind(fd, (struct sockaddr *)&here, len) != 0 || getsockname(fd, (struct sockaddr *)&here, &len) != 0)
        abort();
    snprintf(address, size, "127.0.0.1:%d", ntohs(here.sin_port));
    return fd;
}

/* The next datagram; "" if none is there. */
static const char *datagram(int fd)
{
    ssize_t len = recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT);
    got[len > 0 ? len : 0] = '\0';
    return got;
}

static int opened(const char *prefix, const char *tags)
{
    char address[64];
    const char *reason = NULL;
    int fd = receiver(address, sizeof(address));
    if (!statsd_open(address, prefix, tags, &reason) || !statsd_is_open())
        abort();
    return fd;
}

static void closed(int fd)
{
    const char *reason;
    CHECK(statsd_open(NULL, "", "", &reason) && !statsd_is_open());
    statsd_count("nobody.hears", 1);
    statsd_flush();
    CHECK(same(datagram(fd), ""));
    close(fd);
}

static void lines_share_a_datagram(void)
{
    int fd = opened("", "");
    statsd_count("requests", 7);
    statsd_time("duration", 1.5);
    statsd_gauge("workers", 2);
    statsd_put("shop", "-3", "c");
    CHECK(same(datagram(fd), "")); /* not before it is full, or wanted */
    statsd_flush();
    CHECK(same(datagram(fd), "requests:7|c\nduration:1.500|ms\nworkers:2|g\nshop:-3|c"));
    closed(fd);
}

static void prefix_and_tags_stand_around_each(void)
{
    static const char *const prefixes[] = { "a.b", "a.b.", "a.b..." };
    for (size_t i = 0; i < 3; i++) {
        int fd = opened(prefixes[i], "env:test,zone:b");
        statsd_count("requests", 1);
        statsd_flush();
        CHECK(same(datagram(fd), "a.b.requests:1|c|#env:test,zone:b"));
        closed(fd);
    }
}

static void no_datagram_is_too_long(void)
{
    int fd = opened("", ""), lines = 0, datagrams = 0;
    for (int i = 0; i < 500; i++)
        statsd_time("gunicorn.request.duration", i);
    statsd_flush();
    while (*datagram(fd)) {
        CHECK(strlen(got) <= STATSD_DATAGRAM);
        datagrams++;
        lines++;
        for (const char *p = got; *p; p++)
            lines += *p == '\n';
    }
    CHECK_INT(lines, 500);
    CHECK(datagrams >= 500 * 30 / STATSD_DATAGRAM && datagrams < 20);
    closed(fd);
}

static void a_line_that_is_too_long_is_none(void)
{
    char name[2000];
    int fd = opened("", "");
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    statsd_count("before", 1);
    statsd_count(name, 1);
    statsd_count("behind", 1);
    statsd_flush();
    CHECK(same(datagram(fd), "before:1|c\nbehind:1|c"));
    closed(fd);
}

static void lines_of_the_log_are_counted(void)
{
    int fd = opened("", "");
    log_open("/dev/null", LOG_LEVEL_INFO);
    statsd_count_log();
    log_info("nothing");
    log_warning("hm");
    log_error("oh");
    log_block(-1, LOG_LEVEL_ERROR, STR("oh\nTraceback (most recent call last):\n  x"));
    log_critical("no");
    CHECK(same(datagram(fd), "gunicorn.log.warning:1|c"));
    CHECK(same(datagram(fd), "gunicorn.log.error:1|c"));
    CHECK(same(datagram(fd), "gunicorn.log.exception:1|c"));
    CHECK(same(datagram(fd), "gunicorn.log.critical:1|c"));
    closed(fd);
    statsd_count_log();
}

static void addresses(void)
{
    static const char *const good[] = { "localhost", "localhost:8125", "127.0.0.1:1", "[::1]:8125", "::1", "unix:///run/s" };
    static const char *const bad[] = { "", ":8125", "a:", "a:b", "a:65536", "unix://", "[]:1" };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        CHECK(statsd_can_be(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK(!statsd_can_be(bad[i]));
}

CHECK_MAIN(TEST(lines_share_a_datagram), TEST(prefix_and_tags_stand_around_each), TEST(no_datagram_is_too_long),
          TEST(a_line_that_is_too_long_is_none), TEST(lines_of_the_log_are_counted), TEST(addresses))
