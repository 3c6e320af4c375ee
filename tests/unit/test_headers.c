/* The grammar: byte classes, values, lists, authorities, numbers. */
#include "check.h"

#include "server/http/headers.h"

static void classes(void)
{
    for (int c = 0; c < 256; c++) {
        bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        CHECK_INT(char_is((char)c, CHAR_TOKEN) != 0, alnum || (c && c < 128 && strchr("!#$%&'*+-.^_`|~", c) != NULL));
        CHECK_INT(char_is((char)c, CHAR_VALUE) != 0, c == 9 || (c >= 32 && c != 127));
        CHECK_INT(char_is((char)c, CHAR_TARGET) != 0, c > 32 && c < 127 && c != '#');
    }
}

static void values_byte_by_byte_and_eight_at_a_time(void)
{
    for (int c = 0; c < 256; c++)
        for (size_t len = 1; len < 20; len++)
            for (size_t at = 0; at < len; at++) {
                char text[20];
                memset(text, 'x', sizeof(text));
                text[at] = (char)c;
                CHECK_INT(headers_value_valid((struct str){ text, len }), c == 9 || (c >= 32 && c != 127));
            }
}

static void lower_case_and_underscores(void)
{
    for (int c = 0; c < 256; c++)
        for (size_t at = 0; at < 19; at++) {
            char text[19];
            memset(text, '-', sizeof(text));
            text[at] = (char)c;
            CHECK_INT(headers_lower(text, sizeof(text)), c == '_');
            CHECK_INT((unsigned char)text[at], c >= 'A' && c <= 'Z' ? c + 32 : c);
            CHECK_INT(text[at ? 0 : 18], '-');
        }
}

static void lists(void)
{
    struct str rest = STR(" a , ,b\t,, c"), element;
    CHECK(headers_list_next(&rest, &element));
    CHECK_BYTES(element.p, element.len, "a");
    CHECK(headers_list_next(&rest, &element));
    CHECK_BYTES(element.p, element.len, "b");
    CHECK(headers_list_next(&rest, &element));
    CHECK_BYTES(element.p, element.len, "c");
    CHECK(!headers_list_next(&rest, &element));
    CHECK(headers_list_has(STR("keep-alive, Upgrade"), STR("upgrade")));
    CHECK(!headers_list_has(STR("notupgrade"), STR("upgrade")));
}

static void authorities(void)
{
    static const char *const good[] = { "a",           "a:80",    "a:",   "127.0.0.1:1", "[::1]",
                                        "[::1]:65535", "a_b.c-d", "%41b", "a:0" };
    static const char *const bad[] = { "",         ":",      ":80",    "a:b",     "a:65536", "a:99999999999",
                                       "a@b",      "a/b",    "[::1",   "[]",      "[g]",     "a b",
                                       "%4",       "%zz",    "[::1]x", "a:80:90", "a?b",     "a#b",
                                       "\xc3\xa4", "[::1]:x" };
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        CHECK(headers_host_valid(str_from(good[i])));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        CHECK(!headers_host_valid(str_from(bad[i])));
    CHECK(headers_same_host(STR("A:80"), STR("a")));
    CHECK(!headers_same_host(STR("a:81"), STR("a")));
}

static void numbers(void)
{
    char text[20];
    CHECK_INT(headers_number(STR("0")), 0);
    CHECK_INT(headers_number(STR("0012")), 12);
    CHECK_INT(headers_number(STR("9223372036854775807")), INT64_MAX);
    CHECK_INT(headers_number(STR("9223372036854775808")), -1);
    CHECK_INT(headers_number(STR("")), -1);
    CHECK_INT(headers_number(STR("+1")), -1);
    CHECK_INT(headers_number(STR("1 ")), -1);
    CHECK_BYTES(text, headers_put_number(text, 0), "0");
    CHECK_BYTES(text, headers_put_number(text, 1234567890), "1234567890");
    CHECK_BYTES(text, headers_put_number(text, UINT64_MAX), "18446744073709551615");
}

CHECK_MAIN(TEST(classes), TEST(values_byte_by_byte_and_eight_at_a_time), TEST(lower_case_and_underscores), TEST(lists),
           TEST(authorities), TEST(numbers))
