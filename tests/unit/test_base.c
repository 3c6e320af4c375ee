/* buf, list, arena, clock. */
#include "check.h"

#include <stdlib.h>

#include "server/base/arena.h"
#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/base/list.h"

static void buf_keeps_order_over_growth_and_consumption(void)
{
    struct buf b = { 0 };
    unsigned char next_in = 0, next_out = 0;
    for (int round = 0; round < 2000; round++) {
        for (int i = 0; i < round % 37; i++, next_in++)
            buf_append(&b, &next_in, 1);
        size_t take = buf_len(&b) < (size_t)(round % 31) ? buf_len(&b) : (size_t)(round % 31);
        for (size_t i = 0; i < take; i++)
            CHECK_INT((unsigned char)b.data[b.start + i], next_out++);
        buf_consume(&b, take);
    }
    buf_done(&b);
}

static void buf_printf_appends(void)
{
    struct buf b = { 0 };
    buf_append(&b, "x", 1);
    buf_printf(&b, "=%d", 42);
    CHECK_BYTES(b.data, buf_len(&b), "x=42");
    buf_reset(&b, 0);
    CHECK(b.data == NULL);
}

struct item {
    int value;
    struct list node;
};

static void list_keeps_order_and_survives_removal(void)
{
    struct list head, other;
    struct item items[5];
    list_init(&head);
    list_init(&other);
    for (int i = 0; i < 5; i++) {
        items[i].value = i;
        list_append(i < 3 ? &head : &other, &items[i].node);
    }
    list_splice(&head, &other);
    CHECK(list_empty(&other));
    list_remove(&items[2].node);
    list_remove(&items[2].node); /* legal again */
    int expected[] = { 0, 1, 3, 4 }, n = 0;
    LIST_EACH(node, &head) {
        CHECK_INT(LIST_ENTRY(node, struct item, node)->value, expected[n++]);
        list_remove(node);
    }
    CHECK_INT(n, 4);
    CHECK(list_pop(&head) == NULL);
}

static void arena_gives_aligned_memory_and_keeps_its_first_block(void)
{
    struct arena a = { 0 };
    char *first = arena_alloc(&a, 10);
    for (int i = 1; i < 200; i++) {
        char *p = arena_alloc(&a, (size_t)i);
        CHECK_INT((size_t)p % 8, 0);
        memset(p, i, (size_t)i);
    }
    arena_alloc(&a, 100000);
    arena_reset(&a);
    CHECK(arena_alloc(&a, 10) == first);
    arena_done(&a);
}

static void arena_that_began_large_keeps_nothing(void)
{
    struct arena a = { 0 };
    arena_alloc(&a, 1 << 20);
    arena_reset(&a);
    CHECK(a.blocks == NULL);
    CHECK_BYTES(arena_copy(&a, STR("abc")).p, 3, "abc");
    arena_done(&a);
}

static void http_date_has_the_fixed_form(void)
{
    struct str date = clock_http_date();
    CHECK_INT(date.len, 29);
    CHECK(date.p[3] == ',' && memcmp(date.p + 25, " GMT", 4) == 0);
    struct tm t;
    CHECK(strptime(date.p, "%a, %d %b %Y %H:%M:%S GMT", &t) != NULL);
    time_t when = timegm(&t), now = time(NULL);
    CHECK(when <= now && now - when < 5);
}

CHECK_MAIN(TEST(buf_keeps_order_over_growth_and_consumption), TEST(buf_printf_appends),
           TEST(list_keeps_order_and_survives_removal), TEST(arena_gives_aligned_memory_and_keeps_its_first_block),
           TEST(arena_that_began_large_keeps_nothing), TEST(http_date_has_the_fixed_form))
