/* asdm/png.h. The files are built here by hand (stored deflate blocks), so that neither side of libpng vouches for the
 * other. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <asdm/png.h>

enum { GREY = 0, RGB = 2, PALETTE = 3, GREY_ALPHA = 4, RGBA = 6, PIXELS_MAX = 1 << 20 };

struct bytes {
    unsigned char data[400000];
    size_t size;
};

static void put(struct bytes *bytes, const void *data, size_t size) {
    assert_true(size <= sizeof bytes->data - bytes->size);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static void put_u32(struct bytes *bytes, uint32_t value) {
    unsigned char big[4] = {(unsigned char)(value >> 24), (unsigned char)(value >> 16), (unsigned char)(value >> 8),
                            (unsigned char)value};
    put(bytes, big, 4);
}

static uint32_t crc(const unsigned char *data, size_t size) {
    uint32_t value = 0xffffffffu;
    for (size_t i = 0; i < size; i++) {
        value ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
    }
    return ~value;
}

static void put_chunk(struct bytes *file, const char *type, const void *data, size_t size) {
    put_u32(file, (uint32_t)size);
    size_t start = file->size;
    put(file, type, 4);
    put(file, data, size);
    put_u32(file, crc(file->data + start, file->size - start));
}

static void put_header(struct bytes *file, uint32_t width, uint32_t height, int depth, int type, int interlaced) {
    static struct bytes header;
    file->size = header.size = 0;
    put(file, "\x89PNG\r\n\x1a\n", 8);
    put_u32(&header, width);
    put_u32(&header, height);
    put(&header, (unsigned char[]){(unsigned char)depth, (unsigned char)type, 0, 0, (unsigned char)interlaced}, 5);
    put_chunk(file, "IHDR", header.data, header.size);
}

/* `raw` as a zlib stream of stored blocks. */
static void put_image_data(struct bytes *file, const struct bytes *raw) {
    static struct bytes stream;
    uint32_t a = 1, b = 0;
    stream.size = 0;
    put(&stream, "\x78\x01", 2);
    for (size_t done = 0, part; done < raw->size || done == 0; done += part) {
        part = raw->size - done < 65535 ? raw->size - done : 65535;
        unsigned char head[5] = {done + part == raw->size, (unsigned char)part, (unsigned char)(part >> 8),
                                 (unsigned char)~part, (unsigned char)(~part >> 8)};
        put(&stream, head, 5);
        put(&stream, raw->data + done, part);
        if (part == 0)
            break;
    }
    for (size_t i = 0; i < raw->size; i++) {
        a = (a + raw->data[i]) % 65521;
        b = (b + a) % 65521;
    }
    put_u32(&stream, b << 16 | a);
    put_chunk(file, "IDAT", stream.data, stream.size);
}

static int channels_of(int type) {
    return type == RGB ? 3 : type == GREY_ALPHA ? 2 : type == RGBA ? 4 : 1;
}

/* A value of `depth` bits for each place; channel-dependent so that swapped channels show. */
static unsigned sample(unsigned x, unsigned y, int channel, int depth) {
    unsigned mixed = (x * 37 + y * 101 + (unsigned)channel * 59 + 11) * 0x9e37u;
    return (mixed >> 3) & ((1u << depth) - 1);
}

/* The rows of one pass: every `dx`-th column from `x0`, every `dy`-th row from `y0`. */
static void put_rows(struct bytes *raw, unsigned width, unsigned height, int depth, int type, unsigned x0, unsigned y0,
                     unsigned dx, unsigned dy) {
    if (x0 >= width)
        return;
    for (unsigned y = y0; y < height; y += dy) {
        unsigned char row[4096] = {0}; /* begins with filter 0 */
        size_t bit = 8;
        for (unsigned x = x0; x < width; x += dx)
            for (int channel = 0; channel < channels_of(type); channel++, bit += (size_t)depth) {
                unsigned value = sample(x, y, channel, depth);
                if (depth == 16)
                    row[bit / 8] = (unsigned char)(value >> 8), row[bit / 8 + 1] = (unsigned char)value;
                else
                    row[bit / 8] |= (unsigned char)(value << (8 - depth - (int)(bit % 8)));
            }
        put(raw, row, (bit + 7) / 8);
    }
}

static void put_palette(struct bytes *file, unsigned entries) {
    unsigned char colours[3 * 256];
    for (unsigned i = 0; i < 3 * entries; i++)
        colours[i] = (unsigned char)(i * 7 + 3);
    put_chunk(file, "PLTE", colours, 3 * entries);
}

/* A whole file of the given kind; with_trns adds transparency where the type allows it. */
static void build(struct bytes *file, unsigned width, unsigned height, int depth, int type, bool interlaced,
                  bool with_trns) {
    static const unsigned passes[7][4] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                          {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}}; /* PNG specification, 8.2 */
    static struct bytes raw;
    raw.size = 0;
    put_header(file, width, height, depth, type, interlaced);
    if (type == PALETTE)
        put_palette(file, 1u << depth);
    if (with_trns)
        put_chunk(file, "tRNS", "\0\1\0\2\0\3", type == GREY ? 2 : type == RGB ? 6 : 1);
    if (!interlaced)
        put_rows(&raw, width, height, depth, type, 0, 0, 1, 1);
    for (int pass = 0; interlaced && pass < 7; pass++)
        put_rows(&raw, width, height, depth, type, passes[pass][0], passes[pass][1], passes[pass][2], passes[pass][3]);
    put_image_data(file, &raw);
    put_chunk(file, "IEND", "", 0);
}

/* What an 8-bit RGB reader should see. */
static unsigned expected(unsigned x, unsigned y, int channel, int depth, int type) {
    if (type == PALETTE)
        return (unsigned char)((3 * sample(x, y, 0, depth) + (unsigned)channel) * 7 + 3);
    unsigned value = sample(x, y, type == GREY || type == GREY_ALPHA ? 0 : channel, depth);
    if (depth == 16)
        return (value * 255 + 32767) / 65535;
    return value * 255 / ((1u << depth) - 1);
}

static void check_kind(unsigned width, unsigned height, int depth, int type, bool interlaced, bool with_trns) {
    static struct bytes file;
    struct asdm_image image;
    struct asdm_error err = {0};
    build(&file, width, height, depth, type, interlaced, with_trns);
    unsigned char *exact = malloc(file.size);
    assert_non_null(exact);
    memcpy(exact, file.data, file.size);
    if (asdm_png_decode(exact, file.size, "test", PIXELS_MAX, &image, &err) != ASDM_OK)
        fail_msg("type %d depth %d: %s", type, depth, err.message);
    free(exact);
    assert_int_equal(image.width, width);
    assert_int_equal(image.height, height);
    for (unsigned y = 0; y < height; y++)
        for (unsigned x = 0; x < width; x++)
            for (int channel = 0; channel < 3; channel++) {
                unsigned got = image.rgb[3 * (y * width + x) + (unsigned)channel];
                if (got != expected(x, y, channel, depth, type))
                    fail_msg("type %d depth %d interlaced %d trns %d: pixel %u, %u channel %d is %u, not %u", type,
                             depth, interlaced, with_trns, x, y, channel, got, expected(x, y, channel, depth, type));
            }
    asdm_image_done(&image);
    assert_null(image.rgb);
    asdm_image_done(&image);
}

/* The fourth channel of a reader that keeps alpha; build() writes tRNS for grey 0x0001, RGB 1, 2, 3 and the first
 * palette entry (alpha 0). */
static unsigned expected_alpha(unsigned x, unsigned y, int depth, int type, bool with_trns) {
    if (type == GREY_ALPHA || type == RGBA)
        return expected(x, y, type == RGBA ? 3 : 1, depth, RGBA);
    if (!with_trns)
        return 255;
    if (type == RGB)
        return sample(x, y, 0, depth) == 1 && sample(x, y, 1, depth) == 2 && sample(x, y, 2, depth) == 3 ? 0 : 255;
    return sample(x, y, 0, depth) == (type == GREY ? 1 : 0) ? 0 : 255;
}

static void check_alpha(unsigned width, unsigned height, int depth, int type, bool interlaced, bool with_trns,
                        unsigned *counts) {
    static struct bytes file;
    uint8_t *rgba;
    uint32_t got_width, got_height;
    struct asdm_error err = {0};
    build(&file, width, height, depth, type, interlaced, with_trns);
    if (asdm_png_decode_rgba(file.data, file.size, "test", PIXELS_MAX, &rgba, &got_width, &got_height, &err) != ASDM_OK)
        fail_msg("type %d depth %d: %s", type, depth, err.message);
    assert_int_equal(got_width, width);
    assert_int_equal(got_height, height);
    for (unsigned y = 0; y < height; y++)
        for (unsigned x = 0; x < width; x++) {
            const uint8_t *pixel = rgba + 4 * (y * width + x);
            for (int channel = 0; channel < 3; channel++)
                assert_int_equal(pixel[channel], expected(x, y, channel, depth, type));
            if (pixel[3] != expected_alpha(x, y, depth, type, with_trns))
                fail_msg("type %d depth %d trns %d: alpha at %u, %u is %u", type, depth, with_trns, x, y, pixel[3]);
            counts[pixel[3] == 0]++;
        }
    free(rgba);
}

static const int kinds[][2] = {{GREY, 1},    {GREY, 2},       {GREY, 4},        {GREY, 8},    {GREY, 16},
                               {RGB, 8},     {RGB, 16},       {PALETTE, 1},     {PALETTE, 2}, {PALETTE, 4},
                               {PALETTE, 8}, {GREY_ALPHA, 8}, {GREY_ALPHA, 16}, {RGBA, 8},    {RGBA, 16}};

static void every_kind_of_png_is_decoded(void **state) {
    (void)state;
    static const unsigned sides[][2] = {{1, 1}, {2, 3}, {3, 2}, {5, 5}, {8, 8}, {17, 9}, {33, 1}, {1, 33}};
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        for (size_t side = 0; side < sizeof sides / sizeof *sides; side++)
            for (int interlaced = 0; interlaced < 2; interlaced++)
                check_kind(sides[side][0], sides[side][1], kinds[kind][1], kinds[kind][0], interlaced, false);
}

static void transparency_is_dropped_and_colours_kept(void **state) {
    (void)state;
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        if (kinds[kind][0] == GREY || kinds[kind][0] == RGB || kinds[kind][0] == PALETTE)
            for (int interlaced = 0; interlaced < 2; interlaced++)
                check_kind(9, 7, kinds[kind][1], kinds[kind][0], interlaced, true);
}

static void alpha_is_kept_where_it_is_asked_for(void **state) {
    (void)state;
    unsigned counts[2] = {0};
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        for (int variant = 0; variant < 4; variant++) {
            bool can_trns = kinds[kind][0] != GREY_ALPHA && kinds[kind][0] != RGBA;
            check_alpha(19, 13, kinds[kind][1], kinds[kind][0], variant & 1, can_trns && variant & 2, counts);
        }
    assert_true(counts[0] > 0 && counts[1] > 0);
    uint8_t *rgba = NULL;
    uint32_t width = 77, height = 77;
    struct asdm_error err;
    assert_int_equal(asdm_png_decode_rgba("GIF89a", 6, "f", PIXELS_MAX, &rgba, &width, &height, &err), ASDM_ERR_FORMAT);
    assert_string_equal(err.message, "f: is a GIF file, not a PNG; convert it first");
    assert_true(!rgba && width == 77 && height == 77);
}

static void other_formats_are_named(void **state) {
    (void)state;
    static const struct {
        const char *data;
        size_t size;
        const char *message;
    } cases[] = {
        {"", 0, "f: is empty, not a PNG"},
        {"\xff\xd8\xff\xe0", 4, "f: is a JPEG file, not a PNG; convert it first"},
        {"RIFF\x10\0\0\0WEBPVP8 ", 16, "f: is a WebP file, not a PNG; convert it first"},
        {"GIF89a", 6, "f: is a GIF file, not a PNG; convert it first"},
        {"\0\0\0\x20"
         "ftypavif",
         12, "f: is an AVIF file, not a PNG; convert it first"},
        {"RIFF\x10\0\0\0WAVE", 12, "f: is not a PNG"},
        {"hello, world", 12, "f: is not a PNG"},
        {"\x89PNG", 4, "f: is not a PNG"},
        {"\x89PNG\n\x1a\n\0", 8, "f: is not a PNG"}, /* damaged by a transfer as text */
        {"\x89PNG\r\n\x1a\n", 8, "f: damaged PNG: no header after the signature"},
        {"\x89PNG\r\n\x1a\n\0\0\0\0IEND\xae\x42\x60\x82....", 24, "f: damaged PNG: no header after the signature"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct asdm_image image;
        struct asdm_error err;
        assert_int_equal(asdm_png_decode(cases[i].data, cases[i].size, "f", PIXELS_MAX, &image, &err), ASDM_ERR_FORMAT);
        assert_string_equal(err.message, cases[i].message);
    }
}

static void sizes_are_refused_before_anything_is_unpacked(void **state) {
    (void)state;
    static const struct {
        uint32_t width, height;
        size_t pixels_max;
        const char *message;
    } cases[] = {
        {16385, 1, SIZE_MAX, "f: 16385 x 1 pixels, at most 16384 a side are allowed"},
        {1, 16385, SIZE_MAX, "f: 1 x 16385 pixels, at most 16384 a side are allowed"},
        {0x7fffffff, 0x7fffffff, SIZE_MAX, "f: 2147483647 x 2147483647 pixels, at most 16384 a side are allowed"},
        {0xffffffff, 0xffffffff, SIZE_MAX, "f: 4294967295 x 4294967295 pixels, at most 16384 a side are allowed"},
        {10, 10, 99, "f: 10 x 10 pixels, at most 99 in all are allowed"},
        {16384, 16384, 1 << 20, "f: 16384 x 16384 pixels, at most 1048576 in all are allowed"},
    };
    static struct bytes file;
    struct asdm_image image;
    struct asdm_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_header(&file, cases[i].width, cases[i].height, 8, RGB, 0);
        assert_int_equal(asdm_png_decode(file.data, file.size, "f", cases[i].pixels_max, &image, &err),
                         ASDM_ERR_FORMAT);
        assert_string_equal(err.message, cases[i].message);
    }
    build(&file, 10, 10, 8, RGB, false, false);
    assert_int_equal(asdm_png_decode(file.data, file.size, "f", 100, &image, &err), ASDM_OK);
    asdm_image_done(&image);
}

static void expect_damaged(const struct bytes *file, size_t size, const char *why) {
    struct asdm_image image = {77, 77, NULL};
    struct asdm_error err = {0};
    unsigned char *exact = malloc(size ? size : 1);
    assert_non_null(exact);
    memcpy(exact, file->data, size);
    if (asdm_png_decode(exact, size, "f", PIXELS_MAX, &image, &err) != ASDM_ERR_FORMAT)
        fail_msg("accepted: %s", why);
    assert_memory_equal(err.message, "f: ", 3);
    assert_true(strlen(err.message) > 8);
    assert_int_equal(image.width, 77); /* untouched */
    free(exact);
}

static void every_cut_of_a_file_is_an_error(void **state) {
    (void)state;
    static struct bytes file;
    for (int interlaced = 0; interlaced < 2; interlaced++) {
        build(&file, 6, 5, 4, PALETTE, interlaced, true);
        for (size_t size = 0; size < file.size; size++)
            expect_damaged(&file, size, "a cut");
    }
}

/* Critical chunks have checksums, the stream another one; damage anywhere in them shows. */
static void damaged_bytes_are_an_error(void **state) {
    (void)state;
    static struct bytes file;
    build(&file, 6, 5, 8, RGB, false, false);
    for (size_t i = 0; i < file.size; i++) {
        file.data[i] ^= 0x10;
        expect_damaged(&file, file.size, "a flipped bit");
        file.data[i] ^= 0x10;
    }
}

static void impossible_headers_are_an_error(void **state) {
    (void)state;
    static const int bad[][3] = {{3, GREY, 0},       {16, PALETTE, 0}, {1, RGB, 0}, {4, RGBA, 0},
                                 {2, GREY_ALPHA, 0}, {8, 1, 0},        {8, 5, 0},   {8, 7, 0},
                                 {0, GREY, 0},       {32, GREY, 0},    {8, RGB, 2}, {255, 255, 255}};
    static struct bytes file, raw;
    memset(raw.data, 0, 4000);
    raw.size = 4000;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_header(&file, 4, 4, bad[i][0], bad[i][1], bad[i][2]);
        put_image_data(&file, &raw);
        put_chunk(&file, "IEND", "", 0);
        expect_damaged(&file, file.size, "a header");
    }
    put_header(&file, 0, 4, 8, RGB, 0);
    put_image_data(&file, &raw);
    expect_damaged(&file, file.size, "no columns");
    put_header(&file, 4, 0, 8, RGB, 0);
    put_image_data(&file, &raw);
    expect_damaged(&file, file.size, "no rows");
}

static void missing_pieces_are_an_error(void **state) {
    (void)state;
    static struct bytes file, raw;
    put_header(&file, 4, 4, 8, PALETTE, 0);
    raw.size = 0;
    put_rows(&raw, 4, 4, 8, PALETTE, 0, 0, 1, 1);
    put_image_data(&file, &raw);
    put_chunk(&file, "IEND", "", 0);
    expect_damaged(&file, file.size, "no palette");
    put_header(&file, 4, 4, 8, GREY, 0);
    put_chunk(&file, "IEND", "", 0);
    expect_damaged(&file, file.size, "no image data");
    put_header(&file, 4, 4, 8, GREY, 0);
    raw.size = 5 * 3; /* three rows of four */
    put_image_data(&file, &raw);
    put_chunk(&file, "IEND", "", 0);
    expect_damaged(&file, file.size, "a row short");
    put_header(&file, 4, 4, 8, GREY, 0);
    put_chunk(&file, "ABCD", "x", 1); /* critical and unknown */
    raw.size = 5 * 4;
    put_image_data(&file, &raw);
    put_chunk(&file, "IEND", "", 0);
    expect_damaged(&file, file.size, "an unknown critical chunk");
}

static void large_chunks_are_refused(void **state) {
    (void)state;
    enum { CHUNK = (16 << 20) + 1 };
    static struct bytes file;
    put_header(&file, 4, 4, 8, GREY, 0);
    size_t size = file.size + 12 + CHUNK;
    unsigned char *large = calloc(size, 1);
    assert_non_null(large);
    memcpy(large, file.data, file.size);
    memcpy(large + file.size, "\x01\0\0\x01tEXtkey", 11);
    struct asdm_image image;
    struct asdm_error err;
    assert_int_equal(asdm_png_decode(large, size, "f", PIXELS_MAX, &image, &err), ASDM_ERR_FORMAT);
    assert_string_equal(err.message, "f: damaged PNG: a chunk of 16777217 bytes, at most 16777216 are allowed");
    free(large);
}

static void unneeded_chunks_are_passed_over(void **state) {
    (void)state;
    static struct bytes file, raw;
    put_header(&file, 4, 4, 8, GREY, 0);
    put_chunk(&file, "iCCP", "bomb\0\0\x78\x9c garbage", 16);
    put_chunk(&file, "gAMA", "\0\0\0\0", 4);
    put_chunk(&file, "zTXt", "key\0\0garbage", 12);
    put_chunk(&file, "prVt", "anything", 8);
    raw.size = 0;
    put_rows(&raw, 4, 4, 8, GREY, 0, 0, 1, 1);
    put_image_data(&file, &raw);
    put_chunk(&file, "tEXt", "no NUL", 6);
    put_chunk(&file, "IEND", "", 0);
    struct asdm_image image;
    assert_int_equal(asdm_png_decode(file.data, file.size, "f", PIXELS_MAX, &image, NULL), ASDM_OK);
    assert_int_equal(image.rgb[0], expected(0, 0, 0, 8, GREY));
    asdm_image_done(&image);
}

/* The position of a chunk's data and its size; -1 when there is none of this type. */
static long find_chunk(const unsigned char *png, size_t size, const char *type, size_t *ret_size) {
    for (size_t at = 8; at + 12 <= size;) {
        size_t length = (size_t)png[at] << 24 | (size_t)png[at + 1] << 16 | (size_t)png[at + 2] << 8 | png[at + 3];
        if (memcmp(png + at + 4, type, 4) == 0) {
            *ret_size = length;
            return (long)at + 8;
        }
        at += 12 + length;
    }
    return -1;
}

static void encoded_pictures_decode_to_the_same(void **state) {
    (void)state;
    static const uint32_t sides[][2] = {{1, 1}, {7, 3}, {64, 64}, {300, 2}, {2, 300}};
    for (size_t s = 0; s < sizeof sides / sizeof *sides; s++) {
        uint32_t width = sides[s][0], height = sides[s][1];
        uint8_t *rgb = malloc((size_t)width * height * 3);
        assert_non_null(rgb);
        for (uint32_t i = 0; i < width * height * 3; i++)
            rgb[i] = (uint8_t)(i * i / 7 + i);
        unsigned char *png, *again;
        size_t size, size_again;
        struct asdm_image image;
        assert_int_equal(asdm_png_encode(rgb, width, height, NULL, 0, &png, &size, NULL), ASDM_OK);
        assert_int_equal(asdm_png_encode(rgb, width, height, NULL, 0, &again, &size_again, NULL), ASDM_OK);
        assert_int_equal(size, size_again);
        assert_memory_equal(png, again, size);
        assert_int_equal(asdm_png_decode(png, size, "f", PIXELS_MAX, &image, NULL), ASDM_OK);
        assert_int_equal(image.width, width);
        assert_int_equal(image.height, height);
        assert_memory_equal(image.rgb, rgb, (size_t)width * height * 3);
        asdm_image_done(&image);
        free(png), free(again), free(rgb);
    }
}

/* Large enough for several strips: noise, a gradient, flat, stripes that make every filter the best of some row. */
static void fill(uint8_t *rgb, uint32_t width, uint32_t height, int kind) {
    uint32_t noise = 1;
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t i = 0; i < 3 * width; i++) {
            noise = noise * 1664525u + 1013904223u;
            int way = kind == 3 ? (int)(y % 5) : kind;
            rgb[(size_t)y * 3 * width + i] = way == 0   ? (uint8_t)(noise >> 24)
                                             : way == 1 ? (uint8_t)(i / 3 + 2 * y)
                                             : way == 2 ? 77
                                             : way == 3 ? (uint8_t)((i / 3 + y) / 3 + (noise >> 30))
                                                        : (uint8_t)(i % 3 * 80 + i / 40);
        }
}

static void large_pictures_have_the_same_bytes_on_any_number_of_processors(void **state) {
    (void)state;
    static const uint32_t sides[][2] = {{512, 512}, {300, 145}, {1, 16384}, {16384, 5}, {97, 1200}};
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    for (size_t s = 0; s < 4 * sizeof sides / sizeof *sides; s++) {
        uint32_t width = sides[s / 4][0], height = sides[s / 4][1];
        uint8_t *rgb = malloc((size_t)width * height * 3);
        assert_non_null(rgb);
        fill(rgb, width, height, (int)(s % 4));
        for (int level = 0; level <= 9; level += 3) {
            unsigned char *png, *again;
            size_t size, size_again;
            struct asdm_image image;
            assert_int_equal(asdm_png_encode(rgb, width, height, NULL, level, &png, &size, NULL), ASDM_OK);
            assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
            assert_int_equal(asdm_png_encode(rgb, width, height, NULL, level, &again, &size_again, NULL), ASDM_OK);
            assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
            assert_int_equal(size, size_again);
            assert_memory_equal(png, again, size);
            assert_int_equal(asdm_png_decode(png, size, "f", (size_t)width * height, &image, NULL), ASDM_OK);
            assert_int_equal(image.width, width);
            assert_int_equal(image.height, height);
            assert_memory_equal(image.rgb, rgb, (size_t)width * height * 3);
            asdm_image_done(&image);
            free(png), free(again);
        }
        free(rgb);
    }
}

static void texts_are_written_as_latin1_or_utf8(void **state) {
    (void)state;
    static const char *const latin[] = {"parameters", "caf\xc3\xa9 \xc2\xa0\xc3\xbf\nSteps: 20", NULL};
    static const char *const wide[] = {"parameters", "\xe2\x82\xac", "Comment", "", NULL};
    const uint8_t rgb[3] = {1, 2, 3};
    unsigned char *png;
    size_t size, length = 0;
    assert_int_equal(asdm_png_encode(rgb, 1, 1, latin, 0, &png, &size, NULL), ASDM_OK);
    long at = find_chunk(png, size, "tEXt", &length);
    assert_true(at > 0);
    assert_int_equal(length, 11 + 17);
    assert_memory_equal(png + at, "parameters\0caf\xe9 \xa0\xff\nSteps: 20", length);
    assert_true(find_chunk(png, size, "iTXt", &length) < 0);
    assert_true(at < find_chunk(png, size, "IDAT", &length)); /* where readers that stop early find it */
    free(png);
    assert_int_equal(asdm_png_encode(rgb, 1, 1, wide, 0, &png, &size, NULL), ASDM_OK);
    at = find_chunk(png, size, "iTXt", &length);
    assert_true(at > 0);
    assert_int_equal(length, 11 + 2 + 2 + 3); /* keyword, flags, empty language and its keyword, text */
    assert_memory_equal(png + at, "parameters\0\0\0\0\0\xe2\x82\xac", length);
    at = find_chunk(png, size, "tEXt", &length);
    assert_true(at > 0);
    assert_memory_equal(png + at, "Comment", 8);
    free(png);
}

static void bad_arguments_are_refused(void **state) {
    (void)state;
    static const char *const texts[][3] = {{"", "x"},     {" a", "x"},        {"a ", "x"},
                                           {"a  b", "x"}, {"a\n", "x"},       {"\xc3\xa9", "x"},
                                           {"a", "\xff"}, {"a", "x\xe2\x82"}, {"a", NULL}};
    const uint8_t rgb[3] = {0};
    char keyword[81];
    unsigned char *png;
    size_t size;
    assert_int_equal(asdm_png_encode(rgb, 0, 1, NULL, 0, &png, &size, NULL), ASDM_ERR_ARGUMENT);
    assert_int_equal(asdm_png_encode(rgb, 1, 0, NULL, 0, &png, &size, NULL), ASDM_ERR_ARGUMENT);
    assert_int_equal(asdm_png_encode(rgb, 1000001, 1, NULL, 0, &png, &size, NULL), ASDM_ERR_ARGUMENT);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(asdm_png_encode(rgb, 1, 1, texts[i], 0, &png, &size, NULL), ASDM_ERR_ARGUMENT);
    memset(keyword, 'k', 80);
    keyword[80] = '\0';
    const char *const long_key[] = {keyword, "x", NULL};
    assert_int_equal(asdm_png_encode(rgb, 1, 1, long_key, 0, &png, &size, NULL), ASDM_ERR_ARGUMENT);
    keyword[79] = '\0';
    assert_int_equal(asdm_png_encode(rgb, 1, 1, long_key, 0, &png, &size, NULL), ASDM_OK);
    free(png);
}

static void files_are_read_and_named(void **state) {
    (void)state;
    static struct bytes file;
    char path[] = "test_png.XXXXXX";
    struct asdm_image image;
    struct asdm_error err;
    build(&file, 5, 4, 8, RGB, false, false);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, file.data, file.size), file.size);
    assert_int_equal(asdm_png_read(path, PIXELS_MAX, &image, NULL), ASDM_OK);
    assert_int_equal(image.width, 5);
    asdm_image_done(&image);
    assert_int_equal(ftruncate(fd, 40), 0);
    close(fd);
    assert_int_equal(asdm_png_read(path, PIXELS_MAX, &image, &err), ASDM_ERR_FORMAT);
    assert_memory_equal(err.message, path, strlen(path));
    assert_string_equal(err.message + strlen(path), ": damaged PNG: the file is cut off");
    unlink(path);
    assert_int_equal(asdm_png_read(path, PIXELS_MAX, &image, &err), ASDM_ERR_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_png_is_decoded),
        cmocka_unit_test(transparency_is_dropped_and_colours_kept),
        cmocka_unit_test(alpha_is_kept_where_it_is_asked_for),
        cmocka_unit_test(other_formats_are_named),
        cmocka_unit_test(sizes_are_refused_before_anything_is_unpacked),
        cmocka_unit_test(every_cut_of_a_file_is_an_error),
        cmocka_unit_test(damaged_bytes_are_an_error),
        cmocka_unit_test(impossible_headers_are_an_error),
        cmocka_unit_test(missing_pieces_are_an_error),
        cmocka_unit_test(large_chunks_are_refused),
        cmocka_unit_test(unneeded_chunks_are_passed_over),
        cmocka_unit_test(encoded_pictures_decode_to_the_same),
        cmocka_unit_test(large_pictures_have_the_same_bytes_on_any_number_of_processors),
        cmocka_unit_test(texts_are_written_as_latin1_or_utf8),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(files_are_read_and_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
