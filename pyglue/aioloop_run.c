/* aioloop_run: the turn.
 *
 *     poll (libev: HTTP, readers, writers) -> timers that are due -> the handles queued so far -> settle
 *
 * A poll costs more than a callback, so while callbacks are ready it is left out for a few turns, bounded by their
 * number and by time. The GIL is let go around a poll that may wait; and, as turns of C callbacks alone would never
 * come to the interpreter's own switching, once per switch interval. */
#include "pyglue/aioloop_impl.h"

#include <math.h>

#include "server/base/clock.h"

#define TURNS_PER_POLL 16
#define POLL_EVERY_NS (50 * 1000)
#define SLICE_NS (2 * 1000 * 1000) /* thousands of handles, as when a crowd leaves, make room for others after that */
#define SLICE_CHECK 8              /* handles between two looks at the clock */
#define ALARM_MAX_S 86400.0 /* libev is not asked for longer; then the alarm is set anew */

/* --- waking and the GIL ------------------------------------------------------------------------------------------------ */

static void let_go(void *arg)
{
    struct aioloop *self = arg;
    self->waiting = true;
    self->thread_state = PyEval_SaveThread();
}

static void take_back(void *arg)
{
    struct aioloop *self = arg;
    PyEval_RestoreThread(self->thread_state);
    self->waiting = self->woken = false;
}

void aioloop_wake(struct aioloop *self)
{
    if (!self->waiting || self->woken)
        return; /* it looks at the queue before it waits; and that look and the wait are under one hold of the GIL */
    self->woken = true;
    loop_wake(self->loop);
}

/* --- timers -------------------------------------------------------------------------------------------------------------- */

static void on_alarm(struct ev_loop *ev, struct ev_timer *alarm, int events)
{
    (void)ev, (void)events;
    struct aioloop *self = alarm->data;
    self->alarm_when = 0;
}

/* Sets libev's one timer for the first of ours. */
static void alarm_set(struct aioloop *self)
{
    double when = self->timers.count > 0 ? self->timers.entries[0].when : 0;
    struct ev_loop *ev = loop_ev(self->loop);
    if (when == self->alarm_when)
        return;
    ev_timer_stop(ev, &self->alarm);
    self->alarm_when = when;
    if (self->timers.count == 0)
        return;
    loop_update_now(self->loop);
    double in = when - (double)loop_now_ns(self->loop) / 1e9;
    ev_timer_set(&self->alarm, fmin(fmax(in, 0.), ALARM_MAX_S), 0.);
    ev_timer_start(ev, &self->alarm);
}

static bool timer_is_due(const struct aioloop *self, uint64_t now_ns)
{
    return self->timers.count > 0 && self->timers.entries[0].when <= (double)now_ns / 1e9;
}

static int queue_due_timers(struct aioloop *self, uint64_t now_ns)
{
    while (timer_is_due(self, now_ns)) {
        struct timer *timer = timer_heap_take(&self->timers, 0);
        if (ready_push(&self->ready, (struct ready){ NULL, timer }) < 0)
            return -1;
    }
    return 0;
}

/* --- polling ------------------------------------------------------------------------------------------------------------- */

static bool poll_is_due(struct aioloop *self, uint64_t now_ns)
{
    return self->ready.count == 0 || self->stopping || ++self->turns >= TURNS_PER_POLL ||
           now_ns - self->polled_ns >= POLL_EVERY_NS;
}

/* Returns the time afterwards, which libev has just read. Without callbacks that are ready nobody has read the clock before
 * (`now_ns` is 0), as libev knows how long to wait for a timer, or that it is due. */
static uint64_t poll(struct aioloop *self, uint64_t now_ns)
{
    bool may_wait = self->ready.count == 0 && !self->stopping && !timer_is_due(self, now_ns);
    if (may_wait)
        alarm_set(self);
    self->queue_events = self->ready.count > 0;
    loop_poll(self->loop, may_wait);
    self->turns = 0;
    now_ns = self->polled_ns = loop_now_ns(self->loop);
    if (may_wait)
        self->let_go_ns = now_ns;
    return now_ns;
}

static void let_others_run(struct aioloop *self, uint64_t now_ns)
{
    if (now_ns - self->let_go_ns < self->switch_ns)
        return;
    Py_BEGIN_ALLOW_THREADS
    Py_END_ALLOW_THREADS
    self->let_go_ns = now_ns;
}

/* --- running handles ------------------------------------------------------------------------------------------------------ */

/* A handle of the standard library's, or of whoever calls _add_callback(). */
static int run_foreign(struct aioloop *self, PyObject *handle)
{
    PyObject *cancelled = PyObject_GetAttr(handle, self->state->str__cancelled);
    int skip = cancelled ? PyObject_IsTrue(cancelled) : -1;
    Py_XDECREF(cancelled);
    if (skip != 0)
        return skip < 0 ? -1 : 0;
    PyObject *result = PyObject_CallMethodNoArgs(handle, self->state->str__run);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

static int run_any(struct aioloop *self, PyObject *handle)
{
    PyTypeObject *type = Py_TYPE(handle);
    if (type == self->state->handle_type || type == self->state->timer_type)
        return ((struct handle *)handle)->cancelled ? 0 : handle_run((struct handle *)handle);
    return run_foreign(self, handle);
}

static int report_if_slow(struct aioloop *self, PyObject *handle, double seconds)
{
    PyObject *limit = PyObject_GetAttr((PyObject *)self, self->state->str_slow_callback_duration);
    double limit_s = limit ? PyFloat_AsDouble(limit) : -1;
    Py_XDECREF(limit);
    if (limit_s == -1 && PyErr_Occurred())
        return -1;
    if (seconds < limit_s)
        return 0;
    PyObject *took = PyFloat_FromDouble(seconds);
    PyObject *args[] = { (PyObject *)self, handle, took };
    PyObject *result = took ? PyObject_VectorcallMethod(self->state->str__slow_callback, args, 3, NULL) : NULL;
    Py_XDECREF(took);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Debug mode: notes the handle for the exception handler, and says when it took long. */
static int run_watched(struct aioloop *self, PyObject *handle)
{
    uint64_t start = clock_ns();
    Py_SETREF(self->current_handle, Py_NewRef(handle));
    int outcome = run_any(self, handle);
    if (outcome == 0)
        outcome = report_if_slow(self, handle, (double)(clock_ns() - start) / 1e9);
    Py_SETREF(self->current_handle, Py_NewRef(Py_None));
    return outcome;
}

static int run_entry(struct aioloop *self, struct ready entry)
{
    if (entry.function != NULL) {
        entry.function(entry.object);
        return 0;
    }
    int outcome = self->debug ? run_watched(self, entry.object) : run_any(self, entry.object);
    Py_DECREF((PyObject *)entry.object);
    return outcome;
}

/* Those that were queued before; what they queue waits for the next turn. So do those that do not fit a slice, in their order; but
 * a loop that stops has run all of them. */
static int run_ready(struct aioloop *self, uint64_t now_ns)
{
    size_t todo = self->ready.count;
    for (size_t done = 1; todo > 0 && self->ready.count > 0; todo--, done++) {
        if (run_entry(self, ready_pop(&self->ready)) < 0)
            return -1;
        if (done % SLICE_CHECK == 0 && !self->stopping && clock_ns() - now_ns >= SLICE_NS)
            break;
    }
    return 0;
}

void aioloop_raised(struct aioloop *self)
{
    if (exception_leaves_loop())
        Py_XSETREF(self->raised, exception_take());
    else
        PyErr_WriteUnraisable((PyObject *)self);
}

static int check_raised(struct aioloop *self)
{
    if (self->raised == NULL)
        return 0;
    exception_restore(self->raised);
    self->raised = NULL;
    return -1;
}

static void settle(struct aioloop *self, bool failed)
{
    PyObject *exception = failed ? exception_take() : NULL;
    streams_flush(self);
    loop_settle(self->loop);
    if (failed)
        exception_restore(exception);
}

static int turn(struct aioloop *self)
{
    uint64_t now_ns = self->ready.count > 0 ? clock_ns() : 0;
    if (poll_is_due(self, now_ns))
        now_ns = poll(self, now_ns);
    int outcome = queue_due_timers(self, now_ns);
    let_others_run(self, now_ns);
    if (outcome == 0)
        outcome = PyErr_CheckSignals();
    if (outcome == 0)
        outcome = check_raised(self);
    if (outcome == 0)
        outcome = run_ready(self, now_ns);
    settle(self, outcome < 0);
    return outcome == 0 ? check_raised(self) : outcome;
}

/* --- entry points ----------------------------------------------------------------------------------------------------------- */

static int read_switch_interval(struct aioloop *self)
{
    PyObject *get = PySys_GetObject("getswitchinterval"); // borrowed
    PyObject *seconds = get ? PyObject_CallNoArgs(get) : NULL;
    double value = seconds ? PyFloat_AsDouble(seconds) : -1;
    Py_XDECREF(seconds);
    if (value == -1 && PyErr_Occurred())
        return -1;
    self->switch_ns = (uint64_t)(fmax(value, 0) * 1e9);
    return 0;
}

static int run_begin(struct aioloop *self)
{
    if (aioloop_check_open(self) < 0 || read_switch_interval(self) < 0)
        return -1;
    if (self->turning) {
        PyErr_SetString(PyExc_RuntimeError, "This event loop is already running");
        return -1;
    }
    self->turning = true;
    streams_flush(self); /* what was written while it did not run */
    self->turns = TURNS_PER_POLL; /* the first turn polls */
    self->let_go_ns = clock_ns();
    return 0;
}

static PyObject *run_end(struct aioloop *self, int outcome)
{
    self->turning = false;
    return outcome < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *aioloop_run(PyObject *object, PyObject *none)
{
    (void)none;
    struct aioloop *self = AIOLOOP(object);
    if (run_begin(self) < 0)
        return NULL;
    int outcome;
    do
        outcome = turn(self);
    while (outcome == 0 && !self->stopping);
    return run_end(self, outcome);
}

PyObject *aioloop_run_once(PyObject *object, PyObject *none)
{
    (void)none;
    struct aioloop *self = AIOLOOP(object);
    if (run_begin(self) < 0)
        return NULL;
    return run_end(self, turn(self));
}

void aioloop_run_init(struct aioloop *self)
{
    ev_init(&self->alarm, on_alarm);
    self->alarm.data = self;
    loop_set_release(self->loop, let_go, take_back, self);
}
