/* Fuzzes the WebSocket codec with whatever a client may send. The outcome (frames, payloads, the error and where it lies) must not
 * depend on how the bytes were split; a text must be judged alike whole and in pieces. */
#include "server/base/buf.h"
#include "server/http/ws_frame.h"
#include "tests/fuzz/fuzz.h"

#define HEADER_BYTES 2
#define MAX_SIZE 1000

static void note_head(struct buf *log, const struct ws_reader *r)
{
    buf_printf(log, "[%d %d %d %llu]", r->opcode, r->fin, r->compressed, (unsigned long long)r->left);
    expect(r->message_len <= MAX_SIZE, "a message over the limit");
}

/* What the bytes mean, as text. */
static void read_all(const uint8_t *data, size_t size, size_t piece, bool deflate, struct buf *log)
{
    struct ws_reader r = { 0 };
    struct ws_error error = { 0 };
    char *copy = malloc(size + 1);
    memcpy(copy, data, size);
    for (size_t at = 0, end, used; at < size; at = end) {
        end = size - at < piece ? size : at + piece;
        while (at < end) {
            bool head = !r.in_payload;
            if (head) {
                enum ws_read result = ws_reader_head(&r, MAX_SIZE, deflate, copy + at, end - at, &used, &error);
                if (result == WS_READ_HEAD)
                    note_head(log, &r);
                if (result == WS_READ_ERROR) {
                    buf_printf(log, "error %d at %zu", error.code, at + used);
                    goto done;
                }
                at += used;
                if (result == WS_READ_MORE)
                    continue;
            } else {
                used = ws_reader_payload(&r, copy + at, end - at);
                buf_append(log, copy + at, used);
                at += used;
            }
            if (!r.in_payload && r.fin && !ws_is_control(r.opcode))
                ws_reader_message_done(&r);
        }
    }
done:
    free(copy);
}

static bool text_valid(const uint8_t *data, size_t size, size_t piece)
{
    struct ws_utf8 utf8 = { 0 };
    for (size_t at = 0; at < size; at += piece)
        if (!ws_utf8_add(&utf8, (const char *)data + at, size - at < piece ? size - at : piece))
            return false;
    return ws_utf8_complete(&utf8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole = { 0 }, pieces = { 0 };
    if (size <= HEADER_BYTES || size > FUZZ_INPUT_MAX)
        return 0;
    size_t piece = 1 + data[0] % 32;
    bool deflate = data[1] & 1;
    data += HEADER_BYTES;
    size -= HEADER_BYTES;
    read_all(data, size, size, deflate, &whole);
    read_all(data, size, piece, deflate, &pieces);
    expect(str_eq(buf_str(&whole), buf_str(&pieces)), "the split changes what was read");
    expect(text_valid(data, size, size) == text_valid(data, size, piece), "the split changes what is UTF-8");
    int code;
    struct str reason;
    if (ws_close_read((struct str){ (const char *)data, size }, &code, &reason).code == 0)
        expect(code == WS_CODE_NONE || ws_code_valid(code), "an invalid close code passed");
    buf_done(&whole);
    buf_done(&pieces);
    return 0;
}
