/* response: reads HTTP/1.x responses as they arrive, and compares each body with the one that is expected, byte by
 * byte. Only what a generator of load must know: status, framing, whether the connection stays. */
#ifndef RESPONSE_H
#define RESPONSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RESPONSE_HEAD_BYTES 4096

enum response_outcome { RESPONSE_MORE, RESPONSE_DONE, RESPONSE_MALFORMED };

struct response_expectation {
    int status;
    const char *body;
    size_t body_bytes;
    bool endless; /* the body comes again and again: a stream of events */
};

struct response {
    enum {
        RESPONSE_HEAD,
        RESPONSE_LENGTH,
        RESPONSE_SIZE,
        RESPONSE_CHUNK,
        RESPONSE_CHUNK_END,
        RESPONSE_TRAILER,
        RESPONSE_UNTIL_EOF
    } part;
    int status;
    uint64_t left;    /* of the body or the chunk */
    uint64_t body_at; /* bytes of the body so far */
    bool closes;      /* no further response on this connection */
    bool differs;     /* from the expected body */
    size_t head_have; /* a head that came in pieces, or the line of a chunk's size */
    char head[RESPONSE_HEAD_BYTES];
};

/* For the next response. */
void response_reset(struct response *r);

/* Takes bytes until the response ends; sets how many. */
enum response_outcome response_feed(struct response *r, const struct response_expectation *expected, const char *data,
                                    size_t n, size_t *taken);

/* The connection ended: DONE if that is how this response ends. */
enum response_outcome response_eof(const struct response *r);

#endif
