/* websocket_accept: the server's half of the WebSocket handshake (RFC 6455 4.2.2): the answer 101 with the proof that the key was
 * read. SHA-1 is here because the protocol names it; it protects nothing. */
#include <string.h>

#include "config/settings.h"
#include "server/base/clock.h"
#include "server/base/mem.h"
#include "server/http/conn.h"
#include "server/http/headers.h"
#include "server/http/websocket_conn.h"
#include "server/http/ws_deflate.h"

#define ACCEPT_LEN 28 /* 20 bytes in base64 */

/* --- SHA-1 of one key (FIPS 180-4): 60 bytes, so two blocks ----------------------------------------------------- */

static uint32_t rotate(uint32_t x, int n)
{
    return x << n | x >> (32 - n);
}

static void sha1_schedule(const uint8_t *block, uint32_t w[80])
{
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
}

static uint32_t sha1_mix(int i, uint32_t b, uint32_t c, uint32_t d)
{
    if (i < 20)
        return ((b & c) | (~b & d)) + 0x5A827999;
    if (i < 40)
        return (b ^ c ^ d) + 0x6ED9EBA1;
    if (i < 60)
        return ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC;
    return (b ^ c ^ d) + 0xCA62C1D6;
}

static void sha1_block(uint32_t h[5], const uint8_t *block)
{
    uint32_t w[80], v[5];
    sha1_schedule(block, w);
    memcpy(v, h, sizeof(v));
    for (int i = 0; i < 80; i++) {
        uint32_t next = rotate(v[0], 5) + sha1_mix(i, v[1], v[2], v[3]) + v[4] + w[i];
        v[4] = v[3];
        v[3] = v[2];
        v[2] = rotate(v[1], 30);
        v[1] = v[0];
        v[0] = next;
    }
    for (int i = 0; i < 5; i++)
        h[i] += v[i];
}

/* `len` <= 119 - 64 + 64: what fits two blocks with its padding. */
static void sha1(const char *data, size_t len, uint8_t digest[20])
{
    uint32_t h[5] = { 0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0 };
    uint8_t blocks[128] = { 0 };
    memcpy(blocks, data, len);
    blocks[len] = 0x80;
    blocks[126] = (uint8_t)(len * 8 >> 8);
    blocks[127] = (uint8_t)(len * 8);
    sha1_block(h, blocks);
    sha1_block(h, blocks + 64);
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(h[i / 4] >> (24 - i % 4 * 8));
}

/* 20 bytes become 27 digits and "=". */
static void base64(const uint8_t digest[20], char to[ACCEPT_LEN])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 27; i++) {
        int bit = i * 6, at = bit / 8, shift = 10 - bit % 8;
        int pair = digest[at] << 8 | (at + 1 < 20 ? digest[at + 1] : 0);
        to[i] = digits[pair >> shift & 63];
    }
    to[27] = '=';
}

#define KEY_LEN 24 /* base64 of 16 bytes */

static void accept_key(struct str key, char to[ACCEPT_LEN])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[KEY_LEN + sizeof(guid) - 1] = { 0 };
    uint8_t digest[20];
    if (key.len == KEY_LEN) /* always: websocket_offer.c has checked it */
        memcpy(text, key.p, KEY_LEN);
    memcpy(text + KEY_LEN, guid, sizeof(guid) - 1);
    sha1(text, sizeof(text), digest);
    base64(digest, to);
}

/* --- the offer -------------------------------------------------------------------------------------------------- */

static struct str field_value(const struct request *r, struct str name)
{
    for (size_t i = 0; i < r->field_count; i++)
        if (str_eq(r->fields[i].name, name))
            return r->fields[i].value;
    return (struct str){ NULL, 0 };
}

bool websocket_offered(const struct request *r, size_t *at, struct str *protocol)
{
    size_t index = 0;
    for (size_t i = 0; i < r->field_count; i++) {
        struct str rest = r->fields[i].value;
        if (!str_eq(r->fields[i].name, STR("sec-websocket-protocol")))
            continue;
        while (headers_list_next(&rest, protocol))
            if (index++ == *at) {
                ++*at;
                return true;
            }
    }
    return false;
}

/* --- the answer ------------------------------------------------------------------------------------------------- */

/* Fields that are the handshake's own, or would say something wrong about it. */
static bool is_own(struct str name)
{
    static const char *const own[] = { "connection", "upgrade", "sec-websocket-accept", "content-length",
                                       "transfer-encoding" };
    for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
        if (str_ieq(name, str_from(own[i])))
            return true;
    return false;
}

static const char *judge_field(const struct field *field)
{
    if (field->name.len == 0 || !str_is(field->name, CHAR_TOKEN))
        return "a header name is not a token";
    if (!headers_value_valid(field->value))
        return "a header value has control characters";
    if (str_ieq(field->name, STR("sec-websocket-protocol")))
        return "the header sec-websocket-protocol is set by \"subprotocol\"";
    if (str_ieq(field->name, STR("sec-websocket-extensions")))
        return "the header sec-websocket-extensions is the server's";
    return NULL;
}

static void put_field(struct buf *to, struct str name, struct str value)
{
    buf_append_str(to, name);
    buf_append_str(to, STR(": "));
    buf_append_str(to, value);
    buf_append_str(to, STR("\r\n"));
}

static void put_server_fields(const struct http_server *server, struct buf *to)
{
    buf_append_str(to, buf_str(&server->own_fields));
    if (server->sends_date)
        put_field(to, STR("date"), clock_http_date());
    if (server->sends_server)
        put_field(to, STR("server"), STR("licorne"));
}

static void put_head(struct request *r, struct websocket *ws, struct str protocol, const struct field *fields,
                     size_t count, struct buf *to)
{
    char proof[ACCEPT_LEN];
    accept_key(field_value(r, STR("sec-websocket-key")), proof);
    buf_append_str(to, STR("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"));
    put_field(to, STR("sec-websocket-accept"), (struct str){ proof, ACCEPT_LEN });
    if (protocol.len > 0)
        put_field(to, STR("sec-websocket-protocol"), protocol);
    ws_deflate_put_answer(ws->deflate, to);
    for (size_t i = 0; i < count; i++)
        if (!is_own(fields[i].name))
            put_field(to, fields[i].name, fields[i].value);
    put_server_fields(r->conn->server, to);
    buf_append_str(to, STR("\r\n"));
}

static const char *judge(struct request *r, struct str protocol, const struct field *fields, size_t count)
{
    if (!r->is_websocket || r->response != RESPONSE_NONE)
        return "the request is no offer, or is answered already";
    if (!str_is(protocol, CHAR_TOKEN))
        return "the subprotocol is not a token";
    const char *error = NULL;
    for (size_t i = 0; i < count && error == NULL; i++)
        error = judge_field(&fields[i]);
    return error;
}

struct websocket *websocket_accept(struct request *r, const struct websocket_ops *ops, struct str protocol,
                                   const struct field *fields, size_t count)
{
    struct conn *c = r->conn;
    if ((r->error = judge(r, protocol, fields, count)) != NULL || c == NULL)
        return NULL;
    struct websocket *ws = mem_zalloc(sizeof(*ws));
    ws->ops = ops;
    ws->refs = 2;
    list_init(&ws->node);
    if (c->server->settings->ws_per_message_deflate)
        ws->deflate = ws_deflate_agree(r, c->server->settings);
    struct buf *out = io_out(&c->io);
    size_t before = buf_len(out);
    put_head(r, ws, protocol, fields, count, out);
    io_written(&c->io, buf_len(out) - before);
    conn_upgrade(c, ws);
    websocket_begin(ws, c);
    return ws;
}
