/* A picture's rows as the image data of a PNG: filtered (PNG specification, 9.2; of each row the way whose bytes are
 * smallest in sum, 12.8) and deflated (RFC 1950 and 1951). In strips, by as many threads as this one may have
 * processors, as compressing a large picture takes longer than a GPU's step. What comes of it does not depend on their
 * number. */
#ifndef ASDM_BASE_PNG_STRIPS_H
#define ASDM_BASE_PNG_STRIPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A part of the zlib stream that all strips are in order. */
struct asdm_png_strip {
    unsigned char *data;
    size_t size;
};

/* rgb: [height][width][3]; level: of zlib, 1 to 9, or 0: runs of equal bytes alone. False: no memory, and nothing is
 * returned. */
bool asdm_png_strips(const uint8_t *rgb, size_t width, size_t height, int level, struct asdm_png_strip **ret,
                     size_t *ret_count);
void asdm_png_strips_done(struct asdm_png_strip *strips, size_t count);

#endif
