/* Fuzzes the connection with whatever a client may send, in pieces of whatever size. The first bytes of an input say how it is
 * split and which settings hold; the rest is sent. Two properties are checked besides the sanitizers': the outcome is that of the
 * same bytes sent whole, and what comes back is a run of well-formed responses. */
#include "server/net/proxy_protocol.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/http_fixture.h"

#define HEADER_BYTES 4

/* The number of final responses, or -1 when there is something else between them. */
static int count_responses(void)
{
    const char *p = fixture_got(), *end = p + buf_len(&fx.got);
    int count = 0;
    while (p < end && strncmp(p, "HTTP/1.1 ", 9) == 0) {
        const char *blank = memmem(p, (size_t)(end - p), "\r\n\r\n", 4);
        if (blank == NULL)
            return -1;
        const char *length = memmem(p, (size_t)(blank - p), "content-length: ", 16);
        bool final = p[9] != '1';
        count += final;
        p = blank + 4;
        if (final && length)
            p += atol(length + 16);
    }
    return p == end ? count : -1;
}

static void send_pieces(const uint8_t *data, size_t size, size_t piece)
{
    fixture_connect();
    while (size > 0) {
        size_t n = piece && piece < size ? piece : size;
        fixture_send((const char *)data, n);
        fixture_turn();
        fixture_turn();
        data += n;
        size -= n;
    }
    fixture_settle();
}

static char *script_name[] = { "SCRIPT_NAME" };

static void set_up(const uint8_t *header)
{
    fixture_init();
    fx.app.prebuffer_bytes = header[1] & 1 ? 65536 : 0;
    fx.settings.permit_obsolete_folding = header[1] & 2;
    fx.settings.header_map = header[1] & 4 ? HEADER_MAP_DANGEROUS : HEADER_MAP_DROP;
    fx.settings.limit_request_head = header[1] & 8 ? 256 : 65536;
    fx.settings.limit_request_body = header[1] & 16 ? 10 : 0;
    fx.settings.permit_unconventional_http_method = header[1] & 32;
    fx.settings.proxy_protocol = header[1] & 64 ? PROXY_AUTO : PROXY_OFF;
    fx.settings.strip_header_spaces = header[1] & 128;
    fx.settings.permit_unconventional_http_version = header[2] & 1;
    fx.settings.forwarded_host = fx.settings.forwarded_port = header[2] & 2;
    fx.settings.forwarder_headers.count = header[2] & 4 ? 1 : 0;
    fx.settings.forwarder_headers.items = script_name;
    fx.settings.date_header = false; /* so that two runs can be compared */
    fixture_start();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole = { 0 };
    if (size < HEADER_BYTES || size > FUZZ_INPUT_MAX)
        return 0;
    set_up(data);
    send_pieces(data + HEADER_BYTES, size - HEADER_BYTES, 0);
    int requests = fx.complete;
    bool closed = fx.closed;
    buf_append_str(&whole, buf_str(&fx.got));
    if (memmem(data, size, "HEAD", 4) == NULL && memmem(data, size, "head", 4) == NULL)
        expect(count_responses() >= 0, "not a run of responses");
    send_pieces(data + HEADER_BYTES, size - HEADER_BYTES, 1 + data[0]);
    buf_append(&whole, "", 1);
    buf_append(&fx.got, "", 1);
    bool continued = strstr(whole.data, "100 Continue") || strstr(fx.got.data, "100 Continue");
    if (!continued) { /* whether the client is asked to go on does depend on how its bytes came */
        expect(fx.complete == requests, "the split changes how many requests there are");
        expect(fx.closed == closed, "the split changes whether the connection stays");
        expect(str_eq(buf_str(&fx.got), buf_str(&whole)), "the split changes the responses");
    }
    buf_done(&whole);
    fixture_close();
    return 0;
}
