/* control_client: `licorne ctl`: asks a running server by its control socket and prints the answer.
 *
 *     licorne ctl [-s PATH | -p PID] COMMAND …
 *
 * Without -s and -p it takes the one server of this user that runs; several are listed. Exit code: 0, 1 when the server
 * refuses or cannot be reached, 2 for a wrong command line. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/base/mem.h"
#include "server/process/control.h"

#define TOP_SECONDS 1

static const char usage[] = "usage: licorne ctl [-s PATH | -p PID] COMMAND\n"
                            "  -s, --socket PATH   the server's control_socket\n"
                            "  -p, --pid PID       the server with this master process\n"
                            "commands: status [--json], top, config, listeners, reload, scale +N|-N|=N, reopen,\n"
                            "          dump WORKER, stop [--now], help (asks the server for all)\n";

/* --- one question ------------------------------------------------------------------------------------------------ */

static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return -1;
}

/* The whole answer. 0 or -1 with errno. */
static int ask(const char *path, const char *question, struct buf *answer)
{
    int fd = connect_to(path);
    if (fd < 0)
        return -1;
    ssize_t got = send(fd, question, strlen(question), MSG_NOSIGNAL);
    while (got > 0 && (got = read(fd, buf_reserve(answer, 65536), 65536)) > 0)
        buf_commit(answer, (size_t)got);
    close(fd);
    return got < 0 || buf_len(answer) == 0 ? -1 : 0;
}

static int print_answer(struct buf *answer)
{
    struct str all = buf_str(answer);
    const char *end = memchr(all.p, '\n', all.len);
    size_t line = end ? (size_t)(end - all.p) + 1 : all.len;
    if (line >= 2 && memcmp(all.p, "OK", 2) == 0) {
        fwrite(all.p + line, 1, all.len - line, stdout);
        return 0;
    }
    fprintf(stderr, "licorne ctl: %.*s", (int)(line > 6 ? line - 6 : line), all.p + (line > 6 ? 6 : 0));
    return 1;
}

static int ask_and_print(const char *path, const char *question)
{
    struct buf answer = { 0 };
    int exit_code = 1;
    if (ask(path, question, &answer) != 0)
        fprintf(stderr, "licorne ctl: no server answers at %s: %s\n", path, strerror(errno));
    else
        exit_code = print_answer(&answer);
    buf_done(&answer);
    return exit_code;
}

/* --- top ---------------------------------------------------------------------------------------------------------- */

/* Over what is there, line by line: nothing flickers. */
static void print_screen(struct str text, struct winsize window)
{
    fputs("\033[H", stdout);
    for (int row = 1; row < window.ws_row && text.len > 0; row++) {
        const char *end = memchr(text.p, '\n', text.len);
        size_t len = end ? (size_t)(end - text.p) : text.len, used = len + (end != NULL);
        fwrite(text.p, 1, len < window.ws_col ? len : window.ws_col, stdout);
        fputs("\033[K\n", stdout);
        text = (struct str){ text.p + used, text.len - used };
    }
    fputs("\033[J", stdout);
}

/* The answer without its first line, "OK". */
static void print_status(const struct buf *answer)
{
    struct str all = buf_str(answer);
    struct winsize window;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_row > 0 && window.ws_col > 0)
        print_screen((struct str){ all.p + 3, all.len - 3 }, window);
    else
        fwrite(all.p + 3, 1, all.len - 3, stdout);
    fflush(stdout);
}

/* Until the server is gone, or nobody reads. */
static int top(const char *path)
{
    struct buf answer = { 0 };
    bool shown = false;
    while (ask(path, "status\n", &answer) == 0 && buf_len(&answer) > 3 && !ferror(stdout)) {
        print_status(&answer);
        buf_reset(&answer, SIZE_MAX);
        shown = true;
        sleep(TOP_SECONDS);
    }
    buf_done(&answer);
    return shown ? 0 : ask_and_print(path, "status\n");
}

/* --- which server ------------------------------------------------------------------------------------------------ */

static bool answers(const char *path)
{
    int fd = connect_to(path);
    if (fd >= 0)
        close(fd);
    else if (errno == ECONNREFUSED)
        unlink(path); /* its master was killed */
    return fd >= 0;
}

static bool is_socket_name(const char *name)
{
    size_t len = strlen(name);
    return len > 4 && strcmp(name + len - 4, ".ctl") == 0;
}

/* The only one that answers; NULL with a message. */
static char *find_only(const char *folder)
{
    struct buf found = { 0 };
    char *only = NULL;
    int count = 0;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; entries && (entry = readdir(entries)) != NULL;) {
        char *path = mem_printf("%s/%s", folder, entry->d_name);
        if (is_socket_name(entry->d_name) && answers(path) && ++count == 1)
            only = mem_strdup(path);
        if (is_socket_name(entry->d_name) && access(path, F_OK) == 0)
            buf_printf(&found, " %.*s", (int)strlen(entry->d_name) - 4, entry->d_name);
        free(path);
    }
    if (entries)
        closedir(entries);
    if (count != 1) {
        if (count == 0)
            fputs("licorne ctl: no server of this user was found: say which with --socket PATH\n", stderr);
        else
            fprintf(stderr, "licorne ctl: several servers run: say which with --pid:%.*s\n", (int)buf_len(&found),
                    buf_str(&found).p);
        free(only);
        only = NULL;
    }
    buf_done(&found);
    return only;
}

static char *find_server(const char *path, const char *pid)
{
    if (path)
        return mem_strdup(path);
    char *folder = control_folder();
    char *found = NULL;
    if (!folder)
        fputs("licorne ctl: no server of this user was found: say which with --socket PATH\n", stderr);
    else
        found = pid ? mem_printf("%s/%s.ctl", folder, pid) : find_only(folder);
    free(folder);
    return found;
}

/* --- entry point ------------------------------------------------------------------------------------------------- */

static int wrong_usage(void)
{
    fputs(usage, stderr);
    return 2;
}

static int run(const char *path, char **words, int count)
{
    struct buf question = { 0 };
    if (strcmp(words[0], "top") == 0)
        return top(path);
    for (int i = 0; i < count; i++)
        buf_printf(&question, "%s%s", i > 0 ? " " : "", words[i]);
    buf_append(&question, "\n", 2);
    int exit_code = ask_and_print(path, buf_str(&question).p);
    buf_done(&question);
    return exit_code;
}

int control_client(int argc, char **argv)
{
    const char *path = NULL, *pid = NULL;
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
        bool by_path = strcmp(argv[i], "-s") == 0 || strcmp(argv[i], "--socket") == 0;
        bool by_pid = strcmp(argv[i], "-p") == 0 || strcmp(argv[i], "--pid") == 0;
        if ((!by_path && !by_pid) || i + 1 == argc)
            return wrong_usage();
        *(by_path ? &path : &pid) = argv[++i];
    }
    if (i == argc)
        return wrong_usage();
    char *server = find_server(path, pid);
    int exit_code = server ? run(server, argv + i, argc - i) : 1;
    free(server);
    return exit_code;
}
