#include "cpu/mixture.h"

#include <string.h>

#include <asdm/error.h>
#include "base/size.h"

enum { SLICE_BYTES = 64 << 10 };

void cpu_read_shares(const struct cpu_op *op, const struct asdm_run *run, int row, float shares[ASDM_EXPERTS_MAX]) {
    int experts = op->site.op->experts;
    float sum = 0;
    op->backend->vector->to_f32(cpu_source(op, run, ASDM_SRC_ROUTING, row), shares, (size_t)experts);
    for (int e = 0; e < experts; e++)
        sum += shares[e];
    for (int e = 0; e < experts; e++)
        shares[e] /= sum;
}

int cpu_take_shares(const void *const *src, const float *shares, int count, const void **ret_src, float *ret_shares) {
    int taken = 0;
    for (int e = 0; e < count; e++)
        if (shares[e] != 0) {
            ret_src[taken] = src[e];
            ret_shares[taken++] = shares[e];
        }
    return taken;
}

/* ---- planning */

enum asdm_status cpu_mixture_add(struct cpu_mixture *mixture, const struct cpu_pack *pack, struct asdm_error *err) {
    struct cpu_pack one = *pack;
    ASDM_ASSERT(mixture->products < CPU_MIXTURE_PRODUCTS);
    for (one.expert = 0; one.expert < pack->site->op->experts; one.expert++)
        ASDM_TRY(cpu_pack_weights(&one, &mixture->weights[mixture->products][one.expert], err));
    mixture->weight_bytes[mixture->products++] = cpu_product_weight_bytes(pack->product);
    return ASDM_OK;
}

enum asdm_status cpu_mixture_plan(struct cpu_mixture *mixture, const struct cpu_op *op, size_t offset,
                                  struct asdm_error *err) {
    size_t at = asdm_size_align(offset, 64);
    mixture->op = op;
    for (int e = 0; e < op->site.op->experts; e++)
        ASDM_TRY(cpu_weight_f32(&op->site, op->site.op->bias[e], &mixture->bias[e], err));
    for (int i = 0; i < mixture->products; i++) {
        mixture->weight_offsets[i] = at;
        at += asdm_size_align(mixture->weight_bytes[i], 64);
    }
    mixture->bias_offset = at;
    at += asdm_size_align((size_t)op->site.out.channels * sizeof(float), 64);
    mixture->shares_offset = at;
    at += (size_t)op->site.rows * ASDM_EXPERTS_MAX * sizeof(float);
    mixture->scratch_bytes = at - offset;
    return ASDM_OK;
}

/* ---- running */

static void mix_weights(const struct cpu_mixture *mixture, const float *shares, int product, unsigned char *dst) {
    const struct cpu_backend *backend = mixture->op->backend;
    size_t bytes = mixture->weight_bytes[product], element = backend->base.element_bytes;
#pragma omp parallel for
    for (size_t at = 0; at < bytes; at += SLICE_BYTES) {
        const void *src[ASDM_EXPERTS_MAX];
        float taken[ASDM_EXPERTS_MAX];
        int count = cpu_take_shares(mixture->weights[product], shares, mixture->op->site.op->experts, src, taken);
        for (int e = 0; e < count; e++)
            src[e] = (const unsigned char *)src[e] + at;
        backend->vector->mix(src, taken, count, dst + at,
                             (bytes - at < SLICE_BYTES ? bytes - at : SLICE_BYTES) / element);
    }
}

static void mix_bias(const struct cpu_mixture *mixture, const float *shares, float *dst) {
    for (int64_t c = 0; c < mixture->op->site.out.channels; c++) {
        dst[c] = 0;
        for (int e = 0; e < mixture->op->site.op->experts; e++)
            if (shares[e] != 0)
                dst[c] += shares[e] * mixture->bias[e][c];
    }
}

/* The first row that has the shares of `row`. */
static int first_equal(const float *shares, int row) {
    int first = 0;
    while (memcmp(shares + first * ASDM_EXPERTS_MAX, shares + row * ASDM_EXPERTS_MAX,
                  ASDM_EXPERTS_MAX * sizeof *shares) != 0)
        first++;
    return first;
}

void cpu_mixture_run(const struct cpu_mixture *mixture, const struct asdm_run *run, cpu_mixture_row *run_row,
                     void *user) {
    unsigned char *scratch = run->scratch;
    float *shares = (float *)(scratch + mixture->shares_offset), *bias = (float *)(scratch + mixture->bias_offset);
    int rows = mixture->op->site.rows;
    void *weights[CPU_MIXTURE_PRODUCTS] = {NULL};
    memset(shares, 0, (size_t)rows * ASDM_EXPERTS_MAX * sizeof *shares);
    for (int row = 0; row < rows; row++)
        cpu_read_shares(mixture->op, run, row, shares + row * ASDM_EXPERTS_MAX);
    for (int row = 0; row < rows; row++) {
        if (first_equal(shares, row) < row)
            continue;
        for (int i = 0; i < mixture->products; i++) {
            weights[i] = scratch + mixture->weight_offsets[i];
            mix_weights(mixture, shares + row * ASDM_EXPERTS_MAX, i, weights[i]);
        }
        mix_bias(mixture, shares + row * ASDM_EXPERTS_MAX, bias);
        for (int same = row; same < rows; same++)
            if (first_equal(shares, same) == row)
                run_row(user, run, same, weights, bias);
    }
}
