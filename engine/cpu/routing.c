/* The small operations around kernels with experts: the mean of a map, the experts' shares, mixed vectors. */
#include <math.h>

#include <asdm/error.h>
#include "cpu/mixture.h"

enum { CHANNELS = 64 /* of a task */, TOKENS = 64 /* summed in float32 before they go into a double */ };

struct routing {
    struct cpu_op op;
    const float *weight, *bias; /* [experts][features] */
};

/* ---- global_pool */

/* Means of a slice of one source's channels; `first` is its place in the result. */
static void average(const struct cpu_op *op, const struct asdm_run *run, int row, int place, size_t slice,
                    size_t first) {
    const struct cpu_vector *vector = op->backend->vector;
    size_t tokens = cpu_tokens(op->site.in[place]), channels = (size_t)op->site.in[place].channels;
    size_t element = op->backend->base.element_bytes, count = channels - slice < CHANNELS ? channels - slice : CHANNELS;
    double sum[CHANNELS] = {0};
    for (size_t start = 0; start < tokens; start += TOKENS) {
        float part[CHANNELS] = {0}, line[CHANNELS];
        for (size_t t = start; t < start + TOKENS && t < tokens; t++) {
            vector->to_f32(cpu_source(op, run, place, row) + (t * channels + slice) * element, line, count);
            for (size_t c = 0; c < count; c++)
                part[c] += line[c];
        }
        for (size_t c = 0; c < count; c++)
            sum[c] += part[c];
    }
    float mean[CHANNELS];
    for (size_t c = 0; c < count; c++)
        mean[c] = (float)(sum[c] / (double)tokens);
    vector->from_f32(mean, cpu_result(op, run, row) + (first + slice) * element, count);
}

static void run_global_pool(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    size_t channels = (size_t)op->site.in[ASDM_SRC_X].channels;
    size_t more = op->site.op->inputs[ASDM_SRC_X2] == ASDM_NONE ? 0 : (size_t)op->site.in[ASDM_SRC_X2].channels;
    for (int row = 0; row < op->site.rows; row++) {
#pragma omp parallel for
        for (size_t slice = 0; slice < channels; slice += CHANNELS)
            average(op, run, row, ASDM_SRC_X, slice, 0);
#pragma omp parallel for
        for (size_t slice = 0; slice < more; slice += CHANNELS)
            average(op, run, row, ASDM_SRC_X2, slice, channels);
    }
}

/* ---- routing */

/* Adds the products of one source with its columns of the weights to the experts' scores. */
static void add_scores(const struct routing *routing, const struct asdm_run *run, int row, int place, size_t first,
                       double *score) {
    const struct cpu_op *op = &routing->op;
    const unsigned char *src = cpu_source(op, run, place, row);
    size_t channels = (size_t)op->site.in[place].channels, element = op->backend->base.element_bytes;
    size_t features = (size_t)op->site.program->weights[op->site.op->weight[0]].dims[1];
    for (size_t slice = 0; src && slice < channels; slice += CHANNELS) {
        size_t count = channels - slice < CHANNELS ? channels - slice : CHANNELS;
        float line[CHANNELS];
        op->backend->vector->to_f32(src + slice * element, line, count);
        for (int64_t e = 0; e < op->site.out.channels; e++)
            for (size_t c = 0; c < count; c++)
                score[e] += (double)line[c] * routing->weight[(size_t)e * features + first + slice + c];
    }
}

static void run_routing(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct routing *routing = kernel->state;
    const struct cpu_op *op = &routing->op;
    int64_t experts = op->site.out.channels;
    for (int row = 0; row < op->site.rows; row++) {
        double score[ASDM_EXPERTS_MAX], most = -INFINITY, total = 0;
        float shares[ASDM_EXPERTS_MAX];
        for (int64_t e = 0; e < experts; e++)
            score[e] = routing->bias[e];
        add_scores(routing, run, row, ASDM_SRC_X, 0, score);
        add_scores(routing, run, row, ASDM_SRC_X2, (size_t)op->site.in[ASDM_SRC_X].channels, score);
        for (int64_t e = 0; e < experts; e++)
            most = fmax(most, score[e] *= op->site.op->scale);
        for (int64_t e = 0; e < experts; e++)
            total += score[e] = exp(score[e] - most);
        for (int64_t e = 0; e < experts; e++)
            shares[e] = (float)(score[e] / total);
        op->backend->vector->from_f32(shares, cpu_result(op, run, row), (size_t)experts);
    }
}

/* ---- mix */

static void run_mix(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cpu_op *op = kernel->state;
    int experts = op->site.op->experts;
    for (int row = 0; row < op->site.rows; row++) {
        const void *vectors[ASDM_EXPERTS_MAX], *taken[ASDM_EXPERTS_MAX];
        float shares[ASDM_EXPERTS_MAX], taken_shares[ASDM_EXPERTS_MAX];
        for (int e = 0; e < experts; e++)
            vectors[e] = cpu_source(op, run, e, row);
        cpu_read_shares(op, run, row, shares);
        int count = cpu_take_shares(vectors, shares, experts, taken, taken_shares);
        op->backend->vector->mix(taken, taken_shares, count, cpu_result(op, run, row), cpu_row_elements(op->site.out));
    }
}

/* ---- planning */

enum asdm_status cpu_plan_routing(const struct cpu_backend *backend, const struct asdm_site *site,
                                  struct asdm_kernel *ret, struct asdm_error *err) {
    enum asdm_op_kind kind = site->op->kind;
    struct asdm_kernel kernel;
    ASDM_TRY(cpu_kernel_create(backend, site, sizeof(struct routing), backend->vector->name,
                               kind == ASDM_OP_GLOBAL_POOL ? run_global_pool
                               : kind == ASDM_OP_ROUTING   ? run_routing
                                                           : run_mix,
                               &kernel, err));
    struct routing *routing = kernel.state;
    enum asdm_status status = cpu_weight_f32(site, site->op->weight[0], &routing->weight, err);
    if (status == ASDM_OK)
        status = cpu_weight_f32(site, site->op->bias[0], &routing->bias, err);
    if (status != ASDM_OK) {
        kernel.destroy(&kernel);
        return status;
    }
    *ret = kernel;
    return ASDM_OK;
}
