/* generator: sends HTTP/1.1 requests over many connections, and looks at every answer: its status, its length, each
 * byte. One thread, one epoll: what a server that does little costs, so that it is rarely the one that is measured.
 *
 * Closed loop (no --rate): a connection asks again when it has its answer. The measure is the server's CPU time.
 *
 * Open loop (--rate R): requests fall due by a Poisson process, the same one for every server, whether or not those before
 * them were answered. What is due goes to the connection that has been idle longest, or waits for one; its latency counts
 * from when it was due. So a server that stops for a while pays for all requests of that while ("coordinated omission" is
 * the mistake of counting one). `lag` is how late a request was sent though a connection was idle: this program's own
 * lateness. If that, or its CPU share, is large, the figures say more about the generator than about the server.
 *
 * It says "ready" when every connection has had a good answer, waits for a line on its standard input, runs for --seconds, waits
 * for the answers that are still due, and prints one line of JSON. So what a server spends between is for the requests
 * that are counted, and no others. --seconds 0: connections that idle until that line comes.
 *
 * Used by ../harness; not a tool on its own. */
#include "histogram.h"
#include "response.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES (256 * 1024)
#define BLOCK_BYTES (256 * 1024) /* of a generated request body */
#define BROKEN_LIMIT 10000
#define S INT64_C(1000000000)

struct client {
    int fd;
    bool writable_wanted, answered; /* answered: the connection only has to end */
    int64_t due;                    /* when the request under way fell due; 0: idle */
    unsigned awaited;               /* responses, of those that were asked for at once */
    uint64_t sent;                  /* bytes of the request */
    struct client *next;            /* of the idle */
    struct response response;
};

static struct plan {
    int port, connections, pipeline;
    double seconds, warm_seconds, rate, timeout;
    bool fresh;           /* a new connection for each request */
    char *request;
    size_t request_bytes; /* of all that are sent at once */
    uint64_t body_bytes;  /* generated, after request */
    struct response_expectation expected;
} plan = { .connections = 1, .pipeline = 1, .timeout = 10, .expected.status = 200 };

static struct tally {
    uint64_t responses, status, length, body, malformed, closed, connect, unanswered, opened;
    char first_error[512];
    struct histogram latency, lag;
} tally;

static struct client *clients, *idle_first, *idle_last;
static int epoll_fd, under_way, broken;
static bool open_loop, starved; /* starved: something was due while no connection was idle */
static int64_t ends;            /* the time from which nothing new is begun */
static char input[READ_BYTES], block[BLOCK_BYTES];

static void client_begin(struct client *c, int64_t due);

static void fail(const char *what)
{
    fprintf(stderr, "generator: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * S + t.tv_nsec;
}

static void note_error(uint64_t *counter, const char *text, size_t size)
{
    ++*counter;
    if (!tally.first_error[0])
        snprintf(tally.first_error, sizeof(tally.first_error), "%.*s", (int)(size < 400 ? size : 400), text);
}

static void note_text(uint64_t *counter, const char *text)
{
    note_error(counter, text, strlen(text));
}

/* --- connections ------------------------------------------------------------------------------------------------- */

static void watch(struct client *c, int operation, bool writable)
{
    struct epoll_event event = { .events = EPOLLIN | (writable ? EPOLLOUT : 0U), .data.ptr = c };
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) < 0)
        fail("epoll_ctl");
    c->writable_wanted = writable;
}

static void client_open(struct client *c)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)plan.port) };
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        fail("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno != EINPROGRESS)
        fail("connect");
    watch(c, EPOLL_CTL_ADD, false);
    tally.opened++;
}

static void client_close(struct client *c)
{
    close(c->fd);
    c->fd = -1;
}

static void client_idle(struct client *c)
{
    c->due = 0;
    c->next = NULL;
    if (idle_first)
        idle_last->next = c;
    else
        idle_first = c;
    idle_last = c;
}

/* --- one request after the other --------------------------------------------------------------------------------- */

static void client_finished(struct client *c, int64_t at)
{
    under_way--;
    if (c->fd >= 0 && (c->response.closes || plan.fresh))
        client_close(c);
    if (open_loop || at >= ends)
        client_idle(c);
    else
        client_begin(c, at);
}

/* The connection is of no more use, nor is what was asked for on it. */
static void client_broken(struct client *c, uint64_t *counter, const char *text, size_t size)
{
    for (; c->awaited > 0; c->awaited--)
        note_error(counter, text, size);
    client_close(c);
    if (++broken > BROKEN_LIMIT) {
        fprintf(stderr, "generator: %d connections were broken; first: %s\n", BROKEN_LIMIT, tally.first_error);
        exit(1);
    }
    client_finished(c, now());
}

static void client_write(struct client *c)
{
    uint64_t total = plan.request_bytes + plan.body_bytes;
    while (c->sent < total) {
        const char *from = plan.request + c->sent;
        uint64_t size = plan.request_bytes - c->sent;
        if (c->sent >= plan.request_bytes) {
            uint64_t at = (c->sent - plan.request_bytes) % BLOCK_BYTES;
            from = block + at;
            size = total - c->sent < BLOCK_BYTES - at ? total - c->sent : BLOCK_BYTES - at;
        }
        ssize_t n = send(c->fd, from, size, MSG_NOSIGNAL | (c->sent + size < total ? MSG_MORE : 0));
        if (n < 0) {
            if (errno != EAGAIN && errno != ENOTCONN)
                break; /* what is read says what became of the connection */
            if (!c->writable_wanted)
                watch(c, EPOLL_CTL_MOD, true);
            return;
        }
        c->sent += (uint64_t)n;
    }
    if (c->writable_wanted)
        watch(c, EPOLL_CTL_MOD, false);
}

static void client_begin(struct client *c, int64_t due)
{
    c->due = due;
    c->awaited = (unsigned)plan.pipeline;
    c->sent = 0;
    c->answered = false;
    response_reset(&c->response);
    under_way++;
    if (c->fd < 0)
        client_open(c);
    client_write(c);
}

static void check(const struct response *r, const char *data, size_t size)
{
    tally.responses++;
    if (r->status != plan.expected.status)
        note_error(&tally.status, data, size);
    else if (!plan.expected.endless && r->body_at != plan.expected.body_bytes)
        note_error(&tally.length, data, size);
    else if (r->differs)
        note_error(&tally.body, data, size);
}

static void client_answered(struct client *c, const char *data, size_t size)
{
    int64_t at = now();
    check(&c->response, data, size);
    histogram_add(&tally.latency, at - c->due);
    if (--c->awaited > 0) {
        bool closes = c->response.closes;
        response_reset(&c->response);
        c->response.closes = closes;
    } else if (plan.fresh && c->response.part != RESPONSE_UNTIL_EOF) {
        c->answered = true; /* and finished with the connection's end, which is the server's work too */
    } else {
        client_finished(c, at);
    }
}

static void client_ended(struct client *c)
{
    if (c->due && c->answered) {
        client_finished(c, now());
    } else if (c->due && c->awaited == 1 && response_eof(&c->response) == RESPONSE_DONE) {
        client_answered(c, "", 0);
    } else if (c->due) {
        client_broken(c, &tally.closed, "closed before the answer was complete", 37);
    } else {
        client_close(c); /* an idle one; the next request opens another */
    }
}

/* What arrived, up to the end of the request's last answer: nothing may follow that. */
static void client_take(struct client *c, size_t n)
{
    for (size_t at = 0; at < n;) {
        size_t taken;
        enum response_outcome outcome = response_feed(&c->response, &plan.expected, input + at, n - at, &taken);
        at += taken;
        bool last = c->awaited == 1;
        if (outcome == RESPONSE_MALFORMED || (outcome == RESPONSE_DONE && last && at < n)) {
            client_broken(c, &tally.malformed, input, n);
            return;
        }
        if (outcome == RESPONSE_DONE)
            client_answered(c, input + at - taken, taken);
        if (outcome == RESPONSE_DONE && last)
            return;
    }
}

static void client_read(struct client *c)
{
    ssize_t n = read(c->fd, input, sizeof(input));
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        client_ended(c);
    } else if (c->due && !c->answered) {
        client_take(c, (size_t)n);
    } else {
        note_error(&tally.malformed, input, (size_t)n); /* an answer to nothing */
        client_ended(c);
    }
}

static void client_event(struct client *c, uint32_t events)
{
    if (c->fd < 0)
        return;
    if (events & EPOLLOUT)
        client_write(c);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        client_read(c);
}

/* --- the run ----------------------------------------------------------------------------------------------------- */

static int64_t gap(void)
{
    return (int64_t)(-log(1.0 - drand48()) / plan.rate * 1e9);
}

/* Sends what is due; the time of the next one. */
static int64_t send_due(int64_t due, int64_t at)
{
    for (; due <= at && due < ends; due += gap()) {
        struct client *c = idle_first;
        if (!c) {
            starved = true;
            return due;
        }
        idle_first = c->next;
        if (!starved)
            histogram_add(&tally.lag, at - due);
        client_begin(c, due);
    }
    starved = false;
    return due;
}

/* Up to the time `until`, or anything that comes. */
static void turn(int64_t until)
{
    struct epoll_event events[256];
    int64_t left = until - now();
    struct timespec wait = { left > 0 ? left / S : 0, left > 0 ? left % S : 0 };
    int n = epoll_pwait2(epoll_fd, events, 256, &wait, NULL);
    if (n < 0 && errno != EINTR)
        fail("epoll_pwait2");
    for (int i = 0; i < n; i++)
        client_event(events[i].data.ptr, events[i].events);
}

static void give_up_unanswered(void)
{
    for (int i = 0; i < plan.connections; i++) {
        struct client *c = &clients[i];
        if (c->due)
            client_broken(c, &tally.unanswered, "no answer within --timeout", 26);
    }
}

/* Every request that was begun has its answer when it ends, or counts as unanswered. */
static void phase(double seconds)
{
    int64_t begun = now(), limit = (int64_t)(plan.timeout * 1e9), due = begun;
    ends = begun + (int64_t)(seconds * 1e9);
    if (open_loop)
        due += gap();
    while (!open_loop && idle_first) {
        struct client *c = idle_first;
        idle_first = c->next;
        client_begin(c, now());
    }
    for (int64_t at = begun; at < ends + limit && (at < ends || under_way > 0 || (open_loop && due < ends));
         at = now()) {
        if (open_loop && due < ends)
            due = send_due(due, at);
        turn(open_loop && due < ends && !starved ? due : at < ends ? ends : ends + limit);
    }
    for (; open_loop && due < ends; due += gap())
        note_text(&tally.unanswered, "due, and never sent: no connection was idle");
    give_up_unanswered();
}

/* Each connection has had the head of its endless response. */
static void open_streams(void)
{
    int64_t limit = now() + (int64_t)(plan.timeout * 1e9);
    ends = INT64_MAX;
    for (int i = 0; i < plan.connections; i++)
        client_begin(&clients[i], now());
    for (int i = 0; i < plan.connections && now() < limit;) {
        if (clients[i].fd >= 0 && clients[i].response.status)
            i++;
        else
            turn(now() + S / 10);
    }
}

static uint64_t events_received(void)
{
    uint64_t all = 0;
    for (int i = 0; i < plan.connections; i++)
        all += clients[i].response.body_at / plan.expected.body_bytes;
    return all;
}

static void run_streams(void)
{
    uint64_t before = events_received();
    int64_t until = now() + (int64_t)(plan.seconds * 1e9);
    while (now() < until)
        turn(until);
    tally.responses = events_received() - before;
    for (int i = 0; i < plan.connections; i++) {
        struct response *r = &clients[i].response;
        if (r->status != plan.expected.status)
            note_text(&tally.status, "a stream without a good head");
        else if (r->differs)
            note_text(&tally.body, "a stream whose events differ");
    }
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void print_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text >= ' ' && *text != '"' && *text != '\\' && *text < 127)
            putchar(*text);
        else
            printf("\\u%04x", (unsigned char)*text);
    }
    putchar('"');
}

static void print_histogram(const char *name, const struct histogram *h)
{
    printf(", \"%s\": {\"p50\": %.2f, \"p90\": %.2f, \"p99\": %.2f, \"p99.9\": %.2f, \"max\": %.2f, \"mean\": %.2f}",
           name, histogram_quantile(h, .5) / 1e3, histogram_quantile(h, .9) / 1e3, histogram_quantile(h, .99) / 1e3,
           histogram_quantile(h, .999) / 1e3, (double)h->max / 1e3, h->count ? h->sum / (double)h->count / 1e3 : 0.);
}

static void print_tally(double seconds, double cpu)
{
    printf("{\"responses\": %lu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"opened\": %lu", tally.responses, seconds,
           cpu, tally.opened);
    printf(", \"errors\": {\"status\": %lu, \"length\": %lu, \"body\": %lu, \"malformed\": %lu, \"closed\": %lu, "
           "\"unanswered\": %lu}, \"first_error\": ",
           tally.status, tally.length, tally.body, tally.malformed, tally.closed, tally.unanswered);
    print_string(tally.first_error);
    print_histogram("latency_us", &tally.latency);
    print_histogram("lag_us", &tally.lag);
    puts("}");
}

/* --- the command line -------------------------------------------------------------------------------------------- */

static char *read_file(const char *name, size_t *size)
{
    struct stat info;
    int fd = open(name, O_RDONLY);
    if (fd < 0 || fstat(fd, &info) < 0)
        fail(name);
    char *bytes = malloc((size_t)info.st_size + 1);
    for (*size = 0; *size < (size_t)info.st_size;) {
        ssize_t n = read(fd, bytes + *size, (size_t)info.st_size - *size);
        if (n <= 0)
            fail(name);
        *size += (size_t)n;
    }
    close(fd);
    return bytes;
}

static void repeat_request(void)
{
    size_t one = plan.request_bytes;
    char *all = malloc(one * (size_t)plan.pipeline);
    if (!all)
        fail("malloc");
    for (int i = 0; i < plan.pipeline; i++)
        memcpy(all + (size_t)i * one, plan.request, one);
    free(plan.request);
    plan.request = all;
    plan.request_bytes = one * (size_t)plan.pipeline;
}

static const struct option options[] = {
    { "port", required_argument, NULL, 'p' },
    { "connections", required_argument, NULL, 'c' },
    { "seconds", required_argument, NULL, 's' },
    { "warm", required_argument, NULL, 'w' },
    { "rate", required_argument, NULL, 'r' },
    { "pipeline", required_argument, NULL, 'n' },
    { "fresh", no_argument, NULL, 'f' },
    { "request", required_argument, NULL, 'q' },
    { "body-bytes", required_argument, NULL, 'b' },
    { "expect", required_argument, NULL, 'e' },
    { "endless", no_argument, NULL, 'l' },
    { "status", required_argument, NULL, 't' },
    { "timeout", required_argument, NULL, 'o' },
    { NULL, 0, NULL, 0 },
};

static void read_options(int argc, char **argv)
{
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'p':
            plan.port = atoi(optarg);
            break;
        case 'c':
            plan.connections = atoi(optarg);
            break;
        case 's':
            plan.seconds = atof(optarg);
            break;
        case 'w':
            plan.warm_seconds = atof(optarg);
            break;
        case 'r':
            plan.rate = atof(optarg);
            break;
        case 'n':
            plan.pipeline = atoi(optarg);
            break;
        case 'f':
            plan.fresh = true;
            break;
        case 'q':
            plan.request = read_file(optarg, &plan.request_bytes);
            break;
        case 'b':
            plan.body_bytes = strtoull(optarg, NULL, 10);
            break;
        case 'e':
            plan.expected.body = read_file(optarg, &plan.expected.body_bytes);
            break;
        case 'l':
            plan.expected.endless = true;
            break;
        case 't':
            plan.expected.status = atoi(optarg);
            break;
        case 'o':
            plan.timeout = atof(optarg);
            break;
        default:
            exit(2);
        }
    }
    if (!plan.port || !plan.request || !plan.expected.body) {
        fprintf(stderr, "generator: --port, --request and --expect are needed\n");
        exit(2);
    }
    repeat_request();
}

int main(int argc, char **argv)
{
    char go[16];
    read_options(argc, argv);
    prctl(PR_SET_TIMERSLACK, 1UL);
    srand48(20090701);
    memset(block, 'x', sizeof(block));
    epoll_fd = epoll_create1(0);
    clients = calloc((size_t)plan.connections, sizeof(*clients));
    for (int i = 0; i < plan.connections; i++)
        clients[i].fd = -1;

    if (plan.expected.endless) {
        open_streams();
    } else {
        for (int i = 0; i < plan.connections; i++)
            client_idle(&clients[i]);
        phase(plan.warm_seconds);
    }
    printf("ready\n");
    fflush(stdout);
    if (read(STDIN_FILENO, go, sizeof(go)) < 0)
        fail("standard input");

    char warm_error[sizeof(tally.first_error)];
    memcpy(warm_error, tally.first_error, sizeof(warm_error));
    memset(&tally, 0, sizeof(tally));
    memcpy(tally.first_error, warm_error, sizeof(warm_error));
    open_loop = plan.rate > 0;
    int64_t begun = now();
    double cpu = cpu_seconds();
    if (plan.expected.endless)
        run_streams();
    else if (plan.seconds > 0)
        phase(plan.seconds);
    print_tally((double)(now() - begun) / 1e9, cpu_seconds() - cpu);
    return 0;
}
