/* conn_log: what happens to each connection, a line each, in the error log at debug level:
 *
 *     Connection 12 (127.0.0.1:53412) accepted
 *     Connection 12 (127.0.0.1:53412): GET /cart?id=3 HTTP/1.1
 *     Connection 12 (127.0.0.1:53412) answered 200, 1204 bytes; kept
 *     Connection 12 (127.0.0.1:53412) closed: no further request came (keepalive)
 *
 * The number is that of the descriptor. At info level they cost a comparison. */
#pragma once

#include "server/base/log.h"
#include "server/http/conn.h"

void conn_log(struct conn *conn, const char *what);
void conn_log_refusal(struct conn *conn, int status, const char *reason);
void conn_log_head(struct conn *conn);
void conn_log_response(struct conn *conn, bool kept);
void conn_log_end(struct conn *conn, enum close_reason reason);

#define CONN_LOG(call) (log_enabled(LOG_LEVEL_DEBUG) ? call : (void)0)
#define conn_log_accepted(conn) CONN_LOG(conn_log((conn), "accepted"))
#define conn_log_upgraded(conn) CONN_LOG(conn_log((conn), "is a WebSocket from now on"))
/* The proxy has said whose connection it is. */
#define conn_log_client(conn) CONN_LOG(conn_log((conn), "is the client's, says the proxy"))
#define conn_log_taken(conn) CONN_LOG(conn_log((conn), "taken over from another worker"))
#define conn_log_request(conn) CONN_LOG(conn_log_head(conn))
#define conn_log_refused(conn, status, reason) CONN_LOG(conn_log_refusal((conn), (status), (reason)))
#define conn_log_answered(conn, kept) CONN_LOG(conn_log_response((conn), (kept)))
#define conn_log_closed(conn, reason) CONN_LOG(conn_log_end((conn), (reason)))
