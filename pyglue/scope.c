/* scope: see scope.h. The template is copied whole (one memory copy in CPython), then keys are replaced, never added:
 * what a request does not differ in costs nothing.
 *
 * Header fields become tuples (name, value). The same ones come again and again (Host, User-Agent, Accept, …), so
 * tuples are kept in a small direct-mapped cache; fields that carry secrets or differ with each request stay out. */
#include "pyglue/scope.h"

#include <stdint.h>

#include "pyglue/names.h"
#include "server/base/percent.h"
#include "server/http/request.h"
#include "server/http/websocket.h"

#define PATH_INLINE 512 /* longer paths are decoded in memory of their own */

/* ------------------------------------------------------------------------------------------------------ headers */

#define FIELD_SLOTS 256
#define FIELD_VALUE_MAX 256 /* bytes; longer values are not kept */

static PyObject *field_slots[FIELD_SLOTS];

/* Fields whose value is the same for most requests of a client, and no secret. */
static bool field_is_steady(struct str name)
{
    switch (name.len) {
    case 4:
        return memcmp(name.p, "host", 4) == 0;
    case 6:
        return memcmp(name.p, "accept", 6) == 0 || memcmp(name.p, "origin", 6) == 0 || memcmp(name.p, "pragma", 6) == 0;
    case 7:
        return memcmp(name.p, "upgrade", 7) == 0;
    case 10:
        return memcmp(name.p, "user-agent", 10) == 0 || memcmp(name.p, "connection", 10) == 0;
    case 12:
        return memcmp(name.p, "content-type", 12) == 0;
    case 13:
        return memcmp(name.p, "cache-control", 13) == 0;
    case 15:
        return memcmp(name.p, "accept-encoding", 15) == 0 || memcmp(name.p, "accept-language", 15) == 0;
    case 21:
        return memcmp(name.p, "sec-websocket-version", 21) == 0;
    case 24:
        return memcmp(name.p, "sec-websocket-extensions", 24) == 0;
    default:
        return false;
    }
}

static uint64_t word_at(const char *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof(word));
    return word;
}

/* Of samples only: equality is checked anyway. */
static unsigned field_hash(const struct field *field)
{
    const uint64_t odd = 0x9E3779B97F4A7C15u;
    uint64_t hash = field->name.len * 31 + (unsigned char)field->name.p[0];
    const char *p = field->value.p;
    size_t len = field->value.len;
    hash = (hash ^ len) * odd;
    if (len >= 8) {
        hash = (hash ^ word_at(p)) * odd;
        hash = (hash ^ word_at(p + len / 2 - 4)) * odd;
        hash = (hash ^ word_at(p + len - 8)) * odd;
    } else {
        for (size_t i = 0; i < len; i++)
            hash = (hash ^ (unsigned char)p[i]) * odd;
    }
    return (unsigned)(hash >> 32) % FIELD_SLOTS;
}

static bool bytes_are(PyObject *bytes, struct str s)
{
    return (size_t)PyBytes_GET_SIZE(bytes) == s.len && memcmp(PyBytes_AS_STRING(bytes), s.p, s.len) == 0;
}

static PyObject *field_new(const struct field *field)
{
    PyObject *pair = PyTuple_New(2);
    if (pair == NULL)
        return NULL;
    PyObject *name = names_header(field->name);
    PyObject *value = PyBytes_FromStringAndSize(field->value.p, (Py_ssize_t)field->value.len);
    PyTuple_SET_ITEM(pair, 0, name);
    PyTuple_SET_ITEM(pair, 1, value);
    if (name == NULL || value == NULL)
        Py_CLEAR(pair);
    else
        PyObject_GC_UnTrack(pair); /* two bytes objects: no cycle can pass through it */
    return pair;
}

static PyObject *field_get(const struct field *field)
{
    if (field->value.len > FIELD_VALUE_MAX || !field_is_steady(field->name))
        return field_new(field);
    PyObject **slot = &field_slots[field_hash(field)];
    if (*slot != NULL && bytes_are(PyTuple_GET_ITEM(*slot, 1), field->value) &&
        bytes_are(PyTuple_GET_ITEM(*slot, 0), field->name))
        return Py_NewRef(*slot);
    PyObject *pair = field_new(field);
    if (pair != NULL)
        Py_XSETREF(*slot, Py_NewRef(pair));
    return pair;
}

static PyObject *headers_new(const struct request *request)
{
    PyObject *list = PyList_New((Py_ssize_t)request->field_count);
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < request->field_count; i++) {
        PyObject *pair = field_get(&request->fields[i]);
        if (pair == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, pair);
    }
    return list;
}

/* --------------------------------------------------------------------------------------------------------- paths */

static PyObject *utf8_new(const char *p, size_t len)
{
    return PyUnicode_DecodeUTF8(p, (Py_ssize_t)len, "replace");
}

static PyObject *path_decoded(struct str path)
{
    char here[PATH_INLINE], *room = here;
    if (path.len > sizeof(here) && (room = PyMem_Malloc(path.len)) == NULL)
        return PyErr_NoMemory();
    PyObject *text = utf8_new(room, percent_decode(path, room));
    if (room != here)
        PyMem_Free(room);
    return text;
}

/* A front end that says SCRIPT_NAME leaves it in the path; one that root_path is for has taken it off. */
static bool is_mounted(const struct request *request)
{
    return request->front != NULL && request->front->script_name.p != NULL;
}

static PyObject *path_new(const struct scope_maker *maker, const struct request *request)
{
    struct str path = request->path;
    bool plain = path.len == 0 || memchr(path.p, '%', path.len) == NULL;
    PyObject *text = plain ? utf8_new(path.p, path.len) : path_decoded(path);
    if (text == NULL || maker->root.len == 0 || is_mounted(request))
        return text;
    PyObject *full = PyUnicode_Concat(maker->root_path, text);
    Py_DECREF(text);
    return full;
}

static PyObject *raw_path_new(const struct scope_maker *maker, const struct request *request)
{
    struct str root = is_mounted(request) ? STR("") : maker->root, path = request->path;
    PyObject *raw = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(root.len + path.len));
    if (raw == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(raw);
    if (root.len > 0)
        memcpy(to, root.p, root.len);
    if (path.len > 0)
        memcpy(to + root.len, path.p, path.len);
    return raw;
}

/* ----------------------------------------------------------------------------------------------------- endpoints */

/* (host, port), (path, None) of a unix socket as `server`, or None. */
static PyObject *endpoint_new(const struct endpoint *endpoint, bool is_server)
{
    if (endpoint == NULL || endpoint->host.len == 0 || (endpoint->is_unix && !is_server))
        return Py_NewRef(Py_None);
    PyObject *host = PyUnicode_DecodeFSDefaultAndSize(endpoint->host.p, (Py_ssize_t)endpoint->host.len);
    if (endpoint->is_unix)
        return Py_BuildValue("(NO)", host, Py_None);
    return Py_BuildValue("(Ni)", host, endpoint->port);
}

static void client_free(void *client)
{
    Py_DECREF((PyObject *)client);
}

/* Made once a connection, unless a proxy names it. New reference; NULL with an exception. */
static PyObject *client_of(struct request *request)
{
    if (request_is_forwarded(request))
        return endpoint_new(request_client(request), false);
    void **cache = request_conn_cache(request, client_free);
    if (*cache == NULL)
        *cache = endpoint_new(request_client(request), false);
    return Py_XNewRef((PyObject *)*cache);
}

/* ------------------------------------------------------------------------------------------------------ template */

/* Steals `value`. */
static int put(PyObject *dict, PyObject *key, PyObject *value)
{
    int result = value == NULL ? -1 : PyDict_SetItem(dict, key, value);
    Py_XDECREF(value);
    return result;
}

/* What an application may add to, so each scope has one of its own. */
static PyObject *extensions_new(const struct scope_maker *maker)
{
    PyObject *extensions = PyDict_New();
    if (extensions != NULL && maker->sends_files && put(extensions, names.http_response_pathsend, PyDict_New()) < 0)
        Py_CLEAR(extensions);
    return extensions;
}

/* The template's own: is it as it was made, and does no request of before have it? */
static bool is_untouched(PyObject *extensions)
{
    if (extensions == NULL)
        return true;
    if (Py_REFCNT(extensions) != 1 || PyDict_GET_SIZE(extensions) != 1)
        return false;
    PyObject *path_send = PyDict_GetItemWithError(extensions, names.http_response_pathsend); // borrowed
    return path_send != NULL && PyDict_CheckExact(path_send) && PyDict_GET_SIZE(path_send) == 0;
}

/* Each scope has its own, but for requests that come one after the other that can be the same. */
static int put_extensions(struct scope_maker *maker, PyObject *template)
{
    maker->extensions = NULL;
    if (!maker->sends_files)
        return maker->timed ? PyDict_SetItem(template, names.extensions, Py_None) : 0;
    maker->extensions = extensions_new(maker); // borrowed from the template
    return put(template, names.extensions, maker->extensions);
}

/* Every key that a scope may have: replacing one is cheaper than adding one. */
static PyObject *template_new(struct scope_maker *maker, struct request *request)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL)
        return NULL;
    if (put(dict, names.type, Py_NewRef(names.http)) < 0 || put(dict, names.asgi, Py_NewRef(maker->asgi)) < 0 ||
        put(dict, names.http_version, Py_NewRef(names.http_1_1)) < 0 ||
        put(dict, names.server, endpoint_new(request_server(request), true)) < 0 ||
        put(dict, names.client, Py_NewRef(Py_None)) < 0 || put(dict, names.scheme, Py_NewRef(names.http)) < 0 ||
        put(dict, names.method, names_method(STR("GET"))) < 0 ||
        put(dict, names.root_path, Py_NewRef(maker->root_path)) < 0 || put(dict, names.path, Py_NewRef(Py_None)) < 0 ||
        put(dict, names.raw_path, Py_NewRef(Py_None)) < 0 ||
        put(dict, names.query_string, PyBytes_FromStringAndSize(NULL, 0)) < 0 ||
        put(dict, names.headers, Py_NewRef(Py_None)) < 0 ||
        (maker->state != NULL && put(dict, names.state, Py_NewRef(Py_None)) < 0) || put_extensions(maker, dict) < 0)
        Py_CLEAR(dict);
    return dict;
}

/* Borrowed; NULL with an exception. */
static PyObject *template_of(struct scope_maker *maker, struct request *request)
{
    const struct endpoint *endpoint = request_server(request);
    if (maker->template == NULL || maker->endpoint != endpoint) {
        Py_XSETREF(maker->template, template_new(maker, request));
        maker->endpoint = endpoint;
    } else if (!is_untouched(maker->extensions) && put_extensions(maker, maker->template) < 0)
        Py_CLEAR(maker->template);
    return maker->template;
}

/* --------------------------------------------------------------------------------------------------- entry points */

static int fill(struct scope_maker *maker, PyObject *scope, struct request *request)
{
    if (put(scope, names.path, path_new(maker, request)) < 0 ||
        put(scope, names.raw_path, raw_path_new(maker, request)) < 0 ||
        put(scope, names.headers, headers_new(request)) < 0)
        return -1;
    if (put(scope, names.client, client_of(request)) < 0)
        return -1;
    if (is_mounted(request) &&
        put(scope, names.root_path, utf8_new(request->front->script_name.p, request->front->script_name.len)) < 0)
        return -1;
    if (request_scheme(request).len == 5 && PyDict_SetItem(scope, names.scheme, names.https) < 0)
        return -1;
    if (request->version_minor == 0 && PyDict_SetItem(scope, names.http_version, names.http_1_0) < 0)
        return -1;
    if (!str_eq(request->method, STR("GET")) && put(scope, names.method, names_method(request->method)) < 0)
        return -1;
    if (request->query.len > 0 &&
        put(scope, names.query_string, PyBytes_FromStringAndSize(request->query.p, (Py_ssize_t)request->query.len)) < 0)
        return -1;
    return maker->state == NULL ? 0 : put(scope, names.state, PyDict_Copy(maker->state));
}

static int put_deadline(const struct scope_maker *maker, PyObject *scope, PyObject *deadline)
{
    PyObject *extensions = extensions_new(maker);
    if (extensions != NULL && PyDict_SetItem(extensions, names.licorne_deadline, deadline) < 0)
        Py_CLEAR(extensions);
    return put(scope, names.extensions, extensions);
}

PyObject *scope_http(struct scope_maker *maker, struct request *request, PyObject *deadline)
{
    PyObject *template = template_of(maker, request); // borrowed
    PyObject *scope = template != NULL ? PyDict_Copy(template) : NULL;
    if (scope != NULL &&
        (fill(maker, scope, request) < 0 || (deadline != NULL && put_deadline(maker, scope, deadline) < 0)))
        Py_CLEAR(scope);
    return scope;
}

/* Every subprotocol that the client offers, in its order. */
static PyObject *subprotocols_new(const struct request *request)
{
    struct str protocol;
    PyObject *list = PyList_New(0);
    for (size_t at = 0; list != NULL && websocket_offered(request, &at, &protocol);) {
        PyObject *name = PyUnicode_DecodeLatin1(protocol.p, (Py_ssize_t)protocol.len, NULL);
        if (name == NULL || PyList_Append(list, name) < 0)
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

/* The template without a method, and with what a WebSocket has besides. */
static PyObject *websocket_template_new(PyObject *base)
{
    PyObject *dict = PyDict_New(), *key, *value;
    Py_ssize_t at = 0;
    while (dict != NULL && PyDict_Next(base, &at, &key, &value))
        if (key != names.method && PyDict_SetItem(dict, key, value) < 0)
            Py_CLEAR(dict);
    if (dict != NULL &&
        (put(dict, names.type, Py_NewRef(names.websocket)) < 0 || put(dict, names.scheme, Py_NewRef(names.ws)) < 0 ||
         put(dict, names.subprotocols, Py_NewRef(Py_None)) < 0 ||
         put(dict, names.extensions, Py_BuildValue("{O{}}", names.websocket_http_response)) < 0))
        Py_CLEAR(dict);
    return dict;
}

/* Borrowed; NULL with an exception. */
static PyObject *websocket_template_of(struct scope_maker *maker, struct request *request)
{
    PyObject *base = template_of(maker, request); // borrowed
    if (base == NULL || (maker->websocket_template != NULL && maker->websocket_base == base))
        return base != NULL ? maker->websocket_template : NULL;
    Py_XSETREF(maker->websocket_template, websocket_template_new(base));
    Py_XSETREF(maker->websocket_base, Py_NewRef(base));
    return maker->websocket_template;
}

PyObject *scope_websocket(struct scope_maker *maker, struct request *request)
{
    PyObject *template = websocket_template_of(maker, request); // borrowed
    PyObject *scope = template != NULL ? PyDict_Copy(template) : NULL;
    bool secure = request_scheme(request).len == 5;
    if (scope != NULL &&
        (fill(maker, scope, request) < 0 || (secure && PyDict_SetItem(scope, names.scheme, names.wss) < 0) ||
         put(scope, names.subprotocols, subprotocols_new(request)) < 0))
        Py_CLEAR(scope);
    return scope;
}

PyObject *scope_lifespan(struct scope_maker *maker, PyObject *state)
{
    /* Its version counts by itself: "2.0" of the lifespan's specification. */
    PyObject *asgi = PyDict_Copy(maker->asgi), *scope = PyDict_New();
    if (asgi == NULL || scope == NULL || put(asgi, names.spec_version, PyUnicode_FromString("2.0")) < 0 ||
        put(scope, names.type, Py_NewRef(names.lifespan)) < 0 || put(scope, names.asgi, Py_NewRef(asgi)) < 0 ||
        (state != NULL && PyDict_SetItem(scope, names.state, state) < 0))
        Py_CLEAR(scope);
    Py_XDECREF(asgi);
    return scope;
}

int scope_maker_init(struct scope_maker *maker, const char *asgi_version, const char *root_path)
{
    *maker = (struct scope_maker){ .root = str_from(root_path) };
    maker->root_path = utf8_new(maker->root.p, maker->root.len);
    maker->asgi = Py_BuildValue("{OsOs}", names.version, asgi_version, names.spec_version, SCOPE_SPEC_VERSION);
    return maker->root_path == NULL || maker->asgi == NULL ? -1 : 0;
}

void scope_maker_done(struct scope_maker *maker)
{
    Py_CLEAR(maker->asgi);
    Py_CLEAR(maker->root_path);
    Py_CLEAR(maker->state);
    Py_CLEAR(maker->template);
    Py_CLEAR(maker->websocket_template);
    Py_CLEAR(maker->websocket_base);
}
