/* ws_deflate: permessage-deflate (RFC 7692). Both sides begin each message with an empty window (no context takeover), so that no
 * state outlives a message: compressing uses one shared stream per window size, decompressing one from a pool while a message
 * is incomplete. An idle connection costs this struct. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "server/base/buf.h"
#include "server/base/str.h"
#include "server/http/ws_frame.h"

#define WS_DEFLATE_LEAST 128 /* shorter messages go as they are: there is nothing to gain */

struct request;
struct ws_deflate;

/* The first of the client's offers that can be agreed to; NULL: none. */
struct ws_deflate *ws_deflate_agree(const struct request *request);
void ws_deflate_free(struct ws_deflate *deflate);
/* The field that says what was agreed on; nothing for NULL. */
void ws_deflate_put_answer(const struct ws_deflate *deflate, struct buf *head);

/* Appends a whole message, compressed, to `out`. False: that would not make it shorter. */
bool ws_deflate(struct ws_deflate *deflate, struct str data, struct buf *out);
/* Appends what the next part of a message expands to, at most `room` bytes; `end`: it is the last. */
struct ws_error ws_inflate(struct ws_deflate *deflate, struct str part, bool end, size_t room, struct buf *out);
