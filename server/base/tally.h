/* tally: what a worker counts, in memory that others read at any time: one thread writes (or several under one lock), so
 * a count is a plain load and store. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

struct tally {
    _Atomic uint64_t requests;        /* responses finished or aborted */
    _Atomic uint64_t conns_accepted;
    _Atomic uint64_t status_class[6]; /* [1]..[5]: 1xx..5xx; [0]: aborted before a status */
    _Atomic uint32_t conns;           /* open now */
    _Atomic uint32_t in_flight;       /* requests that the application has and that are not answered */
    _Atomic uint32_t websockets;      /* of the connections */
};

#define tally_get(counter) atomic_load_explicit((counter), memory_order_relaxed)
#define tally_add(counter, n) atomic_store_explicit((counter), tally_get(counter) + (n), memory_order_relaxed)
