/* statsd: metrics to a statsd daemon, over UDP or a unix datagram socket, with gunicorn's names. One a process, like the log;
 * closed, everything here does nothing.
 *
 * Nobody waits: what the kernel does not take at once is lost, as datagrams are. Lines are collected, several in a datagram
 * of at most STATSD_DATAGRAM bytes, until one is full or somebody flushes. Callable from any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "server/base/str.h"

#define STATSD_DATAGRAM 1432 /* passes an Ethernet whole, with what tunnels add */

/* `address`: HOST:PORT, HOST, or unix://PATH; a host name is looked up now. `prefix`: put before each name; `tags`:
 * DogStatsD's, "k:v,k:v". Takes the place of what was open. NULL or "": closes. False: the reason is in `reason`. */
bool statsd_open(const char *address, const char *prefix, const char *tags, const char **reason);
/* Whether the address can be understood; nothing is looked up. */
bool statsd_can_be(const char *address);
bool statsd_is_open(void);

/* Collected. `name`: without the prefix. */
void statsd_count(const char *name, uint64_t count);
void statsd_time(const char *name, double milliseconds);
void statsd_gauge(const char *name, int64_t value);
void statsd_histogram(const char *name, int64_t value);
/* A value of any kind ("c", "g", "ms"), as text. */
void statsd_put(const char *name, const char *value, const char *kind);
/* Sends what was collected. */
void statsd_flush(void);

/* From now on lines of the error log are counted (gunicorn.log.error, …), and sent at once. */
void statsd_count_log(void);
