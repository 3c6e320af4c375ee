/* home: the folder that the server was started in. New code is found by its name, not by what the name meant then: a
 * deployment that exchanges a symbolic link to the folder is served by the next reload. */
#pragma once

struct home {
    char *path; /* $PWD where that is right, as it may go through links; NULL: it cannot be named */
    int fd;     /* should the name have gone */
};

/* 0, or -1 with errno. */
int home_init(struct home *home);
void home_done(struct home *home);
/* Makes it the working directory. 0, or -1 with errno. */
int home_enter(const struct home *home);
/* `path` as it is meant: in `folder` (NULL: none), in the home. To be freed. */
char *home_resolve(const struct home *home, const char *folder, const char *path);
