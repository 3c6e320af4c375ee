/* environ: see environ.h. There is one template for each listener and scheme: with all that does not change between
 * requests, and with the commonest values of what does, so that a plain request sets a handful of keys. A connection
 * keeps the two strings of its peer. */
#include "pyglue/environ.h"

#include <netinet/in.h>
#include <stdlib.h>

#include "config/settings.h"
#include "config/version.h"
#include "pyglue/names.h"
#include "pyglue/wsgi.h"
#include "server/base/mem.h"
#include "server/base/percent.h"

#define DECODE_ON_STACK 2048

struct template {
    const struct endpoint *server;
    bool https;
    PyObject *dict;
};

struct environ {
    struct wsgi *wsgi;
    struct template *templates;
    size_t count;
    struct template *latest;
    PyObject *script_name;
    char *prefix; /* root_path without a slash at the end */
    size_t prefix_len;
};

/* What a connection keeps: its cell in the core points here. */
struct peer {
    struct wsgi *wsgi;
    PyObject *address, *port; /* port: NULL for a unix socket */
};

static PyObject *latin1(struct str text)
{
    return PyUnicode_DecodeLatin1(text.p, (Py_ssize_t)text.len, NULL);
}

/* dict[key] = value; steals `value`, which may be NULL with an exception. */
static int put(PyObject *dict, PyObject *key, PyObject *value)
{
    int failed = value == NULL ? -1 : PyDict_SetItem(dict, key, value);
    Py_XDECREF(value);
    return failed;
}

/* --- templates --------------------------------------------------------------------------------------------------- */

/* PEP 3333 asks for a name and a port that make a URL; a unix socket has neither. */
static PyObject *server_name(const struct endpoint *server)
{
    if (server->is_unix || server->host.len == 0)
        return PyUnicode_FromString("localhost");
    PyObject *host = latin1(server->host);
    if (host == NULL || memchr(server->host.p, ':', server->host.len) == NULL)
        return host;
    PyObject *bracketed = PyUnicode_FromFormat("[%U]", host); /* as in a URL */
    Py_DECREF(host);
    return bracketed;
}

static PyObject *server_port(const struct endpoint *server, bool https)
{
    return PyUnicode_FromFormat("%d", server->port >= 0 ? server->port : https ? 443 : 80);
}

static int put_wsgi(PyObject *dict, const struct wsgi *wsgi, bool https)
{
    PyObject *errors = PySys_GetObject("stderr"); // borrowed
    return put(dict, names.wsgi_version, Py_BuildValue("(ii)", 1, 0)) < 0 ||
                   put(dict, names.wsgi_errors, Py_NewRef(errors ? errors : Py_None)) < 0 ||
                   put(dict, names.wsgi_multithread, PyBool_FromLong(wsgi->settings->threads > 1)) < 0 ||
                   put(dict, names.wsgi_multiprocess, PyBool_FromLong(wsgi->settings->workers > 1)) < 0 ||
                   put(dict, names.wsgi_run_once, Py_NewRef(Py_False)) < 0 ||
                   put(dict, names.wsgi_input_terminated, Py_NewRef(Py_True)) < 0 ||
                   put(dict, names.wsgi_file_wrapper, Py_NewRef((PyObject *)wsgi_file_type())) < 0 ||
                   put(dict, names.wsgi_url_scheme, Py_NewRef(https ? names.https : names.http)) < 0
               ? -1
               : 0;
}

static int put_server(PyObject *dict, const struct environ *environ, const struct endpoint *server, bool https)
{
    return put(dict, names.SERVER_SOFTWARE, PyUnicode_FromString("licorne/" LICORNE_VERSION)) < 0 ||
                   put(dict, names.SERVER_NAME, server_name(server)) < 0 ||
                   put(dict, names.SERVER_PORT, server_port(server, https)) < 0 ||
                   put(dict, names.SERVER_PROTOCOL, Py_NewRef(names.protocol_1_1)) < 0 ||
                   put(dict, names.SCRIPT_NAME, Py_NewRef(environ->script_name)) < 0
               ? -1
               : 0;
}

/* Keys that each request sets have their place already: replacing a value is cheaper than adding a key. */
static int put_places(PyObject *dict, bool with_port)
{
    PyObject *keys[] = { names.PATH_INFO, names.RAW_URI, names.REQUEST_URI, names.QUERY_STRING, names.REMOTE_ADDR,
                         names.wsgi_input, with_port ? names.REMOTE_PORT : names.REMOTE_ADDR };
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (PyDict_SetItem(dict, keys[i], names.empty) < 0)
            return -1;
    return PyDict_SetItem(dict, names.REQUEST_METHOD, names.GET);
}

/* A copy has the room of its original: keys put in and taken out again make the room for a request's headers, which
 * would otherwise cost every request a resize. */
static int make_room(PyObject *dict)
{
    Py_ssize_t used = PyDict_GET_SIZE(dict);
    for (Py_ssize_t i = used; i < 24; i++)
        if (put(dict, Py_None, Py_NewRef(Py_None)) < 0 || PyDict_DelItem(dict, Py_None) < 0)
            return -1;
    return 0;
}

static PyObject *template_make(const struct environ *environ, const struct endpoint *server, bool https)
{
    PyObject *dict = PyDict_New();
    if (dict == NULL)
        return NULL;
    if (put_wsgi(dict, environ->wsgi, https) < 0 || put_server(dict, environ, server, https) < 0 ||
        put_places(dict, !server->is_unix) < 0 || make_room(dict) < 0)
        Py_CLEAR(dict);
    return dict;
}

static PyObject *template_add(struct environ *environ, const struct endpoint *server, bool https)
{
    PyObject *dict = template_make(environ, server, https);
    if (dict == NULL)
        return NULL;
    environ->templates = mem_realloc(environ->templates, (environ->count + 1) * sizeof(struct template));
    environ->latest = &environ->templates[environ->count++];
    *environ->latest = (struct template){ server, https, dict };
    return dict;
}

/* Borrowed; NULL with an exception. */
static PyObject *template_for(struct environ *environ, struct request *request)
{
    const struct endpoint *server = request_server(request);
    bool https = request_scheme(request).len == 5;
    struct template *latest = environ->latest;
    if (latest && latest->server == server && latest->https == https)
        return latest->dict;
    for (size_t i = 0; i < environ->count; i++)
        if (environ->templates[i].server == server && environ->templates[i].https == https) {
            environ->latest = &environ->templates[i];
            return environ->latest->dict;
        }
    return template_add(environ, server, https);
}

/* --- the connection ---------------------------------------------------------------------------------------------- */

static void peer_free(void *arg)
{
    struct peer *peer = arg;
    wsgi_drop(peer->wsgi, peer->address);
    if (peer->port)
        wsgi_drop(peer->wsgi, peer->port);
    free(peer);
}

static struct peer *peer_new(struct wsgi *wsgi, const struct endpoint *client)
{
    PyObject *address = latin1(client->is_unix ? STR("") : client->host), *port = NULL;
    if (address == NULL)
        return NULL;
    if (client->port >= 0 && (port = PyUnicode_FromFormat("%d", client->port)) == NULL) {
        Py_DECREF(address);
        return NULL;
    }
    struct peer *peer = mem_alloc(sizeof(*peer));
    *peer = (struct peer){ wsgi, address, port };
    return peer;
}

/* Steals `value`. */
static int put_new(PyObject *dict, PyObject *key, PyObject *value)
{
    int result = value == NULL ? -1 : PyDict_SetItem(dict, key, value);
    Py_XDECREF(value);
    return result;
}

/* Whom a proxy speaks for; not the connection's. */
static int put_forwarded(PyObject *dict, struct request *request)
{
    const struct endpoint *client = request_client(request);
    if (client->port > 0 && put_new(dict, names.REMOTE_PORT, PyUnicode_FromFormat("%d", client->port)) < 0)
        return -1;
    return put_new(dict, names.REMOTE_ADDR, latin1(client->host));
}

static int put_peer(struct environ *environ, PyObject *dict, struct request *request)
{
    if (request_is_forwarded(request))
        return put_forwarded(dict, request);
    void **cell = request_conn_cache(request, peer_free);
    if (*cell == NULL && (*cell = peer_new(environ->wsgi, request_client(request))) == NULL)
        return -1;
    const struct peer *peer = *cell;
    if (peer->port && PyDict_SetItem(dict, names.REMOTE_PORT, peer->port) < 0)
        return -1;
    return PyDict_SetItem(dict, names.REMOTE_ADDR, peer->address);
}

/* --- the target -------------------------------------------------------------------------------------------------- */

/* Some proxies take the prefix off, others do not: the application sees the path below it either way. `environ` is NULL: there
 * is none. */
static struct str below_prefix(const struct environ *environ, struct str path)
{
    size_t n = environ != NULL ? environ->prefix_len : 0;
    if (n == 0 || path.len < n || memcmp(path.p, environ->prefix, n) != 0 || (path.len > n && path.p[n] != '/'))
        return path;
    return (struct str){ path.p + n, path.len - n };
}

static PyObject *path_info_decoded(const struct environ *environ, struct str path)
{
    char on_stack[DECODE_ON_STACK], *decoded = path.len <= sizeof(on_stack) ? on_stack : mem_alloc(path.len);
    size_t len = percent_decode(path, decoded);
    PyObject *text = latin1(below_prefix(environ, (struct str){ decoded, len }));
    if (decoded != on_stack)
        free(decoded);
    return text;
}

static PyObject *path_info(const struct environ *environ, struct str path)
{
    if (path.len > 0 && memchr(path.p, '%', path.len) != NULL)
        return path_info_decoded(environ, path);
    return latin1(below_prefix(environ, path));
}

static PyObject *path_info_of(const struct environ *environ, const struct request *request)
{
    const struct request_front *front = request->front;
    if (front == NULL || front->script_name.p == NULL)
        return path_info(environ, request->path);
    struct str below = { request->path.p + front->script_len, request->path.len - front->script_len };
    return path_info(NULL, below);
}

static int put_target(const struct environ *environ, PyObject *dict, const struct request *request)
{
    PyObject *path = path_info_of(environ, request), *target = NULL;
    if (path == NULL)
        return -1;
    bool same = PyUnicode_GET_LENGTH(path) == (Py_ssize_t)request->target.len && request->query.len == 0 &&
                str_eq(request->target, request->path); /* nothing was decoded or taken off */
    target = same ? Py_NewRef(path) : latin1(request->target);
    int failed = put(dict, names.PATH_INFO, path);
    if (failed < 0 || target == NULL || PyDict_SetItem(dict, names.RAW_URI, target) < 0 ||
        PyDict_SetItem(dict, names.REQUEST_URI, target) < 0)
        failed = -1;
    Py_XDECREF(target);
    if (failed == 0 && request->query.len > 0)
        failed = put(dict, names.QUERY_STRING, latin1(request->query));
    return failed;
}

/* --- the header fields ------------------------------------------------------------------------------------------- */

/* A repeated field: the values become one. Steals `value`. */
static int put_joined(PyObject *dict, PyObject *key, PyObject *before, PyObject *value, struct str name)
{
    const char *form = str_eq(name, STR("cookie")) ? "%U; %U" : "%U,%U";
    PyObject *joined = PyUnicode_FromFormat(form, before, value);
    Py_DECREF(value);
    return put(dict, key, joined);
}

static int put_field(PyObject *dict, const struct field *field)
{
    PyObject *key = names_environ(field->name), *value = latin1(field->value);
    int failed = -1;
    if (key != NULL && value != NULL) {
        PyObject *there = PyDict_SetDefault(dict, key, value); // borrowed
        if (there == value)
            failed = 0;
        else if (there != NULL)
            failed = put_joined(dict, key, there, Py_NewRef(value), field->name);
    }
    Py_XDECREF(value);
    Py_XDECREF(key);
    return failed;
}

static int put_fields(PyObject *dict, const struct request *request)
{
    for (size_t i = 0; i < request->field_count; i++)
        if (put_field(dict, &request->fields[i]) < 0)
            return -1;
    return 0;
}

static int put_line(PyObject *dict, const struct request *request)
{
    if (!str_eq(request->method, STR("GET")) && put(dict, names.REQUEST_METHOD, names_method(request->method)) < 0)
        return -1;
    if (request->version_minor == 0 && PyDict_SetItem(dict, names.SERVER_PROTOCOL, names.protocol_1_0) < 0)
        return -1;
    return 0;
}

/* --- what a front end says ----------------------------------------------------------------------------------------- */

static int put_var(PyObject *dict, const struct field *var)
{
    PyObject *key = latin1(var->name);
    int failed = key == NULL ? -1 : put(dict, key, latin1(var->value));
    Py_XDECREF(key);
    return failed;
}

static int put_front(PyObject *dict, const struct request_front *front)
{
    for (size_t i = 0; i < front->var_count; i++)
        if (put_var(dict, &front->vars[i]) < 0)
            return -1;
    if (front->script_name.p != NULL && put(dict, names.SCRIPT_NAME, latin1(front->script_name)) < 0)
        return -1;
    if (front->server.host.len > 0 && put(dict, names.SERVER_NAME, server_name(&front->server)) < 0)
        return -1;
    return front->server.port > 0 ? put(dict, names.SERVER_PORT, server_port(&front->server, false)) : 0;
}

/* The PROXY protocol's keys, as in gunicorn; REMOTE_ADDR and REMOTE_PORT are the client's that it names. */
static int put_proxied(PyObject *dict, const struct request *request)
{
    char text[INET6_ADDRSTRLEN];
    struct endpoint target;
    if (!request_proxied(request, &target, text, sizeof(text)))
        return 0;
    bool is_v6 = memchr(text, ':', target.host.len) != NULL;
    return put(dict, names.PROXY_PROTOCOL, PyUnicode_FromString(is_v6 ? "TCP6" : "TCP4")) < 0 ||
                   put(dict, names.PROXY_ADDR, latin1(target.host)) < 0 ||
                   put(dict, names.PROXY_PORT, PyUnicode_FromFormat("%d", target.port)) < 0
               ? -1
               : 0;
}

PyObject *environ_make(struct environ *environ, struct request *request, PyObject *input)
{
    PyObject *template = template_for(environ, request); // borrowed
    PyObject *dict = template == NULL ? NULL : PyDict_Copy(template);
    if (dict == NULL)
        return NULL;
    if ((request->front != NULL && put_front(dict, request->front) < 0) || put_line(dict, request) < 0 ||
        put_target(environ, dict, request) < 0 || put_peer(environ, dict, request) < 0 ||
        PyDict_SetItem(dict, names.wsgi_input, input) < 0 || put_fields(dict, request) < 0 ||
        put_proxied(dict, request) < 0)
        Py_CLEAR(dict);
    return dict;
}

/* --- life -------------------------------------------------------------------------------------------------------- */

struct environ *environ_new(struct wsgi *wsgi)
{
    struct environ *environ = mem_zalloc(sizeof(*environ));
    struct str root = str_from(wsgi->settings->root_path);
    while (root.len > 0 && root.p[root.len - 1] == '/')
        root.len--;
    environ->wsgi = wsgi;
    environ->prefix = mem_strndup(root.p ? root.p : "", root.len);
    environ->prefix_len = root.len;
    environ->script_name = latin1(root);
    if (environ->script_name == NULL) {
        environ_free(environ);
        return NULL;
    }
    return environ;
}

void environ_free(struct environ *environ)
{
    if (environ == NULL)
        return;
    for (size_t i = 0; i < environ->count; i++)
        Py_DECREF(environ->templates[i].dict);
    free(environ->templates);
    Py_XDECREF(environ->script_name);
    free(environ->prefix);
    free(environ);
}
