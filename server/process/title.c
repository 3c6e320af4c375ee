/* title: see title.h. The kernel shows the memory from which the arguments were passed: whoever wrote over it, wherever
 * the interpreter keeps its copies. It tells where that is. */
#include "server/process/title.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Fields 48 and 49 of /proc/self/stat. */
static char *arguments(size_t *size)
{
    char text[1024];
    unsigned long long start = 0, end = 0;
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC), field = 2;
    ssize_t len = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[len > 0 ? len : 0] = '\0';
    char *rest = strrchr(text, ')'), *word;
    while (rest && (word = strsep(&rest, " ")) != NULL) {
        if (field == 48)
            sscanf(word, "%llu", &start);
        else if (field == 49)
            sscanf(word, "%llu", &end);
        field++;
    }
    *size = end > start ? (size_t)(end - start) : 0;
    return start ? (char *)(uintptr_t)start : NULL;
}

void title_set(const char *format, ...)
{
    size_t size;
    char *memory = arguments(&size);
    if (!memory || size < 2)
        return;
    va_list list;
    va_start(list, format);
    int len = vsnprintf(memory, size, format, list);
    va_end(list);
    if (len >= 0 && (size_t)len < size)
        memset(memory + len, 0, size - (size_t)len);
}
