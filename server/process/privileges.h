/* privileges: user and group. The master stays what it was started as, so that it can bind, reopen logs and reload; molds
 * become the user before any of the application runs, and workers are their children. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct buf;
struct settings;

struct privileges {
    bool drop; /* else the processes are who they are already, and nothing below counts */
    uid_t uid;
    gid_t gid;
    bool initgroups;
    char name[64]; /* the user's; "": not known, or not needed */
};

/* Who the settings say. False with a message in `errors`: unknown, or not to be had. */
bool privileges_find(struct privileges *privileges, const struct settings *settings, struct buf *errors);
/* Becomes that user, for good: the process, and what it starts. 0, or -1 with errno. */
int privileges_drop(const struct privileges *privileges);
/* So that the user can open a log anew: it is there, and is his if it is root's. What is no plain file is left alone. 0,
 * or -1 with errno. */
int privileges_give_file(const struct privileges *privileges, const char *path);
