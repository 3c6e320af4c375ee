/* asgi_websocket.h: one WebSocket of an ASGI application, from the offer to the end of its task.
 *
 *     on_request ──> websocket.connect ──┬─ websocket.accept ──> messages both ways ──> websocket.close / websocket.disconnect
 *                                        ├─ websocket.close ──> 403
 *                                        └─ websocket.http.response.start/.body ──> that response
 *
 *     asgi_websocket          its life: the task, what the core tells, the type
 *     asgi_websocket_receive  messages that wait, receive()
 *     asgi_websocket_send     send(): messages, and the answers to the offer
 *
 * Like asgi_http, the object is `receive`, `send` and the done-callback of its task in one. Until the offer is answered it holds
 * the request, then the websocket; an idle one owns nothing else. */
#pragma once

#include "pyglue/asgi.h"
#include "server/base/str.h"
#include "server/http/websocket.h"

struct asgi_websocket {
    PyObject_HEAD vectorcallfunc vectorcall;
    struct asgi *asgi;              /* NULL: the runtime is gone */
    struct request *request;        /* counted, until the offer is answered; NULL afterwards */
    struct websocket *ws;           /* counted, from then on until it is over; NULL otherwise */
    PyObject *task;                 /* once it has suspended, until it is done */
    PyObject *reason;               /* of the end, str; NULL: empty */
    struct list node;               /* in asgi->offers, then in asgi->websockets, with a reference */
    struct list receivers, senders; /* awaitables */
    struct list queue;              /* of struct message */
    size_t queue_bytes;
    int queue_count;
    int code; /* of the end */
    bool connect_told;
    bool accepted;
    bool denying; /* websocket.http.response.start was sent */
    bool closed;  /* no message comes any more */
    bool full;    /* on_writable is owed */
    bool paused;
};

extern const struct websocket_ops asgi_websocket_ops;

/* No message comes any more: what receive() tells once those that wait are taken. The first call counts. */
void asgi_websocket_closed(struct asgi_websocket *self, int code, struct str reason);
/* Nothing goes out or comes in any more. */
void asgi_websocket_let_go(struct asgi_websocket *self);

/* --- asgi_websocket_receive.c ------------------------------------------------------------------------------------ */

PyObject *asgi_websocket_receive(struct asgi_websocket *self);
/* A message waits for receive(); the client is made to wait when there are many. -1 with an exception. */
int asgi_websocket_queue(struct asgi_websocket *self, PyObject *data, size_t len);
void asgi_websocket_queue_clear(struct asgi_websocket *self);

/* --- asgi_websocket_send.c --------------------------------------------------------------------------------------- */

PyObject *asgi_websocket_send(struct asgi_websocket *self, PyObject *event);
