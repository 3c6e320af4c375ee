/* privileges: see privileges.h. */
#include "server/process/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/buf.h"

#define ID_MAX 4294967294ul /* the largest one means "none" */

static bool is_set(const char *text)
{
    return text && *text;
}

/* A number, as gunicorn takes one, though it may be nobody's. */
static bool parse_id(const char *text, unsigned long *id)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *id = strtoul(text, &end, 10);
    return !*end && errno == 0 && *id <= ID_MAX;
}

static bool find_user(struct privileges *privileges, const char *user, struct buf *errors, bool *known)
{
    unsigned long id;
    bool is_number = parse_id(user, &id);
    const struct passwd *entry = is_number ? getpwuid((uid_t)id) : getpwnam(user);
    *known = entry != NULL;
    if (!entry && !is_number) {
        buf_printf(errors, "user = \"%s\": there is no such user\n", user);
        return false;
    }
    privileges->uid = entry ? entry->pw_uid : (uid_t)id;
    if (entry) {
        privileges->gid = entry->pw_gid;
        snprintf(privileges->name, sizeof(privileges->name), "%s", entry->pw_name);
    }
    return true;
}

static bool find_group(struct privileges *privileges, const char *group, struct buf *errors)
{
    unsigned long id;
    bool is_number = parse_id(group, &id);
    const struct group *entry = is_number ? NULL : getgrnam(group);
    if (!entry && !is_number)
        buf_printf(errors, "group = \"%s\": there is no such group\n", group);
    else
        privileges->gid = entry ? entry->gr_gid : (gid_t)id;
    return entry || is_number;
}

static bool may_drop(const struct settings *settings, struct buf *errors)
{
    if (geteuid() == 0)
        return true;
    buf_printf(errors,
               "%s = \"%s\": only root can become another one, and this is user %u: start as root, or leave user "
               "and group out\n",
               is_set(settings->user) ? "user" : "group", is_set(settings->user) ? settings->user : settings->group,
               (unsigned)geteuid());
    return false;
}

bool privileges_find(struct privileges *privileges, const struct settings *settings, struct buf *errors)
{
    bool known = true;
    *privileges = (struct privileges){ .uid = geteuid(), .gid = getegid() };
    if (is_set(settings->user) && !find_user(privileges, settings->user, errors, &known))
        return false;
    if (is_set(settings->group) && !find_group(privileges, settings->group, errors))
        return false;
    if (!known && !is_set(settings->group)) {
        buf_printf(errors, "user = \"%s\" has no entry in the user database: say the group too (--group)\n",
                   settings->user);
        return false;
    }
    privileges->initgroups = settings->initgroups && privileges->name[0];
    privileges->drop = privileges->uid != geteuid() || privileges->gid != getegid();
    return !privileges->drop || may_drop(settings, errors);
}

/* Without initgroups the root's groups go, too: they are no user's business. */
static int drop_groups(const struct privileges *privileges)
{
    if (privileges->initgroups)
        return initgroups(privileges->name, privileges->gid);
    return setgroups(1, &privileges->gid);
}

int privileges_drop(const struct privileges *privileges)
{
    if (!privileges->drop)
        return 0;
    if (drop_groups(privileges) != 0 || setresgid(privileges->gid, privileges->gid, privileges->gid) != 0)
        return -1;
    return setresuid(privileges->uid, privileges->uid, privileges->uid);
}

/* A folder of logs may be the user's: no link in it is followed, so that root does not give him other files. */
int privileges_give_file(const struct privileges *privileges, const char *path)
{
    struct stat file;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
    if (fd < 0)
        return errno == ELOOP || errno == ENXIO ? 0 : -1;
    bool roots = fstat(fd, &file) == 0 && S_ISREG(file.st_mode) && file.st_nlink == 1 && file.st_uid == geteuid();
    int outcome = roots ? fchown(fd, privileges->uid, privileges->gid) : 0, error = errno;
    close(fd);
    errno = error;
    return outcome;
}
