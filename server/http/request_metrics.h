/* request_metrics: requests, their statuses and durations, for statsd. Counters are summed up and sent with the durations
 * every tenth of a second while there are requests; nothing wakes up when there are none. */
#pragma once

#include <stdint.h>

struct loop;
struct request;
struct request_metrics;

struct request_metrics *request_metrics_new(struct loop *loop);
/* `ended_ns`: CLOCK_MONOTONIC. */
void request_metrics_add(struct request_metrics *metrics, const struct request *request, uint64_t ended_ns);
/* Sends what there is. */
void request_metrics_send(struct request_metrics *metrics);
void request_metrics_free(struct request_metrics *metrics);
