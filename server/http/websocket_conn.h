/* websocket_conn: what the connection that carries a WebSocket tells it. For conn.c and websocket_accept.c alone. */
#pragma once

#include "server/http/websocket.h"

struct http_server;

/* The handshake's answer is queued: `ws` takes the connection over. */
void websocket_begin(struct websocket *ws, struct conn *conn);
/* Bytes have come; returns how many were taken. */
size_t websocket_take(struct websocket *ws, char *data, size_t len);
/* Its bytes have ended, or it is broken. Thousands may fall at once: each gets its end when its turn comes (loop_defer_bulk()). */
void websocket_fall(struct websocket *ws);
void websocket_timeout(struct websocket *ws);
void websocket_writable(struct websocket *ws);
void websocket_fallen_init(struct http_server *server);
/* The connection is gone, or will be. */
void websocket_gone(struct websocket *ws);
/* The worker leaves. */
void websocket_drain(struct websocket *ws);
