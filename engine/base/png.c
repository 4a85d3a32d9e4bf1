#include <asdm/png.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

#include "asdm_limits.h"
#include <asdm/error.h>
#include "base/file.h"
#include "base/json_scan.h"
#include "base/png_strips.h"
#include "base/size.h"

enum { CHUNK_BYTES_MAX = 16 << 20, CHUNK_COUNT_MAX = 1000, KEYWORD_MAX = 79 };
enum { HEAD_BYTES = 24, FILE_BYTES_MAX = 1 << 30, ENCODE_SIDE_MAX = 1000000 };

/* Everything that lives across libpng's longjmp: in the caller's frame, reached through a pointer, so that no value of
 * it is lost when the jump comes. */
struct session {
    png_structp png;
    png_infop info;
    char message[200];
    bool no_memory;
    const unsigned char *data; /* reading: what is left */
    size_t size;
    unsigned char *out; /* writing: what is there */
    size_t out_used, out_size;
    char *latin1;      /* a text being converted */
    unsigned channels; /* 3, or 4 with alpha */
    uint8_t *pixels;
};

static void on_error(png_structp png, png_const_charp message) {
    struct session *session = png_get_error_ptr(png);
    strncpy(session->message, message, sizeof session->message - 1);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    (void)png, (void)message; /* what libpng can mend does not matter to the picture */
}

static png_voidp on_malloc(png_structp png, png_alloc_size_t size) {
    void *memory = malloc(size);
    if (!memory)
        ((struct session *)png_get_mem_ptr(png))->no_memory = true;
    return memory;
}

static void on_free(png_structp png, png_voidp memory) {
    (void)png;
    free(memory);
}

static void on_read(png_structp png, png_bytep dst, size_t size) {
    struct session *session = png_get_io_ptr(png);
    if (size > session->size)
        png_error(png, "the file is cut off");
    memcpy(dst, session->data, size);
    session->data += size;
    session->size -= size;
}

/* The name of another format that people hand in as PNG; NULL when it is none of those. */
static const char *recognise(const unsigned char *data, size_t size) {
    static const struct {
        size_t offset;
        const char *magic, *name;
    } formats[] = {
        {0, "\xff\xd8\xff", "a JPEG"}, {8, "WEBP", "a WebP"}, {0, "GIF8", "a GIF"},       {0, "BM", "a BMP"},
        {0, "II*", "a TIFF"},          {0, "MM", "a TIFF"},   {4, "ftypavif", "an AVIF"}, {4, "ftyphei", "a HEIC"},
        {0, "\xff\x0a", "a JPEG XL"},  {0, "%PDF", "a PDF"},  {0, "<svg", "an SVG"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        size_t length = strlen(formats[i].magic);
        if (size >= formats[i].offset + length && memcmp(data + formats[i].offset, formats[i].magic, length) == 0)
            return formats[i].name;
    }
    return NULL;
}

static uint32_t big_endian(const unsigned char *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* The first bytes, before libpng sees any: is it a PNG, and of a size that we take? */
static enum asdm_status check_head(const unsigned char *data, size_t size, const char *name, size_t pixels_max,
                                   struct asdm_error *err) {
    static const unsigned char signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    if (size == 0)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: is empty, not a PNG", name);
    if (size < sizeof signature || memcmp(data, signature, sizeof signature) != 0) {
        const char *other = recognise(data, size);
        if (other)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: is %s file, not a PNG; convert it first", name, other);
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: is not a PNG", name);
    }
    if (size < HEAD_BYTES || memcmp(data + 12, "IHDR", 4) != 0)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: damaged PNG: no header after the signature", name);
    uint32_t width = big_endian(data + 16), height = big_endian(data + 20);
    if (width > ASDM_LIMIT_IMAGE_SIDE || height > ASDM_LIMIT_IMAGE_SIDE)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %u x %u pixels, at most %d a side are allowed", name, width, height,
                         ASDM_LIMIT_IMAGE_SIDE);
    if ((uint64_t)width * height > pixels_max)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %u x %u pixels, at most %zu in all are allowed", name, width,
                         height, pixels_max);
    return ASDM_OK;
}

/* libpng only warns of large chunks. Image data may be in one piece: it is unpacked as it comes, never held whole.
 * Where the walk leaves the file libpng will find the cut. */
static enum asdm_status check_chunks(const unsigned char *data, size_t size, const char *name, struct asdm_error *err) {
    for (size_t at = 8; size - at >= 8;) {
        size_t length = big_endian(data + at);
        if (length > CHUNK_BYTES_MAX && memcmp(data + at + 4, "IDAT", 4) != 0)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: damaged PNG: a chunk of %zu bytes, at most %d are allowed",
                             name, length, CHUNK_BYTES_MAX);
        if (size - at < length + 12)
            break;
        at += length + 12;
    }
    return ASDM_OK;
}

/* Chunks that do not change what convert("RGB") gives. Skipping them unread closes the door to their decompressors. */
static void ignore_ancillary(png_structp png, bool with_alpha) {
    static const png_byte chunks[] =
        "bKGD\0cHRM\0eXIf\0gAMA\0hIST\0iCCP\0iTXt\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0sRGB\0"
        "tEXt\0tIME\0zTXt\0tRNS"; /* tRNS is last: alpha needs it */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, chunks, (int)(sizeof chunks / 5) - with_alpha);
}

static void set_limits(png_structp png) {
    png_set_user_limits(png, ASDM_LIMIT_IMAGE_SIDE, ASDM_LIMIT_IMAGE_SIDE);
    png_set_chunk_malloc_max(png, CHUNK_BYTES_MAX);
    png_set_chunk_cache_max(png, CHUNK_COUNT_MAX);
}

/* Any PNG as rows of RGB bytes, or RGBA. */
static void set_transforms(png_structp png, png_infop info, bool with_alpha) {
    int type = png_get_color_type(png, info);
    if (type == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(png);
    if (type == PNG_COLOR_TYPE_GRAY)
        png_set_expand_gray_1_2_4_to_8(png);
    if (png_get_bit_depth(png, info) == 16)
        png_set_scale_16(png);
    if (type == PNG_COLOR_TYPE_GRAY || type == PNG_COLOR_TYPE_GRAY_ALPHA)
        png_set_gray_to_rgb(png);
    if (with_alpha) {
        png_set_tRNS_to_alpha(png);
        png_set_add_alpha(png, 0xff, PNG_FILLER_AFTER);
    } else {
        png_set_strip_alpha(png);
    }
}

/* Runs under setjmp: owns nothing in its own frame. */
static void decode_body(struct session *session) {
    png_structp png = session->png;
    ignore_ancillary(png, session->channels == 4);
    set_limits(png);
    png_set_read_fn(png, session, on_read);
    png_read_info(png, session->info);
    set_transforms(png, session->info, session->channels == 4);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, session->info);
    size_t width = png_get_image_width(png, session->info), height = png_get_image_height(png, session->info);
    if (png_get_rowbytes(png, session->info) != session->channels * width)
        png_error(png, "rows are not RGB");
    /* Sides are at most 2^14 here. Zeroed, so that no defect of a file can show old memory in a picture. */
    session->pixels = calloc(height * width, session->channels);
    if (!session->pixels) {
        session->no_memory = true;
        png_error(png, "out of memory");
    }
    for (int pass = 0; pass < passes; pass++)
        for (size_t y = 0; y < height; y++)
            png_read_row(png, session->pixels + y * width * session->channels, NULL);
    png_read_end(png, NULL);
}

static bool run_decode(struct session *session) {
    session->png =
        png_create_read_struct_2(PNG_LIBPNG_VER_STRING, session, on_error, on_warning, session, on_malloc, on_free);
    session->info = session->png ? png_create_info_struct(session->png) : NULL;
    if (!session->info) {
        session->no_memory = true;
        return false;
    }
    if (setjmp(png_jmpbuf(session->png)))
        return false;
    decode_body(session);
    return true;
}

static enum asdm_status decode(const void *data, size_t size, const char *name, size_t pixels_max, unsigned channels,
                               uint8_t **ret_pixels, uint32_t *ret_width, uint32_t *ret_height,
                               struct asdm_error *err) {
    ASDM_TRY(check_head(data, size, name, pixels_max, err));
    ASDM_TRY(check_chunks(data, size, name, err));
    struct session session = {.data = data, .size = size, .channels = channels};
    enum asdm_status status = ASDM_OK;
    if (run_decode(&session)) {
        *ret_width = png_get_image_width(session.png, session.info);
        *ret_height = png_get_image_height(session.png, session.info);
        *ret_pixels = session.pixels;
        session.pixels = NULL;
    } else if (session.no_memory) {
        status = asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for the picture", name);
    } else {
        status = asdm_fail(err, ASDM_ERR_FORMAT, "%s: damaged PNG: %s", name, session.message);
    }
    png_destroy_read_struct(&session.png, &session.info, NULL);
    free(session.pixels);
    return status;
}

enum asdm_status asdm_png_decode(const void *data, size_t size, const char *name, size_t pixels_max,
                                 struct asdm_image *ret, struct asdm_error *err) {
    return decode(data, size, name, pixels_max, 3, &ret->rgb, &ret->width, &ret->height, err);
}

enum asdm_status asdm_png_decode_rgba(const void *data, size_t size, const char *name, size_t pixels_max,
                                      uint8_t **ret_rgba, uint32_t *ret_width, uint32_t *ret_height,
                                      struct asdm_error *err) {
    return decode(data, size, name, pixels_max, 4, ret_rgba, ret_width, ret_height, err);
}

enum asdm_status asdm_png_read(const char *path, size_t pixels_max, struct asdm_image *ret, struct asdm_error *err) {
    char *data;
    size_t size;
    ASDM_TRY(asdm_file_read(path, FILE_BYTES_MAX, &data, &size, err));
    enum asdm_status status = asdm_png_decode(data, size, path, pixels_max, ret, err);
    free(data);
    return status;
}

void asdm_image_done(struct asdm_image *image) {
    free(image->rgb);
    *image = (struct asdm_image){0};
}

static void on_write(png_structp png, png_bytep data, size_t size) {
    struct session *session = png_get_io_ptr(png);
    if (size > session->out_size - session->out_used) {
        size_t needed, larger = session->out_size + session->out_size / 2;
        if (!asdm_size_add(session->out_used, size, &needed))
            png_error(png, "too large");
        larger = larger < needed ? needed : larger;
        unsigned char *moved = realloc(session->out, larger);
        if (!moved) {
            session->no_memory = true;
            png_error(png, "out of memory");
        }
        session->out = moved;
        session->out_size = larger;
    }
    memcpy(session->out + session->out_used, data, size);
    session->out_used += size;
}

static void on_flush(png_structp png) {
    (void)png;
}

/* UTF-8 of characters up to U+00FF as Latin-1 into `out` (room for length + 1 bytes); false when there are others. */
static bool to_latin1(const char *text, size_t length, char *out) {
    const unsigned char *c = (const unsigned char *)text;
    for (size_t i = 0; i < length; i++) {
        if (c[i] < 0x80) {
            *out++ = (char)c[i];
        } else if (c[i] <= 0xc3) { /* c2 and c3 begin U+0080 to U+00FF; the text is valid, so a byte follows */
            *out++ = (char)((c[i] & 3) << 6 | (c[i + 1] & 0x3f));
            i++;
        } else {
            return false;
        }
    }
    *out = '\0';
    return true;
}

static void add_text(struct session *session, const char *key, const char *value) {
    size_t length = strlen(value);
    png_text text = {.compression = PNG_TEXT_COMPRESSION_NONE, .key = (char *)key};
    session->latin1 = malloc(length + 1);
    if (!session->latin1) {
        session->no_memory = true;
        png_error(session->png, "out of memory");
    }
    if (to_latin1(value, length, session->latin1)) {
        text.text = session->latin1;
        text.text_length = strlen(session->latin1);
    } else {
        text.compression = PNG_ITXT_COMPRESSION_NONE;
        text.text = (char *)value;
        text.itxt_length = length;
        text.lang = (char *)"";
        text.lang_key = (char *)"";
    }
    png_set_text(session->png, session->info, &text, 1); /* copies */
    free(session->latin1);
    session->latin1 = NULL;
}

/* A picture's image data, and what it is of. */
struct encoded {
    uint32_t width, height;
    struct asdm_png_strip *strips;
    size_t count;
};

/* Runs under setjmp: owns nothing in its own frame. */
static void encode_body(struct session *session, const struct encoded *image, const char *const *text) {
    png_structp png = session->png;
    png_set_write_fn(png, session, on_write, on_flush);
    png_set_IHDR(png, session->info, image->width, image->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_BASE, PNG_FILTER_TYPE_BASE);
    for (size_t i = 0; text && text[i]; i += 2)
        add_text(session, text[i], text[i + 1]);
    png_write_info(png, session->info);
    for (size_t i = 0; i < image->count; i++)
        png_write_chunk(png, (png_const_bytep) "IDAT", image->strips[i].data, image->strips[i].size);
    png_write_chunk(png, (png_const_bytep) "IEND", NULL, 0);
}

static bool run_encode(struct session *session, const struct encoded *image, const char *const *text) {
    session->png =
        png_create_write_struct_2(PNG_LIBPNG_VER_STRING, session, on_error, on_warning, session, on_malloc, on_free);
    session->info = session->png ? png_create_info_struct(session->png) : NULL;
    if (!session->info) {
        session->no_memory = true;
        return false;
    }
    if (setjmp(png_jmpbuf(session->png)))
        return false;
    encode_body(session, image, text);
    return true;
}

/* Keywords as the PNG specification has them (11.3.4.2), without the Latin-1 letters; values in UTF-8. */
static enum asdm_status check_text(const char *const *text, struct asdm_error *err) {
    for (size_t i = 0; text && text[i]; i += 2) {
        const char *key = text[i], *value = text[i + 1];
        size_t length = strlen(key);
        bool good =
            length > 0 && length <= KEYWORD_MAX && key[0] != ' ' && key[length - 1] != ' ' && !strstr(key, "  ");
        for (size_t k = 0; k < length; k++)
            good = good && key[k] >= 0x20 && key[k] < 0x7f;
        if (!good)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "PNG text: \"%.100s\" cannot be a keyword", key);
        size_t size = value ? strlen(value) : 0, used = 0, step = value != NULL;
        for (; used < size && step; used += step)
            step = asdm_utf8_length(value + used, size - used);
        if (!step || size > CHUNK_BYTES_MAX / 2)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "PNG text: the value of \"%s\" is missing, too long or not UTF-8",
                             key);
    }
    return ASDM_OK;
}

enum asdm_status asdm_png_encode(const uint8_t *rgb, uint32_t width, uint32_t height, const char *const *text,
                                 int level, unsigned char **ret_data, size_t *ret_size, struct asdm_error *err) {
    if (width == 0 || height == 0 || width > ENCODE_SIDE_MAX || height > ENCODE_SIDE_MAX)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "PNG of %u x %u pixels: sides must be from 1 to %d", width, height,
                         ENCODE_SIDE_MAX);
    ASDM_TRY(check_text(text, err));
    struct session session = {0};
    struct encoded image = {.width = width, .height = height};
    enum asdm_status status = ASDM_OK;
    session.no_memory = !asdm_png_strips(rgb, width, height, level, &image.strips, &image.count);
    if (!session.no_memory && run_encode(&session, &image, text)) {
        *ret_data = session.out;
        *ret_size = session.out_used;
        session.out = NULL;
    } else if (session.no_memory) {
        status = asdm_fail(err, ASDM_ERR_MEMORY, "out of memory for a PNG of %u x %u pixels", width, height);
    } else {
        status = asdm_fail(err, ASDM_ERR_INTERNAL, "PNG of %u x %u pixels: %s", width, height, session.message);
    }
    png_destroy_write_struct(&session.png, &session.info);
    asdm_png_strips_done(image.strips, image.count);
    free(session.latin1);
    free(session.out);
    return status;
}
