/* head: see head.h. One pass over the fields sorts out those that mean something to the server itself; each of these then has
 * a function of its own that judges it. */
#include "server/http/head.h"

#include "config/settings.h"
#include "server/http/conn.h"
#include "server/http/forwarded.h"
#include "server/http/headers.h"
#include "server/http/mount.h"
#include "server/http/request.h"
#include "server/http/websocket_offer.h"

#define ACCEPTED ((struct head_refusal){ 0 })
#define REFUSED(status, reason) ((struct head_refusal){ (status), (reason) })

/* The fields that the server itself obeys. */
struct head_fields {
    struct str host, transfer_encoding, content_length, expect, script_name;
    int hosts, transfer_encodings, content_lengths, expects, content_types, script_names;
    bool close, keep_alive, upgrade, websocket, forwarded;
};

/* --- the target ---------------------------------------------------------------------------------------------------- */

static void split_query(struct request *r, struct str rest)
{
    const char *mark = rest.len > 0 ? memchr(rest.p, '?', rest.len) : NULL;
    size_t path_len = mark ? (size_t)(mark - rest.p) : rest.len;
    r->path = (struct str){ rest.p, path_len };
    r->query = mark ? (struct str){ mark + 1, rest.len - path_len - 1 } : (struct str){ rest.p + rest.len, 0 };
}

static struct str after_scheme(struct str target)
{
    static const char *const schemes[] = { "http://", "https://" };
    for (size_t i = 0; i < 2; i++) {
        size_t len = strlen(schemes[i]);
        if (target.len > len && strncasecmp(target.p, schemes[i], len) == 0)
            return (struct str){ target.p + len, target.len - len };
    }
    return (struct str){ NULL, 0 };
}

static struct head_refusal split_absolute(struct request *r)
{
    struct str rest = after_scheme(r->target);
    size_t len = 0;
    while (len < rest.len && rest.p[len] != '/' && rest.p[len] != '?')
        len++;
    r->host = (struct str){ rest.p, len };
    if (!headers_host_valid(r->host))
        return REFUSED(400, "malformed request target");
    split_query(r, (struct str){ rest.p + len, rest.len - len });
    if (r->path.len == 0)
        r->path = str_eq(r->method, STR("OPTIONS")) && r->query.len == 0 ? STR("*") : STR("/");
    return ACCEPTED;
}

/* As far as gunicorn goes: no registered method is refused, and what is odd enough to be an attack is. */
static bool is_conventional(struct str method)
{
    return method.len >= 3 && method.len <= 20 && str_is(method, CHAR_METHOD);
}

struct head_refusal head_judge_method(struct request *r, const struct settings *settings)
{
    struct str method = r->method;
    if (settings->casefold_http_method)
        for (size_t i = 0; i < method.len; i++)
            if (method.p[i] >= 'a' && method.p[i] <= 'z')
                ((char *)method.p)[i] -= 0x20;
    if (!settings->permit_unconventional_http_method && !is_conventional(method))
        return REFUSED(400, "unconventional method (permit_unconventional_http_method)");
    r->is_head = str_eq(method, STR("HEAD"));
    return ACCEPTED;
}

struct head_refusal head_judge_line(struct request *r, int version_major, const struct settings *settings)
{
    if (version_major != 1 && !settings->permit_unconventional_http_version)
        return REFUSED(505, "HTTP version not supported");
    if (str_eq(r->method, STR("CONNECT")))
        return REFUSED(501, "CONNECT is not implemented");
    if (str_eq(r->method, STR("TRACE")))
        return REFUSED(405, "TRACE is not allowed");
    if (r->target.p[0] == '/') {
        split_query(r, r->target);
        return ACCEPTED;
    }
    if (str_eq(r->target, STR("*")) && str_eq(r->method, STR("OPTIONS"))) {
        split_query(r, r->target);
        return ACCEPTED;
    }
    return split_absolute(r);
}

/* --- single fields --------------------------------------------------------------------------------------------------- */

/* Most requests of a server name the same host: one that was found valid need not be looked at again, only compared. */
static bool host_valid(const struct request *r, struct str host)
{
    struct http_server *server = r->conn ? r->conn->server : NULL;
    if (server == NULL || host.len > sizeof(server->known_host))
        return headers_host_valid(host);
    if (host.len > 0 && host.len == server->known_host_len && memcmp(host.p, server->known_host, host.len) == 0)
        return true;
    if (!headers_host_valid(host))
        return false;
    memcpy(server->known_host, host.p, host.len);
    server->known_host_len = host.len;
    return true;
}

static struct head_refusal judge_host(struct request *r, const struct head_fields *f)
{
    if (f->hosts > 1)
        return REFUSED(400, "more than one Host");
    if (f->hosts == 0 && r->version_minor >= 1)
        return REFUSED(400, "no Host");
    bool absolute = r->host.len > 0;
    if (f->hosts == 1 && (f->host.len > 0 || r->version_minor >= 1) && !host_valid(r, f->host))
        return REFUSED(400, "malformed Host");
    if (!absolute)
        r->host = f->host;
    else if (f->hosts == 1 && !headers_same_host(f->host, r->host))
        return REFUSED(400, "Host contradicts the request target");
    return ACCEPTED;
}

/* An absolute-form target's authority takes the place of the Host field (RFC 9112 3.2.2). */
static void replace_host_field(struct request *r)
{
    for (size_t i = 0; i < r->field_count; i++)
        if (str_eq(r->fields[i].name, STR("host")))
            r->fields[i].value = r->host;
}

static struct head_refusal judge_transfer_encoding(struct request *r, const struct head_fields *f)
{
    if (r->version_minor == 0)
        return REFUSED(400, "Transfer-Encoding on HTTP/1.0");
    if (f->transfer_encodings == 1 && str_ieq(f->transfer_encoding, STR("chunked"))) {
        r->is_chunked = true;
        return ACCEPTED;
    }
    int chunked = 0, others = 0;
    struct str last = { NULL, 0 };
    for (size_t i = 0; i < r->field_count; i++) {
        struct str rest = r->fields[i].value, coding;
        if (!str_eq(r->fields[i].name, STR("transfer-encoding")))
            continue;
        while (headers_list_next(&rest, &coding)) {
            bool is_chunked = str_ieq(coding, STR("chunked"));
            chunked += is_chunked;
            others += !is_chunked;
            last = coding;
            if (!str_is(coding, CHAR_TOKEN))
                return REFUSED(400, "malformed Transfer-Encoding");
        }
    }
    if (chunked == 1 && others > 0 && str_ieq(last, STR("chunked")))
        return REFUSED(501, "unknown transfer coding");
    return REFUSED(400, "bad Transfer-Encoding");
}

static struct head_refusal judge_content_length(struct request *r, const struct head_fields *f)
{
    r->content_length = headers_number(f->content_length);
    if (f->content_lengths > 1 || r->content_length < 0)
        return REFUSED(400, "bad Content-Length");
    return ACCEPTED;
}

static struct head_refusal judge_expect(struct request *r, const struct head_fields *f)
{
    bool known = f->expects == 1 && str_ieq(f->expect, STR("100-continue"));
    if (!known)
        return REFUSED(417, "unknown expectation");
    r->core.expects_continue = r->version_minor >= 1;
    return ACCEPTED;
}

/* An offer to switch to WebSocket. An application that does not speak it answers in HTTP, which RFC 9110 7.8 allows. */
static struct head_refusal judge_upgrade(struct request *r, const struct head_fields *f)
{
    switch (websocket_offer_check(r, f->upgrade)) {
    case WEBSOCKET_OFFER_BAD_VERSION:
        return REFUSED(426, "WebSocket version not supported");
    case WEBSOCKET_OFFER_BAD:
        return REFUSED(400, "malformed WebSocket handshake");
    case WEBSOCKET_OFFER_VALID:
        r->is_websocket = true;
        break;
    }
    return ACCEPTED;
}

static const struct forwarded *forwarded_of(const struct request *r)
{
    return r->conn ? r->conn->server->forwarded : NULL;
}

static struct head_refusal judge_forwarded(struct request *r, const struct head_fields *f)
{
    const struct forwarded *forwarded = forwarded_of(r);
    if (forwarded == NULL || (!f->forwarded && !forwarded_has_others(forwarded)))
        return ACCEPTED;
    return forwarded_apply(forwarded, r);
}

/* The proxy's word goes before the environment's. */
static struct head_refusal judge_mount(struct request *r, const struct head_fields *f)
{
    if (f->script_names > 1)
        return REFUSED(400, "more than one SCRIPT_NAME");
    if (f->script_names > 0)
        return mount_apply(r, f->script_name);
    if (r->front && r->front->script_name.p)
        return ACCEPTED;
    if (r->conn && r->conn->server->script_name.len > 0)
        return mount_apply(r, r->conn->server->script_name);
    return ACCEPTED;
}

/* --- all fields ------------------------------------------------------------------------------------------------------ */

static void note_connection(struct head_fields *f, struct str value)
{
    struct str option;
    while (headers_list_next(&value, &option)) {
        f->close |= str_ieq(option, STR("close"));
        f->keep_alive |= str_ieq(option, STR("keep-alive"));
        f->upgrade |= str_ieq(option, STR("upgrade"));
    }
}

static void note_field(struct head_fields *f, const struct field *field)
{
    f->forwarded |= forwarded_may_be(field->name);
    switch (field->name.len) {
    case 4:
        if (memcmp(field->name.p, "host", 4) == 0) {
            f->host = field->value;
            f->hosts++;
        }
        break;
    case 6:
        if (memcmp(field->name.p, "expect", 6) == 0) {
            f->expect = field->value;
            f->expects++;
        }
        break;
    case 7:
        if (memcmp(field->name.p, "upgrade", 7) == 0)
            f->websocket |= headers_list_has(field->value, STR("websocket"));
        break;
    case 10:
        if (memcmp(field->name.p, "connection", 10) == 0)
            note_connection(f, field->value);
        break;
    case 12:
        f->content_types += memcmp(field->name.p, "content-type", 12) == 0;
        break;
    case 14:
        if (memcmp(field->name.p, "content-length", 14) == 0) {
            f->content_length = field->value;
            f->content_lengths++;
        }
        break;
    case 17:
        if (memcmp(field->name.p, "transfer-encoding", 17) == 0) {
            f->transfer_encoding = field->value;
            f->transfer_encodings++;
        }
        break;
    }
}

/* Obsolete line folding, where permitted: the line break becomes blanks. llhttp was lenient, so this looks at every byte. */
static bool unfold(struct field *field, bool strip_header_spaces)
{
    char *p = (char *)field->value.p, end = field->name.p[field->name.len];
    for (size_t i = 0; i < field->value.len; i++) {
        bool fold =
            i + 2 < field->value.len && p[i] == '\r' && p[i + 1] == '\n' && (p[i + 2] == ' ' || p[i + 2] == '\t');
        if (fold)
            p[i] = p[i + 1] = ' ';
    }
    return (end == ':' || (strip_header_spaces && (end == ' ' || end == '\t'))) && str_is(field->name, CHAR_TOKEN) &&
           headers_value_valid(field->value);
}

enum underscore { UNDERSCORE_KEEP, UNDERSCORE_DROP, UNDERSCORE_REFUSE };

/* In WSGI's environ A_B and A-B are one name: whoever sends the first could pass for who sends the second. */
static enum underscore judge_underscore(const struct request *r, const struct settings *settings, struct head_fields *f,
                                        const struct field *field)
{
    if (forwarded_may_set(forwarded_of(r), r, field->name)) {
        if (str_eq(field->name, STR("script_name"))) {
            f->script_name = headers_trim(field->value);
            f->script_names++;
        }
        return UNDERSCORE_KEEP;
    }
    if (settings->header_map == HEADER_MAP_DROP)
        return UNDERSCORE_DROP;
    return settings->header_map == HEADER_MAP_REFUSE ? UNDERSCORE_REFUSE : UNDERSCORE_KEEP;
}

/* Lowers and trims; drops names with an underscore as header_map says. */
static struct head_refusal tidy_fields(struct request *r, const struct settings *settings, struct head_fields *f)
{
    if (r->core.fields_tidy) {
        for (size_t i = 0; i < r->field_count; i++)
            note_field(f, &r->fields[i]);
        return ACCEPTED;
    }
    size_t kept = 0;
    for (size_t i = 0; i < r->field_count; i++) {
        struct field *field = &r->fields[i];
        if (settings->permit_obsolete_folding && !unfold(field, settings->strip_header_spaces))
            return REFUSED(400, "malformed header field");
        enum underscore underscore = UNDERSCORE_KEEP;
        if (headers_lower((char *)field->name.p, field->name.len))
            underscore = judge_underscore(r, settings, f, field);
        if (underscore == UNDERSCORE_REFUSE)
            return REFUSED(400, "header name with an underscore (header_map)");
        if (underscore == UNDERSCORE_DROP)
            continue;
        field->value = headers_trim(field->value);
        note_field(f, field);
        r->fields[kept++] = *field;
    }
    r->field_count = kept;
    return ACCEPTED;
}

struct head_refusal head_judge_fields(struct request *r, const struct settings *settings)
{
    struct head_fields f = { 0 };
    bool absolute = r->host.len > 0;
    struct head_refusal refusal = tidy_fields(r, settings, &f);
    if (refusal.status == 0)
        refusal = judge_host(r, &f);
    if (refusal.status == 0 && f.transfer_encodings > 0)
        refusal = judge_transfer_encoding(r, &f);
    if (refusal.status == 0 && f.content_lengths > 0)
        refusal = judge_content_length(r, &f);
    if (refusal.status == 0 && f.expects > 0)
        refusal = judge_expect(r, &f);
    if (refusal.status == 0 && f.websocket && r->version_minor >= 1)
        refusal = judge_upgrade(r, &f);
    if (refusal.status == 0 && f.content_types > 1)
        refusal = REFUSED(400, "more than one Content-Type");
    if (refusal.status == 0)
        refusal = judge_forwarded(r, &f);
    if (refusal.status == 0)
        refusal = judge_mount(r, &f);
    if (refusal.status == 0 && absolute)
        replace_host_field(r);
    r->core.keep_alive = !f.close && (r->version_minor >= 1 || f.keep_alive);
    return refusal;
}
