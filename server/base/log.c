/* log: see log.h. */
#include "server/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "server/base/mem.h"

#define LOG_MAX_BYTES (16 * 1024) /* of one message; a traceback fits */

enum log_level log_least = LOG_LEVEL_INFO;

static struct {
    pthread_mutex_t lock; /* held while the descriptor changes */
    int fd;
    char *path;
    bool (*sink)(enum log_level, const char *); /* NULL: none */
    void (*counter)(enum log_level, const char *);
    enum log_colours wanted;
    bool colours;
} state = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = STDERR_FILENO };

static int open_path(const char *path)
{
    if (path == NULL || strcmp(path, "-") == 0)
        return STDERR_FILENO;
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static bool captures;

static void capture(int fd)
{
    if (!captures || fd <= STDERR_FILENO)
        return;
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
}

static void replace_fd(int fd)
{
    pthread_mutex_lock(&state.lock);
    if (state.fd > STDERR_FILENO)
        close(state.fd);
    state.fd = fd;
    state.colours = log_has_colours(fd);
    capture(fd);
    pthread_mutex_unlock(&state.lock);
}

int log_open(const char *path, enum log_level level)
{
    int fd = open_path(path);
    if (fd < 0)
        return -1;
    replace_fd(fd);
    free(state.path);
    state.path = path ? strdup(path) : NULL;
    log_least = level;
    return 0;
}

void log_capture(void)
{
    captures = true;
    capture(state.fd);
}

int log_reopen(void)
{
    int fd = open_path(state.path);
    if (fd < 0)
        return -1;
    replace_fd(fd);
    return 0;
}

void log_set_threshold(enum log_level level)
{
    log_least = level;
}

void log_set_counter(void (*counter)(enum log_level, const char *))
{
    state.counter = counter;
}

static void count(enum log_level level, const char *message)
{
    if (state.counter)
        state.counter(level, message);
}

static bool is_said(const char *variable)
{
    const char *value = getenv(variable);
    return value && *value && strcmp(value, "0") != 0;
}

/* no-color.org: a variable that is there and not empty; what is asked for expressly wins over both. */
bool log_has_colours(int fd)
{
    const char *none = getenv("NO_COLOR"), *terminal = getenv("TERM");
    if (state.wanted != LOG_COLOURS_AUTO)
        return state.wanted == LOG_COLOURS_ALWAYS;
    if (none && *none)
        return false;
    return is_said("FORCE_COLOR") || (isatty(fd) && !(terminal && strcmp(terminal, "dumb") == 0));
}

void log_set_colours(enum log_colours colours)
{
    state.wanted = colours;
    state.colours = log_has_colours(state.fd);
}

void log_set_sink(bool (*sink)(enum log_level, const char *))
{
    state.sink = sink;
}

/* In colour, what is the same in every line stands back, and the level leaps to the eye. */
static size_t format_prefix(char *line, size_t size, enum log_level level, int pid, bool colours)
{
    static const char *const names[] = { "TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL" };
    static const char *const paints[] = { "34", "36", "32", "33", "31", "1;91" };
    time_t now = time(NULL);
    struct tm t;
    localtime_r(&now, &t);
    long zone = t.tm_gmtoff / 60;
    int n = snprintf(line, size, "%s[%04d-%02d-%02d %02d:%02d:%02d %c%02ld%02ld] [%d]%s ", colours ? "\033[2m" : "",
                     t.tm_year + 1900, t.tm_mon + 1, t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec, zone < 0 ? '-' : '+',
                     labs(zone) / 60, labs(zone) % 60, pid, colours ? "\033[0m" : "");
    if (colours)
        n += snprintf(line + n, size - (size_t)n, "\033[%sm[%s]\033[0m ", paints[level], names[level]);
    else
        n += snprintf(line + n, size - (size_t)n, "[%s] ", names[level]);
    return (size_t)n;
}

/* Copies `text` so that no control byte of a client's reaches a terminal. Returns the length. */
static size_t escape(char *to, size_t room, struct str text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len && n + 4 < room; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            n += (size_t)sprintf(to + n, "\\x%02x", c);
        else
            to[n++] = (char)c;
    }
    return n;
}

/* `fd`: -1: the error log. */
static void write_line(int fd, const char *line, size_t len)
{
    pthread_mutex_lock(&state.lock);
    while (len > 0) {
        ssize_t n = write(fd >= 0 ? fd : state.fd, line, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break; /* nobody can be told */
        line += n;
        len -= (size_t)n;
    }
    pthread_mutex_unlock(&state.lock);
}

static void write_message(enum log_level level, const char *format, va_list args)
{
    char message[LOG_MAX_BYTES], line[LOG_MAX_BYTES + 128];
    int saved_errno = errno;
    vsnprintf(message, sizeof(message), format, args);
    size_t prefix = format_prefix(line, sizeof(line), level, (int)getpid(), state.colours), n = prefix;
    n += escape(line + n, sizeof(line) - n - 1, str_from(message));
    line[n] = 0;
    count(level, line + prefix);
    bool taken = state.sink && state.sink(level, line + prefix);
    line[n++] = '\n';
    if (!taken)
        write_line(-1, line, n);
    errno = saved_errno;
}

/* Prefix and text in new memory, NUL-terminated, with room for a newline. */
static char *format_block(enum log_level level, int pid, bool colours, struct str text, size_t *prefix, size_t *len)
{
    size_t room = 128 + text.len * 4 + 8;
    char *block = mem_alloc(room);
    *prefix = format_prefix(block, 128, level, pid, colours);
    *len = *prefix + escape(block + *prefix, room - *prefix - 1, text);
    block[*len] = 0;
    return block;
}

void log_put(int level, int pid, struct str text)
{
    size_t prefix, n;
    char *block = format_block(level < 0 ? LOG_LEVEL_INFO : (enum log_level)level, pid, state.colours, text, &prefix, &n);
    block[n++] = '\n';
    if (level < 0)
        write_line(-1, block + prefix, n - prefix);
    else
        write_line(-1, block, n);
    free(block);
}

void log_block(int fd, enum log_level level, struct str text)
{
    size_t prefix, n;
    if (!log_enabled(level))
        return;
    bool colours = fd < 0 ? state.colours : log_has_colours(fd);
    char *block = format_block(level, (int)getpid(), colours, text, &prefix, &n);
    count(level, block + prefix);
    bool taken = fd < 0 && state.sink && state.sink(level, block + prefix);
    block[n++] = '\n';
    if (!taken)
        write_line(fd, block, n);
    free(block);
}

void log_write(enum log_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    write_message(level, format, args);
    va_end(args);
}

void log_fatal(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    write_message(LOG_LEVEL_CRITICAL, format, args);
    va_end(args);
    abort();
}
