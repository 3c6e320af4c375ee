/* Fuzzes permessage-deflate with whatever a client may send as offers and as compressed messages. With context takeover a rest
 * between messages must not change what they mean, nor may the split of a message; limits hold. And what the server compresses,
 * a client that keeps its window must read as it was. */
#include "config/settings.h"
#include "server/base/buf.h"
#include "server/base/zlib.h"
#include "server/http/request.h"
#include "server/http/ws_deflate.h"
#include "tests/fuzz/fuzz.h"

#define HEADER_BYTES 4
#define MAX_SIZE (1 << 21)
#define RATIO 20

static struct ws_deflate *agree(const struct settings *settings, struct str offer)
{
    struct field field = { STR("sec-websocket-extensions"), offer };
    struct request request = { .fields = &field, .field_count = 1 };
    return ws_deflate_agree(&request, settings);
}

/* Messages of `message` bytes, read in pieces; what they mean, as text. */
static void read_all(const struct settings *settings, const uint8_t *data, size_t size, size_t message, size_t piece, bool rest,
                     struct buf *log)
{
    struct ws_deflate *d = agree(settings, STR("permessage-deflate; client_max_window_bits"));
    expect(d != NULL, "no agreement");
    for (size_t at = 0; at < size;) {
        size_t end = size - at < message ? size : at + message;
        size_t before = buf_len(log);
        struct ws_error error = { 0 };
        for (; at < end && error.code == 0; at += piece < end - at ? piece : end - at) {
            struct str part = { (const char *)data + at, piece < end - at ? piece : end - at };
            error = ws_inflate(d, part, at + part.len == end, log);
            expect(buf_len(log) - before <= MAX_SIZE, "a message over the limit");
        }
        if (error.code != 0) {
            buf_reset(log, SIZE_MAX); /* how much came before the error depends on the split */
            buf_printf(log, "error");
            break;
        }
        buf_printf(log, "|");
        if (rest)
            ws_deflate_rest(d);
    }
    ws_deflate_free(d);
}

/* The server sends the bytes, some of them twice. */
static void send_all(const struct settings *settings, const uint8_t *data, size_t size, size_t message, bool rest)
{
    static char plain[1 << 17];
    const struct zlib *zlib = zlib_get();
    struct ws_deflate *d = agree(settings, STR("permessage-deflate; server_max_window_bits=10"));
    z_stream client = { 0 };
    zlib->inflate_init(&client, -10, ZLIB_VERSION, sizeof(client));
    for (size_t at = 0; at < size; at += message) {
        struct str text = { (const char *)data + at / 2, size - at < message ? size - at : message };
        struct buf out = { 0 };
        if (ws_deflate(d, text, &out)) {
            expect(buf_len(&out) < text.len, "it has become longer");
            buf_append(&out, "\x00\x00\xff\xff", 4);
            client.next_in = (Bytef *)out.data;
            client.avail_in = (uInt)buf_len(&out);
            client.next_out = (Bytef *)plain;
            client.avail_out = sizeof(plain);
            int result = zlib->inflate(&client, Z_SYNC_FLUSH);
            expect(result == Z_OK && sizeof(plain) - client.avail_out == text.len && memcmp(plain, text.p, text.len) == 0,
                   "the client reads something else");
        }
        if (rest)
            ws_deflate_rest(d);
        buf_done(&out);
    }
    zlib->inflate_end(&client);
    ws_deflate_free(d);
}

static void answer_offer(const struct settings *settings, struct str offer)
{
    struct ws_deflate *d = agree(settings, offer);
    struct buf head = { 0 };
    ws_deflate_put_answer(d, &head);
    expect(buf_len(&head) < 200, "a long answer");
    buf_done(&head);
    ws_deflate_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size <= HEADER_BYTES || size > FUZZ_INPUT_MAX)
        return 0;
    size_t message = 1 + (size_t)data[0] * 16, piece = 1 + data[1];
    struct settings settings = { .ws_max_size = MAX_SIZE, .ws_deflate_max_ratio = RATIO };
    settings.ws_deflate_takeover = data[2] & 1;
    settings.ws_deflate_window_bits = 9 + data[3] % 7;
    data += HEADER_BYTES;
    size -= HEADER_BYTES;
    struct buf whole = { 0 }, pieces = { 0 };
    read_all(&settings, data, size, message, message, false, &whole);
    read_all(&settings, data, size, message, piece, true, &pieces);
    expect(str_eq(buf_str(&whole), buf_str(&pieces)), "the split, or a rest, changes what was read");
    send_all(&settings, data, size, message, settings.ws_deflate_window_bits & 1);
    answer_offer(&settings, (struct str){ (const char *)data, size });
    buf_done(&whole);
    buf_done(&pieces);
    return 0;
}
