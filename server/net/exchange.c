/* exchange: see exchange.h. A message is a head, the unread bytes, and the connection as SCM_RIGHTS. */
#include "server/net/exchange.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define QUEUE_BYTES (1024 * 1024) /* asked for; the kernel gives what net.core.wmem_max allows */

struct head {
    uint32_t version, unread_bytes;
    uint64_t since_ms;
    struct sockaddr_in6 peer, proxied;
    uint8_t fresh, awaits_proxy, speaks_uwsgi;
};

union control {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int))];
};

int exchange_pair(int pair[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        return -1;
    setsockopt(pair[EXCHANGE_OUT], SOL_SOCKET, SO_SNDBUF, &(int){ QUEUE_BYTES }, sizeof(int));
    return 0;
}

void exchange_shut(int in)
{
    shutdown(in, SHUT_RD);
}

/* --- sending ------------------------------------------------------------------------------------------------------ */

static void put_descriptor(struct msghdr *message, union control *control, int fd)
{
    memset(control, 0, sizeof(*control));
    message->msg_control = control;
    message->msg_controllen = sizeof(control->space);
    struct cmsghdr *rights = CMSG_FIRSTHDR(message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &fd, sizeof(int));
}

/* ETOOMANYREFS: as many descriptors as this user may have open are under way. */
static bool is_passing(int error)
{
    return error == EAGAIN || error == ENOBUFS || error == ENOMEM || error == ETOOMANYREFS;
}

enum exchange_result exchange_send(int out, const struct parcel *parcel)
{
    struct head head = { .version = EXCHANGE_VERSION,
                         .unread_bytes = (uint32_t)parcel->unread.len,
                         .since_ms = parcel->since_ms,
                         .peer = parcel->peer,
                         .proxied = parcel->proxied,
                         .fresh = parcel->fresh,
                         .awaits_proxy = parcel->awaits_proxy,
                         .speaks_uwsgi = parcel->speaks_uwsgi };
    struct iovec parts[2] = { { &head, sizeof(head) }, { (void *)parcel->unread.p, parcel->unread.len } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = parcel->unread.len > 0 ? 2 : 1 };
    union control control;
    ssize_t sent;
    if (parcel->unread.len > EXCHANGE_BYTES)
        return EXCHANGE_SHUT;
    put_descriptor(&message, &control, parcel->fd);
    do
        sent = sendmsg(out, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return EXCHANGE_SENT;
    return is_passing(errno) ? EXCHANGE_FULL : EXCHANGE_SHUT;
}

/* --- receiving ---------------------------------------------------------------------------------------------------- */

static int take_descriptor(struct msghdr *message)
{
    int fd = -1;
    struct cmsghdr *rights = CMSG_FIRSTHDR(message);
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(rights), sizeof(fd));
    return fd;
}

static bool is_whole(const struct head *head, size_t got)
{
    return got >= sizeof(*head) && head->version == EXCHANGE_VERSION && got == sizeof(*head) + head->unread_bytes;
}

int exchange_receive(int in, char *room, struct parcel *parcel)
{
    struct head head;
    union control control;
    struct iovec parts[2] = { { &head, sizeof(head) }, { room, EXCHANGE_BYTES } };
    struct msghdr message = {
        .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = sizeof(control.space)
    };
    ssize_t got;
    do
        got = recvmsg(in, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    while (got < 0 && (errno == EINTR || errno == ECONNRESET));
    if (got <= 0)
        return got < 0 && errno == EAGAIN ? 0 : -1;
    int fd = take_descriptor(&message);
    if (fd < 0)
        return 0;
    if (!is_whole(&head, (size_t)got)) {
        shutdown(fd, SHUT_RDWR);
        close(fd);
        return 0;
    }
    *parcel = (struct parcel){ .fd = fd,
                               .peer = head.peer,
                               .since_ms = head.since_ms,
                               .proxied = head.proxied,
                               .fresh = head.fresh,
                               .awaits_proxy = head.awaits_proxy,
                               .speaks_uwsgi = head.speaks_uwsgi,
                               .unread = { room, head.unread_bytes } };
    return 1;
}
