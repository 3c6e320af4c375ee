/* forwarded: see forwarded.h. Hops are read from right to left: each proxy appends, so that what a client made up is on the
 * left of the first one that is not trusted. */
#include "server/http/forwarded.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "config/address_set.h"
#include "config/settings.h"
#include "server/base/mem.h"
#include "server/http/conn.h"
#include "server/http/headers.h"
#include "server/http/request.h"

#define HOPS_MAX 32 /* the right-most are looked at */

struct scheme_header {
    char *name; /* in lower case */
    struct str secure;
};

struct forwarded {
    struct address_set trusted;
    struct scheme_header *schemes;
    size_t scheme_count;
    bool others;
};

struct hop {
    struct str node; /* as written, without quotes */
};

struct hops {
    struct hop items[HOPS_MAX]; /* a ring: the last `count` of them */
    size_t count;
};

/* --- settings ------------------------------------------------------------------------------------------------------ */

/* "X-FORWARDED-PROTO:https" */
static void add_scheme(struct forwarded *f, const char *item)
{
    const char *colon = strchr(item, ':');
    if (!colon)
        return;
    struct scheme_header *header = &f->schemes[f->scheme_count++];
    header->name = mem_strndup(item, (size_t)(colon - item));
    headers_lower(header->name, strlen(header->name));
    header->secure = headers_trim(str_from(colon + 1));
    f->others |= !forwarded_may_be(str_from(header->name));
}

struct forwarded *forwarded_new(const struct settings *settings)
{
    struct forwarded *f;
    char *bad = NULL;
    if (!settings->proxy_headers)
        return NULL;
    f = mem_zalloc(sizeof(*f));
    address_set_init(&f->trusted, &settings->forwarded_allow_ips, &bad); /* was validated */
    free(bad);
    f->schemes = mem_zalloc((settings->secure_scheme_headers.count + 1) * sizeof(*f->schemes));
    for (size_t i = 0; i < settings->secure_scheme_headers.count; i++)
        add_scheme(f, settings->secure_scheme_headers.items[i]);
    return f;
}

void forwarded_free(struct forwarded *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->scheme_count; i++)
        free(f->schemes[i].name);
    free(f->schemes);
    address_set_done(&f->trusted);
    free(f);
}

bool forwarded_has_others(const struct forwarded *f)
{
    return f && f->others;
}

/* --- hops ---------------------------------------------------------------------------------------------------------- */

static void hops_add(struct hops *hops, struct str node)
{
    hops->items[hops->count++ % HOPS_MAX].node = node;
}

static struct str unquote(struct str s)
{
    return s.len >= 2 && s.p[0] == '"' && s.p[s.len - 1] == '"' ? (struct str){ s.p + 1, s.len - 2 } : s;
}

/* The text up to `separator`, taken off `rest`; quotation marks protect it. False at the end. */
static bool next_part(struct str *rest, char separator, struct str *part)
{
    bool quoted = false;
    size_t n = 0;
    if (rest->len == 0)
        return false;
    for (; n < rest->len && (quoted || rest->p[n] != separator); n++)
        quoted ^= rest->p[n] == '"';
    *part = headers_trim((struct str){ rest->p, n });
    n += n < rest->len;
    *rest = (struct str){ rest->p + n, rest->len - n };
    return true;
}

static bool value_of(struct str pair, struct str name, struct str *value)
{
    if (pair.len <= name.len || pair.p[name.len] != '=' || !str_ieq((struct str){ pair.p, name.len }, name))
        return false;
    *value = unquote((struct str){ pair.p + name.len + 1, pair.len - name.len - 1 });
    return true;
}

/* `proto` becomes that of the last element that has one. */
static void read_forwarded(struct str value, struct hops *hops, struct str *proto)
{
    struct str element, pair, node;
    while (next_part(&value, ',', &element)) {
        bool has_node = false;
        while (next_part(&element, ';', &pair)) {
            has_node |= value_of(pair, STR("for"), &node);
            value_of(pair, STR("proto"), proto);
        }
        hops_add(hops, has_node ? node : STR("unknown"));
    }
}

static void read_list(struct str value, struct hops *hops)
{
    struct str element;
    while (headers_list_next(&value, &element))
        hops_add(hops, unquote(element));
}

/* --- one hop ------------------------------------------------------------------------------------------------------- */

struct node {
    char host[INET6_ADDRSTRLEN];
    int port;
    struct sockaddr_storage address;
};

static bool copy_host(struct str text, char host[INET6_ADDRSTRLEN])
{
    if (text.len == 0 || text.len >= INET6_ADDRSTRLEN)
        return false;
    memcpy(host, text.p, text.len);
    host[text.len] = 0;
    return true;
}

static bool to_address(struct node *node)
{
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&node->address;
    struct sockaddr_in *v4 = (struct sockaddr_in *)&node->address;
    memset(&node->address, 0, sizeof(node->address));
    if (inet_pton(AF_INET, node->host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        return true;
    }
    v6->sin6_family = AF_INET6;
    return inet_pton(AF_INET6, node->host, &v6->sin6_addr) == 1;
}

/* "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80"; false: "unknown", "_hidden", nonsense. */
static bool parse_node(struct str text, struct node *node)
{
    struct str host = text, port = STR("");
    bool bracketed = text.len > 0 && text.p[0] == '[';
    const char *end = text.len > 0 ? memchr(text.p, bracketed ? ']' : ':', text.len) : NULL;
    if (bracketed) {
        if (end == NULL)
            return false;
        host = (struct str){ text.p + 1, (size_t)(end - text.p) - 1 };
        port = (struct str){ end + 1, text.len - host.len - 2 };
    } else if (end != NULL && !memchr(end + 1, ':', text.len - (size_t)(end - text.p) - 1)) {
        host = (struct str){ text.p, (size_t)(end - text.p) };
        port = (struct str){ end, text.len - host.len };
    }
    node->port = 0; /* not known */
    if (port.len > 1 && port.p[0] == ':') {
        int64_t number = headers_number((struct str){ port.p + 1, port.len - 1 });
        node->port = number < 0 || number > 65535 ? 0 : (int)number;
    }
    return copy_host(host, node->host) && to_address(node);
}

/* --- the request ---------------------------------------------------------------------------------------------------- */

static void set_client(struct request *r, const struct node *node)
{
    struct str host = arena_copy(&r->arena, str_from(node->host));
    r->core.client = (struct endpoint){ .host = host, .port = node->port };
    r->core.is_forwarded = true;
}

/* From the right, as long as who says so is trusted. A hop that is no address ends it. */
static void find_client(const struct forwarded *f, struct request *r, const struct hops *hops)
{
    size_t known = hops->count < HOPS_MAX ? hops->count : HOPS_MAX;
    struct node node;
    for (size_t i = 0; i < known; i++) {
        if (!parse_node(hops->items[(hops->count - 1 - i) % HOPS_MAX].node, &node))
            return;
        set_client(r, &node);
        if (!address_set_has(&f->trusted, (const struct sockaddr *)&node.address))
            return;
    }
}

static struct str last_of(struct str list)
{
    struct str element, last = list;
    while (headers_list_next(&list, &element))
        last = element;
    return last;
}

enum scheme { SCHEME_UNKNOWN, SCHEME_PLAIN, SCHEME_SECURE, SCHEME_CONTRADICTION };

static enum scheme also(enum scheme scheme, bool secure)
{
    enum scheme other = secure ? SCHEME_SECURE : SCHEME_PLAIN;
    return scheme == SCHEME_UNKNOWN || scheme == other ? other : SCHEME_CONTRADICTION;
}

static bool is_secure(struct str proto)
{
    return str_ieq(proto, STR("https")) || str_ieq(proto, STR("wss"));
}

static enum scheme scheme_of(const struct forwarded *f, const struct field *field, enum scheme scheme)
{
    for (size_t i = 0; i < f->scheme_count; i++)
        if (str_eq(field->name, str_from(f->schemes[i].name))) {
            struct str value = last_of(field->value);
            scheme = also(scheme, str_ieq(value, f->schemes[i].secure) ||
                                      (str_ieq(f->schemes[i].secure, STR("https")) && is_secure(value)));
        }
    return scheme;
}

static bool peer_is_trusted(const struct forwarded *f, const struct request *r)
{
    return r->conn && address_set_has(&f->trusted, (const struct sockaddr *)&r->conn->peer_address);
}

struct head_refusal forwarded_apply(const struct forwarded *f, struct request *r)
{
    struct hops listed = { .count = 0 }, forwarded = { .count = 0 };
    struct str proto = { NULL, 0 };
    enum scheme scheme = SCHEME_UNKNOWN;
    if (!peer_is_trusted(f, r))
        return (struct head_refusal){ 0 };
    for (size_t i = 0; i < r->field_count; i++) {
        const struct field *field = &r->fields[i];
        if (str_eq(field->name, STR("x-forwarded-for")))
            read_list(field->value, &listed);
        else if (str_eq(field->name, STR("forwarded")))
            read_forwarded(field->value, &forwarded, &proto);
        else
            scheme = scheme_of(f, field, scheme);
    }
    if (proto.len > 0)
        scheme = also(scheme, is_secure(proto));
    if (scheme == SCHEME_CONTRADICTION)
        return (struct head_refusal){ 400, "contradictory scheme headers (secure_scheme_headers)" };
    find_client(f, r, listed.count > 0 ? &listed : &forwarded);
    r->core.is_https = scheme == SCHEME_SECURE;
    return (struct head_refusal){ 0 };
}
