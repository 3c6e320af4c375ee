/* embed: the HTTP core in the process of somebody else, on an asyncio loop that is already there: licorne.Server. No master, no
 * worker, no process of its own; several servers may be in one process, each on the thread of its loop.
 *
 *     the caller's loop is        the core
 *     a licorne.Loop              lives on its poller, as in a worker
 *     any other                   has a poller of its own, whose descriptor is a reader of the caller's loop (embed_loop.c)
 *
 * licorne/server.py drives it: it binds, runs the lifespan, waits. All with the GIL held, on the loop's thread. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "config/settings.h"
#include "server/http/request.h"
#include "server/net/listener.h"
#include "server/net/loop.h"

struct asgi;
struct http_server;

struct acceptor {
    struct list node;
    struct listener listener;
    struct endpoint endpoint;
};

/* licorne._core.HttpServer */
struct embedded {
    PyObject_HEAD
    PyObject *loop;      /* the caller's; NULL: nothing below was made, or close() was called */
    struct loop *core;   /* its poller, or our own */
    bool foreign;        /* our own: it turns inside the caller's */
    bool turning;
    PyObject *timer;     /* foreign: the caller's loop's, for … */
    uint64_t timer_ms;   /* … the core's first timer, due then */
    struct settings settings;
    struct asgi *asgi;
    struct http_server *http;
    struct list acceptors;
    struct loop_tenant tenant;
    PyObject *notify;    /* called with the name of what has happened */
    uint64_t requests_at_most;
};

/* embed_loop.c: a poller of our own, inside the caller's. 0, or -1 with an exception. */
int embed_loop_start(struct embedded *self);
/* Nothing of the caller's loop refers to us any more; the poller stays. */
void embed_loop_stop(struct embedded *self);
/* _turn(): takes one. */
PyObject *embed_loop_turn(PyObject *self, PyObject *nothing);
