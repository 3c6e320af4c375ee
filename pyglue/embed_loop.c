/* embed_loop: the core's poller inside an asyncio loop that is not ours (the standard library's, uvloop):
 *
 *     epoll descriptor ── add_reader ──┐
 *     the core's first timer ── call_later ──┼──> _turn(): what is ready runs, requests begin, responses leave
 *     the application changes something ── call_soon ──┘       (net/loop.h: loop_touch)
 *
 * An epoll descriptor is readable when one that it watches is. The application's tasks are the caller's loop's own. */
#include "pyglue/embed.h"

#include <errno.h>

#include "pyglue/names.h"
#include "pyglue/pyerr.h"
#include "server/base/clock.h"

/* The caller's loop calls _turn(): `method` says when; `first` is an argument before it, or NULL. New reference. */
static PyObject *have_it_turned(struct embedded *self, const char *method, PyObject *first)
{
    PyObject *turn = PyObject_GetAttrString((PyObject *)self, "_turn"), *result = NULL;
    PyObject *name = PyUnicode_InternFromString(method);
    if (turn != NULL && name != NULL)
        result = PyObject_CallMethodObjArgs(self->loop, name, first != NULL ? first : turn,
                                            first != NULL ? turn : NULL, NULL);
    Py_XDECREF(name);
    Py_XDECREF(turn);
    return result;
}

/* --- timers ------------------------------------------------------------------------------------------------------- */

static void cancel_timer(struct embedded *self)
{
    self->timer_ms = 0;
    if (self->timer == NULL)
        return;
    PyObject *result = PyObject_CallMethodNoArgs(self->timer, names.cancel);
    if (result == NULL)
        pyerr_log("Cannot cancel a timer");
    Py_XDECREF(result);
    Py_CLEAR(self->timer);
}

static void set_timer(struct embedded *self)
{
    uint64_t due_ms = loop_due_ms(self->core), now_ms = clock_ms();
    if (due_ms == self->timer_ms && due_ms > now_ms)
        return;
    cancel_timer(self);
    if (due_ms == 0)
        return;
    PyObject *delay = PyFloat_FromDouble(due_ms > now_ms ? (double)(due_ms - now_ms) / 1e3 : 0);
    self->timer = delay != NULL ? have_it_turned(self, "call_later", delay) : NULL;
    self->timer_ms = due_ms;
    Py_XDECREF(delay);
    if (self->timer == NULL)
        pyerr_log("Cannot set a timer: time limits of connections do not work");
}

/* --- the turn ------------------------------------------------------------------------------------------------------- */

static void turn_soon(struct embedded *self)
{
    PyObject *handle = have_it_turned(self, "call_soon", NULL);
    if (handle == NULL)
        pyerr_log("The event loop does not take any more calls");
    Py_XDECREF(handle);
}

/* We may be in the middle of anything, with an exception pending. */
static void on_rouse(void *arg)
{
    struct embedded *self = arg;
    PyObject *exception = pyerr_take();
    if (self->loop != NULL)
        turn_soon(self);
    if (exception != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_XDECREF(exception);
}

PyObject *embed_loop_turn(PyObject *object, PyObject *nothing)
{
    struct embedded *self = (struct embedded *)object;
    (void)nothing;
    if (self->loop == NULL || !self->foreign || self->turning)
        Py_RETURN_NONE;
    self->turning = true;
    bool more = loop_turn(self->core);
    self->turning = false;
    if (self->loop == NULL)
        Py_RETURN_NONE;
    if (more)
        turn_soon(self);
    set_timer(self);
    Py_RETURN_NONE;
}

/* --- life ----------------------------------------------------------------------------------------------------------- */

int embed_loop_start(struct embedded *self)
{
    self->core = loop_new();
    if (self->core == NULL) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    loop_embed(self->core, on_rouse, self);
    PyObject *fd = PyLong_FromLong(loop_poll_fd(self->core));
    PyObject *added = fd != NULL ? have_it_turned(self, "add_reader", fd) : NULL;
    Py_XDECREF(fd);
    Py_XDECREF(added);
    return added != NULL ? 0 : -1;
}

void embed_loop_stop(struct embedded *self)
{
    cancel_timer(self);
    PyObject *closed = PyObject_CallMethod(self->loop, "is_closed", NULL), *removed = NULL;
    if (closed == Py_False)
        removed = PyObject_CallMethod(self->loop, "remove_reader", "i", loop_poll_fd(self->core));
    if (PyErr_Occurred())
        pyerr_log("Cannot leave the event loop");
    Py_XDECREF(removed);
    Py_XDECREF(closed);
}
