/* websocket over io: the handshake, an echo, the close handshake both ways, every violation's one close frame, ping and pong,
 * backpressure, time limits, the worker's leave. */
#include "server/http/websocket.h"

#include <zlib.h>

#include "check.h"
#include "http_fixture.h"

#define OFFER(more)                                                                                                    \
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"                       \
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" more "\r\n"

/* The fake application: echoes, unless it is told to keep. */
static struct {
    struct websocket *ws;
    int messages, writables, closes, code;
    bool keep, answer_later;
    struct buf kept;
    char reason[128];
    enum websocket_result result;
    struct request *request;
} app;

static void app_message(struct websocket *ws, struct str data, enum websocket_message kind)
{
    app.messages++;
    if (app.keep)
        buf_append_str(&app.kept, data);
    else
        app.result = websocket_send(ws, data, kind != WEBSOCKET_BINARY, NULL);
}

static void app_writable(struct websocket *ws)
{
    (void)ws;
    app.writables++;
}

static bool app_close(struct websocket *ws, int code, struct str reason)
{
    (void)ws;
    app.closes++;
    app.code = code;
    memcpy(app.reason, reason.p, reason.len);
    app.reason[reason.len] = 0;
    return app.answer_later;
}

static const struct websocket_ops app_ops = { app_message, app_writable, app_close };

static void app_accept(struct request *r)
{
    static const struct field fields[] = { { STR("x-a"), STR("1") }, { STR("Connection"), STR("close") } };
    struct str protocol = { "", 0 };
    size_t at = 0;
    websocket_offered(r, &at, &protocol);
    app.ws = websocket_accept(r, &app_ops, protocol, fields, 2);
    if (app.ws)
        app.ws->app_data = &app;
}

static bool on_request(struct request *r)
{
    if (!r->is_websocket)
        return false;
    if (str_eq(r->path, STR("/later"))) {
        request_ref(r);
        app.request = r;
    } else {
        app_accept(r);
    }
    return true;
}

static void open_server(void)
{
    memset(&app, 0, sizeof(app));
    fixture_init();
    fx.settings.date_header = false;
    fx.on_request = on_request;
}

static void shake_hands(const char *offer)
{
    fixture_start();
    fixture_say(offer);
    buf_reset(&fx.got, SIZE_MAX);
}

static void open_websocket(void)
{
    open_server();
    shake_hands(OFFER(""));
}

static void close_all(void)
{
    if (app.ws)
        websocket_release(app.ws);
    buf_done(&app.kept);
    fixture_close();
}

/* A client's frame, masked with zeros. */
static size_t put_frame(char *to, int first, struct str payload)
{
    size_t n = ws_frame_put_head(to, WS_TEXT, false, payload.len);
    to[0] = (char)first;
    to[1] = (char)((uint8_t)to[1] | 0x80);
    memset(to + n, 0, 4);
    memcpy(to + n + 4, payload.p, payload.len);
    return n + 4 + payload.len;
}

static void queue_frame(int first, struct str payload)
{
    char *frame = malloc(payload.len + WS_HEAD_MAX);
    fixture_send(frame, put_frame(frame, first, payload));
    free(frame);
}

static void say_frame(int first, struct str payload)
{
    queue_frame(first, payload);
    fixture_settle();
}

static bool got(struct str expected)
{
    bool same = str_eq(buf_str(&fx.got), expected);
    buf_reset(&fx.got, SIZE_MAX);
    return same;
}

/* Exactly one close frame with this code came back, and the server's side is shut. */
static int close_code(void)
{
    const uint8_t *p = (const uint8_t *)fixture_got();
    if (buf_len(&fx.got) < 4 || p[0] != 0x88 || buf_len(&fx.got) != 2u + p[1] || !fx.closed)
        return -1;
    return p[2] << 8 | p[3];
}

/* --- the handshake ---------------------------------------------------------------------------------------------- */

static void test_handshake(void)
{
    open_server();
    fixture_start();
    fixture_say(OFFER("Sec-WebSocket-Protocol: chat, other\r\nSec-WebSocket-Protocol: third\r\n"));
    CHECK_BYTES(fixture_got(), buf_len(&fx.got),
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
                "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: chat\r\nx-a: 1\r\n"
                "server: licorne\r\n\r\n");
    CHECK_INT(http_server_tally(fx.server)->status_class[1], 1);
    CHECK_INT(http_server_tally(fx.server)->in_flight, 0);
    close_all();
}

static void test_frames_before_accept(void)
{
    static const char offer[] = "GET /later HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                                "\x81\x82\0\0\0\0hi";
    open_server();
    fixture_start();
    fixture_send(offer, sizeof(offer) - 1);
    fixture_settle();
    CHECK(app.request != NULL);
    CHECK_INT(buf_len(&fx.got), 0);
    app_accept(app.request);
    request_unref(app.request);
    CHECK(app.ws != NULL);
    fixture_settle();
    CHECK(fixture_starts("HTTP/1.1 101 "));
    CHECK_INT(app.messages, 1);
    CHECK(memcmp(fixture_got() + buf_len(&fx.got) - 4, "\x81\x02hi", 4) == 0);
    close_all();
}

static void test_bad_answers(void)
{
    static const struct field bad[] = { { STR("a b"), STR("1") },
                                        { STR("a"), STR("1\r\nb: 2") },
                                        { STR("Sec-WebSocket-Protocol"), STR("x") },
                                        { STR("Sec-WebSocket-Extensions"), STR("x") } };
    open_server();
    fixture_start();
    fixture_say("GET /later HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    for (size_t i = 0; i < 4; i++) {
        CHECK(websocket_accept(app.request, &app_ops, STR(""), &bad[i], 1) == NULL);
        CHECK(app.request->error != NULL);
    }
    CHECK(websocket_accept(app.request, &app_ops, STR("a b"), NULL, 0) == NULL);
    CHECK_INT(buf_len(&fx.got), 0);
    request_fail(app.request, 500); /* a refusal closes: what follows is no HTTP */
    request_unref(app.request);
    fixture_settle();
    CHECK(fixture_starts("HTTP/1.1 500 "));
    CHECK(fx.closed);
    close_all();
}

/* --- messages --------------------------------------------------------------------------------------------------- */

static void test_echo(void)
{
    open_websocket();
    say_frame(0x81, STR("hello"));
    CHECK(got(STR("\x81\x05hello")));
    say_frame(0x82, STR(""));
    CHECK(got(STR("\x82\x00")));
    queue_frame(0x01, STR("a\xc3"));
    queue_frame(0x89, STR("ping"));
    say_frame(0x00, STR(""));
    CHECK(got(STR("\x8a\x04ping")));
    say_frame(0x80, STR("\xa9"));
    CHECK(got(STR("\x81\x03"
                  "a\xc3\xa9")));
    say_frame(0x8a, STR("unasked"));
    CHECK(got(STR("")));
    CHECK_INT(app.messages, 3);
    close_all();
}

static void test_byte_by_byte(void)
{
    char wire[64];
    open_websocket();
    size_t n = put_frame(wire, 0x81, STR("h\xc3\xa9llo"));
    n += put_frame(wire + n, 0x89, STR("pp"));
    for (size_t i = 0; i < n; i++) {
        fixture_send(wire + i, 1);
        fixture_turn();
    }
    fixture_settle();
    CHECK(got(STR("\x81\x06h\xc3\xa9llo\x8a\x02pp")));
    close_all();
}

static bool has_all(void)
{
    return buf_len(&fx.got) >= 300010;
}

static void test_large_message(void)
{
    static char text[300000];
    memset(text, 'x', sizeof(text));
    open_websocket();
    queue_frame(0x82, (struct str){ text, sizeof(text) });
    CHECK(fixture_until(has_all));
    CHECK_INT(buf_len(&fx.got), sizeof(text) + 10);
    CHECK(memcmp(fixture_got() + 10, text, sizeof(text)) == 0);
    close_all();
}

static void test_pause(void)
{
    open_websocket();
    app.keep = true;
    websocket_pause(app.ws);
    for (int i = 0; i < 10; i++)
        say_frame(0x81, STR("x"));
    CHECK_INT(app.messages, 0);
    websocket_resume(app.ws);
    fixture_settle();
    CHECK_INT(app.messages, 10);
    close_all();
}

static bool is_writable_again(void)
{
    return app.writables > 0;
}

static void test_slow_reader(void)
{
    static char text[60000];
    enum websocket_result result = WEBSOCKET_OK;
    open_websocket();
    for (int i = 0; i < 1000 && result == WEBSOCKET_OK; i++)
        result = websocket_send(app.ws, (struct str){ text, sizeof(text) }, false, NULL);
    CHECK_INT(result, WEBSOCKET_FULL);
    CHECK_INT(app.writables, 0);
    CHECK(fixture_until(is_writable_again));
    CHECK_INT(app.writables, 1);
    close_all();
}

/* --- the end ---------------------------------------------------------------------------------------------------- */

static void test_client_closes(void)
{
    open_websocket();
    say_frame(0x88, STR("\x0f\xa0"
                        "bye"));
    CHECK_INT(close_code(), 4000);
    CHECK_INT(app.closes, 1);
    CHECK_INT(app.code, 4000);
    CHECK(strcmp(app.reason, "bye") == 0);
    CHECK_INT(websocket_send(app.ws, STR("x"), true, NULL), WEBSOCKET_GONE);
    close_all();
}

static void test_client_closes_without_code(void)
{
    open_websocket();
    say_frame(0x88, STR(""));
    CHECK(fx.closed);
    CHECK(got(STR("\x88\x00")));
    CHECK_INT(app.code, 1005);
    close_all();
}

static void test_answer_waits_for_the_application(void)
{
    open_websocket();
    app.keep = app.answer_later = true;
    queue_frame(0x81, STR("last"));
    say_frame(0x88, STR("\x03\xe8"));
    CHECK_INT(app.closes, 1);
    CHECK(!fx.closed);
    CHECK_INT(websocket_send(app.ws, STR("re"), true, NULL), WEBSOCKET_OK);
    websocket_answer(app.ws);
    fixture_settle();
    CHECK(fx.closed);
    CHECK(got(STR("\x81\x02re\x88\x02\x03\xe8")));
    close_all();
}

static void test_violation_after_messages(void)
{
    open_websocket();
    app.keep = app.answer_later = true;
    queue_frame(0x81, STR("good"));
    say_frame(0x83, STR(""));
    CHECK_INT(app.code, 1002);
    CHECK_INT(websocket_send(app.ws, STR("re"), true, NULL), WEBSOCKET_OK);
    websocket_answer(app.ws);
    fixture_settle();
    CHECK(fx.closed);
    CHECK(memcmp(fixture_got(), "\x81\x02re\x88", 5) == 0);
    CHECK_INT(buf_len(&fx.got), 4 + 2 + (uint8_t)fixture_got()[5]);
    close_all();
}

static void test_we_close(void)
{
    open_websocket();
    websocket_close(app.ws, 3001, STR("enough"));
    CHECK_INT(websocket_send(app.ws, STR("x"), true, NULL), WEBSOCKET_GONE);
    fixture_settle();
    CHECK(!fx.closed);
    say_frame(0x81, STR("crossed it"));
    say_frame(0x88, STR("\x0b\xb9"));
    CHECK_INT(close_code(), 3001);
    CHECK_INT(app.messages, 0);
    CHECK_INT(app.closes, 0);
    close_all();
}

static void test_client_leaves(void)
{
    open_websocket();
    shutdown(fx.client, SHUT_WR);
    fixture_settle();
    CHECK(fx.closed);
    CHECK_INT(app.closes, 1);
    CHECK_INT(app.code, 1006);
    close_all();
}

static void test_drain(void)
{
    open_websocket();
    http_server_drain(fx.server, NULL, NULL);
    fixture_settle();
    CHECK_INT(app.code, 1012);
    say_frame(0x88, STR("\x03\xf4"));
    CHECK_INT(close_code(), 1012);
    CHECK_INT(http_server_tally(fx.server)->conns, fx.closed ? http_server_tally(fx.server)->conns : 0);
    close_all();
}

struct bad_input {
    struct str bytes;
    int code;
};

#define BAD(text, code) { { (text), sizeof(text) - 1 }, (code) }
#define M "\0\0\0\0"

static void test_violations(void)
{
    static const struct bad_input inputs[] = {
        BAD("\xc1\x80" M, 1002),
        BAD("\x83\x80" M, 1002),
        BAD("\x81\x01x", 1002),
        BAD("\x09\x80" M, 1002),
        BAD("\x80\x80" M, 1002),
        BAD("\x01\x80" M "\x81\x80" M, 1002),
        BAD("\x88\x81" M "\x03", 1002),
        BAD("\x88\x82" M "\x03\xed", 1002),
        BAD("\x88\x83" M "\x03\xe8\xff", 1007),
        BAD("\x81\x81" M "\xff", 1007),
        BAD("\x81\x81" M "\xc3", 1007),
        BAD("\x01\x81" M "\xc3\x80\x81" M "x", 1007),
        BAD("\x01\x82" M "\xed\xa0", 1007),
        BAD("\x81\xff\0\0\0\0\0\x10\0\0", 1009),
    };
    for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++) {
        open_server();
        fx.settings.ws_max_size = 1 << 19;
        shake_hands(OFFER(""));
        fixture_send(inputs[i].bytes.p, inputs[i].bytes.len);
        fixture_send("\x81\x80" M, 6); /* nothing counts behind it */
        fixture_settle();
        CHECK_INT(close_code(), inputs[i].code);
        CHECK_INT(app.closes, 1);
        CHECK_INT(app.code, inputs[i].code);
        CHECK_INT(app.messages, 0);
        close_all();
    }
}

/* --- time ------------------------------------------------------------------------------------------------------- */

static bool has_bytes(void)
{
    return buf_len(&fx.got) > 0;
}

static void test_ping(void)
{
    open_server();
    fx.settings.ws_ping_interval_ms = 50;
    fx.settings.ws_ping_timeout_ms = 50;
    shake_hands(OFFER(""));
    CHECK(fixture_until(has_bytes));
    CHECK(got(STR("\x89\x00")));
    say_frame(0x8a, STR(""));
    CHECK(!fx.closed);
    CHECK(fixture_until(has_bytes));
    CHECK(got(STR("\x89\x00")));
    CHECK(fixture_until(fixture_is_closed)); /* this one is not answered */
    CHECK_INT(close_code(), 1011);
    CHECK_INT(app.code, 1006);
    close_all();
}

static void test_close_timeout(void)
{
    open_server();
    fx.settings.ws_close_timeout_ms = 50;
    shake_hands(OFFER(""));
    websocket_close(app.ws, 1000, STR(""));
    CHECK(fixture_until(fixture_is_closed));
    CHECK_INT(close_code(), 1000);
    close_all();
}

/* --- permessage-deflate ----------------------------------------------------------------------------------------- */

static size_t pack(const char *text, size_t len, char *to, size_t room)
{
    z_stream z = { 0 };
    deflateInit2(&z, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY);
    z.next_in = (Bytef *)text;
    z.avail_in = (uInt)len;
    z.next_out = (Bytef *)to;
    z.avail_out = (uInt)room;
    deflate(&z, Z_SYNC_FLUSH);
    size_t n = room - z.avail_out - 4;
    deflateEnd(&z);
    return n;
}

static size_t unpack(const char *data, size_t len, char *to, size_t room)
{
    z_stream z = { 0 };
    inflateInit2(&z, -15);
    z.next_in = (Bytef *)data;
    z.avail_in = (uInt)len;
    z.next_out = (Bytef *)to;
    z.avail_out = (uInt)room;
    inflate(&z, Z_SYNC_FLUSH);
    inflateEnd(&z);
    return room - z.avail_out;
}

#define DEFLATE "Sec-WebSocket-Extensions: permessage-deflate"

static void test_deflate_offers(void)
{
    static const struct {
        const char *offer, *answer;
    } rows[] = {
        { OFFER(DEFLATE "\r\n"), "permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n" },
        { OFFER(DEFLATE "; client_max_window_bits\r\n"), "; client_no_context_takeover\r\n" },
        { OFFER(DEFLATE "; server_max_window_bits=\"10\"\r\n"), "; server_max_window_bits=10\r\n" },
        { OFFER(DEFLATE "; server_max_window_bits=15\r\n"), "; server_max_window_bits=13\r\n" },
        { OFFER(DEFLATE "; unknown, permessage-deflate\r\n"), "; client_no_context_takeover\r\n" },
        { OFFER(DEFLATE "; server_max_window_bits=8\r\n"), NULL },
        { OFFER(DEFLATE "; server_max_window_bits=16\r\n"), NULL },
        { OFFER(DEFLATE "; server_max_window_bits=010\r\n"), NULL },
        { OFFER(DEFLATE "; server_max_window_bits\r\n"), NULL },
        { OFFER(DEFLATE "; client_max_window_bits=7\r\n"), NULL },
        { OFFER(DEFLATE "; server_no_context_takeover=1\r\n"), NULL },
        { OFFER(DEFLATE "; client_no_context_takeover; client_no_context_takeover\r\n"), NULL },
        { OFFER("Sec-WebSocket-Extensions: x-webkit-deflate-frame\r\n"), NULL },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        open_server();
        fixture_start();
        fixture_say(rows[i].offer);
        CHECK(fixture_starts("HTTP/1.1 101 "));
        CHECK(rows[i].answer ? strstr(fixture_got(), rows[i].answer) != NULL
                             : strstr(fixture_got(), "extensions") == NULL);
        close_all();
    }
}

static void test_deflate_echo(void)
{
    static char text[100000], packed[100000], plain[100001];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = "abcdefgh"[i * i % 8];
    open_server();
    shake_hands(OFFER(DEFLATE "\r\n"));
    for (int round = 0; round < 3; round++) {
        size_t n = pack(text, sizeof(text), packed, sizeof(packed));
        queue_frame(0x41, (struct str){ packed, n / 2 });
        queue_frame(0x89, STR(""));
        say_frame(0x80, (struct str){ packed + n / 2, n - n / 2 });
        const uint8_t *p = (const uint8_t *)fixture_got() + 2; /* behind the pong */
        CHECK_INT(p[0], 0xc1);
        size_t head = (p[1] & 127) < 126 ? 2 : 4;
        CHECK(buf_len(&fx.got) < 2000);
        CHECK_INT(unpack((const char *)p + head, buf_len(&fx.got) - 2 - head, plain, sizeof(plain)), sizeof(text));
        CHECK(memcmp(plain, text, sizeof(text)) == 0);
        buf_reset(&fx.got, SIZE_MAX);
        say_frame(0x81, STR("short"));
        CHECK(got(STR("\x81\x05short")));
    }
    close_all();
}

static void test_deflate_bad(void)
{
    static char zeros[1 << 20], packed[4096];
    size_t bomb = pack(zeros, sizeof(zeros), packed, sizeof(packed));
    const struct bad_input inputs[] = {
        { { packed, bomb }, 1009 },
        BAD("\xff\xff\xff", 1007),
        { { "\x06", 1 }, 1007 },
    };
    for (size_t i = 0; i < 3; i++) {
        open_server();
        fx.settings.ws_max_size = 1000000;
        shake_hands(OFFER(DEFLATE "\r\n"));
        say_frame(0xc2, inputs[i].bytes);
        CHECK_INT(close_code(), inputs[i].code);
        close_all();
    }
}

/* RFC 7692 7.2.3: two blocks, one without compression, one that says it is the last. */
static void test_deflate_examples(void)
{
    static const struct str examples[] = {
        { "\xf2\x48\xcd\xc9\xc9\x07\x00", 7 },
        { "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", 11 },
        { "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", 8 },
        { "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", 13 },
    };
    open_server();
    shake_hands(OFFER(DEFLATE "\r\n"));
    for (size_t i = 0; i < 4; i++) {
        say_frame(0xc1, examples[i]);
        CHECK(got(STR("\x81\x05Hello")));
    }
    close_all();
}

CHECK_MAIN(TEST(test_handshake), TEST(test_frames_before_accept), TEST(test_bad_answers), TEST(test_echo),
           TEST(test_byte_by_byte), TEST(test_large_message), TEST(test_pause), TEST(test_slow_reader),
           TEST(test_client_closes), TEST(test_client_closes_without_code), TEST(test_answer_waits_for_the_application),
           TEST(test_violation_after_messages), TEST(test_we_close), TEST(test_client_leaves), TEST(test_drain),
           TEST(test_violations), TEST(test_ping), TEST(test_close_timeout), TEST(test_deflate_offers),
           TEST(test_deflate_echo), TEST(test_deflate_bad), TEST(test_deflate_examples))
