/* Moments of a feature map's parts: what group norms need to know of it, found by whoever makes the map. A part is
 * `granule` neighbouring channels of a slab of neighbouring tokens (in any order in which each token is in one slab).
 * The moments lie behind the rows of the value, [rows][slabs][granules]. */
#ifndef ASDM_MOMENTS_H
#define ASDM_MOMENTS_H

#include <stddef.h>
#include <stdint.h>

struct asdm_moments {
    float mean, m2; /* m2: sum of squared deviations from the mean */
};

/* Of one row. granule 0: there are none. */
struct asdm_moments_layout {
    int granule, slab; /* channels and tokens of a part */
    int granules, slabs;
};

enum {
    ASDM_MOMENTS_TOKENS = 256,   /* fewest: the norm of a smaller map reads it once in any case */
    ASDM_MOMENTS_MOST = 1 << 20, /* tokens: more are not expected */
    ASDM_GRANULE = 10,           /* groups of 10, 20, 30, ... channels: UNets */
    ASDM_GRANULE_MIDDLE = 8,     /* 8, 16, ...: autoencoders, */
    ASDM_GRANULE_SMALL = 4,      /* and 4: their widest maps */
    ASDM_SLAB = 64,
    ASDM_SLAB_SMALL = 16, /* of maps with fewer tokens than */
    ASDM_SLAB_TOKENS = 4096
};

/* The channels of a part where `common` ones are of one group in every norm: few, so that many threads share the work,
 * and such that tiles of products have whole parts. 0: none. */
static inline int asdm_moments_granule(int common) {
    return common % ASDM_GRANULE == 0          ? ASDM_GRANULE
           : common % ASDM_GRANULE_MIDDLE == 0 ? ASDM_GRANULE_MIDDLE
           : common % ASDM_GRANULE_SMALL == 0  ? ASDM_GRANULE_SMALL
                                               : 0;
}

/* The layout for a map of `tokens` and `channels`, a function of one row's sizes; `common` divides the channels. None
 * where the tokens are not whole slabs, or groups have whole granules of neither size. */
static inline struct asdm_moments_layout asdm_moments_layout(int common, int64_t tokens, int64_t channels) {
    const struct asdm_moments_layout none = {0, 0, 0, 0};
    const int slab = tokens < ASDM_SLAB_TOKENS ? ASDM_SLAB_SMALL : ASDM_SLAB;
    const int granule = common ? asdm_moments_granule(common) : 0;
    if (!granule || tokens < ASDM_MOMENTS_TOKENS || tokens > ASDM_MOMENTS_MOST || tokens % slab ||
        tokens / slab > INT32_MAX)
        return none;
    const struct asdm_moments_layout layout = {granule, slab, (int)(channels / granule), (int)(tokens / slab)};
    return layout;
}

/* Bytes from row 0 of a value to its moments, whose rows take `bytes`. */
static inline size_t asdm_moments_offset(size_t bytes) {
    return (bytes + 127) / 128 * 128;
}

#endif
