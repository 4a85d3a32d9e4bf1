#include "cpu/pack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { SLICE = 1 << 16 /* elements converted at a time */ };

/* Converts elements [first, first + count) to the back end's element type, on all threads. */
static void convert(const struct cpu_backend *backend, const struct asdm_tensor *tensor, size_t first, size_t count,
                    unsigned char *dst) {
    size_t slices = (count + SLICE - 1) / SLICE;
#pragma omp parallel for
    for (size_t i = 0; i < slices; i++) {
        float numbers[4096];
        size_t end = (i + 1) * SLICE < count ? (i + 1) * SLICE : count;
        for (size_t at = i * SLICE; at < end; at += 4096) {
            size_t n = end - at < 4096 ? end - at : 4096;
            asdm_tensor_to_f32(tensor, first + at, n, numbers);
            backend->vector->from_f32(numbers, dst + at * backend->base.element_bytes, n);
        }
    }
}

static size_t weight_elements(const struct asdm_weight *weight) {
    size_t count = 1;
    for (int i = 0; i < weight->rank; i++)
        count *= (size_t)weight->dims[i];
    return count;
}

/* [out][in][3][3] -> [out][in][2][2]: the taps of a 3x3 kernel on a map upsampled by 2 fall on two pixels of the small map in each
 * direction; for even outputs they are {0}, {1, 2}, for odd ones {0, 1}, {2} (ASDM.md, exact rewrites). Summed in float32. */
static void fold_taps(const float *kernel, int phase_y, int phase_x, float folded[4]) {
    memset(folded, 0, 4 * sizeof *folded);
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 3; x++) {
            int to_y = phase_y ? y == 2 : y > 0, to_x = phase_x ? x == 2 : x > 0;
            folded[to_y * 2 + to_x] += kernel[y * 3 + x];
        }
}

static void convert_folded(const struct cpu_backend *backend, const struct asdm_tensor *tensor, int phase,
                           unsigned char *dst) {
    size_t kernels = tensor->count / 9;
#pragma omp parallel for
    for (size_t first = 0; first < kernels; first += 256) {
        float taps[256 * 9], folded[256 * 4];
        size_t n = kernels - first < 256 ? kernels - first : 256;
        asdm_tensor_to_f32(tensor, first * 9, n * 9, taps);
        for (size_t k = 0; k < n; k++)
            fold_taps(taps + 9 * k, phase / 2, phase % 2, folded + 4 * k);
        backend->vector->from_f32(folded, dst + first * 4 * backend->base.element_bytes, 4 * n);
    }
}

/* Columns [first_input, + inputs) of a [out][in] matrix. */
static void convert_columns(const struct cpu_pack *pack, const struct asdm_tensor *tensor, size_t row_length,
                            unsigned char *dst) {
    size_t rows = tensor->count / row_length, inputs = (size_t)pack->inputs;
    for (size_t row = 0; row < rows; row++)
        convert(pack->backend, tensor, row * row_length + (size_t)pack->first_input, inputs,
                dst + row * inputs * pack->backend->base.element_bytes);
}

/* Bytes of all parts in plain order before oneDNN reorders them. */
static size_t plain_bytes(const struct cpu_pack *pack) {
    const struct asdm_op *op = pack->site->op;
    size_t elements = 0;
    for (int part = 0; part < op->parts; part++) {
        const struct asdm_weight *weight = &pack->site->program->weights[op->weight[part]];
        if (op->kind == ASDM_OP_LINEAR)
            elements += (size_t)weight->dims[0] * (size_t)pack->inputs;
        else
            elements += pack->phase < 0 ? weight_elements(weight) : weight_elements(weight) / 9 * 4;
    }
    return elements * pack->backend->base.element_bytes;
}

static enum asdm_status fill(void *user, void *memory, struct asdm_error *err) {
    const struct cpu_pack *pack = user;
    const struct asdm_op *op = pack->site->op;
    size_t element = pack->backend->base.element_bytes;
    unsigned char *plain = malloc(plain_bytes(pack)), *at = plain;
    if (!plain)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to lay out the weights");
    enum asdm_status status = ASDM_OK;
    for (int part = 0; part < op->parts && status == ASDM_OK; part++) {
        const struct asdm_weight *weight = &pack->site->program->weights[op->weight[part]];
        struct asdm_tensor tensor;
        status = asdm_weight_store_find(pack->site->weights, weight, &tensor, err);
        if (status != ASDM_OK)
            break;
        if (pack->phase >= 0) {
            convert_folded(pack->backend, &tensor, pack->phase, at);
        } else if (op->kind == ASDM_OP_LINEAR && pack->inputs != weight->dims[1]) {
            convert_columns(pack, &tensor, (size_t)weight->dims[1], at);
        } else {
            convert(pack->backend, &tensor, 0, tensor.count, at);
        }
        at += (op->kind == ASDM_OP_LINEAR ? (size_t)weight->dims[0] * (size_t)pack->inputs : 0) * element;
        asdm_weight_store_release(pack->site->weights, &tensor);
    }
    if (status == ASDM_OK)
        status = cpu_product_pack(pack->product, plain, memory, err);
    free(plain);
    return status;
}

enum asdm_status cpu_pack_weights(const struct cpu_pack *pack, const void **ret, struct asdm_error *err) {
    const struct asdm_op *op = pack->site->op;
    char key[1024];
    snprintf(key, sizeof key, "%s|%d parts|%lld+%lld|phase %d|%s", pack->site->program->weights[op->weight[0]].name,
             op->parts, (long long)pack->first_input, (long long)pack->inputs, pack->phase,
             cpu_product_layout(pack->product));
    struct cpu_pack request = *pack;
    return asdm_weight_store_get(pack->site->weights, key, cpu_product_weight_bytes(pack->product), fill, &request, ret, err);
}

/* ---- plain float32 */

struct plain_request {
    const struct asdm_site *site;
    const int *indices;
    int count;
};

static enum asdm_status fill_plain(void *user, void *memory, struct asdm_error *err) {
    const struct plain_request *request = user;
    float *dst = memory;
    for (int i = 0; i < request->count; i++) {
        struct asdm_tensor tensor;
        ASDM_TRY(asdm_weight_store_find(request->site->weights, &request->site->program->weights[request->indices[i]],
                                        &tensor, err));
        asdm_tensor_to_f32(&tensor, 0, tensor.count, dst);
        dst += tensor.count;
        asdm_weight_store_release(request->site->weights, &tensor);
    }
    return ASDM_OK;
}

static enum asdm_status get_plain(const struct asdm_site *site, const int *indices, int count, const float **ret,
                                  struct asdm_error *err) {
    struct plain_request request = {site, indices, count};
    size_t elements = 0;
    char key[512];
    const void *memory;
    if (count == 0 || indices[0] == ASDM_NONE)
        return ASDM_OK;
    for (int i = 0; i < count; i++)
        elements += weight_elements(&site->program->weights[indices[i]]);
    snprintf(key, sizeof key, "%s|%d|f32", site->program->weights[indices[0]].name, count);
    ASDM_TRY(asdm_weight_store_get(site->weights, key, elements * sizeof(float), fill_plain, &request, &memory, err));
    *ret = memory;
    return ASDM_OK;
}

enum asdm_status cpu_weight_f32(const struct asdm_site *site, int index, const float **ret, struct asdm_error *err) {
    return get_plain(site, &index, 1, ret, err);
}

enum asdm_status cpu_pack_bias(const struct asdm_site *site, const float **ret,
                               struct asdm_error *err) {
    return get_plain(site, site->op->bias, site->op->parts, ret, err);
}
