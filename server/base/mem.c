/* mem: see mem.h. */
#include "server/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/base/log.h"

static void *checked(void *p, size_t n)
{
    if (p == NULL && n > 0)
        log_fatal("out of memory: could not allocate %zu bytes", n);
    return p;
}

void *mem_alloc(size_t n)
{
    return checked(malloc(n), n);
}

void *mem_zalloc(size_t n)
{
    return checked(calloc(1, n), n);
}

void *mem_realloc(void *p, size_t n)
{
    return checked(realloc(p, n), n);
}

char *mem_strndup(const char *text, size_t n)
{
    char *copy = mem_alloc(n + 1);
    memcpy(copy, text, n);
    copy[n] = '\0';
    return copy;
}

char *mem_strdup(const char *text)
{
    return mem_strndup(text, strlen(text));
}

char *mem_printf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int n = vasprintf(&text, format, args);
    va_end(args);
    return checked(n < 0 ? NULL : text, 1);
}
