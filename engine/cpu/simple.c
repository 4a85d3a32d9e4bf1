/* Everything that is one pass over its operands. */
#include <math.h>
#include <string.h>

#include <asdm/error.h>
#include "cpu/cpu_ops.h"

enum { SLICE = 16 << 10 /* elements per task */ };

/* ---- the caller's side: float32, in planes or channels innermost */

static void run_import(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    const struct cpu_vector *vector = op->backend->vector;
    size_t tokens = cpu_tokens(op->site.out), channels = (size_t)op->site.out.channels;
    size_t element = op->backend->base.element_bytes;
    for (int row = 0; row < op->site.rows; row++) {
        const float *src =
            (const float *)run->values[op->site.op->inputs[ASDM_SRC_X]] + (size_t)row * tokens * channels;
        unsigned char *dst = cpu_result(op, run, row);
        if (!op->site.op->nchw) {
            vector->from_f32(src, dst, tokens * channels);
            continue;
        }
        for (size_t t = 0; t < tokens; t++)
            for (size_t c = 0; c < channels; c++)
                vector->from_f32(src + c * tokens + t, dst + (t * channels + c) * element, 1);
    }
}

static void run_export(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    const struct cpu_vector *vector = op->backend->vector;
    size_t tokens = cpu_tokens(op->site.out), channels = (size_t)op->site.out.channels;
    size_t element = op->backend->base.element_bytes;
    for (int row = 0; row < op->site.rows; row++) {
        const unsigned char *src = cpu_source(op, run, ASDM_SRC_X, row);
        float *dst = (float *)run->values[op->site.op->output] + (size_t)row * tokens * channels;
        if (!op->site.op->nchw) {
            vector->to_f32(src, dst, tokens * channels);
            continue;
        }
        for (size_t t = 0; t < tokens; t++)
            for (size_t c = 0; c < channels; c++)
                vector->to_f32(src + (t * channels + c) * element, dst + c * tokens + t, 1);
    }
}

/* Rows of the tables are read where the checkpoint has them: a vocabulary is large and a prompt reads little of it. */
struct embedding {
    struct cpu_op op;
    struct asdm_tensor tokens, positions;
};

static void run_embedding(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct embedding *e = kernel->state;
    size_t tokens = cpu_tokens(e->op.site.out), channels = (size_t)e->op.site.out.channels;
    float *sum = run->scratch, *position = sum + channels;
    for (int row = 0; row < e->op.site.rows; row++) {
        const int32_t *ids = (const int32_t *)run->values[e->op.site.op->inputs[ASDM_SRC_X]] + (size_t)row * tokens;
        for (size_t t = 0; t < tokens; t++) {
            asdm_tensor_to_f32(&e->tokens, (size_t)ids[t] * channels, channels, sum);
            asdm_tensor_to_f32(&e->positions, t * channels, channels, position);
            for (size_t c = 0; c < channels; c++)
                sum[c] += position[c];
            e->op.backend->vector->from_f32(
                sum, cpu_result(&e->op, run, row) + t * channels * e->op.backend->base.element_bytes, channels);
        }
    }
}

static void run_timestep(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    size_t half = (size_t)op->site.out.channels / 2;
    float *dst = run->scratch;
    for (int row = 0; row < op->site.rows; row++) {
        double t = ((const float *)run->values[op->site.op->inputs[ASDM_SRC_X]])[row];
        for (size_t i = 0; i < half; i++) {
            double angle = t * exp(-log(10000.0) * (double)i / ((double)half - op->site.op->freq_shift));
            dst[op->site.op->flip_sin_to_cos ? half + i : i] = (float)sin(angle);
            dst[op->site.op->flip_sin_to_cos ? i : half + i] = (float)cos(angle);
        }
        op->backend->vector->from_f32(dst, cpu_result(op, run, row), 2 * half);
    }
}

/* ---- element by element, in slices over all rows */

static size_t all_elements(const struct cpu_op *op) {
    return (size_t)op->site.rows * cpu_row_elements(op->site.out);
}

static size_t slice_length(size_t at, size_t total) {
    return total - at < SLICE ? total - at : SLICE;
}

static void run_activation(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    const unsigned char *src = cpu_source(op, run, ASDM_SRC_X, 0);
    unsigned char *dst = cpu_result(op, run, 0);
    size_t total = all_elements(op), element = op->backend->base.element_bytes;
#pragma omp parallel for
    for (size_t at = 0; at < total; at += SLICE)
        op->backend->vector->activate(src + at * element, dst + at * element, slice_length(at, total),
                                      op->site.op->activation);
}

static void run_geglu(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    const unsigned char *src = cpu_source(op, run, ASDM_SRC_X, 0);
    unsigned char *dst = cpu_result(op, run, 0);
    size_t tokens = (size_t)op->site.rows * cpu_tokens(op->site.out), channels = (size_t)op->site.out.channels;
    size_t pitch = channels * op->backend->base.element_bytes;
#pragma omp parallel for
    for (size_t t = 0; t < tokens; t++)
        op->backend->vector->geglu(src + t * 2 * pitch, dst + t * pitch, 1, channels);
}

static void run_add(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    const unsigned char *x = cpu_source(op, run, ASDM_SRC_X, 0), *y = cpu_source(op, run, ASDM_SRC_RESIDUAL, 0);
    unsigned char *dst = cpu_result(op, run, 0);
    size_t total = all_elements(op), element = op->backend->base.element_bytes;
#pragma omp parallel for
    for (size_t at = 0; at < total; at += SLICE)
        op->backend->vector->add(x + at * element, y + at * element, dst + at * element, slice_length(at, total));
}

static void run_add_row_bias(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
#pragma omp parallel for
    for (int row = 0; row < op->site.rows; row++)
        op->backend->vector->add_row_bias(cpu_source(op, run, ASDM_SRC_X, row),
                                          cpu_source(op, run, ASDM_SRC_ROW_BIAS, row), cpu_result(op, run, row),
                                          cpu_tokens(op->site.out), (size_t)op->site.out.channels);
}

static void run_concat(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    size_t element = op->backend->base.element_bytes, tokens = cpu_tokens(op->site.out);
    size_t a = (size_t)op->site.in[ASDM_SRC_X].channels * element,
           b = (size_t)op->site.in[ASDM_SRC_X2].channels * element;
#pragma omp parallel for
    for (int row = 0; row < op->site.rows; row++) {
        const unsigned char *x = cpu_source(op, run, ASDM_SRC_X, row), *x2 = cpu_source(op, run, ASDM_SRC_X2, row);
        unsigned char *dst = cpu_result(op, run, row);
        for (size_t t = 0; t < tokens; t++, dst += a + b) {
            memcpy(dst, x + t * a, a);
            memcpy(dst + a, x2 + t * b, b);
        }
    }
}

static void run_upsample(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    size_t pixel = (size_t)op->site.out.channels * op->backend->base.element_bytes;
    size_t width = (size_t)op->site.out.width, in_width = (size_t)op->site.in[ASDM_SRC_X].width;
#pragma omp parallel for collapse(2)
    for (int row = 0; row < op->site.rows; row++)
        for (size_t y = 0; y < (size_t)op->site.out.height; y++)
            for (size_t x = 0; x < width; x++)
                memcpy(cpu_result(op, run, row) + (y * width + x) * pixel,
                       cpu_source(op, run, ASDM_SRC_X, row) + ((y / 2) * in_width + x / 2) * pixel, pixel);
}

/* ---- planning */

static enum asdm_status plan_embedding(const struct cpu_backend *backend, const struct asdm_site *site,
                                       struct asdm_kernel *ret, struct asdm_error *err) {
    ASDM_TRY(cpu_kernel_create(backend, site, sizeof(struct embedding), "plain", run_embedding, ret, err));
    struct embedding *e = ret->state;
    const struct asdm_weight *weights = site->program->weights;
    ret->scratch_bytes = 2 * (size_t)site->out.channels * sizeof(float);
    enum asdm_status status = asdm_weight_store_find(site->weights, &weights[site->op->weight[0]], &e->tokens, err);
    if (status == ASDM_OK)
        status = asdm_weight_store_find(site->weights, &weights[site->op->weight[1]], &e->positions, err);
    if (status != ASDM_OK)
        ret->destroy(ret);
    return status;
}

enum asdm_status cpu_plan_simple(const struct cpu_backend *backend, const struct asdm_site *site,
                                 struct asdm_kernel *ret, struct asdm_error *err) {
    static const struct {
        void (*run)(const struct asdm_kernel *, const struct asdm_run *);
        int in_place;
    } kinds[ASDM_OP_KIND_COUNT] = {
        [ASDM_OP_IMPORT] = {run_import, ASDM_NONE},
        [ASDM_OP_EXPORT] = {run_export, ASDM_NONE},
        [ASDM_OP_TIMESTEP_EMBEDDING] = {run_timestep, ASDM_NONE},
        [ASDM_OP_ACTIVATION] = {run_activation, ASDM_SRC_X},
        [ASDM_OP_GEGLU] = {run_geglu, ASDM_NONE},
        [ASDM_OP_ADD] = {run_add, ASDM_SRC_X},
        [ASDM_OP_CONCAT] = {run_concat, ASDM_NONE},
        [ASDM_OP_UPSAMPLE] = {run_upsample, ASDM_NONE},
    };
    if (site->op->kind == ASDM_OP_EMBEDDING)
        return plan_embedding(backend, site, ret, err);
    bool row_bias = site->op->kind == ASDM_OP_ADD && site->op->inputs[ASDM_SRC_ROW_BIAS] != ASDM_NONE;
    ASDM_TRY(cpu_kernel_create(backend, site, sizeof(struct cpu_op), backend->vector->name,
                               row_bias ? run_add_row_bias : kinds[site->op->kind].run, ret, err));
    ret->in_place = kinds[site->op->kind].in_place;
    if (site->op->kind == ASDM_OP_TIMESTEP_EMBEDDING)
        ret->scratch_bytes = (size_t)site->out.channels * sizeof(float);
    return ASDM_OK;
}
