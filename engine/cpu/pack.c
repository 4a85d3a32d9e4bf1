#include "cpu/pack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/half.h"
#include "ops/fold.h"

/* Weights are laid out in blocks of this many outputs: each block is converted row by row into a buffer that stays in
 * the cache and written from there to where the layout wants it. */
enum { OUTPUTS = 32, ROW_PAD = 16 /* floats, so that rows do not share cache sets */ };

/* One part's tensor, seen as rows: one row per output, [inputs][taps] numbers of it used. */
struct part {
    struct asdm_tensor tensor;
    size_t first_output, outputs;
};

struct layout {
    const struct cpu_pack *pack;
    struct part parts[ASDM_PARTS_MAX];
    int part_count;
    size_t outputs, inputs, taps, file_inputs, file_taps; /* file: as the tensor has them */
    size_t *output_offset, *input_offset, *tap_offset;
};

/* The numbers of one output into `row`, [inputs][taps]. `file` is room for the tensor's own row. */
static void read_row(const struct layout *l, size_t output, float *file, float *row) {
    const struct part *part = l->parts;
    while (output >= part->first_output + part->outputs)
        part++;
    size_t length = l->file_inputs * l->file_taps, first = (output - part->first_output) * length;
    if (l->pack->phase < 0) {
        asdm_tensor_to_f32(&part->tensor, first + (size_t)l->pack->first_input * l->taps, l->inputs * l->taps, row);
        return;
    }
    asdm_tensor_to_f32(&part->tensor, first, length, file);
    for (size_t i = 0; i < l->inputs; i++)
        asdm_fold_taps(file + 9 * i, l->pack->phase / 2, l->pack->phase % 2, row + 4 * i);
}

static void scatter_f32(const struct layout *l, const float *rows, size_t pitch, size_t first, size_t count,
                        float *dst) {
    for (size_t i = 0; i < l->inputs; i++)
        for (size_t t = 0; t < l->taps; t++) {
            float *to = dst + l->input_offset[i] + l->tap_offset[t];
            for (size_t o = 0; o < count; o++)
                to[l->output_offset[first + o]] = rows[o * pitch + i * l->taps + t];
        }
}

static void scatter_bf16(const struct layout *l, const float *rows, size_t pitch, size_t first, size_t count,
                         uint16_t *dst) {
    for (size_t i = 0; i < l->inputs; i++)
        for (size_t t = 0; t < l->taps; t++) {
            uint16_t *to = dst + l->input_offset[i] + l->tap_offset[t];
            for (size_t o = 0; o < count; o++)
                to[l->output_offset[first + o]] = asdm_f32_to_bf16(rows[o * pitch + i * l->taps + t]);
        }
}

/* All blocks of outputs, on all threads, straight from the checkpoint's type into the layout. */
static bool lay_out(const struct layout *l, void *memory) {
    size_t pitch = l->inputs * l->taps + ROW_PAD, file = l->file_inputs * l->file_taps;
    bool fits = true;
#pragma omp parallel
    {
        float *rows = malloc((OUTPUTS * pitch + file) * sizeof *rows);
        if (!rows) {
#pragma omp atomic write
            fits = false;
        }
#pragma omp for schedule(dynamic)
        for (size_t first = 0; first < l->outputs; first += OUTPUTS) {
            size_t count = l->outputs - first < OUTPUTS ? l->outputs - first : OUTPUTS;
            for (size_t o = 0; rows && o < count; o++)
                read_row(l, first + o, rows + OUTPUTS * pitch, rows + o * pitch);
            if (rows && l->pack->backend->bf16)
                scatter_bf16(l, rows, pitch, first, count, memory);
            else if (rows)
                scatter_f32(l, rows, pitch, first, count, memory);
        }
        free(rows);
    }
    return fits;
}

/* A layout that only oneDNN knows: through a plain copy. Only float32 convolutions have such. */
static enum asdm_status lay_out_opaque(struct layout *l, void *memory, struct asdm_error *err) {
    float *plain = malloc(l->outputs * l->inputs * l->taps * sizeof *plain);
    enum asdm_status status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory to lay out the weights");
    if (plain) {
        ASDM_ASSERT(!l->pack->backend->bf16);
        for (size_t o = 0; o < l->outputs; o++)
            read_row(l, o, NULL, plain + o * l->inputs * l->taps);
        status = cpu_product_pack(l->pack->product, plain, memory, err);
    }
    free(plain);
    return status;
}

static enum asdm_status find_parts(struct layout *l, struct asdm_error *err) {
    const struct asdm_site *site = l->pack->site;
    for (int i = 0; i < site->op->parts; i++) {
        const struct asdm_weight *weight = &site->program->weights[site->op->weight[l->pack->expert + i]];
        ASDM_TRY(asdm_weight_store_find(site->weights, weight, &l->parts[i].tensor, err));
        l->parts[i].first_output = l->outputs;
        l->outputs += l->parts[i].outputs = (size_t)weight->dims[0];
        l->file_inputs = (size_t)weight->dims[1];
        l->file_taps = asdm_weight_count(weight) / (size_t)(weight->dims[0] * weight->dims[1]);
        l->part_count++;
    }
    l->inputs = (size_t)l->pack->inputs;
    l->taps = l->pack->phase < 0 ? l->file_taps : 4;
    return ASDM_OK;
}

static enum asdm_status fill(void *user, void *memory, struct asdm_error *err) {
    struct layout l = {.pack = user};
    ASDM_TRY(find_parts(&l, err));
    enum asdm_status status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory to lay out the weights");
    l.output_offset = malloc((l.outputs + l.inputs + l.taps) * sizeof *l.output_offset);
    if (!l.output_offset)
        return status;
    l.input_offset = l.output_offset + l.outputs;
    l.tap_offset = l.input_offset + l.inputs;
    if (!cpu_product_offsets(l.pack->product, l.output_offset, l.input_offset, l.tap_offset))
        status = lay_out_opaque(&l, memory, err);
    else if (lay_out(&l, memory))
        status = ASDM_OK;
    for (int i = 0; i < l.part_count; i++)
        asdm_weight_store_release(l.pack->site->weights, &l.parts[i].tensor);
    free(l.output_offset);
    return status;
}

enum asdm_status cpu_pack_weights(const struct cpu_pack *pack, const void **ret, struct asdm_error *err) {
    const struct asdm_op *op = pack->site->op;
    char key[1024];
    snprintf(key, sizeof key, "%s|%d parts|%lld+%lld|phase %d|%s",
             pack->site->program->weights[op->weight[pack->expert]].name, op->parts, (long long)pack->first_input,
             (long long)pack->inputs, pack->phase, cpu_product_layout(pack->product));
    struct cpu_pack request = *pack;
    return asdm_weight_store_get(pack->site->weights, key, cpu_product_weight_bytes(pack->product), fill, &request, ret,
                                 err);
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
        elements += asdm_weight_count(&site->program->weights[indices[i]]);
    snprintf(key, sizeof key, "%s|%d|f32", site->program->weights[indices[0]].name, count);
    ASDM_TRY(asdm_weight_store_get(site->weights, key, elements * sizeof(float), fill_plain, &request, &memory, err));
    *ret = memory;
    return ASDM_OK;
}

enum asdm_status cpu_weight_f32(const struct asdm_site *site, int index, const float **ret, struct asdm_error *err) {
    return get_plain(site, &index, 1, ret, err);
}

enum asdm_status cpu_pack_bias(const struct asdm_site *site, const float **ret, struct asdm_error *err) {
    return get_plain(site, site->op->bias, site->op->parts, ret, err);
}
