/* Random mutations of the wire corpus through the fuzz target's properties: without clang, and the same every time. A few
 * thousand inputs; the fuzzer itself goes on for as long as it is let. */
#include "check.h"

#include "tests/fuzz/fuzz_http1.c"

#define ROUNDS 10000

static uint64_t state = 88172645463325252ull;

static uint32_t random_number(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}

static const char *const seeds[] = {
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET / "
    "HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a:80/x?y HTTP/1.0\r\nConnection: keep-alive, x\r\nX_Y: \tz \r\n\r\nOPTIONS * HTTP/1.1\r\nHost: "
    "a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc\r\n",
    "GET / HTTP/1.1\r\nHost: [::1]:8\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "POST /early HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\nContent-Length: 70000\r\n\r\nabc",
};

static const char *const pieces[] = { "\r\n",
                                      "\n",
                                      "\r",
                                      " ",
                                      "\t",
                                      ":",
                                      ",",
                                      ";",
                                      "0",
                                      "5",
                                      "chunked",
                                      "Content-Length: 5\r\n",
                                      "Transfer-Encoding: chunked\r\n",
                                      "\xff",
                                      "%00",
                                      "HTTP/1.1",
                                      "Host: b\r\n",
                                      "_",
                                      "\"" };

static size_t mutate(char *bytes, size_t len, size_t room)
{
    for (uint32_t n = 1 + random_number(4); n > 0; n--) {
        size_t at = random_number((uint32_t)len);
        const char *piece = pieces[random_number(sizeof(pieces) / sizeof(*pieces))];
        size_t piece_len = strlen(piece);
        switch (random_number(4)) {
        case 0: /* another byte */
            bytes[at] = (char)random_number(256);
            break;
        case 1: /* one byte less */
            memmove(bytes + at, bytes + at + 1, len - at - 1);
            len -= len > 1;
            break;
        default: /* a piece more */
            if (len + piece_len > room)
                break;
            memmove(bytes + at + piece_len, bytes + at, len - at);
            memcpy(bytes + at, piece, piece_len);
            len += piece_len;
        }
    }
    return len;
}

static void mutations_keep_the_properties(void)
{
    static char bytes[4096];
    for (int i = 0; i < ROUNDS; i++) {
        const char *seed = seeds[(size_t)i % (sizeof(seeds) / sizeof(*seeds))];
        for (int j = 0; j < HEADER_BYTES; j++)
            bytes[j] = (char)random_number(256);
        bytes[0] %= 40;
        bytes[1] &= i % 3 ? 1 : 63;
        strcpy(bytes + HEADER_BYTES, seed);
        size_t len = mutate(bytes + HEADER_BYTES, strlen(seed), sizeof(bytes) - HEADER_BYTES);
        LLVMFuzzerTestOneInput((const uint8_t *)bytes, len + HEADER_BYTES);
    }
    CHECK(true);
}

CHECK_MAIN(TEST(mutations_keep_the_properties))
