/* claim: see claim.h. */
#include "server/net/claim.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "server/base/mem.h"
#include "server/net/exchange.h"

#define CHUNK 1024
#define CHUNKS 1024 /* descriptors up to a million */
#define BATCH 64
#define ROUNDS 16   /* what is readable and not at rest comes again and again */

struct claims {
    _Atomic(struct claim *) chunks[CHUNKS];
    int placeholder;
};

struct claims *claims_new(void)
{
    int placeholder = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (placeholder < 0)
        return NULL;
    struct claims *claims = mem_zalloc(sizeof(*claims));
    claims->placeholder = placeholder;
    return claims;
}

static struct claim *find(struct claims *claims, uint32_t fd)
{
    struct claim *chunk =
        fd < CHUNK * CHUNKS ? atomic_load_explicit(&claims->chunks[fd / CHUNK], memory_order_acquire) : NULL;
    return chunk ? &chunk[fd % CHUNK] : NULL;
}

struct claim *claims_at(struct claims *claims, int fd)
{
    if (fd < 0 || fd >= CHUNK * CHUNKS)
        return NULL;
    if (!find(claims, (uint32_t)fd))
        atomic_store_explicit(&claims->chunks[fd / CHUNK], mem_zalloc(sizeof(struct claim) * CHUNK),
                              memory_order_release);
    return find(claims, (uint32_t)fd);
}

bool claim_take(struct claim *claim, const struct io *io)
{
    for (;;) {
        uintptr_t owner = (uintptr_t)io;
        if (atomic_compare_exchange_strong_explicit(&claim->owner, &owner, CLAIM_LOOP, memory_order_acquire,
                                                    memory_order_acquire))
            return true;
        if (owner != CLAIM_GUARD)
            return owner == CLAIM_LOOP;
        sched_yield();
    }
}

/* --- the guard's ---------------------------------------------------------------------------------------------------- */

/* Neither can fail: the descriptor is open and is in the poller, or has just been put aside by libev. */
static void leave_placeholder(const struct claims *claims, int poll_fd, int fd)
{
    epoll_ctl(poll_fd, EPOLL_CTL_DEL, fd, NULL);
    while (dup3(claims->placeholder, fd, O_CLOEXEC) < 0) {
    }
}

/* False: no more. */
static bool offer(struct claims *claims, int poll_fd, uint32_t fd, const struct claims_giver *giver)
{
    struct claim *claim = find(claims, fd);
    uintptr_t owner = claim ? atomic_load_explicit(&claim->owner, memory_order_relaxed) : CLAIM_LOOP;
    if (owner <= CLAIM_MOVED || !atomic_compare_exchange_strong_explicit(&claim->owner, &owner, CLAIM_GUARD,
                                                                         memory_order_acquire, memory_order_relaxed))
        return true;
    struct io *io = (struct io *)owner; // NOLINT(performance-no-int-to-ptr): that is what the word is
    int result = giver->give(giver->arg, io);
    if (result != EXCHANGE_SENT) {
        atomic_store_explicit(&claim->owner, owner, memory_order_release);
        return result != EXCHANGE_FULL;
    }
    leave_placeholder(claims, poll_fd, (int)fd);
    giver->on_moved(giver->arg, io);
    atomic_store_explicit(&claim->owner, CLAIM_MOVED, memory_order_release);
    return true;
}

/* What is ready is asked of the loop's own poller: that takes nothing from the loop, as its events are level-triggered. */
void claims_give(struct claims *claims, int poll_fd, const struct claims_giver *giver)
{
    struct epoll_event ready[BATCH];
    for (int round = 0; round < ROUNDS; round++) {
        int count = epoll_wait(poll_fd, ready, BATCH, 0);
        for (int i = 0; i < count; i++)
            if ((ready[i].events & EPOLLIN) && !offer(claims, poll_fd, (uint32_t)ready[i].data.u64, giver))
                return;
        if (count < BATCH)
            return;
    }
}
