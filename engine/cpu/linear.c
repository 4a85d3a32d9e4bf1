/* Matrix products: oneDNN. Two sources are two products into one result; GEGLU goes over blocks of tokens so that the
 * doubled result stays in the cache. A row's bits must not depend on how many rows there are, but oneDNN may choose the
 * order of its sums by the number of tokens, on some processors: each row is a call of its own. */
#include <stdlib.h>

#include <asdm/error.h>
#include "base/size.h"
#include "cpu/mixture.h"
#include "cpu/pack.h"

struct linear {
    struct cpu_op op;
    struct cpu_product *products[2]; /* of x and of x2 */
    const void *weights[2];
    int count;
    const float *bias;
    size_t tokens, block;       /* of all rows; per product call */
    size_t wide_bytes;          /* scratch: one block's result before GEGLU, then oneDNN's */
    struct cpu_mixture mixture; /* with experts: its scratch follows oneDNN's */
};

static void run_plain(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct linear *linear = kernel->state;
    size_t element = linear->op.backend->base.element_bytes;
    size_t out_pitch = (size_t)linear->op.site.out.channels * element;
    cpu_place_residual(&linear->op, run);
    for (int i = 0; i < linear->count; i++) {
        int place = i ? ASDM_SRC_X2 : ASDM_SRC_X;
        const unsigned char *src = cpu_source(&linear->op, run, place, 0);
        size_t in_pitch = (size_t)linear->op.site.in[place].channels * element;
        for (size_t first = 0; first < linear->tokens; first += linear->block)
            cpu_product_run(linear->products[i], src + first * in_pitch, linear->weights[i], i ? NULL : linear->bias,
                            cpu_result(&linear->op, run, 0) + first * out_pitch, run->scratch);
    }
}

static void run_mixed_row(void *user, const struct asdm_run *run, int row, void *const *weights, const float *bias) {
    const struct linear *linear = user;
    for (int i = 0; i < linear->count; i++)
        cpu_product_run(linear->products[i], cpu_source(&linear->op, run, i ? ASDM_SRC_X2 : ASDM_SRC_X, row),
                        weights[i], i ? NULL : bias, cpu_result(&linear->op, run, row), run->scratch);
}

static void run_mixed(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    struct linear *linear = kernel->state;
    cpu_place_residual(&linear->op, run);
    cpu_mixture_run(&linear->mixture, run, run_mixed_row, linear);
}

static void run_geglu(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct linear *linear = kernel->state;
    const struct cpu_vector *vector = linear->op.backend->vector;
    size_t element = linear->op.backend->base.element_bytes, channels = (size_t)linear->op.site.out.channels;
    size_t in_pitch = (size_t)linear->op.site.in[ASDM_SRC_X].channels * element, out_pitch = channels * element;
    const unsigned char *src = cpu_source(&linear->op, run, ASDM_SRC_X, 0);
    unsigned char *dst = cpu_result(&linear->op, run, 0), *wide = run->scratch;
    for (size_t first = 0; first < linear->tokens; first += linear->block) {
        cpu_product_run(linear->products[0], src + first * in_pitch, linear->weights[0], linear->bias, wide,
                        wide + linear->wide_bytes);
#pragma omp parallel for
        for (size_t t = 0; t < linear->block; t += 8) {
            size_t count = linear->block - t < 8 ? linear->block - t : 8;
            vector->geglu(wide + t * 2 * out_pitch, dst + (first + t) * out_pitch, count, channels);
        }
    }
}

static void destroy(struct asdm_kernel *kernel) {
    struct linear *linear = kernel->state;
    for (int i = 0; i < 2; i++)
        if (linear->products[i])
            cpu_product_destroy(&linear->products[i]);
    free(linear);
}

/* The largest divisor of `tokens` from 128 to 512, or all of them. */
static size_t geglu_block(size_t tokens) {
    for (size_t block = 512; block >= 128; block--)
        if (tokens % block == 0)
            return block;
    return tokens;
}

static enum asdm_status plan_products(struct linear *linear, size_t *scratch, struct asdm_error *err) {
    const struct asdm_site *site = &linear->op.site;
    const struct asdm_op *op = site->op;
    int64_t first = 0;
    linear->count = op->inputs[ASDM_SRC_X2] != ASDM_NONE ? 2 : 1;
    for (int i = 0; i < linear->count; i++) {
        bool last = i + 1 == linear->count;
        int64_t inputs = site->in[i ? ASDM_SRC_X2 : ASDM_SRC_X].channels;
        struct cpu_product_shape shape = {.bf16 = linear->op.backend->bf16,
                                          .rows = (int64_t)linear->block,
                                          .in_channels = inputs,
                                          .out_channels = site->out.channels * (op->geglu ? 2 : 1),
                                          .bias = i == 0 && op->bias[0] != ASDM_NONE,
                                          .accumulate = i > 0 || op->inputs[ASDM_SRC_RESIDUAL] != ASDM_NONE,
                                          .activation = last ? op->activation : ASDM_ACT_NONE};
        ASDM_TRY(cpu_product_create(&shape, &linear->products[i], err));
        struct cpu_pack pack = {linear->op.backend, site, linear->products[i], first, inputs, -1, 0};
        if (op->experts)
            ASDM_TRY(cpu_mixture_add(&linear->mixture, &pack, err));
        else
            ASDM_TRY(cpu_pack_weights(&pack, &linear->weights[i], err));
        first += inputs;
        if (cpu_product_scratch_bytes(linear->products[i]) > *scratch)
            *scratch = cpu_product_scratch_bytes(linear->products[i]);
    }
    return op->experts ? cpu_mixture_plan(&linear->mixture, &linear->op, *scratch, err)
                       : cpu_pack_bias(site, &linear->bias, err);
}

enum asdm_status cpu_plan_linear(const struct cpu_backend *backend, const struct asdm_site *site,
                                 struct asdm_kernel *ret, struct asdm_error *err) {
    const struct asdm_op *op = site->op;
    struct asdm_kernel kernel;
    /* An activation over an accumulated sum would see only the last term; no model has that. */
    ASDM_ASSERT(op->activation == ASDM_ACT_NONE ||
                (op->inputs[ASDM_SRC_X2] == ASDM_NONE && op->inputs[ASDM_SRC_RESIDUAL] == ASDM_NONE));
    ASDM_TRY(cpu_kernel_create(backend, site, sizeof(struct linear), op->geglu ? "onednn geglu" : "onednn matmul",
                               op->geglu     ? run_geglu
                               : op->experts ? run_mixed
                                             : run_plain,
                               &kernel, err));
    struct linear *linear = kernel.state;
    size_t scratch = 0;
    kernel.destroy = destroy;
    linear->tokens = (size_t)site->rows * cpu_tokens(site->out);
    linear->block = op->geglu ? geglu_block(cpu_tokens(site->out)) : cpu_tokens(site->out);
    enum asdm_status status = plan_products(linear, &scratch, err);
    if (status != ASDM_OK) {
        destroy(&kernel);
        return status;
    }
    if (op->geglu)
        linear->wide_bytes =
            asdm_size_align(linear->block * 2 * (size_t)site->out.channels * backend->base.element_bytes, 64);
    kernel.scratch_bytes = linear->wide_bytes + scratch + linear->mixture.scratch_bytes;
    kernel.in_place = ASDM_SRC_RESIDUAL;
    *ret = kernel;
    return ASDM_OK;
}
