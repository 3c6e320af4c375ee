/* wsgi_deadline: what happens to a WSGI request whose time is over (request_timeout). The core has answered or cut off its
 * client; here the application is interrupted, by licorne.RequestTimeout:
 *
 *     threads = 1    The loop stands still, so a timer of the kernel signals the thread that runs the application. The
 *                    signal is handled as Python handles signals: blocking calls return from the kernel (EINTR), and the
 *                    handler, which runs between two bytecodes, raises. It is a look at the clock and nothing else: a
 *                    timer that fires late finds no request, or another that has time. So it is not set and cleared with
 *                    each request, but once in request_timeout at most.
 *     threads > 1    The loop notices; the main thread, which has nothing else to do, sets the exception for the thread
 *                    (PyThreadState_SetAsyncExc). It comes with the next bytecode of that thread, so not while that is
 *                    blocked. It is set only while the call runs, and taken back when the call is over; both with the
 *                    GIL held: so it never hits another request.
 *     waiting for    The wait itself ends, and raises.
 *     the client
 *
 * What was interrupted anywhere may be half done, so the worker is replaced afterwards; and where nothing of this helps,
 * request_timeout_grace ends with the worker's death. */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "config/settings.h"
#include "pyglue/deadline.h"
#include "pyglue/names.h"
#include "pyglue/pyerr.h"
#include "pyglue/wsgi.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid /* glibc has the field, but not its name */
#endif

#define ALARM_SIGNAL (SIGRTMAX - 5) /* SIGRTMAX - 4 is the dump's: pyglue/dump.c */

static void raise_timeout(struct wsgi_call *call)
{
    call->interrupted = true;
    PyErr_SetString(deadline_timeout_error, "the request has taken longer than request_timeout");
}

/* --- threads = 1: the alarm -------------------------------------------------------------------------------------- */

static void alarm_set_in(struct wsgi *wsgi, int64_t ms)
{
    int64_t in_ms = ms > 0 ? ms : 1;
    struct itimerspec at = { .it_value = { .tv_sec = in_ms / 1000, .tv_nsec = in_ms % 1000 * 1000000 } };
    wsgi->alarm_is_set = syscall(SYS_timer_settime, wsgi->alarm, 0, &at, NULL) == 0;
}

/* The signal's Python handler: returns, or raises in the application. */
static PyObject *on_alarm(PyObject *capsule, PyObject *args)
{
    (void)args;
    struct wsgi *wsgi = PyCapsule_GetPointer(capsule, NULL);
    struct wsgi_call *call = wsgi->running;
    wsgi->alarm_is_set = false;
    if (call == NULL || call->interrupted)
        Py_RETURN_NONE;
    int64_t left = request_time_left(call->request);
    if (left == REQUEST_NO_DEADLINE)
        Py_RETURN_NONE;
    if (left > 0) {
        alarm_set_in(wsgi, left);
        Py_RETURN_NONE;
    }
    request_expire(call->request);
    raise_timeout(call);
    return NULL;
}

static PyMethodDef alarm_method = { "licorne_request_timeout", on_alarm, METH_VARARGS, NULL };

static bool alarm_handle(struct wsgi *wsgi)
{
    PyObject *capsule = PyCapsule_New(wsgi, NULL, NULL), *handler = NULL, *module = NULL, *before = NULL;
    if (capsule != NULL && (handler = PyCFunction_New(&alarm_method, capsule)) != NULL &&
        (module = PyImport_ImportModule("signal")) != NULL)
        before = PyObject_CallMethod(module, "signal", "iO", ALARM_SIGNAL, handler);
    bool handled = before != NULL;
    Py_XDECREF(before);
    Py_XDECREF(module);
    Py_XDECREF(handler);
    Py_XDECREF(capsule);
    return handled;
}

/* By system call: the C library keeps timers in a library of its own, or not, depending on its age. */
static bool alarm_create(struct wsgi *wsgi)
{
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = ALARM_SIGNAL };
    event.sigev_notify_thread_id = (int)syscall(SYS_gettid);
    if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &wsgi->alarm) == 0)
        return true;
    PyErr_SetFromErrno(PyExc_OSError);
    return false;
}

void wsgi_deadline_start(struct wsgi *wsgi)
{
    if (!wsgi->timed || wsgi->pool)
        return;
    wsgi->has_alarm = alarm_handle(wsgi) && alarm_create(wsgi);
    if (!wsgi->has_alarm)
        pyerr_log("Requests cannot be interrupted when request_timeout is over:");
}

void wsgi_deadline_stop(struct wsgi *wsgi)
{
    if (wsgi->has_alarm)
        syscall(SYS_timer_delete, wsgi->alarm);
    wsgi->has_alarm = false;
}

/* --- a call ------------------------------------------------------------------------------------------------------ */

static void async_clear(struct wsgi_call *call)
{
    if (call->async_set)
        PyThreadState_SetAsyncExc(call->thread, NULL);
    call->async_set = false;
}

void wsgi_deadline_begin(struct wsgi_call *call)
{
    struct wsgi *wsgi = call->wsgi;
    call->thread = PyThread_get_thread_ident();
    call->runs = true;
    wsgi->running = call;
    if (wsgi->has_alarm && !wsgi->alarm_is_set) /* else it fires before this one is due */
        alarm_set_in(wsgi, wsgi->settings->request_timeout_ms);
}

void wsgi_deadline_end(struct wsgi_call *call)
{
    call->runs = false;
    call->wsgi->running = NULL;
    if (call->wsgi->alarm_moved) /* it may be later than the next request's deadline */
        call->wsgi->alarm_moved = call->wsgi->alarm_is_set = false;
    async_clear(call);
}

void wsgi_deadline_interrupt(struct wsgi_call *call)
{
    if (!call->runs || call->interrupted)
        return;
    call->interrupted = true;
    call->async_set = PyThreadState_SetAsyncExc(call->thread, deadline_timeout_error) == 1;
}

bool wsgi_deadline_raise(struct wsgi_call *call)
{
    if (!call->timed_out || (call->interrupted && !call->async_set))
        return false;
    async_clear(call);
    raise_timeout(call);
    return true;
}

/* --- licorne.deadline -------------------------------------------------------------------------------------------- */

static int64_t move_deadline(PyObject *owner, enum deadline_move move, int64_t ms)
{
    struct wsgi_call *call = (struct wsgi_call *)owner;
    struct wsgi *wsgi = call->wsgi;
    PyThreadState *saved;
    core_enter(wsgi, &saved);
    int64_t left = deadline_apply(call->request, move, ms);
    core_leave(wsgi, saved);
    if (move != DEADLINE_LOOK && wsgi->has_alarm && left != REQUEST_NO_DEADLINE && wsgi->running == call) {
        alarm_set_in(wsgi, left);
        wsgi->alarm_moved = true;
    }
    return left;
}

int wsgi_deadline_put(PyObject *environ, struct wsgi_call *call)
{
    PyObject *deadline = deadline_new((PyObject *)call, move_deadline);
    int failed = deadline == NULL ? -1 : PyDict_SetItem(environ, names.licorne_deadline, deadline);
    Py_XDECREF(deadline);
    return failed;
}
