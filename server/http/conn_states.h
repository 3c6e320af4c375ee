/* conn_states: what the files share in which the states of a connection are written: conn.c (the table, and the states of a
 * message), conn_proxy.c, conn_uwsgi.c, conn_leave.c, conn_wait.c. Nobody else's. */
#pragma once

#include "server/http/conn.h"

#define CONN_LINGER_BRIEFLY_MS 1000 /* instead of linger_timeout, when the place is needed, or the worker leaves */

/* --- conn.c ---------------------------------------------------------------------------------------------------------- */

/* The only writer of c->state. */
void conn_enter(struct conn *c, enum conn_state state);
void conn_begin_request(struct conn *c);
/* The request's head is complete: it goes to the application, with what it wants to have of the body. */
void conn_head_done(struct conn *c);
/* Bytes, to whatever state it is in. */
size_t conn_take(struct conn *c, char *data, size_t len);
/* Answers in the server's own name, if there is still an answer to give, and leaves. */
void conn_refuse(struct conn *c, int status, enum close_reason reason);
/* A client that does not read would not see the end either: a reset frees what the kernel holds for it. */
void conn_cut_off(struct conn *c);
/* Whether the time since the last progress is over; if not, the timer is armed for what is left. */
bool conn_reading_timed_out(struct conn *c);
bool conn_writing_timed_out(struct conn *c);

/* --- conn_proxy.c ---------------------------------------------------------------------------------------------------- */

size_t conn_proxy_take(struct conn *c, char *data, size_t len);
void conn_proxy_timeout(struct conn *c);
/* What is known of the header is given up. */
void conn_proxy_over(struct conn *c);
/* Another worker was told where the client had connected to. */
void conn_proxied(struct conn *c, const struct sockaddr_in6 *target);
/* No byte of a header has come. */
bool conn_proxy_rests(const struct conn *c);

/* --- conn_uwsgi.c ---------------------------------------------------------------------------------------------------- */

size_t conn_uwsgi_take(struct conn *c, char *data, size_t len);

/* --- conn_leave.c ---------------------------------------------------------------------------------------------------- */

size_t conn_discard_take(struct conn *c, char *data, size_t len);
void conn_discard_timeout(struct conn *c);
size_t conn_nothing_take(struct conn *c, char *data, size_t len);
void conn_leave_eof(struct conn *c);
void conn_flush_timeout(struct conn *c);
/* All that was queued in FLUSH has left. */
void conn_flush_drained(struct conn *c);
void conn_linger_timeout(struct conn *c);
/* Long enough for the client to take the response and to close, if it means to. */
void conn_linger_briefly(struct conn *c);
