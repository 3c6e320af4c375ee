/* mount: see mount.h. */
#include "server/http/mount.h"

#include "server/base/log.h"
#include "server/base/percent.h"
#include "server/http/request.h"

size_t mount_match(struct str path, struct str prefix)
{
    size_t at = 0;
    for (size_t i = 0; i < prefix.len; i++) {
        char c;
        size_t used = percent_decode_one((struct str){ path.p + at, path.len - at }, &c);
        if (used == 0 || c != prefix.p[i])
            return 0;
        at += used;
    }
    return at == path.len || path.p[at] == '/' ? at : 0;
}

struct str mount_trim(struct str path)
{
    while (path.len > 0 && path.p[path.len - 1] == '/')
        path.len--;
    return path;
}

struct head_refusal mount_apply(struct request *r, struct str script_name)
{
    char *decoded = arena_alloc(&r->arena, script_name.len + 1);
    struct str prefix = mount_trim((struct str){ decoded, percent_decode(script_name, decoded) });
    size_t len = mount_match(r->path, prefix);
    if (prefix.len > 0 && len == 0 && !str_eq(r->path, STR("*"))) {
        log_error("Request path '%.*s' does not start with SCRIPT_NAME '%.*s'", (int)r->path.len, r->path.p,
                  (int)script_name.len, script_name.p);
        return (struct head_refusal){ 500, "the path does not start with SCRIPT_NAME" };
    }
    struct request_front *front = request_front_of(r);
    front->script_name = prefix;
    front->script_len = len;
    return (struct head_refusal){ 0 };
}
