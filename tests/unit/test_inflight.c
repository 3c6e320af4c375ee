/* The table of requests in flight: listed and taken out, full, read while it is written, left half-written. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/base/inflight.h"
#include "tests/unit/check.h"

static struct inflight_table *table;
static struct inflight inflight;

static void begin_test(void)
{
    table = aligned_alloc(4096, sizeof(*table));
    memset(table, 0, sizeof(*table));
    inflight_init(&inflight, table);
}

static void end_test(void)
{
    free(table);
}

static struct inflight_place list(const char *target)
{
    return inflight_begin(&inflight, STR("GET"), str_from(target), STR("192.0.2.1"), 4711, 5000000);
}

static uint32_t count_listed(void)
{
    struct inflight_view view;
    uint32_t count = 0;
    for (uint32_t i = 0; i < inflight_used(table); i++)
        count += inflight_read(table, i, &view);
    return count;
}

static void a_request_is_listed_until_its_end(void)
{
    struct inflight_view view;
    begin_test();
    CHECK_INT(inflight_used(table), 0);
    struct inflight_place place = list("/a?b=c");
    inflight_set_deadlines(place, 100, 200);
    inflight_set_thread(place);
    inflight_set_state(place, INFLIGHT_ANSWERED);
    CHECK_INT(inflight_used(table), 1);
    CHECK(inflight_read(table, 0, &view));
    CHECK_BYTES(view.line, strlen(view.line), "GET /a?b=c");
    CHECK_BYTES(view.client, strlen(view.client), "192.0.2.1");
    CHECK_INT(view.client_port, 4711);
    CHECK_INT(view.began_ns, 5000000);
    CHECK_INT(view.soft_ms, 100);
    CHECK_INT(view.hard_ms, 200);
    CHECK_INT(view.thread, getpid());
    CHECK_INT(view.state, INFLIGHT_ANSWERED);
    CHECK(!view.truncated);
    inflight_end(&inflight, place);
    CHECK(!inflight_read(table, 0, &view));
    inflight_end(&inflight, place); /* once more is harmless */
    CHECK_INT(count_listed(), 0);
    end_test();
}

static void a_cell_is_used_again_with_nothing_of_the_last(void)
{
    struct inflight_view view;
    begin_test();
    struct inflight_place first = list("/first"), second;
    inflight_set_deadlines(first, 1, 2);
    inflight_end(&inflight, first);
    second = list("/2");
    CHECK_INT(inflight_used(table), 1);
    inflight_set_deadlines(first, 3, 4); /* its request is over */
    CHECK(inflight_read(table, 0, &view));
    CHECK_BYTES(view.line, strlen(view.line), "GET /2");
    CHECK_INT(view.soft_ms, 0);
    CHECK_INT(view.hard_ms, 0);
    CHECK(view.id == second.id && view.id != first.id);
    end_test();
}

static void long_texts_are_cut(void)
{
    struct inflight_view view;
    struct str client = STR("/a/path/of/a/unix/socket/that/is/longer/than/any/address/is");
    char target[400];
    begin_test();
    memset(target, 'x', sizeof(target));
    inflight_begin(&inflight, STR("PROPFIND"), (struct str){ target, sizeof(target) }, client, -1, 1);
    CHECK(inflight_read(table, 0, &view));
    CHECK_INT(strlen(view.line), INFLIGHT_LINE_MAX);
    CHECK_INT(strlen(view.client), INFLIGHT_CLIENT_MAX);
    CHECK(view.truncated);
    end_test();
}

static void a_full_table_names_the_latest(void)
{
    struct inflight_view view;
    struct inflight_place places[INFLIGHT_CELLS + 2];
    char target[16];
    begin_test();
    for (int i = 0; i < INFLIGHT_CELLS + 2; i++) {
        snprintf(target, sizeof(target), "/%d", i);
        places[i] = list(target);
    }
    CHECK_INT(count_listed(), INFLIGHT_CELLS);
    CHECK_INT(atomic_load(&table->overflowed), 3);
    CHECK(inflight_read(table, INFLIGHT_CELLS - 1, &view));
    CHECK_BYTES(view.line, strlen(view.line), "GET /256");
    inflight_set_deadlines(places[INFLIGHT_CELLS], 1, 1); /* its cell is another's: nothing happens */
    inflight_end(&inflight, places[INFLIGHT_CELLS]);
    CHECK(inflight_read(table, INFLIGHT_CELLS - 1, &view));
    CHECK_INT(view.hard_ms, 0);
    for (int i = 0; i < INFLIGHT_CELLS + 2; i++)
        inflight_end(&inflight, places[i]);
    CHECK_INT(count_listed(), 0);
    list("/again");
    CHECK_INT(count_listed(), 1);
    end_test();
}

static void what_a_dead_writer_left_is_skipped_and_cleared(void)
{
    struct inflight_view view;
    begin_test();
    struct inflight_place place = list("/half");
    atomic_fetch_add(&place.cell->sequence, 1); /* it died while it wrote */
    CHECK(!inflight_read(table, 0, &view));
    inflight_clear(table);
    inflight_init(&inflight, table);
    list("/new");
    CHECK(inflight_read(table, 0, &view));
    CHECK_BYTES(view.line, strlen(view.line), "GET /new");
    end_test();
}

static atomic_bool reading_done;

/* All texts of one request are the same letter. */
static void *write_on(void *unused)
{
    char text[2][40];
    (void)unused;
    for (unsigned i = 0; !atomic_load(&reading_done); i++) {
        memset(text, 'a' + (int)(i % 26), sizeof(text));
        struct str word = { text[0], 1 + i % 39 };
        inflight_end(&inflight, inflight_begin(&inflight, word, word, word, (int)i, i));
    }
    return NULL;
}

static bool is_whole(const struct inflight_view *view)
{
    size_t len = strlen(view->client);
    return len > 0 && strspn(view->client, (char[]){ view->client[0], 0 }) == len &&
           strspn(view->line, (char[]){ view->client[0], ' ', 0 }) == strlen(view->line) &&
           view->began_ns == (uint64_t)view->client_port && view->began_ns % 26 == (uint64_t)(view->client[0] - 'a');
}

static void a_reader_sees_whole_requests_only(void)
{
    struct inflight_view view;
    pthread_t writer;
    int seen = 0, torn = 0;
    begin_test();
    CHECK_INT(pthread_create(&writer, NULL, write_on, NULL), 0);
    while (seen < 20000)
        if (inflight_used(table) > 0 && inflight_read(table, 0, &view)) {
            seen++;
            torn += !is_whole(&view);
        }
    atomic_store(&reading_done, true);
    pthread_join(writer, NULL);
    CHECK_INT(torn, 0);
    end_test();
}

static void lengths_are_not_believed(void)
{
    struct inflight_view view;
    begin_test();
    struct inflight_place place = list("/");
    place.cell->line_len = place.cell->client_len = 255;
    atomic_store(&table->used, 1000000);
    CHECK_INT(inflight_used(table), INFLIGHT_CELLS);
    CHECK(inflight_read(table, 0, &view));
    CHECK(strlen(view.line) <= INFLIGHT_LINE_MAX);
    end_test();
}

CHECK_MAIN(TEST(a_request_is_listed_until_its_end), TEST(a_cell_is_used_again_with_nothing_of_the_last),
           TEST(long_texts_are_cut), TEST(a_full_table_names_the_latest),
           TEST(what_a_dead_writer_left_is_skipped_and_cleared), TEST(a_reader_sees_whole_requests_only),
           TEST(lengths_are_not_believed))
