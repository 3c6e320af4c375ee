/* percent: see percent.h. */
#include "server/base/percent.h"

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20; /* lower case */
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t percent_decode_one(struct str text, char *c)
{
    if (text.len == 0)
        return 0;
    int high = *text.p == '%' && text.len > 2 ? hex_value(text.p[1]) : -1;
    int low = high >= 0 ? hex_value(text.p[2]) : -1;
    *c = low >= 0 ? (char)(high << 4 | low) : *text.p;
    return low >= 0 ? 3 : 1;
}

size_t percent_decode(struct str text, char *to)
{
    size_t n = 0;
    for (size_t at = 0; at < text.len; n++)
        at += percent_decode_one((struct str){ text.p + at, text.len - at }, &to[n]);
    return n;
}

static bool stands_for_itself(char c)
{
    return c > 32 && c < 127 && c != '%' && c != '?' && c != '#';
}

size_t percent_encode(struct str path, char *to)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t n = 0;
    for (size_t i = 0; i < path.len; i++) {
        unsigned char c = (unsigned char)path.p[i];
        if (stands_for_itself(path.p[i])) {
            to[n++] = path.p[i];
            continue;
        }
        to[n++] = '%';
        to[n++] = hex[c >> 4];
        to[n++] = hex[c & 15];
    }
    return n;
}
