/* The channel between master and children: borders, descriptors, credentials, and ends that are gone. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/process/channel.h"
#include "tests/unit/check.h"

static struct channel_message message; /* too large for a stack */

static void close_pair(int fds[2])
{
    close(fds[0]);
    close(fds[1]);
}

static void keeps_borders_and_order(void)
{
    int pair[2];
    CHECK_INT(channel_pair(pair), 0);
    CHECK_INT(channel_send(pair[1], CHANNEL_SETTINGS, "one", 3, NULL, 0), 0);
    CHECK_INT(channel_send(pair[1], CHANNEL_READY, NULL, 0, NULL, 0), 0);
    CHECK_INT(channel_receive(pair[0], &message), 1);
    CHECK_INT(message.type, CHANNEL_SETTINGS);
    CHECK_BYTES(message.data, message.len, "one");
    CHECK_INT(message.data[message.len], 0);
    CHECK_INT(channel_receive(pair[0], &message), 1);
    CHECK_INT(message.type, CHANNEL_READY);
    CHECK_INT(message.len, 0);
    CHECK_INT(channel_receive(pair[0], &message), 0);
    close_pair(pair);
}

static void carries_the_largest_message(void)
{
    int pair[2];
    char *large = malloc(CHANNEL_MAX_BYTES + 1);
    memset(large, 'x', CHANNEL_MAX_BYTES + 1);
    CHECK_INT(channel_pair(pair), 0);
    CHECK_INT(channel_send(pair[0], CHANNEL_SETTINGS, large, CHANNEL_MAX_BYTES, NULL, 0), 0);
    CHECK_INT(channel_receive(pair[1], &message), 1);
    CHECK_INT(message.len, CHANNEL_MAX_BYTES);
    CHECK(memcmp(message.data, large, CHANNEL_MAX_BYTES) == 0);
    CHECK_INT(channel_send(pair[0], CHANNEL_SETTINGS, large, CHANNEL_MAX_BYTES + 1, NULL, 0), -1);
    CHECK_INT(errno, EMSGSIZE);
    free(large);
    close_pair(pair);
}

/* From outside: more than any sender of ours would put into one. */
static void refuses_what_is_cut_off(void)
{
    int pair[2];
    char *large = calloc(1, CHANNEL_MAX_BYTES + 100);
    CHECK_INT(channel_pair(pair), 0);
    CHECK(send(pair[0], large, CHANNEL_MAX_BYTES + 100, 0) > 0);
    CHECK_INT(channel_receive(pair[1], &message), -1);
    CHECK_INT(errno, EPROTO);
    CHECK(send(pair[0], "ab", 2, 0) == 2);
    CHECK_INT(channel_receive(pair[1], &message), -1);
    CHECK_INT(errno, EPROTO);
    free(large);
    close_pair(pair);
}

static void carries_descriptors(void)
{
    int pair[2], fds[CHANNEL_MAX_FDS], ends[2];
    CHECK_INT(channel_pair(pair), 0);
    CHECK_INT(pipe(ends), 0);
    for (int i = 0; i < CHANNEL_MAX_FDS; i++)
        fds[i] = ends[1];
    CHECK_INT(channel_send(pair[0], CHANNEL_SPAWN, "s", 1, fds, CHANNEL_MAX_FDS), 0);
    CHECK_INT(channel_receive(pair[1], &message), 1);
    CHECK_INT(message.fd_count, CHANNEL_MAX_FDS);
    CHECK(fcntl(message.fds[CHANNEL_MAX_FDS - 1], F_GETFD) & FD_CLOEXEC);
    CHECK_INT(write(message.fds[CHANNEL_MAX_FDS - 1], "!", 1), 1);
    channel_close_fds(&message);
    CHECK_INT(message.fd_count, 0);
    char byte;
    CHECK_INT(read(ends[0], &byte, 1), 1);
    close_pair(ends);
    close_pair(pair);
}

static int lowest_free_fd(void)
{
    int fd = open("/dev/null", O_RDONLY);
    close(fd);
    return fd;
}

static void running_out_of_descriptors_is_an_error_and_leaks_none(void)
{
    int pair[2], fds[8];
    struct rlimit before, low;
    CHECK_INT(channel_pair(pair), 0);
    for (int i = 0; i < 8; i++)
        fds[i] = pair[0];
    CHECK_INT(channel_send(pair[0], CHANNEL_SPAWN, "s", 1, fds, 8), 0);
    int lowest = lowest_free_fd();
    getrlimit(RLIMIT_NOFILE, &before);
    low = before;
    low.rlim_cur = (rlim_t)lowest + 3;
    setrlimit(RLIMIT_NOFILE, &low);
    int got = channel_receive(pair[1], &message), error = errno;
    setrlimit(RLIMIT_NOFILE, &before);
    CHECK_INT(got, -1);
    CHECK_INT(error, EMFILE);
    CHECK_INT(lowest_free_fd(), lowest);
    close_pair(pair);
}

static void the_kernel_tells_the_sender(void)
{
    int pair[2], status;
    CHECK_INT(channel_pair(pair), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(channel_send(pair[1], CHANNEL_HELLO, "h", 1, NULL, 0) == 0 ? 0 : 1);
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(channel_receive(pair[0], &message), 1);
    CHECK_INT(message.sender, child);
    CHECK_INT(channel_send(pair[0], CHANNEL_STOP, "s", 1, NULL, 0), 0);
    CHECK_INT(channel_receive(pair[1], &message), 1);
    CHECK_INT(message.sender, 0); /* nobody asked for it on the child's side */
    close_pair(pair);
}

static void last_words_are_heard(void)
{
    int pair[2];
    CHECK_INT(channel_pair(pair), 0);
    CHECK_INT(channel_send(pair[0], CHANNEL_STOP, "unread", 6, NULL, 0), 0); /* makes the close below a reset */
    CHECK_INT(channel_send(pair[1], CHANNEL_FAILED, "last", 4, NULL, 0), 0);
    close(pair[1]);
    CHECK_INT(channel_receive(pair[0], &message), 1);
    CHECK_BYTES(message.data, message.len, "last");
    CHECK_INT(channel_receive(pair[0], &message), -1);
    CHECK_INT(errno, EPIPE);
    CHECK_INT(channel_send(pair[0], CHANNEL_STOP, NULL, 0, NULL, 0), -1);
    CHECK_INT(errno, EPIPE);
    close(pair[0]);
}

static void a_deaf_peer_does_not_block_the_sender(void)
{
    int pair[2], sent = 0;
    CHECK_INT(channel_pair(pair), 0);
    while (channel_send(pair[0], CHANNEL_REOPEN, "x", 1, NULL, 0) == 0)
        CHECK(++sent < 100000);
    CHECK_INT(errno, EAGAIN);
    CHECK(sent > 8); /* as many requests for a worker wait at once */
    close_pair(pair);
}

static void waits_as_long_as_said(void)
{
    int pair[2];
    CHECK_INT(channel_pair(pair), 0);
    CHECK_INT(channel_wait(pair[1], &message, 0), 0);
    CHECK_INT(channel_wait(pair[1], &message, 20), 0);
    pid_t child = fork();
    if (child == 0) {
        usleep(20000);
        _exit(channel_send(pair[0], CHANNEL_READY, NULL, 0, NULL, 0));
    }
    CHECK_INT(channel_wait(pair[1], &message, -1), 1);
    CHECK_INT(message.type, CHANNEL_READY);
    waitpid(child, NULL, 0);
    close(pair[0]);
    CHECK_INT(channel_wait(pair[1], &message, -1), -1);
    close(pair[1]);
}

CHECK_MAIN(TEST(keeps_borders_and_order), TEST(carries_the_largest_message), TEST(refuses_what_is_cut_off),
           TEST(carries_descriptors), TEST(running_out_of_descriptors_is_an_error_and_leaks_none),
           TEST(the_kernel_tells_the_sender), TEST(last_words_are_heard), TEST(a_deaf_peer_does_not_block_the_sender),
           TEST(waits_as_long_as_said))
