/* address_set: the setting that says whom to trust: addresses, networks in CIDR form, or `*` for all. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct str_list;

struct address_range {
    uint8_t bytes[16]; /* IPv4 in its IPv6 form, ::ffff:0:0/96 */
    int bits;
};

struct address_set {
    struct address_range *ranges;
    size_t count;
    bool all;
};

/* Items may hold several, separated by commas. False: `*bad` is the first that is no address (the set is as far as it got;
 * done with as ever). */
bool address_set_init(struct address_set *set, const struct str_list *items, char **bad);
void address_set_done(struct address_set *set);
/* A unix socket's peer belongs to every set: its file has permissions of its own. */
bool address_set_has(const struct address_set *set, const struct sockaddr *address);
