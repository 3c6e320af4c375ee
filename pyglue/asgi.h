/* asgi: what the files of the ASGI side share. One `struct asgi` lives in each worker (asgi_runtime.c); each request has
 * one `struct asgi_http`, a Python object that the application gets twice, as `receive` and as `send`.
 *
 *     asgi_runtime   the asyncio loop, the root task, start and end
 *     asgi_lifespan  the lifespan scope
 *     scope          the scope dict of a request
 *     asgi_task      the task that a request or a WebSocket is
 *     asgi_http      a request's life: outcome, what the server reports
 *     asgi_receive   its receive()          asgi_send   its send()
 *     asgi_websocket, _receive, _send: the same for a WebSocket
 *     asgi_awaitable what receive() and send() return
 *
 * All with the GIL held, on the loop's thread. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "pyglue/runtime.h"
#include "pyglue/scope.h"
#include "server/app.h"
#include "server/base/list.h"
#include "server/net/loop.h"

struct field;
struct request;
struct settings;

struct asgi {
    struct runtime runtime; /* first: serve.c knows only this */
    struct app app;         /* the seam's half: see asgi_http.c */
    const struct settings *settings;
    PyObject *application; /* always `async def (scope, receive, send)`: licorne/_asgi.py adapts the others */
    PyObject *helpers;     /* the module licorne._asgi */
    PyObject *loop;        /* licorne.loop.Loop; embedded: the caller's, of any kind */
    PyObject *task_name;   /* of every request's task */
    PyObject *stopped;     /* asyncio.Event: run() returns once it is set */
    PyObject *lifespan;    /* struct asgi_lifespan; NULL: none, or not supported */
    PyObject *context;     /* contextvars as the lifespan left them at startup.complete, or NULL; embedded: as the caller's are */
    PyObject *done_context; /* what the done-callbacks of tasks run in */
    PyObject *raised;      /* SystemExit or KeyboardInterrupt of a request's first step: the loop raises it as well */
    struct scope_maker scopes;
    struct list suspended; /* asgi_http whose tasks wait for something */
    struct list websockets; /* asgi_websocket likewise */
    struct list offers;     /* asgi_websocket that have not begun: thousands may come at once */
    struct loop_task begin_task;
    bool stopping;
    bool embedded;         /* the loop is the caller's: it is not turned or closed here, … */
    bool foreign;          /* … nor is it a licorne.Loop */
};

static inline struct asgi *asgi_of(struct runtime *runtime)
{
    return (struct asgi *)runtime;
}

/* --- asgi_task.c ------------------------------------------------------------------------------------------------- */

/* licorne.ClientDisconnected, an OSError: what send() raises when nobody listens any more. */
extern PyObject *asgi_client_disconnected;
/* asyncio.CancelledError; set once there is a runtime. */
extern PyObject *asgi_cancelled_error;

/* Calls the application with `scope` (stolen; NULL with an exception) and takes the first step of its task. Returns the task if
 * it waits: `self` is then called with it when it is done. NULL: it is over, *exception is what it raised, or NULL. */
PyObject *asgi_task_begin(struct asgi *asgi, PyObject *scope, PyObject *self, PyObject **exception);
/* What a done task raised, CancelledError included; NULL: nothing, or it is not done. New reference. */
PyObject *asgi_task_exception(PyObject *task);
bool asgi_task_done(PyObject *task);
/* Nobody wants to know any more how it ends: takes over the reference (may be NULL). */
void asgi_task_forget(PyObject *task, PyObject *self);
/* Its time is over: a CancelledError at its next step. */
void asgi_task_cancel(PyObject *task);
/* Does the exception come from our own "the client has gone"? */
bool asgi_from_disconnect(PyObject *exception);
/* What is used of the module asyncio, once there is a runtime. -1 with an exception. */
int asgi_task_init(PyObject *asyncio);
int asgi_task_add(PyObject *module);

/* --- asgi_http.c ------------------------------------------------------------------------------------------------- */

struct asgi_http {
    PyObject_HEAD vectorcallfunc vectorcall;
    struct asgi *asgi;       /* NULL: the runtime is gone */
    struct request *request; /* counted; NULL: the application has returned */
    PyObject *task;          /* once it has suspended, until it is done */
    PyObject *chunk;         /* bytes that came while receive() waited: they skip the request's buffer */
    struct list node;        /* in asgi->suspended, with a reference */
    struct list receivers;   /* awaitables that wait for a message */
    struct list senders;     /* awaitables that wait for room */
    bool started;            /* http.response.start was accepted */
    bool complete;           /* so was the last http.response.body, or the application has returned */
    bool body_asked;         /* request_want_body() was called */
    bool body_told;          /* the last http.request was delivered */
    bool disconnected;       /* the client has left, or closed its sending side */
    bool full;               /* on_writable is owed */
    bool timed_out;          /* its time was over, so its task was cancelled */
};

extern const struct app_ops asgi_http_ops;
int asgi_http_add(PyObject *module);
/* Nothing more goes out or comes in for it: whoever waits learns that. */
void asgi_http_complete(struct asgi_http *http);
/* … and lets the request go. */
void asgi_http_release(struct asgi_http *http);

/* --- asgi_receive.c, asgi_send.c: the two calls of the application ----------------------------------------------- */

PyObject *asgi_receive(struct asgi_http *http);
PyObject *asgi_send(struct asgi_http *http, PyObject *event);
int asgi_receive_add(PyObject *module);
/* Part of the seam: takes bytes past the request's buffer when a receive() waits for them. */
size_t asgi_on_body(struct request *request, struct str data, bool end);
/* Is the str `text` this name? (Most strings of an application are not interned.) */
bool asgi_is(PyObject *text, PyObject *name);
/* A header of an event, and its status (NULL: not there): -1 with an exception. `keep` gets what must live as long as the
 * field. */
int asgi_field_of(PyObject *pair, struct field *field, PyObject **keep);
int asgi_status_of(PyObject *status);
/* The type of an event; borrowed. NULL with an exception: not a dict, no type, not a str. */
PyObject *asgi_event_type(PyObject *event);

/* --- asgi_websocket.c -------------------------------------------------------------------------------------------- */

/* Before the first offer; whatever runs the loop may change, this stays. */
void asgi_websockets_init(struct asgi *asgi);
/* The offer of a WebSocket; the others are what the core tells of it until it is answered. */
void asgi_websocket_start(struct asgi *asgi, struct request *request);
void asgi_websocket_writable(struct request *request);
void asgi_websocket_disconnected(struct request *request);
void asgi_websocket_timed_out(struct request *request);
/* Did the task of one raise this very exception? */
bool asgi_websocket_raised(struct asgi *asgi, PyObject *exception);
/* Adds the tasks of those that are not over to a list: 0, or -1 with an exception. */
int asgi_websocket_tasks(struct asgi *asgi, PyObject *list);
/* What still waits will wait for ever; it must not reach back to the runtime. */
void asgi_websockets_forget(struct asgi *asgi);
int asgi_websocket_add(PyObject *module);

/* --- asgi_awaitable.c -------------------------------------------------------------------------------------------- */

/* An awaitable that is ready with None: new reference. Cannot fail. */
PyObject *asgi_awaitable_none(void);
/* An awaitable that asks poll(owner), at its first step and whenever it is woken, until there is a result. `poll`
 * returns a new reference (a dict or None); NULL with an exception; or NULL without one: not yet. While it waits, it
 * is in `waiters`. */
PyObject *asgi_awaitable_new(PyObject *owner, PyObject *(*poll)(PyObject *owner), struct list *waiters, PyObject *loop);
/* All that wait there ask again, each in its own task's next step. */
void asgi_awaitable_wake(struct list *waiters);
int asgi_awaitable_add(PyObject *module);

/* --- asgi_lifespan.c --------------------------------------------------------------------------------------------- */

/* 0: started, or the application has none (then asgi->lifespan is NULL). -1: failed, logged. */
int asgi_lifespan_startup(struct asgi *asgi);
/* Bounded by `timeout_ms`. */
void asgi_lifespan_shutdown(struct asgi *asgi, int64_t timeout_ms);
int asgi_lifespan_add(PyObject *module);

/* --- asgi_runtime.c ---------------------------------------------------------------------------------------------- */

/* On a loop that runs already (embed.h): `core` is its poller, or one that turns inside it. Nothing of it is turned from here:
 * the lifespan is the caller's to run, `state` what came of it (may be NULL); each request runs in a copy of `context`. NULL with an
 * exception. */
struct asgi *asgi_runtime_on(PyObject *loop, struct loop *core, const struct settings *settings, PyObject *application,
                             int version, PyObject *state, PyObject *context);
void asgi_runtime_free(struct asgi *asgi);
/* The tasks of the requests and WebSockets that are not over: a new list. */
PyObject *asgi_tasks(struct asgi *asgi);

/* Turns the loop until this coroutine (stolen, may be NULL) or future has a result; new reference, NULL with an
 * exception. */
PyObject *asgi_run_until(struct asgi *asgi, PyObject *awaitable);
