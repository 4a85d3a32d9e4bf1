#include "base/resize.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

enum { CHANNELS = 3, WEIGHT_BITS = 22 };

static const double PI = 3.14159265358979323846;
static const double LOBES = 3.0;

static double sinc(double x) {
    return x == 0 ? 1 : sin(PI * x) / (PI * x);
}

static double lanczos(double x) {
    return x >= -LOBES && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0;
}

/* The weights of every output position along one axis. */
struct axis {
    int taps; /* room per position */
    int *first, *count;
    int32_t *weights; /* [out][taps], fixed point */
};

static void axis_done(struct axis *axis) {
    free(axis->first);
    free(axis->count);
    free(axis->weights);
}

static void fill_position(struct axis *axis, int position, int in, double scale, double *weights) {
    double filter_scale = scale > 1 ? scale : 1, support = LOBES * filter_scale, centre = (position + 0.5) * scale,
           sum = 0;
    int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
    first = first < 0 ? 0 : first;
    end = end > in ? in : end;
    for (int i = first; i < end; i++)
        sum += weights[i - first] = lanczos((i - centre + 0.5) / filter_scale);
    for (int i = 0; i < end - first; i++) {
        double weight = weights[i] / sum * (1 << WEIGHT_BITS);
        axis->weights[(size_t)position * (size_t)axis->taps + (size_t)i] =
            (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    axis->first[position] = first;
    axis->count[position] = end - first;
}

static bool axis_init(struct axis *axis, int in, int out) {
    double scale = (double)in / out;
    axis->taps = (int)ceil(LOBES * (scale > 1 ? scale : 1)) * 2 + 1;
    axis->first = calloc((size_t)out, sizeof *axis->first);
    axis->count = calloc((size_t)out, sizeof *axis->count);
    axis->weights = calloc((size_t)out * (size_t)axis->taps, sizeof *axis->weights);
    double *weights = calloc((size_t)axis->taps + 1, sizeof *weights);
    bool fits = axis->first && axis->count && axis->weights && weights;
    for (int i = 0; fits && i < out; i++)
        fill_position(axis, i, in, scale, weights);
    free(weights);
    return fits;
}

/* One output number: `stride` bytes lie between neighbours along the axis. */
static uint8_t blend(const struct axis *axis, int position, const uint8_t *src, size_t stride) {
    const int32_t *weights = axis->weights + (size_t)position * (size_t)axis->taps;
    int64_t sum = 1 << (WEIGHT_BITS - 1);
    src += (size_t)axis->first[position] * stride;
    for (int i = 0; i < axis->count[position]; i++)
        sum += (int64_t)weights[i] * src[(size_t)i * stride];
    sum >>= WEIGHT_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void resize_lines(const struct axis *axis, const uint8_t *src, int src_width, int lines, uint8_t *dst,
                         int dst_width) {
    for (size_t y = 0; y < (size_t)lines; y++)
        for (int x = 0; x < dst_width; x++)
            for (size_t c = 0; c < CHANNELS; c++)
                dst[(y * (size_t)dst_width + (size_t)x) * CHANNELS + c] =
                    blend(axis, x, src + y * (size_t)src_width * CHANNELS + c, CHANNELS);
}

static void resize_columns(const struct axis *axis, const uint8_t *src, int width, uint8_t *dst, int dst_height) {
    size_t line = (size_t)width * CHANNELS;
    for (int y = 0; y < dst_height; y++)
        for (size_t i = 0; i < line; i++)
            dst[(size_t)y * line + i] = blend(axis, y, src + i, line);
}

enum asdm_status asdm_resize_rgb(const uint8_t *src, int src_width, int src_height, uint8_t *dst, int dst_width,
                                 int dst_height, struct asdm_error *err) {
    struct axis across = {0}, down = {0};
    uint8_t *lines = NULL;
    enum asdm_status status = ASDM_ERR_MEMORY;
    if (src_width == dst_width && src_height == dst_height) {
        memcpy(dst, src, (size_t)dst_width * (size_t)dst_height * CHANNELS);
        return ASDM_OK;
    }
    lines = malloc((size_t)dst_width * (size_t)src_height * CHANNELS);
    if (lines && axis_init(&across, src_width, dst_width) && axis_init(&down, src_height, dst_height)) {
        if (src_width == dst_width)
            memcpy(lines, src, (size_t)src_width * (size_t)src_height * CHANNELS);
        else
            resize_lines(&across, src, src_width, src_height, lines, dst_width);
        if (src_height == dst_height)
            memcpy(dst, lines, (size_t)dst_width * (size_t)dst_height * CHANNELS);
        else
            resize_columns(&down, lines, dst_width, dst, dst_height);
        status = ASDM_OK;
    }
    axis_done(&across);
    axis_done(&down);
    free(lines);
    return status == ASDM_OK ? status : asdm_fail(err, status, "no memory to resize the picture");
}
