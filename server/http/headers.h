/* headers: the grammar that header fields and request targets are made of (RFC 9110 5, RFC 3986): byte classes, and
 * checks of whole values. Knows no connection and keeps no state. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/base/str.h"

enum {
    CHAR_TOKEN = 1,  /* tchar: field names, methods */
    CHAR_VALUE = 2,  /* HTAB, SP, VCHAR, obs-text: field values, reason phrases */
    CHAR_TARGET = 4, /* what may stand in a request target: VCHAR but '#' */
    CHAR_METHOD = 8, /* a conventional method: tchar but a-z and '#' */
    CHAR_HOST = 16,  /* reg-name, a percent sign included */
    CHAR_DIGIT = 32,
    CHAR_HEX = 64,
};

extern const uint8_t headers_chars[256];
/* A byte of a field name in lower case; 0: none of a name, or an underscore, which header_map is about. */
extern const uint8_t headers_lowered[256];

static inline bool char_is(char c, int class)
{
    return headers_chars[(uint8_t)c] & class;
}

#define HEADERS_EACH(byte) (0x0101010101010101ull * (byte))

/* Of eight bytes: the high bit of each that is < 0x20 or 0x7f. Above the first of them others may be marked, too. */
static inline uint64_t headers_control_bytes(uint64_t bytes)
{
    uint64_t del = bytes ^ HEADERS_EACH(0x7f);
    return (((bytes - HEADERS_EACH(0x20)) & ~bytes) | ((del - HEADERS_EACH(0x01)) & ~del)) & HEADERS_EACH(0x80);
}

/* Every byte of `s` is of the class; true for an empty one. */
bool str_is(struct str s, int class);
/* As str_is(value, CHAR_VALUE), eight bytes at a time. */
bool headers_value_valid(struct str value);
/* Turns A-Z into a-z, in place. Returns whether there is an underscore among the bytes. */
bool headers_lower(char *name, size_t len);
/* Without the SP and HTAB around it. */
struct str headers_trim(struct str value);

/* The next element of a comma-separated list, trimmed; false at the end. Empty elements are skipped. */
bool headers_list_next(struct str *rest, struct str *element);
/* `token` is an element of the list, in any case. */
bool headers_list_has(struct str list, struct str token);

/* uri-host [":" port]: no userinfo, path or blanks; port at most 65535. */
bool headers_host_valid(struct str host);
/* Splits "host:port" and "[v6]:port"; the port is empty when there is none. False: nonsense. */
bool headers_split_host(struct str host, struct str *name, struct str *port);
/* Two valid authorities name the same host and port (80 when there is none). */
bool headers_same_host(struct str a, struct str b);

/* Decimal digits alone, at most INT64_MAX; else -1. */
int64_t headers_number(struct str text);
/* Writes `number` in decimal; returns how many digits (at most 20). */
size_t headers_put_number(char *to, uint64_t number);
