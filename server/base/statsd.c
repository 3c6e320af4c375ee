/* statsd: see statsd.h. */
#include "server/base/statsd.h"

#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/base/log.h"

#define DEFAULT_PORT "8125"
#define PREFIX_BYTES 200
#define TAGS_BYTES 600
#define UNIX_SCHEME "unix://"

static struct {
    pthread_mutex_t lock;
    int fd; /* -1: closed */
    struct sockaddr_storage peer;
    socklen_t peer_len;
    char prefix[PREFIX_BYTES], tags[TAGS_BYTES]; /* "shop.", "|#env:test" */
    char lines[STATSD_DATAGRAM];
    size_t len;
} state = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1 };

/* --- where to ------------------------------------------------------------------------------------------------------ */

/* HOST:PORT, [HOST]:PORT or HOST into its parts; false: too long, or empty. */
static bool split_address(const char *address, char *host, size_t size, const char **port)
{
    const char *colon = strrchr(address, ':'), *bracket = strrchr(address, ']');
    bool has_port = colon && (!bracket || colon > bracket) && (bracket || strchr(address, ':') == colon);
    size_t len = has_port ? (size_t)(colon - address) : strlen(address);
    if (len > 1 && address[0] == '[' && address[len - 1] == ']') {
        address++;
        len -= 2;
    }
    *port = has_port ? colon + 1 : DEFAULT_PORT;
    if (len == 0 || len >= size || !**port || strspn(*port, "0123456789") != strlen(*port) || atoi(*port) > 65535)
        return false;
    memcpy(host, address, len);
    host[len] = '\0';
    return true;
}

static const char *unix_path(const char *address)
{
    bool is_unix = strncmp(address, UNIX_SCHEME, strlen(UNIX_SCHEME)) == 0;
    return is_unix ? address + strlen(UNIX_SCHEME) : NULL;
}

bool statsd_can_be(const char *address)
{
    char host[256];
    const char *port, *path = unix_path(address);
    return path ? *path && strlen(path) < sizeof(((struct sockaddr_un *)0)->sun_path)
                : split_address(address, host, sizeof(host), &port);
}

static void find_unix(const char *path)
{
    struct sockaddr_un *peer = (struct sockaddr_un *)&state.peer;
    peer->sun_family = AF_UNIX;
    snprintf(peer->sun_path, sizeof(peer->sun_path), "%s", path);
    state.peer_len = sizeof(*peer);
}

static const char *find_host(const char *address)
{
    struct addrinfo hints = { .ai_socktype = SOCK_DGRAM }, *found = NULL;
    char host[256];
    const char *port;
    split_address(address, host, sizeof(host), &port);
    int error = getaddrinfo(host, port, &hints, &found);
    if (error != 0)
        return gai_strerror(error);
    memcpy(&state.peer, found->ai_addr, found->ai_addrlen);
    state.peer_len = found->ai_addrlen;
    freeaddrinfo(found);
    return NULL;
}

/* One dot between prefix and name, whatever the prefix ends in. */
static void keep_names(const char *prefix, const char *tags)
{
    size_t len = prefix ? strlen(prefix) : 0;
    while (len > 0 && prefix[len - 1] == '.')
        len--;
    len = len < PREFIX_BYTES - 2 ? len : PREFIX_BYTES - 2;
    snprintf(state.prefix, sizeof(state.prefix), "%.*s%s", (int)len, prefix ? prefix : "", len > 0 ? "." : "");
    state.tags[0] = '\0';
    if (tags && *tags)
        snprintf(state.tags, sizeof(state.tags), "|#%s", tags);
}

static void close_socket(void)
{
    if (state.fd >= 0)
        close(state.fd);
    state.fd = -1;
    state.len = 0;
    memset(&state.peer, 0, sizeof(state.peer));
}

static bool open_socket(const char *address, const char **reason)
{
    const char *path = unix_path(address);
    *reason = "it must be HOST:PORT or unix://PATH";
    if (!statsd_can_be(address))
        return false;
    *reason = NULL;
    if (path)
        find_unix(path);
    else
        *reason = find_host(address);
    if (*reason)
        return false;
    state.fd = socket(state.peer.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    *reason = state.fd < 0 ? "there is no socket for it" : NULL;
    return state.fd >= 0;
}

bool statsd_open(const char *address, const char *prefix, const char *tags, const char **reason)
{
    bool good = true;
    pthread_mutex_lock(&state.lock);
    close_socket();
    keep_names(prefix, tags);
    if (address && *address)
        good = open_socket(address, reason);
    pthread_mutex_unlock(&state.lock);
    return good;
}

bool statsd_is_open(void)
{
    return state.fd >= 0;
}

/* --- collecting and sending ------------------------------------------------------------------------------------------- */

static void send_lines(const char *lines, size_t len)
{
    if (state.fd >= 0 && len > 0)
        (void)sendto(state.fd, lines, len, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&state.peer, state.peer_len);
}

static void flush(void)
{
    send_lines(state.lines, state.len);
    state.len = 0;
}

static size_t format(char *line, size_t size, const char *name, const char *value, const char *kind)
{
    int len = snprintf(line, size, "%s%s:%s|%s%s", state.prefix, name, value, kind, state.tags);
    return len > 0 && (size_t)len < size ? (size_t)len : 0; /* one that is too long is none */
}

static void collect(const char *line, size_t len)
{
    if (len == 0)
        return;
    if (state.len + 1 + len > sizeof(state.lines))
        flush();
    if (state.len > 0)
        state.lines[state.len++] = '\n';
    memcpy(state.lines + state.len, line, len);
    state.len += len;
}

void statsd_put(const char *name, const char *value, const char *kind)
{
    char line[STATSD_DATAGRAM];
    if (state.fd < 0)
        return;
    pthread_mutex_lock(&state.lock);
    collect(line, format(line, sizeof(line), name, value, kind));
    pthread_mutex_unlock(&state.lock);
}

void statsd_flush(void)
{
    pthread_mutex_lock(&state.lock);
    flush();
    pthread_mutex_unlock(&state.lock);
}

static void put_number(const char *name, int64_t number, const char *kind)
{
    char text[24];
    snprintf(text, sizeof(text), "%lld", (long long)number);
    statsd_put(name, text, kind);
}

void statsd_count(const char *name, uint64_t count)
{
    put_number(name, (int64_t)count, "c");
}

void statsd_gauge(const char *name, int64_t value)
{
    put_number(name, value, "g");
}

void statsd_histogram(const char *name, int64_t value)
{
    put_number(name, value, "ms");
}

void statsd_time(const char *name, double milliseconds)
{
    char text[32];
    snprintf(text, sizeof(text), "%.3f", milliseconds);
    statsd_put(name, text, "ms");
}

/* --- lines of the log -------------------------------------------------------------------------------------------------- */

/* A traceback makes of an error what gunicorn calls an exception. NULL: not counted. */
static const char *metric_of(enum log_level level, const char *message)
{
    switch (level) {
    case LOG_LEVEL_CRITICAL:
        return "gunicorn.log.critical";
    case LOG_LEVEL_ERROR:
        return strstr(message, "\nTraceback (") ? "gunicorn.log.exception" : "gunicorn.log.error";
    case LOG_LEVEL_WARNING:
        return "gunicorn.log.warning";
    default:
        return NULL;
    }
}

static void count_line(enum log_level level, const char *message)
{
    char line[STATSD_DATAGRAM];
    const char *name = metric_of(level, message);
    if (!name)
        return;
    pthread_mutex_lock(&state.lock);
    send_lines(line, format(line, sizeof(line), name, "1", "c"));
    pthread_mutex_unlock(&state.lock);
}

void statsd_count_log(void)
{
    log_set_counter(statsd_is_open() ? count_line : NULL);
}
