/* upgrade: USR2: the executable is exchanged. A successor is started from the same command line, and both serve on the
 * same sockets until one of them is told to end:
 *
 *      predecessor                                     successor
 *        | --- fork, exec; $LICORNE_HERITAGE ----------> |
 *        | --- HERITAGE + sockets, their exchanges ----> |  (lies in the channel before the exec)
 *        | <-- SUCCEEDED ------------------------------- |  all its workers are ready
 *        |                                               |
 *        |  waitpid: the successor has ended:            |  EOF: the predecessor has ended:
 *        |  alone again, as if nothing had been          |  alone, and its names are ours (master_take_names)
 *
 * While both live neither filters, shuts down or unlinks what the other listens on, and the workers of the one that ends
 * pass their idle connections on to the other's. The messages of this channel are
 * between executables of different versions: text, and numbers that never change. */
#pragma once

#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

struct master;

#define UPGRADE_POLLED 2

struct upgrade {
    pid_t successor, predecessor;     /* 0: none */
    int to_successor, to_predecessor; /* channels; -1: none */
    bool succeeded;                   /* the successor is ready */
    mode_t umask;                     /* of the start */
};

/* First of all: keeps the command line, before titles are written over it. */
void upgrade_remember(char **argv);
/* This process was started by a predecessor. */
bool upgrade_is_successor(void);

/* At the start: takes the sockets from the predecessor, where there is one. 0, or -1: logged. */
int upgrade_init(struct master *master);
void upgrade_done(struct master *master);
/* USR2. NULL, or why not. */
const char *upgrade_begin(struct master *master);
/* This server has become ready, is about to stop. */
void upgrade_ready(struct master *master);
void upgrade_stopping(struct master *master);
/* Whether it was the successor that has died. */
bool upgrade_reap(struct master *master, const siginfo_t *death, const char *description);

/* Another server's workers take the connections that this one's give away. */
bool upgrade_has_neighbour(const struct master *master);

size_t upgrade_poll(const struct upgrade *upgrade, struct pollfd polled[UPGRADE_POLLED]);
void upgrade_turn(struct master *master, const struct pollfd polled[UPGRADE_POLLED]);

static inline bool upgrade_has_predecessor(const struct upgrade *upgrade)
{
    return upgrade->predecessor > 0;
}
