/* base/png.h: what decodes is encoded again and must decode to the same pixels. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/png.h"

enum { PIXELS_MAX = 1 << 18, AGAIN_MAX = 1 << 12 }; /* small, so that a run is thousands of files a second */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode_again(const struct asdm_image *image) {
    static const char *const text[] = {"parameters", "caf\xc3\xa9", NULL};
    struct asdm_image again;
    unsigned char *png;
    size_t size;
    ASDM_ASSERT(asdm_png_encode(image->rgb, image->width, image->height, text, &png, &size, NULL) == ASDM_OK);
    ASDM_ASSERT(asdm_png_decode(png, size, "again", PIXELS_MAX, &again, NULL) == ASDM_OK);
    ASDM_ASSERT(again.width == image->width && again.height == image->height);
    ASDM_ASSERT(memcmp(again.rgb, image->rgb, (size_t)image->width * image->height * 3) == 0);
    asdm_image_done(&again);
    free(png);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct asdm_image image = {0, 0, NULL};
    struct asdm_error err = {ASDM_OK, ""};
    enum asdm_status status = asdm_png_decode(data, size, "fuzz", PIXELS_MAX, &image, &err);
    if (status == ASDM_OK) {
        size_t pixels = (size_t)image.width * image.height;
        ASDM_ASSERT(pixels > 0 && pixels <= PIXELS_MAX);
        if (pixels <= AGAIN_MAX)
            encode_again(&image);
        asdm_image_done(&image);
    } else {
        ASDM_ASSERT(status == ASDM_ERR_FORMAT && image.rgb == NULL && strncmp(err.message, "fuzz: ", 6) == 0);
    }
    return 0;
}
