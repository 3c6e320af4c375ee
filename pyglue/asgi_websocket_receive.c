/* asgi_websocket_receive: receive() of a WebSocket, and the messages that wait for it: up to ws_max_queue or QUEUE_BYTES, then the
 * client is made to wait. */
#include "pyglue/asgi_websocket.h"

#include "config/settings.h"
#include "pyglue/names.h"

#define QUEUE_BYTES (64 * 1024)

struct message {
    struct list node;
    PyObject *data; /* str or bytes */
    size_t len;
};

/* ------------------------------------------------------------------------------------------------------ the queue */

static void message_free(struct asgi_websocket *self, struct message *message)
{
    list_remove(&message->node);
    self->queue_count--;
    self->queue_bytes -= message->len;
    Py_XDECREF(message->data);
    PyMem_Free(message);
}

void asgi_websocket_queue_clear(struct asgi_websocket *self)
{
    LIST_EACH(node, &self->queue)
        message_free(self, LIST_ENTRY(node, struct message, node));
}

static bool queue_is_full(const struct asgi_websocket *self)
{
    return self->queue_count >= self->asgi->settings->ws_max_queue || self->queue_bytes >= QUEUE_BYTES;
}

int asgi_websocket_queue(struct asgi_websocket *self, PyObject *data, size_t len)
{
    struct message *message = PyMem_Malloc(sizeof(*message));
    if (message == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    message->data = Py_NewRef(data);
    message->len = len;
    list_append(&self->queue, &message->node);
    self->queue_count++;
    self->queue_bytes += len;
    if (queue_is_full(self)) {
        self->paused = true;
        websocket_pause(self->ws);
    }
    asgi_awaitable_wake(&self->receivers);
    return 0;
}

/* The oldest message's data: new reference. */
static PyObject *queue_take(struct asgi_websocket *self)
{
    struct message *message = LIST_ENTRY(self->queue.next, struct message, node);
    PyObject *data = Py_NewRef(message->data);
    message_free(self, message);
    if (self->paused && self->ws != NULL && self->queue_count <= self->asgi->settings->ws_max_queue / 2 &&
        self->queue_bytes <= QUEUE_BYTES / 2) {
        self->paused = false;
        websocket_resume(self->ws);
    }
    return data;
}

/* -------------------------------------------------------------------------------------------------------- receive */

/* {"type": type, key: value}; steals `value`. */
static PyObject *event_new(PyObject *type, PyObject *key, PyObject *value)
{
    PyObject *event = PyDict_New();
    if (event != NULL && (PyDict_SetItem(event, names.type, type) < 0 ||
                          (key != NULL && (value == NULL || PyDict_SetItem(event, key, value) < 0))))
        Py_CLEAR(event);
    Py_XDECREF(value);
    return event;
}

static PyObject *disconnect_event(struct asgi_websocket *self)
{
    PyObject *reason = self->reason != NULL ? self->reason : names.empty; // borrowed
    PyObject *event = event_new(names.websocket_disconnect, names.code, PyLong_FromLong(self->code));
    if (event != NULL && PyDict_SetItem(event, names.reason, reason) < 0)
        Py_CLEAR(event);
    if (self->ws != NULL)
        websocket_answer(self->ws);
    return event;
}

static PyObject *receive_poll(PyObject *owner)
{
    struct asgi_websocket *self = (struct asgi_websocket *)owner;
    if (!self->connect_told) {
        self->connect_told = true;
        return event_new(names.websocket_connect, NULL, NULL);
    }
    if (!list_empty(&self->queue)) {
        PyObject *data = queue_take(self);
        return event_new(names.websocket_receive, PyUnicode_Check(data) ? names.text : names.bytes, data);
    }
    return self->closed ? disconnect_event(self) : NULL;
}

PyObject *asgi_websocket_receive(struct asgi_websocket *self)
{
    PyObject *loop = self->asgi != NULL ? self->asgi->loop : NULL; // borrowed
    return asgi_awaitable_new((PyObject *)self, receive_poll, &self->receivers, loop);
}
