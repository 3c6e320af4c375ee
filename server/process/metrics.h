/* metrics: what the master tells statsd: how many workers there are, whenever that changes, and if it is wanted
 * (enable_backlog_metric) each second how many connections wait to be accepted. */
#pragma once

#include <stdint.h>

struct master;
struct settings;

/* These settings count from now on. */
void metrics_open(const struct settings *settings);
/* Once a turn. Returns when the next one is due; 0: never. */
uint64_t metrics_turn(const struct master *master, uint64_t now_ms);
