/* turnaway: see turnaway.h. */
#include "server/process/turnaway.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/mem.h"
#include "server/base/str.h"
#include "server/process/listeners.h"

#define LINGER_MS 2000
#define LINGER_BYTES (64 * 1024)
#define PAUSE_MS 200 /* after an accept that failed for want of something: the listener stays readable meanwhile */

static const struct str answer = { "HTTP/1.1 503 Service Unavailable\r\n"
                                   "Retry-After: 5\r\n"
                                   "Content-Length: 0\r\n"
                                   "Connection: close\r\n"
                                   "\r\n",
                                   sizeof("HTTP/1.1 503 Service Unavailable\r\n"
                                          "Retry-After: 5\r\n"
                                          "Content-Length: 0\r\n"
                                          "Connection: close\r\n"
                                          "\r\n") -
                                       1 };

struct client {
    int fd; /* -1: a free place */
    uint64_t due_ms;
    size_t dropped_bytes;
};

struct turnaway {
    struct client clients[TURNAWAY_CLIENTS];
    uint64_t paused_until_ms; /* nobody is taken before; 0: not paused */
};

struct turnaway *turnaway_new(void)
{
    struct turnaway *turnaway = mem_zalloc(sizeof(*turnaway));
    for (int i = 0; i < TURNAWAY_CLIENTS; i++)
        turnaway->clients[i].fd = -1;
    return turnaway;
}

static void client_close(struct client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
}

void turnaway_free(struct turnaway *turnaway)
{
    for (int i = 0; turnaway && i < TURNAWAY_CLIENTS; i++)
        client_close(&turnaway->clients[i]);
    free(turnaway);
}

static struct client *free_place(const struct turnaway *turnaway)
{
    for (int i = 0; i < TURNAWAY_CLIENTS; i++)
        if (turnaway->clients[i].fd < 0)
            return (struct client *)&turnaway->clients[i];
    return NULL;
}

/* A fresh connection has room for so few bytes. */
static void client_answer(struct client *client, int fd, uint64_t now_ms)
{
    *client = (struct client){ .fd = fd, .due_ms = now_ms + LINGER_MS };
    if (send(fd, answer.p, answer.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        client_close(client);
    else
        shutdown(fd, SHUT_WR);
}

static void client_drop_input(struct client *client)
{
    static char bytes[8192];
    ssize_t got;
    while ((got = recv(client->fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {
        client->dropped_bytes += (size_t)got;
        if (client->dropped_bytes > LINGER_BYTES)
            break;
    }
    if (got >= 0 || errno != EAGAIN)
        client_close(client);
}

/* Descriptors, memory: tried again a little later, rather than at once and for ever. */
static bool is_lack(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

static void take_new(struct turnaway *turnaway, int listener, uint64_t now_ms)
{
    struct client *client;
    while ((client = free_place(turnaway)) != NULL) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && is_lack(errno))
            turnaway->paused_until_ms = now_ms + PAUSE_MS;
        if (fd < 0)
            return;
        client_answer(client, fd, now_ms);
    }
}

/* --- the master's turn: the clients' entries come first, then the listeners' ------------------------------------ */

size_t turnaway_polled_max(const struct listeners *listeners)
{
    return TURNAWAY_CLIENTS + (size_t)listeners->count;
}

size_t turnaway_poll(const struct turnaway *turnaway, const struct listeners *listeners, int active,
                     struct pollfd *polled)
{
    size_t count = 0;
    for (int i = 0; i < TURNAWAY_CLIENTS; i++) /* those that are there: poll() refuses more than open_files */
        if (turnaway->clients[i].fd >= 0)
            polled[count++] = (struct pollfd){ .fd = turnaway->clients[i].fd, .events = POLLIN };
    bool takes = active && turnaway->paused_until_ms == 0 && free_place(turnaway);
    for (int i = 0; takes && i < listeners->count; i++)
        polled[count++] = (struct pollfd){ .fd = listeners->fds[i], .events = POLLIN };
    return count;
}

void turnaway_turn(struct turnaway *turnaway, const struct pollfd *polled, size_t count, uint64_t now_ms)
{
    const struct pollfd *end = polled + count;
    for (int i = 0; i < TURNAWAY_CLIENTS; i++)
        if (turnaway->clients[i].fd >= 0 && (polled++)->revents)
            client_drop_input(&turnaway->clients[i]);
    for (; polled < end; polled++)
        if (polled->revents)
            take_new(turnaway, polled->fd, now_ms);
}

uint64_t turnaway_check(struct turnaway *turnaway, uint64_t now_ms)
{
    if (now_ms >= turnaway->paused_until_ms)
        turnaway->paused_until_ms = 0;
    uint64_t next = turnaway->paused_until_ms;
    for (int i = 0; i < TURNAWAY_CLIENTS; i++) {
        struct client *client = &turnaway->clients[i];
        if (client->fd >= 0 && now_ms >= client->due_ms)
            client_close(client);
        if (client->fd >= 0 && (next == 0 || client->due_ms < next))
            next = client->due_ms;
    }
    return next;
}
