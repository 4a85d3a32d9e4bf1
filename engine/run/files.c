#include <asdm/files.h>

#include <stdlib.h>

#include "asdm_limits.h"
#include <asdm/error.h>
#include "base/file.h"
#include <asdm/png.h>
#include "tensor/safetensors.h"

enum asdm_status asdm_read_png(const char *path, uint8_t **ret_rgb, int *ret_width, int *ret_height,
                               struct asdm_error *err) {
    struct asdm_image image;
    ASDM_TRY(asdm_png_read(path, ASDM_LIMIT_IMAGE_PIXELS, &image, err));
    *ret_rgb = image.rgb;
    *ret_width = (int)image.width;
    *ret_height = (int)image.height;
    return ASDM_OK;
}

enum asdm_status asdm_write_png(const char *path, const uint8_t *rgb, int width, int height, const char *const *text,
                                struct asdm_error *err) {
    unsigned char *data;
    size_t size;
    ASDM_TRY(asdm_png_encode(rgb, (uint32_t)width, (uint32_t)height, text, 0, &data, &size, err));
    enum asdm_status status = asdm_file_write(path, data, size, err);
    free(data);
    return status;
}

enum asdm_status asdm_write_latents(const char *path, const float *latents, int height, int width,
                                    struct asdm_error *err) {
    size_t count = 4 * (size_t)height * (size_t)width;
    struct asdm_tensor tensor = {.name = "latents",
                                 .dtype = ASDM_F32,
                                 .rank = 4,
                                 .dims = {1, 4, height, width},
                                 .data = latents,
                                 .count = count,
                                 .bytes = count * sizeof *latents};
    return asdm_safetensors_write(path, &tensor, 1, NULL, err);
}

enum asdm_status asdm_write_bytes(const char *path, const void *data, size_t size, struct asdm_error *err) {
    return asdm_file_write(path, data, size, err);
}

enum asdm_status asdm_check_writable(const char *path, struct asdm_error *err) {
    return asdm_file_check_writable(path, err);
}
