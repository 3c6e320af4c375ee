/* uwsgi: see uwsgi.h. The variables are gathered in the request's own memory and parsed there when they are all here: names of header
 * fields become HTTP's in place, all else is a slice of them. From the bottom up: single variables; what they mean together; the
 * packet. */
#include "server/http/uwsgi.h"

#include <arpa/inet.h>

#include "config/settings.h"
#include "server/base/percent.h"
#include "server/http/headers.h"
#include "server/http/mount.h"
#include "server/http/request.h"

#define PREFIX_BYTES 4

#define ACCEPTED ((struct head_refusal){ 0 })
#define REFUSED(status, reason) ((struct head_refusal){ (status), (reason) })

/* What the server itself obeys; empty: not told. Of repeated ones the last counts, as in uWSGI: configurations override so. */
struct vars {
    struct str method, uri, path_info, query, protocol, content_type, content_length, script_name;
    struct str remote_addr, remote_port, server_name, server_port;
    struct str https, request_scheme, uwsgi_scheme, url_scheme;
    struct str ours; /* what the environ has from ourselves */
    int content_lengths;
};

#define KNOWN(name, member) { { name, sizeof(name) - 1 }, offsetof(struct vars, member) }

static const struct known {
    struct str name;
    size_t offset;
} known[] = {
    KNOWN("REQUEST_METHOD", method),
    KNOWN("REQUEST_URI", uri),
    KNOWN("PATH_INFO", path_info),
    KNOWN("QUERY_STRING", query),
    KNOWN("SERVER_PROTOCOL", protocol),
    KNOWN("CONTENT_TYPE", content_type),
    KNOWN("CONTENT_LENGTH", content_length),
    KNOWN("SCRIPT_NAME", script_name),
    KNOWN("REMOTE_ADDR", remote_addr),
    KNOWN("REMOTE_PORT", remote_port),
    KNOWN("SERVER_NAME", server_name),
    KNOWN("SERVER_PORT", server_port),
    KNOWN("HTTPS", https),
    KNOWN("REQUEST_SCHEME", request_scheme),
    KNOWN("UWSGI_SCHEME", uwsgi_scheme),
    KNOWN("wsgi.url_scheme", url_scheme),
    KNOWN("SERVER_SOFTWARE", ours),
    KNOWN("RAW_URI", ours),
};

/* Header fields that are the front end's business: it has read the body as its client framed it, and frames it anew. */
static const struct str not_passed[] = {
    { "transfer-encoding", 17 },
    { "content-length", 14 },
    { "content-type", 12 },
    { "expect", 6 },
};

/* --- one variable ---------------------------------------------------------------------------------------------------- */

static struct str *find_known(struct vars *vars, struct str name)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (str_eq(known[i].name, name))
            return (struct str *)((char *)vars + known[i].offset);
    return NULL;
}

static bool is_passed(struct str name)
{
    for (size_t i = 0; i < sizeof(not_passed) / sizeof(not_passed[0]); i++)
        if (str_eq(not_passed[i], name))
            return false;
    return true;
}

static bool begins_with(struct str s, struct str start)
{
    return s.len >= start.len && (start.len == 0 || memcmp(s.p, start.p, start.len) == 0);
}

static struct head_refusal add_field(struct request *r, const struct settings *settings, struct str name, struct str value)
{
    int64_t limit = settings->limit_request_field_size;
    if (limit > 0 && name.len + value.len > (size_t)limit)
        return REFUSED(431, "a header field is too long (limit_request_field_size)");
    struct field *field = request_add_field(r, settings);
    if (field == NULL)
        return REFUSED(431, "too many header fields (limit_request_fields)");
    *field = (struct field){ name, headers_trim(value) };
    return ACCEPTED;
}

/* "HTTP_X_FORWARDED_FOR" is x-forwarded-for: an underscore of the client's own is not told apart, so front ends drop those. */
static struct head_refusal take_field(struct request *r, const struct settings *settings, struct str var, struct str value)
{
    char *name = (char *)var.p + 5;
    size_t len = var.len - 5;
    for (size_t i = 0; i < len; i++) {
        if (!char_is(name[i], CHAR_TOKEN))
            return REFUSED(400, "malformed name of a header field");
        name[i] = name[i] == '_' ? '-' : name[i];
    }
    headers_lower(name, len);
    if (len == 0 || !headers_value_valid(value))
        return REFUSED(400, "malformed header field");
    return is_passed((struct str){ name, len }) ? add_field(r, settings, (struct str){ name, len }, value) : ACCEPTED;
}

static struct head_refusal take_var(struct request *r, const struct settings *settings, struct vars *vars, struct str name,
                                    struct str value)
{
    struct request_front *front = request_front_of(r);
    if (!str_is(name, CHAR_TOKEN) || name.len == 0 || (value.len > 0 && memchr(value.p, 0, value.len)))
        return REFUSED(400, "malformed variable");
    if (begins_with(name, STR("HTTP_")))
        return take_field(r, settings, name, value);
    struct str *place = find_known(vars, name);
    if (place) {
        *place = value;
        vars->content_lengths += place == &vars->content_length;
    } else if (!begins_with(name, STR("wsgi."))) {
        ((struct field *)front->vars)[front->var_count++] = (struct field){ name, value };
    }
    return ACCEPTED;
}

/* --- all variables ---------------------------------------------------------------------------------------------------- */

static bool take_str(struct str *rest, struct str *taken)
{
    if (rest->len < 2)
        return false;
    size_t len = (size_t)((unsigned char)rest->p[0] | (unsigned char)rest->p[1] << 8);
    if (rest->len - 2 < len)
        return false;
    *taken = (struct str){ rest->p + 2, len };
    *rest = (struct str){ rest->p + 2 + len, rest->len - 2 - len };
    return true;
}

static struct head_refusal take_vars(struct request *r, const struct settings *settings, struct str rest, struct vars *vars)
{
    struct head_refusal refusal = ACCEPTED;
    size_t most = rest.len / 4 < UWSGI_VARS ? rest.len / 4 : UWSGI_VARS; /* each has two sizes */
    request_front_of(r)->vars = arena_alloc(&r->arena, most * sizeof(struct field) + 1);
    for (size_t count = 0; rest.len > 0 && refusal.status == 0; count++) {
        struct str name, value;
        if (count == UWSGI_VARS)
            return REFUSED(431, "too many variables");
        if (!take_str(&rest, &name) || !take_str(&rest, &value))
            return REFUSED(400, "a variable is longer than the packet");
        refusal = take_var(r, settings, vars, name, value);
    }
    return refusal;
}

/* --- what they mean ---------------------------------------------------------------------------------------------------- */

/* Whether PATH_INFO is told with SCRIPT_NAME in front, as nginx does unless it rewrites, or without. */
static bool is_below(struct str path, struct str script)
{
    return begins_with(path, script) && (path.len == script.len || path.p[script.len] == '/');
}

static struct str join(struct request *r, struct str a, struct str b, struct str c)
{
    char *joined = arena_alloc(&r->arena, a.len + b.len + c.len + 1);
    struct str parts[] = { a, b, c };
    size_t len = 0;
    for (size_t i = 0; i < 3; len += parts[i++].len)
        memcpy(joined + len, parts[i].len ? parts[i].p : "", parts[i].len);
    return (struct str){ joined, len };
}

static struct str encoded(struct request *r, struct str path)
{
    char *to = arena_alloc(&r->arena, 3 * path.len + 1);
    return (struct str){ to, percent_encode(path, to) };
}

static bool decodes_to(struct request *r, struct str path, struct str expected)
{
    if (path.len < expected.len)
        return false;
    char *to = arena_alloc(&r->arena, path.len + 1);
    return str_eq((struct str){ to, percent_decode(path, to) }, expected);
}

/* The path that the application sees is PATH_INFO, which the front end has decoded and may have rewritten; how the client has
 * encoded it is only known where that has not happened. */
static struct head_refusal set_path(struct request *r, const struct vars *v)
{
    struct str script = mount_trim(v->script_name), path = v->path_info;
    if (path.len == 0 && script.len == 0)
        return ACCEPTED; /* the target's */
    if (!is_below(path, script))
        path = join(r, script, path, STR(""));
    if (path.p[0] != '/' || (script.len > 0 && !is_below(path, script)))
        return str_eq(path, STR("*")) ? ACCEPTED : REFUSED(400, "PATH_INFO does not begin with a slash");
    if (!decodes_to(r, r->path, path))
        r->path = encoded(r, path);
    if (script.len == 0)
        return ACCEPTED;
    struct request_front *front = request_front_of(r);
    front->script_name = script;
    front->script_len = mount_match(r->path, script);
    return ACCEPTED;
}

static struct head_refusal set_line(struct request *r, const struct settings *settings, const struct vars *v)
{
    struct str path = v->path_info.len > 0 ? encoded(r, v->path_info) : STR("/");
    int64_t limit = settings->limit_request_line;
    r->method = v->method;
    r->target = v->uri.len > 0     ? v->uri
                : v->query.len > 0 ? join(r, path, STR("?"), v->query)
                                   : path;
    r->version_minor = str_eq(v->protocol, STR("HTTP/1.0")) ? 0 : 1;
    if (r->method.len == 0 || !str_is(r->method, CHAR_TOKEN))
        return REFUSED(400, "no REQUEST_METHOD, or a malformed one");
    if (limit > 0 && r->method.len + r->target.len > (size_t)limit)
        return REFUSED(414, "REQUEST_URI is too long (limit_request_line)");
    if (!str_is(r->target, CHAR_TARGET) || !str_is(v->query, CHAR_TARGET))
        return REFUSED(400, "malformed REQUEST_URI or QUERY_STRING");
    struct head_refusal refusal = head_judge_method(r, settings);
    if (refusal.status == 0)
        refusal = head_judge_line(r, 1, settings);
    if (refusal.status == 0)
        refusal = set_path(r, v);
    if (v->query.len > 0)
        r->query = v->query;
    return refusal;
}

static bool is_address(struct str text)
{
    char copy[INET6_ADDRSTRLEN];
    unsigned char bytes[16];
    if (text.len >= sizeof(copy))
        return false;
    memcpy(copy, text.p, text.len);
    copy[text.len] = 0;
    return inet_pton(AF_INET, copy, bytes) == 1 || inet_pton(AF_INET6, copy, bytes) == 1;
}

static int port_of(struct str text)
{
    int64_t number = headers_number(text);
    return number > 0 && number <= 65535 ? (int)number : 0;
}

/* The client of a front end's unix socket has no address: it is nobody rather than the front end. */
static void set_client(struct request *r, const struct vars *v)
{
    if (v->remote_addr.len == 0)
        return;
    r->core.is_forwarded = true;
    r->core.client = (struct endpoint){ .host = STR(""), .port = -1, .is_unix = true };
    if (is_address(v->remote_addr))
        r->core.client = (struct endpoint){ .host = v->remote_addr, .port = port_of(v->remote_port) };
}

static bool is_https(const struct vars *v)
{
    return str_ieq(v->https, STR("on")) || str_eq(v->https, STR("1")) || str_ieq(v->https, STR("true")) ||
           str_ieq(v->request_scheme, STR("https")) || str_ieq(v->uwsgi_scheme, STR("https")) ||
           str_ieq(v->url_scheme, STR("https"));
}

static struct head_refusal set_fields(struct request *r, const struct settings *settings, const struct vars *v)
{
    struct head_refusal refusal = ACCEPTED;
    if (v->content_lengths > 1)
        return REFUSED(400, "more than one CONTENT_LENGTH");
    if (!headers_value_valid(v->content_type) || (v->content_length.len > 0 && headers_number(v->content_length) < 0))
        return REFUSED(400, "malformed CONTENT_TYPE or CONTENT_LENGTH");
    if (v->content_type.len > 0)
        refusal = add_field(r, settings, STR("content-type"), v->content_type);
    if (refusal.status == 0 && v->content_length.len > 0)
        refusal = add_field(r, settings, STR("content-length"), v->content_length);
    r->core.fields_tidy = true;
    return refusal;
}

static struct head_refusal set_body(struct request *r, const struct settings *settings)
{
    r->has_body = r->content_length > 0;
    r->body_end = !r->has_body;
    if (settings->limit_request_body > 0 && r->content_length > settings->limit_request_body)
        return REFUSED(413, "the request body is too large (limit_request_body)");
    return ACCEPTED;
}

static struct head_refusal judge(struct request *r, const struct settings *settings, struct str packet)
{
    struct vars vars = { .content_lengths = 0 };
    struct head_refusal refusal = take_vars(r, settings, packet, &vars);
    if (refusal.status == 0)
        refusal = set_line(r, settings, &vars);
    if (refusal.status == 0)
        refusal = set_fields(r, settings, &vars);
    set_client(r, &vars);
    r->core.is_https = is_https(&vars);
    request_front_of(r)->server = (struct endpoint){ .host = vars.server_name, .port = port_of(vars.server_port) };
    if (refusal.status == 0)
        refusal = head_judge_fields(r, settings);
    if (refusal.status == 0)
        refusal = set_body(r, settings);
    r->core.keep_alive = false;
    r->core.front_frames = true;
    return refusal;
}

/* --- the packet --------------------------------------------------------------------------------------------------------- */

static unsigned char byte_at(const struct request *r, size_t i)
{
    return (unsigned char)r->core.head.data[i];
}

static struct head_refusal judge_prefix(const struct request *r, const struct settings *settings, size_t *size)
{
    *size = (size_t)(byte_at(r, 1) | byte_at(r, 2) << 8);
    if (byte_at(r, 0) != 0 || byte_at(r, 3) != 0)
        return REFUSED(501, "not uwsgi, or a modifier other than 0");
    if (*size == 0)
        return REFUSED(400, "a packet without variables");
    if (PREFIX_BYTES + *size > (size_t)settings->limit_request_head)
        return REFUSED(431, "the request head is too long (limit_request_head)");
    return ACCEPTED;
}

/* Until the head is `wanted` bytes long. */
static bool gather(struct request *r, size_t wanted, const char *data, size_t len, size_t *used)
{
    size_t missing = wanted > r->core.head_len ? wanted - r->core.head_len : 0, n = len - *used < missing ? len - *used : missing;
    buf_append(&r->core.head, data + *used, n);
    r->core.head_len += n;
    *used += n;
    return n == missing;
}

enum uwsgi_result uwsgi_head(struct request *r, const struct settings *settings, const char *data, size_t len, size_t *used,
                             struct head_refusal *refusal)
{
    size_t size;
    *used = 0;
    if (!gather(r, PREFIX_BYTES, data, len, used))
        return UWSGI_MORE;
    *refusal = judge_prefix(r, settings, &size);
    if (refusal->status)
        return UWSGI_ERROR;
    if (!gather(r, PREFIX_BYTES + size, data, len, used))
        return UWSGI_MORE;
    r->core.base = r->core.head.data;
    r->core.base_len = r->core.head_len;
    *refusal = judge(r, settings, (struct str){ r->core.base + PREFIX_BYTES, size });
    return refusal->status ? UWSGI_ERROR : UWSGI_DONE;
}
