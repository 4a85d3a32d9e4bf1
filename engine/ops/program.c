#include "ops/program.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "sampler/step.h"

enum { PROGRAM_BYTES_MAX = 64 << 20, ITEMS_MAX = 1 << 20, CHANNELS_MAX = 1 << 20, LEVEL_MAX = 12 };

const char *asdm_op_kind_name(enum asdm_op_kind kind) {
    static const char *const names[ASDM_OP_KIND_COUNT] = {
        "import",  "export",     "embedding",     "timestep_embedding", "conv2d",
        "linear",  "group_norm", "layer_norm",    "attention",          "activation",
        "geglu",   "add",        "concat",        "upsample",           "global_pool",
        "routing", "mix",        "sampler_input", "guidance",           "sampler_update"};
    ASDM_ASSERT(kind < ASDM_OP_KIND_COUNT);
    return names[kind];
}

size_t asdm_weight_count(const struct asdm_weight *weight) {
    size_t count = 1;
    for (int i = 0; i < weight->rank; i++)
        count *= (size_t)weight->dims[i];
    return count;
}

enum asdm_status asdm_program_create(const char *name, struct asdm_program **ret, struct asdm_error *err) {
    struct asdm_program *program = calloc(1, sizeof *program);
    if (!program)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the program of %s", name);
    program->name = name;
    asdm_arena_init(&program->arena, PROGRAM_BYTES_MAX);
    *ret = program;
    return ASDM_OK;
}

void asdm_program_destroy(struct asdm_program **program) {
    struct asdm_program *p = *program;
    if (!p)
        return;
    free(p->values);
    free(p->ops);
    free(p->weights);
    asdm_arena_done(&p->arena);
    free(p);
    *program = NULL;
}

enum asdm_status asdm_program_finish(struct asdm_program *program, struct asdm_error *err) {
    if (program->status != ASDM_OK && err)
        *err = program->error;
    return program->status;
}

/* ---- growing */

static void builder_fail(struct asdm_program *p, enum asdm_status status, const char *message, const char *detail) {
    if (p->status == ASDM_OK)
        p->status = asdm_fail(&p->error, status, "%s: %s%s", p->name, message, detail);
}

/* Makes room for one more item; false (and the program failed) when memory is out. */
static bool reserve(struct asdm_program *p, void **items, int count, int *room, size_t item_bytes) {
    if (count < *room)
        return true;
    int wanted = *room ? *room * 2 : 64;
    void *grown = wanted <= ITEMS_MAX ? realloc(*items, (size_t)wanted * item_bytes) : NULL;
    if (!grown) {
        builder_fail(p, ASDM_ERR_MEMORY, "the program is too large", "");
        return false;
    }
    *items = grown;
    *room = wanted;
    return true;
}

static int add_value(struct asdm_program *p, struct asdm_value value) {
    if (value.channels < 1 || value.channels > CHANNELS_MAX || abs(value.height.n) > CHANNELS_MAX ||
        abs(value.width.n) > CHANNELS_MAX)
        builder_fail(p, ASDM_ERR_UNSUPPORTED, "a layer's width is out of range", "");
    if (p->status != ASDM_OK || !reserve(p, (void **)&p->values, p->value_count, &p->value_room, sizeof *p->values))
        return 0;
    p->values[p->value_count] = value;
    return p->value_count++;
}

static int add_weight(struct asdm_program *p, const char *name, const char *suffix, int rank, const int64_t *dims) {
    if (p->status != ASDM_OK || !reserve(p, (void **)&p->weights, p->weight_count, &p->weight_room, sizeof *p->weights))
        return ASDM_NONE;
    struct asdm_weight *weight = &p->weights[p->weight_count];
    *weight = (struct asdm_weight){.name = asdm_arena_printf(&p->arena, "%s%s", name, suffix), .rank = rank};
    if (!weight->name) {
        builder_fail(p, ASDM_ERR_MEMORY, "the program is too large", "");
        return ASDM_NONE;
    }
    memcpy(weight->dims, dims, (size_t)rank * sizeof *dims);
    return p->weight_count++;
}

static struct asdm_op new_op(enum asdm_op_kind kind, int x) {
    struct asdm_op op = {.kind = kind, .output = ASDM_NONE};
    for (int i = 0; i < ASDM_SRC_COUNT; i++)
        op.inputs[i] = i ? ASDM_NONE : x;
    for (int i = 0; i < ASDM_PARTS_MAX; i++)
        op.weight[i] = op.bias[i] = ASDM_NONE;
    return op;
}

static enum asdm_rate join_rates(enum asdm_rate a, enum asdm_rate b) {
    return a == b ? a : ASDM_RATE_STEP;
}

/* Appends `op` with a result like `shape` (height, width, channels); the rate is that of the inputs together. */
static int emit(struct asdm_program *p, struct asdm_op op, struct asdm_value shape) {
    if (p->status != ASDM_OK || !reserve(p, (void **)&p->ops, p->op_count, &p->op_room, sizeof *p->ops))
        return 0;
    enum asdm_rate rate = p->values[op.inputs[0]].rate;
    for (int i = 1; i < ASDM_SRC_COUNT; i++)
        if (op.inputs[i] != ASDM_NONE)
            rate = join_rates(rate, p->values[op.inputs[i]].rate);
    shape.rate = rate;
    shape.producer = p->op_count;
    shape.output = false;
    op.output = add_value(p, shape);
    if (p->status != ASDM_OK)
        return 0;
    p->ops[p->op_count++] = op;
    return op.output;
}

/* ---- the builder's calls */

struct asdm_dim asdm_dim_const(int n) {
    return (struct asdm_dim){ASDM_DIM_CONST, n};
}

struct asdm_dim asdm_dim_height(int level) {
    return (struct asdm_dim){ASDM_DIM_HEIGHT, level};
}

struct asdm_dim asdm_dim_width(int level) {
    return (struct asdm_dim){ASDM_DIM_WIDTH, level};
}

static struct asdm_value value_of(const struct asdm_program *p, int x) {
    return p->status == ASDM_OK ? p->values[x] : (struct asdm_value){.channels = 1};
}

int asdm_build_input(struct asdm_program *p, struct asdm_dim height, struct asdm_dim width, int channels,
                     enum asdm_rate rate) {
    return add_value(p,
                     (struct asdm_value){
                         .height = height, .width = width, .channels = channels, .rate = rate, .producer = ASDM_NONE});
}

void asdm_build_output(struct asdm_program *p, int x) {
    if (p->status == ASDM_OK)
        p->values[x].output = true;
}

int asdm_build_import(struct asdm_program *p, int x, bool nchw) {
    struct asdm_op op = new_op(ASDM_OP_IMPORT, x);
    op.nchw = nchw;
    return emit(p, op, value_of(p, x));
}

int asdm_build_export(struct asdm_program *p, int x, bool nchw) {
    struct asdm_op op = new_op(ASDM_OP_EXPORT, x);
    op.nchw = nchw;
    return emit(p, op, value_of(p, x));
}

int asdm_build_embedding(struct asdm_program *p, int ids, const char *tokens, int64_t vocabulary, const char *positions,
                         int64_t position_count, int channels) {
    struct asdm_op op = new_op(ASDM_OP_EMBEDDING, ids);
    struct asdm_value shape = value_of(p, ids);
    op.weight[0] = add_weight(p, tokens, ".weight", 2, (int64_t[]){vocabulary, channels});
    op.weight[1] = add_weight(p, positions, ".weight", 2, (int64_t[]){position_count, channels});
    shape.channels = channels;
    return emit(p, op, shape);
}

int asdm_build_timestep_embedding(struct asdm_program *p, int t, int channels, bool flip_sin_to_cos, float freq_shift) {
    struct asdm_op op = new_op(ASDM_OP_TIMESTEP_EMBEDDING, t);
    struct asdm_value shape = value_of(p, t);
    op.flip_sin_to_cos = flip_sin_to_cos;
    op.freq_shift = freq_shift;
    shape.channels = channels;
    return emit(p, op, shape);
}

static struct asdm_dim change_level(struct asdm_dim dim, int by) {
    dim.n += by;
    return dim;
}

int asdm_build_conv2d(struct asdm_program *p, int x, const char *name, int out_channels, int kernel, int stride,
                      int pad_before, int pad_after) {
    struct asdm_op op = new_op(ASDM_OP_CONV2D, x);
    struct asdm_value shape = value_of(p, x);
    op.weight[0] = add_weight(p, name, ".weight", 4, (int64_t[]){out_channels, shape.channels, kernel, kernel});
    op.bias[0] = add_weight(p, name, ".bias", 1, (int64_t[]){out_channels});
    op.parts = 1;
    op.kernel = kernel;
    op.stride = stride;
    op.pad_before = pad_before;
    op.pad_after = pad_after;
    ASDM_ASSERT(stride == 1 || stride == 2);
    if (stride == 2) {
        shape.height = change_level(shape.height, 1);
        shape.width = change_level(shape.width, 1);
    }
    shape.channels = out_channels;
    return emit(p, op, shape);
}

static int build_product(struct asdm_program *p, int x, const char *name, int out_channels, bool bias, int rank) {
    struct asdm_op op = new_op(ASDM_OP_LINEAR, x);
    struct asdm_value shape = value_of(p, x);
    op.weight[0] = add_weight(p, name, ".weight", rank, (int64_t[]){out_channels, shape.channels, 1, 1});
    if (bias)
        op.bias[0] = add_weight(p, name, ".bias", 1, (int64_t[]){out_channels});
    op.parts = 1;
    shape.channels = out_channels;
    return emit(p, op, shape);
}

int asdm_build_linear(struct asdm_program *p, int x, const char *name, int out_channels, bool bias) {
    return build_product(p, x, name, out_channels, bias, 2);
}

int asdm_build_pointwise(struct asdm_program *p, int x, const char *name, int out_channels) {
    return build_product(p, x, name, out_channels, true, 4);
}

static int build_norm(struct asdm_program *p, struct asdm_op op, const char *name, float eps) {
    struct asdm_value shape = value_of(p, op.inputs[0]);
    op.weight[0] = add_weight(p, name, ".weight", 1, (int64_t[]){shape.channels});
    op.bias[0] = add_weight(p, name, ".bias", 1, (int64_t[]){shape.channels});
    op.eps = eps;
    return emit(p, op, shape);
}

int asdm_build_group_norm(struct asdm_program *p, int x, const char *name, int groups, float eps) {
    struct asdm_op op = new_op(ASDM_OP_GROUP_NORM, x);
    op.groups = groups;
    if (groups < 1 || value_of(p, x).channels % groups)
        builder_fail(p, ASDM_ERR_FORMAT, "the number of norm groups does not divide the channels of ", name);
    return build_norm(p, op, name, eps);
}

int asdm_build_layer_norm(struct asdm_program *p, int x, const char *name, float eps) {
    return build_norm(p, new_op(ASDM_OP_LAYER_NORM, x), name, eps);
}

int asdm_build_attention(struct asdm_program *p, int q, int k, int v, int heads, bool causal) {
    struct asdm_op op = new_op(ASDM_OP_ATTENTION, q);
    struct asdm_value shape = value_of(p, q);
    op.inputs[ASDM_SRC_K] = k;
    op.inputs[ASDM_SRC_V] = v;
    op.heads = heads;
    op.causal = causal;
    if (heads < 1 || shape.channels % heads)
        builder_fail(p, ASDM_ERR_FORMAT, "the number of attention heads does not divide the channels", "");
    else
        op.head_dim = shape.channels / heads;
    return emit(p, op, shape);
}

int asdm_build_gri_attention(struct asdm_program *p, int q, int k, int v, int heads, int window, int pool) {
    ASDM_ASSERT(window > 0 && pool > 0 && window % pool == 0);
    int y = asdm_build_attention(p, q, k, v, heads, false);
    if (p->status == ASDM_OK) {
        p->ops[p->op_count - 1].window = window;
        p->ops[p->op_count - 1].pool = pool;
    }
    return y;
}

int asdm_build_activation(struct asdm_program *p, int x, enum asdm_activation activation) {
    struct asdm_op op = new_op(ASDM_OP_ACTIVATION, x);
    op.activation = activation;
    return emit(p, op, value_of(p, x));
}

int asdm_build_geglu(struct asdm_program *p, int x) {
    struct asdm_value shape = value_of(p, x);
    shape.channels /= 2;
    return emit(p, new_op(ASDM_OP_GEGLU, x), shape);
}

int asdm_build_add(struct asdm_program *p, int x, int residual) {
    struct asdm_op op = new_op(ASDM_OP_ADD, x);
    op.inputs[ASDM_SRC_RESIDUAL] = residual;
    return emit(p, op, value_of(p, x));
}

int asdm_build_add_row_bias(struct asdm_program *p, int x, int bias) {
    struct asdm_op op = new_op(ASDM_OP_ADD, x);
    op.inputs[ASDM_SRC_ROW_BIAS] = bias;
    return emit(p, op, value_of(p, x));
}

int asdm_build_concat(struct asdm_program *p, int x, int x2) {
    struct asdm_op op = new_op(ASDM_OP_CONCAT, x);
    struct asdm_value shape = value_of(p, x);
    op.inputs[ASDM_SRC_X2] = x2;
    shape.channels += value_of(p, x2).channels;
    return emit(p, op, shape);
}

int asdm_build_upsample(struct asdm_program *p, int x) {
    struct asdm_value shape = value_of(p, x);
    shape.height = change_level(shape.height, -1);
    shape.width = change_level(shape.width, -1);
    return emit(p, new_op(ASDM_OP_UPSAMPLE, x), shape);
}

int asdm_build_global_pool(struct asdm_program *p, int x) {
    struct asdm_value shape = value_of(p, x);
    shape.height = shape.width = asdm_dim_const(1);
    return emit(p, new_op(ASDM_OP_GLOBAL_POOL, x), shape);
}

/* ---- conditional forms */

int asdm_build_routing(struct asdm_program *p, int x, int x2, const char *name, int experts, float temperature) {
    struct asdm_op op = new_op(ASDM_OP_ROUTING, x);
    struct asdm_value shape = value_of(p, x);
    int64_t features = shape.channels + (x2 == ASDM_NONE ? 0 : value_of(p, x2).channels);
    op.inputs[ASDM_SRC_X2] = x2;
    op.weight[0] = add_weight(p, name, ".weight", 2, (int64_t[]){experts, features});
    op.bias[0] = add_weight(p, name, ".bias", 1, (int64_t[]){experts});
    op.parts = 1;
    op.scale = 1 / temperature;
    shape.channels = experts;
    return emit(p, op, shape);
}

static int build_mixed(struct asdm_program *p, struct asdm_op op, int routing, const char *const *names, int experts,
                       int out_channels) {
    struct asdm_value shape = value_of(p, op.inputs[ASDM_SRC_X]);
    int kernel = op.kind == ASDM_OP_CONV2D ? op.kernel : 1;
    ASDM_ASSERT(2 <= experts && experts <= ASDM_EXPERTS_MAX);
    for (int e = 0; e < experts; e++) {
        op.weight[e] = add_weight(p, names[e], ".weight", 4, (int64_t[]){out_channels, shape.channels, kernel, kernel});
        op.bias[e] = add_weight(p, names[e], ".bias", 1, (int64_t[]){out_channels});
    }
    op.inputs[ASDM_SRC_ROUTING] = routing;
    op.parts = 1;
    op.experts = experts;
    shape.channels = out_channels;
    return emit(p, op, shape);
}

int asdm_build_mixed_conv2d(struct asdm_program *p, int x, int routing, const char *const *names, int experts,
                            int out_channels, int kernel) {
    struct asdm_op op = new_op(ASDM_OP_CONV2D, x);
    ASDM_ASSERT(kernel % 2 == 1);
    op.kernel = kernel;
    op.stride = 1;
    op.pad_before = op.pad_after = kernel / 2;
    return build_mixed(p, op, routing, names, experts, out_channels);
}

int asdm_build_mixed_pointwise(struct asdm_program *p, int x, int routing, const char *const *names, int experts,
                               int out_channels) {
    return build_mixed(p, new_op(ASDM_OP_LINEAR, x), routing, names, experts, out_channels);
}

int asdm_build_mix(struct asdm_program *p, const int *vectors, int routing, int experts) {
    struct asdm_op op = new_op(ASDM_OP_MIX, vectors[0]);
    ASDM_ASSERT(2 <= experts && experts <= ASDM_EXPERTS_MAX && ASDM_EXPERTS_MAX <= (int)ASDM_SRC_ROUTING);
    for (int e = 1; e < experts; e++)
        op.inputs[e] = vectors[e];
    op.inputs[ASDM_SRC_ROUTING] = routing;
    op.experts = experts;
    return emit(p, op, value_of(p, vectors[0]));
}

/* ---- the ends of a step */

/* The last operation becomes the first. */
static void move_to_front(struct asdm_program *p) {
    struct asdm_op op = p->ops[p->op_count - 1];
    memmove(p->ops + 1, p->ops, (size_t)(p->op_count - 1) * sizeof *p->ops);
    p->ops[0] = op;
    for (int v = 0; v < p->value_count; v++)
        if (p->values[v].producer != ASDM_NONE)
            p->values[v].producer = (p->values[v].producer + 1) % p->op_count;
}

int asdm_build_sampler_input(struct asdm_program *p, int latents) {
    int row = asdm_build_input(p, asdm_dim_const(1), asdm_dim_const(1), sizeof(struct asdm_step_row) / sizeof(float),
                               ASDM_RATE_STEP);
    int scaled = emit(p, new_op(ASDM_OP_SAMPLER_INPUT, row), value_of(p, latents));
    if (p->status != ASDM_OK)
        return 0;
    for (int i = 0; i < p->op_count; i++)
        for (int j = 0; j < ASDM_SRC_COUNT; j++)
            if (p->ops[i].inputs[j] == latents)
                p->ops[i].inputs[j] = scaled;
    move_to_front(p);
    return row;
}

void asdm_build_sampler(struct asdm_program *p, int prediction, int step_rows) {
    struct asdm_op guidance = new_op(ASDM_OP_GUIDANCE, prediction);
    guidance.inputs[ASDM_SRC_STEP] = step_rows;
    int guided = emit(p, guidance, value_of(p, prediction));
    struct asdm_op update = new_op(ASDM_OP_SAMPLER_UPDATE, guided);
    update.inputs[ASDM_SRC_STEP] = step_rows;
    int done = emit(p, update, (struct asdm_value){asdm_dim_const(1), asdm_dim_const(1), .channels = 1});
    asdm_build_output(p, done);
    if (p->status != ASDM_OK)
        return;
    p->values[done].channels = 0;
    p->values[prediction].output = false;
}

/* ---- reading */

int asdm_program_uses(const struct asdm_program *program, int value) {
    int uses = 0;
    for (int i = 0; i < program->op_count; i++)
        for (int j = 0; j < ASDM_SRC_COUNT; j++)
            uses += program->ops[i].inputs[j] == value;
    return uses;
}

enum asdm_rate asdm_program_op_rate(const struct asdm_program *program, const struct asdm_op *op) {
    return program->values[op->output].rate;
}

bool asdm_program_is_wide(const struct asdm_program *program, int value) {
    int producer = program->values[value].producer;
    if (producer == ASDM_NONE)
        return true;
    enum asdm_op_kind kind = program->ops[producer].kind;
    return kind == ASDM_OP_EXPORT || kind == ASDM_OP_SAMPLER_INPUT || kind == ASDM_OP_GUIDANCE;
}

int64_t asdm_dim_resolve(struct asdm_dim dim, int height, int width) {
    if (dim.kind == ASDM_DIM_CONST)
        return dim.n;
    ASDM_ASSERT(abs(dim.n) <= LEVEL_MAX);
    int64_t size = dim.kind == ASDM_DIM_HEIGHT ? height : width;
    return dim.n < 0 ? size << -dim.n : (size + (1 << dim.n) - 1) >> dim.n;
}

static double tokens_of(const struct asdm_value *value, int height, int width) {
    return (double)asdm_dim_resolve(value->height, height, width) *
           (double)asdm_dim_resolve(value->width, height, width);
}

bool asdm_op_is_gri(const struct asdm_op *op, int64_t height, int64_t width) {
    return op->window > 0 && (height > op->window || width > op->window);
}

/* The sum over a line's windows of their squared lengths. */
static double squared_windows(int64_t length, int window) {
    double whole = (double)(length / window), rest = (double)(length % window);
    return whole * window * window + rest * rest;
}

/* Pairs of query and key. */
static double attention_pairs(const struct asdm_program *p, const struct asdm_op *op, int height, int width) {
    const struct asdm_value *q = &p->values[op->inputs[ASDM_SRC_Q]], *k = &p->values[op->inputs[ASDM_SRC_K]];
    int64_t h = asdm_dim_resolve(q->height, height, width), w = asdm_dim_resolve(q->width, height, width);
    if (!asdm_op_is_gri(op, h, w))
        return tokens_of(q, height, width) * tokens_of(k, height, width);
    double cells = (double)((h + op->pool - 1) / op->pool) * (double)((w + op->pool - 1) / op->pool);
    return squared_windows(h, op->window) * squared_windows(w, op->window) + (double)h * (double)w * cells;
}

double asdm_program_op_macs(const struct asdm_program *p, const struct asdm_op *op, int height, int width) {
    const struct asdm_value *out = &p->values[op->output];
    double tokens = tokens_of(out, height, width), macs = 0;
    if (op->weight[0] != ASDM_NONE)
        macs = op->experts * (double)asdm_weight_count(&p->weights[op->weight[0]]);
    switch (op->kind) {
    case ASDM_OP_CONV2D:
        return macs +
               tokens * (double)out->channels * (double)p->weights[op->weight[0]].dims[1] * op->kernel * op->kernel;
    case ASDM_OP_ROUTING:
        return (double)asdm_weight_count(&p->weights[op->weight[0]]);
    case ASDM_OP_MIX:
        return op->experts * out->channels;
    case ASDM_OP_LINEAR:
        for (int i = 0; i < op->parts; i++)
            macs += tokens * (double)p->weights[op->weight[i]].dims[0] * (double)p->weights[op->weight[i]].dims[1];
        return macs;
    case ASDM_OP_ATTENTION:
        return 2 * attention_pairs(p, op, height, width) * out->channels;
    default:
        return 0;
    }
}

/* A 3x3 convolution on an upsampled map of exactly twice the size, fused with the upsampling or not. */
static bool is_folded(const struct asdm_program *p, const struct asdm_op *op, int height, int width) {
    int x = op->inputs[ASDM_SRC_X], producer = p->values[x].producer;
    bool follows = producer != ASDM_NONE && p->ops[producer].kind == ASDM_OP_UPSAMPLE;
    if (op->kind != ASDM_OP_CONV2D || op->kernel != 3 || op->stride != 1 || (!op->upsample && !follows))
        return false;
    const struct asdm_value *small = &p->values[op->upsample ? x : p->ops[producer].inputs[ASDM_SRC_X]];
    const struct asdm_value *out = &p->values[op->output];
    return asdm_dim_resolve(out->height, height, width) == 2 * asdm_dim_resolve(small->height, height, width) &&
           asdm_dim_resolve(out->width, height, width) == 2 * asdm_dim_resolve(small->width, height, width);
}

double asdm_program_op_step_macs(const struct asdm_program *p, const struct asdm_op *op, int height, int width) {
    if (asdm_program_op_rate(p, op) != ASDM_RATE_STEP)
        return 0;
    return asdm_program_op_macs(p, op, height, width) * (is_folded(p, op, height, width) ? 4.0 / 9 : 1);
}
