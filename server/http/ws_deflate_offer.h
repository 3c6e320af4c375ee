/* ws_deflate_offer: what client and server agree on for permessage-deflate (RFC 7692 7.1): pure text in, text out.
 *
 *     Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, ...     the client's offers, best first
 *                                        │ ws_deflate_offer_agree
 *                                        v
 *     permessage-deflate; server_no_context_takeover; client_no_context_takeover    ours: see ws_deflate_terms
 *
 * "Context takeover": a message may refer to those before it. It makes small messages smaller, and costs memory for as long as
 * the connection lives. So it is agreed on where ws_deflate_takeover says so, and for the client's messages only if the
 * client lets its window be limited to ws_deflate_window_bits: that much must be kept for it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct buf;
struct request;
struct settings;

#define WS_WINDOW_BITS_MIN 9 /* zlib cannot compress with 8 */
#define WS_WINDOW_BITS_MAX 15

struct ws_deflate_terms {
    uint8_t out_bits;                 /* the window of what we send: 2 to that power */
    uint8_t in_bits;                  /* of what the client sends */
    bool out_takeover, in_takeover;
    bool out_bits_said, in_bits_said; /* they stand in the answer */
};

/* The first of the client's offers that can be agreed to. False: none. */
bool ws_deflate_offer_agree(const struct request *request, const struct settings *settings,
                            struct ws_deflate_terms *terms);
/* Appends the answer's field. */
void ws_deflate_terms_put(const struct ws_deflate_terms *terms, struct buf *head);
