/* http1_scan against llhttp: the same head whole, which may take the short way, and with its first byte alone, which never
 * does. Both must end in the same way, with the same request. */
#include "check.h"

#include "config/settings.h"
#include "server/http/http1.h"
#include "server/http/request.h"

#define ROUNDS 20000

static struct settings settings;
static struct request_pool *pool;
static int scanned;

static uint64_t state = 88172645463325252ull;

static uint32_t random_number(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}

struct outcome {
    struct http1 http1;
    struct request *request;
    enum http1_result result;
    size_t used;
    char bytes[2048];
};

static void set_up(void)
{
    if (pool != NULL)
        settings_done(&settings);
    else
        pool = request_pool_new();
    settings_init(&settings);
}

/* Gives `first` bytes, then the rest. */
static void parse(struct outcome *o, const char *bytes, size_t len, size_t first)
{
    memset(o, 0, sizeof(*o));
    memcpy(o->bytes, bytes, len);
    o->http1.settings = &settings;
    o->request = request_new(pool, NULL);
    http1_begin(&o->http1, o->request);
    o->result = HTTP1_MORE;
    for (size_t done = 0, n = first; done < len && o->result == HTTP1_MORE; n = len - done) {
        o->result = http1_head(&o->http1, o->bytes + done, n, &o->used);
        o->used += done;
        done += n;
    }
}

static bool same(struct str a, struct str b)
{
    return str_eq(a, b);
}

static void check_same(const struct outcome *a, const struct outcome *b)
{
    CHECK(a->result == b->result);
    if (a->result == HTTP1_ERROR)
        CHECK(a->http1.status == b->http1.status);
    if (a->result != HTTP1_DONE)
        return;
    const struct request *x = a->request, *y = b->request;
    CHECK(a->used == b->used);
    CHECK(same(x->method, y->method) && same(x->target, y->target) && same(x->path, y->path) && same(x->query, y->query) &&
          same(x->host, y->host));
    CHECK(x->version_minor == y->version_minor && x->is_head == y->is_head && x->has_body == y->has_body &&
          x->is_chunked == y->is_chunked && x->is_websocket == y->is_websocket &&
          x->content_length == y->content_length);
    CHECK(x->core.keep_alive == y->core.keep_alive && x->core.expects_continue == y->core.expects_continue);
    CHECK(a->http1.body_left == b->http1.body_left && a->http1.phase == b->http1.phase);
    CHECK(x->field_count == y->field_count);
    for (size_t i = 0; i < x->field_count && i < y->field_count; i++)
        CHECK(same(x->fields[i].name, y->fields[i].name) && same(x->fields[i].value, y->fields[i].value));
}

static void compare(const char *bytes, size_t len)
{
    static struct outcome whole, split;
    parse(&whole, bytes, len, len);
    parse(&split, bytes, len, 1);
    CHECK(!split.http1.scanned);
    scanned += whole.http1.scanned;
    check_same(&whole, &split);
    request_unref(whole.request);
    request_unref(split.request);
}

static const char *const lines[] = {
    "Host: a\r\n", "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n", "Accept: */*\r\n",
    "X-Tab:\ta\tb\t\r\n", "X-Empty:\r\n", "X-Blank:   \r\n", "x-Obs: \xe4\xff\x80\r\n", "X_Y: z\r\n",
    "Content-Length: 5\r\n", "Content-Length: 005 \r\n", "Content-Length: 99999999999999999999\r\n", "Content-Length: +1\r\n",
    "Content-Length:\r\n", "Transfer-Encoding: chunked\r\n", "Connection: keep-alive, close\r\n", "Connection: upgrade\r\n",
    "Upgrade: websocket\r\n", "Expect: 100-continue\r\n", "X: a\r\n b\r\n", "X: a\n", "X: a\rb\r\n", "X : a\r\n", ": a\r\n",
    "X\r\n", "X: \x01\r\n", "X: \x7f\r\n", "Xy\x80: a\r\n", "\tX: a\r\n", "X: 12345678\x0b\r\n", "Sec-WebSocket-Version: 13\r\n",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "X: 1234567\t1234567\t12345678\r\n", "X:12345678\r\n", "X: \"\\\"\r\n",
};
static const char *const starts[] = {
    "GET / HTTP/1.1\r\n", "GET /a?b HTTP/1.0\r\n", "POST /x HTTP/1.1\r\n", "HEAD * HTTP/1.1\r\n", "\r\nGET / HTTP/1.1\r\n",
    "GET http://b/ HTTP/1.1\r\n", "GET / HTTP/1.2\r\n", "GET / HTTP/2.0\r\n", "OPTIONS * HTTP/1.1\r\n",
};

#define PICK(texts) texts[random_number(sizeof(texts) / sizeof(*texts))]

static size_t compose(char *to)
{
    size_t len = (size_t)sprintf(to, "%s", PICK(starts));
    if (random_number(4))
        len += (size_t)sprintf(to + len, "Host: a.example\r\n");
    for (uint32_t n = random_number(8); n > 0; n--)
        len += (size_t)sprintf(to + len, "%s", random_number(3) ? lines[random_number(3)] : PICK(lines));
    len += (size_t)sprintf(to + len, "\r\n");
    if (random_number(2))
        len += (size_t)sprintf(to + len, "hello");
    for (uint32_t n = random_number(4) ? 0 : 1 + random_number(2); n > 0; n--)
        to[random_number((uint32_t)len)] = (char)random_number(256);
    return random_number(8) ? len : 1 + random_number((uint32_t)len);
}

static void compare_many(void)
{
    static char bytes[2048];
    for (int i = 0; i < ROUNDS; i++)
        compare(bytes, compose(bytes));
}

static void both_ways_read_the_same(void)
{
    set_up();
    scanned = 0;
    compare_many();
    CHECK(scanned > ROUNDS / 10);
    CHECK(scanned < ROUNDS);
}

static void limits_are_the_same(void)
{
    set_up();
    settings.limit_request_fields = 3;
    settings.limit_request_field_size = 24;
    compare_many();
    settings.limit_request_field_size = 0;
    settings.limit_request_head = 100;
    compare_many();
    settings.limit_request_line = 12;
    settings.header_map = HEADER_MAP_REFUSE;
    compare_many();
}

static void usual_heads_take_the_short_way(void)
{
    static const char curl[] = "GET / HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: curl/8\r\nAccept: */*\r\n\r\n";
    static const char post[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc";
    static const char chunked[] = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    set_up();
    scanned = 0;
    compare(curl, sizeof(curl) - 1);
    CHECK_INT(scanned, 1);
    compare(post, sizeof(post) - 1);
    CHECK_INT(scanned, 2);
    compare(chunked, sizeof(chunked) - 1);
    CHECK_INT(scanned, 2);
}

CHECK_MAIN(TEST(usual_heads_take_the_short_way), TEST(both_ways_read_the_same), TEST(limits_are_the_same))
