/* inflight: the table of the requests that an application has now, in memory that other processes read: who asks what,
 * since when, until when. A worker writes its own, anybody reads it, without locks and without the writer's help: that
 * is how a stuck worker's requests are known.
 *
 *     begin ──> cell (sequence odd: being written, even: whole) ──> end: the cell is empty again
 *
 * There are as many cells as fit, taken from the front so that few pages are ever touched. When all are taken, those
 * that begin share the last one: it names the latest of them, the others are only counted. A writer never waits.
 *
 * Times are CLOCK_MONOTONIC. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "server/base/str.h"

#define INFLIGHT_CELLS 255
#define INFLIGHT_LINE_MAX 136 /* bytes of "GET /path" that are kept */
#define INFLIGHT_CLIENT_MAX 48

enum inflight_state {
    INFLIGHT_SERVING,
    INFLIGHT_ANSWERED, /* the response is complete, the application goes on */
    INFLIGHT_GONE      /* the client has left, the application goes on */
};

/* One request, four cache lines. All but dumped_id is written by the worker. */
struct inflight_cell {
    _Atomic uint64_t sequence;
    uint64_t id;                       /* the worker's running number; 0: empty */
    uint64_t began_ns;                 /* when the application could have it */
    _Atomic uint64_t soft_ms, hard_ms; /* deadlines; 0: none */
    _Atomic uint64_t dumped_id;        /* the master's: it has asked where this one is (slow_request) */
    _Atomic uint32_t state;            /* enum inflight_state */
    _Atomic int32_t thread;            /* who runs it, gettid(); 0: the loop's thread, or it waits for one */
    _Atomic uint64_t thread_ident;     /* the same one, as Python's stack dumps call it */
    int32_t client_port;               /* -1: none */
    uint8_t client_len, line_len;
    bool truncated;
    char client[INFLIGHT_CLIENT_MAX];
    char line[INFLIGHT_LINE_MAX];
};

struct inflight_table {
    _Alignas(256) _Atomic uint32_t used; /* cells behind were never written */
    _Atomic uint64_t overflowed;         /* requests that got no cell of their own */
    _Alignas(256) struct inflight_cell cells[INFLIGHT_CELLS];
};

/* --- the worker's side -------------------------------------------------------------------------------------------- */

/* Which cells of a table are free: the worker's own memory. */
struct inflight {
    struct inflight_table *table;
    uint64_t last_id;
    uint32_t free_count;
    uint8_t free[INFLIGHT_CELLS];
};

/* Where a request is listed. All zeroes: nowhere; then every call is harmless. */
struct inflight_place {
    struct inflight_cell *cell;
    uint64_t id;
};

void inflight_init(struct inflight *inflight, struct inflight_table *table);
struct inflight_place inflight_begin(struct inflight *inflight, struct str method, struct str target, struct str client,
                                     int client_port, uint64_t began_ns);
void inflight_end(struct inflight *inflight, struct inflight_place place);
void inflight_set_state(struct inflight_place place, enum inflight_state state);
/* The calling thread runs it. */
void inflight_set_thread(struct inflight_place place);
/* 0: none. Behind hard_ms the master kills the worker. */
void inflight_set_deadlines(struct inflight_place place, uint64_t soft_ms, uint64_t hard_ms);

/* --- anybody's side ------------------------------------------------------------------------------------------------- */

/* A copy that is whole. */
struct inflight_view {
    uint64_t id, began_ns, soft_ms, hard_ms, dumped_id, thread_ident;
    enum inflight_state state;
    int32_t thread;
    int client_port;
    bool truncated;
    char client[INFLIGHT_CLIENT_MAX + 1], line[INFLIGHT_LINE_MAX + 1];
};

/* False: the cell is empty, or changes so fast that there is nothing to see. 0 <= index < inflight_used(). */
bool inflight_read(const struct inflight_table *table, uint32_t index, struct inflight_view *view);
/* How long it has lasted by now, in seconds. */
double inflight_age(const struct inflight_view *view);
uint32_t inflight_used(const struct inflight_table *table);
/* All of them, oldest first; how many. *views is the caller's to free(); NULL if there are none. */
uint32_t inflight_read_all(const struct inflight_table *table, struct inflight_view **views);
/* When nobody writes it any more: empties it for the next worker. */
void inflight_clear(struct inflight_table *table);
