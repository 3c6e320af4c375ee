/* interpreter: which Python runs the mold, and which allocator goes before it. */
#pragma once

struct buf;

/* The interpreter's path, allocated with malloc: `wanted` (a path, or a name on PATH) if given, else the python3 or
 * python beside this executable, else $VIRTUAL_ENV's, else the one on PATH. A symbolic link is kept as it is: it is how
 * an interpreter knows its virtual environment. NULL with a complete message in `errors`. */
char *interpreter_find(const char *wanted, struct buf *errors);

/* jemalloc's shared library: the one that came with the package, else the system's. NULL: there is none. malloc'ed. */
char *interpreter_jemalloc(void);
