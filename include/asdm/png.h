/* PNG in and out (libpng, row API). Every decoder limit is set before the first byte is believed. */
#ifndef ASDM_PNG_H
#define ASDM_PNG_H

#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

struct asdm_image {
    uint32_t width, height; /* pixels */
    uint8_t *rgb;           /* height * width * 3, malloc'ed */
};

/* Decodes a PNG in memory to 8-bit RGB: palette, grey, 16-bit (scaled), interlaced files and alpha (dropped, the
 * colours under it are kept, as PIL's convert("RGB") does) all work. `name` starts the error messages. Refused, before
 * unpacking: more than ASDM_LIMIT_IMAGE_SIDE per side or `pixels_max` in all, chunks over 16 MiB other than image
 * data. ERR_FORMAT; names JPEG, WebP and others where they are handed in instead. */
enum asdm_status asdm_png_decode(const void *data, size_t size, const char *name, size_t pixels_max,
                                 struct asdm_image *ret, struct asdm_error *err);
/* The same with alpha, which tRNS chunks give too (255 where there is none): *ret_rgba is malloc'ed, height * width
 * * 4. */
enum asdm_status asdm_png_decode_rgba(const void *data, size_t size, const char *name, size_t pixels_max,
                                      uint8_t **ret_rgba, uint32_t *ret_width, uint32_t *ret_height,
                                      struct asdm_error *err);
enum asdm_status asdm_png_read(const char *path, size_t pixels_max, struct asdm_image *ret, struct asdm_error *err);
void asdm_image_done(struct asdm_image *image);

/* Encodes 8-bit RGB to malloc'ed PNG bytes. `text` is NULL or pairs key, value, key, value, NULL written as tEXt
 * (iTXt where the value is not Latin-1). `level` is zlib's, 1 to 9, with its search for repeats; 0:
 * runs of equal bytes alone, which is faster and for photographs as small as 6. The same pixels, text and level always
 * give the same bytes. */
enum asdm_status asdm_png_encode(const uint8_t *rgb, uint32_t width, uint32_t height, const char *const *text,
                                 int level, unsigned char **ret_data, size_t *ret_size, struct asdm_error *err);

#endif
