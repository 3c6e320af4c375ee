/* load: a WebSocket client that costs far less than any server it talks to: one thread, one epoll, frames made beforehand
 * (masked with zeros), answers counted but not looked into.
 *
 *     load PORT PATH echo      CONNECTIONS SIZE OUTSTANDING SECONDS DEFLATE
 *     load PORT PATH broadcast CONNECTIONS SIZE OUTSTANDING SECONDS DEFLATE
 *     load PORT PATH idle      CONNECTIONS SIZE MESSAGES    SECONDS DEFLATE
 *
 * echo: each connection has OUTSTANDING messages under way. broadcast: the first connection sends, all get it; then the next.
 * idle: opens them; for a byte on its standard input sends MESSAGES over each, one at a time; and waits for that input's end.
 *
 * It prints "begin" when what is measured begins (for idle: "open", and "used" after the messages), and then one line:
 * messages that came back, seconds, its own CPU seconds. DEFLATE 1: offers permessage-deflate as a browser does, and sends
 * compressed messages; it fails if the server does not agree. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define READ_BYTES (256 * 1024)
#define BURST_BYTES (64 * 1024) /* of frames made beforehand, at least one */
#define WARM_UP_SECONDS 0.3

struct conn {
    int fd;
    uint8_t head[10]; /* of the frame that is being read */
    int have;
    uint64_t left;    /* of its payload */
    bool last, data, ping;
    char pong[6 + 125]; /* our answer, while the ping is being read */
    size_t pong_bytes;
    uint64_t unsent;  /* bytes that are to be written */
    size_t offset;    /* in the frame where they begin */
    bool writable_wanted;
};

static struct conn *conns;
static int count, epoll_fd, port;
static const char *path;
static bool deflating;
static char *burst; /* the frame, several times over */
static size_t frame_bytes, burst_bytes;
static uint64_t received;
static char input[READ_BYTES];

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "");
    exit(1);
}

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* --- the message ------------------------------------------------------------------------------------------------ */

/* Like the JSON that applications send. */
static void fill(char *text, size_t size)
{
    unsigned state = 1;
    size_t n = 0;
    while (n < size) {
        char item[96];
        state = state * 1103515245 + 12345;
        int len = snprintf(item, sizeof(item), "{\"id\":%u,\"user\":\"u%x\",\"price\":%u.%02u,\"state\":\"open\"},", state >> 16,
                           state, state % 1000, state % 100);
        size_t part = (size_t)len < size - n ? (size_t)len : size - n;
        memcpy(text + n, item, part);
        n += part;
    }
}

/* With a window that every server agrees to. */
static size_t pack(const char *text, size_t size, char *to, size_t room)
{
    z_stream z = { 0 };
    if (deflateInit2(&z, 6, Z_DEFLATED, -12, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        fail("zlib");
    z.next_in = (Bytef *)text;
    z.avail_in = (uInt)size;
    z.next_out = (Bytef *)to;
    z.avail_out = (uInt)room;
    deflate(&z, Z_SYNC_FLUSH);
    deflateEnd(&z);
    return room - z.avail_out - 4;
}

static void make_burst(size_t size)
{
    char *text = malloc(size), *packed = malloc(size + 1024), head[14] = { (char)0x81 };
    size_t n = 2, len = size;
    fill(text, size);
    if (deflating) {
        len = pack(text, size, packed, size + 1024);
        memcpy(text, packed, len);
        head[0] = (char)0xC1;
    }
    head[1] = (char)(0x80 | (len < 126 ? len : len < 65536 ? 126 : 127));
    for (int i = len < 126 ? -1 : len < 65536 ? 8 : 56; i >= 0; i -= 8)
        head[n++] = (char)(len >> i);
    n += 4; /* the mask: zeros */
    frame_bytes = n + len;
    size_t copies = frame_bytes >= BURST_BYTES ? 1 : BURST_BYTES / frame_bytes;
    burst_bytes = copies * frame_bytes;
    burst = malloc(burst_bytes);
    for (size_t i = 0; i < copies; i++) {
        memcpy(burst + i * frame_bytes, head, n);
        memcpy(burst + i * frame_bytes + n, text, len);
    }
    free(text);
    free(packed);
}

/* --- connections ------------------------------------------------------------------------------------------------ */

static void await(struct conn *c, bool writable, int operation)
{
    struct epoll_event event = { .events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c };
    c->writable_wanted = writable;
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) < 0)
        fail("epoll_ctl");
}

static void shake_hands(struct conn *c)
{
    char text[2048];
    size_t n = 0;
    int len = snprintf(text, sizeof(text),
                       "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) "
                       "Gecko/20100101 Firefox/128.0\r\nAccept: */*\r\nAccept-Language: en-US,en;q=0.5\r\n"
                       "Accept-Encoding: gzip, deflate, br, zstd\r\nSec-WebSocket-Version: 13\r\nOrigin: http://127.0.0.1\r\n"
                       "%sSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: keep-alive, Upgrade\r\n"
                       "Pragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n",
                       path, port, deflating ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    if (write(c->fd, text, (size_t)len) != len)
        fail("handshake");
    memset(text, 0, sizeof(text));
    while (strstr(text, "\r\n\r\n") == NULL && n < sizeof(text) - 1) {
        ssize_t got = read(c->fd, text + n, 1); /* nothing behind it may be taken */
        if (got <= 0)
            fail("no answer to the handshake");
        n += (size_t)got;
    }
    errno = 0;
    if (strncmp(text, "HTTP/1.1 101", 12) != 0)
        fail("not accepted");
    if (deflating && strcasestr(text, "permessage-deflate") == NULL)
        fail("the server has not agreed to permessage-deflate");
}

static void conn_open(struct conn *c)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int yes = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    shake_hands(c);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    await(c, false, EPOLL_CTL_ADD);
}

static void conn_write(struct conn *c)
{
    while (c->unsent > 0) {
        size_t part = burst_bytes - c->offset < c->unsent ? burst_bytes - c->offset : (size_t)c->unsent;
        ssize_t n = write(c->fd, burst + c->offset, part);
        if (n < 0 && errno != EAGAIN)
            fail("write");
        if (n < 0)
            break;
        c->unsent -= (uint64_t)n;
        c->offset = (c->offset + (size_t)n) % frame_bytes;
    }
    if ((c->unsent > 0) != c->writable_wanted)
        await(c, c->unsent > 0, EPOLL_CTL_MOD);
}

static void conn_send(struct conn *c, uint64_t messages)
{
    c->unsent += messages * frame_bytes;
    conn_write(c);
}

static size_t head_bytes(const struct conn *c)
{
    int code = c->have < 2 ? 0 : c->head[1] & 0x7F;
    return code < 126 ? 2 : code == 126 ? 4 : 10;
}

static void begin_payload(struct conn *c)
{
    size_t n = head_bytes(c);
    c->left = n == 2 ? c->head[1] : 0;
    for (size_t i = 2; i < n; i++)
        c->left = c->left << 8 | c->head[i];
    c->last = c->head[0] & 0x80;
    c->data = !(c->head[0] & 0x08);
    errno = 0;
    if ((c->head[0] & 0x0F) == 8)
        fail("the server has closed a connection");
    c->ping = (c->head[0] & 0x0F) == 9;
    c->pong_bytes = 6;
    c->have = 0;
}

static void answer_ping(struct conn *c)
{
    c->pong[0] = (char)0x8A;
    c->pong[1] = (char)(0x80 | (c->pong_bytes - 6));
    if (write(c->fd, c->pong, c->pong_bytes) != (ssize_t)c->pong_bytes)
        fail("pong");
}

/* Whole messages among the bytes. */
static uint64_t take(struct conn *c, const char *data, size_t len)
{
    uint64_t messages = 0;
    while (len > 0) {
        if (c->left > 0) {
            size_t part = len < c->left ? len : (size_t)c->left;
            if (c->ping && c->pong_bytes + part <= sizeof(c->pong)) {
                memcpy(c->pong + c->pong_bytes, data, part);
                c->pong_bytes += part;
            }
            c->left -= part;
            data += part;
            len -= part;
        } else {
            c->head[c->have++] = (uint8_t)*data++;
            len--;
            if ((size_t)c->have < head_bytes(c))
                continue;
            begin_payload(c);
        }
        if (c->left == 0 && c->have == 0) {
            messages += c->last && c->data;
            if (c->ping)
                answer_ping(c);
        }
    }
    return messages;
}

static uint64_t conn_read(struct conn *c)
{
    ssize_t n = read(c->fd, input, sizeof(input));
    if (n < 0 && errno == EAGAIN)
        return 0;
    if (n <= 0)
        fail("the server has closed a connection");
    uint64_t messages = take(c, input, (size_t)n);
    received += messages;
    return messages;
}

/* One turn: `on_messages` says what to do with what has come. */
static void turn(void (*on_messages)(struct conn *c, uint64_t messages))
{
    struct epoll_event events[256];
    int n = epoll_wait(epoll_fd, events, 256, 200);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        uint64_t messages = events[i].events & EPOLLIN ? conn_read(c) : 0;
        if (messages > 0)
            on_messages(c, messages);
        if (events[i].events & EPOLLOUT)
            conn_write(c);
        else if (events[i].events & (EPOLLERR | EPOLLHUP))
            fail("connection lost");
    }
}

/* --- the loads -------------------------------------------------------------------------------------------------- */

static void say(const char *text)
{
    puts(text);
    fflush(stdout);
}

static void answer_all(struct conn *c, uint64_t messages)
{
    conn_send(c, messages);
}

static void measure(double seconds, void (*on_messages)(struct conn *c, uint64_t messages))
{
    for (double until = now(CLOCK_MONOTONIC) + WARM_UP_SECONDS; now(CLOCK_MONOTONIC) < until;)
        turn(on_messages);
    say("begin");
    uint64_t before = received;
    double began = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    while (now(CLOCK_MONOTONIC) < began + seconds)
        turn(on_messages);
    printf("%llu %.6f %.6f\n", (unsigned long long)(received - before), now(CLOCK_MONOTONIC) - began,
           now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}

static uint64_t awaited; /* of the broadcasts under way */
static uint64_t rounds;

static void next_broadcast(struct conn *c, uint64_t messages)
{
    (void)c;
    awaited -= messages;
    if (awaited > 0)
        return;
    awaited = (uint64_t)count * rounds;
    conn_send(&conns[0], rounds);
}

static void await_all(struct conn *c, uint64_t messages)
{
    (void)c;
    awaited -= messages;
}

/* Answers pings until there is something, or the end, on the standard input. */
static ssize_t await_input(void)
{
    struct pollfd waiting = { .fd = 0, .events = POLLIN };
    while (poll(&waiting, 1, 0) == 0)
        turn(await_all);
    return read(0, input, 1);
}

static void idle(int messages)
{
    say("open");
    if (await_input() != 1)
        return;
    for (int round = 0; round < messages; round++) {
        awaited = (uint64_t)count;
        for (int i = 0; i < count; i++)
            conn_send(&conns[i], 1);
        while (awaited > 0)
            turn(await_all);
    }
    say("used");
    while (await_input() > 0)
        continue;
}

int main(int argc, char **argv)
{
    if (argc != 9)
        fail("PORT PATH echo|broadcast|idle CONNECTIONS SIZE OUTSTANDING SECONDS DEFLATE");
    struct rlimit files = { 65536, 65536 };
    setrlimit(RLIMIT_NOFILE, &files);
    port = atoi(argv[1]);
    path = argv[2];
    count = atoi(argv[4]);
    rounds = (uint64_t)atoi(argv[6]);
    deflating = atoi(argv[8]);
    conns = calloc((size_t)count, sizeof(*conns));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    make_burst((size_t)atoi(argv[5]));
    for (int i = 0; i < count; i++)
        conn_open(&conns[i]);
    if (strcmp(argv[3], "idle") == 0) {
        idle((int)rounds);
    } else if (strcmp(argv[3], "broadcast") == 0) {
        awaited = (uint64_t)count * rounds;
        conn_send(&conns[0], rounds);
        measure(atof(argv[7]), next_broadcast);
    } else {
        for (int i = 0; i < count; i++)
            conn_send(&conns[i], rounds);
        measure(atof(argv[7]), answer_all);
    }
    return 0;
}
