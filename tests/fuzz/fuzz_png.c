/* asdm/png.h: what decodes is encoded again and must decode to the same pixels. Each input is tried as it is and with
 * its chunks' checksums put right, because no mutation finds those. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include <asdm/png.h>

enum { PIXELS_MAX = 1 << 18, AGAIN_MAX = 1 << 12 }; /* small, so that a run is thousands of files a second */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode_again(const struct asdm_image *image) {
    static const char *const text[] = {"parameters", "caf\xc3\xa9", NULL};
    struct asdm_image again;
    unsigned char *png;
    size_t size;
    ASDM_ASSERT(asdm_png_encode(image->rgb, image->width, image->height, text, 0, &png, &size, NULL) == ASDM_OK);
    ASDM_ASSERT(asdm_png_decode(png, size, "again", PIXELS_MAX, &again, NULL) == ASDM_OK);
    ASDM_ASSERT(again.width == image->width && again.height == image->height);
    ASDM_ASSERT(memcmp(again.rgb, image->rgb, (size_t)image->width * image->height * 3) == 0);
    asdm_image_done(&again);
    free(png);
}

static void decode(const uint8_t *data, size_t size) {
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
}

static uint32_t crc(const uint8_t *data, size_t size) {
    uint32_t value = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        value ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
    }
    return ~value;
}

/* Puts the checksum of every whole chunk right; how many were wrong. */
static int repair(uint8_t *data, size_t size) {
    int repaired = 0;
    for (size_t at = 8; at + 12 <= size;) {
        uint8_t *chunk = data + at;
        size_t length = (size_t)chunk[0] << 24 | (size_t)chunk[1] << 16 | (size_t)chunk[2] << 8 | chunk[3];
        if (length > size - at - 12)
            break;
        uint32_t value = crc(chunk + 4, length + 4);
        uint8_t right[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
        repaired += memcmp(chunk + 8 + length, right, 4) != 0;
        memcpy(chunk + 8 + length, right, 4);
        at += length + 12;
    }
    return repaired;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    ASDM_ASSERT(copy != NULL);
    decode(data, size);
    if (size)
        memcpy(copy, data, size);
    if (repair(copy, size))
        decode(copy, size);
    free(copy);
    return 0;
}
