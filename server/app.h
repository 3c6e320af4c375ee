/* app: what the server calls in an application. One half of the seam between the C core and whoever answers the
 * requests (Python's ASGI and WSGI in pyglue/, a fake in the C tests); server/http/request.h is the other.
 *
 * Embed it as the first member of the application's own struct. All calls come on the loop's thread, never from
 * inside a call that the application makes into the server. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "server/base/str.h"

struct request;

struct app {
    const struct app_ops *ops;
    /* on_request waits until this much of a body has come, or all of it: 0 starts with what the first read
     * brought. A request with `Expect: 100-continue` never waits. */
    size_t prebuffer_bytes;
};

/* What an application did when the time of a request was over. */
enum app_given_up {
    APP_HAD_NOT_BEGUN, /* nobody works on it, nor will */
    APP_GIVES_UP,      /* in good order: give it time */
    APP_IS_BROKEN_OFF  /* what it leaves behind may be half done: replace the process */
};

struct app_ops {
    /* The head is complete, and of the body at least what came with it: see request.h for both. The application
     * keeps the request beyond this call by request_ref(), else it must have finished it. */
    void (*on_request)(struct app *app, struct request *request);

    /* More of the body: `data` begins with what lies in request->body, if anything does. Returns how many bytes of `data`
     * the application took; the rest is buffered in the request, and the connection is not read while more than
     * REQUEST_BODY_HIGH_WATER bytes lie there. `end`: this was the last (data may be empty). Never called once the
     * response is finished. */
    size_t (*on_body)(struct request *request, struct str data, bool end);

    /* After request_write() said REQUEST_FULL: there is room again, or (after on_disconnect) there will be none. */
    void (*on_writable)(struct request *request);

    /* The client has left or closed its sending side; comes at most once. Writing may still succeed in the second
     * case: request_write() knows. A body that was incomplete will stay so (request->body_end remains false). */
    void (*on_disconnect)(struct request *request);

    /* The time of the request is over (request_expire()), and the client was told; the application is to give up, as well as
     * it can. Only while it has not finished the request. NULL: it cannot be made to. */
    enum app_given_up (*on_deadline)(struct request *request);
};
