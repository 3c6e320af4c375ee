/* listeners: see listeners.h. */
#include "server/process/listeners.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/address.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/net/exchange.h"

static const char *advice(int error)
{
    switch (error) {
    case EADDRINUSE:
        return ". Stop the program that has it (`ss -ltnp` shows which), or choose another address with --bind";
    case EACCES:
        return ". Ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another with --bind";
    case EADDRNOTAVAIL:
        return ". No interface of this machine has that address; choose another with --bind";
    default:
        return "";
    }
}

static int refuse(struct buf *errors, const char *text, int error)
{
    buf_printf(errors, "Cannot listen on %s: %s%s\n", text, strerror(error), advice(error));
    return -1;
}

static int refuse_because(struct buf *errors, const char *text, const char *reason)
{
    buf_printf(errors, "Cannot listen on %s: %s\n", text, reason);
    return -1;
}

static void close_keeping_errno(int fd)
{
    int error = errno;
    close(fd);
    errno = error;
}

static int add_with_exchange(struct listeners *listeners, int fd, const char *text, const int exchange[2])
{
    memcpy(listeners->exchanges[listeners->count], exchange, sizeof(listeners->exchanges[0]));
    listeners->paths[listeners->count].path = NULL;
    listeners->texts[listeners->count] = mem_strdup(text);
    listeners->fds[listeners->count] = fd;
    return listeners->count++;
}

/* Takes the descriptor over. Its index, or -1 with errno. */
static int add(struct listeners *listeners, int fd, const char *text)
{
    int exchange[2];
    if (exchange_pair(exchange) == 0)
        return add_with_exchange(listeners, fd, text, exchange);
    close_keeping_errno(fd);
    return -1;
}

/* A bound, listening socket, or -1 with errno. */
static int listening_socket(const struct sockaddr *address, socklen_t len, int backlog, bool reuse_port)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (address->sa_family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
    if (address->sa_family != AF_UNIX && reuse_port)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){ 1 }, sizeof(int));
    if (address->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 0 }, sizeof(int));
    if (bind(fd, address, len) == 0 && listen(fd, backlog) == 0)
        return fd;
    close_keeping_errno(fd);
    return -1;
}

/* --- TCP ------------------------------------------------------------------------------------------------------ */

static struct addrinfo *resolve(const struct address *address, const char *text, struct buf *errors)
{
    bool anywhere = address->host[0] == '\0' || strcmp(address->host, "*") == 0;
    char port[16];
    snprintf(port, sizeof(port), "%d", address->port);
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV }, *found = NULL;
    int error = getaddrinfo(anywhere ? "0.0.0.0" : address->host, port, &hints, &found);
    if (error == 0)
        return found;
    refuse_because(errors, text, error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
    return NULL;
}

/* A name may stand for addresses of a family that this machine has switched off: one that works is enough. */
static bool is_absent(int error)
{
    return error == EADDRNOTAVAIL || error == EAFNOSUPPORT;
}

/* A reload may write an address in another way than before: then it is ours already. A copy of the open socket, or -1
 * with errno as it was. */
static int copy_of_open(const struct listeners *listeners, const struct addrinfo *wanted)
{
    int error = errno;
    for (int i = 0; i < listeners->count; i++) {
        struct sockaddr_storage bound = { 0 };
        socklen_t len = sizeof(bound);
        if (getsockname(listeners->fds[i], (struct sockaddr *)&bound, &len) == 0 && len == wanted->ai_addrlen &&
            memcmp(&bound, wanted->ai_addr, len) == 0)
            return fcntl(listeners->fds[i], F_DUPFD_CLOEXEC, 0);
    }
    errno = error;
    return -1;
}

/* Binds the results of one family. Returns 0, or -1 with errno when one failed otherwise than by is_absent(). */
static int open_family(struct listeners *listeners, const struct addrinfo *found, int family, int backlog,
                       const char *text, int *absent)
{
    for (const struct addrinfo *it = found; it && listeners->count < LISTENERS_MAX; it = it->ai_next) {
        if (it->ai_family != family)
            continue;
        int fd = copy_of_open(listeners, it);
        if (fd < 0)
            fd = listening_socket(it->ai_addr, it->ai_addrlen, backlog, listeners->reuse_port);
        if (fd >= 0 && add(listeners, fd, text) >= 0)
            continue;
        if (is_absent(errno))
            *absent = errno;
        else
            return -1;
    }
    return 0;
}

/* IPv4 first. Port 0 is bound on one address only: each would get another port. */
static int open_tcp(struct listeners *listeners, const struct address *address, const char *text, int backlog,
                    struct buf *errors)
{
    struct addrinfo *found = resolve(address, text, errors);
    if (!found)
        return -1;
    int before = listeners->count, absent = 0;
    int outcome = open_family(listeners, found, AF_INET, backlog, text, &absent);
    if (outcome == 0 && (listeners->count == before || address->port != 0))
        outcome = open_family(listeners, found, AF_INET6, backlog, text, &absent);
    int error = outcome != 0 ? errno : absent;
    freeaddrinfo(found);
    if (outcome == 0 && listeners->count > before)
        return 0;
    return refuse(errors, text, error);
}

/* --- unix sockets ---------------------------------------------------------------------------------------------- */

static socklen_t unix_address(const char *path, struct sockaddr_un *to)
{
    memset(to, 0, sizeof(*to));
    to->sun_family = AF_UNIX;
    size_t len = strnlen(path, sizeof(to->sun_path) - 1);
    memcpy(to->sun_path, path, len);
    if (path[0] != '@')
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    to->sun_path[0] = '\0'; /* the abstract namespace: no file, the length counts */
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
}

static bool somebody_listens(const struct sockaddr_un *address, socklen_t len)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true;
    bool refused = connect(fd, (const struct sockaddr *)address, len) != 0 && errno == ECONNREFUSED;
    close(fd);
    return !refused;
}

/* What lies at the path already: removed if it is a socket that nobody listens on. */
static int clear_path(const char *path, const struct sockaddr_un *address, socklen_t len, const char *text,
                      struct buf *errors)
{
    struct stat file;
    if (lstat(path, &file) != 0)
        return errno == ENOENT ? 0 : refuse(errors, text, errno);
    if (!S_ISSOCK(file.st_mode))
        return refuse_because(errors, text, "there is a file of that name that is not a socket");
    if (somebody_listens(address, len))
        return refuse_because(errors, text,
                              "another server listens there. Stop it, or choose another path with --bind");
    return unlink(path) == 0 ? 0 : refuse(errors, text, errno);
}

static void remember_path(struct listeners_path *to, const char *path)
{
    struct stat file;
    if (lstat(path, &file) != 0)
        return;
    char *absolute = realpath(path, NULL); /* the working directory may change before the unlink */
    *to = (struct listeners_path){ absolute ? absolute : mem_strdup(path), file.st_dev, file.st_ino };
}

static int open_unix(struct listeners *listeners, const struct address *address, const char *text, int backlog,
                     struct buf *errors)
{
    struct sockaddr_un where;
    socklen_t len = unix_address(address->path, &where);
    bool has_file = address->path[0] != '@';
    if (has_file && clear_path(address->path, &where, len, text, errors) != 0)
        return -1;
    mode_t mask = umask(0111 | listeners->umask);
    int fd = listening_socket((struct sockaddr *)&where, len, backlog, false);
    umask(mask);
    if (fd < 0)
        return refuse(errors, text, errno);
    if (has_file && listeners->owned && lchown(address->path, listeners->owner, listeners->group) != 0)
        log_warning("Cannot give %s to user %u: %s", text, (unsigned)listeners->owner, strerror(errno));
    int index = add(listeners, fd, text);
    if (index < 0)
        return refuse(errors, text, errno);
    if (has_file)
        remember_path(&listeners->paths[index], address->path);
    return 0;
}

/* --- inherited descriptors -------------------------------------------------------------------------------------- */

static int open_fd(struct listeners *listeners, const struct address *address, const char *text, struct buf *errors)
{
    int listens = 0, type = 0;
    socklen_t len = sizeof(int);
    if (getsockopt(address->fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0)
        return refuse(errors, text, errno);
    if (!listens || getsockopt(address->fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM)
        return refuse_because(errors, text, "it is not a listening stream socket");
    fcntl(address->fd, F_SETFD, FD_CLOEXEC);
    fcntl(address->fd, F_SETFL, fcntl(address->fd, F_GETFL) | O_NONBLOCK);
    return add(listeners, address->fd, text) < 0 ? refuse(errors, text, errno) : 0;
}

/* --- entry points ----------------------------------------------------------------------------------------------- */

static int open_one(struct listeners *listeners, const char *text, int backlog, struct buf *errors)
{
    struct address address;
    const char *reason;
    if (!address_parse(text, &address, &reason))
        return refuse_because(errors, text, reason);
    if (listeners->count == LISTENERS_MAX)
        return refuse_because(errors, text, "too many addresses");
    switch (address.kind) {
    case ADDRESS_TCP:
        return open_tcp(listeners, &address, text, backlog, errors);
    case ADDRESS_UNIX:
        return open_unix(listeners, &address, text, backlog, errors);
    case ADDRESS_FD:
        return open_fd(listeners, &address, text, errors);
    }
    return -1;
}

static bool is_open(const struct listeners *listeners, const char *text)
{
    for (int i = 0; i < listeners->count; i++)
        if (strcmp(listeners->texts[i], text) == 0)
            return true;
    return false;
}

static bool is_named(const struct str_list *bind, const char *text)
{
    for (size_t i = 0; i < bind->count; i++)
        if (strcmp(bind->items[i], text) == 0)
            return true;
    return false;
}

static void unlink_if_ours(const struct listeners_path *path)
{
    struct stat file;
    if (path->path && lstat(path->path, &file) == 0 && file.st_dev == path->device && file.st_ino == path->inode)
        unlink(path->path);
}

static void close_at(struct listeners *listeners, int index)
{
    if (!listeners->shared) {
        unlink_if_ours(&listeners->paths[index]);
        exchange_shut(listeners->exchanges[index][EXCHANGE_IN]);
    }
    free(listeners->paths[index].path);
    free(listeners->texts[index]);
    close(listeners->fds[index]);
    close(listeners->exchanges[index][EXCHANGE_OUT]);
    close(listeners->exchanges[index][EXCHANGE_IN]);
}

static void close_from(struct listeners *listeners, int index)
{
    while (listeners->count > index)
        close_at(listeners, --listeners->count);
}

static void log_closing(int fd)
{
    char *name = address_name(fd);
    log_info("Not listening any more at: %s", name ? name : "?");
    free(name);
}

int listeners_open(struct listeners *listeners, const struct str_list *bind, int backlog, struct buf *errors)
{
    int before = listeners->count;
    for (size_t i = 0; i < bind->count; i++)
        if (!is_open(listeners, bind->items[i]) && open_one(listeners, bind->items[i], backlog, errors) != 0) {
            close_from(listeners, before);
            return -1;
        }
    return 0;
}

int listeners_of(const struct listeners *listeners, const struct str_list *bind, int fds[LISTENERS_MAX])
{
    int count = 0;
    for (int i = 0; i < listeners->count; i++)
        if (is_named(bind, listeners->texts[i]))
            fds[count++] = listeners->fds[i];
    return count;
}

int listeners_exchanges_of(const struct listeners *listeners, const struct str_list *bind, int fds[LISTENERS_MAX * 2])
{
    int count = 0;
    for (int i = 0; i < listeners->count; i++) {
        if (!is_named(bind, listeners->texts[i]))
            continue;
        fds[count++] = listeners->exchanges[i][EXCHANGE_OUT];
        fds[count++] = listeners->exchanges[i][EXCHANGE_IN];
    }
    return count;
}

int listeners_keep(struct listeners *listeners, const struct str_list *bind, int backlog)
{
    int kept = 0, before = listeners->count;
    for (int i = 0; i < before; i++) {
        if (!is_named(bind, listeners->texts[i])) {
            log_closing(listeners->fds[i]);
            close_at(listeners, i);
            continue;
        }
        listen(listeners->fds[i], backlog);
        listeners->fds[kept] = listeners->fds[i];
        listeners->texts[kept] = listeners->texts[i];
        memcpy(listeners->exchanges[kept], listeners->exchanges[i], sizeof(listeners->exchanges[i]));
        listeners->paths[kept++] = listeners->paths[i];
    }
    listeners->count = kept;
    return before - kept;
}

/* The filter of a listening TCP socket sees segments from the TCP header on. */
static const struct sock_filter no_syns[] = {
    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),          /* the flags */
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),       /* SYN, ACK */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1), /* SYN alone: */
    BPF_STMT(BPF_RET | BPF_K, 0),                    /* dropped */
    BPF_STMT(BPF_RET | BPF_K, 0xffffffff),           /* all else passes */
};

static bool is_tcp(int fd)
{
    int domain = AF_UNIX;
    socklen_t len = sizeof(domain);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && (domain == AF_INET || domain == AF_INET6);
}

void listeners_turn_syns_away(const struct listeners *listeners)
{
    struct sock_fprog program = { sizeof(no_syns) / sizeof(no_syns[0]), (struct sock_filter *)no_syns };
    for (int i = 0; i < listeners->count && !listeners->shared; i++)
        if (strncmp(listeners->texts[i], "fd://", 5) != 0 && is_tcp(listeners->fds[i]))
            setsockopt(listeners->fds[i], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

void listeners_shut_exchanges(const struct listeners *listeners)
{
    for (int i = 0; i < listeners->count && !listeners->shared; i++)
        exchange_shut(listeners->exchanges[i][EXCHANGE_IN]);
}

void listeners_close(struct listeners *listeners)
{
    close_from(listeners, 0);
}

/* --- passing them on ---------------------------------------------------------------------------------------------- */

void listeners_describe(const struct listeners *listeners, struct buf *text)
{
    for (int i = 0; i < listeners->count; i++) {
        const struct listeners_path *path = &listeners->paths[i];
        buf_printf(text, "%llu\t%llu\t%s\t%s\n", (unsigned long long)path->device, (unsigned long long)path->inode,
                   path->path ? path->path : "", listeners->texts[i]);
    }
}

int listeners_descriptors(const struct listeners *listeners, int fds[LISTENERS_MAX * 3])
{
    int count = listeners->count;
    memcpy(fds, listeners->fds, sizeof(*fds) * (size_t)count);
    memcpy(fds + count, listeners->exchanges, sizeof(listeners->exchanges[0]) * (size_t)count);
    return 3 * count;
}

static bool adopt_line(struct listeners *listeners, char *line, int fd, const int exchange[2])
{
    const char *device = strsep(&line, "\t"), *inode = strsep(&line, "\t"), *path = strsep(&line, "\t");
    if (!line || !*line || listeners->count == LISTENERS_MAX)
        return false;
    int index = add_with_exchange(listeners, fd, line, exchange);
    if (*path)
        listeners->paths[index] = (struct listeners_path){ mem_strdup(path), (dev_t)strtoull(device, NULL, 10),
                                                           (ino_t)strtoull(inode, NULL, 10) };
    return true;
}

bool listeners_adopt(struct listeners *listeners, struct str text, const int *fds, int count)
{
    char *copy = mem_strndup(text.p, text.len), *rest = copy, *line;
    int sockets = count / 3, adopted = 0;
    const int *exchanges = fds + sockets;
    while (adopted < sockets && (line = strsep(&rest, "\n")) != NULL &&
           adopt_line(listeners, line, fds[adopted], exchanges + 2 * (ptrdiff_t)adopted))
        adopted++;
    bool all = adopted == sockets && count % 3 == 0 && (!rest || !*rest);
    free(copy);
    listeners->shared = true;
    if (!all)
        close_from(listeners, 0);
    return all;
}
