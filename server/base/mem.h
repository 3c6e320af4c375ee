/* mem: allocation that cannot fail: when memory runs out, one line is logged and the process aborts. A worker
 * that dies is replaced; half-handled exhaustion is worse. Sizes that a client chooses are bounded before. */
#pragma once

#include <stddef.h>

void *mem_alloc(size_t n);
void *mem_zalloc(size_t n);
void *mem_realloc(void *p, size_t n);
char *mem_strdup(const char *text);
char *mem_strndup(const char *text, size_t n);
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
