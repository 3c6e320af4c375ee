/* title: see title.h. The kernel shows the memory from which the arguments were passed: whoever wrote over it, wherever
 * the interpreter keeps its copies. It tells where that is. The environment's memory lies behind it, and is shown, too,
 * when a title reaches into it. */
#include "server/process/title.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "server/base/mem.h"

#define BORROWED_MOST 256 /* of the environment's memory */

/* Found once; a fork changes nothing about it. */
static struct {
    char *memory;
    size_t own, size, used; /* the arguments' part; with what is borrowed; written by the last title */
} room;

enum { ARG_START = 48, ARG_END, ENV_START, ENV_END, FIELDS };

/* Fields of /proc/self/stat. */
static void read_fields(unsigned long long values[FIELDS])
{
    char text[1024];
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC), field = 2;
    ssize_t len = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[len > 0 ? len : 0] = '\0';
    char *rest = strrchr(text, ')'), *word;
    while (rest && (word = strsep(&rest, " ")) != NULL && field < FIELDS) {
        if (field >= ARG_START)
            sscanf(word, "%llu", &values[field]);
        field++;
    }
}

static void find_room(const unsigned long long values[FIELDS])
{
    if (values[ARG_START] == 0 || values[ARG_END] <= values[ARG_START] + 1)
        return;
    room.memory = (char *)(uintptr_t)values[ARG_START];
    room.own = room.size = room.used = (size_t)(values[ARG_END] - values[ARG_START]);
}

static char *environment; /* what was moved: as one, as nobody frees a variable that is removed */

static void move_environment(void)
{
    size_t size = 0;
    for (char **variable = environ; *variable; variable++)
        size += strlen(*variable) + 1;
    char *to = environment = mem_alloc(size + 1);
    for (char **variable = environ; *variable; variable++) {
        char *moved = to;
        to = stpcpy(to, *variable) + 1;
        *variable = moved;
    }
}

void title_init(void)
{
    unsigned long long values[FIELDS] = { 0 };
    read_fields(values);
    find_room(values);
    if (!room.memory || values[ENV_START] != values[ARG_END] || values[ENV_END] < values[ENV_START])
        return;
    move_environment();
    size_t len = (size_t)(values[ENV_END] - values[ENV_START]);
    room.size += len < BORROWED_MOST ? len : BORROWED_MOST;
}

void title_set(const char *format, ...)
{
    if (!room.memory) {
        unsigned long long values[FIELDS] = { 0 };
        read_fields(values);
        find_room(values);
    }
    if (!room.memory)
        return;
    va_list list;
    va_start(list, format);
    int len = vsnprintf(room.memory, room.size, format, list);
    va_end(list);
    if (len < 0)
        return;
    size_t end = (size_t)len < room.size ? (size_t)len : room.size - 1;
    if (end < room.used)
        memset(room.memory + end, 0, room.used - end);
    room.used = end + 1 > room.own ? end + 1 : room.own;
}
