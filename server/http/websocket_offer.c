/* websocket_offer: see websocket_offer.h. */
#include "server/http/websocket_offer.h"

#include "server/http/headers.h"
#include "server/http/request.h"

/* 16 bytes in base64: 22 digits and "==". */
static bool key_valid(struct str key)
{
    if (key.len != 24 || key.p[22] != '=' || key.p[23] != '=')
        return false;
    for (size_t i = 0; i < 22; i++)
        if (!char_is(key.p[i], CHAR_TOKEN) && key.p[i] != '/')
            return false;
    for (size_t i = 0; i < 22; i++)
        if (memchr("!#$%&'*-.^_`|~", key.p[i], 14))
            return false;
    return true;
}

static bool protocols_valid(struct str list)
{
    struct str name;
    bool any = false;
    while (headers_list_next(&list, &name)) {
        any = true;
        if (!str_is(name, CHAR_TOKEN))
            return false;
    }
    return any;
}

enum websocket_offer websocket_offer_check(const struct request *request, bool named)
{
    struct str key = { NULL, 0 }, version = { NULL, 0 };
    int keys = 0, versions = 0;
    bool protocols = true;
    for (size_t i = 0; i < request->field_count; i++) {
        const struct field *field = &request->fields[i];
        if (str_eq(field->name, STR("sec-websocket-key"))) {
            key = field->value;
            keys++;
        } else if (str_eq(field->name, STR("sec-websocket-version"))) {
            version = field->value;
            versions++;
        } else if (str_eq(field->name, STR("sec-websocket-protocol"))) {
            protocols &= protocols_valid(field->value);
        }
    }
    if (versions == 1 && headers_number(version) >= 0 && headers_number(version) != 13)
        return WEBSOCKET_OFFER_BAD_VERSION;
    if (!named || !str_eq(request->method, STR("GET")) || request->has_body || versions != 1 ||
        !str_eq(version, STR("13")) || keys != 1 || !key_valid(key) || !protocols)
        return WEBSOCKET_OFFER_BAD;
    return WEBSOCKET_OFFER_VALID;
}
