/* Who has which part of the shared memory: first fit, in granules. */
#ifndef ASDM_FRONT_LINK_REGION_H
#define ASDM_FRONT_LINK_REGION_H

#include <stdbool.h>
#include <stdint.h>

enum { REGION_GRANULE = 4096 /* bytes */, REGIONS_MAX = 1024 };

struct region {
    uint64_t offset, bytes; /* multiples of REGION_GRANULE */
};

struct regions {
    uint64_t bytes; /* of the whole memory */
    int count;
    struct region used[REGIONS_MAX]; /* by offset */
};

/* False: no gap is large enough, or there are REGIONS_MAX. */
bool region_take(struct regions *regions, uint64_t bytes, struct region *ret);
void region_drop(struct regions *regions, const struct region *region);

#endif
