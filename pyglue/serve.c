/* serve: see serve.h. Who tells whom:
 *
 *     worker --on_accept--> http_server --on_request--> app (runtime->app)
 *     worker --on_take----> http_server --hand_over---> worker: idle connections, from and to siblings
 *     worker --on_drain---> http_server --on_empty----> worker --on_left--> runtime stops turning the loop
 *     http_server --on_finished--> max_requests;  --on_room--> worker accepts again
 *     http_server counts and lists what is in flight in the scoreboard
 *
 * The worker owns nothing that has to be given back at its end but what the application wants to end by itself
 * (lifespan, threads, atexit): the process exits and takes the rest along. */
#include "pyglue/serve.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "config/settings.h"
#include "pyglue/allocator.h"
#include "pyglue/dump.h"
#include "pyglue/hooks.h"
#include "pyglue/pyerr.h"
#include "pyglue/pyexit.h"
#include "pyglue/pylog.h"
#include "pyglue/runtime.h"
#include "pyglue/sources.h"
#include "pyglue/warmup.h"
#include "server/base/clock.h"
#include "server/base/mem.h"
#include "server/http/http_server.h"
#include "server/process/descriptors.h"
#include "server/process/inherit.h"
#include "server/process/scoreboard.h"
#include "server/process/worker.h"

#define EXIT_BOOT 3
#define EXIT_APP 4
#define FAST_END_MS 2000  /* after a fast stop: what the application's own shutdown may take */
#define CROWD_LOOK_MS 100
#define CROWD_LOG_MS 60000
#define QUIET_MS 1000     /* no request for so long: the memory that a busy spell took goes back */
#define LEAST_END_MS 1000 /* … and what is left of graceful_timeout at least */

struct serving {
    const struct inherit *inherit;
    const struct settings *settings;
    struct runtime *runtime;
    struct http_server *http;
    struct worker *worker;
    struct endpoint *endpoints; /* by listener; they live as long as the process */
    uint64_t requests_at_most;  /* max_requests with its jitter; 0: no limit */
    uint64_t end_by_ms;         /* when the end must be over; 0: not yet ending */
    struct coarse_timer quiet, full;
    int64_t conns_most;         /* worker_connections, or what descriptors there are */
    uint64_t crowd_log_ms;      /* that others wait is not said again before */
    uint64_t turnover_seen;     /* when `quiet` was set, or at the last purge */
    bool accepting, left, awaits_quiet;
};

/* ---- what the worker tells -------------------------------------------------------------------------------------- */

static uint64_t turnover(const struct serving *s)
{
    return http_server_turnover(s->http);
}

/* About once a second while there is something to do, and once afterwards. */
static void on_quiet(struct coarse_timer *timer)
{
    struct serving *s = LIST_ENTRY(timer, struct serving, quiet);
    s->awaits_quiet = false;
    worker_show(s->worker, tally_get(&http_server_tally(s->http)->requests));
    if (turnover(s) == s->turnover_seen)
        allocator_purge();
}

/* Once about a second after a busy spell: the allocator gives nothing back while it is not used. */
static void await_quiet(struct serving *s)
{
    if (s->awaits_quiet || turnover(s) == s->turnover_seen)
        return;
    s->awaits_quiet = true;
    s->turnover_seen = turnover(s);
    coarse_timer_arm(s->runtime->loop, &s->quiet, QUIET_MS);
}

static void publish_load(const struct serving *s)
{
    const struct tally *tally = http_server_tally(s->http);
    worker_load(s->worker, tally_get(&tally->conns) + tally_get(&tally->in_flight));
}

static void before_wait(void *arg)
{
    struct serving *s = arg;
    await_quiet(s);
    publish_load(s);
    dump_renew();
}

static void on_dumped(void *arg, int fd)
{
    const struct serving *s = arg;
    worker_dumped(s->worker, fd);
}

static void set_accepting(struct serving *s, bool accepting)
{
    if (s->accepting == accepting)
        return;
    s->accepting = accepting;
    worker_accept(s->worker, accepting);
}

static void look_for_room(struct serving *s)
{
    if (http_server_has_room(s->http))
        return;
    set_accepting(s, false);
    if (s->full.due_ms == 0)
        coarse_timer_arm(s->runtime->loop, &s->full, CROWD_LOOK_MS);
}

static void on_accept(void *arg, int listener, int fd, const struct sockaddr *peer, socklen_t peer_len)
{
    struct serving *s = arg;
    http_server_accept(s->http, fd, peer, peer_len, &s->endpoints[listener]);
    publish_load(s);
    look_for_room(s);
}

/* All places are taken: now and then it is looked whether anybody waits for one. */
static void on_full(struct coarse_timer *timer)
{
    struct serving *s = LIST_ENTRY(timer, struct serving, full);
    if (s->accepting || worker_draining(s->worker))
        return;
    coarse_timer_arm(s->runtime->loop, &s->full, CROWD_LOOK_MS);
    if (!worker_awaited(s->worker))
        return;
    http_server_crowd(s->http);
    if (clock_ms() < s->crowd_log_ms)
        return;
    s->crowd_log_ms = clock_ms() + CROWD_LOG_MS;
    log_warning("All %lld connections that this worker may have are taken, and others wait: they take turns "
                "(--worker-connections, ulimit -n)",
                (long long)s->conns_most);
}

static void on_take(void *arg, int listener, const struct parcel *parcel)
{
    struct serving *s = arg;
    http_server_take(s->http, parcel, &s->endpoints[listener]);
    publish_load(s);
    look_for_room(s);
}

static enum hand_over_result hand_over(void *arg, const struct parcel *parcel, const struct endpoint *local)
{
    struct serving *s = arg;
    switch (worker_hand_over(s->worker, (int)(local - s->endpoints), parcel)) {
    case EXCHANGE_SENT:
        return HAND_OVER_DONE;
    case EXCHANGE_FULL:
        return HAND_OVER_LATER;
    case EXCHANGE_SHUT:
        break;
    }
    return HAND_OVER_NEVER;
}

static int on_give(void *arg, struct io *io)
{
    struct serving *s = arg;
    struct parcel parcel;
    const struct endpoint *local = http_server_pack(io, &parcel);
    return worker_relieve(s->worker, (int)(local - s->endpoints), &parcel);
}

static void on_gave(void *arg, struct io *io)
{
    (void)arg;
    http_server_gave(io);
}

static void on_hand_over(void *arg, bool room)
{
    struct serving *s = arg;
    (room ? http_server_move_on : http_server_stay)(s->http);
}

static void on_room(void *arg)
{
    set_accepting(arg, true);
}

static void on_finished(void *arg, uint64_t requests)
{
    struct serving *s = arg;
    if (requests < s->requests_at_most || worker_draining(s->worker))
        return;
    s->requests_at_most = UINT64_MAX; /* told once */
    char *reason = mem_printf("max_requests: %llu served", (unsigned long long)requests);
    worker_leave(s->worker, reason);
    free(reason);
}

static void on_worn(void *arg, const char *reason)
{
    struct serving *s = arg;
    worker_leave(s->worker, reason);
}

static void on_shorter(void *arg, uint64_t limit_ms)
{
    struct serving *s = arg;
    worker_shorter(s->worker, limit_ms);
}

static void end_within(struct serving *s, int64_t limit_ms)
{
    uint64_t by = clock_ms() + (uint64_t)limit_ms;
    if (s->end_by_ms == 0 || by < s->end_by_ms)
        s->end_by_ms = by;
}

static void on_empty(void *arg)
{
    worker_drained(((struct serving *)arg)->worker);
}

static void on_drain(void *arg)
{
    struct serving *s = arg;
    end_within(s, s->settings->graceful_timeout_ms);
    if (worker_alone(s->worker))
        http_server_on_hand_over(s->http, NULL, NULL);
    http_server_drain(s->http, on_empty, s);
}

static void on_abort(void *arg)
{
    struct serving *s = arg;
    bool draining = s->end_by_ms != 0; /* then it is graceful_timeout that ends it, not a signal */
    if (!draining)
        hooks_tell("interrupted", "()");
    end_within(s, FAST_END_MS);
    http_server_abort(s->http);
}

static void on_left(void *arg)
{
    struct serving *s = arg;
    s->left = true;
    s->runtime->ops->stop(s->runtime);
}

static void on_reopen_logs(void *arg)
{
    struct serving *s = arg;
    if (log_reopen() < 0)
        log_error("Cannot reopen the error log: %m");
    http_server_reopen_log(s->http);
    pylog_reopen();
}

static const struct worker_ops worker_ops = {
    .on_accept = on_accept,
    .on_take = on_take,
    .on_hand_over = on_hand_over,
    .on_give = on_give,
    .on_gave = on_gave,
    .on_drain = on_drain,
    .on_abort = on_abort,
    .on_left = on_left,
    .on_reopen_logs = on_reopen_logs,
};

/* ---- booting ---------------------------------------------------------------------------------------------------- */

_Noreturn static void fail(struct serving *s, int exit_code, const char *message)
{
    worker_failed(s->inherit, exit_code, message);
    hooks_tell("exiting", "()");
    pyexit(exit_code, LEAST_END_MS);
}

bool serve_load(struct application *application, const struct settings *settings, struct buf *message)
{
    struct load_spec spec = {
        .app = settings->app,
        .paste = settings->paste,
        .paste_globals = &settings->raw_paste_global_conf,
        .factory = settings->factory,
        .interface = settings->interface,
    };
    return application_load(application, &spec, message);
}

/* Before it can fail: the next change is what mends it. */
static void tell_sources(const struct serving *s)
{
    struct buf text = { 0 };
    if (!s->settings->reload)
        return;
    sources_list(&text);
    worker_sources(s->inherit, buf_str(&text));
    buf_done(&text);
}

/* What the import made lives as long as the worker: the collector need not look at it again and again. */
static void freeze_heap(void)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *collected = gc != NULL ? PyObject_CallMethod(gc, "collect", NULL) : NULL;
    PyObject *frozen = collected != NULL ? PyObject_CallMethod(gc, "freeze", NULL) : NULL;
    if (frozen == NULL)
        pyerr_log("The heap cannot be frozen:");
    Py_XDECREF(frozen);
    Py_XDECREF(collected);
    Py_XDECREF(gc);
}

static void load(struct serving *s, struct application *application)
{
    struct buf message = { 0 };
    bool loaded = serve_load(application, s->settings, &message);
    tell_sources(s);
    if (!loaded) {
        buf_append(&message, "", 1);
        fail(s, EXIT_APP, buf_str(&message).p);
    }
    if (!warm_up(application, s->settings, &message)) {
        buf_append(&message, "", 1);
        fail(s, EXIT_BOOT, buf_str(&message).p);
    }
    pylog_look();
    freeze_heap();
}

static struct runtime *runtime_new(const struct settings *settings, const struct application *application)
{
    enum application_kind kind = application->kind;
    PyObject *callable = hooks_wrap(application->callable, &kind);
    struct runtime *runtime = NULL;
    if (callable != NULL && kind == APPLICATION_WSGI)
        runtime = wsgi_runtime_new(settings, callable);
    else if (callable != NULL)
        runtime = asgi_runtime_new(settings, callable, kind == APPLICATION_ASGI2 ? 2 : 3);
    Py_XDECREF(callable);
    return runtime;
}

static struct endpoint *endpoints_of(const struct inherit *inherit)
{
    struct endpoint *endpoints = mem_zalloc(sizeof(*endpoints) * (size_t)(inherit->listener_count + 1));
    for (int i = 0; i < inherit->listener_count; i++) {
        struct sockaddr_storage address = { 0 };
        socklen_t len = sizeof(address);
        if (getsockname(inherit->listeners[i], (struct sockaddr *)&address, &len) < 0)
            len = 0;
        endpoint_init(&endpoints[i], (struct sockaddr *)&address, len);
    }
    return endpoints;
}

/* max_requests, and up to the jitter more, so that siblings do not leave together. */
static uint64_t draw_requests_at_most(const struct settings *settings)
{
    uint64_t random = 0;
    if (settings->max_requests == 0)
        return 0;
    if (getrandom(&random, sizeof(random), 0) < 0)
        random = clock_ns();
    return (uint64_t)settings->max_requests + random % ((uint64_t)settings->max_requests_jitter + 1);
}

static PyObject *py_before_fork(PyObject *capsule, PyObject *nothing)
{
    (void)nothing;
    struct serving *s = PyCapsule_GetPointer(capsule, NULL);
    if (s == NULL)
        return NULL;
    worker_pause_guard(s->worker);
    Py_RETURN_NONE;
}

/* os.register_at_fork(before=…) */
static int register_before_fork(struct serving *s)
{
    static PyMethodDef method = { "licorne_before_fork", py_before_fork, METH_NOARGS, NULL };
    PyObject *os = PyImport_ImportModule("os"), *capsule = PyCapsule_New(s, NULL, NULL), *result = NULL;
    PyObject *hook = capsule != NULL ? PyCFunction_New(&method, capsule) : NULL;
    PyObject *named = hook != NULL ? Py_BuildValue("{sO}", "before", hook) : NULL, *none = PyTuple_New(0);
    PyObject *function = os != NULL ? PyObject_GetAttrString(os, "register_at_fork") : NULL;
    if (function != NULL && named != NULL && none != NULL)
        result = PyObject_Call(function, none, named);
    bool registered = result != NULL;
    Py_XDECREF(result);
    Py_XDECREF(function);
    Py_XDECREF(none);
    Py_XDECREF(named);
    Py_XDECREF(hook);
    Py_XDECREF(capsule);
    Py_XDECREF(os);
    return registered ? 0 : -1;
}

static void guard(struct serving *s)
{
    if (register_before_fork(s) < 0)
        pyerr_log("Idle connections wait while the application blocks:");
    else
        worker_guard(s->worker);
}

static void compose(struct serving *s, const struct application *application)
{
    s->runtime = runtime_new(s->settings, application);
    if (s->runtime == NULL) {
        PyObject *exception = pyerr_take();
        char *line = exception != NULL ? pyerr_line(exception) : mem_strdup("no reason was given");
        if (exception != NULL)
            pyerr_log_exception(LOG_LEVEL_ERROR, exception, "The application cannot be served:");
        fail(s, EXIT_BOOT, line);
    }
    s->endpoints = endpoints_of(s->inherit);
    s->http = http_server_new(s->runtime->loop, s->settings, s->runtime->app);
    http_server_on_room(s->http, on_room, s);
    http_server_on_hand_over(s->http, hand_over, s);
    http_server_publish(s->http, &s->inherit->slot->tally, s->inherit->inflight);
    if (application->kind == APPLICATION_WSGI)
        http_server_mount(s->http, getenv("SCRIPT_NAME")); /* as CGI, uWSGI and gunicorn have it */
    hooks_count(&s->inherit->slot->tally.requests);
    s->requests_at_most = draw_requests_at_most(s->settings);
    if (s->requests_at_most > 0)
        http_server_on_finished(s->http, on_finished, s);
    http_server_on_deadline(s->http, on_worn, on_shorter, s);
    s->worker = worker_new(s->inherit, s->runtime->loop, &worker_ops, s);
    if (s->runtime->may_block)
        guard(s);
    coarse_timer_init(&s->quiet, on_quiet);
    coarse_timer_init(&s->full, on_full);
    int64_t room = descriptors_room();
    s->conns_most = room < s->settings->worker_connections ? room : s->settings->worker_connections;
    http_server_limit(s->http, s->conns_most);
    loop_before_wait(s->runtime->loop, before_wait, s);
    s->accepting = true;
}

static void share_access_log(const struct serving *s)
{
    bool file = s->settings->accesslog && *s->settings->accesslog;
    if (pylog_owns_access())
        http_server_close_access_log(s->http);
    if (pylog_access() != NULL)
        http_server_on_access(s->http, pylog_access(),
                              pylog_access_raw() ? ACCESS_ALL : file ? ACCESS_LINE : ACCESS_ATOMS);
}

/* ---- the whole life --------------------------------------------------------------------------------------------- */

static int64_t time_left(const struct serving *s)
{
    int64_t left = (int64_t)(s->end_by_ms - clock_ms());
    return left > LEAST_END_MS ? left : LEAST_END_MS;
}

void serve(struct inherit *inherit, struct application *application)
{
    static struct serving serving; /* one a process; outlives this call's callers in other threads */
    struct serving *s = &serving;
    *s = (struct serving){ .inherit = inherit, .settings = inherit->settings };
    if (application->callable == NULL)
        load(s, application);
    compose(s, application);
    if (!hooks_tell("loaded", "()"))
        fail(s, EXIT_BOOT, "The hook post_worker_init failed: see the log above.");
    if (s->runtime->ops->startup(s->runtime) < 0)
        fail(s, EXIT_BOOT, "The application's start-up failed: see the log above.");
    pylog_look();
    share_access_log(s);
    if (!s->left) {
        dump_init(WORKER_DUMP_SIGNAL, s->runtime, on_dumped, s);
        worker_ready(s->worker);
        s->runtime->ops->run(s->runtime);
        worker_pause_guard(s->worker);
        http_server_send_metrics(s->http);
    }
    s->runtime->ops->shutdown(s->runtime, time_left(s));
    hooks_tell("exiting", "()");
    pyexit(worker_exit_code(s->worker), time_left(s));
}
