/* ws_deflate: see ws_deflate.h. From the bottom up: pools of streams; compressing; the client's window at rest; decompressing.
 * The pools are the process's: one thread runs the loop. */
#include "server/http/ws_deflate.h"

#include <stdlib.h>

#include "config/settings.h"
#include "server/base/mem.h"
#include "server/base/zlib.h"
#include "server/http/ws_deflate_offer.h"

#define LEVEL 3
#define STEP_BYTES 4096                /* by which decompressed data grows at least */
#define RATIO_FREE_BYTES (1024 * 1024) /* a message may expand to that much at any ratio */
#define WINDOW_MAX_BYTES (32 * 1024)
#define POOL_STREAMS 8

struct ws_deflate {
    const struct settings *settings;
    z_stream *deflating, *inflating;
    char *window;                       /* at rest: the client's; NULL: empty */
    uint32_t window_len, window_stored; /* its bytes; as stored, fewer if it is compressed */
    uint64_t in_bytes, out_bytes;       /* of the message that is being received */
    bool in_ended;                      /* what came of it has ended with a block that says it is the last */
    struct ws_deflate_terms terms;
};

struct pool {
    z_stream *streams[POOL_STREAMS];
    int count;
};

static const struct zlib *zlib; /* set by the first agreement */
static struct pool deflaters[WS_WINDOW_BITS_MAX + 1], inflaters;

/* --- pools ------------------------------------------------------------------------------------------------------ */

static z_stream *pool_take(struct pool *pool)
{
    return pool->count > 0 ? pool->streams[--pool->count] : NULL;
}

static void pool_give(struct pool *pool, z_stream *z, int (*end)(z_stream *z))
{
    if (pool->count < POOL_STREAMS) {
        pool->streams[pool->count++] = z;
        return;
    }
    end(z);
    free(z);
}

/* NULL: no memory. */
static z_stream *deflater_take(int bits)
{
    z_stream *z = pool_take(&deflaters[bits]);
    if (z != NULL) {
        zlib->deflate_reset(z);
        return z;
    }
    z = mem_zalloc(sizeof(*z));
    int memory_level = bits - 7; /* hash tables as large as the window */
    if (zlib->deflate_init(z, LEVEL, Z_DEFLATED, -bits, memory_level, Z_DEFAULT_STRATEGY, ZLIB_VERSION, sizeof(*z)) ==
        Z_OK)
        return z;
    free(z);
    return NULL;
}

static void deflater_give(z_stream *z, int bits)
{
    pool_give(&deflaters[bits], z, zlib->deflate_end);
}

static z_stream *inflater_take(int bits)
{
    z_stream *z = pool_take(&inflaters);
    if (z != NULL) {
        zlib->inflate_reset2(z, -bits); /* cannot fail; makes a new window if this one is of another size */
        return z;
    }
    z = mem_zalloc(sizeof(*z));
    if (zlib->inflate_init(z, -bits, ZLIB_VERSION, sizeof(*z)) == Z_OK)
        return z;
    free(z);
    return NULL;
}

static void inflater_give(z_stream *z)
{
    pool_give(&inflaters, z, zlib->inflate_end);
}

/* --- compressing ------------------------------------------------------------------------------------------------ */

/* One call of deflate() into at most `room` bytes; returns how many it made, 0 if they did not suffice. */
static size_t deflate_all(z_stream *z, struct str data, int flush, char *to, size_t room)
{
    z->next_in = (Bytef *)data.p;
    z->avail_in = (uInt)data.len;
    z->next_out = (Bytef *)to;
    z->avail_out = (uInt)room;
    int result = zlib->deflate(z, flush);
    if ((result != Z_OK && result != Z_STREAM_END) || z->avail_in > 0 || z->avail_out == 0)
        return 0;
    return room - z->avail_out;
}

bool ws_deflate(struct ws_deflate *d, struct str data, struct buf *out)
{
    int bits = d->terms.out_bits;
    if (data.len < (size_t)d->settings->ws_deflate_min_size || data.len > UINT32_MAX ||
        (d->deflating == NULL && (d->deflating = deflater_take(bits)) == NULL))
        return false;
    size_t n = deflate_all(d->deflating, data, Z_SYNC_FLUSH, buf_reserve(out, data.len), data.len);
    bool shorter = n > 4;
    if (shorter)
        buf_commit(out, n - 4);               /* without the 00 00 FF FF that all flushes end with */
    if (!shorter || !d->terms.out_takeover) { /* what was not sent must not be referred to */
        deflater_give(d->deflating, bits);
        d->deflating = NULL;
    }
    return shorter;
}

/* --- the client's window at rest -------------------------------------------------------------------------------- */

static char scratch[WINDOW_MAX_BYTES], packed[WINDOW_MAX_BYTES];

/* Packs the `len` bytes of scratch; returns the packed length, or `len`: it is not worth it. */
static size_t pack_window(size_t len)
{
    z_stream *z = deflater_take(WS_WINDOW_BITS_MAX);
    if (z == NULL)
        return len;
    size_t n = deflate_all(z, (struct str){ scratch, len }, Z_FINISH, packed, len);
    deflater_give(z, WS_WINDOW_BITS_MAX);
    return n > 0 && n < len - len / 8 ? n : len;
}

static void window_store(struct ws_deflate *d)
{
    uInt len = 0;
    zlib->inflate_get_dictionary(d->inflating, (Bytef *)scratch, &len);
    if (len == 0)
        return;
    d->window_len = len;
    d->window_stored = (uint32_t)pack_window(len);
    d->window = mem_alloc(d->window_stored);
    memcpy(d->window, d->window_stored < len ? packed : scratch, d->window_stored);
}

/* Into scratch. */
static bool window_unpack(const struct ws_deflate *d)
{
    z_stream *z = inflater_take(WS_WINDOW_BITS_MAX);
    if (z == NULL)
        return false;
    z->next_in = (Bytef *)d->window;
    z->avail_in = d->window_stored;
    z->next_out = (Bytef *)scratch;
    z->avail_out = d->window_len;
    int result = zlib->inflate(z, Z_FINISH);
    inflater_give(z);
    return result == Z_STREAM_END;
}

static bool window_restore(struct ws_deflate *d, z_stream *z)
{
    const char *bytes = d->window;
    if (d->window == NULL)
        return true;
    if (d->window_stored < d->window_len) {
        if (!window_unpack(d))
            return false;
        bytes = scratch;
    }
    zlib->inflate_set_dictionary(z, (const Bytef *)bytes, d->window_len);
    free(d->window);
    d->window = NULL;
    return true;
}

/* --- decompressing ---------------------------------------------------------------------------------------------- */

/* How much more the message may expand to. */
static size_t room_left(const struct ws_deflate *d)
{
    uint64_t limit = (uint64_t)d->settings->ws_max_size, ratio = (uint64_t)d->settings->ws_deflate_max_ratio;
    uint64_t by_ratio = d->in_bytes * ratio < RATIO_FREE_BYTES ? RATIO_FREE_BYTES : d->in_bytes * ratio;
    if (ratio > 0 && by_ratio < limit)
        limit = by_ratio;
    return (size_t)(limit - d->out_bytes);
}

static struct ws_error too_much(const struct ws_deflate *d)
{
    bool by_size = d->out_bytes + room_left(d) == (uint64_t)d->settings->ws_max_size;
    return (struct ws_error){ WS_CODE_TOO_BIG, by_size ? "the message is longer than ws_max_size"
                                                       : "the message expands by more than ws_deflate_max_ratio" };
}

static const struct ws_error malformed = { WS_CODE_INVALID_DATA, "a compressed message was malformed" };

/* One call of inflate(). Code 0: more output waits or more input is needed. */
static struct ws_error inflate_some(struct ws_deflate *d, struct buf *out)
{
    z_stream *z = d->inflating;
    size_t room = room_left(d);
    size_t step = room + 1 < STEP_BYTES ? room + 1 : STEP_BYTES; /* one over the limit shows that it is passed */
    z->next_out = (Bytef *)buf_reserve(out, step);
    z->avail_out = (uInt)step;
    uInt before = z->avail_in;
    int result = zlib->inflate(z, Z_SYNC_FLUSH);
    size_t n = step - z->avail_out;
    if (result == Z_STREAM_END || z->avail_in < before)
        d->in_ended = result == Z_STREAM_END;
    if (result == Z_STREAM_END) /* RFC 7692 7.2.3.4 lets others follow, which may refer to those before */
        result = zlib->inflate_reset_keep(z);
    if (result != Z_OK && result != Z_BUF_ERROR)
        return malformed;
    if (n > room)
        return too_much(d);
    buf_commit(out, n);
    d->out_bytes += n;
    return (struct ws_error){ 0 };
}

static struct ws_error inflate_all(struct ws_deflate *d, struct str part, struct buf *out)
{
    struct ws_error error = { 0 };
    d->inflating->next_in = (Bytef *)part.p;
    d->inflating->avail_in = (uInt)part.len;
    do
        error = inflate_some(d, out);
    while (error.code == 0 && (d->inflating->avail_in > 0 || d->inflating->avail_out == 0));
    return error;
}

/* The message is complete: with the bytes that senders leave out it must end where a block does. */
static struct ws_error inflate_end(struct ws_deflate *d, struct buf *out)
{
    if (d->in_ended)
        return (struct ws_error){ 0 };
    struct ws_error error = inflate_all(d, STR("\x00\x00\xff\xff"), out);
    bool between_blocks = d->inflating->data_type & 128;
    return error.code == 0 && !between_blocks ? malformed : error;
}

static void drop_inflater(struct ws_deflate *d)
{
    if (d->inflating != NULL)
        inflater_give(d->inflating);
    d->inflating = NULL;
}

static bool need_inflater(struct ws_deflate *d)
{
    if (d->inflating != NULL)
        return true;
    int bits = d->terms.in_bits < WS_WINDOW_BITS_MIN ? WS_WINDOW_BITS_MIN : d->terms.in_bits;
    z_stream *z = inflater_take(bits);
    if (z == NULL)
        return false;
    d->inflating = z;
    return window_restore(d, z);
}

struct ws_error ws_inflate(struct ws_deflate *d, struct str part, bool end, struct buf *out)
{
    if (!need_inflater(d))
        return (struct ws_error){ WS_CODE_INTERNAL_ERROR, "no memory to decompress with" };
    d->in_bytes += part.len;
    struct ws_error error = inflate_all(d, part, out);
    if (error.code == 0 && end)
        error = inflate_end(d, out);
    if (end) {
        d->in_bytes = d->out_bytes = 0;
        d->in_ended = false;
    }
    if (error.code != 0 || (end && !d->terms.in_takeover))
        drop_inflater(d);
    return error;
}

/* --- rest, and life --------------------------------------------------------------------------------------------- */

bool ws_deflate_is_warm(const struct ws_deflate *d)
{
    return d->deflating != NULL || (d->inflating != NULL && d->in_bytes == 0);
}

void ws_deflate_rest(struct ws_deflate *d)
{
    if (d->deflating != NULL)
        deflater_give(d->deflating, d->terms.out_bits);
    d->deflating = NULL;
    if (d->inflating == NULL || d->in_bytes > 0)
        return;
    window_store(d);
    drop_inflater(d);
}

struct ws_deflate *ws_deflate_agree(const struct request *r, const struct settings *settings)
{
    struct ws_deflate_terms terms;
    zlib = zlib_get();
    if (zlib == NULL || !ws_deflate_offer_agree(r, settings, &terms))
        return NULL;
    struct ws_deflate *d = mem_zalloc(sizeof(*d));
    d->settings = settings;
    d->terms = terms;
    return d;
}

void ws_deflate_put_answer(const struct ws_deflate *d, struct buf *head)
{
    if (d != NULL)
        ws_deflate_terms_put(&d->terms, head);
}

void ws_deflate_free(struct ws_deflate *d)
{
    if (d == NULL)
        return;
    if (d->deflating != NULL)
        deflater_give(d->deflating, d->terms.out_bits);
    drop_inflater(d);
    free(d->window);
    free(d);
}
