/* request: see request.h. Here: its life, its head's memory and its body; the response is response.c's. */
#include "server/http/request.h"

#include <stdlib.h>

#include "server/base/mem.h"
#include "server/http/conn.h"
#include "server/http/deadlines.h"
#include "server/http/endpoint.h"
#include "server/http/response.h"
#include "server/http/server_state.h"
#include "server/net/proxy_protocol.h"

#define POOL_SPARES 1024 /* requests kept for the next */
#define KEEP_BYTES 4096  /* of each buffer of a request in the pool */
#define KEEP_FIELDS 64

struct request_pool {
    struct list spares;
    size_t spare_count, live;
    bool closed;
    struct inflight inflight; /* its table: NULL: not published */
};

/* --- the pool ------------------------------------------------------------------------------------------------------- */

struct request_pool *request_pool_new(void)
{
    struct request_pool *pool = mem_zalloc(sizeof(*pool));
    list_init(&pool->spares);
    return pool;
}

static void request_free(struct request *r)
{
    buf_done(&r->body);
    buf_done(&r->core.head);
    buf_done(&r->core.response_head);
    arena_done(&r->arena);
    free(r->fields);
    free(r);
}

static void pool_release(struct request_pool *pool)
{
    if (pool->closed && pool->live == 0)
        free(pool);
}

void request_pool_close(struct request_pool *pool)
{
    struct list *node;
    while ((node = list_pop(&pool->spares)) != NULL)
        request_free(LIST_ENTRY(node, struct request, core.node));
    pool->closed = true;
    pool_release(pool);
}

/* Empty, with the memory that it had. */
static void request_reset(struct request *r)
{
    struct request_core *core = &r->core;
    buf_reset(&r->body, KEEP_BYTES);
    buf_reset(&core->head, KEEP_BYTES);
    buf_reset(&core->response_head, KEEP_BYTES);
    arena_reset(&r->arena);
    if (core->field_cap > KEEP_FIELDS) {
        free(r->fields);
        r->fields = NULL;
        core->field_cap = 0;
    }
    struct field *fields = r->fields;
    struct buf body = r->body, head = core->head, response_head = core->response_head;
    struct arena arena = r->arena;
    struct request_pool *pool = core->pool;
    size_t field_cap = core->field_cap;
    memset(r, 0, sizeof(*r)); /* in place: assigning a whole struct would clear one and then copy it */
    r->fields = fields;
    r->body = body;
    r->arena = arena;
    core->pool = pool;
    core->field_cap = field_cap;
    core->head = head;
    core->response_head = response_head;
    r->content_length = core->response_length = -1;
    list_init(&r->core.node);
    list_init(&r->core.deadline_node);
}

struct request *request_new(struct request_pool *pool, struct conn *conn)
{
    struct list *node = list_pop(&pool->spares);
    struct request *r;
    if (node) {
        r = LIST_ENTRY(node, struct request, core.node);
        pool->spare_count--;
    } else {
        r = mem_zalloc(sizeof(*r));
        r->core.pool = pool;
        request_reset(r);
    }
    pool->live++;
    r->refs = 1;
    r->conn = conn;
    return r;
}

struct field *request_add_field(struct request *r, const struct settings *settings)
{
    struct request_core *core = &r->core;
    if ((int64_t)r->field_count >= settings->limit_request_fields)
        return NULL;
    if (r->field_count == core->field_cap) {
        core->field_cap = core->field_cap ? core->field_cap * 2 : 16;
        r->fields = mem_realloc(r->fields, core->field_cap * sizeof(*r->fields));
    }
    return &r->fields[r->field_count++];
}

/* --- seen by others -------------------------------------------------------------------------------------------------- */

void request_pool_publish(struct request_pool *pool, struct inflight_table *table)
{
    inflight_init(&pool->inflight, table);
}

void request_list(struct request *r)
{
    struct request_pool *pool = r->core.pool;
    if (pool->inflight.table == NULL)
        return;
    const struct endpoint *client = request_client(r);
    uint64_t now_ns = loop_now_ns(r->conn->server->loop);
    r->place = inflight_begin(&pool->inflight, r->method, r->target, client->host, client->port, now_ns);
}

/* --- references ------------------------------------------------------------------------------------------------------ */

void request_ref(struct request *r)
{
    r->refs++;
}

void request_unref(struct request *r)
{
    if (--r->refs > 0)
        return;
    struct request_pool *pool = r->core.pool;
    deadlines_end(r);
    pool->live--;
    inflight_end(&pool->inflight, r->place);
    if (r->core.free_cache && r->core.cache)
        r->core.free_cache(r->core.cache);
    if (pool->closed || pool->spare_count >= POOL_SPARES) {
        request_free(r);
    } else {
        request_reset(r);
        list_append(&pool->spares, &r->core.node);
        pool->spare_count++;
    }
    pool_release(pool);
}

/* --- the head ------------------------------------------------------------------------------------------------------------- */

struct request_front *request_front_of(struct request *r)
{
    if (r->front == NULL) {
        struct request_front *front = arena_alloc(&r->arena, sizeof(*front));
        *front = (struct request_front){ .script_name = { NULL, 0 } };
        r->front = front;
    }
    return (struct request_front *)r->front;
}

/* --- the head's memory ------------------------------------------------------------------------------------------------ */

struct move {
    const char *from, *to;
    size_t len;
};

static void move_str(struct str *s, const struct move *move)
{
    if (s->p >= move->from && s->p <= move->from + move->len)
        s->p = move->to + (s->p - move->from);
}

void request_pin(struct request *r)
{
    struct request_core *core = &r->core;
    if (core->base == NULL || core->base == core->head.data)
        return;
    buf_append(&core->head, core->base, core->base_len);
    struct move move = { core->base, core->head.data, core->base_len };
    core->base = core->head.data;
    move_str(&r->method, &move);
    move_str(&r->target, &move);
    move_str(&r->path, &move);
    move_str(&r->query, &move);
    move_str(&r->host, &move);
    for (size_t i = 0; i < r->field_count; i++) {
        move_str(&r->fields[i].name, &move);
        move_str(&r->fields[i].value, &move);
    }
}

/* --- the body ------------------------------------------------------------------------------------------------------------ */

void request_want_body(struct request *r)
{
    if (r->conn == NULL || r->body_end)
        return;
    if (r->core.expects_continue && r->response <= RESPONSE_HELD) {
        r->core.expects_continue = false;
        io_write(&r->conn->io, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    }
    conn_body_wanted(r->conn);
}

void request_consume(struct request *r, size_t n)
{
    size_t before = buf_len(&r->body);
    buf_consume(&r->body, n);
    if (r->conn && before > REQUEST_BODY_LOW_WATER && buf_len(&r->body) <= REQUEST_BODY_LOW_WATER)
        conn_body_wanted(r->conn);
}

int request_wait_body(struct request *r)
{
    if (r->conn == NULL)
        return -1;
    request_pin(r);
    request_want_body(r);
    return conn_wait_body(r->conn);
}

int request_wait_writable(struct request *r)
{
    if (r->conn == NULL)
        return -1;
    request_pin(r);
    return conn_wait_writable(r->conn);
}

/* --- facts ----------------------------------------------------------------------------------------------------------------- */

static const struct endpoint nowhere = { .host = { "", 0 }, .port = -1 };

const struct endpoint *request_client(struct request *r)
{
    if (r->core.is_forwarded)
        return &r->core.client;
    return r->conn ? conn_peer(r->conn) : &nowhere;
}

bool request_is_forwarded(const struct request *r)
{
    return r->core.is_forwarded;
}

const struct endpoint *request_server(struct request *r)
{
    return r->conn && r->conn->local ? r->conn->local : &nowhere;
}

bool request_proxied(const struct request *r, struct endpoint *target, char *text, size_t size)
{
    if (r->conn == NULL || r->conn->proxy == NULL)
        return false;
    *target = endpoint_format((const struct sockaddr *)&r->conn->proxy->target, text, size);
    return true;
}

struct str request_scheme(struct request *r)
{
    return r->core.is_https ? STR("https") : STR("http");
}

void **request_conn_cache(struct request *r, void (*free_cache)(void *))
{
    if (r->conn == NULL) {
        r->core.free_cache = free_cache;
        return &r->core.cache;
    }
    r->conn->free_cache = free_cache;
    return &r->conn->cache;
}
