/* The small operations around kernels with experts: the mean of a map, the experts' shares, mixed vectors. */
#include <asdm/error.h>
#include "cuda/cuda_ops.h"

struct routing {
    struct cuda_op op;
    const float *weight, *bias; /* [experts][features] */
};

static void run_global_pool(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cuda_op *op = kernel->state;
    int first = 0;
    for (int place = ASDM_SRC_X; place <= ASDM_SRC_X2; place++) {
        const void *x = cuda_source(op, run, place);
        int channels = (int)op->site.in[place].channels;
        if (!x)
            continue;
        cuda_note(op, cuda_global_pool(op->backend->dtype, x, cuda_result(op, run), op->site.rows,
                                       cuda_tokens(op->site.in[place]), channels, first, (int)op->site.out.channels,
                                       op->backend->stream));
        first += channels;
    }
}

static void run_routing(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct routing *routing = kernel->state;
    const struct cuda_op *op = &routing->op;
    struct cuda_routing r = {.dtype = op->backend->dtype,
                             .rows = op->site.rows,
                             .experts = (int)op->site.out.channels,
                             .weight = routing->weight,
                             .bias = routing->bias,
                             .scale = op->site.op->scale,
                             .y = cuda_result(op, run)};
    for (int place = ASDM_SRC_X; place <= ASDM_SRC_X2; place++) {
        r.x[place] = cuda_source(op, run, place);
        r.maps[place] = cuda_map(op, run, place);
        r.channels[place] = r.x[place] ? (int)op->site.in[place].channels : 0;
    }
    cuda_note(op, cuda_routing(&r, op->backend->stream));
}

static void run_mix(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct cuda_op *op = kernel->state;
    struct cuda_shares shares = {cuda_source(op, run, ASDM_SRC_ROUTING), cuda_map(op, run, ASDM_SRC_ROUTING),
                                 op->site.rows, op->site.op->experts};
    const void *x[ASDM_EXPERTS_MAX] = {NULL};
    const int32_t *maps[ASDM_EXPERTS_MAX] = {NULL};
    for (int e = 0; e < shares.experts; e++) {
        x[e] = cuda_source(op, run, e);
        maps[e] = cuda_map(op, run, e);
    }
    cuda_note(op, cuda_mix_vectors(op->backend->dtype, &shares, x, maps, cuda_result(op, run),
                                   cuda_tokens(op->site.out) * (int)op->site.out.channels, op->backend->stream));
}

enum asdm_status cuda_plan_routing(struct cuda_backend *backend, const struct asdm_site *site, struct asdm_kernel *ret,
                                   struct asdm_error *err) {
    enum asdm_op_kind kind = site->op->kind;
    struct asdm_kernel kernel;
    ASDM_TRY(cuda_check_maps(site, kind == ASDM_OP_GLOBAL_POOL ? 0 : (1u << ASDM_SRC_COUNT) - 1, err));
    ASDM_TRY(cuda_kernel_create(backend, site, sizeof(struct routing), asdm_op_kind_name(kind),
                                kind == ASDM_OP_GLOBAL_POOL ? run_global_pool
                                : kind == ASDM_OP_ROUTING   ? run_routing
                                                            : run_mix,
                                &kernel, err));
    struct routing *routing = kernel.state;
    enum asdm_status status = cuda_weight_f32(site, site->op->weight[0], &routing->weight, err);
    if (status == ASDM_OK)
        status = cuda_weight_f32(site, site->op->bias[0], &routing->bias, err);
    if (status != ASDM_OK) {
        kernel.destroy(&kernel);
        return status;
    }
    *ret = kernel;
    return ASDM_OK;
}
