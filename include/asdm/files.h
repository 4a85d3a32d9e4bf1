/* Files that the programs read and write: PNG pictures, latents, reports. Files are written beside, synced and renamed,
 * so that a name is never seen half-written. */
#ifndef ASDM_FILES_H
#define ASDM_FILES_H

#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Any PNG (palette, grey, alpha, 16-bit, interlaced) as 8-bit RGB, malloc'ed: *ret_rgb is height * width * 3. Alpha is
 * dropped. ERR_FORMAT for other files, damaged ones and those of more than 16384 pixels a side or 64 million in all. */
enum asdm_status asdm_read_png(const char *path, uint8_t **ret_rgb, int *ret_width, int *ret_height,
                               struct asdm_error *err);

/* `text` is NULL or pairs key, value, ..., NULL for the file's text chunks. */
enum asdm_status asdm_write_png(const char *path, const uint8_t *rgb, int width, int height, const char *const *text,
                                struct asdm_error *err);

/* Tensor "latents", F32 [1, 4, height, width], as safetensors. */
enum asdm_status asdm_write_latents(const char *path, const float *latents, int height, int width,
                                    struct asdm_error *err);

/* Any bytes. */
enum asdm_status asdm_write_bytes(const char *path, const void *data, size_t size, struct asdm_error *err);

/* Whether a file of this name could be written now. */
enum asdm_status asdm_check_writable(const char *path, struct asdm_error *err);

#ifdef __cplusplus
}
#endif
#endif
