/* master_settle: what settings mean for the master itself: its folder, log, pidfile, control socket and addresses. At the
 * start that is made so. In a reload it is made so beside what is there, so that a setting that cannot be had ends the
 * reload and nothing else; what the predecessor had goes when the exchange has succeeded. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/address.h"
#include "config/settings.h"
#include "config/version.h"
#include "server/base/log.h"
#include "server/base/mem.h"
#include "server/process/control.h"
#include "server/process/descriptors.h"
#include "server/process/generation.h"
#include "server/process/master.h"
#include "server/process/metrics.h"
#include "server/process/mold_handle.h"
#include "server/process/pidfile.h"
#include "server/process/privileges.h"
#include "server/process/source_watch.h"

static bool is_set(const char *text)
{
    return text && *text;
}

/* --- announcing -------------------------------------------------------------------------------------------------- */

/* Those from `from` on. */
static void announce_listeners(const struct master *master, int from)
{
    for (int i = from; i < master->listeners.count; i++) {
        char *name = address_name(master->listeners.fds[i]);
        log_info("Listening at: %s (%d)", name ? name : "?", (int)getpid());
        free(name);
    }
}

static void announce(const struct master *master, const struct generation *generation)
{
    log_info("Starting licorne %s (Python %s, master %d)", LICORNE_VERSION, generation->mold->python, (int)getpid());
    announce_listeners(master, 0);
    int workers = master_wanted_workers(master, generation);
    log_info("Serving %s with %d worker%s", settings_application(&generation->settings), workers, workers == 1 ? "" : "s");
}

/* --- the folder and the log --------------------------------------------------------------------------------------- */

/* For the addresses: all other paths are resolved. */
static bool enter_folder(const struct master *master, const struct settings *settings, struct buf *errors)
{
    const char *folder = is_set(settings->chdir) ? settings->chdir : ".";
    if (home_enter(&master->home) == 0 && chdir(folder) == 0)
        return true;
    buf_printf(errors, "Cannot change to %s: %s\n", folder, strerror(errno));
    return false;
}

static char *resolve(const struct master *master, const struct settings *settings, const char *path)
{
    return home_resolve(&master->home, settings->chdir, path);
}

static bool open_log(const struct master *master, const struct settings *settings, struct buf *errors)
{
    bool named = is_set(settings->errorlog) && strcmp(settings->errorlog, "-") != 0;
    char *path = named ? resolve(master, settings, settings->errorlog) : NULL;
    log_set_colours((enum log_colours)settings->use_colors);
    int outcome = log_open(path, settings->loglevel), error = errno;
    free(path);
    if (outcome != 0)
        buf_printf(errors, "Cannot open the error log %s: %s\n", settings->errorlog, strerror(error));
    return outcome == 0;
}

static void give_log(const struct master *master, const struct settings *settings, const struct privileges *privileges,
                     const char *path)
{
    if (!is_set(path) || strcmp(path, "-") == 0)
        return;
    char *resolved = resolve(master, settings, path);
    if (privileges_give_file(privileges, resolved) != 0)
        log_warning("The log %s cannot be given to user %u: %s", path, (unsigned)privileges->uid, strerror(errno));
    free(resolved);
}

/* Who serves must be able to open them, now and when they have been moved away. */
static void give_logs(const struct master *master, const struct settings *settings, const struct privileges *privileges)
{
    if (!privileges->drop)
        return;
    give_log(master, settings, privileges, settings->errorlog);
    give_log(master, settings, privileges, settings->accesslog);
}

static bool apply_privileges(struct master *master, const struct settings *settings, struct buf *errors)
{
    struct privileges privileges;
    if (!privileges_find(&privileges, settings, errors))
        return false;
    master->listeners.owned = privileges.drop;
    master->listeners.owner = privileges.uid;
    master->listeners.group = privileges.gid;
    give_logs(master, settings, &privileges);
    return true;
}

static void apply_umask(struct master *master, const struct settings *settings)
{
    int mask = settings_umask(settings);
    if (mask >= 0)
        umask(master->listeners.umask = (mode_t)mask);
}

/* --- the pidfile and the control socket --------------------------------------------------------------------------- */

/* While the predecessor in an exchange of the executable has a name, the successor's has .2 behind it, as gunicorn's. */
#define SECOND ".2"

static char *name_for_now(const struct master *master, const struct settings *settings, const char *path)
{
    char *resolved = resolve(master, settings, path);
    if (!upgrade_has_predecessor(&master->upgrade))
        return resolved;
    char *second = mem_printf("%s" SECOND, resolved);
    free(resolved);
    return second;
}

static bool write_pidfile(const struct master *master, const struct settings *settings, char **written,
                          struct buf *errors)
{
    if (!is_set(settings->pidfile))
        return true;
    char *path = name_for_now(master, settings, settings->pidfile);
    bool good = pidfile_write(path, errors);
    *written = good ? realpath(path, NULL) : NULL;
    free(path);
    return good;
}

/* One that was asked for must come to be; without the other one can live. */
static bool make_control(struct control **made, const char *path, struct buf *errors)
{
    struct buf reason = { 0 };
    *made = control_new(path, path ? errors : &reason);
    if (!*made && !path)
        log_warning("%.*s", (int)buf_len(&reason) - 1, buf_str(&reason).p);
    else if (*made)
        log_debug("Control socket: %s", control_path(*made));
    buf_done(&reason);
    return *made || !path;
}

/* The present one stays if it is where it should be. */
static bool open_control(const struct master *master, const struct settings *settings, struct control **made,
                         struct buf *errors)
{
    const char *wanted = settings->control_socket;
    if (wanted && !*wanted)
        return true;
    char *path = wanted ? name_for_now(master, settings, wanted) : NULL;
    bool kept = master->here.control && control_is_at(master->here.control, path);
    *made = kept ? master->here.control : NULL;
    bool good = kept || make_control(made, path, errors);
    free(path);
    return good;
}

static void leave(struct premises *left, const struct premises *kept)
{
    if (left->control != kept->control)
        control_free(left->control);
    if (left->pidfile && (!kept->pidfile || strcmp(left->pidfile, kept->pidfile) != 0))
        pidfile_remove(left->pidfile);
    free(left->pidfile);
    *left = (struct premises){ 0 };
}

static int open_listeners(struct master *master, const struct settings *settings, struct buf *errors)
{
    master->listeners.reuse_port = settings->reuse_port;
    return listeners_open(&master->listeners, &settings->bind, (int)settings->backlog, errors);
}

static bool enter(struct master *master, const struct settings *settings, struct premises *there, struct buf *errors)
{
    return write_pidfile(master, settings, &there->pidfile, errors) && open_listeners(master, settings, errors) == 0 &&
           open_control(master, settings, &there->control, errors);
}

/* --- entry points -------------------------------------------------------------------------------------------------- */

static bool settle_first(struct master *master, const struct generation *generation, struct buf *errors)
{
    const struct settings *settings = &generation->settings;
    if (!enter_folder(master, settings, errors))
        return false;
    apply_umask(master, settings);
    if (!open_log(master, settings, errors) || !apply_privileges(master, settings, errors))
        return false;
    descriptors_limit(settings->open_files);
    if (settings->daemon && !master->given->daemon)
        log_warning("daemon works from the command line and the environment only: the server stays in the foreground");
    if (!enter(master, settings, &master->here, errors))
        return false;
    if (upgrade_has_predecessor(&master->upgrade)) /* where only that one listens */
        listeners_keep(&master->listeners, &settings->bind, (int)settings->backlog);
    metrics_open(settings);
    announce(master, generation);
    return true;
}

/* The present generation's addresses stay open until it has retired. */
static bool settle_beside(struct master *master, const struct generation *generation, struct buf *errors)
{
    int before = master->listeners.count;
    if (!enter_folder(master, &generation->settings, errors) ||
        !apply_privileges(master, &generation->settings, errors) ||
        !enter(master, &generation->settings, &master->there, errors))
        return false;
    announce_listeners(master, before);
    return true;
}

/* Before the application is imported: what changes from now on is seen. */
static void watch_sources(struct master *master, const struct settings *settings)
{
    source_watch_free(master->sources);
    master->sources = settings->reload ? source_watch_new(settings) : NULL;
}

bool master_settle(struct master *master, const struct generation *generation, struct buf *errors)
{
    bool good = (master->serving ? settle_beside : settle_first)(master, generation, errors);
    watch_sources(master, &generation->settings);
    return good;
}

static void log_reasons(struct buf *errors)
{
    if (buf_len(errors) > 0)
        log_error("%.*s", (int)buf_len(errors) - 1, buf_str(errors).p);
    buf_done(errors);
}

void master_moved(struct master *master)
{
    struct buf errors = { 0 };
    open_log(master, &master->serving->settings, &errors);
    metrics_open(&master->serving->settings);
    log_reasons(&errors);
    leave(&master->here, &master->there);
    master->here = master->there;
    master->there = (struct premises){ 0 };
}

void master_stayed(struct master *master)
{
    struct buf errors = { 0 };
    enter_folder(master, &master->serving->settings, &errors);
    log_reasons(&errors);
    leave(&master->there, &master->here);
}

void master_give_logs(const struct master *master)
{
    struct buf errors = { 0 };
    struct privileges privileges;
    if (master->serving && privileges_find(&privileges, &master->serving->settings, &errors))
        give_logs(master, &master->serving->settings, &privileges);
    buf_done(&errors);
}

void master_vacate(struct master *master)
{
    leave(&master->there, &master->here);
    leave(&master->here, &(struct premises){ 0 });
}

/* Every name that was taken while there was a predecessor has it behind it. NULL: this one has not. */
static char *without_second(const char *path)
{
    size_t len = path ? strlen(path) : 0, second = strlen(SECOND);
    return len > second && strcmp(path + len - second, SECOND) == 0 ? mem_strndup(path, len - second) : NULL;
}

static void take_pidfile(struct premises *premises)
{
    char *path = without_second(premises->pidfile);
    if (path && rename(premises->pidfile, path) == 0) {
        free(premises->pidfile);
        premises->pidfile = path;
        return;
    }
    if (path)
        log_warning("Cannot rename the pidfile %s to %s: %s", premises->pidfile, path, strerror(errno));
    free(path);
}

static void take_control(const struct premises *premises)
{
    char *path = premises->control ? without_second(control_path(premises->control)) : NULL;
    if (path && control_move(premises->control, path) != 0)
        log_warning("Cannot rename the control socket to %s: %s", path, strerror(errno));
    free(path);
}

void master_take_names(struct master *master)
{
    take_pidfile(&master->here);
    take_control(&master->here);
    take_pidfile(&master->there);
    if (master->there.control != master->here.control)
        take_control(&master->there);
}
