/* zlib: see zlib.h. */
#include "server/base/zlib.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "server/base/log.h"

static struct zlib zlib;
static bool found;

static const struct {
    const char *symbol;
    size_t offset;
} functions[] = {
    { "deflateInit2_", offsetof(struct zlib, deflate_init) },
    { "deflate", offsetof(struct zlib, deflate) },
    { "deflateReset", offsetof(struct zlib, deflate_reset) },
    { "deflateEnd", offsetof(struct zlib, deflate_end) },
    { "inflateInit2_", offsetof(struct zlib, inflate_init) },
    { "inflate", offsetof(struct zlib, inflate) },
    { "inflateReset2", offsetof(struct zlib, inflate_reset2) },
    { "inflateResetKeep", offsetof(struct zlib, inflate_reset_keep) },
    { "inflateGetDictionary", offsetof(struct zlib, inflate_get_dictionary) },
    { "inflateSetDictionary", offsetof(struct zlib, inflate_set_dictionary) },
    { "inflateEnd", offsetof(struct zlib, inflate_end) },
};

static void find(void)
{
    void *library = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL);
    found = library != NULL;
    for (size_t i = 0; found && i < sizeof(functions) / sizeof(functions[0]); i++) {
        void *function = dlsym(library, functions[i].symbol);
        *(void **)((char *)&zlib + functions[i].offset) = function;
        found = function != NULL;
    }
    if (!found)
        log_debug("zlib was not found (Debian, Ubuntu: zlib1g): WebSocket messages are not compressed");
}

const struct zlib *zlib_get(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
    return found ? &zlib : NULL;
}
