/* Attention: keys and values of every head packed once, then blocks of queries over all threads (see attend.c). */
#include <math.h>
#include <omp.h>

#include <asdm/error.h>
#include "base/size.h"
#include "cpu/cpu_ops.h"

struct attention {
    struct cpu_op op;
    size_t queries, keys, dim;
    size_t key_floats, value_floats; /* packed, of one head of one row */
    size_t packed_floats;            /* scratch: all heads' keys and values, then one area per thread */
    size_t thread_floats;
};

static float *packed_head(const struct attention *a, const struct asdm_run *run, int row, int head) {
    size_t index = (size_t)row * (size_t)a->op.site.op->heads + (size_t)head;
    return (float *)run->scratch + index * (a->key_floats + a->value_floats);
}

/* First element of `head` in row `row` of q, k or v. */
static const unsigned char *head_of(const struct attention *a, const struct asdm_run *run, int place, int row,
                                    int head) {
    size_t channel = (size_t)a->op.site.op->channel[place] + (size_t)head * a->dim;
    return cpu_source(&a->op, run, place, row) + channel * a->op.backend->base.element_bytes;
}

static void pack_block(const struct attention *a, const struct asdm_run *run, int row, int head, size_t first) {
    const struct cpu_backend *backend = a->op.backend;
    const struct asdm_extent *in = a->op.site.in;
    size_t element = backend->base.element_bytes;
    size_t count = a->keys - first < CPU_KEY_BLOCK ? a->keys - first : CPU_KEY_BLOCK;
    size_t k_pitch = (size_t)in[ASDM_SRC_K].channels, v_pitch = (size_t)in[ASDM_SRC_V].channels;
    float *keys = packed_head(a, run, row, head), *values = keys + a->key_floats;
    backend->vector->pack_keys(head_of(a, run, ASDM_SRC_K, row, head) + first * k_pitch * element, k_pitch, count,
                               a->dim, keys + first * a->dim);
    backend->vector->pack_values(head_of(a, run, ASDM_SRC_V, row, head) + first * v_pitch * element, v_pitch, count,
                                 a->dim, values + first * (a->value_floats / a->keys));
}

static void attend_block(const struct attention *a, const struct asdm_run *run, int row, int head, size_t first) {
    const struct cpu_backend *backend = a->op.backend;
    size_t element = backend->base.element_bytes;
    size_t q_pitch = (size_t)a->op.site.in[ASDM_SRC_Q].channels, dst_pitch = (size_t)a->op.site.out.channels;
    const float *packed = packed_head(a, run, row, head);
    struct cpu_attend block = {
        .q = head_of(a, run, ASDM_SRC_Q, row, head) + first * q_pitch * element,
        .queries = a->queries - first < CPU_QUERY_BLOCK ? a->queries - first : CPU_QUERY_BLOCK,
        .q_pitch = q_pitch,
        .dim = a->dim,
        .keys = packed,
        .values = packed + a->key_floats,
        .key_count = a->keys,
        .causal_first = a->op.site.op->causal ? first + 1 : 0,
        .scale = 1.0f / sqrtf((float)a->dim),
        .dst = cpu_result(&a->op, run, row) + (first * dst_pitch + (size_t)head * a->dim) * element,
        .dst_pitch = dst_pitch,
        .scratch = (float *)run->scratch + a->packed_floats + (size_t)omp_get_thread_num() * a->thread_floats};
    backend->vector->attend(&block);
}

static void run_attention(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct attention *a = kernel->state;
    int rows = a->op.site.rows, heads = a->op.site.op->heads;
#pragma omp parallel
    {
#pragma omp for collapse(3)
        for (int row = 0; row < rows; row++)
            for (int head = 0; head < heads; head++)
                for (size_t first = 0; first < a->keys; first += CPU_KEY_BLOCK)
                    pack_block(a, run, row, head, first);
#pragma omp for collapse(3) schedule(dynamic)
        for (int row = 0; row < rows; row++)
            for (int head = 0; head < heads; head++)
                for (size_t first = 0; first < a->queries; first += CPU_QUERY_BLOCK)
                    attend_block(a, run, row, head, first);
    }
}

enum asdm_status cpu_plan_attention(const struct cpu_backend *backend, const struct asdm_site *site,
                                    struct asdm_kernel *ret, struct asdm_error *err) {
    struct asdm_kernel kernel;
    ASDM_TRY(
        cpu_kernel_create(backend, site, sizeof(struct attention), backend->vector->name, run_attention, &kernel, err));
    struct attention *a = kernel.state;
    a->queries = cpu_tokens(site->out);
    a->keys = cpu_tokens(site->in[ASDM_SRC_K]);
    a->dim = (size_t)site->op->head_dim;
    a->key_floats = asdm_size_align(backend->vector->packed_keys_floats(a->keys, a->dim), 16);
    a->value_floats = backend->vector->packed_values_floats(a->keys, a->dim);
    a->packed_floats = (size_t)site->rows * (size_t)site->op->heads * (a->key_floats + a->value_floats);
    a->thread_floats = asdm_size_align(backend->vector->attend_scratch_floats(a->dim), 16);
    kernel.scratch_bytes = (a->packed_floats + (size_t)backend->threads * a->thread_floats) * sizeof(float);
    *ret = kernel;
    return ASDM_OK;
}
