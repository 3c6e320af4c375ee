/* proxy_protocol: see proxy_protocol.h. A byte at a time: a connection has one such header. */
#include "server/net/proxy_protocol.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdbool.h>
#include <string.h>

static const uint8_t v2_signature[12] = { '\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n' };
static const uint8_t v1_signature[6] = { 'P', 'R', 'O', 'X', 'Y', ' ' };

enum { COMMAND_LOCAL = 0x20, COMMAND_PROXY = 0x21 };
enum { FAMILY_TCP4 = 0x11, FAMILY_TCP6 = 0x21, ADDRESSES_TCP4 = 12, ADDRESSES_TCP6 = 36 };

/* --- addresses ---------------------------------------------------------------------------------------------------- */

static struct sockaddr_in6 address4(const void *address, uint16_t port_be)
{
    struct sockaddr_in6 any = { .sin6_family = AF_UNSPEC };
    struct sockaddr_in *v4 = (struct sockaddr_in *)&any;
    v4->sin_family = AF_INET;
    v4->sin_port = port_be;
    memcpy(&v4->sin_addr, address, 4);
    return any;
}

static struct sockaddr_in6 address6(const void *address, uint16_t port_be)
{
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = port_be };
    memcpy(&v6.sin6_addr, address, 16);
    return v6;
}

/* --- v1: "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n" ----------------------------------------------------------- */

/* Takes what stands before the next blank, or the end, off `line`; words are separated by one blank. */
static bool take_word(const char **line, char *word, size_t size)
{
    size_t n = strcspn(*line, " ");
    if (n == 0 || n >= size)
        return false;
    memcpy(word, *line, n);
    word[n] = 0;
    *line += n + ((*line)[n] == ' ');
    return true;
}

static bool take_port(const char **line, uint16_t *port_be)
{
    char word[6];
    unsigned port = 0;
    if (!take_word(line, word, sizeof(word)))
        return false;
    for (const char *c = word; *c; c++) {
        if (!isdigit((unsigned char)*c))
            return false;
        port = port * 10 + (unsigned)(*c - '0');
    }
    *port_be = htons((uint16_t)port);
    return port <= 65535;
}

static bool parse_addresses(struct proxy_protocol *p, const char *line, int family)
{
    char source[INET6_ADDRSTRLEN], target[INET6_ADDRSTRLEN];
    uint8_t from[16], to[16];
    uint16_t port_be, target_port_be;
    if (!take_word(&line, source, sizeof(source)) || !take_word(&line, target, sizeof(target)) ||
        !take_port(&line, &port_be) || !take_port(&line, &target_port_be) || *line)
        return false;
    if (inet_pton(family, source, from) != 1 || inet_pton(family, target, to) != 1)
        return false;
    p->client = (family == AF_INET ? address4 : address6)(from, port_be);
    p->target = (family == AF_INET ? address4 : address6)(to, target_port_be);
    return true;
}

/* `line` is without its end. Behind UNKNOWN anything may stand. */
static bool parse_line(struct proxy_protocol *p, const char *line)
{
    char family[8];
    const char *end = line + strlen(line);
    line += sizeof(v1_signature);
    if (!take_word(&line, family, sizeof(family)))
        return false;
    if (strcmp(family, "UNKNOWN") == 0)
        return true;
    if (line == end || end[-1] == ' ')
        return false;
    if (strcmp(family, "TCP4") == 0)
        return parse_addresses(p, line, AF_INET);
    return strcmp(family, "TCP6") == 0 && parse_addresses(p, line, AF_INET6);
}

static enum proxy_result judge_v1(struct proxy_protocol *p)
{
    uint8_t last = p->bytes[p->len - 1];
    if (last == 0)
        return PROXY_ERROR;
    if (last != '\n')
        return p->len == PROXY_V1_BYTES ? PROXY_ERROR : PROXY_MORE;
    if (p->bytes[p->len - 2] != '\r')
        return PROXY_ERROR;
    p->bytes[p->len - 2] = 0;
    return parse_line(p, (const char *)p->bytes) ? PROXY_DONE : PROXY_ERROR;
}

/* --- v2: signature, command, family, length (16 bytes), addresses, TLVs ----------------------------------------------- */

static uint16_t read16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

/* How many bytes the addresses of this family take; of others nothing is read. */
static uint16_t address_bytes(const struct proxy_protocol *p)
{
    uint8_t family = p->bytes[13];
    if (p->bytes[12] == COMMAND_LOCAL)
        return 0;
    return family == FAMILY_TCP4 ? ADDRESSES_TCP4 : family == FAMILY_TCP6 ? ADDRESSES_TCP6 : 0;
}

/* Source address, target address, source port, target port. */
static void take_addresses(struct proxy_protocol *p, uint16_t len)
{
    const uint8_t *from = p->bytes + PROXY_V2_BYTES, *to = from + (len - 4) / 2;
    uint16_t ports_be[2];
    if (len == 0)
        return;
    memcpy(ports_be, from + len - 4, sizeof(ports_be));
    p->client = (len == ADDRESSES_TCP4 ? address4 : address6)(from, ports_be[0]);
    p->target = (len == ADDRESSES_TCP4 ? address4 : address6)(to, ports_be[1]);
}

static enum proxy_result judge_v2(struct proxy_protocol *p)
{
    if (p->len < PROXY_V2_BYTES)
        return PROXY_MORE;
    uint8_t command = p->bytes[12];
    uint16_t addresses = address_bytes(p), length = read16(p->bytes + 14);
    if ((command != COMMAND_LOCAL && command != COMMAND_PROXY) || length < addresses)
        return PROXY_ERROR;
    if (p->len < PROXY_V2_BYTES + addresses)
        return PROXY_MORE;
    take_addresses(p, addresses);
    p->skip = length - addresses;
    return p->skip > 0 ? PROXY_MORE : PROXY_DONE;
}

/* --- entry points --------------------------------------------------------------------------------------------------- */

static bool begins_with(const struct proxy_protocol *p, const uint8_t *signature, size_t len)
{
    return memcmp(p->bytes, signature, p->len < len ? p->len : len) == 0;
}

static enum proxy_result judge(struct proxy_protocol *p)
{
    if (p->versions != PROXY_V1 && begins_with(p, v2_signature, sizeof(v2_signature)))
        return judge_v2(p);
    if (p->versions != PROXY_V2 && begins_with(p, v1_signature, sizeof(v1_signature)))
        return p->len > sizeof(v1_signature) ? judge_v1(p) : PROXY_MORE;
    return PROXY_ABSENT;
}

void proxy_protocol_init(struct proxy_protocol *p, enum proxy_versions versions)
{
    *p = (struct proxy_protocol){ .versions = versions };
}

enum proxy_result proxy_protocol_feed(struct proxy_protocol *p, const char *data, size_t len, size_t *used)
{
    enum proxy_result result = PROXY_MORE;
    for (*used = 0; *used < len && result == PROXY_MORE; ++*used) {
        if (p->skip > 0) {
            result = --p->skip > 0 ? PROXY_MORE : PROXY_DONE;
            continue;
        }
        p->bytes[p->len++] = (uint8_t)data[*used];
        result = judge(p);
    }
    return result;
}
