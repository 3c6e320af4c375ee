/* ws_deflate: see ws_deflate.h. The streams are shared by all connections of the process: one thread runs the loop. */
#include "server/http/ws_deflate.h"

#include <stdlib.h>

#include "server/base/mem.h"
#include "server/base/zlib.h"
#include "server/http/headers.h"
#include "server/http/request.h"

#define BITS_MAX 13 /* of our window; a larger one needs more memory than it saves bytes */
#define BITS_MIN 9  /* zlib cannot compress with 8 */
#define MEMORY_LEVEL 6
#define LEVEL 3
#define STEP_BYTES 4096 /* by which decompressed data grows at least */
#define POOL_STREAMS 8

struct ws_deflate {
    z_stream *inflating; /* while a message is incomplete */
    int bits;            /* of our window */
    bool bits_asked;     /* the client limits our window */
};

static const struct zlib *zlib; /* set by the first agreement */
static z_stream *deflaters[BITS_MAX + 1];
static z_stream *pool[POOL_STREAMS];
static size_t pool_count;

/* --- what the client offers ------------------------------------------------------------------------------------- */

struct offer {
    bool server_reset, client_reset, client_bits, server_bits;
    int bits;
};

static struct str take_until(struct str *rest, char separator)
{
    const char *mark = rest->len > 0 ? memchr(rest->p, separator, rest->len) : NULL;
    size_t len = mark ? (size_t)(mark - rest->p) : rest->len;
    struct str part = { rest->p, len };
    size_t used = mark ? len + 1 : len;
    *rest = (struct str){ rest->p + used, rest->len - used };
    return headers_trim(part);
}

/* 8 to 15, perhaps in quotation marks; else 0. */
static int window_bits(struct str value)
{
    if (value.len >= 2 && value.p[0] == '"' && value.p[value.len - 1] == '"')
        value = (struct str){ value.p + 1, value.len - 2 };
    int64_t bits = value.len > 0 && value.p[0] != '0' ? headers_number(value) : 0;
    return bits >= 8 && bits <= 15 ? (int)bits : 0;
}

static bool once(bool *seen)
{
    bool first = !*seen;
    *seen = true;
    return first;
}

/* False: the parameter is unknown, wrong or there twice, so the offer must be declined (RFC 7692 7.1). */
static bool take_parameter(struct offer *offer, struct str parameter)
{
    bool valued = parameter.len > 0 && memchr(parameter.p, '=', parameter.len) != NULL;
    struct str value = parameter, name = take_until(&value, '=');
    value = headers_trim(value);
    if (str_eq(name, STR("server_no_context_takeover")))
        return !valued && once(&offer->server_reset);
    if (str_eq(name, STR("client_no_context_takeover")))
        return !valued && once(&offer->client_reset);
    if (str_eq(name, STR("client_max_window_bits")))
        return (!valued || window_bits(value)) && once(&offer->client_bits);
    if (str_eq(name, STR("server_max_window_bits"))) {
        offer->bits = window_bits(value);
        return offer->bits >= BITS_MIN && once(&offer->server_bits);
    }
    return false;
}

static bool take_offer(struct str text, struct offer *offer)
{
    *offer = (struct offer){ 0 };
    if (!str_eq(take_until(&text, ';'), STR("permessage-deflate")))
        return false;
    while (text.len > 0)
        if (!take_parameter(offer, take_until(&text, ';')))
            return false;
    return true;
}

static struct ws_deflate *agreed(const struct offer *offer)
{
    struct ws_deflate *d = mem_zalloc(sizeof(*d));
    d->bits_asked = offer->server_bits;
    d->bits = offer->server_bits && offer->bits < BITS_MAX ? offer->bits : BITS_MAX;
    return d;
}

struct ws_deflate *ws_deflate_agree(const struct request *r)
{
    zlib = zlib_get();
    if (zlib == NULL)
        return NULL;
    for (size_t i = 0; i < r->field_count; i++) {
        struct str rest = r->fields[i].value, text;
        if (!str_eq(r->fields[i].name, STR("sec-websocket-extensions")))
            continue;
        struct offer offer;
        while (headers_list_next(&rest, &text))
            if (take_offer(text, &offer))
                return agreed(&offer);
    }
    return NULL;
}

void ws_deflate_put_answer(const struct ws_deflate *d, struct buf *head)
{
    if (d == NULL)
        return;
    buf_append_str(head, STR("sec-websocket-extensions: permessage-deflate; server_no_context_takeover; "
                             "client_no_context_takeover"));
    if (d->bits_asked)
        buf_printf(head, "; server_max_window_bits=%d", d->bits);
    buf_append_str(head, STR("\r\n"));
}

/* --- compressing ------------------------------------------------------------------------------------------------ */

static z_stream *deflater(int bits)
{
    z_stream *z = deflaters[bits];
    if (z != NULL) {
        zlib->deflate_reset(z);
        return z;
    }
    z = mem_zalloc(sizeof(*z));
    if (zlib->deflate_init(z, LEVEL, Z_DEFLATED, -bits, MEMORY_LEVEL, Z_DEFAULT_STRATEGY, ZLIB_VERSION, sizeof(*z)) !=
        Z_OK) {
        free(z);
        return NULL;
    }
    return deflaters[bits] = z;
}

bool ws_deflate(struct ws_deflate *d, struct str data, struct buf *out)
{
    z_stream *z = deflater(d->bits);
    if (z == NULL || data.len > UINT32_MAX)
        return false;
    z->next_in = (Bytef *)data.p;
    z->avail_in = (uInt)data.len;
    z->next_out = (Bytef *)buf_reserve(out, data.len); /* more is of no use */
    z->avail_out = (uInt)data.len;
    if (zlib->deflate(z, Z_SYNC_FLUSH) != Z_OK || z->avail_in > 0 || z->avail_out == 0)
        return false;
    buf_commit(out, data.len - z->avail_out - 4); /* without the 00 00 FF FF that all flushes end with */
    return true;
}

/* --- decompressing ---------------------------------------------------------------------------------------------- */

static z_stream *inflater_take(void)
{
    if (pool_count > 0) {
        z_stream *pooled = pool[--pool_count];
        zlib->inflate_reset(pooled);
        return pooled;
    }
    z_stream *z = mem_zalloc(sizeof(*z));
    if (zlib->inflate_init(z, -15, ZLIB_VERSION, sizeof(*z)) == Z_OK)
        return z;
    free(z);
    return NULL;
}

static void inflater_give(z_stream *z)
{
    if (z == NULL)
        return;
    if (pool_count < POOL_STREAMS) {
        pool[pool_count++] = z;
        return;
    }
    zlib->inflate_end(z);
    free(z);
}

void ws_deflate_free(struct ws_deflate *d)
{
    if (d == NULL)
        return;
    inflater_give(d->inflating);
    free(d);
}

/* One call of inflate(). 0: more output waits or more input is needed. */
static struct ws_error inflate_some(z_stream *z, size_t *room, struct buf *out)
{
    size_t step = *room + 1 < STEP_BYTES ? *room + 1 : STEP_BYTES; /* one over the limit shows that it is passed */
    z->next_out = (Bytef *)buf_reserve(out, step);
    z->avail_out = (uInt)step;
    int result = zlib->inflate(z, Z_SYNC_FLUSH);
    size_t n = step - z->avail_out;
    if (result == Z_STREAM_END) /* a last block; RFC 7692 7.2.3.4 lets another follow */
        result = zlib->inflate_reset(z);
    if (result != Z_OK && result != Z_BUF_ERROR)
        return (struct ws_error){ WS_CODE_INVALID_DATA, "a compressed message was malformed" };
    if (n > *room)
        return (struct ws_error){ WS_CODE_TOO_BIG, "the message is longer than ws_max_size" };
    buf_commit(out, n);
    *room -= n;
    return (struct ws_error){ 0 };
}

static struct ws_error inflate_all(z_stream *z, struct str part, size_t *room, struct buf *out)
{
    struct ws_error error = { 0 };
    z->next_in = (Bytef *)part.p;
    z->avail_in = (uInt)part.len;
    do
        error = inflate_some(z, room, out);
    while (error.code == 0 && (z->avail_in > 0 || z->avail_out == 0));
    return error;
}

struct ws_error ws_inflate(struct ws_deflate *d, struct str part, bool end, size_t room, struct buf *out)
{
    if (d->inflating == NULL && (d->inflating = inflater_take()) == NULL)
        return (struct ws_error){ WS_CODE_INTERNAL_ERROR, "no memory to decompress with" };
    struct ws_error error = inflate_all(d->inflating, part, &room, out);
    if (error.code == 0 && end)
        error = inflate_all(d->inflating, STR("\x00\x00\xff\xff"), &room, out);
    if (error.code != 0 || end) {
        inflater_give(d->inflating);
        d->inflating = NULL;
    }
    return error;
}
