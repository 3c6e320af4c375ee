/* descriptors: see descriptors.h. Shells and service managers give 1024, for the sake of programs that use select(); the
 * hard limit beside it is what was meant for a server. */
#include "server/process/descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "server/base/log.h"

#define SPARE_LEAST 16 /* for what the application opens */
#define SPARE_MOST 256
#define ENOUGH 1048576 /* containers may say 10^9, and there are programs that count through them all */

static rlim_t wanted_limit(int64_t wanted, const struct rlimit *limit)
{
    rlim_t number = wanted > 0 ? (rlim_t)wanted : limit->rlim_max > ENOUGH ? ENOUGH : limit->rlim_max;
    if (wanted == 0 && number < limit->rlim_cur)
        number = limit->rlim_cur;
    return number;
}

static int64_t count_open(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int64_t count = 0;
    while (folder && readdir(folder))
        count++; /* ".", ".." and the folder itself among them: there is room for error below */
    if (folder)
        closedir(folder);
    return count;
}

int64_t descriptors_room(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return INT64_MAX;
    int64_t all = (int64_t)limit.rlim_cur, spare = all / 8;
    spare = spare < SPARE_LEAST ? SPARE_LEAST : spare > SPARE_MOST ? SPARE_MOST : spare;
    int64_t room = all - count_open() - spare;
    return room > 1 ? room : 1;
}

void descriptors_limit(int64_t wanted)
{
    struct rlimit limit;
    if (wanted < 0 || getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = wanted_limit(wanted, &limit);
    if (limit.rlim_cur > limit.rlim_max) {
        log_warning("open_files = %lld: the hard limit is %llu (ulimit -Hn)", (long long)wanted,
                    (unsigned long long)limit.rlim_max);
        limit.rlim_cur = limit.rlim_max;
    }
    if (limit.rlim_cur == before)
        return;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        log_warning("Cannot change the number of open files: %s", strerror(errno));
    else
        log_debug("May open %llu files (%llu before)", (unsigned long long)limit.rlim_cur, (unsigned long long)before);
}
