/* Fuzzes the uwsgi protocol: a packet of whatever variables, in pieces of whatever size, and bytes that are no packet. The first bytes
 * of an input say how it is split, which settings hold, and whether the rest is the packet itself or "NAME=VALUE" lines of which one
 * is made. The outcome must be that of the same bytes sent whole, no connection may have two requests, and none may stay open.
 *
 * With libFuzzer (clang) it is a fuzz target; compiled with -DCORPUS_RUNNER it is a program that runs the files it is given. */
#include "tests/unit/http_fixture.h"

#include <stdint.h>
#include <stdio.h>

#define HEADER_BYTES 2

static struct buf packet;

static void put_sized(const uint8_t *text, size_t len)
{
    unsigned char size[2] = { len & 0xff, (len >> 8) & 0xff };
    buf_append(&packet, size, 2);
    buf_append(&packet, text, len);
}

/* Lines up to an empty one become variables; what follows is the body. */
static void make_packet(const uint8_t *data, size_t size)
{
    buf_append(&packet, "\0\0\0\0", 4);
    while (size > 0) {
        const uint8_t *end = memchr(data, '\n', size), *equals;
        size_t len = end ? (size_t)(end - data) : size, used = end ? len + 1 : len;
        if (len > 0 && (equals = memchr(data, '=', len)) != NULL) {
            put_sized(data, (size_t)(equals - data));
            put_sized(equals + 1, len - (size_t)(equals - data) - 1);
        }
        data += used;
        size -= used;
        if (len == 0)
            break;
    }
    size_t variables = buf_len(&packet) - 4;
    packet.data[1] = (char)(variables & 0xff);
    packet.data[2] = (char)(variables >> 8);
    buf_append(&packet, data, size);
}

static void send_pieces(size_t piece)
{
    fixture_connect();
    for (size_t at = 0; at < buf_len(&packet); at += piece) {
        size_t left = buf_len(&packet) - at;
        fixture_send(packet.data + at, left < piece ? left : piece);
        fixture_turn();
        fixture_turn();
    }
    shutdown(fx.client, SHUT_WR);
    fixture_settle();
}

static void set_up(uint8_t flags)
{
    fixture_init();
    fx.app.prebuffer_bytes = flags & 1 ? 65536 : 0;
    fx.settings.protocol = PROTOCOL_UWSGI;
    fx.settings.limit_request_head = flags & 2 ? 256 : 65536;
    fx.settings.limit_request_body = flags & 4 ? 10 : 0;
    fx.settings.permit_unconventional_http_method = flags & 8;
    fx.settings.casefold_http_method = flags & 8;
    fx.settings.forwarded_host = fx.settings.forwarded_port = flags & 16;
    fx.settings.date_header = false; /* so that two runs can be compared */
    fixture_start();
}

static void expect(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole = { 0 };
    if (size < HEADER_BYTES || size > 60000)
        return 0;
    set_up(data[1]);
    buf_reset(&packet, SIZE_MAX);
    if (data[1] & 128)
        buf_append(&packet, data + HEADER_BYTES, size - HEADER_BYTES);
    else
        make_packet(data + HEADER_BYTES, size - HEADER_BYTES);
    send_pieces(SIZE_MAX / 2);
    int requests = fx.complete;
    expect(fx.closed, "the connection stays");
    expect(requests <= 1, "a second request");
    buf_append_str(&whole, buf_str(&fx.got));
    send_pieces(1 + data[0]);
    expect(fx.complete == requests, "the split changes how many requests there are");
    expect(fx.closed, "the connection stays");
    expect(str_eq(buf_str(&fx.got), buf_str(&whole)), "the split changes the response");
    buf_done(&whole);
    fixture_close();
    return 0;
}

#ifdef CORPUS_RUNNER
static void run_file(const char *path)
{
    static uint8_t bytes[65536 + 1];
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(bytes, 1, sizeof(bytes), file) : 0;
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(bytes, n);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        run_file(argv[i]);
    printf("%d inputs\n", argc - 1);
    return 0;
}
#endif
