/* Attention, norms, and all that is one pass over its operands. */

#include <asdm/error.h>
#include "cuda/cuda_ops.h"

/* ---- attention */

struct attention {
    struct cuda_op op;
    struct cuda_attention shape;
    bool sm90;
};

static const void *channel_at(const struct attention *attention, const struct asdm_run *run, int place) {
    const unsigned char *value = cuda_source(&attention->op, run, place);
    return value + (size_t)attention->op.site.op->channel[place] * attention->op.backend->base.element_bytes;
}

static void run_attention(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct attention *attention = kernel->state;
    struct cuda_attention a = attention->shape;
    cudaStream_t stream = attention->op.backend->stream;
    a.q = channel_at(attention, run, ASDM_SRC_Q);
    a.k = channel_at(attention, run, ASDM_SRC_K);
    a.v = channel_at(attention, run, ASDM_SRC_V);
    a.kv_map = cuda_map(&attention->op, run, ASDM_SRC_K);
    a.y = cuda_result(&attention->op, run);
    if (a.regions.window) {
        a.cells = run->scratch;
        cuda_note(&attention->op, cuda_cells(&a, run->scratch, stream));
    }
    cuda_note(&attention->op, attention->sm90 ? cuda_attention_sm90(&a, stream) : cuda_attention(&a, stream));
}

enum asdm_status cuda_plan_attention(struct cuda_backend *backend, const struct asdm_site *site,
                                     struct asdm_kernel *ret, struct asdm_error *err) {
    const struct asdm_op *op = site->op;
    struct asdm_kernel kernel;
    ASDM_TRY(cuda_check_maps(site, 1u << ASDM_SRC_K | 1u << ASDM_SRC_V, err));
    if (site->in[ASDM_SRC_K].mapped != site->in[ASDM_SRC_V].mapped)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: keys and values must have one rate", site->program->name);
    ASDM_TRY(cuda_kernel_create(backend, site, sizeof(struct attention), "", run_attention, &kernel, err));
    struct attention *attention = kernel.state;
    attention->shape = (struct cuda_attention){.dtype = backend->dtype,
                                               .rows = site->rows,
                                               .heads = op->heads,
                                               .head_dim = op->head_dim,
                                               .tokens = cuda_tokens(site->in[ASDM_SRC_Q]),
                                               .keys = cuda_tokens(site->in[ASDM_SRC_K]),
                                               .causal = op->causal,
                                               .q_stride = (int)site->in[ASDM_SRC_Q].channels,
                                               .k_stride = (int)site->in[ASDM_SRC_K].channels,
                                               .v_stride = (int)site->in[ASDM_SRC_V].channels};
    bool windows = asdm_op_is_gri(op, site->out.height, site->out.width);
    if (windows) {
        attention->shape.regions =
            (struct cuda_regions){(int)site->out.height, (int)site->out.width, op->window, op->pool};
        kernel.scratch_bytes = cuda_cells_bytes(&attention->shape);
    }
    attention->sm90 = cuda_attention_sm90_fits(&attention->shape);
    kernel.name = attention->sm90 ? windows ? "wgmma windows" : "wgmma attention" : windows ? "windows" : "attention";
    *ret = kernel;
    return ASDM_OK;
}

/* ---- norms */

struct norm {
    struct cuda_op op;
    struct cuda_norm shape; /* with the weights' addresses */
};

static void run_norm(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct norm *norm = kernel->state;
    struct cuda_norm n = norm->shape;
    n.x[0] = cuda_source(&norm->op, run, ASDM_SRC_X);
    n.x[1] = cuda_source(&norm->op, run, ASDM_SRC_X2);
    n.moments[0] = cuda_source_moments(&norm->op, run, ASDM_SRC_X);
    n.moments[1] = cuda_source_moments(&norm->op, run, ASDM_SRC_X2);
    n.y = cuda_result(&norm->op, run);
    n.scratch = run->scratch;
    cuda_note(&norm->op,
              n.groups ? cuda_group_norm(&n, norm->op.backend->stream) : cuda_layer_norm(&n, norm->op.backend->stream));
}

enum asdm_status cuda_plan_norm(struct cuda_backend *backend, const struct asdm_site *site, struct asdm_kernel *ret,
                                struct asdm_error *err) {
    const struct asdm_op *op = site->op;
    struct asdm_kernel kernel;
    bool group = op->kind == ASDM_OP_GROUP_NORM;
    ASDM_TRY(cuda_check_maps(site, 0, err));
    ASDM_TRY(cuda_kernel_create(backend, site, sizeof(struct norm), group ? "group norm" : "layer norm", run_norm,
                                &kernel, err));
    struct norm *norm = kernel.state;
    norm->shape =
        (struct cuda_norm){.dtype = backend->dtype,
                           .rows = site->rows,
                           .tokens = cuda_tokens(site->out),
                           .channels = {(int)site->in[ASDM_SRC_X].channels,
                                        op->inputs[ASDM_SRC_X2] == ASDM_NONE ? 0 : (int)site->in[ASDM_SRC_X2].channels},
                           .groups = group ? op->groups : 0,
                           .parts = {site->in[ASDM_SRC_X].moments, site->in[ASDM_SRC_X2].moments},
                           .eps = op->eps,
                           .activation = op->activation};
    enum asdm_status status = cuda_weight_f32(site, op->weight[0], &norm->shape.gain, err);
    if (status == ASDM_OK)
        status = cuda_weight_f32(site, op->bias[0], &norm->shape.bias, err);
    if (status != ASDM_OK) {
        kernel.destroy(&kernel);
        return status;
    }
    kernel.scratch_bytes = group ? cuda_group_norm_scratch(&norm->shape) : 0;
    *ret = kernel;
    return ASDM_OK;
}

/* ---- one pass */

struct simple {
    struct cuda_op op;
    const void *tables[2]; /* of an embedding */
};

/* The sizes that the launches ask for. */
struct sizes {
    cudaStream_t stream;
    enum cuda_dtype dtype;
    int rows, tokens, channels;
    size_t count;
};

static struct sizes sizes_of(const struct simple *simple) {
    const struct asdm_site *site = &simple->op.site;
    int tokens = cuda_tokens(site->out), channels = (int)site->out.channels;
    return (struct sizes){simple->op.backend->stream,
                          simple->op.backend->dtype,
                          site->rows,
                          tokens,
                          channels,
                          (size_t)site->rows * (size_t)tokens * (size_t)channels};
}

static cudaError_t launch_add(const struct simple *simple, const struct asdm_run *run, const struct sizes *s) {
    const struct cuda_op *op = &simple->op;
    const void *x = cuda_source(op, run, ASDM_SRC_X), *residual = cuda_source(op, run, ASDM_SRC_RESIDUAL);
    if (residual)
        return cuda_add(s->dtype, x, residual, cuda_result(op, run), s->count, s->stream);
    return cuda_add_row_bias(s->dtype, x, cuda_source(op, run, ASDM_SRC_ROW_BIAS), cuda_map(op, run, ASDM_SRC_ROW_BIAS),
                             cuda_result(op, run), s->rows, s->tokens, s->channels, s->stream);
}

static cudaError_t launch_sampler(const struct cuda_op *op, const struct asdm_run *run, cudaStream_t stream) {
    const struct asdm_site *site = &op->site;
    const void *x = cuda_source(op, run, ASDM_SRC_X), *step_rows = cuda_source(op, run, ASDM_SRC_STEP);
    struct asdm_extent planes = site->op->kind == ASDM_OP_SAMPLER_UPDATE ? site->in[ASDM_SRC_X] : site->out;
    size_t cells = (size_t)cuda_tokens(planes), count = cells * (size_t)planes.channels;
    if (site->op->kind == ASDM_OP_SAMPLER_INPUT)
        return cuda_sampler_input(x, cuda_result(op, run), site->rows, count, stream);
    if (site->op->kind == ASDM_OP_GUIDANCE)
        return cuda_guidance(step_rows, x, cuda_result(op, run), site->rows, count, stream);
    return cuda_sampler_update(step_rows, x, site->rows, count, cells, stream);
}

static cudaError_t launch(const struct simple *simple, const struct asdm_run *run) {
    const struct cuda_op *op = &simple->op;
    const struct asdm_site *site = &op->site;
    const struct asdm_extent *in = site->in;
    struct sizes s = sizes_of(simple);
    const void *x = cuda_source(op, run, ASDM_SRC_X);
    void *y = cuda_result(op, run);
    switch (site->op->kind) {
    case ASDM_OP_IMPORT:
        return cuda_import(s.dtype, x, y, s.rows, s.tokens, s.channels, site->op->nchw, s.stream);
    case ASDM_OP_EXPORT:
        return cuda_export(s.dtype, x, y, s.rows, s.tokens, s.channels, site->op->nchw, s.stream);
    case ASDM_OP_EMBEDDING:
        return cuda_embedding(s.dtype, x, simple->tables[0], simple->tables[1], y, s.rows, s.tokens, s.channels,
                              s.stream);
    case ASDM_OP_TIMESTEP_EMBEDDING:
        return cuda_timestep_embedding(s.dtype, x, y, s.rows, s.channels, site->op->flip_sin_to_cos,
                                       site->op->freq_shift, s.stream);
    case ASDM_OP_ACTIVATION:
        return cuda_activation(s.dtype, site->op->activation, x, y, s.count, s.stream);
    case ASDM_OP_GEGLU:
        return cuda_geglu(s.dtype, x, y, (size_t)s.rows * (size_t)s.tokens, s.channels, s.stream);
    case ASDM_OP_ADD:
        return launch_add(simple, run, &s);
    case ASDM_OP_CONCAT:
        return cuda_concat(s.dtype, x, cuda_source(op, run, ASDM_SRC_X2), y, (size_t)s.rows * (size_t)s.tokens,
                           (int)in[ASDM_SRC_X].channels, (int)in[ASDM_SRC_X2].channels, s.stream);
    case ASDM_OP_SAMPLER_INPUT:
    case ASDM_OP_GUIDANCE:
    case ASDM_OP_SAMPLER_UPDATE:
        return launch_sampler(op, run, s.stream);
    case ASDM_OP_UPSAMPLE:
        return cuda_upsample(s.dtype, x, y, s.rows, (int)in[ASDM_SRC_X].height, (int)in[ASDM_SRC_X].width,
                             (int)site->out.height, (int)site->out.width, s.channels, s.stream);
    default:
        ASDM_ASSERT(!"an operation of one pass");
        return cudaSuccess;
    }
}

static void run_simple(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct simple *simple = kernel->state;
    cuda_note(&simple->op, launch(simple, run));
}

enum asdm_status cuda_plan_simple(struct cuda_backend *backend, const struct asdm_site *site, struct asdm_kernel *ret,
                                  struct asdm_error *err) {
    struct asdm_kernel kernel;
    ASDM_TRY(cuda_check_maps(site, site->op->kind == ASDM_OP_ADD ? 1u << ASDM_SRC_ROW_BIAS : 0, err));
    ASDM_TRY(cuda_kernel_create(backend, site, sizeof(struct simple), asdm_op_kind_name(site->op->kind), run_simple,
                                &kernel, err));
    struct simple *simple = kernel.state;
    for (int i = 0; i < 2 && site->op->kind == ASDM_OP_EMBEDDING; i++) {
        enum asdm_status status = cuda_weight_own(backend, site, site->op->weight[i], &simple->tables[i], err);
        if (status != ASDM_OK) {
            kernel.destroy(&kernel);
            return status;
        }
    }
    *ret = kernel;
    return ASDM_OK;
}
