/* Changing the size of 8-bit RGB pictures. */
#ifndef ASDM_BASE_RESIZE_H
#define ASDM_BASE_RESIZE_H

#include <stdint.h>

#include <asdm/status.h>

/* Lanczos with three lobes, widened when shrinking, horizontally and then vertically, each pass rounded to 8 bits with
 * 22-bit fixed-point weights: what Pillow's resize(LANCZOS) gives, which diffusers resizes init images with. dst is
 * dst_height * dst_width * 3. ERR_MEMORY. */
enum asdm_status asdm_resize_rgb(const uint8_t *src, int src_width, int src_height, uint8_t *dst, int dst_width,
                                 int dst_height, struct asdm_error *err);

#endif
