/* The exchange: what goes in comes out, connection, address and bytes; what happens when it is full, shut or abused. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/net/exchange.h"
#include "tests/unit/check.h"

static char room[EXCHANGE_BYTES];

static void close_pair(int pair[2])
{
    close(pair[0]);
    close(pair[1]);
}

/* A connection; ends[1] is the client's. */
static void connection(int ends[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0)
        abort();
}

static void carries_a_connection(void)
{
    int pair[2], ends[2];
    char byte;
    struct parcel out = { .since_ms = 12345, .fresh = true, .unread = STR("GET / HT") }, in;
    CHECK_INT(exchange_pair(pair), 0);
    connection(ends);
    out.fd = ends[0];
    out.peer.sin6_family = AF_INET6;
    out.peer.sin6_port = 4711;
    out.peer.sin6_addr.s6_addr[15] = 1;
    out.proxied = out.peer;
    out.proxied.sin6_port = 443;
    out.speaks_uwsgi = true;
    CHECK_INT(exchange_send(pair[EXCHANGE_OUT], &out), EXCHANGE_SENT);
    close(ends[0]);
    CHECK_INT(exchange_receive(pair[EXCHANGE_IN], room, &in), 1);
    CHECK_INT(in.since_ms, 12345);
    CHECK(in.fresh && in.speaks_uwsgi && !in.awaits_proxy);
    CHECK(memcmp(&in.proxied, &out.proxied, sizeof(in.proxied)) == 0);
    CHECK_BYTES(in.unread.p, in.unread.len, "GET / HT");
    CHECK(memcmp(&in.peer, &out.peer, sizeof(in.peer)) == 0);
    CHECK(fcntl(in.fd, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(in.fd, F_GETFL) & O_NONBLOCK);
    CHECK_INT(write(in.fd, "x", 1), 1);
    CHECK_INT(read(ends[1], &byte, 1), 1);
    CHECK_INT(exchange_receive(pair[EXCHANGE_IN], room, &in), 0);
    close(in.fd);
    close(ends[1]);
    close_pair(pair);
}

static void carries_as_many_bytes_as_promised_and_no_more(void)
{
    int pair[2], ends[2];
    char *bytes = malloc(EXCHANGE_BYTES + 1);
    struct parcel parcel = { .unread = { bytes, EXCHANGE_BYTES } }, in;
    memset(bytes, 'b', EXCHANGE_BYTES + 1);
    exchange_pair(pair);
    connection(ends);
    parcel.fd = ends[0];
    CHECK_INT(exchange_send(pair[EXCHANGE_OUT], &parcel), EXCHANGE_SENT);
    CHECK_INT(exchange_receive(pair[EXCHANGE_IN], room, &in), 1);
    CHECK_INT(in.unread.len, EXCHANGE_BYTES);
    CHECK(memcmp(in.unread.p, bytes, EXCHANGE_BYTES) == 0);
    close(in.fd);
    parcel.unread.len++;
    CHECK_INT(exchange_send(pair[EXCHANGE_OUT], &parcel), EXCHANGE_SHUT);
    close_pair(ends);
    close_pair(pair);
    free(bytes);
}

static void says_when_it_is_full(void)
{
    int pair[2], ends[2], sent = 0;
    struct parcel parcel = { 0 }, in;
    exchange_pair(pair);
    connection(ends);
    parcel.fd = ends[0];
    while (sent < 100000 && exchange_send(pair[EXCHANGE_OUT], &parcel) == EXCHANGE_SENT)
        sent++;
    CHECK(sent > 50 && sent < 100000);
    CHECK_INT(exchange_send(pair[EXCHANGE_OUT], &parcel), EXCHANGE_FULL);
    for (; sent > 0 && exchange_receive(pair[EXCHANGE_IN], room, &in) == 1; sent--)
        close(in.fd);
    CHECK_INT(sent, 0);
    CHECK_INT(exchange_send(pair[EXCHANGE_OUT], &parcel), EXCHANGE_SENT);
    close_pair(ends);
    close_pair(pair);
}

static void shut_takes_nothing_and_gives_what_it_has(void)
{
    int pair[2], ends[2];
    struct parcel parcel = { 0 }, in;
    exchange_pair(pair);
    connection(ends);
    parcel.fd = ends[0];
    CHECK_INT(exchange_send(pair[EXCHANGE_OUT], &parcel), EXCHANGE_SENT);
    exchange_shut(pair[EXCHANGE_IN]);
    CHECK_INT(exchange_send(pair[EXCHANGE_OUT], &parcel), EXCHANGE_SHUT);
    CHECK_INT(exchange_receive(pair[EXCHANGE_IN], room, &in), 1);
    close(in.fd);
    CHECK_INT(exchange_receive(pair[EXCHANGE_IN], room, &in), -1);
    close_pair(ends);
    close_pair(pair);
}

/* Who holds it last loses what is in it, and the client sees that. */
static void what_nobody_takes_is_closed(void)
{
    int pair[2], ends[2];
    char byte;
    struct parcel parcel = { 0 };
    exchange_pair(pair);
    connection(ends);
    parcel.fd = ends[0];
    exchange_send(pair[EXCHANGE_OUT], &parcel);
    close(ends[0]);
    CHECK_INT(read(ends[1], &byte, 1), -1);
    close_pair(pair);
    CHECK_INT(read(ends[1], &byte, 1), 0);
    close(ends[1]);
}

/* Of another version of the package: the client is not left hanging. */
static void closes_what_it_does_not_understand(void)
{
    int pair[2], ends[2];
    char byte, head[200] = { 99 };
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { .space = { 0 } };
    struct iovec part = { head, sizeof(head) };
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control.space)
    };
    struct parcel in;
    exchange_pair(pair);
    connection(ends);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &ends[0], sizeof(int));
    CHECK_INT(sendmsg(pair[EXCHANGE_OUT], &message, 0), sizeof(head));
    CHECK_INT(exchange_receive(pair[EXCHANGE_IN], room, &in), 0);
    CHECK_INT(read(ends[1], &byte, 1), 0);             /* although ends[0] is open */
    CHECK_INT(send(pair[EXCHANGE_OUT], "x", 1, 0), 1); /* without a connection */
    CHECK_INT(exchange_receive(pair[EXCHANGE_IN], room, &in), 0);
    close_pair(ends);
    close_pair(pair);
}

CHECK_MAIN(TEST(carries_a_connection), TEST(carries_as_many_bytes_as_promised_and_no_more), TEST(says_when_it_is_full),
           TEST(shut_takes_nothing_and_gives_what_it_has), TEST(what_nobody_takes_is_closed),
           TEST(closes_what_it_does_not_understand))
