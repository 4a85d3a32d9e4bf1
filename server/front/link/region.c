#include "front/link/region.h"

#include <string.h>

#include <asdm/error.h>

bool region_take(struct regions *regions, uint64_t bytes, struct region *ret) {
    uint64_t gap = 0; /* where it starts */
    int at = 0;
    if (bytes == 0 || bytes > regions->bytes || regions->count == REGIONS_MAX)
        return false;
    bytes = (bytes + REGION_GRANULE - 1) / REGION_GRANULE * REGION_GRANULE;
    for (; at < regions->count && regions->used[at].offset - gap < bytes; at++)
        gap = regions->used[at].offset + regions->used[at].bytes;
    if (at == regions->count && regions->bytes - gap < bytes)
        return false;
    memmove(&regions->used[at + 1], &regions->used[at], (size_t)(regions->count - at) * sizeof *regions->used);
    regions->used[at] = (struct region){gap, bytes};
    regions->count++;
    *ret = regions->used[at];
    return true;
}

void region_drop(struct regions *regions, const struct region *region) {
    int at = 0;
    while (at < regions->count && regions->used[at].offset != region->offset)
        at++;
    ASDM_ASSERT(at < regions->count);
    regions->count--;
    memmove(&regions->used[at], &regions->used[at + 1], (size_t)(regions->count - at) * sizeof *regions->used);
}
