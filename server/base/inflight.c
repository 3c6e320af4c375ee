/* inflight: see inflight.h. */
#include "server/base/inflight.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/base/mem.h"

#define READ_TRIES 8
#define SHARED (INFLIGHT_CELLS - 1) /* the last cell */

_Static_assert(sizeof(struct inflight_cell) == 256, "cells are whole cache lines");
_Static_assert(sizeof(struct inflight_table) == 65536, "tables are whole pages");

void inflight_init(struct inflight *inflight, struct inflight_table *table)
{
    inflight->table = table;
    inflight->last_id = 0;
    inflight->free_count = SHARED;
    for (uint32_t i = 0; i < SHARED; i++)
        inflight->free[i] = (uint8_t)(SHARED - 1 - i); /* the first one on top */
}

/* --- writing -------------------------------------------------------------------------------------------------------- */

/* What a reader copies between the two is thrown away. */
static void write_begin(struct inflight_cell *cell)
{
    uint64_t sequence = atomic_load_explicit(&cell->sequence, memory_order_relaxed);
    atomic_store_explicit(&cell->sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

static void write_end(struct inflight_cell *cell)
{
    uint64_t sequence = atomic_load_explicit(&cell->sequence, memory_order_relaxed);
    atomic_store_explicit(&cell->sequence, sequence + 1, memory_order_release);
}

static uint32_t take_cell(struct inflight *inflight)
{
    struct inflight_table *table = inflight->table;
    uint32_t index = SHARED;
    if (inflight->free_count > 0)
        index = inflight->free[--inflight->free_count];
    else
        atomic_fetch_add_explicit(&table->overflowed, 1, memory_order_relaxed);
    if (index >= atomic_load_explicit(&table->used, memory_order_relaxed))
        atomic_store_explicit(&table->used, index + 1, memory_order_release);
    return index;
}

static size_t at_most(size_t len, size_t limit)
{
    return len < limit ? len : limit;
}

static void copy_word(char *to, const char *from)
{
    uint64_t word;
    memcpy(&word, from, sizeof(word));
    memcpy(to, &word, sizeof(word));
}

/* For the few bytes that these texts have, a quarter of what the compiler's `rep movs` for a memcpy() costs. */
static void copy_text(char *to, const char *from, size_t len)
{
    if (len < 8) {
        for (size_t i = 0; i < len; i++)
            to[i] = from[i];
        return;
    }
    for (size_t i = 0; i < len - 8; i += 8)
        copy_word(to + i, from + i);
    copy_word(to + len - 8, from + len - 8);
}

static void put_line(struct inflight_cell *cell, struct str method, struct str target)
{
    size_t method_len = at_most(method.len, 32), room = INFLIGHT_LINE_MAX - method_len - 1;
    size_t target_len = at_most(target.len, room);
    copy_text(cell->line, method.p, method_len);
    cell->line[method_len] = ' ';
    copy_text(cell->line + method_len + 1, target.p, target_len);
    cell->line_len = (uint8_t)(method_len + 1 + target_len);
    cell->truncated = target_len < target.len || method_len < method.len;
}

struct inflight_place inflight_begin(struct inflight *inflight, struct str method, struct str target, struct str client,
                                     int client_port, uint64_t began_ns)
{
    struct inflight_cell *cell = &inflight->table->cells[take_cell(inflight)];
    write_begin(cell);
    cell->id = ++inflight->last_id;
    cell->began_ns = began_ns;
    atomic_store_explicit(&cell->soft_ms, 0, memory_order_relaxed);
    atomic_store_explicit(&cell->hard_ms, 0, memory_order_relaxed);
    atomic_store_explicit(&cell->state, INFLIGHT_SERVING, memory_order_relaxed);
    atomic_store_explicit(&cell->thread, 0, memory_order_relaxed);
    atomic_store_explicit(&cell->thread_ident, 0, memory_order_relaxed);
    cell->client_port = client_port;
    cell->client_len = (uint8_t)at_most(client.len, INFLIGHT_CLIENT_MAX);
    copy_text(cell->client, client.p, cell->client_len);
    put_line(cell, method, target);
    write_end(cell);
    return (struct inflight_place){ cell, cell->id };
}

/* The shared cell may be another's by now. */
static bool is_listed(struct inflight_place place)
{
    return place.cell && place.cell->id == place.id;
}

void inflight_end(struct inflight *inflight, struct inflight_place place)
{
    if (!is_listed(place))
        return;
    write_begin(place.cell);
    place.cell->id = 0;
    write_end(place.cell);
    uint32_t index = (uint32_t)(place.cell - inflight->table->cells);
    if (index != SHARED)
        inflight->free[inflight->free_count++] = (uint8_t)index;
}

void inflight_set_state(struct inflight_place place, enum inflight_state state)
{
    if (is_listed(place))
        atomic_store_explicit(&place.cell->state, state, memory_order_relaxed);
}

void inflight_set_thread(struct inflight_place place)
{
    static _Thread_local int32_t thread; /* asking the kernel for it each time would cost more than all the rest */
    if (thread == 0)
        thread = (int32_t)gettid();
    if (!is_listed(place))
        return;
    atomic_store_explicit(&place.cell->thread, thread, memory_order_relaxed);
    atomic_store_explicit(&place.cell->thread_ident, (uint64_t)pthread_self(), memory_order_relaxed);
}

void inflight_set_deadlines(struct inflight_place place, uint64_t soft_ms, uint64_t hard_ms)
{
    if (!is_listed(place))
        return;
    atomic_store_explicit(&place.cell->soft_ms, soft_ms, memory_order_relaxed);
    atomic_store_explicit(&place.cell->hard_ms, hard_ms, memory_order_relaxed);
}

/* --- reading -------------------------------------------------------------------------------------------------------- */

/* The lengths are another process' word: never believed. */
static void copy(const struct inflight_cell *cell, struct inflight_view *view)
{
    size_t client_len = at_most(cell->client_len, INFLIGHT_CLIENT_MAX);
    size_t line_len = at_most(cell->line_len, INFLIGHT_LINE_MAX);
    view->id = cell->id;
    view->began_ns = cell->began_ns;
    view->soft_ms = atomic_load_explicit(&cell->soft_ms, memory_order_relaxed);
    view->hard_ms = atomic_load_explicit(&cell->hard_ms, memory_order_relaxed);
    view->dumped_id = atomic_load_explicit(&cell->dumped_id, memory_order_relaxed);
    view->state = (enum inflight_state)atomic_load_explicit(&cell->state, memory_order_relaxed);
    view->thread = atomic_load_explicit(&cell->thread, memory_order_relaxed);
    view->thread_ident = atomic_load_explicit(&cell->thread_ident, memory_order_relaxed);
    view->client_port = cell->client_port;
    view->truncated = cell->truncated;
    memcpy(view->client, cell->client, client_len);
    view->client[client_len] = '\0';
    memcpy(view->line, cell->line, line_len);
    view->line[line_len] = '\0';
}

static bool try_read(const struct inflight_cell *cell, struct inflight_view *view)
{
    uint64_t before = atomic_load_explicit(&cell->sequence, memory_order_acquire);
    if (before & 1)
        return false;
    copy(cell, view);
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&cell->sequence, memory_order_relaxed) == before;
}

bool inflight_read(const struct inflight_table *table, uint32_t index, struct inflight_view *view)
{
    for (int tries = 0; tries < READ_TRIES; tries++)
        if (try_read(&table->cells[index], view))
            return view->id != 0;
    return false;
}

uint32_t inflight_used(const struct inflight_table *table)
{
    return (uint32_t)at_most(atomic_load_explicit(&table->used, memory_order_acquire), INFLIGHT_CELLS);
}

double inflight_age(const struct inflight_view *view)
{
    uint64_t now_ns = clock_ns();
    return now_ns > view->began_ns ? (double)(now_ns - view->began_ns) / 1e9 : 0;
}

static int compare_age(const void *a, const void *b)
{
    uint64_t began_a = ((const struct inflight_view *)a)->began_ns,
             began_b = ((const struct inflight_view *)b)->began_ns;
    return began_a < began_b ? -1 : began_a > began_b;
}

uint32_t inflight_read_all(const struct inflight_table *table, struct inflight_view **views)
{
    uint32_t used = inflight_used(table), count = 0;
    *views = used > 0 ? mem_alloc(used * sizeof(**views)) : NULL;
    for (uint32_t i = 0; i < used; i++)
        count += inflight_read(table, i, &(*views)[count]);
    if (count > 1)
        qsort(*views, count, sizeof(**views), compare_age);
    return count;
}

/* Its writer may have died in the middle of a cell. */
void inflight_clear(struct inflight_table *table)
{
    memset(table->cells, 0, sizeof(table->cells[0]) * inflight_used(table));
    atomic_store(&table->used, 0);
    atomic_store(&table->overflowed, 0);
}
