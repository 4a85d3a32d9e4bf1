/* Convolutions and linears: the weight laid out for the kernels, and which kernel computes the product. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/size.h"
#include "cuda/cuda_ops.h"
#include "ops/fold.h"

struct product {
    struct cuda_op op;
    struct cuda_product shape; /* with the weight's and bias' addresses */
    struct cuda_method method;
    size_t wide_bytes;           /* scratch: the result before GEGLU, where the product cannot do it; else 0 */
    struct cuda_mixture mixture; /* where experts are mixed first: into the scratch, or into its cache */
};

enum { GEGLU_GROUP = 8 };

/* ---- weights */

struct pack {
    const struct product *product;
    int expert; /* the first of the operation's weights; `parts` of them are stacked */
    bool fold;
    struct asdm_tensor parts[ASDM_PARTS_MAX];
};

/* Which of the tensors' rows packed row `row` is: with geglu 8 values, then their 8 gates. */
static size_t source_row(const struct cuda_product *p, size_t row) {
    if (!p->geglu)
        return row;
    size_t group = row / (2 * GEGLU_GROUP), place = row % (2 * GEGLU_GROUP);
    return place < GEGLU_GROUP ? group * GEGLU_GROUP + place
                               : (size_t)p->out_channels + group * GEGLU_GROUP + place - GEGLU_GROUP;
}

/* Row `row` of all parts stacked: the part, and the row within it. */
static const struct asdm_tensor *find_row(const struct pack *pack, size_t *row) {
    const struct asdm_tensor *part = pack->parts;
    while (*row >= (size_t)part->dims[0])
        *row -= (size_t)(part++)->dims[0];
    return part;
}

/* [channels][taps] -> [taps][channels] in the back end's type. */
static void write_row(enum cuda_dtype dtype, const float *row, float *turned, size_t channels, size_t taps, void *to) {
    for (size_t c = 0; c < channels; c++)
        for (size_t t = 0; t < taps; t++)
            turned[t * channels + c] = row[c * taps + t];
    cuda_convert(dtype, turned, to, channels * taps);
}

/* Room for three rows: as read, turned, folded. */
static void pack_row(const struct pack *pack, size_t row, float *room, unsigned char *memory) {
    const struct cuda_product *p = &pack->product->shape;
    size_t depth = cuda_product_depth(p), taps = (size_t)p->kernel * (size_t)p->kernel, channels = depth / taps;
    size_t element = p->dtype == CUDA_F32 ? 4 : 2, rows = cuda_product_rows(p), from = source_row(p, row);
    const struct asdm_tensor *tensor = find_row(pack, &from);
    float *turned = room + depth, *folded = turned + depth;
    asdm_tensor_to_f32(tensor, from * depth, depth, room);
    write_row(p->dtype, room, turned, channels, taps, memory + row * depth * element);
    for (int phase = 0; pack->fold && phase < 4; phase++) {
        for (size_t c = 0; c < channels; c++)
            asdm_fold_taps(room + 9 * c, phase / 2, phase % 2, folded + 4 * c);
        size_t at = rows * depth + ((size_t)phase * rows + row) * 4 * channels;
        write_row(p->dtype, folded, turned, channels, 4, memory + at * element);
    }
}

static bool pack_rows(const struct pack *pack, void *memory) {
    const struct cuda_product *p = &pack->product->shape;
    size_t rows = cuda_product_rows(p), depth = cuda_product_depth(p);
    bool fits = true;
#pragma omp parallel
    {
        float *room = malloc(3 * depth * sizeof *room);
        if (!room) {
#pragma omp atomic write
            fits = false;
        }
#pragma omp for schedule(dynamic, 16)
        for (size_t row = 0; row < rows; row++)
            if (room)
                pack_row(pack, row, room, memory);
        free(room);
    }
    return fits;
}

static enum asdm_status fill_weight(void *user, void *memory, struct asdm_error *err) {
    struct pack *pack = user;
    const struct asdm_site *site = &pack->product->op.site;
    for (int i = 0; i < site->op->parts; i++)
        ASDM_TRY(asdm_weight_store_find(site->weights, &site->program->weights[site->op->weight[pack->expert + i]],
                                        &pack->parts[i], err));
    bool packed = pack_rows(pack, memory);
    for (int i = 0; i < site->op->parts; i++)
        asdm_weight_store_release(site->weights, &pack->parts[i]);
    return packed ? ASDM_OK : asdm_fail(err, ASDM_ERR_MEMORY, "no memory to lay out the weights");
}

static enum asdm_status fill_bias(void *user, void *memory, struct asdm_error *err) {
    struct pack *pack = user;
    const struct asdm_site *site = &pack->product->op.site;
    float *bias = memory;
    for (int i = 0; i < site->op->parts; i++)
        ASDM_TRY(asdm_weight_store_find(site->weights, &site->program->weights[site->op->bias[pack->expert + i]],
                                        &pack->parts[i], err));
    for (size_t row = 0; row < cuda_product_rows(&pack->product->shape); row++) {
        size_t from = source_row(&pack->product->shape, row);
        const struct asdm_tensor *tensor = find_row(pack, &from);
        asdm_tensor_to_f32(tensor, from, 1, &bias[row]);
    }
    for (int i = 0; i < site->op->parts; i++)
        asdm_weight_store_release(site->weights, &pack->parts[i]);
    return ASDM_OK;
}

static enum asdm_status get_weight(const struct product *product, int expert, const void **ret_weight,
                                   const float **ret_bias, size_t *ret_bytes, struct asdm_error *err) {
    const struct cuda_product *p = &product->shape;
    const struct asdm_site *site = &product->op.site;
    const struct asdm_op *op = site->op;
    struct pack pack = {
        .product = product, .expert = expert, .fold = cuda_product_sm90_fits(p) && cuda_product_sm90_folds(p)};
    size_t rows = cuda_product_rows(p), bytes = rows * cuda_product_depth(p) * product->op.backend->base.element_bytes;
    char key[1024];
    const void *memory;
    if (pack.fold)
        bytes += bytes / 9 * 16;
    snprintf(key, sizeof key, "%s|%d parts|product %d%s%s", site->program->weights[op->weight[expert]].name, op->parts,
             (int)p->dtype, p->geglu ? "|geglu" : "", pack.fold ? "|folded" : "");
    ASDM_TRY(asdm_weight_store_get(site->weights, key, bytes, fill_weight, &pack, ret_weight, err));
    *ret_bytes = bytes;
    if (op->bias[expert] == ASDM_NONE)
        return ASDM_OK;
    snprintf(key, sizeof key, "%s|%d parts|product%s", site->program->weights[op->bias[expert]].name, op->parts,
             p->geglu ? "|geglu" : "");
    ASDM_TRY(asdm_weight_store_get(site->weights, key, rows * sizeof(float), fill_bias, &pack, &memory, err));
    *ret_bias = memory;
    return ASDM_OK;
}

/* *ret_bytes: of one weight. */
static enum asdm_status get_experts(struct product *product, struct cuda_experts *experts, size_t *ret_bytes,
                                    struct asdm_error *err) {
    for (int e = 0; e < product->op.site.op->experts; e++)
        ASDM_TRY(get_weight(product, e, &experts->weight[e], &experts->bias[e], ret_bytes, err));
    return ASDM_OK;
}

/* ---- running */

static size_t aligned(size_t bytes) {
    return asdm_size_align(bytes, 128);
}

/* Lays out what the scratch has of a mixture; its bytes. */
static size_t lay_out(const struct product *product, unsigned char *scratch, struct cuda_mixture *ret) {
    const struct cuda_mixture *m = &product->mixture;
    size_t rows = (size_t)product->shape.rows, element = product->op.backend->base.element_bytes;
    size_t weights = m->cache ? 0 : aligned(rows * m->weight_count * element);
    size_t biases = m->cache ? 0 : aligned(rows * m->bias_count * sizeof(float));
    if (ret) {
        *ret = *m;
        ret->slots = (int32_t *)(scratch + weights + biases);
        if (!m->cache) {
            ret->weight = scratch;
            ret->bias = (float *)(scratch + weights);
        }
    }
    return weights + biases + aligned((rows + 1) * sizeof(int32_t));
}

static void set_shares(const struct cuda_op *op, const struct asdm_run *run, struct cuda_shares *shares) {
    shares->values = cuda_source(op, run, ASDM_SRC_ROUTING);
    shares->map = cuda_map(op, run, ASDM_SRC_ROUTING);
}

/* Each row's own kernel, before the product that uses them. */
static void mix(const struct product *product, const struct asdm_run *run, struct cuda_product *p) {
    struct cuda_mixture m;
    lay_out(product, run->scratch, &m);
    set_shares(&product->op, run, &m.experts.shares);
    cuda_note(&product->op, cuda_mix(&m, product->op.backend->stream));
    p->weight = m.weight;
    p->bias = m.bias_count ? m.bias : NULL;
    p->slots = m.slots;
}

static void run(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct product *product = kernel->state;
    struct cuda_product p = product->shape;
    cudaStream_t stream = product->op.backend->stream;
    if (p.experts.shares.experts)
        set_shares(&product->op, run, &p.experts.shares);
    else if (p.slots)
        mix(product, run, &p);
    p.x[0] = cuda_source(&product->op, run, ASDM_SRC_X);
    p.x[1] = cuda_source(&product->op, run, ASDM_SRC_X2);
    p.residual = cuda_source(&product->op, run, ASDM_SRC_RESIDUAL);
    p.row_bias = cuda_source(&product->op, run, ASDM_SRC_ROW_BIAS);
    p.row_bias_map = cuda_map(&product->op, run, ASDM_SRC_ROW_BIAS);
    p.moments = cuda_result_moments(&product->op, run);
    p.y = cuda_result(&product->op, run);
    p.scratch = (unsigned char *)run->scratch + product->wide_bytes;
    if (product->wide_bytes)
        p.y = run->scratch;
    cuda_note(&product->op, cuda_method_run(&product->method, &p, stream));
    if (product->wide_bytes)
        cuda_note(&product->op,
                  cuda_geglu(p.dtype, p.y, cuda_result(&product->op, run),
                             (size_t)p.rows * (size_t)p.out_height * (size_t)p.out_width, p.out_channels / 2, stream));
}

/* ---- planning */

static struct cuda_product shape_of(const struct cuda_backend *backend, const struct asdm_site *site) {
    const struct asdm_op *op = site->op;
    bool conv = op->kind == ASDM_OP_CONV2D;
    return (struct cuda_product){
        .dtype = backend->dtype,
        .tf32 = backend->tf32,
        .batch_dependent = backend->base.batch_dependent,
        .rows = site->rows,
        .in_height = conv ? (int)site->in[ASDM_SRC_X].height : 1,
        .in_width = conv ? (int)site->in[ASDM_SRC_X].width : cuda_tokens(site->in[ASDM_SRC_X]),
        .out_height = conv ? (int)site->out.height : 1,
        .out_width = conv ? (int)site->out.width : cuda_tokens(site->out),
        .channels = {(int)site->in[ASDM_SRC_X].channels,
                     op->inputs[ASDM_SRC_X2] == ASDM_NONE ? 0 : (int)site->in[ASDM_SRC_X2].channels},
        .out_channels = (int)site->out.channels,
        .kernel = conv ? op->kernel : 1,
        .stride = conv ? op->stride : 1,
        .pad_before = conv ? op->pad_before : 0,
        .pad_after = conv ? op->pad_after : 0,
        .upsample = op->upsample,
        .geglu = op->geglu,
        .activation = op->activation,
        .parts = site->out.moments,
    };
}

/* In place of slots, residuals and row biases, which only a run has: the choice of kernels asks whether there are any.
 */
static const int32_t planned = 0;

static enum asdm_status choose(struct product *product, size_t weight_bytes, struct asdm_error *err) {
    struct cuda_product shape = product->shape;
    if (product->op.site.op->inputs[ASDM_SRC_RESIDUAL] != ASDM_NONE)
        shape.residual = &planned;
    if (product->op.site.op->inputs[ASDM_SRC_ROW_BIAS] != ASDM_NONE)
        shape.row_bias = &planned;
    return cuda_method_choose(product->op.backend, &product->op.site, &shape, weight_bytes, &product->method, err);
}

static void destroy(struct asdm_kernel *kernel) {
    struct product *product = kernel->state;
    cuda_method_done(&product->method);
    free(product);
}

/* ---- experts */

/* Of the device's memory, one operation's cache takes at most this part. */
enum { CACHE_PART = 64 };

/* Where the shares follow from the timestep alone, kernels that were mixed for one are kept: pictures go through the
 * same timesteps again and again. As many as the memory allows; none where not even a call's rows fit. */
static enum asdm_status get_cache(struct product *product, struct asdm_error *err) {
    struct cuda_mixture *m = &product->mixture;
    const struct asdm_site *site = &product->op.site;
    struct asdm_backend *base = &product->op.backend->base;
    const char *name = site->program->weights[site->op->weight[0]].name;
    size_t weights = aligned(m->weight_count * base->element_bytes), biases = m->bias_count * sizeof(float);
    size_t memory = 0;
    base->class->device->available(base, &memory);
    size_t room = memory / CACHE_PART / (weights + biases);
    int slots = room < CUDA_CACHE_SLOTS_MAX ? (int)room : CUDA_CACHE_SLOTS_MAX;
    const void *cache, *weight, *bias;
    char key[512];
    if (slots < site->rows)
        return ASDM_OK;
    snprintf(key, sizeof key, "%s|mixed, cache", name);
    ASDM_TRY(asdm_weight_store_get(site->weights, key, sizeof *m->cache, NULL, NULL, &cache, err));
    snprintf(key, sizeof key, "%s|mixed", name);
    ASDM_TRY(asdm_weight_store_get(site->weights, key, (size_t)slots * weights, NULL, NULL, &weight, err));
    snprintf(key, sizeof key, "%s|mixed, bias", name);
    ASDM_TRY(asdm_weight_store_get(site->weights, key, (size_t)slots * biases, NULL, NULL, &bias, err));
    m->slot_count = slots; /* the same in every plan, as they share the cache */
    m->cache = (struct cuda_mixture_cache *)(uintptr_t)cache;
    m->weight = (void *)(uintptr_t)weight;
    m->bias = (float *)(uintptr_t)bias;
    return ASDM_OK;
}

/* Experts multiplied one by one, or mixed before the product. */
static enum asdm_status plan_experts(struct product *product, size_t *ret_bytes, struct asdm_error *err) {
    struct cuda_product *p = &product->shape;
    const struct asdm_site *site = &product->op.site;
    const struct asdm_extent *routing = &site->in[ASDM_SRC_ROUTING];
    bool timestep = routing->mapped && routing->rate == ASDM_RATE_SCHEDULE;
    struct cuda_experts experts = {.shares = {.rows = site->rows, .experts = site->op->experts}};
    if (site->rows > CUDA_MIXTURE_ROWS_MAX)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: device \"cuda\" mixes kernels for at most %d rows",
                         site->program->name, CUDA_MIXTURE_ROWS_MAX);
    p->slots = &planned;
    p->slot_count = site->rows;
    ASDM_TRY(get_experts(product, &experts, ret_bytes, err));
    if (!timestep && cuda_product_sm90_mixes(p)) {
        p->slots = NULL;
        p->experts = experts;
        return ASDM_OK;
    }
    product->mixture = (struct cuda_mixture){.dtype = p->dtype,
                                             .experts = experts,
                                             .weight_count = cuda_product_rows(p) * cuda_product_depth(p),
                                             .bias_count = site->op->bias[0] == ASDM_NONE ? 0 : cuda_product_rows(p),
                                             .slot_count = site->rows};
    if (timestep) {
        struct asdm_error refused = {0};
        enum asdm_status status = get_cache(product, &refused);
        if (status != ASDM_OK && status != ASDM_ERR_MEMORY) { /* without memory for it, it goes without */
            *err = refused;
            return status;
        }
    }
    p->slot_count = product->mixture.slot_count;
    return ASDM_OK;
}

enum asdm_status cuda_plan_product(struct cuda_backend *backend, const struct asdm_site *site, struct asdm_kernel *ret,
                                   struct asdm_error *err) {
    struct asdm_kernel kernel;
    size_t weight_bytes = 0;
    ASDM_TRY(cuda_check_maps(site, 1u << ASDM_SRC_ROUTING | 1u << ASDM_SRC_ROW_BIAS, err));
    ASDM_TRY(cuda_kernel_create(backend, site, sizeof(struct product), "", run, &kernel, err));
    struct product *product = kernel.state;
    struct cuda_product *p = &product->shape;
    *p = shape_of(backend, site);
    if (p->geglu && p->out_channels % GEGLU_GROUP != 0) {
        p->geglu = false;
        p->out_channels *= 2;
        product->wide_bytes = asdm_size_align(
            (size_t)p->rows * (size_t)p->out_width * (size_t)p->out_channels * backend->base.element_bytes, 128);
    }
    enum asdm_status status = site->op->experts ? plan_experts(product, &weight_bytes, err)
                                                : get_weight(product, 0, &p->weight, &p->bias, &weight_bytes, err);
    if (status == ASDM_OK)
        status = choose(product, weight_bytes, err);
    if (status != ASDM_OK) {
        kernel.destroy(&kernel);
        return status;
    }
    kernel.destroy = destroy;
    kernel.name = cuda_method_name(&product->method, p);
    kernel.scratch_bytes = product->wide_bytes + product->method.scratch_bytes;
    if (p->slots)
        kernel.scratch_bytes = lay_out(product, NULL, NULL);
    kernel.in_place = product->wide_bytes ? ASDM_NONE : ASDM_SRC_RESIDUAL;
    *ret = kernel;
    return ASDM_OK;
}
