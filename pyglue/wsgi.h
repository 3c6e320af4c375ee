/* wsgi: PEP 3333 over the C core. One `struct wsgi` a worker, one `struct wsgi_call` a request:
 *
 *     wsgi.c            the runtime, and the way of a request: environ, application, response, close()
 *     environ.c         the environ
 *     wsgi_response.c   start_response(), write(), what the application returned
 *     wsgi_input.c      wsgi.input
 *     wsgi_file.c       wsgi.file_wrapper
 *     wsgi_wait.c       how a request waits for its client
 *     wsgi_deadline.c   request_timeout: how one is interrupted
 *     wsgi_threads.c    threads > 1: leader and followers
 *
 * With threads = 1 the application runs inside on_request, on the thread of the loop, which holds the GIL except while
 * it waits. With more, core_enter() and core_leave() stand around every use of the C core: see wsgi_threads.c for the
 * rule of the two locks. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <pthread.h>
#include <stdbool.h>

#include "pyglue/runtime.h"
#include "server/base/list.h"
#include "server/http/request.h"

struct environ;
struct wsgi_pool;

struct wsgi {
    struct runtime runtime;
    struct app app;
    const struct settings *settings;
    PyObject *application;
    struct environ *environ;
    struct wsgi_pool *pool; /* NULL: threads = 1 */
    PyObject **drops;       /* references that the core gave back while its thread had no GIL: wsgi_drop() */
    size_t drop_count, drop_room;
    unsigned long owner;  /* threads = 1: the loop's thread */
    PyThreadState *saved; /* threads = 1: while the loop's thread waits without the GIL */
    bool has_gil;         /* threads = 1: the loop's thread has the GIL */
    bool stopped;
    bool abandoned; /* threads are still busy after the shutdown */
    /* wsgi_deadline.c: */
    bool timed;                /* request_timeout is on */
    bool has_alarm;            /* threads = 1: a timer of the kernel, … */
    int alarm;
    bool alarm_is_set;         /* … which fires before the running request is due, or with it, … */
    bool alarm_moved;          /* … or for it alone */
    struct wsgi_call *running; /* threads = 1: whom it interrupts; NULL: nobody */
};

/* One request as the application sees it: start_response (called with 2 or 3 arguments), the write() that it returns
 * (called with one), and wsgi.input (by its methods). Outlives the request if the application keeps it: then it only
 * raises. */
struct wsgi_call {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    pthread_cond_t changed;      /* threads > 1: body, room, disconnect or end; under the core's lock. Made once */
    struct wsgi *wsgi;           /* from here on: cleared for each request */
    struct request *request;     /* NULL: the request is over */
    int64_t declared_length;     /* Content-Length of the response; -1: none */
    uint64_t read_total;         /* body bytes that the application has */
    struct list overdue;         /* threads > 1: among those that the main thread is to interrupt; under the core's lock */
    unsigned long thread;        /* timed: where it runs */
    bool started : 1;            /* start_response() was called */
    bool gone : 1;               /* a write found the client gone */
    bool waiting : 1;            /* threads = 1: inside request_wait_*() */
    bool disconnected;           /* set by the loop's thread: so no bit of the others' word */
    bool room;
    bool timed_out;              /* likewise: its time is over … */
    bool interrupted;            /* … and licorne.RequestTimeout was raised, once … */
    bool async_set;              /* … or will be, at the thread's next bytecode */
    bool runs;                   /* timed: inside the application */
};

/* --- wsgi.c ------------------------------------------------------------------------------------------------------ */

/* Serves one request from beginning to end; takes over the caller's reference. GIL held, core not entered. */
void wsgi_serve(struct wsgi *wsgi, struct request *request);

/* Lets go of a reference from inside the core, with or without the GIL. */
void wsgi_drop(struct wsgi *wsgi, PyObject *object);
/* Now that the GIL is held, does it. Inside the core. */
void wsgi_drop_pending(struct wsgi *wsgi);

/* The pending exception goes to the log, with the request it belongs to. */
void wsgi_log_exception(struct wsgi_call *call, const char *what);

/* --- wsgi_response.c --------------------------------------------------------------------------------------------- */

/* SEND_FAILED: an exception is pending. SEND_GONE: nobody reads any more; nothing is pending. */
enum send_result { SEND_OK, SEND_GONE, SEND_FAILED };

PyObject *wsgi_call_vectorcall(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames);

/* Sends what the application returned, and ends the response. */
enum send_result wsgi_respond(struct wsgi_call *call, PyObject *result);
enum send_result wsgi_send_iterable(struct wsgi_call *call, PyObject *iterable);

/* From the core's answer; for REQUEST_INVALID and REQUEST_TOO_LONG an exception is set. */
enum send_result wsgi_send_result(struct wsgi_call *call, enum request_result result);
/* False with an exception if start_response() was not called. */
bool wsgi_check_started(struct wsgi_call *call);

/* --- wsgi_input.c ------------------------------------------------------------------------------------------------ */

extern PyMethodDef wsgi_input_methods[];
PyObject *wsgi_input_next(PyObject *self); /* tp_iternext */

/* --- wsgi_file.c ------------------------------------------------------------------------------------------------- */

int wsgi_file_add(PyObject *module);
PyTypeObject *wsgi_file_type(void); /* borrowed */
/* Sends a FileWrapper's file. False: it is not one that the kernel can send, iterate over it. */
bool wsgi_file_send(struct wsgi_call *call, PyObject *wrapper, enum send_result *result);

/* --- wsgi_threads.c ---------------------------------------------------------------------------------------------- */

struct wsgi_pool *wsgi_pool_new(struct wsgi *wsgi, size_t threads);
/* Starts the threads. 0, or -1 with an exception. */
int wsgi_pool_start(struct wsgi_pool *pool);
/* Serves until wsgi_pool_stop(). GIL held. */
void wsgi_pool_run(struct wsgi_pool *pool);
/* From inside a turn. */
void wsgi_pool_stop(struct wsgi_pool *pool);
/* Waits for the threads, at most `timeout_ms`. False: some are still busy, and what they use must stay. */
bool wsgi_pool_join(struct wsgi_pool *pool, int64_t timeout_ms);
void wsgi_pool_free(struct wsgi_pool *pool);
/* A request has come: inside the core, without the GIL. Takes the caller's reference. */
void wsgi_pool_queue(struct wsgi_pool *pool, struct request *request);

/* The main thread is to interrupt the call: inside the core, with or without the GIL. */
void wsgi_pool_interrupt(struct wsgi_pool *pool, struct wsgi_call *call);

/* The wait of wsgi_wait_*() with threads > 1: until `ready`, or nothing more can come. */
int wsgi_pool_wait(struct wsgi_call *call, bool (*ready)(const struct wsgi_call *call), bool want_body);

/* --- the core's lock ---------------------------------------------------------------------------------------------
 * With threads = 1 all of this is nothing: the GIL is the lock. */

void wsgi_pool_enter(struct wsgi_pool *pool, PyThreadState **saved);
void wsgi_pool_leave(struct wsgi_pool *pool, PyThreadState *saved);
void wsgi_pool_enter_with_gil(struct wsgi_pool *pool);
void wsgi_pool_leave_unchanged(struct wsgi_pool *pool, PyThreadState *saved);

/* The core for this thread alone: *saved is set if the GIL had to be let go for it. In between nothing of Python may be
 * used. GIL held before and after. */
static inline void core_enter(struct wsgi *wsgi, PyThreadState **saved)
{
    *saved = NULL;
    if (wsgi->pool)
        wsgi_pool_enter(wsgi->pool, saved);
}

static inline void core_leave(struct wsgi *wsgi, PyThreadState *saved)
{
    if (wsgi->pool)
        wsgi_pool_leave(wsgi->pool, saved);
}

/* The same when the core was only looked at, so that a leader that waits need not hear of it. */
static inline void core_leave_unchanged(struct wsgi *wsgi, PyThreadState *saved)
{
    if (wsgi->pool)
        wsgi_pool_leave_unchanged(wsgi->pool, saved);
}

/* The core and the GIL together, for what touches the Python objects of a connection: nothing in between may run
 * Python code or let the GIL go, and the core is only looked at, not changed. */
static inline void core_enter_with_gil(struct wsgi *wsgi)
{
    if (wsgi->pool)
        wsgi_pool_enter_with_gil(wsgi->pool);
}

static inline void core_leave_with_gil(struct wsgi *wsgi)
{
    if (wsgi->pool)
        wsgi_pool_leave_unchanged(wsgi->pool, NULL);
}

/* --- wsgi_deadline.c: only where wsgi->timed -------------------------------------------------------------------- */

/* Around the loop's life, on the thread that runs the application (threads = 1). */
void wsgi_deadline_start(struct wsgi *wsgi);
void wsgi_deadline_stop(struct wsgi *wsgi);
/* Around the application's. GIL held. */
void wsgi_deadline_begin(struct wsgi_call *call);
void wsgi_deadline_end(struct wsgi_call *call);
/* Its time is over: raises in the thread that runs it, if it still does. GIL held, inside the core. */
void wsgi_deadline_interrupt(struct wsgi_call *call);
/* After a wait: raises here if the time is over, once. GIL held. */
bool wsgi_deadline_raise(struct wsgi_call *call);
/* environ["licorne.deadline"]; 0, or -1 with an exception. */
int wsgi_deadline_put(PyObject *environ, struct wsgi_call *call);

/* --- wsgi_wait.c ------------------------------------------------------------------------------------------------- */

/* Waits, without the GIL, until a byte of the body or its end is here, or room to write is. 0; -1: there will be none
 * (no exception pending unless the wait is not possible here: then RuntimeError). */
int wsgi_wait_body(struct wsgi_call *call);
int wsgi_wait_room(struct wsgi_call *call);
