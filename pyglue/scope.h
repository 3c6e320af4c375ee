/* scope: the `scope` dict of an ASGI connection: a copy of a template that holds what all requests of a listener have in
 * common, and over it what differs.
 *
 * `path` is percent-decoded, then decoded as UTF-8 with U+FFFD in the place of what is not (as uvicorn does; the bytes
 * as they came are in `raw_path`). A configured root_path stands in front of both, as the proxy has cut it off. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "server/base/str.h"

struct endpoint;
struct request;

/* "2.5" of the HTTP & WebSocket message format */
#define SCOPE_SPEC_VERSION "2.5"

struct scope_maker {
    PyObject *asgi;       /* {"version": "3.0", "spec_version": …}, shared by all scopes */
    PyObject *root_path;  /* str */
    struct str root;      /* the same as bytes; settings own it */
    PyObject *state;      /* the lifespan's; NULL: no lifespan */
    PyObject *template;   /* of the endpoint and scheme below: a worker has few listeners and rarely changes */
    const struct endpoint *endpoint;
    bool timed;           /* requests have deadlines: extensions has licorne.deadline */
    bool sends_files;     /* extensions has http.response.pathsend */
    PyObject *extensions; /* the template's, until a request keeps or changes it; borrowed; NULL: there is none */
    PyObject *websocket_template; /* made from this one: */
    PyObject *websocket_base;
};

/* `asgi_version`: "3.0" or "2.0". 0, or -1 with an exception. */
int scope_maker_init(struct scope_maker *maker, const char *asgi_version, const char *root_path);
void scope_maker_done(struct scope_maker *maker);

/* type: "http". `deadline`: the licorne.Deadline of a timed one, else NULL. New reference, NULL with an exception. */
PyObject *scope_http(struct scope_maker *maker, struct request *request, PyObject *deadline);
/* type: "websocket". New reference, NULL with an exception. */
PyObject *scope_websocket(struct scope_maker *maker, struct request *request);
/* type: "lifespan", with `state` itself rather than a copy (may be NULL). */
PyObject *scope_lifespan(struct scope_maker *maker, PyObject *state);
