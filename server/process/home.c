/* home: see home.h. */
#include "server/process/home.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/mem.h"

static bool is_here(const char *path)
{
    struct stat there, here;
    return path && path[0] == '/' && stat(path, &there) == 0 && stat(".", &here) == 0 && there.st_dev == here.st_dev &&
           there.st_ino == here.st_ino;
}

int home_init(struct home *home)
{
    const char *named = getenv("PWD");
    home->path = is_here(named) ? mem_strdup(named) : getcwd(NULL, 0);
    home->fd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return home->fd < 0 ? -1 : 0;
}

void home_done(struct home *home)
{
    free(home->path);
    if (home->fd >= 0)
        close(home->fd);
}

int home_enter(const struct home *home)
{
    return home->path && chdir(home->path) == 0 ? 0 : fchdir(home->fd);
}

char *home_resolve(const struct home *home, const char *folder, const char *path)
{
    const char *base = home->path ? home->path : ".";
    if (path[0] == '/')
        return mem_strdup(path);
    if (!folder || !*folder)
        return mem_printf("%s/%s", base, path);
    return folder[0] == '/' ? mem_printf("%s/%s", folder, path) : mem_printf("%s/%s/%s", base, folder, path);
}
