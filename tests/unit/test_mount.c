/* percent, and what mount.c finds with it: which part of a path is SCRIPT_NAME. */
#include "check.h"

#include <stdlib.h>

#include "server/base/percent.h"
#include "server/http/mount.h"

static bool decodes(const char *text, const char *expected)
{
    char to[64];
    return str_eq((struct str){ to, percent_decode(str_from(text), to) }, str_from(expected));
}

static void decodes_what_is_an_escape(void)
{
    CHECK(decodes("", ""));
    CHECK(decodes("/a%20b%2Fc%2f", "/a b/c/"));
    CHECK(decodes("%", "%"));
    CHECK(decodes("%4", "%4"));
    CHECK(decodes("%4g%g4%%41", "%4g%g4%A"));
    CHECK(decodes("%C3%a9", "\xc3\xa9"));
}

static void what_is_encoded_decodes_to_itself(void)
{
    char raw[256], encoded[3 * 256], again[3 * 256];
    for (int i = 0; i < 256; i++)
        raw[i] = (char)i;
    size_t len = percent_encode((struct str){ raw, 256 }, encoded);
    for (size_t i = 0; i < len; i++)
        CHECK(encoded[i] > 32 && encoded[i] < 127 && encoded[i] != '?' && encoded[i] != '#');
    CHECK(str_eq((struct str){ again, percent_decode((struct str){ encoded, len }, again) }, (struct str){ raw, 256 }));
}

static size_t matched(const char *path, const char *prefix)
{
    return mount_match(str_from(path), str_from(prefix));
}

static void a_prefix_ends_where_a_segment_does(void)
{
    CHECK_INT(matched("/shop/cart", "/shop"), 5);
    CHECK_INT(matched("/shop", "/shop"), 5);
    CHECK_INT(matched("/%73hop/cart", "/shop"), 7);
    CHECK_INT(matched("/a%20b/c", "/a b"), 6);
    CHECK_INT(matched("/shopping", "/shop"), 0);
    CHECK_INT(matched("/shop%2Fcart", "/shop"), 0);
    CHECK_INT(matched("/sho", "/shop"), 0);
    CHECK_INT(matched("", "/shop"), 0);
    CHECK_INT(matched("/Shop", "/shop"), 0);
    CHECK_INT(matched("/sho%7", "/sho%7"), 6); /* no escape */
}

CHECK_MAIN(TEST(decodes_what_is_an_escape), TEST(what_is_encoded_decodes_to_itself),
           TEST(a_prefix_ends_where_a_segment_does))
