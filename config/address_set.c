/* address_set: see address_set.h. */
#include "config/address_set.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "config/setting_row.h"
#include "config/settings.h"
#include "server/base/mem.h"

static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

static void map_ipv4(uint8_t bytes[16], const void *four)
{
    memcpy(bytes, mapped, 12);
    memcpy(bytes + 12, four, 4);
}

static bool parse_address(const char *text, struct address_range *range)
{
    uint8_t four[4];
    if (inet_pton(AF_INET6, text, range->bytes) == 1)
        return true;
    if (inet_pton(AF_INET, text, four) != 1)
        return false;
    map_ipv4(range->bytes, four);
    return true;
}

/* "10.0.0.0/8": the bits beyond the prefix must be zero, as gunicorn has it. */
static bool has_host_bits(const struct address_range *range)
{
    for (int bit = range->bits; bit < 128; bit++)
        if (range->bytes[bit / 8] & 0x80 >> bit % 8)
            return true;
    return false;
}

static bool parse_range(char *text, struct address_range *range)
{
    char *slash = strchr(text, '/'), *end = NULL;
    bool v6 = strchr(text, ':') != NULL;
    range->bits = 128;
    if (slash) {
        *slash = 0;
        long bits = strtol(slash + 1, &end, 10);
        if (end == slash + 1 || *end || bits < 0 || bits > (v6 ? 128 : 32))
            return false;
        range->bits = (int)bits + (v6 ? 0 : 96);
    }
    return parse_address(text, range) && !has_host_bits(range);
}

static bool add(struct address_set *set, struct str word)
{
    char *text = mem_strndup(word.p, word.len);
    set->ranges = mem_realloc(set->ranges, (set->count + 1) * sizeof(*set->ranges));
    bool all = strcmp(text, "*") == 0, good = all || parse_range(text, &set->ranges[set->count]);
    set->all |= all;
    set->count += good && !all;
    free(text);
    return good;
}

bool address_set_init(struct address_set *set, const struct str_list *items, char **bad)
{
    *set = (struct address_set){ 0 };
    for (size_t i = 0; i < items->count; i++) {
        const char *rest = items->items[i];
        struct str word;
        while (setting_row_word(&rest, ',', &word)) {
            if (add(set, word))
                continue;
            *bad = mem_strndup(word.p, word.len);
            return false;
        }
    }
    return true;
}

void address_set_done(struct address_set *set)
{
    free(set->ranges);
    *set = (struct address_set){ 0 };
}

static bool range_has(const struct address_range *range, const uint8_t bytes[16])
{
    int whole = range->bits / 8, rest = range->bits % 8;
    if (memcmp(range->bytes, bytes, (size_t)whole) != 0)
        return false;
    return rest == 0 || ((range->bytes[whole] ^ bytes[whole]) & (uint8_t)(0xff << (8 - rest))) == 0;
}

bool address_set_has(const struct address_set *set, const struct sockaddr *address)
{
    uint8_t bytes[16];
    if (set->all || address->sa_family == AF_UNIX)
        return true;
    if (address->sa_family == AF_INET6)
        memcpy(bytes, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
    else if (address->sa_family == AF_INET)
        map_ipv4(bytes, &((const struct sockaddr_in *)address)->sin_addr);
    else
        return false;
    for (size_t i = 0; i < set->count; i++)
        if (range_has(&set->ranges[i], bytes))
            return true;
    return false;
}
