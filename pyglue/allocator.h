/* allocator: giving freed memory back to the system, with jemalloc (preloaded by the master) or the C library's. */
#pragma once

/* All that is free, at once. Takes a few milliseconds for a hundred MiB. Needs no GIL. */
void allocator_purge(void);
