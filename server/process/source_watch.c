/* source_watch: see source_watch.h. inotify watches folders; each has an entry here, by its watch descriptor. */
#include "server/process/source_watch.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/mem.h"

#define EVENTS (IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ONLYDIR | IN_EXCL_UNLINK)
#define DEPTH_MAX 32
#define FOLDERS_MAX 20000

struct folder {
    int wd;
    char *path;
    char *only;  /* an extra file's name or pattern; NULL: what reload_includes says */
    bool deep;   /* with what is below it */
};

struct source_watch {
    int fd;
    struct str_list includes, excludes; /* their own copies: a reload frees the settings */
    struct folder *folders;
    size_t count;
    uint64_t delay_ms, due_ms;          /* due_ms: 0: nothing has changed */
    char changed[PATH_MAX];             /* the first one */
    bool full_told;
};

/* --- what counts ------------------------------------------------------------------------------------------------------ */

/* Hidden names only match patterns that begin with a dot. */
static bool matches(const struct str_list *patterns, const char *name)
{
    for (size_t i = 0; i < patterns->count; i++)
        if (fnmatch(patterns->items[i], name, FNM_PERIOD) == 0)
            return true;
    return false;
}

static bool is_excluded(const struct source_watch *w, const char *name)
{
    return strcmp(name, "__pycache__") == 0 || strcmp(name, "node_modules") == 0 || matches(&w->excludes, name);
}

static bool has_file(const char *folder, const char *name)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof(path), "%s/%s", folder, name) < (int)sizeof(path) && access(path, F_OK) == 0;
}

static bool counts(const struct source_watch *w, const struct folder *folder, const char *name)
{
    if (folder->only)
        return fnmatch(folder->only, name, 0) == 0;
    return matches(&w->includes, name) && !is_excluded(w, name);
}

static void note_change(struct source_watch *w, const char *folder, const char *name, uint64_t now_ms)
{
    if (w->due_ms == 0)
        snprintf(w->changed, sizeof(w->changed), "%s%s%s", folder, *name ? "/" : "", name);
    w->due_ms = now_ms + w->delay_ms;
}

/* --- folders ------------------------------------------------------------------------------------------------------------ */

static void tell_full(struct source_watch *w)
{
    if (!w->full_told)
        log_warning("--reload: not all folders can be watched: %s (raise fs.inotify.max_user_watches, or name fewer with "
                    "--reload-dir)", strerror(errno));
    w->full_told = true;
}

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* inotify has one watch a folder, whatever it is watched for. */
static bool is_there(const struct source_watch *w, int wd, const char *only)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->folders[i].wd == wd && same_text(w->folders[i].only, only))
            return true;
    return false;
}

static bool add_folder(struct source_watch *w, const char *path, const char *only, bool deep)
{
    int wd = w->count < FOLDERS_MAX ? inotify_add_watch(w->fd, path, EVENTS) : (errno = ENOSPC, -1);
    if (wd < 0 && errno == ENOSPC)
        tell_full(w);
    if (wd < 0 || is_there(w, wd, only))
        return false;
    w->folders = mem_realloc(w->folders, (w->count + 1) * sizeof(*w->folders));
    w->folders[w->count++] =
        (struct folder){ .wd = wd, .path = mem_strdup(path), .only = only ? mem_strdup(only) : NULL, .deep = deep };
    return true;
}

static void add_tree(struct source_watch *w, const char *path, int depth, uint64_t fresh_ms);

/* `fresh_ms`: the folder is new, and so is what it holds; 0: it is not. */
static void add_entry(struct source_watch *w, const char *folder, const char *name, int depth, uint64_t fresh_ms)
{
    char path[PATH_MAX];
    struct stat status;
    if (name[0] == '.' || is_excluded(w, name) ||
        snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path) || lstat(path, &status) != 0)
        return;
    if (S_ISDIR(status.st_mode))
        add_tree(w, path, depth + 1, fresh_ms);
    else if (fresh_ms > 0 && matches(&w->includes, name))
        note_change(w, folder, name, fresh_ms);
}

static void add_tree(struct source_watch *w, const char *path, int depth, uint64_t fresh_ms)
{
    if (depth > DEPTH_MAX || has_file(path, "pyvenv.cfg") || !add_folder(w, path, NULL, true))
        return;
    DIR *folder = opendir(path);
    for (const struct dirent *entry; folder && (entry = readdir(folder)) != NULL;)
        add_entry(w, path, entry->d_name, depth, fresh_ms);
    if (folder)
        closedir(folder);
}

static void add_extra(struct source_watch *w, const char *file)
{
    const char *slash = strrchr(file, '/');
    char *folder = slash ? mem_strndup(file, slash == file ? 1 : (size_t)(slash - file)) : mem_strdup(".");
    const char *name = slash ? slash + 1 : file;
    if (!add_folder(w, folder, name, false) && errno != 0)
        log_warning("--reload: %s cannot be watched: %s", file, strerror(errno));
    free(folder);
}

static void remove_folder(struct source_watch *w, size_t i)
{
    free(w->folders[i].path);
    free(w->folders[i].only);
    w->folders[i] = w->folders[--w->count];
}

/* --- events --------------------------------------------------------------------------------------------------------------- */

static void on_entry(struct source_watch *w, const struct folder *folder, const struct inotify_event *event, uint64_t now_ms)
{
    bool is_folder = event->mask & IN_ISDIR, is_new = event->mask & (IN_CREATE | IN_MOVED_TO);
    if (is_folder && is_new && folder->deep)
        add_entry(w, folder->path, event->name, 0, now_ms); /* may move `folder` */
    else if (!is_folder && !(event->mask & IN_CREATE) && counts(w, folder, event->name))
        note_change(w, folder->path, event->name, now_ms);
}

static void on_event(struct source_watch *w, const struct inotify_event *event, uint64_t now_ms)
{
    if (event->mask & IN_Q_OVERFLOW)
        note_change(w, "something", "", now_ms);
    for (size_t i = w->count; i-- > 0;) {
        if (w->folders[i].wd != event->wd)
            continue;
        if (event->mask & IN_IGNORED)
            remove_folder(w, i);
        else if (event->len > 0)
            on_entry(w, &w->folders[i], event, now_ms);
    }
}

void source_watch_read(struct source_watch *w, uint64_t now_ms)
{
    _Alignas(struct inotify_event) char bytes[16 * 1024];
    ssize_t n;
    while ((n = read(w->fd, bytes, sizeof(bytes))) > 0)
        for (char *p = bytes; p < bytes + n;) {
            const struct inotify_event *event = (const struct inotify_event *)p;
            on_event(w, event, now_ms);
            p += sizeof(*event) + event->len;
        }
}

/* --- life ------------------------------------------------------------------------------------------------------------------- */

static void copy_list(struct str_list *to, const struct str_list *from)
{
    to->count = from->count;
    to->items = mem_zalloc((from->count + 1) * sizeof(*to->items));
    for (size_t i = 0; i < from->count; i++)
        to->items[i] = mem_strdup(from->items[i]);
}

static void free_list(struct str_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->items[i]);
    free(list->items);
}

struct source_watch *source_watch_new(const struct settings *settings)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd < 0) {
        log_error("--reload: files cannot be watched: %s", strerror(errno));
        return NULL;
    }
    struct source_watch *w = mem_zalloc(sizeof(*w));
    w->fd = fd;
    w->delay_ms = (uint64_t)settings->reload_delay_ms;
    copy_list(&w->includes, &settings->reload_includes);
    copy_list(&w->excludes, &settings->reload_excludes);
    for (size_t i = 0; i < settings->reload_dirs.count; i++)
        add_tree(w, settings->reload_dirs.items[i], 0, 0);
    if (settings->reload_dirs.count == 0)
        add_tree(w, ".", 0, 0);
    for (size_t i = 0; i < settings->reload_extra_files.count; i++)
        add_extra(w, settings->reload_extra_files.items[i]);
    return w;
}

void source_watch_free(struct source_watch *w)
{
    if (!w)
        return;
    close(w->fd);
    while (w->count > 0)
        remove_folder(w, w->count - 1);
    free(w->folders);
    free_list(&w->includes);
    free_list(&w->excludes);
    free(w);
}

void source_watch_add(struct source_watch *w, struct str folders)
{
    while (folders.len > 0) {
        const char *end = memchr(folders.p, '\n', folders.len);
        size_t len = end ? (size_t)(end - folders.p) : folders.len;
        char *path = mem_strndup(folders.p, len);
        add_folder(w, path, NULL, false);
        free(path);
        folders = (struct str){ folders.p + len + (end != NULL), folders.len - len - (end != NULL) };
    }
}

int source_watch_fd(const struct source_watch *w)
{
    return w->fd;
}

uint64_t source_watch_due_ms(const struct source_watch *w)
{
    return w->due_ms;
}

bool source_watch_take(struct source_watch *w, uint64_t now_ms, const char **changed)
{
    if (w->due_ms == 0 || now_ms < w->due_ms)
        return false;
    w->due_ms = 0;
    *changed = strncmp(w->changed, "./", 2) == 0 ? w->changed + 2 : w->changed;
    return true;
}

void source_watch_wait(struct source_watch *w, const char **changed)
{
    uint64_t now_ms = clock_ms();
    while (!source_watch_take(w, now_ms, changed)) {
        struct pollfd polled = { .fd = w->fd, .events = POLLIN };
        poll(&polled, 1, w->due_ms > now_ms ? (int)(w->due_ms - now_ms) : -1);
        now_ms = clock_ms();
        source_watch_read(w, now_ms);
    }
}
