/* allocator: see allocator.h. */
#include "pyglue/allocator.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stddef.h>

typedef int mallctl_function(const char *, void *, size_t *, void *, size_t);

void allocator_purge(void)
{
    mallctl_function *mallctl = (mallctl_function *)dlsym(RTLD_DEFAULT, "mallctl");
    if (mallctl != NULL) {
        mallctl("thread.tcache.flush", NULL, NULL, NULL, 0);
        mallctl("arena.4096.purge", NULL, NULL, NULL, 0); /* MALLCTL_ARENAS_ALL */
    } else {
        malloc_trim(0);
    }
}
