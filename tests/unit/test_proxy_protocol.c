/* The PROXY header alone: every form, whole and split at every byte. */
#include "check.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>

#include "server/net/proxy_protocol.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

static enum proxy_result result;
static size_t taken;
static char client[INET6_ADDRSTRLEN + 8], target[INET6_ADDRSTRLEN + 8];

static void note(char *text, size_t size, const struct sockaddr_in6 *v6)
{
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)v6;
    text[0] = 0;
    if (v6->sin6_family == AF_INET)
        snprintf(text, size, "%s %d", inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host)), ntohs(v4->sin_port));
    else if (v6->sin6_family == AF_INET6)
        snprintf(text, size, "%s %d", inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host)), ntohs(v6->sin6_port));
}

static void feed(enum proxy_versions versions, const char *data, size_t len, size_t piece)
{
    struct proxy_protocol p;
    size_t used;
    proxy_protocol_init(&p, versions);
    taken = 0;
    result = PROXY_MORE;
    while (taken < len && result == PROXY_MORE) {
        size_t n = len - taken < piece ? len - taken : piece;
        result = proxy_protocol_feed(&p, data + taken, n, &used);
        taken += used;
    }
    note(client, sizeof(client), &p.client);
    note(target, sizeof(target), &p.target);
}

/* In pieces of any size the result is the same; "GET" behind it is left alone. */
static void expect(enum proxy_versions versions, const char *header, size_t len, enum proxy_result wanted, const char *who)
{
    char data[2048];
    memcpy(data, header, len);
    memcpy(data + len, "GET", 3);
    for (size_t piece = 1; piece <= len + 3; piece++) {
        feed(versions, data, len + 3, piece);
        CHECK_INT(result, wanted);
        if (wanted == PROXY_DONE) {
            CHECK_INT(taken, len);
            CHECK_BYTES(client, strlen(client), who);
        }
    }
}

#define EXPECT(versions, header, wanted, who) expect(versions, header, sizeof(header) - 1, wanted, who)

static void reads_lines(void)
{
    EXPECT(PROXY_V1, "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", PROXY_DONE, "192.0.2.7 4711");
    CHECK_BYTES(target, strlen(target), "198.51.100.1 443");
    EXPECT(PROXY_AUTO, "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", PROXY_DONE, "255.255.255.255 65535");
    EXPECT(PROXY_V1, "PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", PROXY_DONE, "2001:db8::7 4711");
    CHECK_BYTES(target, strlen(target), "::1 443");
    EXPECT(PROXY_V1, "PROXY UNKNOWN\r\n", PROXY_DONE, "");
    CHECK_BYTES(target, strlen(target), "");
    EXPECT(PROXY_V1, "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", PROXY_DONE, "");
}

static void refuses_lines(void)
{
    static const char *const lines[] = {
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",       "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 1\r\n",
        "PROXY TCP4 192.0.2.7  198.51.100.1 4711 443\r\n",  "PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 -1\r\n",    "PROXY TCP4 2001:db8::7 ::1 4711 443\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 4711 443\r\n",   "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n",     "PROXY UDP4 192.0.2.7 198.51.100.1 4711 443\r\n",
        "PROXY \r\n",                                       "PROXY TCP4\r\n",
        "PROXY TCP4 0192.0.2.7 198.51.100.1 4711 443\r\n",  "PROXY  TCP4 192.0.2.7 198.51.100.1 4711 443\r\n",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        expect(PROXY_AUTO, lines[i], strlen(lines[i]), PROXY_ERROR, "");
    EXPECT(PROXY_AUTO, "PROXY UNKNOWN \0\r\n", PROXY_ERROR, "");
}

static void a_line_without_an_end_is_refused_at_its_107th_byte(void)
{
    char line[PROXY_V1_BYTES + 10];
    memset(line, 'x', sizeof(line));
    memcpy(line, "PROXY UNKNOWN ", 14);
    feed(PROXY_V1, line, PROXY_V1_BYTES - 1, 50);
    CHECK_INT(result, PROXY_MORE);
    feed(PROXY_V1, line, sizeof(line), 50);
    CHECK_INT(result, PROXY_ERROR);
    CHECK_INT(taken, PROXY_V1_BYTES);
}

#define V4 "\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb"
#define V6 "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07" "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01" "\x12\x67\x01\xbb"

static void reads_binary_headers(void)
{
    EXPECT(PROXY_V2, SIGNATURE "\x21\x11\0\x0c" V4, PROXY_DONE, "192.0.2.7 4711");
    CHECK_BYTES(target, strlen(target), "198.51.100.1 443");
    EXPECT(PROXY_AUTO, SIGNATURE "\x21\x21\0\x24" V6, PROXY_DONE, "2001:db8::7 4711");
    CHECK_BYTES(target, strlen(target), "::1 443");
    EXPECT(PROXY_V2, SIGNATURE "\x21\x11\0\x13" V4 "\x04\0\x04" "abcd", PROXY_DONE, "192.0.2.7 4711"); /* a TLV */
    EXPECT(PROXY_V2, SIGNATURE "\x20\0\0\0", PROXY_DONE, "");               /* LOCAL: a health check */
    EXPECT(PROXY_V2, SIGNATURE "\x20\x11\0\x0c" V4, PROXY_DONE, "");        /* its addresses mean nothing */
    EXPECT(PROXY_V2, SIGNATURE "\x21\0\0\0", PROXY_DONE, "");               /* UNSPEC */
    EXPECT(PROXY_V2, SIGNATURE "\x21\x12\0\x0c" V4, PROXY_DONE, "");        /* a datagram's */
}

static void reads_over_what_follows_the_addresses(void)
{
    static char header[16 + 65535] = SIGNATURE "\x21\x11\xff\xff" V4;
    feed(PROXY_V2, header, sizeof(header), 1000);
    CHECK_INT(result, PROXY_DONE);
    CHECK_INT(taken, sizeof(header));
    CHECK_BYTES(client, strlen(client), "192.0.2.7 4711");
    feed(PROXY_V2, header, sizeof(header) - 1, 1000);
    CHECK_INT(result, PROXY_MORE);
}

static void refuses_binary_headers(void)
{
    EXPECT(PROXY_V2, SIGNATURE "\x11\x11\0\x0c" V4, PROXY_ERROR, "");  /* version 1 */
    EXPECT(PROXY_V2, SIGNATURE "\x22\x11\0\x0c" V4, PROXY_ERROR, "");  /* no such command */
    EXPECT(PROXY_V2, SIGNATURE "\x21\x11\0\x0b" V4, PROXY_ERROR, "");  /* shorter than its addresses */
    EXPECT(PROXY_V2, SIGNATURE "\x21\x21\0\x0c" V4, PROXY_ERROR, "");
}

static void knows_what_is_no_header(void)
{
    static const char *const requests[] = { "GET / HTTP/1.1\r\n", "PUT / HTTP/1.1\r\n", "PROPFIND / HTTP/1.1\r\n", "\r\nGET /",
                                            "\r\n\r\nGET /", "PROXX" };
    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
        expect(PROXY_AUTO, requests[i], strlen(requests[i]), PROXY_ABSENT, "");
    EXPECT(PROXY_V2, "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", PROXY_ABSENT, "");
    EXPECT(PROXY_V1, SIGNATURE "\x20\0\0\0", PROXY_ABSENT, "");
}

CHECK_MAIN(TEST(reads_lines), TEST(refuses_lines), TEST(a_line_without_an_end_is_refused_at_its_107th_byte), TEST(reads_binary_headers), TEST(reads_over_what_follows_the_addresses), TEST(refuses_binary_headers), TEST(knows_what_is_no_header))
