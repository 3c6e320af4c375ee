/* The wire corpus (tests/wire) against the connection, in memory: each case whole, byte by byte, and in two pieces split at every
 * offset. The outcome must be that of the file, every time. */
#include "check.h"
#include "http_fixture.h"

#include <stdio.h>

#define MAX_LINES 16
#define SMALL 3000 /* up to here a case is sent byte by byte and split everywhere; larger ones are sampled */
#define SAMPLES 60

struct wire_case {
    char *name, *set, *status, *fate, *app;
    struct buf send;
    bool eof;
    struct buf saw;
    char *got[MAX_LINES];
    int got_count;
};

static int cases_run, runs;
static const char *current_file;

/* --- reading ------------------------------------------------------------------------------------------------------------------- */

static int hex(char c)
{
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

static const char *decode_escape(const char *p, struct buf *out)
{
    char c = p[1] == 'r' ? '\r' : p[1] == 'n' ? '\n' : p[1] == 't' ? '\t' : p[1];
    size_t used = 2;
    if (p[1] == 'x') {
        c = (char)(hex(p[2]) << 4 | hex(p[3]));
        used = 4;
    }
    buf_append(out, &c, 1);
    return p + used;
}

static void decode(const char *p, const char *end, struct buf *out)
{
    while (p < end) {
        const char *star;
        if (*p == '\\') {
            p = decode_escape(p, out);
        } else if (strncmp(p, "⏎", 3) == 0) {
            buf_append(out, "\r\n", 2);
            p += 3;
        } else if (*p == '{' && (star = strchr(p, '*')) != NULL) {
            for (long n = strtol(star + 1, NULL, 10); n > 0; n--)
                decode(p + 1, star, out);
            p = strchr(star, '}') + 1;
        } else {
            buf_append(out, p++, 1);
        }
    }
}

static void take_line(struct wire_case *c, const char *key, char *value)
{
    const char *end = value + strlen(value);
    if (strcmp(key, "case") == 0)
        c->name = strdup(value);
    else if (strcmp(key, "set") == 0)
        c->set = strdup(value);
    else if (strcmp(key, "send") == 0)
        decode(value, end, &c->send);
    else if (strcmp(key, "eof") == 0)
        c->eof = true;
    else if (strcmp(key, "status") == 0)
        c->status = strdup(value);
    else if (strcmp(key, "fate") == 0)
        c->fate = strdup(value);
    else if (strcmp(key, "app") == 0)
        c->app = strdup(value);
    else if (strcmp(key, "saw") == 0) {
        decode(value, end, &c->saw);
        buf_append(&c->saw, "\n", 1);
    } else if (strcmp(key, "got") == 0)
        c->got[c->got_count++] = strdup(value);
    else
        fprintf(stderr, "%s: unknown key %s\n", current_file, key), abort();
}

static void case_done(struct wire_case *c)
{
    free(c->name);
    free(c->set);
    free(c->status);
    free(c->fate);
    free(c->app);
    for (int i = 0; i < c->got_count; i++)
        free(c->got[i]);
    buf_done(&c->send);
    buf_done(&c->saw);
    memset(c, 0, sizeof(*c));
}

/* The next case of the file; false at its end. */
static bool read_case(FILE *file, struct wire_case *c)
{
    static char line[65536];
    while (fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = 0;
        if (line[0] == 0 && c->name)
            return true;
        char *colon = strchr(line, ':');
        if (line[0] == '#' || line[0] == 0)
            continue;
        *colon = 0;
        take_line(c, line, colon[1] == ' ' ? colon + 2 : colon + 1);
    }
    return c->name != NULL;
}

/* --- settings -------------------------------------------------------------------------------------------------------------------- */

static void set_one(struct settings *s, const char *name, long value)
{
#define ROW(row, field)                                                                                                \
    if (strcmp(name, #row) == 0)                                                                                       \
        s->field = value;
#define BOOL(row, ...) ROW(row, row)
#define INT(row, ...) ROW(row, row)
#define COUNT(row, ...) ROW(row, row)
#define BYTES(row, ...) ROW(row, row)
#define SECONDS(row, ...) ROW(row, row##_ms)
#define STRING(row, ...)
#define LIST(row, ...)
#define CHOICE(row, ...) ROW(row, row)
#include "config/settings.def"
}

static void apply_settings(const char *text)
{
    char name[64];
    long value;
    int used;
    for (; text && sscanf(text, " %63[a-z_]=%ld%n", name, &value, &used) == 2; text += used)
        set_one(&fx.settings, name, value);
}

/* --- judging ---------------------------------------------------------------------------------------------------------------------- */

/* The final statuses that came back, as "200 400", or "-"; follows the framing of the responses. */
static void read_statuses(char *text, size_t size)
{
    const char *p = fixture_got(), *end = p + buf_len(&fx.got);
    size_t n = 0;
    bool head_request = buf_len(&fx.got) && strncmp(fx.heads.data ? fx.heads.data : "", "HEAD", 4) == 0;
    text[0] = 0;
    while (p < end && strncmp(p, "HTTP/1.1 ", 9) == 0) {
        int status = atoi(p + 9);
        const char *blank = strstr(p, "\r\n\r\n"), *length = strstr(p, "content-length: ");
        if (blank == NULL)
            break;
        if (status >= 200)
            n += (size_t)snprintf(text + n, size - n, n ? " %d" : "%d", status);
        p = blank + 4;
        if (status >= 200 && length && length < blank && !head_request)
            p += atol(length + 16);
        head_request = false;
    }
    if (p != end)
        snprintf(text + n, size - n, " and %d stray bytes", (int)(end - p));
    else if (n == 0)
        snprintf(text, size, "-");
}

static bool one_of(const char *alternatives, const char *text)
{
    size_t len = strlen(text);
    for (const char *p = alternatives; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, text, len) == 0 && (p[len] == 0 || p[len] == '|'))
            return true;
    return false;
}

static bool app_is(const char *wanted)
{
    if (wanted == NULL || strcmp(wanted, "*") == 0)
        return true;
    if (strcmp(wanted, "never") == 0)
        return fx.requests == 0;
    if (strcmp(wanted, "part") == 0)
        return fx.complete == 0;
    return fx.complete == atoi(wanted) && fx.requests == fx.complete;
}

/* NULL, or what is wrong. */
static const char *judge(const struct wire_case *c)
{
    static char text[65536];
    read_statuses(text, sizeof(text));
    if (c->status && !one_of(c->status, text))
        return text;
    if (c->fate && strcmp(c->fate, "*") != 0 && fx.closed != (strcmp(c->fate, "close") == 0))
        return fx.closed ? "the connection was closed" : "the connection stayed open";
    if (!app_is(c->app))
        return "the application saw something else";
    if (buf_len(&c->saw) > 0 && !str_eq(buf_str(&c->saw), buf_str(&fx.heads)))
        return snprintf(text, sizeof(text), "the application saw %.*s", (int)buf_len(&fx.heads), fx.heads.data), text;
    for (int i = 0; i < c->got_count; i++)
        if (strstr(fixture_got(), c->got[i]) == NULL)
            return c->got[i];
    return NULL;
}

/* --- running ----------------------------------------------------------------------------------------------------------------------- */

/* Sends in pieces that end at `split`, or of `step` bytes when split is 0. */
static const char *run_pieces(const struct wire_case *c, size_t split, size_t step)
{
    struct str rest = buf_str(&c->send);
    fixture_connect();
    runs++;
    while (rest.len > 0) {
        size_t n = split && split < rest.len ? split : step < rest.len ? step : rest.len;
        fixture_send(rest.p, n);
        fixture_turn();
        fixture_turn();
        rest.p += n;
        rest.len -= n;
        split = 0;
    }
    if (c->eof)
        shutdown(fx.client, SHUT_WR);
    fixture_settle();
    return judge(c);
}

static bool report(const struct wire_case *c, const char *how, size_t at, const char *wrong)
{
    if (wrong == NULL)
        return true;
    fprintf(stderr, "%s: %s: sent %s %zu: %s\n", current_file, c->name, how, at, wrong);
    return false;
}

/* `prebuffer`: how much of a body the application waits for (ASGI: nothing, WSGI: some). */
static bool run_case(const struct wire_case *c, size_t prebuffer)
{
    size_t len = buf_len(&c->send), stride = len <= SMALL ? 1 : len / SAMPLES;
    fixture_init();
    fx.app.prebuffer_bytes = prebuffer;
    apply_settings(c->set);
    fixture_start();
    bool ok = report(c, "whole", 0, run_pieces(c, 0, SIZE_MAX)) &&
              report(c, "byte by byte", 0, run_pieces(c, 0, len <= SMALL ? 1 : len / 500));
    for (size_t at = 1; ok && at < len; at += stride)
        ok = report(c, "split at", at, run_pieces(c, at, SIZE_MAX));
    fixture_close();
    return ok;
}

static void run_file(const char *name)
{
    char path[4096];
    struct wire_case c = { 0 };
    int failed = 0;
    snprintf(path, sizeof(path), "%.*s/../wire/%s", (int)(strrchr(__FILE__, '/') - __FILE__), __FILE__, name);
    current_file = name;
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    while (read_case(file, &c)) {
        bool early = memmem(c.send.data, buf_len(&c.send), "/early", 6) != NULL; /* is about not waiting */
        failed += !run_case(&c, 0) || (!early && !run_case(&c, 65536));
        case_done(&c);
        cases_run++;
    }
    fclose(file);
    CHECK_INT(failed, 0);
}

static void policy(void)
{
    run_file("policy.wire");
}

static void attacks(void)
{
    run_file("attacks.wire");
}

static void limits(void)
{
    run_file("limits.wire");
    printf("%d cases, %d runs\n", cases_run, runs);
}

CHECK_MAIN(TEST(policy), TEST(attacks), TEST(limits))
