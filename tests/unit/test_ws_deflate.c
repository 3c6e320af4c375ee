/* ws_deflate: the terms that are agreed on, messages both ways with and without context takeover, what is kept at rest, limits. The
 * other side is zlib, used as a client would. */
#include "server/http/ws_deflate.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "check.h"
#include "config/settings.h"
#include "server/http/request.h"
#include "server/http/ws_deflate_offer.h"

#define TAIL "\x00\x00\xff\xff"
#define TEXT_BYTES 3000

static struct settings settings;
static z_stream client_out, client_in; /* the client's two contexts */

static void begin(void)
{
    settings = (struct settings){ .ws_max_size = 1 << 24, .ws_deflate_window_bits = 13, .ws_deflate_max_ratio = 100 };
}

static struct ws_deflate *agree(const char *offer)
{
    struct field field = { STR("sec-websocket-extensions"), str_from(offer) };
    struct request request = { .fields = &field, .field_count = 1 };
    return ws_deflate_agree(&request, &settings);
}

static const char *answer_to(const char *offer)
{
    static char text[256];
    struct buf head = { 0 };
    struct ws_deflate *d = agree(offer);
    ws_deflate_put_answer(d, &head);
    snprintf(text, sizeof(text), "%.*s", (int)buf_len(&head), buf_str(&head).p);
    buf_done(&head);
    ws_deflate_free(d);
    return text;
}

static void client_init(int out_bits, int in_bits)
{
    client_out = client_in = (z_stream){ 0 };
    deflateInit2(&client_out, 9, Z_DEFLATED, -out_bits, 8, Z_DEFAULT_STRATEGY);
    inflateInit2(&client_in, -in_bits);
}

static void client_done(void)
{
    deflateEnd(&client_out);
    inflateEnd(&client_in);
}

static struct str client_pack(struct str text, char *to, size_t room)
{
    client_out.next_in = (Bytef *)text.p;
    client_out.avail_in = (uInt)text.len;
    client_out.next_out = (Bytef *)to;
    client_out.avail_out = (uInt)room;
    deflate(&client_out, Z_SYNC_FLUSH);
    return (struct str){ to, room - client_out.avail_out - 4 };
}

static struct str client_unpack(struct str data, char *to, size_t room)
{
    struct buf whole = { 0 };
    buf_append_str(&whole, data);
    buf_append(&whole, TAIL, 4);
    client_in.next_in = (Bytef *)whole.data;
    client_in.avail_in = (uInt)buf_len(&whole);
    client_in.next_out = (Bytef *)to;
    client_in.avail_out = (uInt)room;
    inflate(&client_in, Z_SYNC_FLUSH);
    buf_done(&whole);
    return (struct str){ to, room - client_in.avail_out };
}

/* Words that a window finds again, none alike in a row. */
static struct str text_of(int number)
{
    static char text[TEXT_BYTES];
    unsigned state = 7;
    for (size_t i = 0; i < sizeof(text); i++) {
        state = state * 1103515245 + 12345;
        text[i] = (char)('a' + (state >> 16) % 26);
    }
    snprintf(text, 20, "message %d", number);
    return (struct str){ text, sizeof(text) };
}

/* The client sends text `number`, in two pieces: how many bytes it took on the wire; SIZE_MAX: it did not arrive. */
static size_t send_up(struct ws_deflate *d, int number)
{
    static char packed[2 * TEXT_BYTES];
    struct buf out = { 0 };
    struct str text = text_of(number), wire = client_pack(text, packed, sizeof(packed));
    struct str first = { wire.p, wire.len / 2 }, rest = { wire.p + wire.len / 2, wire.len - wire.len / 2 };
    bool arrived = ws_inflate(d, first, false, &out).code == 0 && ws_inflate(d, rest, true, &out).code == 0 &&
                   str_eq(buf_str(&out), text);
    buf_done(&out);
    return arrived ? wire.len : SIZE_MAX;
}

/* The server sends it: likewise. */
static size_t send_down(struct ws_deflate *d, int number)
{
    static char plain[2 * TEXT_BYTES];
    struct buf out = { 0 };
    struct str text = text_of(number);
    bool arrived = ws_deflate(d, text, &out) && str_eq(client_unpack(buf_str(&out), plain, sizeof(plain)), text);
    size_t len = buf_len(&out);
    buf_done(&out);
    return arrived ? len : SIZE_MAX;
}

/* --- the terms -------------------------------------------------------------------------------------------------- */

#define ANSWER "sec-websocket-extensions: permessage-deflate"
#define NO_SERVER "; server_no_context_takeover"
#define NO_CLIENT "; client_no_context_takeover"
#define OFFER "permessage-deflate"

static void test_terms(void)
{
    static const struct {
        bool takeover;
        int bits;
        const char *offer, *answer;
    } rows[] = {
        { false, 13, OFFER, ANSWER NO_SERVER NO_CLIENT "\r\n" },
        { false, 13, OFFER "; client_max_window_bits", ANSWER NO_SERVER NO_CLIENT "\r\n" },
        { false, 15, OFFER "; server_max_window_bits=12",
          ANSWER NO_SERVER NO_CLIENT "; server_max_window_bits=12\r\n" },
        { true, 13, OFFER, ANSWER NO_CLIENT "\r\n" }, /* its window would be 32 KiB */
        { true, 15, OFFER, ANSWER "\r\n" },
        { true, 13, OFFER "; client_max_window_bits", ANSWER "; client_max_window_bits=13\r\n" },
        { true, 13, OFFER "; client_max_window_bits=10", ANSWER "; client_max_window_bits=10\r\n" },
        { true, 15, OFFER "; client_max_window_bits", ANSWER "; client_max_window_bits=15\r\n" },
        { true, 13, OFFER NO_SERVER "; client_max_window_bits", ANSWER NO_SERVER "; client_max_window_bits=13\r\n" },
        { true, 13, OFFER NO_CLIENT "; client_max_window_bits", ANSWER NO_CLIENT "\r\n" },
        { true, 13, OFFER "; server_max_window_bits=9; client_max_window_bits=8",
          ANSWER "; server_max_window_bits=9; client_max_window_bits=8\r\n" },
        { true, 13, OFFER "; client_max_window_bits=16, " OFFER "; x=1, " OFFER NO_SERVER,
          ANSWER NO_SERVER NO_CLIENT "\r\n" },
        { true, 13, OFFER "; server_max_window_bits=8", "" },
        { true, 13, OFFER "; client_max_window_bits; client_max_window_bits", "" },
    };
    begin();
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        settings.ws_deflate_takeover = rows[i].takeover;
        settings.ws_deflate_window_bits = rows[i].bits;
        CHECK_BYTES(answer_to(rows[i].offer), strlen(answer_to(rows[i].offer)), rows[i].answer);
    }
}

/* --- messages --------------------------------------------------------------------------------------------------- */

static void test_no_takeover(void)
{
    begin();
    struct ws_deflate *d = agree(OFFER);
    client_init(15, 15);
    for (int i = 0; i < 3; i++) {
        size_t up = send_up(d, i), down = send_down(d, i);
        CHECK(up > TEXT_BYTES / 2 && up < TEXT_BYTES);
        CHECK(down > TEXT_BYTES / 2 && down < TEXT_BYTES); /* nothing to refer to */
        CHECK(!ws_deflate_is_warm(d));
        deflateReset(&client_out);
    }
    client_done();
    ws_deflate_free(d);
}

static void test_takeover(void)
{
    begin();
    settings.ws_deflate_takeover = true;
    struct ws_deflate *d = agree(OFFER "; client_max_window_bits");
    client_init(13, 15);
    CHECK(send_up(d, 0) < TEXT_BYTES);
    CHECK(send_down(d, 0) < TEXT_BYTES);
    size_t down = 0;
    for (int i = 1; i < 20; i++) {
        CHECK(send_up(d, i) < 100);
        size_t len = send_down(d, i);
        CHECK(len < TEXT_BYTES);
        down += len; /* our level looks back less thoroughly */
        CHECK(ws_deflate_is_warm(d));
    }
    CHECK(down < 19 * TEXT_BYTES / 3);
    client_done();
    ws_deflate_free(d);
}

/* After a rest the client may still refer to what it has sent; we begin anew. */
static void test_rest(void)
{
    for (int bits = 9; bits <= 15; bits++) {
        char offer[80];
        begin();
        settings.ws_deflate_takeover = true;
        settings.ws_deflate_window_bits = bits;
        snprintf(offer, sizeof(offer), OFFER "; client_max_window_bits=%d", bits);
        struct ws_deflate *d = agree(offer);
        client_init(bits, 15);
        for (int i = 0; i < 4; i++) {
            size_t up = send_up(d, i), down = send_down(d, i);
            CHECK(down > TEXT_BYTES / 2 && down < TEXT_BYTES);
            CHECK(up < (i > 0 && bits >= 12 ? 100 : TEXT_BYTES));
            ws_deflate_rest(d);
            CHECK(!ws_deflate_is_warm(d));
            ws_deflate_rest(d); /* nothing more to do */
        }
        client_done();
        ws_deflate_free(d);
    }
}

/* What we compressed but did not send is not in the client's window. */
static void test_unsent_is_not_referred_to(void)
{
    char noise[400];
    struct buf out = { 0 };
    unsigned state = 1;
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (char)((state = state * 1103515245 + 12345) >> 16);
    begin();
    settings.ws_deflate_takeover = true;
    struct ws_deflate *d = agree(OFFER);
    client_init(15, 15);
    CHECK(send_down(d, 0) < TEXT_BYTES);
    CHECK(!ws_deflate(d, (struct str){ noise, sizeof(noise) }, &out));
    CHECK_INT(buf_len(&out), 0);
    CHECK(send_down(d, 1) < TEXT_BYTES);
    buf_done(&out);
    client_done();
    ws_deflate_free(d);
}

static void test_small_messages_stay_as_they_are(void)
{
    struct buf out = { 0 };
    begin();
    settings.ws_deflate_min_size = 100;
    struct ws_deflate *d = agree(OFFER);
    static const char zeros[100];
    CHECK(!ws_deflate(d, (struct str){ zeros, 99 }, &out));
    CHECK(ws_deflate(d, (struct str){ zeros, 100 }, &out));
    buf_done(&out);
    ws_deflate_free(d);
}

/* A last block in the middle: what follows may refer to what was before it. */
static void test_last_blocks(void)
{
    begin();
    char packed[TEXT_BYTES * 2], rest[64];
    z_stream z = { 0 };
    deflateInit2(&z, 9, Z_DEFLATED, -13, 8, Z_DEFAULT_STRATEGY);
    z.next_in = (Bytef *)text_of(0).p, z.avail_in = TEXT_BYTES;
    z.next_out = (Bytef *)packed, z.avail_out = sizeof(packed);
    CHECK_INT(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t n = sizeof(packed) - z.avail_out;
    deflateReset(&z);
    deflateSetDictionary(&z, (const Bytef *)text_of(0).p, TEXT_BYTES);
    z.next_in = (Bytef *)text_of(0).p + 1000, z.avail_in = 1000;
    z.next_out = (Bytef *)rest, z.avail_out = sizeof(rest);
    deflate(&z, Z_SYNC_FLUSH);
    size_t m = sizeof(rest) - z.avail_out - 4;
    deflateEnd(&z);
    struct ws_deflate *d = agree(OFFER);
    struct buf out = { 0 };
    CHECK_INT(ws_inflate(d, (struct str){ packed, n }, false, &out).code, 0);
    CHECK_INT(ws_inflate(d, (struct str){ rest, m }, true, &out).code, 0);
    CHECK_INT(buf_len(&out), TEXT_BYTES + 1000);
    CHECK(memcmp(out.data + TEXT_BYTES, text_of(0).p + 1000, 1000) == 0);
    buf_done(&out);
    ws_deflate_free(d);
}

/* --- limits ----------------------------------------------------------------------------------------------------- */

static struct ws_error expand_zeros(size_t len)
{
    struct buf out = { 0 };
    char *zeros = calloc(1, len), *packed = malloc(len + 100);
    struct ws_deflate *d = agree(OFFER);
    client_init(15, 15);
    struct ws_error error = ws_inflate(d, client_pack((struct str){ zeros, len }, packed, len + 100), true, &out);
    if (buf_len(&out) > (size_t)settings.ws_max_size)
        error.code = -1;
    client_done();
    buf_done(&out);
    ws_deflate_free(d);
    free(zeros);
    free(packed);
    return error;
}

static void test_limits(void)
{
    begin();
    CHECK_INT(expand_zeros(1 << 20).code, 0); /* so much is free */
    CHECK_INT(expand_zeros((1 << 20) + 1).code, WS_CODE_TOO_BIG);
    CHECK(strstr(expand_zeros(2 << 20).text, "ws_deflate_max_ratio") != NULL);
    settings.ws_deflate_max_ratio = 0;
    CHECK_INT(expand_zeros(1 << 24).code, 0);
    CHECK_INT(expand_zeros((1 << 24) + 1).code, WS_CODE_TOO_BIG);
    CHECK(strstr(expand_zeros((1 << 24) + 1).text, "ws_max_size") != NULL);
}

static void test_malformed(void)
{
    struct buf out = { 0 };
    begin();
    settings.ws_deflate_takeover = true;
    struct ws_deflate *d = agree(OFFER "; client_max_window_bits");
    static const struct str bad[] = { STR("\xff\xff\xff"), STR("\xf2\x48\xcd\xc9"), STR("\xff"), STR("\x02\x04\x00") };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        CHECK_INT(ws_inflate(d, bad[i], true, &out).code, WS_CODE_INVALID_DATA);
        CHECK(!ws_deflate_is_warm(d));
    }
    CHECK_INT(ws_inflate(d, STR("\xf3\x48\xcd\xc9\xc9\x07\x00"), true, &out).code,
              0); /* a last block, nothing behind it */
    CHECK_INT(ws_inflate(d, STR("\x00"), true, &out).code, 0);
    buf_done(&out);
    ws_deflate_free(d);
}

CHECK_MAIN(TEST(test_terms), TEST(test_no_takeover), TEST(test_takeover), TEST(test_rest),
           TEST(test_unsent_is_not_referred_to), TEST(test_small_messages_stay_as_they_are), TEST(test_last_blocks),
           TEST(test_limits), TEST(test_malformed))
