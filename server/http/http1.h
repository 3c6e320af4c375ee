/* http1: the HTTP/1 message parser of one connection: bytes in, a filled struct request and body bytes out. It makes no
 * system calls, answers nothing and knows no states beyond those of a message.
 *
 *     http1_begin ──> http1_head ─┬─ HTTP1_MORE (again with the next bytes)
 *                                 ├─ HTTP1_ERROR (http1->status: what to answer; nothing of the connection is parsed any more)
 *                                 └─ HTTP1_DONE ──> http1_body ─┬─ HTTP1_MORE
 *                                                               ├─ HTTP1_ERROR
 *                                                               └─ HTTP1_DONE ──> http1_begin
 *
 * The result depends on the bytes alone, never on how they were split. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/str.h"

#define HTTP1_EMPTY_LINES 2               /* ignored before a request line */
#define HTTP1_CHUNK_EXTENSION_BYTES 16384 /* of one body, in all */
#define HTTP1_CHUNK_LINE_BYTES 32         /* framing a chunk may cost besides: size, leading zeros, line ends */
#define HTTP1_PARSER_BYTES 128            /* room for llhttp's state */

struct request;
struct settings;

enum http1_result { HTTP1_MORE, HTTP1_DONE, HTTP1_ERROR };

struct http1 {
    const struct settings *settings;
    struct request *request; /* whose head is being filled in */
    int status;              /* after HTTP1_ERROR: 400, 413, 414, 417, 426, 431, 501, 505 */
    bool parsing;            /* llhttp has begun with the fields … */
    bool scanned;            /* … or http1_scan() has done without it … */
    bool scanned_length;     /* … and found a Content-Length: body_left */
    uint8_t line;            /* enum line in http1.c */
    const char *reason;      /* after HTTP1_ERROR: static text for the log */

    /* The head. */
    uint8_t phase;                             /* enum phase in http1.c */
    bool in_field;                             /* between a field's name and the end of its value */
    bool crlf_half;                            /* a CR has come, its LF not yet */
    uint8_t empty_lines, version_len;
    char version[3];                           /* "1.1" of "HTTP/1.1" */
    size_t line_start, method_end, target_end; /* offsets in the head */
    const char *data;                          /* the bytes being parsed; data[0] is at offset request->core.head_len */

    /* The body. */
    uint64_t body_left;     /* Content-Length: bytes still to come */
    uint64_t body_bytes;    /* so far */
    uint64_t framing_bytes; /* chunked: bytes that were not body */
    uint64_t chunks;
    uint32_t extension_bytes, token_bytes, trailer_fields, trailer_bytes;
    char *body_start, *body_end; /* chunked: decoded body of the present call */
    _Alignas(8) unsigned char parser[HTTP1_PARSER_BYTES];
};

/* Readies for the next message; its head goes into `request`, which is new from request_new(). */
void http1_begin(struct http1 *http1, struct request *request);

/* Takes bytes of the head; *used says how many (all after HTTP1_MORE: they were moved into the request). After HTTP1_DONE the
 * head of `request` is complete and checked; it lies in `data` if it came in one piece (request_pin() copies it), else in the
 * request. Letters of field names in `data` are turned into lower case. */
enum http1_result http1_head(struct http1 *http1, char *data, size_t len, size_t *used);

/* The head came otherwise (uwsgi.h); so many bytes of body follow. */
void http1_expect_length(struct http1 *http1, uint64_t length);

/* The rest of the head will not come: what the request says of it becomes fit to be logged and answered. */
void http1_abandon(struct http1 *http1);

/* Takes bytes of the body; *body are the decoded ones, somewhere inside `data` (chunks are moved together there). HTTP1_DONE:
 * the body is complete; what follows belongs to the next message. Does not use the request. */
enum http1_result http1_body(struct http1 *http1, char *data, size_t len, size_t *used, struct str *body);
