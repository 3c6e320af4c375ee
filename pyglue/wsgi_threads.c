/* wsgi_threads: threads > 1, by leader and followers. There are threads + 1 Python threads, all alike; at most
 * `threads` run the application at a time, so one is always free to turn the loop:
 *
 *     leader      turns the loop; callbacks only move bytes and queue requests. After the turn it runs the queue
 *                 itself: in the usual case no other thread hears of a request.
 *     runner      has lost the lead while it ran a request. Finishes it, writes the response, takes the next one from
 *                 the queue, or becomes a follower.
 *     follower    sleeps until the lead is free, or a request waits that it may run.
 *
 * The lead changes hands when the guard, a small thread without Python, sees the same request run at two of its ticks
 * (so after 1 to 2 ms), when the application waits for its client, and before a request at all if the recent ones
 * lasted long. The guard ticks only while requests run: else it sleeps, and an idle worker never wakes up. Its ticks
 * are also the only clock here: a leader polls when one has passed, and how many requests saw a tick pass says how
 * long they last.
 *
 * TWO LOCKS. `core` guards the C core (loop, connections, requests) and everything in struct wsgi_pool. The leader
 * holds it during its turn, but for the wait of the poll; the others take it for each use of the core. The rule:
 *
 *     who holds `core` calls nothing that may wait for the GIL, or that lets it go (which may wait as well);
 *     who holds the GIL never waits for `core`: it tries, and if that fails lets the GIL go first.
 *
 * So neither is ever waited for while the other is held, and no order between them is needed. Callbacks of the core run
 * under `core`, perhaps without the GIL: what they must let go of is put aside by wsgi_drop().
 *
 * The main thread takes no part: it sleeps in wsgi_pool_run(), where Python's signal handlers run, and interrupts requests
 * whose time is over. */
#include "pyglue/wsgi.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "pyglue/pyerr.h"
#include "server/base/clock.h"
#include "server/base/mem.h"

#define TICK_NS 1000000
#define IDLE_TICKS 2  /* then the guard sleeps */
#define LASTED 256    /* a request during which a tick passed counts this much, others 0; see pool->lasting */
#define LASTING_LONG 26 /* a tick passes during one request in ten: they last about 0.1 ms */

struct wsgi_pool {
    pthread_mutex_t core;
    struct wsgi *wsgi;
    struct loop *loop;

    /* Requests that wait for a thread, in order: a ring. */
    struct request **queue;
    size_t head, queued, room;

    size_t threads, running;  /* how many may run the application, how many do */
    pthread_cond_t wanted;    /* followers wait here */
    bool led;                 /* someone leads */
    pthread_t leader;
    uint64_t led_run;         /* the leader runs the application: the run's number; else 0 */
    uint64_t runs;
    bool polling, woken;      /* the leader waits in the poll; it was woken */
    unsigned lasting;         /* moving average, 0..LASTED */

    uint64_t ticks, polled_tick; /* of the guard; what it was at the last poll */
    pthread_cond_t activity;     /* the guard sleeps here */
    bool guard_sleeps, guard_started;
    pthread_t guard;

    bool stopped;
    struct list overdue;  /* of calls that the main thread is to interrupt */
    sem_t main;           /* wakes the main thread */
    PyObject *objects;    /* list of threading.Thread */
    PyMethodDef entry;    /* what they run */
};

/* --- the lock ---------------------------------------------------------------------------------------------------- */

static void pool_lock(struct wsgi_pool *pool)
{
    pthread_mutex_lock(&pool->core);
}

static void pool_unlock(struct wsgi_pool *pool)
{
    pthread_mutex_unlock(&pool->core);
}

static bool is_leader(const struct wsgi_pool *pool)
{
    return pool->led && pthread_equal(pool->leader, pthread_self());
}

/* What this thread changed in the core (timers, watchers, deferred tasks) must be seen by a leader that waits. */
static void wake_leader(struct wsgi_pool *pool)
{
    if (!pool->polling || pool->woken)
        return;
    pool->woken = true;
    loop_wake(pool->loop);
}

void wsgi_pool_enter(struct wsgi_pool *pool, PyThreadState **saved)
{
    *saved = NULL;
    if (pthread_mutex_trylock(&pool->core) != 0) {
        *saved = PyEval_SaveThread();
        pool_lock(pool);
    }
    if (pool->polling)
        loop_update_now(pool->loop); /* it stands still while the leader waits */
}

void wsgi_pool_leave(struct wsgi_pool *pool, PyThreadState *saved)
{
    wake_leader(pool);
    pool_unlock(pool);
    if (saved)
        PyEval_RestoreThread(saved);
}

void wsgi_pool_leave_unchanged(struct wsgi_pool *pool, PyThreadState *saved)
{
    pool_unlock(pool);
    if (saved)
        PyEval_RestoreThread(saved);
}

void wsgi_pool_enter_with_gil(struct wsgi_pool *pool)
{
    while (pthread_mutex_trylock(&pool->core) != 0) {
        PyThreadState *saved = PyEval_SaveThread();
        pool_lock(pool);
        pool_unlock(pool);
        PyEval_RestoreThread(saved);
    }
}

/* --- the queue --------------------------------------------------------------------------------------------------- */

static void queue_grow(struct wsgi_pool *pool)
{
    size_t room = pool->room ? pool->room * 2 : 64;
    struct request **queue = mem_alloc(room * sizeof(*queue));
    for (size_t i = 0; i < pool->queued; i++)
        queue[i] = pool->queue[(pool->head + i) % pool->room];
    free(pool->queue);
    pool->queue = queue;
    pool->room = room;
    pool->head = 0;
}

/* Bounded by worker_connections: a connection has at most one request here. */
void wsgi_pool_queue(struct wsgi_pool *pool, struct request *request)
{
    if (pool->queued == pool->room)
        queue_grow(pool);
    pool->queue[(pool->head + pool->queued++) % pool->room] = request;
}

static struct request *queue_take(struct wsgi_pool *pool)
{
    struct request *request = pool->queue[pool->head];
    pool->head = (pool->head + 1) % pool->room;
    pool->queued--;
    return request;
}

static bool may_run(const struct wsgi_pool *pool)
{
    return pool->queued > 0 && pool->running < pool->threads && !pool->stopped;
}

/* --- the lead ---------------------------------------------------------------------------------------------------- */

static void lead_give_up(struct wsgi_pool *pool)
{
    pool->led = false;
    pool->led_run = 0;
    pthread_cond_signal(&pool->wanted);
}

static void on_release(void *arg)
{
    struct wsgi_pool *pool = arg;
    pool->polling = true;
    pool->woken = false;
    pool_unlock(pool);
}

static void on_acquire(void *arg)
{
    struct wsgi_pool *pool = arg;
    pool_lock(pool);
    pool->polling = false;
}

/* --- the guard --------------------------------------------------------------------------------------------------- */

/* Under `core`. Returns when there is something to watch. */
static void guard_sleep(struct wsgi_pool *pool)
{
    pool->guard_sleeps = true;
    while (pool->guard_sleeps && !pool->stopped)
        pthread_cond_wait(&pool->activity, &pool->core);
}

static void guard_wait(struct wsgi_pool *pool)
{
    pool_unlock(pool);
    nanosleep(&(struct timespec){ .tv_nsec = TICK_NS }, NULL);
    pool_lock(pool);
    pool->ticks++;
}

static void *guard_main(void *arg)
{
    struct wsgi_pool *pool = arg;
    uint64_t runs = 0, led_run = 0;
    int idle = 0; /* it looks before it sleeps: the first request may have begun before this thread did */
    pool_lock(pool);
    while (!pool->stopped) {
        if (idle >= IDLE_TICKS) {
            guard_sleep(pool);
            idle = 0;
        }
        led_run = pool->led_run;
        runs = pool->runs;
        guard_wait(pool);
        if (led_run != 0 && led_run == pool->led_run)
            lead_give_up(pool);
        idle = runs == pool->runs && pool->led_run == 0 ? idle + 1 : 0;
    }
    pool_unlock(pool);
    return NULL;
}

static void guard_wake(struct wsgi_pool *pool)
{
    if (!pool->guard_sleeps)
        return;
    pool->guard_sleeps = false;
    pthread_cond_signal(&pool->activity);
}

/* It must get no signal: it has no place to handle one. */
static int guard_start(struct wsgi_pool *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&pool->guard, NULL, guard_main, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pool->guard_started = error == 0;
    if (error == 0)
        return 0;
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* --- running requests -------------------------------------------------------------------------------------------- */

/* Under `core`: a request leaves the queue for this thread. */
static struct request *run_begin(struct wsgi_pool *pool, uint64_t *tick)
{
    pool->running++;
    pool->runs++;
    *tick = pool->ticks;
    guard_wake(pool);
    if (is_leader(pool)) {
        if (pool->lasting >= LASTING_LONG)
            lead_give_up(pool);
        else
            pool->led_run = pool->runs;
    }
    return queue_take(pool);
}

static void run_end(struct wsgi_pool *pool, uint64_t tick)
{
    unsigned sample = pool->ticks != tick ? LASTED : 0;
    pool->running--;
    pool->lasting = (pool->lasting * 15 + sample) / 16;
    if (is_leader(pool))
        pool->led_run = 0;
}

/* Whether the next request may follow at once: a leader goes back to the loop when a tick has passed. */
static bool run_next(const struct wsgi_pool *pool)
{
    return may_run(pool) && (!is_leader(pool) || pool->ticks == pool->polled_tick);
}

/* Under `core`, without the GIL, before and after. Runs requests from the queue; keeps the GIL from one to the next. */
static void run_queue(struct wsgi_pool *pool, PyThreadState *thread)
{
    bool more = may_run(pool);
    uint64_t tick;
    if (!more)
        return;
    struct request *request = run_begin(pool, &tick);
    pool_unlock(pool);
    PyEval_RestoreThread(thread);
    while (more) {
        wsgi_serve(pool->wsgi, request);
        wsgi_pool_enter_with_gil(pool);
        run_end(pool, tick);
        wsgi_drop_pending(pool->wsgi);
        more = run_next(pool);
        if (more)
            request = run_begin(pool, &tick);
        pool_unlock(pool);
    }
    PyEval_SaveThread();
    pool_lock(pool);
}

/* What the core gave back while nobody had the GIL: before the leader sleeps on it. (When requests run, they do it: the
 * leader must not wait for a GIL that may be held for long.) */
static void drop_with_gil(struct wsgi_pool *pool, PyThreadState *thread)
{
    pool_unlock(pool);
    PyEval_RestoreThread(thread);
    wsgi_pool_enter_with_gil(pool);
    wsgi_drop_pending(pool->wsgi);
    pool_unlock(pool);
    PyEval_SaveThread();
    pool_lock(pool);
}

/* Under `core`. Until the lead is lost, or the pool stops. */
static void lead(struct wsgi_pool *pool, PyThreadState *thread)
{
    pool->led = true;
    pool->leader = pthread_self();
    while (is_leader(pool) && !pool->stopped) {
        pool->polled_tick = pool->ticks;
        loop_poll(pool->loop, !may_run(pool));
        loop_settle(pool->loop);
        if (pool->wsgi->drop_count > 0 && pool->running == 0 && !may_run(pool))
            drop_with_gil(pool, thread);
        run_queue(pool, thread);
    }
}

static void follow(struct wsgi_pool *pool, PyThreadState *thread)
{
    while (!pool->stopped) {
        if (!pool->led)
            lead(pool, thread);
        else
            pthread_cond_wait(&pool->wanted, &pool->core);
    }
}

/* What each threading.Thread runs. */
static PyObject *thread_main(PyObject *capsule, PyObject *ignored)
{
    (void)ignored;
    struct wsgi_pool *pool = PyCapsule_GetPointer(capsule, NULL);
    PyThreadState *thread = PyEval_SaveThread();
    pool_lock(pool);
    follow(pool, thread);
    pool_unlock(pool);
    PyEval_RestoreThread(thread);
    Py_RETURN_NONE;
}

/* --- waiting for the client -------------------------------------------------------------------------------------- */

/* The client has left, or another thread has ended the request. */
static bool nothing_comes(const struct wsgi_call *call, bool want_body)
{
    return call->request == NULL || call->request->conn == NULL || (want_body && call->disconnected);
}

int wsgi_pool_wait(struct wsgi_call *call, bool (*ready)(const struct wsgi_call *call), bool want_body)
{
    struct wsgi_pool *pool = call->wsgi->pool;
    PyThreadState *saved = PyEval_SaveThread();
    pool_lock(pool);
    if (want_body && call->request != NULL && !ready(call)) {
        request_want_body(call->request);
        request_flush(call->request);
    }
    if (is_leader(pool))
        lead_give_up(pool);
    wake_leader(pool);
    while (!nothing_comes(call, want_body) && !ready(call))
        pthread_cond_wait(&call->changed, &pool->core);
    int result = call->request != NULL && ready(call) ? 0 : -1;
    pool_unlock(pool);
    PyEval_RestoreThread(saved);
    if (result < 0)
        wsgi_deadline_raise(call);
    return result;
}

/* --- entry points ------------------------------------------------------------------------------------------------ */

struct wsgi_pool *wsgi_pool_new(struct wsgi *wsgi, size_t threads)
{
    struct wsgi_pool *pool = mem_zalloc(sizeof(*pool));
    pthread_mutex_init(&pool->core, NULL);
    pthread_cond_init(&pool->wanted, NULL);
    pthread_cond_init(&pool->activity, NULL);
    sem_init(&pool->main, 0, 0);
    list_init(&pool->overdue);
    pool->wsgi = wsgi;
    pool->loop = wsgi->runtime.loop;
    pool->threads = threads;
    pool->led = true; /* by nobody, until wsgi_pool_run() */
    pool->entry = (PyMethodDef){ "licorne_wsgi_thread", thread_main, METH_NOARGS, NULL };
    loop_set_release(pool->loop, on_release, on_acquire, pool);
    return pool;
}

/* A real threading.Thread, so that current_thread(), locals and the like are what applications expect; a daemon, so
 * that one that never ends does not keep the process. */
static PyObject *thread_start(PyObject *thread_type, PyObject *target, size_t number)
{
    PyObject *name = PyUnicode_FromFormat("licorne-wsgi-%zu", number), *thread = NULL, *started = NULL;
    PyObject *args = PyTuple_New(0), *kwargs = NULL;
    if (name != NULL && args != NULL)
        kwargs = Py_BuildValue("{sOsOsO}", "target", target, "name", name, "daemon", Py_True);
    if (kwargs != NULL)
        thread = PyObject_Call(thread_type, args, kwargs);
    if (thread != NULL && (started = PyObject_CallMethod(thread, "start", NULL)) == NULL)
        Py_CLEAR(thread);
    Py_XDECREF(started);
    Py_XDECREF(kwargs);
    Py_XDECREF(args);
    Py_XDECREF(name);
    return thread;
}

static int threads_start(struct wsgi_pool *pool, PyObject *thread_type, PyObject *target)
{
    if ((pool->objects = PyList_New(0)) == NULL)
        return -1;
    for (size_t i = 0; i <= pool->threads; i++) {
        PyObject *thread = thread_start(thread_type, target, i + 1);
        int failed = thread == NULL ? -1 : PyList_Append(pool->objects, thread);
        Py_XDECREF(thread);
        if (failed < 0)
            return -1;
    }
    return 0;
}

int wsgi_pool_start(struct wsgi_pool *pool)
{
    PyObject *capsule = PyCapsule_New(pool, NULL, NULL), *target = NULL, *threading = NULL, *type = NULL;
    int result = -1;
    if (capsule != NULL && (target = PyCFunction_New(&pool->entry, capsule)) != NULL &&
        (threading = PyImport_ImportModule("threading")) != NULL &&
        (type = PyObject_GetAttrString(threading, "Thread")) != NULL)
        result = threads_start(pool, type, target) < 0 ? -1 : guard_start(pool);
    Py_XDECREF(type);
    Py_XDECREF(threading);
    Py_XDECREF(target);
    Py_XDECREF(capsule);
    return result;
}

static void interrupt_overdue(struct wsgi_pool *pool)
{
    struct list *node;
    wsgi_pool_enter_with_gil(pool);
    while ((node = list_pop(&pool->overdue)) != NULL)
        wsgi_deadline_interrupt(LIST_ENTRY(node, struct wsgi_call, overdue));
    wsgi_pool_leave_unchanged(pool, NULL);
}

/* Python's signal handlers run here. False: one has raised what means "end". */
static bool run_signal_handlers(void)
{
    if (PyErr_CheckSignals() == 0)
        return true;
    bool ends = PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt);
    pyerr_log("A signal handler raised");
    return !ends;
}

/* The main thread sleeps; a Python signal interrupts the sleep, and so does a request whose time is over. */
void wsgi_pool_run(struct wsgi_pool *pool)
{
    PyThreadState *saved = PyEval_SaveThread();
    bool goes_on = true;
    pool_lock(pool);
    pool->led = false;
    pthread_cond_signal(&pool->wanted);
    while (goes_on && !pool->stopped) {
        pool_unlock(pool);
        sem_wait(&pool->main);
        PyEval_RestoreThread(saved);
        goes_on = run_signal_handlers();
        interrupt_overdue(pool);
        saved = PyEval_SaveThread();
        pool_lock(pool);
    }
    pool_unlock(pool);
    PyEval_RestoreThread(saved);
}

void wsgi_pool_interrupt(struct wsgi_pool *pool, struct wsgi_call *call)
{
    list_remove(&call->overdue);
    list_append(&pool->overdue, &call->overdue);
    sem_post(&pool->main);
}

void wsgi_pool_stop(struct wsgi_pool *pool)
{
    pool->stopped = true;
    pthread_cond_broadcast(&pool->wanted);
    pthread_cond_signal(&pool->activity);
    sem_post(&pool->main);
}

/* Joins one thread; false if it is still alive. */
static bool thread_join(PyObject *thread, double seconds)
{
    PyObject *joined = PyObject_CallMethod(thread, "join", "d", seconds);
    PyObject *alive = joined ? PyObject_CallMethod(thread, "is_alive", NULL) : NULL;
    bool ended = alive == Py_False;
    if (alive == NULL)
        pyerr_log("A thread could not be joined");
    Py_XDECREF(alive);
    Py_XDECREF(joined);
    return ended;
}

bool wsgi_pool_join(struct wsgi_pool *pool, int64_t timeout_ms)
{
    bool ended = true;
    uint64_t deadline = clock_ms() + (uint64_t)timeout_ms;
    PyThreadState *saved;
    wsgi_pool_enter(pool, &saved);
    if (!pool->stopped)
        wsgi_pool_stop(pool);
    wsgi_pool_leave(pool, saved);
    for (Py_ssize_t i = 0; pool->objects && i < PyList_GET_SIZE(pool->objects); i++) {
        uint64_t now = clock_ms();
        double left = now < deadline ? (double)(deadline - now) / 1e3 : 0;
        ended = thread_join(PyList_GET_ITEM(pool->objects, i), left) && ended;
    }
    return ended;
}

void wsgi_pool_free(struct wsgi_pool *pool)
{
    if (pool == NULL)
        return;
    if (pool->guard_started)
        pthread_join(pool->guard, NULL);
    while (pool->queued > 0)
        request_unref(queue_take(pool));
    Py_XDECREF(pool->objects);
    pthread_cond_destroy(&pool->wanted);
    pthread_cond_destroy(&pool->activity);
    pthread_mutex_destroy(&pool->core);
    sem_destroy(&pool->main);
    free(pool->queue);
    free(pool);
}
