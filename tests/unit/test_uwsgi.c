/* uwsgi: what comes of packets, well made and hostile ones, in any pieces. */
#include "check.h"

#include "config/settings.h"
#include "server/http/uwsgi.h"
#include "tests/unit/http_fixture.h"

static struct buf packet;
static struct buf said; /* of the last request, a line a fact */

static void say(const char *name, struct str value)
{
    buf_printf(&said, "%s=%.*s\n", name, (int)value.len, value.p);
}

static bool note(struct request *r)
{
    const struct request_front *front = r->front;
    buf_reset(&said, SIZE_MAX);
    say("method", r->method);
    say("target", r->target);
    say("path", r->path);
    say("query", r->query);
    say("host", r->host);
    say("scheme", request_scheme(r));
    say("client", request_client(r)->host);
    buf_printf(&said, "port=%d\nminor=%d\nlength=%d\n", request_client(r)->port, r->version_minor, (int)r->content_length);
    say("server", front->server.host);
    buf_printf(&said, "server_port=%d\n", front->server.port);
    say("script", front->script_name);
    say("below", (struct str){ r->path.p + front->script_len, r->path.len - front->script_len });
    for (size_t i = 0; i < r->field_count; i++)
        buf_printf(&said, "%.*s: %.*s\n", (int)r->fields[i].name.len, r->fields[i].name.p, (int)r->fields[i].value.len,
                   r->fields[i].value.p);
    for (size_t i = 0; i < front->var_count; i++)
        buf_printf(&said, "%.*s => %.*s\n", (int)front->vars[i].name.len, front->vars[i].name.p,
                   (int)front->vars[i].value.len, front->vars[i].value.p);
    return false;
}

static void put_sized(const char *text, size_t len)
{
    unsigned char size[2] = { len & 0xff, (len >> 8) & 0xff };
    buf_append(&packet, size, 2);
    buf_append(&packet, text, len);
}

static void add_var(const char *name, const char *value)
{
    put_sized(name, strlen(name));
    put_sized(value, strlen(value));
}

static void begin_packet(void)
{
    buf_reset(&packet, SIZE_MAX);
    buf_append(&packet, "\0\0\0\0", 4);
}

static void end_packet(void)
{
    size_t size = buf_len(&packet) - 4;
    packet.data[1] = (char)(size & 0xff);
    packet.data[2] = (char)(size >> 8);
}

/* "NAME=VALUE" each, as nginx's uwsgi_params and a GET; later ones count. */
static void make_packet(const char *const *more)
{
    begin_packet();
    add_var("REQUEST_METHOD", "GET");
    add_var("REQUEST_URI", "/a%20b?x=1");
    add_var("PATH_INFO", "/a b");
    add_var("QUERY_STRING", "x=1");
    add_var("SERVER_PROTOCOL", "HTTP/1.1");
    add_var("CONTENT_TYPE", "");
    add_var("CONTENT_LENGTH", "");
    add_var("HTTP_HOST", "example.org");
    for (; more && *more; more++) {
        char name[128];
        const char *equals = strchr(*more, '=');
        snprintf(name, sizeof(name), "%.*s", (int)(equals - *more), *more);
        add_var(name, equals + 1);
    }
    end_packet();
}

#define PACKET(...) make_packet((const char *const[]){ __VA_ARGS__, NULL })

static void send_pieces(size_t piece)
{
    fixture_connect();
    for (size_t at = 0; at < buf_len(&packet); at += piece) {
        size_t left = buf_len(&packet) - at;
        fixture_send(packet.data + at, left < piece ? left : piece);
        fixture_turn();
    }
    fixture_settle();
}

static void open_fixture(void)
{
    fixture_init();
    fx.settings.protocol = PROTOCOL_UWSGI;
    fx.settings.date_header = fx.settings.server_header = false;
    fx.on_request = note;
    fixture_start();
}

static int status_of(size_t piece)
{
    send_pieces(piece);
    return fixture_starts("HTTP/1.1 ") ? atoi(fixture_got() + 9) : 0;
}

static bool told(const char *line)
{
    *buf_reserve(&said, 1) = 0;
    const char *found = strstr(said.data, line);
    if (!found)
        fprintf(stderr, "no %s in:\n%s", line, said.data);
    return found != NULL;
}

/* --- good ones -------------------------------------------------------------------------------------------------------- */

static void variables_become_a_request(void)
{
    open_fixture();
    PACKET("REMOTE_ADDR=192.0.2.7", "REMOTE_PORT=4711", "SERVER_NAME=shop", "SERVER_PORT=8443", "HTTPS=on",
           "HTTP_X_FORWARDED_FOR= 6.6.6.6 ", "DOCUMENT_ROOT=/srv", "REMOTE_USER=kim", "wsgi.input=x", "SERVER_SOFTWARE=y");
    for (size_t piece = 1; piece < 40; piece++) {
        CHECK_INT(status_of(piece), 200);
        CHECK(fx.closed);
    }
    CHECK(told("method=GET\ntarget=/a%20b?x=1\npath=/a%20b\nquery=x=1\nhost=example.org\nscheme=https\n"));
    CHECK(told("client=192.0.2.7\nport=4711\nminor=1\nlength=-1\nserver=shop\nserver_port=8443\nscript=\n"));
    CHECK(told("host: example.org\nx-forwarded-for: 6.6.6.6\nDOCUMENT_ROOT => /srv\nREMOTE_USER => kim\n"));
    CHECK(strstr(said.data, "SOFTWARE") == NULL && strstr(said.data, "wsgi") == NULL);
    fixture_close();
}

static void a_body_follows_and_no_other_request(void)
{
    open_fixture();
    PACKET("REQUEST_METHOD=POST", "REQUEST_URI=/", "PATH_INFO=/", "QUERY_STRING=");
    begin_packet();
    add_var("REQUEST_METHOD", "POST");
    add_var("PATH_INFO", "/");
    add_var("HTTP_HOST", "a");
    add_var("CONTENT_LENGTH", "5");
    add_var("CONTENT_TYPE", "text/plain");
    add_var("HTTP_CONTENT_LENGTH", "9");
    add_var("HTTP_CONTENT_TYPE", "x");
    add_var("HTTP_TRANSFER_ENCODING", "chunked");
    add_var("HTTP_EXPECT", "100-continue");
    add_var("HTTP_CONNECTION", "keep-alive");
    end_packet();
    buf_append(&packet, "hello\0\1\0\0", 9);
    for (size_t piece = 1; piece < 40; piece++) {
        CHECK_INT(status_of(piece), 200);
        CHECK_INT(fx.requests, 1);
        CHECK(fx.closed && strstr(fixture_got(), "POST / hello") != NULL);
        CHECK(strstr(fixture_got(), "100 Continue") == NULL);
    }
    CHECK(told("target=/\npath=/\n"));
    CHECK(told("host: a\nconnection: keep-alive\ncontent-type: text/plain\ncontent-length: 5\n"));
    fixture_close();
}

static bool stream(struct request *r)
{
    struct field field = { STR("content-type"), STR("text/plain") };
    request_start(r, 200, STR(""), &field, 1);
    request_write(r, STR("one"), true, NULL);
    request_write(r, STR("two"), false, NULL);
    return true;
}

static void a_response_without_a_length_ends_with_the_connection(void)
{
    open_fixture();
    fx.on_request = stream;
    make_packet(NULL);
    CHECK_INT(status_of(SIZE_MAX / 2), 200);
    CHECK(strstr(fixture_got(), "transfer-encoding") == NULL);
    CHECK(strstr(fixture_got(), "connection: close\r\n\r\nonetwo") != NULL);
    CHECK(fx.closed);
    fixture_close();
}

struct paths {
    const char *script, *info, *uri; /* as sent */
    const char *path, *below;        /* as seen */
};

static void the_path_is_what_the_front_end_says(void)
{
    static const struct paths table[] = {
        { "", "/a b", "/a%20b", "/a%20b", "/a%20b" },
        { "", "/a b", "/a+b", "/a%20b", "/a%20b" }, /* rewritten */
        { "", "/x/y", "/x//./y?q", "/x/y", "/x/y" },
        { "", "/%/?/#/\xc3\xa9", "/%25/%3F/%23/%c3%A9", "/%25/%3F/%23/%c3%A9", "/%25/%3F/%23/%c3%A9" },
        { "", "/%/?/#/\xc3\xa9", "", "/%25/%3F/%23/%C3%A9", "/%25/%3F/%23/%C3%A9" },
        { "/shop", "/shop/cart", "/shop/cart", "/shop/cart", "/cart" },
        { "/shop", "/cart", "/shop/cart", "/shop/cart", "/cart" },
        { "/shop/", "/shop", "/shop", "/shop", "" },
        { "/shop", "", "/shop", "/shop", "" },
        { "/shop", "/shopping", "/shop/shopping", "/shop/shopping", "/shopping" },
        { "/", "/cart", "/cart", "/cart", "/cart" },
        { "/caf\xc3\xa9", "/caf\xc3\xa9/x", "/caf%C3%A9/x", "/caf%C3%A9/x", "/x" },
        { "", "", "/only?uri", "/only", "/only" },
    };
    open_fixture();
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char line[200];
        begin_packet();
        add_var("REQUEST_METHOD", "GET");
        add_var("HTTP_HOST", "a");
        add_var("SCRIPT_NAME", table[i].script);
        add_var("PATH_INFO", table[i].info);
        add_var("REQUEST_URI", table[i].uri);
        end_packet();
        CHECK_INT(status_of(SIZE_MAX / 2), 200);
        snprintf(line, sizeof(line), "\npath=%s\n", table[i].path);
        CHECK(told(line));
        snprintf(line, sizeof(line), "\nbelow=%s\n", table[i].below);
        CHECK(told(line));
    }
    fixture_close();
}

static void a_client_without_an_address_is_nobody(void)
{
    open_fixture();
    PACKET("REMOTE_ADDR=unix:", "HTTP_X_FORWARDED_FOR=6.6.6.6", "HTTP_X_FORWARDED_PROTO=https");
    CHECK_INT(status_of(SIZE_MAX / 2), 200);
    CHECK(told("scheme=http\nclient=\nport=-1\n"));
    fixture_close();
}

/* --- hostile ones ------------------------------------------------------------------------------------------------------ */

struct hostile {
    const char *var;
    int status;
};

static void what_is_malformed_is_refused(void)
{
    static const struct hostile table[] = {
        { "REQUEST_METHOD=", 400 },
        { "REQUEST_METHOD=G T", 400 },
        { "REQUEST_METHOD=get", 400 },
        { "REQUEST_METHOD=CONNECT", 501 },
        { "REQUEST_METHOD=TRACE", 405 },
        { "REQUEST_URI=/a b", 400 },
        { "REQUEST_URI=/a\r\nX: y", 400 },
        { "REQUEST_URI=/\xc3\xa9", 400 },
        { "REQUEST_URI=a", 400 },
        { "REQUEST_URI=*", 400 },
        { "QUERY_STRING=a b", 400 },
        { "QUERY_STRING=a\r\nb", 400 },
        { "PATH_INFO=a", 400 },
        { "CONTENT_LENGTH=-1", 400 },
        { "CONTENT_LENGTH=1 ", 400 },
        { "CONTENT_LENGTH=99999999999999999999", 400 },
        { "CONTENT_TYPE=a\nb", 400 },
        { "HTTP_=x", 400 },
        { "HTTP_A=x\r\ny: z", 400 },
        { "HTTP_A=\x01", 400 },
        { "HTTP_A B=x", 400 },
        { "HTTP_A:=x", 400 },
        { "HTTP_HOST=b", 400 }, /* the second */
        { "=x", 400 },
        { "A B=x", 400 },
        { "A\r\nB=x", 400 },
    };
    open_fixture();
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        PACKET(table[i].var);
        if (strncmp(table[i].var, "CONTENT_LENGTH", 14) == 0) { /* else it is the second */
            begin_packet();
            add_var("REQUEST_METHOD", "GET");
            add_var("HTTP_HOST", "a");
            add_var("CONTENT_LENGTH", table[i].var + 15);
            end_packet();
        }
        for (size_t piece = 1; piece < 1000; piece *= 3) {
            int status = status_of(piece);
            if (status != table[i].status)
                fprintf(stderr, "%s\n", table[i].var);
            CHECK_INT(status, table[i].status);
            CHECK(fx.closed && fx.requests == 0);
        }
    }
    PACKET("CONTENT_LENGTH=1");
    CHECK_INT(status_of(SIZE_MAX / 2), 400); /* there was an empty one */
    fixture_close();
}

struct raw {
    const char *bytes;
    size_t len;
    int status;
};

#define RAW(bytes, status) { bytes, sizeof(bytes) - 1, status }

static void packets_that_are_none_are_refused(void)
{
    static const struct raw table[] = {
        RAW("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        RAW("\x01\x04\0\0\0\0\0\0", 501),       /* another modifier1 */
        RAW("\x1e\x04\0\0\0\0\0\0", 501),       /* 30: SCRIPT_NAME is taken off without */
        RAW("\0\x04\0\x01\0\0\0\0", 501),       /* modifier2 */
        RAW("\0\0\0\0", 400),                   /* nothing */
        RAW("\0\x01\0\0\0", 400),               /* half a size */
        RAW("\0\x02\0\0\0\0", 400),             /* a name of no bytes, and no value */
        RAW("\0\x04\0\0\0\0\0\0", 400),         /* a name of no bytes */
        RAW("\0\x03\0\0\x02\0A", 400),          /* a name that ends behind the packet */
        RAW("\0\x04\0\0\x02\0AB", 400),         /* no value */
        RAW("\0\x06\0\0\x01\0A\x02\0x", 400),   /* a value that ends behind it: one byte is missing */
        RAW("\0\x08\0\0\xff\xff" "ABCDEF", 400),
        RAW("\0\x08\0\0\x01\0A\xff\xffxyz", 400),
        RAW("\0\x06\0\0\x01\0A\x01\0\0", 400),  /* NUL */
    };
    open_fixture();
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        buf_reset(&packet, SIZE_MAX);
        buf_append(&packet, table[i].bytes, table[i].len);
        for (size_t piece = 1; piece <= table[i].len; piece++) {
            CHECK_INT(status_of(piece), table[i].status);
            CHECK_INT(fx.requests, 0);
        }
    }
    fixture_close();
}

static void limits_come_before_memory(void)
{
    open_fixture();
    fx.settings.limit_request_head = 1000;
    buf_reset(&packet, SIZE_MAX);
    buf_append(&packet, "\0\xe5\x03\0", 4); /* 997 + 4 bytes: refused before they come */
    CHECK_INT(status_of(SIZE_MAX / 2), 431);
    fx.settings.limit_request_head = 65536;
    fx.settings.limit_request_fields = 3;
    PACKET("HTTP_A=1", "HTTP_B=2");
    CHECK_INT(status_of(SIZE_MAX / 2), 200);
    PACKET("HTTP_A=1", "HTTP_B=2", "HTTP_C=3");
    CHECK_INT(status_of(SIZE_MAX / 2), 431);
    fx.settings.limit_request_fields = 100;
    fx.settings.limit_request_field_size = 12;
    PACKET("HTTP_ABCDE=1234567");
    CHECK_INT(status_of(SIZE_MAX / 2), 431);
    fx.settings.limit_request_field_size = 8190;
    fx.settings.limit_request_line = 12;
    CHECK_INT(status_of(SIZE_MAX / 2), 414);
    fx.settings.limit_request_line = 4094;
    begin_packet();
    add_var("REQUEST_METHOD", "POST");
    add_var("HTTP_HOST", "a");
    add_var("CONTENT_LENGTH", "11");
    for (int i = 3; i < UWSGI_VARS; i++)
        add_var("A", "");
    end_packet();
    fx.settings.limit_request_body = 10;
    CHECK_INT(status_of(SIZE_MAX / 2), 413);
    add_var("A", "");
    end_packet();
    CHECK_INT(status_of(SIZE_MAX / 2), 431);
    fixture_close();
}

/* The end of the bytes at any place: no request, and no answer that could be taken for one's. */
static void an_end_in_the_middle_is_no_request(void)
{
    open_fixture();
    make_packet(NULL);
    size_t whole = buf_len(&packet);
    for (size_t len = 0; len < whole; len++) {
        fixture_connect();
        fixture_send(packet.data, len);
        fixture_turn();
        shutdown(fx.client, SHUT_WR);
        fixture_settle();
        CHECK(fx.closed && fx.requests == 0);
        CHECK_INT(buf_len(&fx.got), 0);
    }
    fixture_close();
}

CHECK_MAIN(TEST(variables_become_a_request), TEST(a_body_follows_and_no_other_request),
           TEST(a_response_without_a_length_ends_with_the_connection), TEST(the_path_is_what_the_front_end_says),
           TEST(a_client_without_an_address_is_nobody), TEST(what_is_malformed_is_refused),
           TEST(packets_that_are_none_are_refused), TEST(limits_come_before_memory),
           TEST(an_end_in_the_middle_is_no_request))
