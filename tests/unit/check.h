/* check: what the C unit tests need of a framework: named tests in one program, a message at the first failure of each,
 * and a closing line "N passed, N failed". */
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int check_failures;
static bool check_failed_here;

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #condition);          \
            check_failed_here = true;                                                                        \
            return;                                                                                          \
        }                                                                                                    \
    } while (0)

#define CHECK_INT(actual, expected)                                                                          \
    do {                                                                                                     \
        long long check_a = (long long)(actual), check_e = (long long)(expected);                            \
        if (check_a != check_e) {                                                                            \
            fprintf(stderr, "%s:%d: %s: %s is %lld, not %lld\n", __FILE__, __LINE__, __func__, #actual, check_a, check_e); \
            check_failed_here = true;                                                                        \
            return;                                                                                          \
        }                                                                                                    \
    } while (0)

/* `actual`: pointer and length; `expected`: NUL-terminated. */
#define CHECK_BYTES(actual, length, expected)                                                                \
    do {                                                                                                     \
        const char *check_x = (expected);                                                                    \
        size_t check_n = (size_t)(length);                                                                   \
        if (check_n != strlen(check_x) || memcmp((actual), check_x, check_n) != 0) {                         \
            fprintf(stderr, "%s:%d: %s: %s is \"%.*s\", not \"%s\"\n", __FILE__, __LINE__, __func__, #actual, (int)check_n, (const char *)(actual), check_x); \
            check_failed_here = true;                                                                        \
            return;                                                                                          \
        }                                                                                                    \
    } while (0)

struct check_test {
    const char *name;
    void (*run)(void);
};

#define TEST(function) { #function, function }

static int check_run(const struct check_test *tests, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        check_failed_here = false;
        tests[i].run();
        printf("%s %s\n", check_failed_here ? "FAIL" : "ok  ", tests[i].name);
        check_failures += check_failed_here;
    }
    printf("%zu passed, %d failed\n", count - (size_t)check_failures, check_failures);
    return check_failures != 0;
}

#define CHECK_MAIN(...)                                                                                      \
    int main(void)                                                                                           \
    {                                                                                                        \
        static const struct check_test tests[] = { __VA_ARGS__ };                                            \
        return check_run(tests, sizeof(tests) / sizeof(tests[0]));                                           \
    }
