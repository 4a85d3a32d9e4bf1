/* Convolutions: oneDNN, and upsampling followed by a 3x3 convolution as four 2x2 convolutions on the small map. Each
 * row is a call of its own (see cpu/linear.c). */
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/size.h"
#include "cpu/mixture.h"
#include "cpu/pack.h"

enum {
    PHASES = 4,
    WINOGRAD_CHANNELS_MIN = 64,
    WINOGRAD_PIXELS_PER_CHANNEL = 32,
    WINOGRAD_WEIGHTS_MAX = 64 << 20, /* bytes of one layer */
    WINOGRAD_SCRATCH_MAX = 512 << 20
};

struct conv2d {
    struct cpu_op op;
    struct cpu_product *products[PHASES];
    const void *weights[PHASES];
    int count; /* 1, or PHASES when folded */
    const float *bias;
    /* Scratch: the upsampled map (not folded) or one phase, of one row; then oneDNN's; with experts then the mixture's.
     */
    size_t enlarged_bytes, product_scratch;
    struct cpu_mixture mixture;
};

/* ---- moving data */

/* A row's map upsampled to the size of the output. */
static void enlarge(const struct conv2d *conv, const unsigned char *src, unsigned char *dst) {
    struct asdm_extent in = conv->op.site.in[ASDM_SRC_X], out = conv->op.site.out;
    size_t pixel = (size_t)in.channels * conv->op.backend->base.element_bytes;
#pragma omp parallel for
    for (int64_t y = 0; y < out.height; y++) {
        const unsigned char *from = src + (size_t)(y / 2) * (size_t)in.width * pixel;
        unsigned char *line = dst + (size_t)y * (size_t)out.width * pixel;
        for (int64_t x = 0; x < out.width; x++)
            memcpy(line + (size_t)x * pixel, from + (size_t)(x / 2) * pixel, pixel);
    }
}

/* Pixels of one phase of a row to their places in the output. */
static void spread_phase(const struct conv2d *conv, const unsigned char *src, int phase, unsigned char *dst) {
    struct asdm_extent in = conv->op.site.in[ASDM_SRC_X], out = conv->op.site.out;
    size_t pixel = (size_t)out.channels * conv->op.backend->base.element_bytes;
#pragma omp parallel for
    for (int64_t y = 0; y < in.height; y++) {
        const unsigned char *from = src + (size_t)y * (size_t)in.width * pixel;
        unsigned char *to = dst + ((size_t)(2 * y + phase / 2) * (size_t)out.width + (size_t)(phase % 2)) * pixel;
        for (int64_t x = 0; x < in.width; x++)
            memcpy(to + 2 * (size_t)x * pixel, from + (size_t)x * pixel, pixel);
    }
}

/* ---- running */

static void run_direct(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct conv2d *conv = kernel->state;
    unsigned char *scratch = run->scratch;
    cpu_place_residual(&conv->op, run);
    for (int row = 0; row < conv->op.site.rows; row++) {
        const unsigned char *src = cpu_source(&conv->op, run, ASDM_SRC_X, row);
        if (conv->op.site.op->upsample) {
            enlarge(conv, src, scratch);
            src = scratch;
        }
        cpu_product_run(conv->products[0], src, conv->weights[0], conv->bias, cpu_result(&conv->op, run, row),
                        scratch + conv->enlarged_bytes);
    }
}

static void run_folded(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct conv2d *conv = kernel->state;
    unsigned char *scratch = run->scratch;
    for (int phase = 0; phase < PHASES; phase++)
        for (int row = 0; row < conv->op.site.rows; row++) {
            cpu_product_run(conv->products[phase], cpu_source(&conv->op, run, ASDM_SRC_X, row), conv->weights[phase],
                            conv->bias, scratch, scratch + conv->enlarged_bytes);
            spread_phase(conv, scratch, phase, cpu_result(&conv->op, run, row));
        }
}

static void run_mixed_row(void *user, const struct asdm_run *run, int row, void *const *weights, const float *bias) {
    const struct conv2d *conv = user;
    cpu_product_run(conv->products[0], cpu_source(&conv->op, run, ASDM_SRC_X, row), weights[0], bias,
                    cpu_result(&conv->op, run, row), run->scratch);
}

static void run_mixed(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    struct conv2d *conv = kernel->state;
    cpu_place_residual(&conv->op, run);
    cpu_mixture_run(&conv->mixture, run, run_mixed_row, conv);
}

static void destroy(struct asdm_kernel *kernel) {
    struct conv2d *conv = kernel->state;
    for (int i = 0; i < PHASES; i++)
        if (conv->products[i])
            cpu_product_destroy(&conv->products[i]);
    free(conv);
}

/* ---- planning */

static struct cpu_product_shape shape_of(const struct cpu_backend *backend, const struct asdm_site *site) {
    const struct asdm_op *op = site->op;
    struct asdm_extent in = op->upsample ? site->out : site->in[ASDM_SRC_X];
    return (struct cpu_product_shape){
        .conv = true,
        .bf16 = backend->bf16,
        .rows = 1,
        .in_channels = site->in[ASDM_SRC_X].channels,
        .out_channels = site->out.channels,
        .in_height = in.height,
        .in_width = in.width,
        .out_height = site->out.height,
        .out_width = site->out.width,
        .kernel = op->kernel,
        .stride = op->stride,
        .pad_top = op->pad_before,
        .pad_left = op->pad_before,
        .pad_bottom = (site->out.height - 1) * op->stride + op->kernel - in.height - op->pad_before,
        .pad_right = (site->out.width - 1) * op->stride + op->kernel - in.width - op->pad_before,
        .bias = op->bias[0] != ASDM_NONE,
        .accumulate = op->inputs[ASDM_SRC_RESIDUAL] != ASDM_NONE};
}

/* Four phases on the small map: exact only when the output is twice as large in both directions. */
static bool can_fold(const struct asdm_site *site) {
    return site->op->upsample && site->op->kernel == 3 && site->op->inputs[ASDM_SRC_RESIDUAL] == ASDM_NONE &&
           site->out.height == 2 * site->in[ASDM_SRC_X].height && site->out.width == 2 * site->in[ASDM_SRC_X].width;
}

static struct cpu_product_shape phase_shape(struct cpu_product_shape shape, const struct asdm_site *site, int phase) {
    shape.in_height = shape.out_height = site->in[ASDM_SRC_X].height;
    shape.in_width = shape.out_width = site->in[ASDM_SRC_X].width;
    shape.kernel = 2;
    shape.pad_top = phase / 2 ? 0 : 1;
    shape.pad_bottom = phase / 2 ? 1 : 0;
    shape.pad_left = phase % 2 ? 0 : 1;
    shape.pad_right = phase % 2 ? 1 : 0;
    return shape;
}

/* Winograd halves the time of a large map at a rounding of a few units in the last place, but laying out its weights is
 * slow: with so many pixels per channel the first call earns it back. */
static bool suits_winograd(const struct cpu_backend *backend, const struct asdm_site *site) {
    const struct asdm_op *op = site->op;
    int64_t channels =
        site->in[ASDM_SRC_X].channels > site->out.channels ? site->in[ASDM_SRC_X].channels : site->out.channels;
    return !backend->bf16 && op->kernel == 3 && op->stride == 1 && op->pad_before == 1 && !op->upsample &&
           site->in[ASDM_SRC_X].channels >= WINOGRAD_CHANNELS_MIN && site->out.channels >= WINOGRAD_CHANNELS_MIN &&
           site->out.height * site->out.width >= WINOGRAD_PIXELS_PER_CHANNEL * channels;
}

/* Candidates in order: winograd where it suits and its memory is bearable, then oneDNN's own choice. */
static enum asdm_status create_product(struct cpu_product_shape shape, bool winograd, struct cpu_product **ret,
                                       struct asdm_error *err) {
    shape.winograd = winograd;
    if (shape.winograd && cpu_product_create(&shape, ret, NULL) == ASDM_OK) {
        if (cpu_product_scratch_bytes(*ret) <= (size_t)WINOGRAD_SCRATCH_MAX &&
            cpu_product_weight_bytes(*ret) <= (size_t)WINOGRAD_WEIGHTS_MAX)
            return ASDM_OK;
        cpu_product_destroy(ret);
    }
    shape.winograd = false;
    return cpu_product_create(&shape, ret, err);
}

static enum asdm_status plan_products(struct conv2d *conv, bool folded, struct asdm_error *err) {
    const struct asdm_site *site = &conv->op.site;
    struct cpu_product_shape whole = shape_of(conv->op.backend, site);
    bool winograd = !folded && suits_winograd(conv->op.backend, site);
    conv->count = folded ? PHASES : 1;
    for (int i = 0; i < conv->count; i++) {
        struct cpu_product_shape shape = folded ? phase_shape(whole, site, i) : whole;
        ASDM_TRY(create_product(shape, winograd, &conv->products[i], err));
        struct cpu_pack pack = {conv->op.backend, site, conv->products[i], 0, shape.in_channels, folded ? i : -1, 0};
        if (site->op->experts)
            ASDM_TRY(cpu_mixture_add(&conv->mixture, &pack, err));
        else
            ASDM_TRY(cpu_pack_weights(&pack, &conv->weights[i], err));
        size_t scratch = cpu_product_scratch_bytes(conv->products[i]);
        conv->product_scratch = scratch > conv->product_scratch ? scratch : conv->product_scratch;
    }
    return site->op->experts ? cpu_mixture_plan(&conv->mixture, &conv->op, conv->product_scratch, err)
                             : cpu_pack_bias(site, &conv->bias, err);
}

enum asdm_status cpu_plan_conv2d(const struct cpu_backend *backend, const struct asdm_site *site,
                                 struct asdm_kernel *ret, struct asdm_error *err) {
    bool folded = can_fold(site);
    struct asdm_kernel kernel;
    ASDM_TRY(cpu_kernel_create(backend, site, sizeof(struct conv2d), folded ? "onednn, folded" : "onednn",
                               folded              ? run_folded
                               : site->op->experts ? run_mixed
                                                   : run_direct,
                               &kernel, err));
    struct conv2d *conv = kernel.state;
    kernel.destroy = destroy;
    enum asdm_status status = plan_products(conv, folded, err);
    if (status != ASDM_OK) {
        destroy(&kernel);
        return status;
    }
    size_t element = backend->base.element_bytes;
    if (folded)
        conv->enlarged_bytes = cpu_tokens(site->in[ASDM_SRC_X]) * (size_t)site->out.channels * element;
    else if (site->op->upsample)
        conv->enlarged_bytes = cpu_tokens(site->out) * (size_t)site->in[ASDM_SRC_X].channels * element;
    conv->enlarged_bytes = asdm_size_align(conv->enlarged_bytes, 64);
    kernel.scratch_bytes = conv->enlarged_bytes + conv->product_scratch + conv->mixture.scratch_bytes;
    if (!folded)
        kernel.name = cpu_product_name(conv->products[0]);
    kernel.in_place = ASDM_SRC_RESIDUAL;
    *ret = kernel;
    return ASDM_OK;
}
