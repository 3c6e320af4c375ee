/* asgi_receive: the events that an application receives.
 *
 *     http.request      as long as the body is not over: whatever of it is here, at least once
 *     http.disconnect   once the response is complete, or the client has left; then again and again
 *
 * A client that has sent its whole request and closes its side (half-close) still gets its body delivered first; a body
 * that can no longer become complete is not worth handling, so the disconnect comes at once. */
#include "pyglue/asgi.h"

#include "pyglue/names.h"
#include "server/http/request.h"

/* {"type": "http.request", "body": b"", "more_body": False}, copied for each message */
static PyObject *request_message;

static PyObject *disconnect_message(void)
{
    PyObject *message = PyDict_New();
    if (message != NULL && PyDict_SetItem(message, names.type, names.http_disconnect) < 0)
        Py_CLEAR(message);
    return message;
}

/* All of the body that is here, as one bytes object; b"" if nothing is. */
static PyObject *take_body(struct asgi_http *http)
{
    if (http->chunk != NULL) {
        PyObject *chunk = http->chunk;
        http->chunk = NULL;
        return chunk;
    }
    struct str here = buf_str(&http->request->body);
    PyObject *body = PyBytes_FromStringAndSize(here.p, (Py_ssize_t)here.len);
    if (body != NULL && here.len > 0)
        request_consume(http->request, here.len);
    return body;
}

static PyObject *body_message(struct asgi_http *http)
{
    struct request *request = http->request;
    PyObject *message = PyDict_Copy(request_message);
    if (message == NULL)
        return NULL;
    if (http->chunk != NULL || buf_len(&request->body) > 0) {
        PyObject *body = take_body(http);
        if (body == NULL || PyDict_SetItem(message, names.body, body) < 0)
            Py_CLEAR(message);
        Py_XDECREF(body);
    }
    bool more = !request->body_end || buf_len(&request->body) > 0;
    if (message != NULL && more && PyDict_SetItem(message, names.more_body, Py_True) < 0)
        Py_CLEAR(message);
    if (message != NULL && !more)
        http->body_told = true;
    return message;
}

static PyObject *receive_poll(PyObject *owner)
{
    struct asgi_http *http = (struct asgi_http *)owner;
    struct request *request = http->request;
    if (http->complete)
        return disconnect_message();
    if (http->disconnected && (http->body_told || !request->body_end))
        return disconnect_message();
    if (http->body_told)
        return NULL;
    if (http->chunk != NULL || buf_len(&request->body) > 0 || request->body_end)
        return body_message(http);
    if (!http->body_asked) {
        http->body_asked = true;
        request_want_body(request);
    }
    return NULL;
}

PyObject *asgi_receive(struct asgi_http *http)
{
    PyObject *loop = http->asgi != NULL ? http->asgi->loop : NULL; // borrowed; not used once it is complete
    return asgi_awaitable_new((PyObject *)http, receive_poll, &http->receivers, loop);
}

size_t asgi_on_body(struct request *request, struct str data, bool end)
{
    (void)end;
    struct asgi_http *http = request->app_data;
    if (http == NULL || list_empty(&http->receivers))
        return 0;
    size_t taken = 0;
    if (data.len > 0 && http->chunk == NULL && buf_len(&request->body) == 0) {
        http->chunk = PyBytes_FromStringAndSize(data.p, (Py_ssize_t)data.len);
        if (http->chunk != NULL)
            taken = data.len;
        else
            PyErr_Clear(); /* out of memory: the request's buffer decides */
    }
    asgi_awaitable_wake(&http->receivers);
    return taken;
}

int asgi_receive_add(PyObject *module)
{
    (void)module;
    if (request_message == NULL)
        request_message = Py_BuildValue("{OOOyOO}", names.type, names.http_request, names.body, "", names.more_body,
                                        Py_False);
    return request_message == NULL ? -1 : 0;
}
