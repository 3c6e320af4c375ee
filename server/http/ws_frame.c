/* ws_frame: see ws_frame.h. */
#include "server/http/ws_frame.h"

#include <string.h>

#define FIN 0x80
#define RSV1 0x40
#define RSV2_RSV3 0x30
#define MASKED 0x80

#define VIOLATION(code, text) ((struct ws_error){ WS_CODE_##code, (text) })
#define FINE ((struct ws_error){ 0 })

/* --- UTF-8 ------------------------------------------------------------------------------------------------------ */

static size_t ascii_run(const char *p, size_t n)
{
    size_t i = 0;
    for (uint64_t words[4]; i + 32 <= n; i += 32) {
        memcpy(words, p + i, 32);
        if ((words[0] | words[1] | words[2] | words[3]) & 0x8080808080808080u)
            break;
    }
    for (uint64_t word; i + 8 <= n; i += 8) {
        memcpy(&word, p + i, 8);
        if (word & 0x8080808080808080u)
            break;
    }
    while (i < n && (uint8_t)p[i] < 0x80)
        i++;
    return i;
}

/* The byte that begins a character of several. Table 3-7 of the Unicode standard: some leave the second byte less room. */
static bool utf8_lead(struct ws_utf8 *u, uint8_t byte)
{
    if (byte < 0xC2 || byte > 0xF4)
        return false;
    u->wide = true;
    u->left = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    u->low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
    u->high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
    return true;
}

bool ws_utf8_add(struct ws_utf8 *u, const char *p, size_t n)
{
    struct ws_utf8 now = *u;
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)p[i];
        if (now.left > 0) {
            if (byte < now.low || byte > now.high)
                return false;
            now.left--;
            now.low = 0x80;
            now.high = 0xBF;
        } else if (byte < 0x80) {
            i += ascii_run(p + i, n - i) - 1;
        } else if (!utf8_lead(&now, byte)) {
            return false;
        }
    }
    *u = now;
    return true;
}

/* --- reading ---------------------------------------------------------------------------------------------------- */

/* Compilers make vector instructions of it; by hand they would save 20 ns of a KiB, and nothing where memory is the limit. */
void ws_unmask(char *data, size_t len, const uint8_t mask[4], size_t at)
{
    uint8_t turned[8];
    uint64_t wide, word;
    for (size_t i = 0; i < 8; i++)
        turned[i] = mask[(at + i) & 3];
    memcpy(&wide, turned, 8);
    size_t i = 0;
    for (; i + 8 <= len; i += 8) {
        memcpy(&word, data + i, 8);
        word ^= wide;
        memcpy(data + i, &word, 8);
    }
    for (; i < len; i++)
        data[i] ^= (char)turned[i & 7];
}

static struct ws_error judge_control(const struct ws_reader *r)
{
    if (!r->fin)
        return VIOLATION(PROTOCOL_ERROR, "a control frame was fragmented");
    if ((r->head[1] & 0x7F) > WS_CONTROL_MAX)
        return VIOLATION(PROTOCOL_ERROR, "a control frame was longer than 125 bytes");
    if (r->head[0] & RSV1)
        return VIOLATION(PROTOCOL_ERROR, "reserved bits were set");
    return FINE;
}

static struct ws_error judge_data(const struct ws_reader *r, bool deflate)
{
    if (r->opcode == WS_CONTINUATION && r->message == 0)
        return VIOLATION(PROTOCOL_ERROR, "a continuation frame continued nothing");
    if (r->opcode != WS_CONTINUATION && r->message != 0)
        return VIOLATION(PROTOCOL_ERROR, "a message began before the last was complete");
    if ((r->head[0] & RSV1) && (!deflate || r->opcode == WS_CONTINUATION))
        return VIOLATION(PROTOCOL_ERROR, "reserved bits were set");
    return FINE;
}

/* The first two bytes say all but the length. */
static struct ws_error judge_start(struct ws_reader *r, bool deflate)
{
    r->opcode = r->head[0] & 0x0F;
    r->fin = r->head[0] & FIN;
    if (r->head[0] & RSV2_RSV3)
        return VIOLATION(PROTOCOL_ERROR, "reserved bits were set");
    if ((r->opcode > WS_BINARY && r->opcode < WS_CLOSE) || r->opcode > WS_PONG)
        return VIOLATION(PROTOCOL_ERROR, "unknown opcode");
    if (!(r->head[1] & MASKED))
        return VIOLATION(PROTOCOL_ERROR, "a client's frame was not masked");
    return ws_is_control(r->opcode) ? judge_control(r) : judge_data(r, deflate);
}

static size_t length_bytes(const struct ws_reader *r)
{
    int code = r->head[1] & 0x7F;
    return code < 126 ? 0 : code == 126 ? 2 : 8;
}

static uint64_t read_length(const struct ws_reader *r)
{
    uint64_t value = 0;
    size_t count = length_bytes(r);
    for (size_t i = 0; i < count; i++)
        value = value << 8 | r->head[2 + i];
    return count == 0 ? r->head[1] & 0x7Fu : value;
}

static struct ws_error judge_length(struct ws_reader *r, uint64_t max_size)
{
    uint64_t len = read_length(r);
    size_t count = length_bytes(r);
    if (len >> 63)
        return VIOLATION(PROTOCOL_ERROR, "a length was negative");
    if ((count == 2 && len < 126) || (count == 8 && len < 65536))
        return VIOLATION(PROTOCOL_ERROR, "a length was not in its shortest form");
    if (!ws_is_control(r->opcode) && (len > max_size || r->message_len > max_size - len))
        return VIOLATION(TOO_BIG, "the message is longer than ws_max_size");
    r->left = len;
    return FINE;
}

/* The head is complete and good. */
static void begin_payload(struct ws_reader *r)
{
    if (r->opcode == WS_TEXT || r->opcode == WS_BINARY) {
        r->message = r->opcode;
        r->compressed = r->head[0] & RSV1;
    }
    memmove(r->head, r->head + r->have - 4, 4); /* the mask */
    if (!ws_is_control(r->opcode))
        r->message_len += r->left;
    r->have = r->mask_at = 0;
    r->in_payload = r->left > 0;
}

enum ws_read ws_reader_head(struct ws_reader *r, uint64_t max_size, bool deflate, const char *data, size_t len,
                            size_t *used, struct ws_error *error)
{
    size_t i = 0;
    *error = FINE;
    while (i < len && error->code == 0) {
        r->head[r->have++] = (uint8_t)data[i++];
        if (r->have < 2)
            continue;
        size_t before_mask = 2 + length_bytes(r);
        if (r->have == 2)
            *error = judge_start(r, deflate);
        if (error->code == 0 && r->have == before_mask)
            *error = judge_length(r, max_size);
        if (error->code == 0 && r->have == before_mask + 4) {
            *used = i;
            begin_payload(r);
            return WS_READ_HEAD;
        }
    }
    *used = i;
    return error->code ? WS_READ_ERROR : WS_READ_MORE;
}

size_t ws_reader_payload(struct ws_reader *r, char *data, size_t len)
{
    size_t n = len < r->left ? len : (size_t)r->left;
    ws_unmask(data, n, r->head, r->mask_at);
    r->mask_at = (r->mask_at + n) & 3;
    r->left -= n;
    r->in_payload = r->left > 0;
    return n;
}

void ws_reader_message_done(struct ws_reader *r)
{
    r->message = 0;
    r->message_len = 0;
    r->compressed = false;
}

/* --- close frames ----------------------------------------------------------------------------------------------- */

bool ws_code_valid(int code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

struct ws_error ws_close_read(struct str payload, int *code, struct str *reason)
{
    struct ws_utf8 utf8 = { 0 };
    *code = WS_CODE_NONE;
    *reason = STR("");
    if (payload.len == 0)
        return FINE;
    if (payload.len == 1)
        return VIOLATION(PROTOCOL_ERROR, "a close frame had half a code");
    int said = (uint8_t)payload.p[0] << 8 | (uint8_t)payload.p[1];
    if (!ws_code_valid(said))
        return VIOLATION(PROTOCOL_ERROR, "a close frame had an invalid code");
    struct str text = { payload.p + 2, payload.len - 2 };
    if (!ws_utf8_add(&utf8, text.p, text.len) || !ws_utf8_complete(&utf8))
        return VIOLATION(INVALID_DATA, "a close frame's reason was not UTF-8");
    *code = said;
    *reason = text;
    return FINE;
}

struct str ws_reason_fit(struct str reason)
{
    if (reason.len <= WS_REASON_MAX)
        return reason;
    size_t len = WS_REASON_MAX;
    while (len > 0 && ((uint8_t)reason.p[len] & 0xC0) == 0x80)
        len--;
    return (struct str){ reason.p, len };
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

static size_t put_length(char *to, uint64_t len, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (char)(len >> 8 * (bytes - 1 - i));
    return bytes;
}

size_t ws_frame_put_head(char *to, enum ws_opcode opcode, bool compressed, uint64_t len)
{
    to[0] = (char)(FIN | (compressed ? RSV1 : 0) | opcode);
    to[1] = (char)(len < 126 ? len : len < 65536 ? 126 : 127);
    return 2 + (len < 126 ? 0 : put_length(to + 2, len, len < 65536 ? 2 : 8));
}
