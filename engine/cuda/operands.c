#include <stdio.h>
#include <stdlib.h>

#include <asdm/error.h>
#include "base/half.h"
#include "cuda/cuda_ops.h"

static void destroy(struct asdm_kernel *kernel) {
    free(kernel->state);
}

enum asdm_status cuda_kernel_create(struct cuda_backend *backend, const struct asdm_site *site, size_t bytes,
                                    const char *name, void (*run)(const struct asdm_kernel *, const struct asdm_run *),
                                    struct asdm_kernel *ret, struct asdm_error *err) {
    struct cuda_op *op = calloc(1, bytes);
    if (!op)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan %s", site->program->name);
    op->site = *site;
    op->backend = backend;
    *ret = (struct asdm_kernel){name, run, destroy, op, 0, ASDM_NONE};
    return ASDM_OK;
}

const void *cuda_source(const struct cuda_op *op, const struct asdm_run *run, int place) {
    int value = op->site.op->inputs[place];
    return value == ASDM_NONE ? NULL : run->values[value];
}

void *cuda_result(const struct cuda_op *op, const struct asdm_run *run) {
    return run->values[op->site.op->output];
}

const int32_t *cuda_map(const struct cuda_op *op, const struct asdm_run *run, int place) {
    const struct asdm_extent *extent = &op->site.in[place];
    bool mapped = op->site.op->inputs[place] != ASDM_NONE && extent->mapped;
    return mapped ? run->row_maps[extent->rate] : NULL;
}

static struct asdm_moments *moments_of(const struct cuda_op *op, const struct asdm_extent *extent, void *value) {
    size_t row = (size_t)cuda_tokens(*extent) * (size_t)extent->channels * op->backend->base.element_bytes;
    if (!extent->moments.granule)
        return NULL;
    return (struct asdm_moments *)((unsigned char *)value + asdm_moments_offset(row * (size_t)op->site.rows));
}

const struct asdm_moments *cuda_source_moments(const struct cuda_op *op, const struct asdm_run *run, int place) {
    int value = op->site.op->inputs[place];
    return value == ASDM_NONE ? NULL : moments_of(op, &op->site.in[place], run->values[value]);
}

struct asdm_moments *cuda_result_moments(const struct cuda_op *op, const struct asdm_run *run) {
    return moments_of(op, &op->site.out, cuda_result(op, run));
}

enum asdm_status cuda_check_maps(const struct asdm_site *site, unsigned places, struct asdm_error *err) {
    for (int i = 0; i < ASDM_SRC_COUNT; i++)
        if (site->op->inputs[i] != ASDM_NONE && site->in[i].mapped && !(places >> i & 1))
            return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: device \"cuda\" has no %s that reads operand %d by a map",
                             site->program->name, asdm_op_kind_name(site->op->kind), i);
    return ASDM_OK;
}

void cuda_note(const struct cuda_op *op, cudaError_t error) {
    if (error != cudaSuccess && op->backend->failure == cudaSuccess)
        op->backend->failure = error;
}

void cuda_convert(enum cuda_dtype dtype, const float *from, void *to, size_t count) {
    uint16_t *half = to;
    switch (dtype) {
    case CUDA_F32:
        memcpy(to, from, count * sizeof *from);
        break;
    case CUDA_F16:
        for (size_t i = 0; i < count; i++)
            half[i] = asdm_f32_to_f16(from[i]);
        break;
    case CUDA_BF16:
        for (size_t i = 0; i < count; i++)
            half[i] = asdm_f32_to_bf16(from[i]);
        break;
    }
}

/* ---- weights in their own order */

struct plain {
    const struct asdm_site *site;
    const struct asdm_weight *weight;
    enum cuda_dtype dtype;
};

static enum asdm_status fill_plain(void *user, void *memory, struct asdm_error *err) {
    const struct plain *plain = user;
    struct asdm_tensor tensor;
    ASDM_TRY(asdm_weight_store_find(plain->site->weights, plain->weight, &tensor, err));
    float *numbers = malloc(tensor.count * sizeof *numbers);
    if (!numbers)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to lay out %s", plain->weight->name);
    asdm_tensor_to_f32(&tensor, 0, tensor.count, numbers);
    cuda_convert(plain->dtype, numbers, memory, tensor.count);
    free(numbers);
    asdm_weight_store_release(plain->site->weights, &tensor);
    return ASDM_OK;
}

static enum asdm_status get_plain(const struct asdm_site *site, int index, enum cuda_dtype dtype, const void **ret,
                                  struct asdm_error *err) {
    if (index == ASDM_NONE)
        return ASDM_OK;
    struct plain plain = {site, &site->program->weights[index], dtype};
    char key[512];
    snprintf(key, sizeof key, "%s|plain %d", plain.weight->name, (int)dtype);
    return asdm_weight_store_get(site->weights, key, asdm_weight_count(plain.weight) * (dtype == CUDA_F32 ? 4 : 2),
                                 fill_plain, &plain, ret, err);
}

enum asdm_status cuda_weight_f32(const struct asdm_site *site, int index, const float **ret, struct asdm_error *err) {
    const void *memory = NULL;
    ASDM_TRY(get_plain(site, index, CUDA_F32, &memory, err));
    *ret = memory;
    return ASDM_OK;
}

enum asdm_status cuda_weight_own(const struct cuda_backend *backend, const struct asdm_site *site, int index,
                                 const void **ret, struct asdm_error *err) {
    return get_plain(site, index, backend->dtype, ret, err);
}
