/* embed: see embed.h. The type HttpServer: listeners, connections and requests of one server; where it composes what
 * pyglue/serve.c composes for a worker. */
#include "pyglue/embed.h"

#include <stdlib.h>

#include "pyglue/aioloop.h"
#include "pyglue/asgi.h"
#include "pyglue/embed_log.h"
#include "pyglue/load.h"
#include "pyglue/module.h"
#include "pyglue/pyerr.h"
#include "server/base/mem.h"
#include "server/http/http_server.h"

#define WHERE "licorne.Config"

/* --- what the core tells ------------------------------------------------------------------------------------------- */

static void notify(struct embedded *self, const char *event)
{
    PyObject *result = self->notify != NULL ? PyObject_CallFunction(self->notify, "s", event) : Py_NewRef(Py_None);
    if (result == NULL)
        pyerr_log("The server cannot be told");
    Py_XDECREF(result);
}

static void on_empty(void *arg)
{
    notify(arg, "empty");
}

static void on_finished(void *arg, uint64_t requests)
{
    struct embedded *self = arg;
    if (requests < self->requests_at_most)
        return;
    self->requests_at_most = UINT64_MAX; /* told once */
    notify(self, "max_requests");
}

static void on_room(void *arg)
{
    struct embedded *self = arg;
    LIST_EACH(node, &self->acceptors)
        listener_resume(&LIST_ENTRY(node, struct acceptor, node)->listener);
}

/* The others wait in the backlog. */
static void look_for_room(struct embedded *self)
{
    if (http_server_has_room(self->http))
        return;
    LIST_EACH(node, &self->acceptors)
        listener_pause(&LIST_ENTRY(node, struct acceptor, node)->listener);
}

static void on_accept(struct listener *listener, int fd, const struct sockaddr *peer, socklen_t peer_len)
{
    struct acceptor *acceptor = LIST_ENTRY(listener, struct acceptor, listener);
    struct embedded *self = listener->arg;
    http_server_accept(self->http, fd, peer, peer_len, &acceptor->endpoint);
    look_for_room(self);
}

/* --- making ---------------------------------------------------------------------------------------------------------- */

static bool set_one(struct settings *settings, PyObject *pair, struct buf *errors)
{
    const char *name, *value;
    return PyArg_ParseTuple(pair, "sz", &name, &value) &&
           settings_set(settings, name, value, SOURCE_COMMAND_LINE, WHERE, errors);
}

/* The lines of `message`, which it empties. */
static void raise_message(PyObject *type, struct buf *message)
{
    while (buf_len(message) > 0 && message->data[message->end - 1] == '\n')
        message->end--;
    buf_append(message, "", 1);
    PyErr_SetString(type, buf_str(message).p);
    buf_done(message);
}

/* `pairs`: [(name, text or None), …], a LIST's items one by one. 0, or -1 with an exception that names all that is wrong. */
static int read_settings(struct settings *settings, PyObject *pairs)
{
    struct buf errors = { 0 };
    bool good = true;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pairs) && !PyErr_Occurred(); i++)
        good &= set_one(settings, PyList_GET_ITEM(pairs, i), &errors);
    if (good)
        good = settings_validate(settings, &errors);
    if (!good && !PyErr_Occurred())
        raise_message(PyExc_ValueError, &errors);
    buf_done(&errors);
    return good ? 0 : -1;
}

static void dismantle(struct embedded *self);

/* The loop is closed under us. */
static void on_free(struct loop_tenant *tenant)
{
    dismantle(LIST_ENTRY(tenant, struct embedded, tenant));
}

static int find_core(struct embedded *self)
{
    self->foreign = !aioloop_is(self->loop);
    if (self->foreign)
        return embed_loop_start(self);
    self->core = aioloop_loop(self->loop);
    return self->core != NULL ? 0 : -1;
}

static int compose(struct embedded *self, PyObject *application, int version, PyObject *state, PyObject *context,
                   bool access)
{
    if (find_core(self) < 0)
        return -1;
    self->asgi = asgi_runtime_on(self->loop, self->core, &self->settings, application, version, state, context);
    if (self->asgi == NULL)
        return -1;
    loop_join(self->core, &self->tenant);
    self->http = http_server_new(self->core, &self->settings, &self->asgi->app);
    http_server_on_room(self->http, on_room, self);
    self->requests_at_most = self->settings.max_requests > 0 ? (uint64_t)self->settings.max_requests : UINT64_MAX;
    http_server_on_finished(self->http, on_finished, self);
    if (access)
        http_server_on_access(self->http, embed_log_access, ACCESS_ATOMS);
    return 0;
}

static PyObject *embedded_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = { "loop", "application", "version", "state", "context", "settings", "access", "notify", NULL };
    PyObject *loop, *application, *state, *context, *settings, *notified;
    int version, access;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOiOO!O!pO", keywords, &loop, &application, &version, &state,
                                     &PyContext_Type, &context, &PyList_Type, &settings, &access, &notified))
        return NULL;
    struct embedded *self = (struct embedded *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    list_init(&self->acceptors);
    list_init(&self->tenant.node);
    self->tenant.on_free = on_free;
    settings_init(&self->settings);
    self->loop = Py_NewRef(loop);
    self->notify = Py_NewRef(notified);
    if (read_settings(&self->settings, settings) < 0 ||
        compose(self, application, version, state != Py_None ? state : NULL, context, access) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* --- ending ---------------------------------------------------------------------------------------------------------- */

static void stop_accepting(struct embedded *self)
{
    LIST_EACH(node, &self->acceptors)
        listener_done(&LIST_ENTRY(node, struct acceptor, node)->listener);
}

/* All connections are closed at once; what the application still does, it does for nobody. */
static void dismantle(struct embedded *self)
{
    if (self->loop == NULL)
        return;
    list_remove(&self->tenant.node);
    stop_accepting(self);
    if (self->foreign && self->core != NULL)
        embed_loop_stop(self);
    Py_CLEAR(self->loop); /* nothing wakes it any more */
    Py_CLEAR(self->notify);
    http_server_free(self->http);
    asgi_runtime_free(self->asgi);
    if (self->foreign)
        loop_free(self->core);
    self->http = NULL;
    self->asgi = NULL;
    self->core = NULL;
}

/* Also for the collector: a loop was dropped that had not been run to the end. */
static void embedded_finalize(PyObject *object)
{
    PyObject *exception = pyerr_take();
    dismantle((struct embedded *)object);
    if (exception != NULL)
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_XDECREF(exception);
}

/* Not all that is held is shown, but the usual way back to here: the server that is notified. */
static int embedded_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct embedded *self = (struct embedded *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->loop);
    Py_VISIT(self->notify);
    Py_VISIT(self->timer);
    return 0;
}

static void embedded_dealloc(PyObject *object)
{
    struct embedded *self = (struct embedded *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    embedded_finalize(object);
    for (struct list *node; (node = list_pop(&self->acceptors)) != NULL;) {
        struct acceptor *acceptor = LIST_ENTRY(node, struct acceptor, node);
        endpoint_done(&acceptor->endpoint);
        free(acceptor);
    }
    settings_done(&self->settings);
    type->tp_free(object);
    Py_DECREF(type);
}

/* --- methods --------------------------------------------------------------------------------------------------------- */

static struct embedded *open_one(PyObject *object)
{
    struct embedded *self = (struct embedded *)object;
    if (self->loop != NULL)
        return self;
    PyErr_SetString(PyExc_RuntimeError, "the server is closed");
    return NULL;
}

static PyObject *py_listen(PyObject *object, PyObject *number)
{
    struct embedded *self = open_one(object);
    int fd = self != NULL ? (int)PyLong_AsLong(number) : -1;
    if (PyErr_Occurred())
        return NULL;
    struct acceptor *acceptor = mem_zalloc(sizeof(*acceptor));
    listener_init(&acceptor->listener, self->core, fd);
    endpoint_init(&acceptor->endpoint, (struct sockaddr *)&acceptor->listener.address, acceptor->listener.address_len);
    acceptor->listener.on_accept = on_accept;
    acceptor->listener.arg = self;
    list_append(&self->acceptors, &acceptor->node);
    listener_start(&acceptor->listener);
    Py_RETURN_NONE;
}

static PyObject *py_unlisten(PyObject *object, PyObject *number)
{
    struct embedded *self = (struct embedded *)object;
    int fd = (int)PyLong_AsLong(number);
    if (PyErr_Occurred())
        return NULL;
    if (self->loop != NULL)
        LIST_EACH(node, &self->acceptors) {
            struct listener *listener = &LIST_ENTRY(node, struct acceptor, node)->listener;
            if (listener->fd == fd)
                listener_done(listener);
        }
    Py_RETURN_NONE;
}

static PyObject *py_drain(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    struct embedded *self = open_one(object);
    if (self == NULL)
        return NULL;
    stop_accepting(self);
    http_server_drain(self->http, on_empty, self);
    Py_RETURN_NONE;
}

static PyObject *py_abort(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    struct embedded *self = (struct embedded *)object;
    if (self->loop != NULL)
        http_server_abort(self->http);
    Py_RETURN_NONE;
}

static PyObject *py_tasks(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    struct embedded *self = (struct embedded *)object;
    return self->loop != NULL ? asgi_tasks(self->asgi) : PyList_New(0);
}

static PyObject *py_close(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    struct embedded *self = (struct embedded *)object;
    if (self->turning) {
        PyErr_SetString(PyExc_RuntimeError, "the server cannot be closed by one of its own requests");
        return NULL;
    }
    dismantle(self);
    Py_RETURN_NONE;
}

static PyObject *get_connections(PyObject *object, void *unused)
{
    (void)unused;
    struct embedded *self = (struct embedded *)object;
    return PyLong_FromUnsignedLongLong(self->loop != NULL ? tally_get(&http_server_tally(self->http)->conns) : 0);
}

static PyObject *get_requests(PyObject *object, void *unused)
{
    (void)unused;
    struct embedded *self = (struct embedded *)object;
    return PyLong_FromUnsignedLongLong(self->loop != NULL ? tally_get(&http_server_tally(self->http)->requests) : 0);
}

static PyMethodDef methods[] = {
    { "listen", py_listen, METH_O, "listen(fd): accepts connections there; non-blocking, stays the caller's." },
    { "unlisten", py_unlisten, METH_O, "unlisten(fd): before it is closed." },
    { "drain", py_drain, METH_NOARGS,
      "Stops accepting, closes what is idle, and the others when they are done; then notify(\"empty\")." },
    { "abort", py_abort, METH_NOARGS, "Closes all connections." },
    { "tasks", py_tasks, METH_NOARGS, "The asyncio tasks of requests and WebSockets that are not over." },
    { "close", py_close, METH_NOARGS, "Ends everything at once. Idempotent." },
    { "_turn", embed_loop_turn, METH_NOARGS, "For a loop that is not licorne's." },
    { NULL, NULL, 0, NULL },
};

static PyGetSetDef attributes[] = {
    { "connections", get_connections, NULL, "How many are open.", NULL },
    { "requests", get_requests, NULL, "How many were served.", NULL },
    { NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot slots[] = {
    { Py_tp_doc, "HttpServer(loop, application, version, state, context, settings, access, notify)\n\n"
                 "HTTP and WebSocket on a running asyncio loop, for licorne.Server." },
    { Py_tp_new, embedded_new },
    { Py_tp_dealloc, embedded_dealloc },
    { Py_tp_finalize, embedded_finalize },
    { Py_tp_traverse, embedded_traverse },
    { Py_tp_methods, methods },
    { Py_tp_getset, attributes },
    { 0, NULL },
};

static PyType_Spec spec = {
    .name = "licorne._core.HttpServer",
    .basicsize = sizeof(struct embedded),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

/* --- functions -------------------------------------------------------------------------------------------------------- */

static PyObject *py_check_settings(PyObject *module, PyObject *pairs)
{
    (void)module;
    struct settings settings;
    if (!PyList_Check(pairs))
        return PyErr_Format(PyExc_TypeError, "a list is needed");
    settings_init(&settings);
    int read = read_settings(&settings, pairs);
    settings_done(&settings);
    return read < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *py_setting_group(PyObject *module, PyObject *name)
{
    (void)module;
    const char *text = PyUnicode_AsUTF8(name), *group = text != NULL ? settings_group(text) : NULL;
    if (text == NULL)
        return NULL;
    return group != NULL ? PyUnicode_FromString(group) : Py_NewRef(Py_None);
}

/* (name, is it a factory, interface): (application, "asgi3", "asgi2" or "wsgi"). */
static PyObject *py_load_application(PyObject *module, PyObject *args)
{
    (void)module;
    struct load_spec spec = { 0 };
    struct application application = { 0 };
    struct buf message = { 0 };
    int factory;
    if (!PyArg_ParseTuple(args, "spi", &spec.app, &factory, &spec.interface))
        return NULL;
    spec.factory = factory;
    bool loaded = application_load(&application, &spec, &message);
    PyObject *pair = NULL;
    if (loaded)
        pair = Py_BuildValue("Os", application.callable,
                             ((const char *[]){ "wsgi", "asgi2", "asgi3" })[application.kind]);
    else
        raise_message(PyExc_ImportError, &message);
    application_done(&application);
    buf_done(&message);
    return pair;
}

static PyMethodDef functions[] = {
    { "check_settings", py_check_settings, METH_O, "check_settings([(name, text), ...]): ValueError says all that is wrong." },
    { "setting_group", py_setting_group, METH_O, "The group in the documentation of a setting or a long option; None: unknown." },
    { "load_application", py_load_application, METH_VARARGS, "load_application(name, factory, interface): (callable, kind)." },
    { NULL, NULL, 0, NULL },
};

int embed_add(PyObject *module)
{
    if (PyModule_AddFunctions(module, functions) < 0)
        return -1;
    PyObject *type = PyType_FromSpec(&spec);
    int added = type != NULL ? PyModule_AddObjectRef(module, "HttpServer", type) : -1;
    Py_XDECREF(type);
    return added;
}
