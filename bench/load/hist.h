/* A histogram of nanoseconds: 128 steps to each power of two, so that every value is
 * known to better than 1 % over the whole range, in constant memory and time. */
#ifndef HIST_H
#define HIST_H

#include <stdint.h>
#include <string.h>

#define HIST_BITS 7
#define HIST_STEPS (1u << HIST_BITS)

struct hist {
    uint64_t count, max, buckets[(64 - HIST_BITS + 1) * HIST_STEPS];
};

static inline void hist_clear(struct hist *h) { memset(h, 0, sizeof *h); }

static inline unsigned hist_index(uint64_t value)
{
    if (value < HIST_STEPS)
        return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - HIST_BITS;
    return (shift + 1) * HIST_STEPS + (unsigned)((value >> shift) - HIST_STEPS);
}

static inline void hist_add(struct hist *h, uint64_t value)
{
    h->count++;
    if (value > h->max)
        h->max = value;
    h->buckets[hist_index(value)]++;
}

/* The value that `share` (0..1) of all values do not exceed; 0 when there are none. */
static inline uint64_t hist_quantile(const struct hist *h, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)h->count), seen = 0;
    if (wanted >= h->count)
        return h->max;
    for (unsigned i = 0; i < sizeof h->buckets / sizeof *h->buckets; i++) {
        seen += h->buckets[i];
        if (seen > wanted) {
            if (i < HIST_STEPS)
                return i;
            unsigned shift = i / HIST_STEPS - 1;
            uint64_t upper = (((uint64_t)(i % HIST_STEPS) + HIST_STEPS + 1) << shift) - 1;
            return upper < h->max ? upper : h->max;
        }
    }
    return h->max;
}

#endif
