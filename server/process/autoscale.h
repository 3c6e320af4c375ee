/* autoscale: how many workers are wanted between workers_min and workers_max, by how busy they are: quick up, slow
 * down. Off unless workers_max is set.
 *
 * A worker is busy while its loop is inside a turn; one with threads, by as many of them as have a request. What is
 * waited for (a database, a sleeping coroutine) keeps no worker busy: another one would not make it come sooner.
 *
 * Looks are taken while a worker has something to do, or there are more than workers_min. At rest nothing wakes up: the
 * workers' slots are marked unseen then, and the first turn tells (worker_handle_check.c). */
#pragma once

#include <stdint.h>

struct master;
struct settings;

struct autoscale {
    uint64_t looked_ms, calm_ms; /* the last look; since when one worker fewer would do */
};

/* The bounds of what can be wanted. */
int autoscale_least(const struct settings *settings);
int autoscale_most(const struct settings *settings);

/* Looks, if it is time, and scales. Returns when to look again; 0: when a worker says something. */
uint64_t autoscale_look(struct master *master, uint64_t now_ms);
