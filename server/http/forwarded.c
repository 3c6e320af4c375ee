/* forwarded: see forwarded.h. Hops are read from right to left: each proxy appends, so that what a client made up is on the
 * left of the first one that is not trusted. */
#include "server/http/forwarded.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "config/address_set.h"
#include "config/setting_row.h"
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
    const struct settings *settings;
    struct address_set trusted;
    struct scheme_header *schemes;
    size_t scheme_count;
    bool others;
};

/* What one proxy says of whom it was asked by. */
struct hop {
    struct str node; /* as written, without quotes */
    struct str host, proto;
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
    f->settings = settings;
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

static void hops_add(struct hops *hops, struct hop hop)
{
    hops->items[hops->count++ % HOPS_MAX] = hop;
}

static size_t hops_known(const struct hops *hops)
{
    return hops->count < HOPS_MAX ? hops->count : HOPS_MAX;
}

/* From the right: 0 is the last. Where there are not so many, the left-most: not every proxy adds to every list. */
static const struct hop *hops_at(const struct hops *hops, size_t i)
{
    size_t known = hops_known(hops);
    return &hops->items[(hops->count - 1 - (i < known ? i : known - 1)) % HOPS_MAX];
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

static void read_forwarded(struct str value, struct hops *hops)
{
    struct str element, pair;
    while (next_part(&value, ',', &element)) {
        struct hop hop = { .node = STR("unknown") };
        while (next_part(&element, ';', &pair)) {
            value_of(pair, STR("for"), &hop.node);
            value_of(pair, STR("proto"), &hop.proto);
            value_of(pair, STR("host"), &hop.host);
        }
        hops_add(hops, hop);
    }
}

static void read_list(struct str value, struct hops *hops)
{
    struct str element;
    while (headers_list_next(&value, &element))
        hops_add(hops, (struct hop){ .node = unquote(element) });
}

/* Of a list. */
static struct str element_at(struct str value, size_t i)
{
    struct hops hops;
    hops.count = 0;
    read_list(value, &hops);
    return hops.count > 0 ? hops_at(&hops, i)->node : STR("");
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

/* --- the client -------------------------------------------------------------------------------------------------------- */

static void set_client(struct request *r, const struct node *node)
{
    struct str host = arena_copy(&r->arena, str_from(node->host));
    r->core.client = (struct endpoint){ .host = host, .port = node->port };
    r->core.is_forwarded = true;
}

/* From the right, as long as who says so is trusted. A hop that is no address ends it. Returns which hop the client is. */
static size_t find_client(const struct forwarded *f, struct request *r, const struct hops *hops)
{
    size_t client = 0;
    struct node node;
    for (size_t i = 0; i < hops_known(hops) && parse_node(hops_at(hops, i)->node, &node); i++) {
        set_client(r, &node);
        client = i;
        if (!address_set_has(&f->trusted, (const struct sockaddr *)&node.address))
            break;
    }
    return client;
}

/* --- its scheme -------------------------------------------------------------------------------------------------------- */

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

static enum scheme scheme_of(const struct forwarded *f, const struct field *field, size_t hop, enum scheme scheme)
{
    for (size_t i = 0; i < f->scheme_count; i++)
        if (str_eq(field->name, str_from(f->schemes[i].name))) {
            struct str value = element_at(field->value, hop);
            scheme = also(scheme, str_ieq(value, f->schemes[i].secure) ||
                                      (str_ieq(f->schemes[i].secure, STR("https")) && is_secure(value)));
        }
    return scheme;
}

/* --- the host that it asked -------------------------------------------------------------------------------------------- */

static struct head_refusal refused(const char *reason)
{
    return (struct head_refusal){ 400, reason };
}

static struct head_refusal set_host_field(struct request *r, const struct settings *settings)
{
    for (size_t i = 0; i < r->field_count; i++)
        if (str_eq(r->fields[i].name, STR("host"))) {
            r->fields[i].value = r->host;
            return (struct head_refusal){ 0 };
        }
    struct field *field = request_add_field(r, settings);
    if (field == NULL)
        return (struct head_refusal){ 431, "too many header fields (limit_request_fields)" };
    *field = (struct field){ STR("host"), r->host };
    return (struct head_refusal){ 0 };
}

/* `host` with another port, which is left out where the scheme says it. */
static struct str join_port(struct request *r, struct str host, int64_t port)
{
    struct str name, old;
    headers_split_host(host, &name, &old);
    if (port == (r->core.is_https ? 443 : 80))
        return name;
    char *text = arena_alloc(&r->arena, name.len + 1 + 20);
    memcpy(text, name.p, name.len);
    text[name.len] = ':';
    return (struct str){ text, name.len + 1 + headers_put_number(text + name.len + 1, (uint64_t)port) };
}

/* For SERVER_NAME and SERVER_PORT. `number` is not positive: the port is the host's, or the scheme's. */
static struct endpoint server_of(struct request *r, bool named, int64_t number)
{
    struct endpoint server = { .port = number > 0 ? (int)number : r->core.is_https ? 443 : 80 };
    struct str name, port;
    headers_split_host(r->host, &name, &port);
    if (port.len > 0)
        server.port = (int)headers_number(port);
    if (name.len > 2 && name.p[0] == '[')
        name = (struct str){ name.p + 1, name.len - 2 };
    if (named)
        server.host = arena_copy(&r->arena, name);
    return server;
}

/* `host`, `port`: empty if not told. */
static struct head_refusal set_server(struct request *r, const struct settings *settings, struct str host, struct str port)
{
    int64_t number = headers_number(port);
    if (host.len > 0 && !headers_host_valid(host))
        return refused("malformed X-Forwarded-Host");
    if (port.len > 0 && (number < 1 || number > 65535))
        return refused("malformed X-Forwarded-Port");
    if (host.len > 0)
        r->host = host;
    if (port.len > 0 && r->host.len > 0)
        r->host = join_port(r, r->host, number);
    request_front_of(r)->server = server_of(r, host.len > 0, number);
    return r->host.len > 0 ? set_host_field(r, settings) : (struct head_refusal){ 0 };
}

static struct str said_at(const struct hops *hops, size_t hop)
{
    return hops->count > 0 ? hops_at(hops, hop)->node : STR("");
}

/* --- the request ------------------------------------------------------------------------------------------------------- */

struct said {
    struct hops listed, forwarded, hosts, ports;
};

static void read_fields(const struct forwarded *f, const struct request *r, struct said *said)
{
    said->listed.count = said->forwarded.count = said->hosts.count = said->ports.count = 0;
    for (size_t i = 0; i < r->field_count; i++) {
        const struct field *field = &r->fields[i];
        if (str_eq(field->name, STR("x-forwarded-for")))
            read_list(field->value, &said->listed);
        else if (str_eq(field->name, STR("forwarded")))
            read_forwarded(field->value, &said->forwarded);
        else if (f->settings->forwarded_host && str_eq(field->name, STR("x-forwarded-host")))
            read_list(field->value, &said->hosts);
        else if (f->settings->forwarded_port && str_eq(field->name, STR("x-forwarded-port")))
            read_list(field->value, &said->ports);
    }
}

static struct head_refusal apply_scheme(const struct forwarded *f, struct request *r, size_t hop, struct str proto)
{
    enum scheme scheme = proto.len > 0 ? also(SCHEME_UNKNOWN, is_secure(proto)) : SCHEME_UNKNOWN;
    for (size_t i = 0; i < r->field_count; i++)
        scheme = scheme_of(f, &r->fields[i], hop, scheme);
    if (scheme == SCHEME_CONTRADICTION)
        return refused("contradictory scheme headers (secure_scheme_headers)");
    if (scheme != SCHEME_UNKNOWN)
        r->core.is_https = scheme == SCHEME_SECURE;
    return (struct head_refusal){ 0 };
}

/* A proxy that knows one of the two passes the other on as its client sent it. */
static struct head_refusal apply_host(const struct forwarded *f, struct request *r, struct str listed, struct str forwarded,
                                      struct str port)
{
    if (!f->settings->forwarded_host)
        forwarded = STR("");
    if (listed.len > 0 && forwarded.len > 0 && !str_ieq(listed, forwarded))
        return refused("X-Forwarded-Host contradicts Forwarded");
    if (listed.len + forwarded.len + port.len == 0)
        return (struct head_refusal){ 0 };
    return set_server(r, f->settings, listed.len > 0 ? listed : forwarded, port);
}

/* The peer, or for whom it speaks: by the PROXY protocol, by uwsgi's REMOTE_ADDR. */
static bool speaker_is_trusted(const struct forwarded *f, const struct request *r)
{
    struct node node;
    if (r->core.is_forwarded)
        return parse_node(r->core.client.host, &node) &&
               address_set_has(&f->trusted, (const struct sockaddr *)&node.address);
    return r->conn && address_set_has(&f->trusted, (const struct sockaddr *)&r->conn->peer_address);
}

bool forwarded_may_set(const struct forwarded *f, const struct request *r, struct str name)
{
    if (!f || !speaker_is_trusted(f, r))
        return false;
    for (size_t i = 0; i < f->settings->forwarder_headers.count; i++) {
        const char *rest = f->settings->forwarder_headers.items[i];
        struct str item;
        while (setting_row_word(&rest, ',', &item))
            if (str_eq(item, STR("*")) || str_ieq(item, name))
                return true;
    }
    return false;
}

struct head_refusal forwarded_apply(const struct forwarded *f, struct request *r)
{
    struct said said;
    struct hop from = { .node = STR("") };
    if (!speaker_is_trusted(f, r))
        return (struct head_refusal){ 0 };
    read_fields(f, r, &said);
    const struct hops *clients = said.listed.count > 0 ? &said.listed : &said.forwarded;
    size_t hop = find_client(f, r, clients);
    if (said.forwarded.count > 0)
        from = *hops_at(&said.forwarded, hop);
    struct head_refusal refusal = apply_scheme(f, r, hop, from.proto);
    if (refusal.status == 0)
        refusal = apply_host(f, r, said_at(&said.hosts, hop), from.host, said_at(&said.ports, hop));
    return refusal;
}
