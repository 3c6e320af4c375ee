/* load: from the text of the setting `app` to the application: "module", "module:attribute", "module:object.attribute",
 * "module:factory(literal arguments)"; and what it speaks.
 *
 * All functions need the GIL and leave no exception pending unless they say so. */
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include "pyglue/detect.h"
#include "server/base/buf.h"

struct application {
    PyObject *callable; /* owned; NULL: not loaded */
    enum application_kind kind;
};

struct str_list;

struct load_spec {
    const char *app; /* the setting */
    const char *paste; /* the setting; not NULL nor empty: instead of `app` */
    const struct str_list *paste_globals;
    bool factory;    /* call what it names */
    int interface;   /* INTERFACE_AUTO …: config/settings.h */
};

/* Imports, looks up, calls the factory, finds the kind. On failure false, with one line in `message` that says what to
 * do; an exception of the user's code has been logged with its traceback. */
bool application_load(struct application *application, const struct load_spec *spec, struct buf *message);

/* The items as a list of texts: a new reference, or NULL with an exception. */
PyObject *load_list(const struct str_list *items);

void application_done(struct application *application);
