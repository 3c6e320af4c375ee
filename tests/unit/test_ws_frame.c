/* ws_frame: every form of length, masking at every alignment, UTF-8, and a table of violations with their close codes. */
#include "server/http/ws_frame.h"

#include <stdlib.h>

#include "check.h"

#define BIG 0x7fffffffffffffffu

/* One client frame, masked with `mask`; returns its length. */
static size_t put_frame(char *to, int first, const char *payload, size_t len, const uint8_t mask[4])
{
    size_t n = ws_frame_put_head(to, WS_BINARY, false, len);
    to[0] = (char)first;
    to[1] = (char)((uint8_t)to[1] | 0x80);
    memcpy(to + n, mask, 4);
    n += 4;
    memcpy(to + n, payload, len);
    ws_unmask(to + n, len, mask, 0);
    return n + len;
}

/* Reads all frames in pieces of `piece` bytes; the payloads are joined in `got`. */
static size_t read_all(char *data, size_t len, size_t piece, uint64_t max_size, char *got, struct ws_error *error)
{
    struct ws_reader r = { 0 };
    size_t n = 0, used;
    for (size_t at = 0, end; at < len; at = end) {
        end = at + piece < len ? at + piece : len;
        while (at < end) {
            if (!r.in_payload) {
                enum ws_read result = ws_reader_head(&r, max_size, false, data + at, end - at, &used, error);
                at += used;
                if (result == WS_READ_ERROR)
                    return n;
            } else {
                used = ws_reader_payload(&r, data + at, end - at);
                memcpy(got + n, data + at, used);
                n += used;
                at += used;
            }
            bool whole = !r.in_payload && r.have == 0;
            if (whole && r.fin && !ws_is_control(r.opcode))
                ws_reader_message_done(&r);
        }
    }
    return n;
}

static void test_lengths_and_splits(void)
{
    static const size_t lengths[] = { 0, 1, 7, 8, 125, 126, 127, 65535, 65536, 70001 };
    static const size_t pieces[] = { 1, 2, 3, 5, 7, 13, 4096, 1000000 };
    static const uint8_t mask[4] = { 0x37, 0xfa, 0x21, 0x3d };
    static char payload[70001], wire[2 * 70020], got[2 * 70001];
    for (size_t i = 0; i < sizeof(payload); i++)
        payload[i] = (char)(i * 31 + (i >> 8));
    for (size_t l = 0; l < sizeof(lengths) / sizeof(*lengths); l++)
        for (size_t p = 0; p < sizeof(pieces) / sizeof(*pieces); p++) {
            struct ws_error error = { 0 };
            size_t n = put_frame(wire, 0x82, payload, lengths[l], mask);
            n += put_frame(wire + n, 0x82, payload, lengths[l], mask);
            CHECK_INT(read_all(wire, n, pieces[p], BIG, got, &error), 2 * lengths[l]);
            CHECK_INT(error.code, 0);
            CHECK(memcmp(got, payload, lengths[l]) == 0);
            CHECK(memcmp(got + lengths[l], payload, lengths[l]) == 0);
        }
}

static void test_unmask(void)
{
    static const uint8_t mask[4] = { 1, 20, 130, 255 };
    char data[64], expected[64];
    for (size_t start = 0; start < 9; start++)
        for (size_t len = 0; len < 40; len++)
            for (size_t at = 0; at < 4; at++) {
                for (size_t i = 0; i < 64; i++)
                    data[i] = expected[i] = (char)(i * 7);
                for (size_t i = 0; i < len; i++)
                    expected[start + i] = (char)((uint8_t)expected[start + i] ^ mask[(at + i) & 3]);
                ws_unmask(data + start, len, mask, at);
                CHECK(memcmp(data, expected, 64) == 0);
            }
}

/* --- bad input -------------------------------------------------------------------------------------------------- */

struct bad_input {
    const char *name;
    const char *bytes;
    size_t len;
    int code;
};

#define BAD(name, bytes, code) { name, bytes, sizeof(bytes) - 1, code }
#define MASK "\1\2\3\4"

/* With ws_max_size 1000. Each is complete with its last byte: one byte less is no error yet. */
static const struct bad_input bad_inputs[] = {
    BAD("RSV1", "\xc1\x80", 1002),
    BAD("RSV2", "\xa1\x80", 1002),
    BAD("RSV3", "\x91\x80", 1002),
    BAD("RSV1 of a ping", "\xc9\x80", 1002),
    BAD("opcode 3", "\x83\x80", 1002),
    BAD("opcode 7", "\x87\x80", 1002),
    BAD("opcode 11", "\x8b\x80", 1002),
    BAD("opcode 15", "\x8f\x80", 1002),
    BAD("not masked", "\x81\x01", 1002),
    BAD("close not masked", "\x88\x00", 1002),
    BAD("fragmented ping", "\x09\x80", 1002),
    BAD("fragmented close", "\x08\x80", 1002),
    BAD("ping of 126", "\x89\xfe", 1002),
    BAD("pong of 64 bits", "\x8a\xff", 1002),
    BAD("close of 126", "\x88\xfe", 1002),
    BAD("continuation of nothing", "\x80\x80", 1002),
    BAD("unfinished continuation of nothing", "\x00\x80", 1002),
    BAD("text within a message", "\x01\x80" MASK "\x81\x80", 1002),
    BAD("binary within a message", "\x01\x80" MASK "\x02\x80", 1002),
    BAD("continuation after the end", "\x01\x80" MASK "\x80\x80" MASK "\x80\x80", 1002),
    BAD("125 in 16 bits", "\x82\xfe\x00\x7d", 1002),
    BAD("0 in 64 bits", "\x82\xff\0\0\0\0\0\0\0\0", 1002),
    BAD("65535 in 64 bits", "\x82\xff\0\0\0\0\0\0\xff\xff", 1002),
    BAD("negative length", "\x82\xff\x80\0\0\0\0\0\0\0", 1002),
    BAD("1001 bytes", "\x82\xfe\x03\xe9", 1009),
    BAD("2^63-1 bytes", "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),
    BAD("1000 bytes and one more", "\x02\x81" MASK "a\x80\xfe\x03\xe8", 1009),
    BAD("2^63-1 bytes after one", "\x02\x81" MASK "a\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),
};

static void test_bad_input(void)
{
    char wire[64], got[64];
    for (size_t i = 0; i < sizeof(bad_inputs) / sizeof(*bad_inputs); i++) {
        const struct bad_input *bad = &bad_inputs[i];
        for (size_t piece = 1; piece <= bad->len; piece++) {
            struct ws_error error = { 0 };
            memcpy(wire, bad->bytes, bad->len);
            read_all(wire, bad->len, piece, 1000, got, &error);
            if (error.code != bad->code)
                fprintf(stderr, "%s\n", bad->name);
            CHECK_INT(error.code, bad->code);
            CHECK(strlen(error.text) <= WS_REASON_MAX);
            memcpy(wire, bad->bytes, bad->len - 1);
            error.code = 0;
            read_all(wire, bad->len - 1, piece, 1000, got, &error);
            CHECK_INT(error.code, 0);
        }
    }
}

static void test_limit_is_allowed(void)
{
    static const uint8_t mask[4] = { 0 };
    static char payload[1000], wire[1100], got[1100];
    struct ws_error error = { 0 };
    size_t n = put_frame(wire, 0x02, payload, 400, mask);
    n += put_frame(wire + n, 0x89, payload, 125, mask); /* does not count */
    n += put_frame(wire + n, 0x80, payload, 500, mask);
    CHECK_INT(read_all(wire, n, 1, 900, got, &error), 1025);
    CHECK_INT(error.code, 0);
}

/* --- close frames ----------------------------------------------------------------------------------------------- */

static void test_close_codes(void)
{
    static const struct {
        int from, to;
    } valid[] = { { 1000, 1003 }, { 1007, 1014 }, { 3000, 4999 } };
    for (int code = 0; code < 65536; code++) {
        bool expected = false;
        for (size_t i = 0; i < 3; i++)
            expected |= code >= valid[i].from && code <= valid[i].to;
        char payload[] = { (char)(code >> 8), (char)code, 'x' };
        int said;
        struct str reason;
        struct ws_error error = ws_close_read((struct str){ payload, 3 }, &said, &reason);
        CHECK_INT(error.code, expected ? 0 : 1002);
        if (expected) {
            CHECK_INT(said, code);
            CHECK_BYTES(reason.p, reason.len, "x");
        }
    }
}

static void test_close_payloads(void)
{
    int code;
    struct str reason;
    CHECK_INT(ws_close_read(STR(""), &code, &reason).code, 0);
    CHECK_INT(code, 1005);
    CHECK_INT(reason.len, 0);
    CHECK_INT(ws_close_read(STR("\x03"), &code, &reason).code, 1002);
    CHECK_INT(ws_close_read(STR("\x03\xe8"), &code, &reason).code, 0);
    CHECK_INT(code, 1000);
    CHECK_INT(ws_close_read(STR("\x03\xe8\xff"), &code, &reason).code, 1007);
    CHECK_INT(ws_close_read(STR("\x03\xe8"
                                "a\xc3"),
                            &code, &reason)
                  .code,
              1007);
}

static void test_reason_fits(void)
{
    char text[200];
    for (size_t i = 0; i < 200; i += 2)
        memcpy(text + i, "\xc3\xa9", 2);
    CHECK_INT(ws_reason_fit((struct str){ text, 200 }).len, 122);
    CHECK_INT(ws_reason_fit((struct str){ text, 122 }).len, 122);
    CHECK_INT(ws_reason_fit(STR("short")).len, 5);
}

/* --- UTF-8 ------------------------------------------------------------------------------------------------------ */

/* By the definition: decodes, and compares with the shortest form. */
static bool is_utf8(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t extra = p[i] < 0x80 ? 0 : p[i] >> 5 == 6 ? 1 : p[i] >> 4 == 14 ? 2 : p[i] >> 3 == 30 ? 3 : 9;
        if (extra == 9 || i + extra >= n)
            return false;
        uint32_t c = extra == 0 ? p[i] : p[i] & (0x3Fu >> extra);
        for (size_t k = 1; k <= extra; k++) {
            if (p[i + k] >> 6 != 2)
                return false;
            c = c << 6 | (p[i + k] & 0x3F);
        }
        static const uint32_t least[] = { 0, 0x80, 0x800, 0x10000 };
        if (c < least[extra] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000))
            return false;
        i += extra + 1;
    }
    return true;
}

static bool checked(const uint8_t *p, size_t n, size_t piece)
{
    struct ws_utf8 utf8 = { 0 };
    for (size_t at = 0; at < n; at += piece)
        if (!ws_utf8_add(&utf8, (const char *)p + at, n - at < piece ? n - at : piece))
            return false;
    return ws_utf8_complete(&utf8);
}

static void test_utf8_all_short(void)
{
    uint8_t p[4];
    for (uint32_t i = 0; i < 1u << 24; i++) {
        p[0] = (uint8_t)(i >> 16);
        p[1] = (uint8_t)(i >> 8);
        p[2] = (uint8_t)i;
        if (p[0] < 0x80 && i & 0xff7f)
            continue; /* the rest is tried without it */
        CHECK(checked(p, 3, 3) == is_utf8(p, 3));
    }
    for (uint32_t lead = 0xEF; lead < 0x100; lead++)
        for (uint32_t i = 0; i < 1u << 16; i++) {
            p[0] = (uint8_t)lead;
            p[1] = (uint8_t)(i >> 8);
            p[2] = (uint8_t)i;
            p[3] = 0x80;
            CHECK(checked(p, 4, 4) == is_utf8(p, 4));
        }
}

static void test_utf8_pieces(void)
{
    uint8_t p[24];
    static const char *const parts[] = {
        "a", "abcdefghij", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xed\xa0\x80", "\xc0"
    };
    srand(1);
    for (int round = 0; round < 20000; round++) {
        size_t n = 0;
        for (int k = 0; k < 4; k++) {
            const char *part = parts[(unsigned)rand() % (round % 3 ? 5 : 7)];
            if (n + strlen(part) <= sizeof(p)) {
                memcpy(p + n, part, strlen(part));
                n += strlen(part);
            }
        }
        n -= n > 0 && round % 5 == 0;
        for (size_t piece = 1; piece <= 5; piece++)
            CHECK(checked(p, n, piece) == is_utf8(p, n));
    }
}

static void test_utf8_fails_at_once(void)
{
    struct ws_utf8 utf8 = { 0 };
    CHECK(ws_utf8_add(&utf8, "abc\xf4", 4));
    CHECK(!ws_utf8_complete(&utf8));
    CHECK(!ws_utf8_add(&utf8, "\x90", 1)); /* over U+10FFFF, two bytes before its end */
}

CHECK_MAIN(TEST(test_lengths_and_splits), TEST(test_unmask), TEST(test_bad_input), TEST(test_limit_is_allowed),
           TEST(test_close_codes), TEST(test_close_payloads), TEST(test_reason_fits), TEST(test_utf8_all_short),
           TEST(test_utf8_pieces), TEST(test_utf8_fails_at_once))
