/* claim: whose an idle connection is. Usually the loop's; but while the loop is stuck in the application, a thread that
 * watches it (process/guard.h) may give connections at rest away to other processes. One word for each descriptor says who
 * may touch it, in memory that is never freed while the process lives:
 *
 *        CLAIM_LOOP ──io_rest──> struct io * ──compare and swap──> CLAIM_GUARD ──given──> CLAIM_MOVED
 *             ^                      │  ^                              │
 *             └──compare and swap────┘  └────────── not given ─────────┘
 *
 * At rest (nothing written, nothing being read) the word is the io itself. The loop takes it back before it touches the io
 * in whatever way: io_claim(). If that says no, the connection is another's; its descriptor is then a placeholder, a number
 * that is not given out again before the loop has noticed and closes it. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct io;

enum { CLAIM_LOOP, CLAIM_GUARD, CLAIM_MOVED }; /* any other value: the io's address */

struct claim {
    _Atomic uintptr_t owner;
};

struct claims;

/* NULL with errno: no placeholder can be had. Lives as long as the process. */
struct claims *claims_new(void);
/* The loop's thread alone: the word of a descriptor, CLAIM_LOOP at first. NULL: the number is too high for us. */
struct claim *claims_at(struct claims *claims, int fd);

/* True: it is the loop's (again). False: it has been moved. Waits for the moment that a guard takes to decide. */
bool claim_take(struct claim *claim, const struct io *io);

/* The guard's thread: offers what is readable and at rest to `give`, until that says EXCHANGE_FULL. After EXCHANGE_SENT,
 * when nothing of the connection is left here, on_moved(): the loop is to learn of it. */
struct claims_giver {
    int (*give)(void *arg, struct io *io); /* enum exchange_result */
    void (*on_moved)(void *arg, struct io *io);
    void *arg;
};
void claims_give(struct claims *claims, int poll_fd, const struct claims_giver *giver);
