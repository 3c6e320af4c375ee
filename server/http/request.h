/* request: one HTTP request and the response to it. What an application calls in the server; server/app.h is the
 * other half of the seam. The only counted object of the C core: the conn and the application hold one reference
 * each. When the connection dies `request->conn` becomes NULL and every write answers REQUEST_GONE.
 *
 * The response is a small machine:
 *
 *     RESPONSE_NONE --request_start--> RESPONSE_HELD --first request_write/finish--> RESPONSE_BODY --finish--> RESPONSE_DONE
 *
 * While HELD nothing has been sent: request_fail() may still replace the head. Framing (Content-Length or chunked,
 * HEAD, 204, 304, keep-alive) is decided here, RFC 9112 6 and 9110 6.4, 8.6, 9.3.2; an application cannot emit an
 * invalid message. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "server/base/arena.h"
#include "server/base/buf.h"
#include "server/base/inflight.h"
#include "server/base/list.h"
#include "server/base/str.h"

#define REQUEST_BODY_HIGH_WATER (64 * 1024)
#define REQUEST_BODY_LOW_WATER (16 * 1024)

#define REQUEST_NO_DEADLINE INT64_MAX

struct conn;
struct deadlines;
struct request_pool;
struct settings;

struct request_front;

/* One header field. In a request the name is in lower case and the value without surrounding blanks. */
struct field {
    struct str name, value;
};

struct endpoint {
    struct str host; /* numeric address, or the path of a unix socket; empty: unknown (unnamed unix peer) */
    int port;        /* -1: none (unix) */
    bool is_unix;
};

/* What a front end (a trusted proxy, or whoever set SCRIPT_NAME) says of a request besides its head. In the request's arena. */
struct request_front {
    struct endpoint server;    /* under which name and port its client came; no host, port 0: not told */
    struct str script_name;    /* `path` begins with it; decoded, no slash at its end. p is NULL: not told */
    size_t script_len;         /* so many bytes of `path` are it */
    const struct field *vars;  /* more of WSGI's environ */
    size_t var_count;
};

enum request_result {
    REQUEST_OK,
    REQUEST_FULL,     /* taken, but wait for on_writable before writing more */
    REQUEST_GONE,     /* the client has left: nothing is sent any more */
    REQUEST_INVALID,  /* refused, nothing was sent: request->error says why (bad header, status, state) */
    REQUEST_TOO_LONG, /* more body than Content-Length; what fitted was not sent either */
};

enum response_state { RESPONSE_NONE, RESPONSE_HELD, RESPONSE_BODY, RESPONSE_DONE };

struct request {
    struct conn *conn; /* NULL: the connection is gone */
    void *app_data;    /* the application's own */
    int refs;

    /* The head. All str point into memory of the request, valid as long as it lives once request_pin() was called,
     * else until the call that delivered the request returns. */
    struct str method;      /* upper case token */
    struct str target;      /* as received */
    struct str path;        /* of the target, still percent-encoded, without query ("*" for OPTIONS *) */
    struct str query;       /* after the '?', still encoded; empty if none */
    struct str host;        /* the authority: of an absolute-form target, else the Host field; may be empty on 1.0 */
    struct field *fields;   /* in order of arrival; `Host` is replaced by an absolute-form target's authority */
    size_t field_count;
    const struct request_front *front; /* what a front end says besides; NULL: nothing */
    int version_minor;      /* HTTP/1.x: 0 or 1 */
    bool is_head;           /* the method is HEAD */
    bool has_body;          /* Content-Length > 0 or chunked */
    bool is_chunked;
    bool is_websocket;      /* a valid offer to switch to WebSocket: see websocket.h; may be answered like any request */
    int64_t content_length; /* -1: none given */
    uint64_t began_ns;      /* when the first byte of the head was read (CLOCK_MONOTONIC, from the loop's turn) */
    struct inflight_place place; /* where others see it, from on_request() until it is freed */

    /* The body, as far as it is here. */
    struct buf body;        /* received, not yet consumed by the application */
    uint64_t body_received; /* bytes in all */
    bool body_end;          /* the last byte has come */

    /* The response. */
    enum response_state response;
    int status;         /* 0 before request_start */
    uint64_t body_sent; /* body bytes, without framing */
    bool flush_end;     /* set by the application: the end of the response leaves at once, not with the turn */
    const char *error;  /* text for REQUEST_INVALID; lives as long as the request */

    struct arena arena;
    /* What the core alone uses: */
    struct request_core {
        struct request_pool *pool;
        struct list node;          /* free in the pool, or waiting for on_disconnect */
        const char *base;          /* where the head lies; NULL: nowhere yet */
        size_t base_len;
        struct buf head;           /* its memory once pinned, or when it came in pieces */
        size_t head_len;           /* bytes of it in `head` while it is being received */
        size_t field_cap;
        bool fields_tidy;          /* names are in lower case, without underscores, values trimmed */
        bool told_app;             /* on_request was called */
        bool disconnect_told;
        bool expects_continue;     /* 100-continue is asked for and not yet answered */
        bool keep_alive;           /* as far as the request and the response so far allow */
        bool close_said;           /* the response says `Connection: close`, or is delimited by it */
        bool app_closes;           /* the application said `Connection: close` */
        bool response_chunked;
        bool response_no_body;     /* HEAD, 204, 304 */
        bool front_frames;         /* the front end frames the response for its client: it gets it unframed, never in chunks */
        bool writable_owed;        /* REQUEST_FULL was said */
        bool has_date, has_server; /* the application gave its own */
        int64_t response_length;   /* declared Content-Length; -1: none */
        struct buf response_head;  /* status line and fields of the application */
        struct endpoint client;    /* as a trusted proxy says … */
        bool is_forwarded;         /* … if it does */
        bool is_https;
        struct deadlines *deadlines;  /* NULL: its time is not limited (any more) */
        struct list deadline_node;    /* in one of their lists */
        uint64_t given_ms;            /* when the application got it, if it is timed; monotonic */
        uint64_t deadline_ms;
        uint64_t hard_ms;             /* … and when the worker dies for it; 0: never */
        uint64_t run_ms;              /* likewise, of request_run_within() */
        bool expired;                 /* request_expire() was called */
        bool overruled;               /* the response is the server's, while the application is at work on its own */
        void *cache;               /* request_conn_cache() without a connection */
        void (*free_cache)(void *);
    } core;
};

void request_ref(struct request *request);
void request_unref(struct request *request);

/* For the core: requests come from a pool and keep their memory there. The pool lives until it was closed and the last of its
 * requests is gone. */
struct request_pool *request_pool_new(void);
void request_pool_close(struct request_pool *pool);
struct request *request_new(struct request_pool *pool, struct conn *conn);
/* Requests of this pool are listed there, from request_list() until they are freed. */
void request_pool_publish(struct request_pool *pool, struct inflight_table *table);
void request_list(struct request *request);
/* Room for one more field, which request->field_count then includes. NULL: limit_request_fields. */
struct field *request_add_field(struct request *request, const struct settings *settings);

/* To be filled in. */
struct request_front *request_front_of(struct request *request);

/* Copies the head out of the shared read buffer so that it lives as long as the request. Called by the core when the
 * application keeps the request beyond on_request(); idempotent. All `struct str` of the head are rebased. */
void request_pin(struct request *request);

/* --- reading the body ---------------------------------------------------------------------------------------- */

/* The application asks for the body: sends `100 Continue` if the client waits for it. Call before the first wait. */
void request_want_body(struct request *request);
/* `n` bytes of request->body are no longer needed (n <= buf_len(&request->body)); reading resumes at low water. */
void request_consume(struct request *request, size_t n);

/* --- answering ------------------------------------------------------------------------------------------------ */

/* Begins the response: 200 <= status <= 999 (three digits). `reason`: empty for the standard phrase. Names and values are
 * checked (RFC 9110 5.1, 5.5: token; no CR, LF, NUL or other CTL), `Transfer-Encoding` and `Connection` of the
 * application are not passed on (`Connection: close` is honoured), Content-Length must be a number, once. `Date` and
 * `Server` are added when absent and switched on. Fields are copied. OK, GONE or INVALID. */
enum request_result request_start(struct request *request, int status, struct str reason, const struct field *fields,
                                  size_t count);

/* Who keeps the bytes of a large body alive; release(arg) is called exactly once, possibly before the return. */
struct body_ref {
    void (*release)(void *arg);
    void *arg;
};

/* Sends body bytes. `ref`: NULL, then they are copied; else they may be sent from where they lie. `more` false: this was
 * the last (equal to request_finish() afterwards; a response of one write without Content-Length gets one). */
enum request_result request_write(struct request *request, struct str data, bool more, const struct body_ref *ref);

/* The Content-Length that the application gave its response; -1: none. */
static inline int64_t request_declared_length(const struct request *request)
{
    return request->core.response_length;
}

/* As request_write(), of a file: `count` bytes from `offset`; `fd` stays the caller's until release. */
enum request_result request_write_file(struct request *request, int fd, off_t offset, size_t count, bool more,
                                       const struct body_ref *ref);

/* Takes a held head back, as if request_start() had not been called (WSGI's exc_info). Nothing else than HELD changes. */
void request_recall(struct request *request);

/* Sends what is queued now rather than at the end of the turn. OK, FULL or GONE. Streams that do not come back to the loop
 * between writes learn here, and from the next write, that the connection broke. */
enum request_result request_flush(struct request *request);

/* Ends the response. If less than Content-Length was written the connection is closed so that the client sees a
 * truncated body (while the head is still HELD the client gets a 500 instead): REQUEST_INVALID, with request->error. */
enum request_result request_finish(struct request *request);

/* The application failed. Before any byte was sent: answers `status` with a short text body and goes on as after any
 * response (the connection is closed when the body was not read). Afterwards: aborts the connection, so that the client
 * never takes a part for the whole. */
void request_fail(struct request *request, int status);

/* --- its time: request_timeout ------------------------------------------------------------------------------------ */

/* How long the application may still take, in ms; REQUEST_NO_DEADLINE: there is no limit (any more: the response is
 * complete). */
int64_t request_time_left(const struct request *request);
/* Another limit, from now on; REQUEST_NO_DEADLINE takes it away. Without effect when nothing is timed: request_timeout is 0,
 * the response is complete, or the time was over. */
void request_set_deadline(struct request *request, int64_t in_ms);
/* The time is over: answers 504, or aborts the connection if the head is out, so that the client never takes a part for the
 * whole; for the application the client has left, and it is told (on_deadline). The loop calls it; whoever keeps the
 * loop waiting has to do so himself. Once. */
void request_expire(struct request *request);

/* The application runs it from now on, outside the loop: the worker is killed if that takes longer. */
void request_run_within(struct request *request, int64_t limit_ms);

/* For a thread that waits outside the loop (WSGI inline): waits until more body has come or more room is there, pumping
 * this connection alone, at most until the request's deadline. 1: progress; 0: a time limit has passed (the connection
 * was closed with its reason); -1: gone. */
int request_wait_body(struct request *request);
int request_wait_writable(struct request *request);

/* --- facts about the connection, for scope and environ ----------------------------------------------------------- */

const struct endpoint *request_client(struct request *request);
/* The client is the one that a trusted proxy has named: another may come by the same connection. */
bool request_is_forwarded(const struct request *request);
const struct endpoint *request_server(struct request *request);
struct str request_scheme(struct request *request); /* "http" or "https" */
/* Where the client had connected to, as the PROXY protocol says; its host is in `text` afterwards. False: it does not. */
bool request_proxied(const struct request *request, struct endpoint *target, char *text, size_t size);
/* A cell of the connection for the application's cached objects (e.g. the client tuple): the application sets it with a
 * function that frees it when the connection ends. Holds NULL before. When the
 * connection is gone the cell is the request's own. */
void **request_conn_cache(struct request *request, void (*free_cache)(void *));
