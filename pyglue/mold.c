/* mold: the process from which workers are forked: the user's python, started by the master as
 *
 *     python -c "from licorne._core import mold; mold(<channel>, <scoreboard>)"
 *
 * Its life is one straight line (server/process/channel.h has the conversation): say hello, run the configuration file,
 * take the merged settings, load the application if it is to be shared, then fork whenever asked to. It serves nothing.
 *
 * A fork is a double fork: the child in between exits at once, so that the worker's parent is the master (a subreaper).
 * One pair of Python's fork hooks spans both forks. The worker tells the master before it does anything else. */
#include "pyglue/module.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/settings.h"
#include "config/version.h"
#include "pyglue/allocator.h"
#include "pyglue/config_file.h"
#include "pyglue/hooks.h"
#include "pyglue/leftover.h"
#include "pyglue/load.h"
#include "pyglue/pyerr.h"
#include "pyglue/pyexit.h"
#include "pyglue/pylog.h"
#include "pyglue/serve.h"
#include "pyglue/sources.h"
#include "pyglue/warmup.h"
#include "server/base/mem.h"
#include "server/base/statsd.h"
#include "server/process/channel.h"
#include "server/process/descriptors.h"
#include "server/process/inherit.h"
#include "server/process/privileges.h"
#include "server/process/scoreboard.h"
#include "server/process/title.h"
#include "server/process/worker.h"

#define EXIT_CONFIG 1
#define EXIT_BOOT 3
#define EXIT_APP 4
#define END_MS 1500 /* what the application's atexit handlers may take in the mold; less than MOLD_STOP_MS */

struct mold {
    int channel, scoreboard_fd;
    struct scoreboard *scoreboard;
    struct settings settings;
    struct application application; /* loaded here: preload_app */
    bool collects;                  /* the collector was on before we turned it off */
    struct channel_message *message;
};

/* ---- how it ends ---------------------------------------------------------------------------------------------- */

static void tell_failure(const struct mold *m, int exit_code, uint32_t slot, const char *message)
{
    struct channel_failed failed = { .exit_code = exit_code, .slot = slot };
    strncpy(failed.message, message, sizeof(failed.message) - 1);
    channel_send(m->channel, CHANNEL_FAILED, &failed, sizeof(failed), NULL, 0);
}

_Noreturn static void fail(const struct mold *m, int exit_code, const char *format, ...)
{
    char message[sizeof(((struct channel_failed *)0)->message)];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    tell_failure(m, exit_code, UINT32_MAX, message);
    pyexit(exit_code, END_MS);
}

_Noreturn static void fail_with(const struct mold *m, int exit_code, struct buf *message)
{
    while (buf_len(message) > 0 && message->data[message->end - 1] == '\n')
        message->end--;
    fail(m, exit_code, "%.*s", (int)buf_len(message), buf_str(message).p);
}

/* The master is gone, or wants the mold to go. */
_Noreturn static void end(void)
{
    pyexit(0, END_MS);
}

/* ---- signals -------------------------------------------------------------------------------------------------- */

static void on_nothing(int number)
{
    (void)number;
}

/* A terminal or a service manager signals the whole group: only the master decides what that means. Handled by nothing
 * rather than ignored, so that programs which the application starts get their defaults; the worker sets its own. */
static void withstand_signals(void)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU, SIGWINCH };
    struct sigaction action = { .sa_handler = on_nothing, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
}

/* While the user's code runs nobody reads the channel, so that EOF would not be seen. Not inherited by a fork. */
static void die_with_master(bool on)
{
    prctl(PR_SET_PDEATHSIG, on ? SIGKILL : 0, 0, 0, 0);
}

/* ---- the conversation's first half: settings ------------------------------------------------------------------ */

/* The channel is at its end, which is how the master's end shows; or a message was cut off (no free descriptors). */
_Noreturn static void end_of_channel(const struct mold *m)
{
    if (errno == EPIPE || errno == ECONNRESET)
        end();
    fail(m, EXIT_BOOT, "The listening sockets cannot be handed to a worker: %s%s", strerror(errno),
         errno == EMFILE ? ". Importing the application has opened too many: raise `ulimit -n`" : "");
}

static void wait_for_message(struct mold *m)
{
    pyexit_flush(); /* the wait may be long */
    PyThreadState *thread = PyEval_SaveThread();
    int got = channel_wait(m->channel, m->message, -1);
    int error = errno; /* taking the GIL back may change it */
    PyEval_RestoreThread(thread);
    errno = error;
    if (got <= 0)
        end_of_channel(m);
}

/* Waits for one message of this type; a STOP or the master's end ends the mold. */
static void expect(struct mold *m, enum channel_type type)
{
    wait_for_message(m);
    if (m->message->type == CHANNEL_STOP)
        end();
    if (m->message->type != type)
        fail(m, EXIT_CONFIG, "The master sent message %d where %d was due: master and package differ in version",
             (int)m->message->type, (int)type);
}

static void say_hello(const struct mold *m)
{
    struct channel_hello hello = { .version = CHANNEL_VERSION, .package = LICORNE_VERSION };
    snprintf(hello.python, sizeof(hello.python), "%d.%d.%d", PY_MAJOR_VERSION, PY_MINOR_VERSION, PY_MICRO_VERSION);
    PyObject *version = PySys_GetObject("version"); // borrowed: the interpreter's, not the headers'
    const char *text = version != NULL ? PyUnicode_AsUTF8(version) : NULL;
    if (text != NULL)
        snprintf(hello.python, sizeof(hello.python), "%.*s", (int)strcspn(text, " "), text);
    PyErr_Clear();
    if (channel_send(m->channel, CHANNEL_HELLO, &hello, sizeof(hello), NULL, 0) < 0)
        end();
}

static void receive_settings(struct mold *m, enum channel_type type, struct settings *settings)
{
    struct buf errors = { 0 };
    expect(m, type);
    settings_init(settings);
    if (!settings_from_text(settings, (struct str){ m->message->data, m->message->len }, &errors))
        fail_with(m, EXIT_CONFIG, &errors);
}

static void open_log(const struct mold *m, const char *path, const struct settings *settings)
{
    log_set_colours((enum log_colours)settings->use_colors);
    if (log_open(path, settings->loglevel) < 0)
        fail(m, EXIT_CONFIG, "The error log \"%s\" cannot be opened: %s", path, strerror(errno));
}

/* The log as far as it is known before the configuration file has run; a relative path is one in `chdir`. */
static void open_first_log(const struct mold *m, const struct settings *given)
{
    const char *path = given->errorlog;
    if (path == NULL || path[0] == '/' || strcmp(path, "-") == 0 || given->chdir == NULL) {
        open_log(m, path, given);
        return;
    }
    char *inside = mem_printf("%s/%s", given->chdir, path);
    open_log(m, inside, given);
    free(inside);
}

/* Runs the configuration file and sends what it says. */
static void answer_settings(struct mold *m)
{
    struct settings given, file;
    struct buf message = { 0 }, text = { 0 };
    receive_settings(m, CHANNEL_SETTINGS, &given);
    open_first_log(m, &given);
    settings_init(&file);
    if (!config_file_read(&file, &given, &message))
        fail_with(m, EXIT_CONFIG, &message);
    settings_to_text(&file, SOURCE_CONFIG_FILE, &text);
    if (channel_send(m->channel, CHANNEL_SETTINGS, buf_str(&text).p, buf_len(&text), NULL, 0) < 0)
        end();
    buf_done(&text);
    settings_done(&file);
    settings_done(&given);
}

/* ---- the interpreter's surroundings --------------------------------------------------------------------------- */

/* sys.path.insert(0, folder), out of its old place if it was there. */
static void put_first(const char *folder)
{
    PyObject *path = PySys_GetObject("path"); // borrowed
    PyObject *text = PyUnicode_DecodeFSDefault(folder);
    if (path == NULL || text == NULL || PyList_Insert(path, 0, text) < 0)
        pyerr_log("sys.path cannot be changed:");
    Py_XDECREF(text);
}

/* `python -c` put '' there: the current directory, whatever that will be. */
static void drop_empty_path(void)
{
    PyObject *path = PySys_GetObject("path"); // borrowed
    PyObject *first = path != NULL && PyList_Check(path) && PyList_GET_SIZE(path) > 0 ? PyList_GET_ITEM(path, 0) : NULL;
    if (first != NULL && PyUnicode_Check(first) && PyUnicode_GetLength(first) == 0 &&
        PyList_SetSlice(path, 0, 1, NULL) < 0)
        PyErr_Clear();
}

static void put_cwd_first(const struct mold *m)
{
    char cwd[PATH_MAX];
    if (getcwd(cwd, sizeof(cwd)) == NULL)
        fail(m, EXIT_CONFIG, "The current directory cannot be found: %s", strerror(errno));
    drop_empty_path();
    put_first(cwd);
}

/* Last first, so that the first one written is the first one searched; relative to the working directory. */
static void apply_pythonpath(const char *folders)
{
    char *list = mem_strdup(folders), *comma, *resolved;
    do {
        comma = strrchr(list, ',');
        char *folder = comma != NULL ? comma + 1 : list;
        folder += strspn(folder, " ");
        resolved = realpath(folder, NULL);
        if (resolved == NULL)
            log_warning("pythonpath: %s: %s", folder, strerror(errno));
        put_first(resolved != NULL ? resolved : folder);
        free(resolved);
        if (comma != NULL)
            *comma = '\0';
    } while (comma != NULL);
    free(list);
}

static void apply_chdir(struct mold *m)
{
    char cwd[PATH_MAX];
    if (m->settings.chdir == NULL || m->settings.chdir[0] == '\0')
        return;
    if (chdir(m->settings.chdir) < 0 || getcwd(cwd, sizeof(cwd)) == NULL)
        fail(m, EXIT_CONFIG, "chdir: %s: %s", m->settings.chdir, strerror(errno));
    put_first(cwd);
}

/* os.environ[name] = value, which also changes the C environment. */
static void set_environment(const char *name, const char *value)
{
    PyObject *os = PyImport_ImportModule("os"), *environ = os != NULL ? PyObject_GetAttrString(os, "environ") : NULL;
    PyObject *result = NULL;
    if (environ != NULL && value != NULL)
        result = PyObject_CallMethod(environ, "__setitem__", "ss", name, value);
    else if (environ != NULL)
        result = PyObject_CallMethod(environ, "pop", "sO", name, Py_None);
    if (result == NULL)
        pyerr_log("The environment cannot be changed:");
    Py_XDECREF(result);
    Py_XDECREF(environ);
    Py_XDECREF(os);
}

/* The last thing that is done as who has started the server. */
static void drop_privileges(const struct mold *m)
{
    struct buf message = { 0 };
    struct privileges privileges;
    if (!privileges_find(&privileges, &m->settings, &message))
        fail_with(m, EXIT_CONFIG, &message);
    if (privileges_drop(&privileges) != 0)
        fail(m, EXIT_CONFIG, "Cannot become user %u and group %u: %s", (unsigned)privileges.uid,
             (unsigned)privileges.gid, strerror(errno));
    if (privileges.drop)
        die_with_master(true); /* the kernel forgets it when the user changes */
}

/* What the application finds around it. */
static void apply_environment(const struct settings *settings)
{
    int mask = settings_umask(settings);
    if (mask >= 0)
        umask((mode_t)mask);
    for (size_t i = 0; i < settings->raw_env.count; i++) {
        const char *item = settings->raw_env.items[i], *equals = strchr(item, '=');
        char *name = mem_strndup(item, (size_t)(equals - item));
        set_environment(name, equals + 1);
        free(name);
    }
}

/* What the master put there to start this process is not for the application's children (mold_handle.h). */
static void restore_environment(void)
{
    static const char *const names[][2] = {
        { "LD_PRELOAD", "LICORNE_SAVED_LD_PRELOAD" },
        { "MALLOC_CONF", "LICORNE_SAVED_MALLOC_CONF" },
    };
    for (int i = 0; i < 2; i++) {
        const char *saved = getenv(names[i][1]);
        if (saved == NULL)
            continue;
        set_environment(names[i][0], saved[0] != '\0' ? saved : NULL);
        set_environment(names[i][1], NULL);
    }
}

static void set_program_name(void)
{
    PyObject *argv = Py_BuildValue("[s]", "licorne");
    if (argv == NULL || PySys_SetObject("argv", argv) < 0)
        PyErr_Clear();
    Py_XDECREF(argv);
    set_environment("SERVER_SOFTWARE", "licorne/" LICORNE_VERSION);
}

/* ---- preloading ----------------------------------------------------------------------------------------------- */

static bool call_gc(const char *function, bool *truth)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *result = gc != NULL ? PyObject_CallMethod(gc, function, NULL) : NULL;
    if (result == NULL)
        pyerr_log("gc.%s() failed:", function);
    else if (truth != NULL)
        *truth = PyObject_IsTrue(result) == 1;
    Py_XDECREF(gc);
    bool ok = result != NULL;
    Py_XDECREF(result);
    return ok;
}

/* What each worker would import next is shared, and a worker boots the sooner. */
static void import_runtime(enum application_kind kind)
{
    static const char *const modules[] = { "licorne.loop", "licorne._asgi", "licorne._dump" };
    for (size_t i = 0; kind != APPLICATION_WSGI && i < sizeof(modules) / sizeof(modules[0]); i++) {
        PyObject *module = PyImport_ImportModule(modules[i]);
        if (module == NULL)
            pyerr_log("Importing %s failed:", modules[i]);
        Py_XDECREF(module);
    }
}

static bool guess_asgi(const char *app)
{
    PyObject *module = PyImport_ImportModule("licorne._guess");
    PyObject *answer = module != NULL ? PyObject_CallMethod(module, "speaks_asgi", "s", app) : NULL;
    bool asgi = answer == Py_True;
    if (answer == NULL)
        PyErr_Clear(); /* whoever loads it will say what is wrong */
    Py_XDECREF(answer);
    Py_XDECREF(module);
    return asgi;
}

/* The workers load the application. */
static enum application_kind likely_kind(const struct settings *settings)
{
    if (settings->interface == INTERFACE_WSGI || settings->threads > 1 || settings->paste != NULL ||
        settings->app == NULL)
        return APPLICATION_WSGI;
    return settings->interface != INTERFACE_AUTO || guess_asgi(settings->app) ? APPLICATION_ASGI3 : APPLICATION_WSGI;
}

static void preload(struct mold *m)
{
    struct buf message = { 0 };
    if (!serve_load(&m->application, &m->settings, &message))
        fail_with(m, EXIT_APP, &message);
    import_runtime(m->application.kind);
    leftover_warn("Preloading the application", "at import");
}

static void warm_up_once(struct mold *m)
{
    struct buf message = { 0 };
    if (!warm_up(&m->application, &m->settings, &message))
        fail_with(m, EXIT_BOOT, &message);
    leftover_warn("The warm-up", "in the warm-up");
}

/* Nothing that exists now is looked at by a worker's collector, so that its pages stay shared. */
static void freeze(struct mold *m)
{
    call_gc("isenabled", &m->collects);
    call_gc("collect", NULL);
    call_gc("disable", NULL);
    call_gc("freeze", NULL);
    allocator_purge(); /* what was freed would be copied with its pages' first use */
}

static void tell_sources(const struct mold *m)
{
    struct buf text = { 0 };
    if (!m->settings.reload)
        return;
    sources_list(&text);
    channel_send(m->channel, CHANNEL_SOURCES, buf_str(&text).p, buf_len(&text), NULL, 0);
    buf_done(&text);
}

static void say_loaded(const struct mold *m)
{
    struct channel_loaded loaded = { .kind = "", .hooks = hooks_any() };
    if (m->application.callable != NULL)
        strncpy(loaded.kind, application_kind_name(m->application.kind), sizeof(loaded.kind) - 1);
    if (channel_send(m->channel, CHANNEL_LOADED, &loaded, sizeof(loaded), NULL, 0) < 0)
        end();
}

/* ---- forking -------------------------------------------------------------------------------------------------- */

/* `fds`: the sockets, and both ends of the exchange of each. */
static void inherit_listeners(struct inherit *inherit, const int *fds, int count)
{
    size_t room = (size_t)count + 1;
    inherit->listener_count = count;
    inherit->listeners = mem_alloc(sizeof(*inherit->listeners) * room);
    inherit->exchanges = mem_alloc(sizeof(*inherit->exchanges) * room);
    memcpy(inherit->listeners, fds, sizeof(*inherit->listeners) * (size_t)count);
    memcpy(inherit->exchanges, fds + count, sizeof(*inherit->exchanges) * (size_t)count);
}

static struct inherit *inherit_new(struct mold *m)
{
    struct inherit *inherit = mem_zalloc(sizeof(*inherit));
    struct channel_spawn spawn;
    memcpy(&spawn, m->message->data, sizeof(spawn));
    inherit->channel = m->message->fds[0];
    inherit->bell = m->message->fds[1];
    inherit_listeners(inherit, m->message->fds + 2, (m->message->fd_count - 2) / 3);
    inherit->slot = &m->scoreboard->slots[spawn.slot];
    inherit->inflight = &m->scoreboard->inflight[spawn.slot];
    inherit->scoreboard = m->scoreboard;
    inherit->slot_index = spawn.slot;
    inherit->generation = spawn.generation;
    inherit->age = spawn.age;
    inherit->settings = &m->settings;
    return inherit;
}

static void inherit_free(struct inherit *inherit)
{
    free(inherit->listeners);
    free(inherit->exchanges);
    free(inherit);
}

_Noreturn static void become_worker(struct mold *m, struct inherit *inherit)
{
    close(m->channel);
    close(m->scoreboard_fd);
    if (worker_hello(inherit) < 0)
        _exit(0); /* the master is gone */
    PyOS_AfterFork_Child();
    pylog_forked();
    free(m->message);
    if (m->collects)
        call_gc("enable", NULL);
    if (!hooks_tell("forked", "()")) {
        worker_failed(inherit, EXIT_BOOT, "The hook post_fork failed: see the log above.");
        pyexit(EXIT_BOOT, END_MS);
    }
    serve(inherit, &m->application);
}

/* The child in between. The second fork's failure is its exit code. */
_Noreturn static void fork_again(struct mold *m, struct inherit *inherit)
{
    pid_t pid = fork();
    if (pid == 0)
        become_worker(m, inherit);
    _exit(pid < 0 ? errno : 0);
}

/* 0, or the errno of the fork that failed. */
static int fork_worker(struct mold *m, struct inherit *inherit)
{
    int status = 0;
    pyexit_flush(); /* or every worker would print again what lies in the buffers */
    PyOS_BeforeFork();
    pid_t pid = fork();
    int error = pid < 0 ? errno : 0;
    if (pid == 0)
        fork_again(m, inherit);
    PyOS_AfterFork_Parent();
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return error != 0 ? error : WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

static void spawn(struct mold *m)
{
    struct channel_spawn *spawn = (struct channel_spawn *)m->message->data;
    if (m->message->len < sizeof(*spawn) || m->message->fd_count < 2 || spawn->slot >= m->scoreboard->slot_count) {
        log_error("The master sent a malformed message: no worker was made");
        return;
    }
    struct inherit *inherit = inherit_new(m);
    hooks_listen(inherit->listeners, (size_t)inherit->listener_count);
    bool allowed = hooks_tell("forking", "(I)", inherit->age);
    int error = allowed ? fork_worker(m, inherit) : 0;
    if (!allowed) {
        tell_failure(m, EXIT_BOOT, inherit->slot_index, "The hook pre_fork failed: no worker was made");
    } else if (error != 0) {
        char message[256];
        snprintf(message, sizeof(message), "A worker cannot be forked: %s", strerror(error));
        tell_failure(m, EXIT_BOOT, inherit->slot_index, message);
    }
    inherit_free(inherit);
}

/* For the hooks. Without on_starting and when_ready nothing was promised; without the others the server goes on. */
static void hear_event(struct mold *m)
{
    struct channel_event event = { 0 };
    memcpy(&event, m->message->data, m->message->len < sizeof(event) ? m->message->len : sizeof(event));
    switch ((enum channel_event_kind)event.kind) {
    case EVENT_WORKERS_CHANGED:
        hooks_tell("workers_changed", "(ii)", event.new_count, event.old_count);
        break;
    case EVENT_STARTING:
        if (!hooks_tell("starting", "()"))
            fail(m, EXIT_CONFIG, "The hook on_starting failed: see the log above");
        break;
    case EVENT_READY:
        if (!hooks_tell("ready", "()"))
            fail(m, EXIT_CONFIG, "The hook when_ready failed: see the log above");
        break;
    case EVENT_RELOAD:
        hooks_tell("reloaded", "()");
        break;
    case EVENT_WORKER_BORN:
        hooks_tell("child_born", "(iI)", event.pid, event.age);
        break;
    case EVENT_WORKER_EXITED:
        hooks_tell("child_exited", "(iI)", event.pid, event.age);
        break;
    case EVENT_UPGRADE:
        hooks_tell("upgrades", "()");
        break;
    case EVENT_EXIT:
        hooks_tell("server_exits", "()");
        break;
    }
}

static void hear_log(struct mold *m)
{
    struct log_line head;
    if (m->message->len < sizeof(head))
        return;
    memcpy(&head, m->message->data, sizeof(head));
    pylog_hear(&head, (struct str){ m->message->data + sizeof(head), m->message->len - sizeof(head) });
}

static void obey(struct mold *m)
{
    switch (m->message->type) {
    case CHANNEL_SPAWN:
        spawn(m);
        break;
    case CHANNEL_REOPEN:
        if (log_reopen() < 0)
            log_error("Cannot reopen the error log: %s", strerror(errno));
        pylog_reopen();
        break;
    case CHANNEL_EVENT:
        hear_event(m);
        break;
    case CHANNEL_LOG:
        hear_log(m);
        break;
    case CHANNEL_STOP:
        end();
    default:
        log_warning("The master sent a message that a mold does not know: %d", (int)m->message->type);
    }
}

_Noreturn static void obey_forever(struct mold *m)
{
    for (;;) {
        wait_for_message(m);
        obey(m);
        channel_close_fds(m->message);
        if (PyErr_CheckSignals() < 0)
            pyerr_log("A signal handler of the application failed:");
    }
}

static void read_env_file(struct mold *m)
{
    struct buf message = { 0 };
    for (size_t i = 0; i < m->settings.env_file.count; i++)
        if (!config_file_environment(m->settings.env_file.items[i], &message))
            fail_with(m, EXIT_CONFIG, &message);
}

/* Workers inherit the socket. */
static void open_statsd(const struct settings *settings)
{
    const char *reason = NULL;
    if (!statsd_open(settings->statsd_host, settings->statsd_prefix, settings->dogstatsd_tags, &reason))
        log_debug("statsd_host = \"%s\" cannot be used: %s", settings->statsd_host, reason); /* the master says it */
    statsd_count_log();
}

static void tell_logs(const struct mold *m)
{
    struct channel_logs logs = { .sharing = (uint8_t)pylog_wants() };
    if (channel_send(m->channel, CHANNEL_LOGS, &logs, sizeof(logs), NULL, 0) < 0)
        end();
}

/* The application may have changed where the lines go. */
static void look_at_loggers(const struct mold *m)
{
    enum log_sharing before = pylog_wants();
    pylog_look();
    if (pylog_wants() != before)
        tell_logs(m);
}

static void configure_logging(struct mold *m)
{
    struct buf message = { 0 };
    if (!pylog_begin(&m->settings, &message))
        fail_with(m, EXIT_CONFIG, &message);
    tell_logs(m);
    while (channel_receive(m->channel, m->message) > 0) { /* what the master has said before comes first */
        obey(m);
        channel_close_fds(m->message);
    }
}

/* ---- entry point ---------------------------------------------------------------------------------------------- */

static void mold_init(struct mold *m, int channel, int scoreboard_fd)
{
    m->channel = channel;
    m->scoreboard_fd = scoreboard_fd;
    m->message = mem_alloc(sizeof(*m->message));
    fcntl(channel, F_SETFD, FD_CLOEXEC);
    fcntl(scoreboard_fd, F_SETFD, FD_CLOEXEC);
    say_hello(m);
    m->scoreboard = scoreboard_map(scoreboard_fd);
    if (m->scoreboard == NULL)
        fail(m, EXIT_CONFIG,
             "The running master and the installed package differ in version: USR2 exchanges the master too");
}

static PyObject *py_mold(PyObject *self, PyObject *args)
{
    static struct mold mold; /* outlives the stack: workers' threads see its settings */
    int channel, scoreboard_fd;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii:mold", &channel, &scoreboard_fd))
        return NULL;
    withstand_signals();
    die_with_master(true);
    mold_init(&mold, channel, scoreboard_fd);
    restore_environment();
    set_program_name();
    put_cwd_first(&mold);
    answer_settings(&mold);
    receive_settings(&mold, CHANNEL_CONFIGURED, &mold.settings);
    title_set("licorne: mold [%s]", settings_name(&mold.settings));
    descriptors_limit(mold.settings.open_files);
    apply_chdir(&mold);
    open_log(&mold, mold.settings.errorlog, &mold.settings);
    if (mold.settings.capture_output)
        log_capture();
    drop_privileges(&mold);
    apply_environment(&mold.settings);
    read_env_file(&mold);
    if (mold.settings.pythonpath != NULL)
        apply_pythonpath(mold.settings.pythonpath);
    open_statsd(&mold.settings);
    configure_logging(&mold);
    if (!hooks_begin(&mold.settings))
        fail(&mold, EXIT_CONFIG, "The hooks of the configuration file cannot be used: see the log above");
    if (mold.settings.preload_app || mold.settings.check_config)
        preload(&mold);
    else
        import_runtime(likely_kind(&mold.settings));
    if (mold.settings.preload_app && !mold.settings.check_config)
        warm_up_once(&mold);
    withstand_signals(); /* the application may have set its own */
    look_at_loggers(&mold);
    freeze(&mold);
    die_with_master(false);
    tell_sources(&mold);
    say_loaded(&mold);
    obey_forever(&mold);
}

static PyMethodDef functions[] = {
    { "mold", py_mold, METH_VARARGS, "mold(channel, scoreboard): live as the process that workers are forked from." },
    { NULL, NULL, 0, NULL },
};

int mold_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
