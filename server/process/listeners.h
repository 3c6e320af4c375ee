/* listeners: the listening sockets, bound by the master and open there for as long as the server accepts; workers get
 * them with their spawn message. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "config/settings.h"

#define LISTENERS_MAX 32

struct listeners {
    int fds[LISTENERS_MAX];
    int exchanges[LISTENERS_MAX][2]; /* where workers pass connections of it on to each other (net/exchange.h) */
    char *texts[LISTENERS_MAX]; /* the item of `bind` that each stands for; a host name may have several */
    int count;
    bool reuse_port;            /* for those opened from now on */
    bool shared;                /* with a predecessor or a successor, who serves on */
    bool owned;                 /* a unix socket's file belongs to `owner` and `group`, not to who makes it */
    uid_t owner;
    gid_t group;
    mode_t umask;               /* what a unix socket's file does not get, beside the x bits */
    struct listeners_path {
        char *path;             /* a unix socket's file, to be unlinked if it is still the one we made; else NULL */
        dev_t device;
        ino_t inode;
    } paths[LISTENERS_MAX];
};

/* Binds and listens on every address of `bind` that is not open yet. A host name is bound on each of its addresses; [::]
 * takes IPv4 too, as gunicorn does; an empty host or * is 0.0.0.0. A unix socket's stale file is removed and the new one
 * is open to everybody: its folder is what restricts access. -1 with a complete message in `errors`, and only what was
 * open before still is. */
int listeners_open(struct listeners *listeners, const struct str_list *bind, int backlog, struct buf *errors);

/* The descriptors of `bind`'s addresses, in the order in which they were opened. Returns how many. */
int listeners_of(const struct listeners *listeners, const struct str_list *bind, int fds[LISTENERS_MAX]);
/* … and the ends of their exchanges, two each. */
int listeners_exchanges_of(const struct listeners *listeners, const struct str_list *bind, int fds[LISTENERS_MAX * 2]);

/* Closes what `bind` does not name, with a line in the log; the others wait with `backlog` from now on. Returns how many
 * were closed. */
int listeners_keep(struct listeners *listeners, const struct str_list *bind, int backlog);

/* The kernel takes no new TCP connections from now on, without a word to those who try: they try again a second later,
 * and are refused when all who hold the sockets have closed them. What waits in the backlog is not touched by that, so
 * that it can be emptied, which could have no end otherwise. Sockets that somebody
 * else has, too, are left alone. */
void listeners_turn_syns_away(const struct listeners *listeners);

/* The server ends: workers pass no connections on any more, but to another server's where the sockets are shared. */
void listeners_shut_exchanges(const struct listeners *listeners);

/* Closes them all and unlinks the files that are ours alone. Idempotent. */
void listeners_close(struct listeners *listeners);

/* For a successor: what there is to know of the sockets beside their descriptors, a line each, and their descriptors: all
 * sockets, then both ends of each one's exchange. Returns how many. */
void listeners_describe(const struct listeners *listeners, struct buf *text);
int listeners_descriptors(const struct listeners *listeners, int fds[LISTENERS_MAX * 3]);
/* The same, read back: takes the descriptors over. False: nonsense, and none is taken. */
bool listeners_adopt(struct listeners *listeners, struct str text, const int *fds, int count);
