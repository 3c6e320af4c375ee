/* ws_frame: the codec of WebSocket frames (RFC 6455 5): heads, masking, close codes, UTF-8. Pure: it keeps the state of one
 * direction's parsing and does no input or output; websocket.c is its user.
 *
 *     bytes ──ws_reader_head──> a frame's head, judged ──> its payload: ws_reader_payload() unmasks what is there
 *
 * Everything is judged as early as it can be: the first two bytes before the rest of a head, a length before its payload, a
 * text's bytes as they come. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/str.h"

enum ws_opcode { WS_CONTINUATION = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

/* RFC 6455 7.4.1, and the registry that it began. */
enum ws_code {
    WS_CODE_NORMAL = 1000,
    WS_CODE_GOING_AWAY = 1001,
    WS_CODE_PROTOCOL_ERROR = 1002,
    WS_CODE_NONE = 1005,     /* a close frame without a code; never on the wire */
    WS_CODE_ABNORMAL = 1006, /* no close frame; never on the wire */
    WS_CODE_INVALID_DATA = 1007,
    WS_CODE_TOO_BIG = 1009,
    WS_CODE_INTERNAL_ERROR = 1011,
    WS_CODE_RESTART = 1012,
};

#define WS_HEAD_MAX 14     /* of a client's frame; ours have no mask: 10 */
#define WS_OUT_HEAD_MAX 10
#define WS_CONTROL_MAX 125 /* payload of a control frame */
#define WS_REASON_MAX 123  /* of it, after the code */

/* Why a connection must fail. code 0: it need not. */
struct ws_error {
    int code;
    const char *text; /* for the peer and the log: a literal of at most WS_REASON_MAX bytes */
};

/* --- UTF-8, in pieces (RFC 3629: no surrogates, nothing over U+10FFFF, shortest forms) -------------------------- */

struct ws_utf8 {
    uint8_t left;      /* continuation bytes that must follow */
    uint8_t low, high; /* what the next one may be */
    bool wide;         /* not all of it was ASCII */
};

/* False: no continuation can make it valid. Zero the state at the beginning of a text. */
bool ws_utf8_add(struct ws_utf8 *utf8, const char *p, size_t n);
static inline bool ws_utf8_complete(const struct ws_utf8 *utf8)
{
    return utf8->left == 0;
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

struct ws_reader {
    uint64_t left;        /* of the frame's payload, not yet read */
    uint64_t message_len; /* of the message's frames so far, this one included; as on the wire */
    uint8_t head[WS_HEAD_MAX];
    uint8_t have;         /* bytes of the head that are here */
    uint8_t mask_at;      /* position in the mask, 0..3 */
    uint8_t opcode;       /* of the frame */
    bool fin;
    bool in_payload;      /* the head is complete, the payload is not */
    uint8_t message;      /* WS_TEXT or WS_BINARY while a message is incomplete, else 0 */
    bool compressed;      /* of the message: RSV1 of its first frame */
};

static inline bool ws_is_control(int opcode)
{
    return opcode >= WS_CLOSE;
}

enum ws_read { WS_READ_MORE, WS_READ_HEAD, WS_READ_ERROR };

/* Reads on in a head. WS_READ_HEAD: reader->opcode, fin, left, message are those of the frame. `max_size`: of a message.
 * `deflate`: RSV1 is allowed. *used: bytes taken. After an error the reader must not be used further. */
enum ws_read ws_reader_head(struct ws_reader *reader, uint64_t max_size, bool deflate, const char *data, size_t len,
                            size_t *used, struct ws_error *error);
/* Unmasks, in place, as much of the payload as is there. Returns how much that is; reader->in_payload is false when it was
 * the rest. */
size_t ws_reader_payload(struct ws_reader *reader, char *data, size_t len);
/* A complete message was read: the next data frame begins another. */
void ws_reader_message_done(struct ws_reader *reader);

void ws_unmask(char *data, size_t len, const uint8_t mask[4], size_t at);

/* What a close frame says: WS_CODE_NONE and "" when it is empty. The reason points into the payload. */
struct ws_error ws_close_read(struct str payload, int *code, struct str *reason);
/* May the code stand in a close frame? */
bool ws_code_valid(int code);

/* --- writing: a server's frames are not masked ------------------------------------------------------------------ */

/* Writes at most WS_OUT_HEAD_MAX bytes; returns how many. */
size_t ws_frame_put_head(char *to, enum ws_opcode opcode, bool compressed, uint64_t len);
/* The longest beginning of `reason`, at most WS_REASON_MAX bytes, that is whole characters. */
struct str ws_reason_fit(struct str reason);
