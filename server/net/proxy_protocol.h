/* proxy_protocol: the header by which a proxy says, before the first byte of a connection, whose connection it is:
 * HAProxy's PROXY protocol (proxy-protocol.txt), v1 (a line of text) and v2 (binary). Fed with bytes as they come, in any
 * pieces; makes no system calls. Whether the peer may say such a thing is its caller's question. */
#pragma once

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

/* The setting proxy_protocol. */
enum proxy_versions { PROXY_OFF, PROXY_V1, PROXY_V2, PROXY_AUTO };

enum proxy_result {
    PROXY_MORE,   /* all bytes were taken, and it is not over */
    PROXY_DONE,   /* the header is complete; what follows belongs to the connection */
    PROXY_ABSENT, /* the connection begins otherwise: `bytes` holds all that was taken */
    PROXY_ERROR,  /* no header that the specification allows */
};

#define PROXY_V1_BYTES 107 /* §2.1: the longest line */
#define PROXY_V2_BYTES 16  /* §2.2: its fixed part */

struct proxy_protocol {
    enum proxy_versions versions;
    uint16_t len;         /* of `bytes` */
    uint16_t skip;        /* v2: what follows the addresses (TLVs, §2.2.7), still to be read over */
    uint8_t bytes[PROXY_V1_BYTES];
    struct sockaddr_in6 client; /* or sockaddr_in; AF_UNSPEC: not told (LOCAL, UNKNOWN, a unix socket) */
    struct sockaddr_in6 target; /* where it had connected to; of the same family */
};

void proxy_protocol_init(struct proxy_protocol *proxy, enum proxy_versions versions);
/* *used: how many of `data` were taken. */
enum proxy_result proxy_protocol_feed(struct proxy_protocol *proxy, const char *data, size_t len, size_t *used);
