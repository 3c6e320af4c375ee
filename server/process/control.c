/* control: see control.h. */
#include "server/process/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/base/log.h"
#include "server/base/mem.h"

#define QUESTION_MAX 1024

struct client {
    int fd; /* -1: a free place */
    struct buf question, answer;
    bool answered;
    uint32_t awaits; /* the report on the worker with this number; 0: none */
};

struct control {
    int fd;
    char *path;
    dev_t device;
    ino_t inode;
    struct client clients[CONTROL_CLIENTS];
    struct client *asking; /* whose question is being answered */
    int next; /* the place for the next client: the one that was taken longest ago */
};

/* --- the socket ------------------------------------------------------------------------------------------------- */

static bool is_private(const char *path)
{
    struct stat folder;
    return lstat(path, &folder) == 0 && S_ISDIR(folder.st_mode) && folder.st_uid == geteuid() &&
           (folder.st_mode & 077) == 0;
}

char *control_folder(void)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char *path = runtime && runtime[0] == '/' ? mem_printf("%s/licorne", runtime)
                                              : mem_printf("/tmp/licorne-%u", (unsigned)geteuid());
    mkdir(path, 0700);
    if (is_private(path))
        return path;
    free(path);
    return NULL;
}

static char *own_path(void)
{
    char *folder = control_folder(), *path = NULL;
    if (folder)
        path = mem_printf("%s/%d.ctl", folder, (int)getpid());
    free(folder);
    return path;
}

static bool somebody_answers(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return true; /* not known: it stays */
    bool refused = connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0;
    close(fd);
    return !refused;
}

/* A socket that nobody listens on is removed; anything else stays, and the bind fails. */
static void clear_path(const struct sockaddr_un *address)
{
    struct stat file;
    if (lstat(address->sun_path, &file) == 0 && S_ISSOCK(file.st_mode) && !somebody_answers(address))
        unlink(address->sun_path);
}

static int open_socket(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address.sun_path, path);
    clear_path(&address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0177);
    int outcome = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&address, sizeof(address));
    umask(mask);
    if (outcome == 0 && listen(fd, CONTROL_CLIENTS) == 0)
        return fd;
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return -1;
}

struct control *control_new(const char *path, struct buf *errors)
{
    struct control *control = mem_zalloc(sizeof(*control));
    struct stat file;
    for (int i = 0; i < CONTROL_CLIENTS; i++)
        control->clients[i].fd = -1;
    control->path = path ? mem_strdup(path) : own_path();
    control->fd = control->path ? open_socket(control->path) : -1;
    if (control->fd >= 0 && lstat(control->path, &file) == 0) {
        char *absolute = realpath(control->path, NULL);
        if (absolute) {
            free(control->path);
            control->path = absolute;
        }
        control->device = file.st_dev;
        control->inode = file.st_ino;
        return control;
    }
    buf_printf(errors, "Cannot make the control socket %s: %s\n",
               control->path ? control->path : "in a folder that is ours alone", strerror(errno));
    free(control->path);
    free(control);
    return NULL;
}

const char *control_path(const struct control *control)
{
    return control->path;
}

bool control_is_at(const struct control *control, const char *path)
{
    char *wanted = path ? realpath(path, NULL) : own_path();
    bool same = wanted && strcmp(wanted, control->path) == 0;
    free(wanted);
    return same;
}

int control_move(struct control *control, const char *path)
{
    if (rename(control->path, path) != 0)
        return -1;
    free(control->path);
    control->path = mem_strdup(path);
    return 0;
}

/* --- clients ---------------------------------------------------------------------------------------------------- */

static void client_close(struct client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    buf_done(&client->question);
    buf_done(&client->answer);
    *client = (struct client){ .fd = -1 };
}

static void client_send(struct client *client)
{
    while (buf_len(&client->answer) > 0) {
        struct str rest = buf_str(&client->answer);
        ssize_t sent = send(client->fd, rest.p, rest.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN)
            return;
        if (sent < 0)
            break;
        buf_consume(&client->answer, (size_t)sent);
    }
    client_close(client);
}

static void client_answer(struct control *control, struct client *client, struct str question, struct master *master)
{
    control->asking = client;
    control_answer(master, question, &client->answer);
    control->asking = NULL;
    if (client->awaits > 0)
        return;
    client->answered = true;
    client_send(client);
}

static void client_receive(struct control *control, struct client *client, struct master *master)
{
    char *room = buf_reserve(&client->question, QUESTION_MAX);
    ssize_t got = recv(client->fd, room, QUESTION_MAX, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got > 0)
        buf_commit(&client->question, (size_t)got);
    struct str question = buf_str(&client->question);
    const char *end = question.len > 0 ? memchr(question.p, '\n', question.len) : NULL;
    if (end && client->awaits == 0) {
        client_answer(control, client, (struct str){ question.p, (size_t)(end - question.p) }, master);
    } else if (got <= 0 || question.len > QUESTION_MAX) {
        client_close(client);
    }
}

void control_await_report(struct control *control, uint32_t worker_age)
{
    control->asking->awaits = worker_age;
}

void control_reported(struct control *control, uint32_t worker_age, struct str text)
{
    for (int i = 0; i < CONTROL_CLIENTS; i++) {
        struct client *client = &control->clients[i];
        if (client->fd < 0 || client->awaits != worker_age)
            continue;
        buf_append_str(&client->answer, STR("OK\n"));
        buf_append_str(&client->answer, text);
        buf_append_str(&client->answer, STR("\n"));
        client->awaits = 0;
        client->answered = true;
        client_send(client);
    }
}

static void accept_client(struct control *control)
{
    int fd = accept4(control->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct client *client = &control->clients[control->next];
    control->next = (control->next + 1) % CONTROL_CLIENTS;
    client_close(client);
    client->fd = fd;
}

/* --- the master's turn ------------------------------------------------------------------------------------------ */

size_t control_poll(const struct control *control, struct pollfd polled[CONTROL_POLLED])
{
    polled[0] = (struct pollfd){ .fd = control->fd, .events = POLLIN };
    for (int i = 0; i < CONTROL_CLIENTS; i++) {
        const struct client *client = &control->clients[i];
        polled[1 + i] = (struct pollfd){ .fd = client->fd, .events = client->answered ? POLLOUT : POLLIN };
    }
    return CONTROL_POLLED;
}

void control_turn(struct control *control, const struct pollfd polled[CONTROL_POLLED], struct master *master)
{
    for (int i = 0; i < CONTROL_CLIENTS; i++) {
        struct client *client = &control->clients[i];
        if (client->fd < 0 || client->fd != polled[1 + i].fd || polled[1 + i].revents == 0)
            continue;
        if (client->answered)
            client_send(client);
        else
            client_receive(control, client, master);
    }
    if (polled[0].revents)
        accept_client(control);
}

void control_free(struct control *control)
{
    struct stat file;
    if (!control)
        return;
    for (int i = 0; i < CONTROL_CLIENTS; i++)
        client_close(&control->clients[i]);
    if (lstat(control->path, &file) == 0 && file.st_dev == control->device && file.st_ino == control->inode)
        unlink(control->path);
    close(control->fd);
    free(control->path);
    free(control);
}
