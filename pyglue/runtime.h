/* runtime: how one kind of application (ASGI, WSGI) lives in a worker: who turns the loop, and what happens before the
 * first request and after the last. pyglue/serve.c drives it:
 *
 *     new -> startup -> run ... stop -> shutdown -> free
 *
 * All calls with the GIL held. No exception is left pending; failures are logged where they happen. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "server/app.h"
#include "server/net/loop.h"

struct settings;
struct runtime;

struct runtime_ops {
    /* Before the first connection: the ASGI lifespan. 0, or -1: cannot serve (logged). */
    int (*startup)(struct runtime *runtime);
    /* Turns the loop until stop() was called. */
    void (*run)(struct runtime *runtime);
    /* From inside a turn: run() returns when this turn is over. (WSGI with threads turns the loop without the GIL: what
     * is called from inside a turn must not count on it.) */
    void (*stop)(struct runtime *runtime);
    /* After the last connection: lifespan shutdown, pending tasks, asyncgens, threads; at most `timeout_ms`. */
    void (*shutdown)(struct runtime *runtime, int64_t timeout_ms);
    /* For a dump, from any thread: (the asyncio loop, [(task, "GET /path from CLIENT"), …]), the oldest request first. New
     * reference; NULL: none, perhaps with an exception. NULL where there are no tasks. */
    PyObject *(*tasks)(struct runtime *runtime);
    void (*free)(struct runtime *runtime);
};

struct runtime {
    const struct runtime_ops *ops;
    struct app *app;   /* what answers requests */
    struct loop *loop; /* owned */
    bool may_block;    /* the application runs on the loop's thread */
};

/* `application`: a new reference is taken. NULL with a Python exception. `settings` outlives it. */
struct runtime *asgi_runtime_new(const struct settings *settings, PyObject *application, int asgi_version /* 2 or 3 */);
struct runtime *wsgi_runtime_new(const struct settings *settings, PyObject *application);
