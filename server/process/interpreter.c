/* interpreter: see interpreter.h. */
#include "server/process/interpreter.h"

#include <glob.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/mem.h"

static const char *const names[] = { "python3", "python" };

static bool is_program(const char *path)
{
    struct stat file;
    return stat(path, &file) == 0 && S_ISREG(file.st_mode) && access(path, X_OK) == 0;
}

/* `path` itself if it is a program, else NULL; takes the memory over. */
static char *program_or_null(char *path)
{
    if (is_program(path))
        return path;
    free(path);
    return NULL;
}

static char *find_in(const char *folder)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char *path = program_or_null(mem_printf("%s/%s", folder, names[i]));
        if (path)
            return path;
    }
    return NULL;
}

static char *find_on_path(const char *name)
{
    const char *search = getenv("PATH");
    for (const char *from = search ? search : "/usr/local/bin:/usr/bin:/bin"; *from;) {
        size_t len = strcspn(from, ":");
        char *path = program_or_null(len > 0 ? mem_printf("%.*s/%s", (int)len, from, name) : mem_printf("./%s", name));
        if (path)
            return path;
        from += len + (from[len] == ':');
    }
    return NULL;
}

/* The folder of this executable, links resolved: a link to it elsewhere still finds its environment. */
static char *own_folder(void)
{
    char *self = realpath("/proc/self/exe", NULL);
    if (!self)
        return NULL;
    char *folder = mem_strdup(dirname(self));
    free(self);
    return folder;
}

static char *find_beside(void)
{
    char *folder = own_folder();
    char *path = folder ? find_in(folder) : NULL;
    free(folder);
    return path;
}

static char *find_in_environment(void)
{
    const char *environment = getenv("VIRTUAL_ENV");
    if (!environment || !*environment)
        return NULL;
    char *folder = mem_printf("%s/bin", environment);
    char *path = find_in(folder);
    free(folder);
    return path;
}

static char *find_wanted(const char *wanted, struct buf *errors)
{
    char *path = strchr(wanted, '/') ? program_or_null(mem_strdup(wanted)) : find_on_path(wanted);
    if (!path)
        buf_printf(errors, "--python %s: there is no such program\n", wanted);
    return path;
}

char *interpreter_find(const char *wanted, struct buf *errors)
{
    if (wanted)
        return find_wanted(wanted, errors);
    char *path = find_beside();
    if (!path)
        path = find_in_environment();
    for (size_t i = 0; !path && i < sizeof(names) / sizeof(names[0]); i++)
        path = find_on_path(names[i]);
    if (!path)
        buf_printf(errors,
                   "No Python was found beside licorne, in $VIRTUAL_ENV or on PATH: say which with --python PATH\n");
    return path;
}

/* --- jemalloc ------------------------------------------------------------------------------------------------- */

static char *first_match(const char *pattern)
{
    glob_t found;
    char *path = glob(pattern, 0, NULL, &found) == 0 ? mem_strdup(found.gl_pathv[0]) : NULL;
    globfree(&found);
    return path;
}

char *interpreter_jemalloc(void)
{
    char *folder = own_folder(), *path = NULL;
    if (folder) {
        char *pattern = mem_printf("%s/../lib/python3*/site-packages/licorne/_lib/libjemalloc.so.2", folder);
        path = first_match(pattern);
        free(pattern);
        free(folder);
    }
#if defined(__x86_64__)
    if (!path)
        path = first_match("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2");
#elif defined(__aarch64__)
    if (!path)
        path = first_match("/usr/lib/aarch64-linux-gnu/libjemalloc.so.2");
#endif
    return path ? path : first_match("/usr/lib64/libjemalloc.so.2");
}
