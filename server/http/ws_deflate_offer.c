/* ws_deflate_offer: see ws_deflate_offer.h. */
#include "server/http/ws_deflate_offer.h"

#include <string.h>

#include "config/settings.h"
#include "server/base/buf.h"
#include "server/http/headers.h"
#include "server/http/request.h"

/* One offer. Bits: 0 if they are not named, or without a number. */
struct offer {
    bool server_reset, client_reset, client_bits_named, server_bits_named;
    int client_bits, server_bits;
};

static struct str take_until(struct str *rest, char separator)
{
    const char *mark = rest->len > 0 ? memchr(rest->p, separator, rest->len) : NULL;
    size_t len = mark ? (size_t)(mark - rest->p) : rest->len;
    struct str part = { rest->p, len };
    size_t used = mark ? len + 1 : len;
    *rest = (struct str){ rest->p + used, rest->len - used };
    return headers_trim(part);
}

/* 8 to 15, perhaps in quotation marks; else 0. */
static int window_bits(struct str value)
{
    if (value.len >= 2 && value.p[0] == '"' && value.p[value.len - 1] == '"')
        value = (struct str){ value.p + 1, value.len - 2 };
    int64_t bits = value.len > 0 && value.p[0] != '0' ? headers_number(value) : 0;
    return bits >= 8 && bits <= 15 ? (int)bits : 0;
}

static bool once(bool *seen)
{
    bool first = !*seen;
    *seen = true;
    return first;
}

/* False: the parameter is unknown, wrong or there twice, so the offer must be declined (RFC 7692 7.1). */
static bool take_parameter(struct offer *offer, struct str parameter)
{
    bool valued = parameter.len > 0 && memchr(parameter.p, '=', parameter.len) != NULL;
    struct str value = parameter, name = take_until(&value, '=');
    value = headers_trim(value);
    if (str_eq(name, STR("server_no_context_takeover")))
        return !valued && once(&offer->server_reset);
    if (str_eq(name, STR("client_no_context_takeover")))
        return !valued && once(&offer->client_reset);
    if (str_eq(name, STR("client_max_window_bits"))) {
        offer->client_bits = window_bits(value);
        return (!valued || offer->client_bits) && once(&offer->client_bits_named);
    }
    if (str_eq(name, STR("server_max_window_bits"))) {
        offer->server_bits = window_bits(value);
        return offer->server_bits >= WS_WINDOW_BITS_MIN && once(&offer->server_bits_named);
    }
    return false;
}

static bool take_offer(struct str text, struct offer *offer)
{
    *offer = (struct offer){ 0 };
    if (!str_eq(take_until(&text, ';'), STR("permessage-deflate")))
        return false;
    while (text.len > 0)
        if (!take_parameter(offer, take_until(&text, ';')))
            return false;
    return true;
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

static struct ws_deflate_terms agreed(const struct offer *offer, const struct settings *settings)
{
    int bits = (int)settings->ws_deflate_window_bits;
    int client_bits = offer->client_bits ? offer->client_bits : WS_WINDOW_BITS_MAX;
    bool bounded = offer->client_bits_named || bits == WS_WINDOW_BITS_MAX;
    struct ws_deflate_terms terms = { .out_bits = (uint8_t)bits, .in_bits = WS_WINDOW_BITS_MAX };
    terms.out_bits_said = offer->server_bits_named;
    if (offer->server_bits_named)
        terms.out_bits = (uint8_t)least(bits, offer->server_bits);
    terms.out_takeover = settings->ws_deflate_takeover && !offer->server_reset;
    terms.in_takeover = settings->ws_deflate_takeover && !offer->client_reset && bounded;
    terms.in_bits_said = terms.in_takeover && offer->client_bits_named;
    if (terms.in_bits_said)
        terms.in_bits = (uint8_t)least(bits, client_bits);
    return terms;
}

bool ws_deflate_offer_agree(const struct request *r, const struct settings *settings, struct ws_deflate_terms *terms)
{
    for (size_t i = 0; i < r->field_count; i++) {
        struct str rest = r->fields[i].value, text;
        if (!str_eq(r->fields[i].name, STR("sec-websocket-extensions")))
            continue;
        struct offer offer;
        while (headers_list_next(&rest, &text))
            if (take_offer(text, &offer)) {
                *terms = agreed(&offer, settings);
                return true;
            }
    }
    return false;
}

void ws_deflate_terms_put(const struct ws_deflate_terms *terms, struct buf *head)
{
    buf_append_str(head, STR("sec-websocket-extensions: permessage-deflate"));
    if (!terms->out_takeover)
        buf_append_str(head, STR("; server_no_context_takeover"));
    if (!terms->in_takeover)
        buf_append_str(head, STR("; client_no_context_takeover"));
    if (terms->out_bits_said)
        buf_printf(head, "; server_max_window_bits=%d", terms->out_bits);
    if (terms->in_bits_said)
        buf_printf(head, "; client_max_window_bits=%d", terms->in_bits);
    buf_append_str(head, STR("\r\n"));
}
