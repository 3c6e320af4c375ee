/* wsgi_wait: how a request waits for its client. With threads = 1 the loop stands still meanwhile, and the core pumps
 * this one connection; other Python threads run. With more, the thread sleeps until the loop's thread wakes it
 * (wsgi_threads.c). */
#include "pyglue/wsgi.h"

/* The core has no lock of its own here: only the loop's thread may let the GIL go inside it, and only once. */
static bool may_wait(const struct wsgi_call *call)
{
    if (PyThread_get_thread_ident() == call->wsgi->owner && !call->waiting)
        return true;
    PyErr_SetString(PyExc_RuntimeError,
                    "with threads = 1 a request waits for its client only in the thread that the server called it in");
    return false;
}

/* 1: progress, else there will be none. The GIL is let go around `wait`. */
static int wait_inline(struct wsgi_call *call, int (*wait)(struct request *request))
{
    struct wsgi *wsgi = call->wsgi;
    if (!may_wait(call))
        return -1;
    request_pin(call->request); /* the next read overwrites what the head still points to */
    call->waiting = true;
    wsgi->has_gil = false;
    PyThreadState *saved = PyEval_SaveThread();
    int progress = wait(call->request);
    PyEval_RestoreThread(saved);
    wsgi->has_gil = true;
    call->waiting = false;
    return progress;
}

static bool body_ready(const struct wsgi_call *call)
{
    return buf_len(&call->request->body) > 0 || call->request->body_end;
}

static bool room_ready(const struct wsgi_call *call)
{
    return call->room;
}

int wsgi_wait_body(struct wsgi_call *call)
{
    struct wsgi *wsgi = call->wsgi;
    if (wsgi->pool)
        return wsgi_pool_wait(call, body_ready, true);
    request_want_body(call->request);
    request_flush(call->request);
    while (!body_ready(call))
        if (wait_inline(call, request_wait_body) <= 0) {
            if (PyErr_Occurred() || wsgi_deadline_raise(call))
                return -1;
            call->disconnected = !body_ready(call);
            return call->disconnected ? -1 : 0;
        }
    return 0;
}

int wsgi_wait_room(struct wsgi_call *call)
{
    if (call->wsgi->pool)
        return wsgi_pool_wait(call, room_ready, false);
    do {
        if (wait_inline(call, request_wait_writable) <= 0) {
            if (!PyErr_Occurred())
                wsgi_deadline_raise(call);
            return -1;
        }
    } while (request_flush(call->request) == REQUEST_FULL);
    return 0;
}
