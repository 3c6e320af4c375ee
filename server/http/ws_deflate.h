/* ws_deflate: permessage-deflate (RFC 7692) of one connection: compressing and decompressing messages by the terms that
 * ws_deflate_offer.h has agreed on.
 *
 * zlib's streams are large (7 to 300 KiB), so a connection has one only while it needs one, and they come from pools that all
 * connections share:
 *
 *                       compressing                             decompressing
 *     no takeover       for the length of the call              while a message is incomplete
 *     takeover          from the first message until rest       from the first message until rest; then the client's window
 *                       (whoever compresses may always          stays, compressed: the client may refer to it at any time
 *                       begin anew)
 *
 * An idle connection costs this struct, and that window. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "server/base/buf.h"
#include "server/base/str.h"
#include "server/http/ws_frame.h"

#define WS_DEFLATE_REST_MS 2000 /* without messages: streams are given back */

struct request;
struct settings;
struct ws_deflate;

/* NULL: nothing was offered that can be agreed to, or there is no zlib. */
struct ws_deflate *ws_deflate_agree(const struct request *request, const struct settings *settings);
void ws_deflate_free(struct ws_deflate *deflate);
/* The field that says what was agreed on; nothing for NULL. */
void ws_deflate_put_answer(const struct ws_deflate *deflate, struct buf *head);

/* Appends a whole message, compressed, to `out`. False: that would not make it shorter. */
bool ws_deflate(struct ws_deflate *deflate, struct str data, struct buf *out);
/* Appends what the next part of a message expands to; `end`: it is the last. Bounded by ws_max_size and
 * ws_deflate_max_ratio. */
struct ws_error ws_inflate(struct ws_deflate *deflate, struct str part, bool end, struct buf *out);

/* Streams are held between messages: ws_deflate_rest() gives them back. */
bool ws_deflate_is_warm(const struct ws_deflate *deflate);
void ws_deflate_rest(struct ws_deflate *deflate);
