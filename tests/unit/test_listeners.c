/* Binding: what is taken, what is refused and with which words, what is left behind. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/process/listeners.h"
#include "tests/unit/check.h"

static struct listeners listeners;
static struct buf errors;
static char folder[40] = "/tmp/licorne-listeners-XXXXXX";

static int open_one(const char *text)
{
    char *items[] = { (char *)text };
    struct str_list bind = { items, 1 };
    buf_reset(&errors, 0);
    return listeners_open(&listeners, &bind, 16, &errors);
}

static bool says(const char *text)
{
    struct str all = buf_str(&errors);
    return all.p && memmem(all.p, all.len, text, strlen(text)) && all.p[all.len - 1] == '\n';
}

static int port_of(int fd)
{
    struct sockaddr_in address;
    socklen_t len = sizeof(address);
    getsockname(fd, (struct sockaddr *)&address, &len);
    return ntohs(address.sin_port);
}

static const char *path_in_folder(const char *name)
{
    static char path[128];
    snprintf(path, sizeof(path), "unix:%s/%s", folder, name);
    return path;
}

static void port_zero_takes_a_free_one(void)
{
    CHECK_INT(open_one("127.0.0.1:0"), 0);
    CHECK_INT(listeners.count, 1);
    CHECK(port_of(listeners.fds[0]) > 0);
    CHECK(fcntl(listeners.fds[0], F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(listeners.fds[0], F_GETFD) & FD_CLOEXEC);
    listeners_close(&listeners);
    CHECK_INT(listeners.count, 0);
}

static void a_taken_port_is_named(void)
{
    char text[32];
    CHECK_INT(open_one("127.0.0.1:0"), 0);
    struct listeners first = listeners;
    listeners.count = 0;
    snprintf(text, sizeof(text), "127.0.0.1:%d", port_of(first.fds[0]));
    CHECK_INT(open_one(text), -1);
    CHECK(says(text));
    CHECK(says("Address already in use"));
    CHECK(says("--bind"));
    CHECK_INT(listeners.count, 0);
    listeners_close(&first);
    CHECK_INT(open_one(text), 0);
    listeners_close(&listeners);
}

static void a_failure_closes_what_was_opened(void)
{
    char *items[] = { "127.0.0.1:0", (char *)path_in_folder("s"), "203.0.113.7:1" };
    struct str_list bind = { items, 3 };
    buf_reset(&errors, 0);
    CHECK_INT(listeners_open(&listeners, &bind, 16, &errors), -1);
    CHECK(says("203.0.113.7:1"));
    CHECK_INT(listeners.count, 0);
    CHECK(access(path_in_folder("s") + strlen("unix:"), F_OK) != 0);
}

static void ipv6_any_takes_ipv4_too(void)
{
    if (open_one("[::]:0") != 0)
        return; /* no IPv6 here */
    struct sockaddr_in6 address;
    socklen_t len = sizeof(address);
    getsockname(listeners.fds[0], (struct sockaddr *)&address, &len);
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = address.sin6_port };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_INT(connect(client, (struct sockaddr *)&to, sizeof(to)), 0);
    close(client);
    listeners_close(&listeners);
}

static void names_and_empty_hosts_are_bound(void)
{
    CHECK_INT(open_one("localhost:0"), 0);
    CHECK(listeners.count >= 1);
    listeners_close(&listeners);
    CHECK_INT(open_one(":0"), 0);
    listeners_close(&listeners);
    CHECK_INT(open_one("no-such-host.invalid:0"), -1);
    CHECK(says("no-such-host.invalid"));
}

static void unix_sockets_are_open_to_all_and_removed_at_the_end(void)
{
    struct stat file;
    const char *text = path_in_folder("s"), *path = text + strlen("unix:");
    CHECK_INT(open_one(text), 0);
    CHECK_INT(stat(path, &file), 0);
    CHECK_INT(file.st_mode & 0777, 0666);
    listeners_close(&listeners);
    CHECK(stat(path, &file) != 0);
}

static void only_our_own_file_is_removed(void)
{
    const char *text = path_in_folder("s"), *path = text + strlen("unix:");
    CHECK_INT(open_one(text), 0);
    unlink(path); /* as a successor does that takes the path over */
    int successor = open(path, O_CREAT | O_WRONLY, 0600);
    listeners_close(&listeners);
    CHECK_INT(access(path, F_OK), 0);
    close(successor);
    CHECK_INT(open_one(text), -1);
    CHECK(says("not a socket"));
    unlink(path);
}

static void stale_sockets_are_replaced_and_living_ones_are_not(void)
{
    const char *text = path_in_folder("s"), *path = text + strlen("unix:");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", folder);
    int other = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_INT(bind(other, (struct sockaddr *)&address, sizeof(address)), 0);
    CHECK_INT(listen(other, 1), 0);
    CHECK_INT(open_one(text), -1);
    CHECK(says("another server listens there"));
    close(other);
    CHECK_INT(access(path, F_OK), 0);
    CHECK_INT(open_one(text), 0);
    listeners_close(&listeners);
}

static void abstract_names_work(void)
{
    char text[64];
    snprintf(text, sizeof(text), "unix:@licorne-test-%d", (int)getpid());
    CHECK_INT(open_one(text), 0);
    struct sockaddr_un address;
    socklen_t len = sizeof(address);
    getsockname(listeners.fds[0], (struct sockaddr *)&address, &len);
    CHECK_INT(address.sun_path[0], 0);
    CHECK_INT(len, offsetof(struct sockaddr_un, sun_path) + strlen(text) - strlen("unix:"));
    listeners_close(&listeners);
}

static void inherited_descriptors_must_listen(void)
{
    char text[32];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    snprintf(text, sizeof(text), "fd://%d", fd);
    CHECK_INT(open_one(text), -1);
    CHECK(says("not a listening"));
    listen(fd, 1);
    CHECK_INT(open_one(text), 0);
    CHECK_INT(listeners.fds[0], fd);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    listeners_close(&listeners);
    CHECK_INT(open_one("fd://999"), -1);
    CHECK(says("fd://999"));
}

static struct str_list list_of(char **items, size_t count)
{
    return (struct str_list){ items, count };
}

static void what_is_open_stays(void)
{
    char again[32], *one[] = { "127.0.0.1:0" }, *two[] = { "127.0.0.1:0", (char *)path_in_folder("s") };
    char *other[] = { again };
    struct str_list first = list_of(one, 1), both = list_of(two, 2), renamed = list_of(other, 1);
    int fds[LISTENERS_MAX];
    CHECK_INT(listeners_open(&listeners, &first, 16, &errors), 0);
    int kept = listeners.fds[0];
    CHECK_INT(listeners_open(&listeners, &both, 16, &errors), 0);
    CHECK_INT(listeners.count, 2);
    CHECK_INT(listeners.fds[0], kept);
    CHECK_INT(listeners_of(&listeners, &first, fds), 1);
    CHECK_INT(fds[0], kept);
    snprintf(again, sizeof(again), "127.0.0.1:%d", port_of(kept));
    CHECK_INT(listeners_open(&listeners, &renamed, 16, &errors), 0); /* the same address in other words */
    CHECK_INT(listeners_keep(&listeners, &renamed, 16), 2);
    CHECK_INT(listeners.count, 1);
    CHECK_INT(port_of(listeners.fds[0]), atoi(strchr(again, ':') + 1));
    CHECK(access(path_in_folder("s") + strlen("unix:"), F_OK) != 0);
    listeners_close(&listeners);
}

static void make_folder(void)
{
    CHECK(mkdtemp(folder) != NULL);
}

static void remove_folder(void)
{
    buf_done(&errors);
    CHECK_INT(rmdir(folder), 0);
}

CHECK_MAIN(TEST(make_folder), TEST(port_zero_takes_a_free_one), TEST(a_taken_port_is_named),
           TEST(a_failure_closes_what_was_opened), TEST(ipv6_any_takes_ipv4_too), TEST(names_and_empty_hosts_are_bound),
           TEST(unix_sockets_are_open_to_all_and_removed_at_the_end), TEST(only_our_own_file_is_removed),
           TEST(stale_sockets_are_replaced_and_living_ones_are_not), TEST(abstract_names_work),
           TEST(inherited_descriptors_must_listen), TEST(what_is_open_stays), TEST(remove_folder))
