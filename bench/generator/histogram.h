/* histogram: how often each duration occurred, in buckets 1/64 of a power of two wide: quantiles to 1.6 %, no memory
 * that grows. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEPS 64 /* of each power of two */

struct histogram {
    uint64_t counts[60 * HISTOGRAM_STEPS];
    uint64_t count, max;
    double sum;
};

static inline unsigned histogram_bucket(uint64_t ns)
{
    if (ns < HISTOGRAM_STEPS)
        return (unsigned)ns;
    unsigned shift = 57U - (unsigned)__builtin_clzll(ns);
    return shift * HISTOGRAM_STEPS + (unsigned)(ns >> shift);
}

static inline void histogram_add(struct histogram *h, int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    h->counts[histogram_bucket(value)]++;
    h->count++;
    h->sum += (double)value;
    if (value > h->max)
        h->max = value;
}

/* The duration in ns that this part of all are not longer than: the upper end of its bucket. */
static inline double histogram_quantile(const struct histogram *h, double part)
{
    uint64_t wanted = (uint64_t)((double)h->count * part), seen = 0;
    for (unsigned i = 0; i < sizeof(h->counts) / sizeof(h->counts[0]); i++) {
        seen += h->counts[i];
        if (seen > wanted) {
            unsigned shift = i < 2 * HISTOGRAM_STEPS ? 0 : i / HISTOGRAM_STEPS - 1;
            double upper = (double)((i - (uint64_t)shift * HISTOGRAM_STEPS + 1) << shift);
            return upper < (double)h->max ? upper : (double)h->max;
        }
    }
    return (double)h->max;
}

#endif
