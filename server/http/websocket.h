/* websocket: a WebSocket connection (RFC 6455) as the application sees it: it gets whole messages, sends whole messages, and learns
 * how it ended. The third header of the seam, beside request.h and server/app.h.
 *
 *     request (request->is_websocket) ──websocket_accept()──> OPEN ──websocket_close()──────────> CLOSING ──┐
 *            │                                                  ├────── the peer's close frame ──> CLOSED ──┤──> over
 *            └── any response: the offer is declined            └────── a violation, the end of the bytes ──┘
 *
 * All of it happens on the loop's thread. on_message and on_close are never called from inside a call that the application makes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/buf.h"
#include "server/base/list.h"
#include "server/base/str.h"
#include "server/http/request.h"
#include "server/http/ws_frame.h"

struct websocket;
struct ws_deflate;

enum websocket_message {
    WEBSOCKET_BINARY,
    WEBSOCKET_TEXT,  /* valid UTF-8 */
    WEBSOCKET_ASCII, /* a text of ASCII alone */
};

struct websocket_ops {
    /* A whole message. `data` lasts until the return. */
    void (*on_message)(struct websocket *ws, struct str data, enum websocket_message kind);
    /* After WEBSOCKET_FULL: there is room again, or there will be none. */
    void (*on_writable)(struct websocket *ws);
    /* No message will come any more; once, and not after websocket_close(). `code`: the peer's, WS_CODE_NONE or
     * WS_CODE_ABNORMAL if there was none, or with what the server itself ended the connection. `reason` lasts until the return.
     * True: messages were not yet taken notice of, websocket_answer() comes when they are. Until then answers to them can
     * still be sent. */
    bool (*on_close)(struct websocket *ws, int code, struct str reason);
};

enum websocket_result {
    WEBSOCKET_OK,
    WEBSOCKET_FULL, /* taken, but wait for on_writable before sending more */
    WEBSOCKET_GONE, /* closed or closing: nothing is sent any more */
};

enum websocket_state {
    WEBSOCKET_OPEN,
    WEBSOCKET_CLOSING, /* our close frame is out, the peer's is awaited */
    WEBSOCKET_CLOSED,  /* the peer has closed, or broken the protocol: the application still has messages from before */
    WEBSOCKET_OVER,
};

struct websocket {
    struct conn *conn; /* NULL: over */
    void *app_data;    /* the application's own */
    const struct websocket_ops *ops;
    uint16_t refs;     /* the conn's and the application's */
    enum websocket_state state : 8;
    /* What the core alone uses: */
    bool paused;                /* by the application */
    bool writable_owed;
    uint16_t close_code;        /* that we shall send */
    struct list node;           /* in the server's list of those that have fallen */
    struct ws_reader reader;
    struct buf message;         /* of an incomplete one, what is here */
    struct buf control;         /* of an incomplete control frame */
    struct ws_deflate *deflate; /* permessage-deflate was agreed on; NULL: not */
    uint64_t ping_ms;           /* when a ping was sent that is not answered; 0: none is */
    uint64_t since_ms;          /* when CLOSING or CLOSED began */
    const char *violation;      /* by which the peer has made us close; NULL: none */
    struct ws_utf8 utf8;        /* of the text that is being received */
};

/* --- the handshake: request->is_websocket, and nothing was answered yet ----------------------------------------- */

/* The subprotocols that the client offers, in its order: *at counts from 0. False at the end. */
bool websocket_offered(const struct request *request, size_t *at, struct str *protocol);

/* Accepts. `protocol`: empty for none. `fields` are sent in their order; those that the handshake itself consists of are not
 * passed on. One reference is the caller's. NULL with request->error: nothing was sent; NULL without: the client has gone. The
 * request is answered then, the application lets it go. */
struct websocket *websocket_accept(struct request *request, const struct websocket_ops *ops, struct str protocol,
                                   const struct field *fields, size_t count);

/* --- open ------------------------------------------------------------------------------------------------------- */

/* A text must be valid UTF-8. `ref`: NULL, then the bytes are copied; else they may be sent from where they lie; released in any
 * case. */
enum websocket_result websocket_send(struct websocket *ws, struct str data, bool is_text, const struct body_ref *ref);

/* The application takes no more messages for now: those behind wait with the client. */
void websocket_pause(struct websocket *ws);
void websocket_resume(struct websocket *ws);

/* Sends a close frame, if none was sent, and takes no further messages. `code`: WS_CODE_NONE for a frame without one, else one
 * that may stand there. A reason that is too long is cut. */
void websocket_close(struct websocket *ws, int code, struct str reason);
/* The application has seen what came before the peer's close frame: answers it. */
void websocket_answer(struct websocket *ws);

/* Lets the application's reference go: no callback comes any more. It should have closed the connection. */
void websocket_release(struct websocket *ws);
