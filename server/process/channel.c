/* channel: see channel.h. On the wire a message is its type (uint32_t, both ends are one machine) and the payload, as
 * one datagram: SEQPACKET keeps the borders, so there is no parser and nothing to resynchronise. */
#include "server/process/channel.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "server/base/clock.h"

union control {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(int) * CHANNEL_MAX_FDS) + CMSG_SPACE(sizeof(struct ucred))];
};

int channel_pair(int fds[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0)
        return -1;
    int on = 1;
    if (setsockopt(fds[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0)
        return 0;
    int error = errno;
    close(fds[0]);
    close(fds[1]);
    errno = error;
    return -1;
}

static void put_fds(struct msghdr *header, union control *control, const int *fds, int fd_count)
{
    size_t bytes = sizeof(int) * (size_t)fd_count;
    header->msg_control = control;
    header->msg_controllen = CMSG_SPACE(bytes);
    struct cmsghdr *rights = CMSG_FIRSTHDR(header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(bytes);
    memcpy(CMSG_DATA(rights), fds, bytes);
}

int channel_send(int fd, enum channel_type type, const void *data, size_t len, const int *fds, int fd_count)
{
    if (len > CHANNEL_MAX_BYTES || fd_count > CHANNEL_MAX_FDS) {
        errno = EMSGSIZE;
        return -1;
    }
    uint32_t tag = type;
    struct iovec parts[2] = { { &tag, sizeof(tag) }, { (void *)data, len } };
    struct msghdr header = { .msg_iov = parts, .msg_iovlen = len > 0 ? 2 : 1 };
    union control control;
    memset(&control, 0, sizeof(control));
    if (fd_count > 0)
        put_fds(&header, &control, fds, fd_count);
    ssize_t sent;
    do
        sent = sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -1 : 0;
}

static void take_control(struct msghdr *header, struct channel_message *message)
{
    for (struct cmsghdr *part = CMSG_FIRSTHDR(header); part; part = CMSG_NXTHDR(header, part)) {
        if (part->cmsg_level != SOL_SOCKET)
            continue;
        if (part->cmsg_type == SCM_CREDENTIALS) {
            struct ucred who;
            memcpy(&who, CMSG_DATA(part), sizeof(who));
            message->sender = who.pid;
        } else if (part->cmsg_type == SCM_RIGHTS) {
            size_t bytes = part->cmsg_len - CMSG_LEN(0);
            memcpy(message->fds, CMSG_DATA(part), bytes);
            message->fd_count = (int)(bytes / sizeof(int));
        }
    }
}

void channel_close_fds(struct channel_message *message)
{
    for (int i = 0; i < message->fd_count; i++)
        close(message->fds[i]);
    message->fd_count = 0;
}

/* ECONNRESET says that the peer closed without reading all of ours. It is told once, ahead of what the peer sent
 * before, which is still there (a FAILED, perhaps): so ask again. */
static ssize_t receive(int fd, struct msghdr *header)
{
    for (;;) {
        ssize_t got = recvmsg(fd, header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (got >= 0 || (errno != EINTR && errno != ECONNRESET))
            return got;
    }
}

int channel_receive(int fd, struct channel_message *message)
{
    uint32_t tag = 0;
    struct iovec parts[2] = { { &tag, sizeof(tag) }, { message->data, CHANNEL_MAX_BYTES } };
    union control control;
    struct msghdr header = {
        .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = sizeof(control)
    };
    ssize_t got = receive(fd, &header);
    if (got < 0)
        return errno == EAGAIN ? 0 : -1;
    if (got == 0) {
        errno = EPIPE;
        return -1;
    }
    message->sender = 0;
    message->fd_count = 0;
    take_control(&header, message);
    if ((header.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) || (size_t)got < sizeof(tag)) {
        channel_close_fds(message);
        errno = header.msg_flags & MSG_CTRUNC ? EMFILE : EPROTO;
        return -1;
    }
    message->type = tag;
    message->len = (size_t)got - sizeof(tag);
    message->data[message->len] = '\0';
    return 1;
}

int channel_wait(int fd, struct channel_message *message, int timeout_ms)
{
    uint64_t due = clock_ms() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0);
    for (;;) {
        int got = channel_receive(fd, message);
        if (got != 0)
            return got;
        uint64_t now = clock_ms();
        if (timeout_ms >= 0 && now >= due)
            return 0;
        struct pollfd wait = { .fd = fd, .events = POLLIN };
        if (poll(&wait, 1, timeout_ms < 0 ? -1 : (int)(due - now)) < 0 && errno != EINTR)
            return -1;
    }
}
