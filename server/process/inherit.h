/* inherit: what a worker gets from the processes before it: the one struct that crosses a fork. */
#pragma once

#include <stdint.h>

struct scoreboard;
struct settings;
struct slot;
struct inflight_table;

struct inherit {
    int channel;       /* to the master */
    int *listeners;    /* listening sockets, shared with the siblings; non-blocking */
    int listener_count;
    int (*exchanges)[2]; /* by listener, both ends (net/exchange.h); NULL: none */
    struct slot *slot;               /* this worker's place in the scoreboard … */
    struct inflight_table *inflight; /* … and where it lists its requests */
    struct scoreboard *scoreboard;
    int bell;                        /* all workers': balance.h */
    uint32_t slot_index, generation, age;
    const struct settings *settings;
};
