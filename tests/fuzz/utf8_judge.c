/* Judges texts by ws_frame.c's UTF-8 validator, for tests/test_websocket_utf8.py, which compares with CPython's decoder.
 *
 * Standard input: for each text a byte with its length, then its bytes. Standard output: for each '1' (valid), '0' (can never
 * become valid) or '+' (more bytes could make it valid); or 'X': it depends on how the text is split. */
#include <stdio.h>

#include "server/http/ws_frame.h"

static char judge(const char *text, size_t len, size_t split)
{
    struct ws_utf8 state = { 0 };
    if (!ws_utf8_add(&state, text, split) || !ws_utf8_add(&state, text + split, len - split))
        return '0';
    return ws_utf8_complete(&state) ? '1' : '+';
}

int main(void)
{
    char text[256];
    for (int len; (len = getchar()) != EOF;) {
        if (fread(text, 1, (size_t)len, stdin) != (size_t)len)
            return 1;
        char verdict = judge(text, (size_t)len, 0);
        for (size_t split = 1; split < (size_t)len; split++)
            if (judge(text, (size_t)len, split) != verdict)
                verdict = 'X';
        putchar(verdict);
    }
    return 0;
}
