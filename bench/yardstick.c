/* yardstick: the least that any server must do for a request: one read, one write, level-triggered epoll. It answers every
 * so many bytes with the same bytes, and parses nothing: a measure, not a server.
 *
 *     yardstick PORT REQUEST_BYTES RESPONSE_FILE [close] [sendfile] [pieces N] [workers N]
 *
 * close: it closes after an answer. sendfile: it answers from the file, not from memory. pieces: with so many writes.
 * workers: so many processes, one of which wakes up for a connection. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BURST_BYTES 65536 /* of small answers, for requests that come together */

struct conn {
    int fd;
    bool writable_wanted;
    uint64_t asked; /* bytes of a request that is not there in full */
    uint64_t owed;  /* bytes of answers */
    size_t at;      /* where in the answer they begin */
};

static int epoll_fd, file, workers = 1;
static bool closes, by_sendfile;
static uint64_t request_bytes;
static size_t response_bytes, burst_bytes, piece_bytes;
static char *burst; /* the answer, as many times as fit */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(struct conn *c, int operation, bool writable)
{
    struct epoll_event event = { .events = EPOLLIN | (writable ? EPOLLOUT : 0U), .data.ptr = c };
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) < 0)
        die("epoll_ctl");
    c->writable_wanted = writable;
}

static int listen_on(int port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 2048) < 0)
        die("bind");
    return fd;
}

static void read_response(const char *name)
{
    struct stat info;
    file = open(name, O_RDONLY);
    if (file < 0 || fstat(file, &info) < 0 || info.st_size == 0)
        die(name);
    response_bytes = (size_t)info.st_size;
    size_t times = response_bytes < BURST_BYTES ? BURST_BYTES / response_bytes : 1;
    burst_bytes = times * response_bytes;
    burst = malloc(burst_bytes);
    for (size_t i = 0; i < times; i++) {
        if (pread(file, burst + i * response_bytes, response_bytes, 0) != (ssize_t)response_bytes)
            die(name);
    }
}

static void done(struct conn *c)
{
    close(c->fd);
    free(c);
}

static ssize_t write_some(struct conn *c)
{
    size_t limit = burst_bytes - c->at, size = c->owed < limit ? (size_t)c->owed : limit;
    if (by_sendfile) {
        off_t from = (off_t)c->at;
        size = c->owed < response_bytes - c->at ? (size_t)c->owed : response_bytes - c->at;
        return sendfile(c->fd, file, &from, size);
    }
    return write(c->fd, burst + c->at, piece_bytes && size > piece_bytes ? piece_bytes : size);
}

/* False: the connection is gone. */
static bool answer(struct conn *c)
{
    while (c->owed > 0) {
        ssize_t n = write_some(c);
        if (n < 0 && errno == EAGAIN) {
            if (!c->writable_wanted)
                watch(c, EPOLL_CTL_MOD, true);
            return true;
        }
        if (n <= 0)
            break;
        c->owed -= (uint64_t)n;
        c->at = (c->at + (size_t)n) % response_bytes;
    }
    if (c->owed > 0 || closes) {
        done(c);
        return false;
    }
    if (c->writable_wanted)
        watch(c, EPOLL_CTL_MOD, false);
    return true;
}

static void on_readable(struct conn *c)
{
    static char bytes[262144];
    ssize_t n = read(c->fd, bytes, sizeof(bytes));
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        done(c);
        return;
    }
    c->asked += (uint64_t)n;
    c->owed += c->asked / request_bytes * response_bytes;
    c->asked %= request_bytes;
    if (c->owed > 0 && !c->writable_wanted)
        answer(c);
}

static void read_options(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr,
                "usage: yardstick PORT REQUEST_BYTES RESPONSE_FILE [close] [sendfile] [pieces N] [workers N]\n");
        exit(2);
    }
    unsigned long long pieces = 0;
    request_bytes = strtoull(argv[2], NULL, 10);
    read_response(argv[3]);
    if (request_bytes == 0)
        die(argv[2]);
    for (int i = 4; i < argc; i++) {
        closes |= strcmp(argv[i], "close") == 0;
        by_sendfile |= strcmp(argv[i], "sendfile") == 0;
        if (strcmp(argv[i], "pieces") == 0 && i + 1 < argc)
            pieces = strtoull(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "workers") == 0 && i + 1 < argc)
            workers = atoi(argv[i + 1]);
    }
    if (pieces > 0)
        piece_bytes = response_bytes / pieces + 1;
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    struct conn listener = { .fd = listen_on(atoi(argv[1])) };
    for (int i = 1; i < workers && fork() != 0; i++)
        ;
    epoll_fd = epoll_create1(0);
    struct epoll_event acceptable = { .events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = &listener };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener.fd, &acceptable) < 0)
        die("epoll_ctl");
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_wait(epoll_fd, events, 64, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (c == &listener) {
                int fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0)
                    continue;
                c = calloc(1, sizeof(*c));
                c->fd = fd;
                watch(c, EPOLL_CTL_ADD, false);
            } else if (!(events[i].events & EPOLLOUT) || answer(c)) {
                if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                    on_readable(c);
            }
        }
    }
}
