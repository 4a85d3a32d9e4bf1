#include "ops/recipes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/resnet.h"

static const int widths[] = {1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 31, 32, 40, 48, 64, 65, 80, 96};

static int random_width(uint64_t *r) {
    return widths[test_random(r) % (sizeof widths / sizeof *widths)];
}

static void random_map(struct trial *t, uint64_t *r) {
    t->height = test_random_int(r, 1, 19);
    t->width = test_random_int(r, 1, 19);
}

static int map_input(struct trial *t, int level, int channels) {
    return asdm_build_import(
        t->program,
        asdm_build_input(t->program, asdm_dim_height(level), asdm_dim_width(level), channels, ASDM_RATE_STEP), false);
}

static int sequence_input(struct trial *t, int tokens, int channels, enum asdm_rate rate) {
    return asdm_build_import(
        t->program, asdm_build_input(t->program, asdm_dim_const(1), asdm_dim_const(tokens), channels, rate), false);
}

static int larger(int a, int b) {
    return a > b ? a : b;
}

/* ---- convolutions */

static int conv(struct trial *t, uint64_t *r, int *length) {
    int in = random_width(r), out = random_width(r),
        kernel = test_random(r) % 4 ? 3 : 1 + 2 * (int)(test_random(r) % 3);
    random_map(t, r);
    *length = in * kernel * kernel;
    return asdm_build_conv2d(t->program, map_input(t, 0, in), "conv", out, kernel, 1, kernel / 2, kernel / 2);
}

static int conv_down(struct trial *t, uint64_t *r, int *length) {
    int in = random_width(r), out = random_width(r), before = (int)(test_random(r) % 2);
    random_map(t, r);
    if (!before) { /* padded after only: sizes are even, as the autoencoder's are */
        t->height *= 2;
        t->width *= 2;
    }
    *length = in * 9;
    return asdm_build_conv2d(t->program, map_input(t, 0, in), "conv", out, 3, 2, before, 1);
}

static int conv_residual(struct trial *t, uint64_t *r, int *length) {
    int channels = random_width(r);
    random_map(t, r);
    int x = map_input(t, 0, channels);
    *length = channels * 9;
    return asdm_build_add(t->program, asdm_build_conv2d(t->program, x, "conv", channels, 3, 1, 1, 1), x);
}

static int conv_upsample(struct trial *t, uint64_t *r, int *length) {
    int in = random_width(r), out = random_width(r);
    random_map(t, r);
    *length = in * 9;
    int x = asdm_build_upsample(t->program, map_input(t, 1, in));
    return asdm_build_conv2d(t->program, x, "conv", out, 3, 1, 1, 1);
}

/* ---- products */

static int linear(struct trial *t, uint64_t *r, int *length) {
    int in = random_width(r), out = random_width(r);
    random_map(t, r);
    *length = in;
    return asdm_build_linear(t->program, map_input(t, 0, in), "linear", out, test_random(r) % 2);
}

static int linear_activation(struct trial *t, uint64_t *r, int *length) {
    int x = linear(t, r, length);
    return asdm_build_activation(t->program, x, ASDM_ACT_SILU + (enum asdm_activation)(test_random(r) % 5));
}

static int linear_residual(struct trial *t, uint64_t *r, int *length) {
    int channels = random_width(r);
    random_map(t, r);
    int x = map_input(t, 0, channels);
    *length = channels;
    return asdm_build_add(t->program, asdm_build_linear(t->program, x, "linear", channels, true), x);
}

static int linear_geglu(struct trial *t, uint64_t *r, int *length) {
    int in = random_width(r), out = random_width(r);
    random_map(t, r);
    *length = in;
    return asdm_build_geglu(t->program, asdm_build_linear(t->program, map_input(t, 0, in), "linear", 2 * out, true));
}

/* The head of an up block: concat read by a norm and by the shortcut. */
static int concat_resnet(struct trial *t, uint64_t *r, int *length) {
    int groups = test_random_int(r, 1, 8), a = groups * test_random_int(r, 1, 8), b = groups * test_random_int(r, 1, 8);
    int out = random_width(r);
    random_map(t, r);
    int x = asdm_build_concat(t->program, map_input(t, 0, a), map_input(t, 0, b));
    int shortcut = asdm_build_pointwise(t->program, x, "shortcut", out);
    x = asdm_build_activation(t->program, asdm_build_group_norm(t->program, x, "norm", groups, 1e-5f), ASDM_ACT_SILU);
    *length = larger(9 * (a + b), (a + b) / groups * t->height * t->width);
    return asdm_build_add(t->program, asdm_build_conv2d(t->program, x, "conv", out, 3, 1, 1, 1), shortcut);
}

/* ---- norms */

static int group_norm(struct trial *t, uint64_t *r, int *length) {
    int groups = test_random_int(r, 1, 12), channels = groups * test_random_int(r, 1, 12);
    random_map(t, r);
    *length = channels / groups * t->height * t->width;
    int x = asdm_build_group_norm(t->program, map_input(t, 0, channels), "norm", groups,
                                  test_random(r) % 2 ? 1e-5f : 1e-6f);
    return test_random(r) % 2 ? x : asdm_build_activation(t->program, x, ASDM_ACT_SILU);
}

/* Plus a vector per row from the schedule's rate, as resnets add the time embedding. */
static int group_norm_time(struct trial *t, uint64_t *r, int *length) {
    int groups = test_random_int(r, 1, 12), channels = groups * test_random_int(r, 1, 12);
    random_map(t, r);
    *length = channels / groups * t->height * t->width;
    int time = asdm_build_linear(t->program, sequence_input(t, 1, 16, ASDM_RATE_SCHEDULE), "time", channels, true);
    int x = asdm_build_add_row_bias(t->program, map_input(t, 0, channels), time);
    return asdm_build_activation(t->program, asdm_build_group_norm(t->program, x, "norm", groups, 1e-5f),
                                 ASDM_ACT_SILU);
}

/* Maps of which products keep moments of their parts, and now and then one of which they do not. */
static void moments_map(struct trial *t, uint64_t *r) {
    t->height = 4 * test_random_int(r, 3, 7);
    t->width = 4 * test_random_int(r, 5, 9);
    if (test_random(r) % 6 == 0)
        t->height = t->width = 64; /* larger parts */
    if (test_random(r) % 6 == 0)
        t->height++;
}

/* The first half of a resnet. */
static int conv_time_norm(struct trial *t, uint64_t *r, int *length) {
    static const int sizes[] = {1, 2, 4, 8, 10, 20, 40, 3, 6};
    int in = random_width(r), size = sizes[test_random(r) % 9], groups = test_random_int(r, 1, 8 + 40 / size);
    int channels = groups * size;
    moments_map(t, r);
    *length = larger(9 * in, channels / groups * t->height * t->width);
    /* Of the map's size: beside a larger one the sum, which is stored, would keep little of the map. */
    int time = asdm_build_layer_norm(t->program, sequence_input(t, 1, 16, ASDM_RATE_SCHEDULE), "time norm", 1e-5f);
    time = asdm_build_linear(t->program, time, "time", channels, true);
    int x = asdm_build_conv2d(t->program, map_input(t, 0, in), "conv", channels, 3, 1, 1, 1);
    x = asdm_build_group_norm(t->program, asdm_build_add_row_bias(t->program, x, time), "norm", groups, 1e-5f);
    return asdm_build_activation(t->program, x, ASDM_ACT_SILU);
}

/* One of the products whose results up blocks join. */
static int some_product(struct trial *t, uint64_t *r, const char *name, int channels) {
    int in = 8 * test_random_int(r, 1, 24);
    switch (test_random(r) % 3) {
    case 0: {
        int x = map_input(t, 0, channels);
        return asdm_build_add(t->program, asdm_build_conv2d(t->program, x, name, channels, 3, 1, 1, 1), x);
    }
    case 1:
        return asdm_build_pointwise(t->program, map_input(t, 0, in), name, channels);
    default:
        return asdm_build_conv2d(t->program, asdm_build_upsample(t->program, map_input(t, 1, in)), name, channels, 3, 1,
                                 1, 1);
    }
}

/* A concat of products, read by a norm whose groups are not theirs; one of them has a norm of its own as well. */
static int products_concat_norm(struct trial *t, uint64_t *r, int *length) {
    int unit = 8 * test_random_int(r, 1, 5), a = unit * test_random_int(r, 1, 4), b = unit * test_random_int(r, 1, 4);
    int groups = test_random(r) % 2 ? 8 : 4;
    moments_map(t, r);
    *length = larger(9 * larger(192, larger(a, b)), (a + b) / groups * t->height * t->width);
    int x = some_product(t, r, "a", a), y = some_product(t, r, "b", b);
    int joined = asdm_build_group_norm(t->program, asdm_build_concat(t->program, x, y), "norm", groups, 1e-5f);
    return asdm_build_concat(t->program, joined, asdm_build_group_norm(t->program, y, "own", 8, 1e-5f));
}

static int layer_norm(struct trial *t, uint64_t *r, int *length) {
    int channels = random_width(r) + 1;
    random_map(t, r);
    *length = channels;
    return asdm_build_layer_norm(t->program, map_input(t, 0, channels), "norm", 1e-5f);
}

/* ---- attention */

static int self_attention(struct trial *t, uint64_t *r, int *length) {
    int heads = test_random_int(r, 1, 4), channels = heads * random_width(r);
    random_map(t, r);
    int x = asdm_build_layer_norm(t->program, map_input(t, 0, channels), "norm", 1e-5f); /* scores of sensible size */
    int q = asdm_build_linear(t->program, x, "q", channels, false),
        k = asdm_build_linear(t->program, x, "k", channels, false);
    int v = asdm_build_linear(t->program, x, "v", channels, false);
    *length = larger(channels, t->height * t->width);
    return asdm_build_attention(t->program, q, k, v, heads, test_random(r) % 3 == 0);
}

/* Keys and values from the prompt's rate, through a row map. */
static int cross_attention(struct trial *t, uint64_t *r, int *length) {
    int heads = test_random_int(r, 1, 4), channels = heads * random_width(r), tokens = test_random_int(r, 1, 300);
    random_map(t, r);
    int context = asdm_build_layer_norm(t->program, sequence_input(t, tokens, 24, ASDM_RATE_PROMPT), "context", 1e-5f);
    int x = asdm_build_layer_norm(t->program, map_input(t, 0, channels), "norm", 1e-5f);
    int q = asdm_build_linear(t->program, x, "q", channels, false);
    int k = asdm_build_linear(t->program, context, "k", channels, false);
    int v = asdm_build_linear(t->program, context, "v", channels, false);
    *length = larger(channels, tokens);
    return asdm_build_attention(t->program, q, k, v, heads, false);
}

/* A map's attention to itself with windows of `window` and cells of `pool`; 0: plain. */
static int map_attention(struct trial *t, int heads, int head_dim, int window, int pool) {
    int channels = heads * head_dim;
    int x = asdm_build_layer_norm(t->program, map_input(t, 0, channels), "norm", 1e-5f);
    int q = asdm_build_linear(t->program, x, "q", channels, false);
    int k = asdm_build_linear(t->program, x, "k", channels, false);
    int v = asdm_build_linear(t->program, x, "v", channels, false);
    return window ? asdm_build_gri_attention(t->program, q, k, v, heads, window, pool)
                  : asdm_build_attention(t->program, q, k, v, heads, false);
}

/* Ragged windows and cells, cells of one token, windows that cover the map. */
static int gri_attention(struct trial *t, uint64_t *r, int *length) {
    int heads = test_random_int(r, 1, 4), dim = random_width(r);
    int pool = test_random_int(r, 1, 5), window = pool * test_random_int(r, 1, 5);
    t->height = test_random_int(r, 1, 29);
    t->width = test_random_int(r, 1, 29);
    *length = larger(heads * dim, t->height * t->width);
    return map_attention(t, heads, dim, window, pool);
}

/* What a window's edge can get wrong: lines, one token beside a window, one window and a bit, many cells. */
static int gri_edges(struct trial *t, uint64_t *r, int *length) {
    static const struct {
        int height, width, window, pool;
    } shapes[] = {{1, 40, 8, 4},   {40, 1, 8, 4},   {17, 16, 16, 4}, {16, 17, 16, 4}, {9, 9, 8, 8},   {5, 5, 4, 1},
                  {16, 16, 16, 4}, {3, 2, 16, 4},   {33, 31, 16, 4}, {24, 40, 1, 1},  {2, 2, 1, 1},   {13, 7, 6, 3},
                  {21, 21, 20, 4}, {64, 40, 16, 4}, {8, 50, 12, 2},  {1, 2, 1, 1},    {25, 25, 5, 5}, {12, 12, 6, 2}};
    size_t i = test_random(r) % (sizeof shapes / sizeof *shapes);
    int heads = test_random_int(r, 1, 2), dim = random_width(r);
    t->height = shapes[i].height;
    t->width = shapes[i].width;
    *length = larger(heads * dim, t->height * t->width);
    return map_attention(t, heads, dim, shapes[i].window, shapes[i].pool);
}

/* ---- kernels with experts */

static const char *const expert_names[ASDM_EXPERTS_MAX] = {"conv", "experts.1", "experts.2", "experts.3"};

/* Shares from a vector of the schedule's rate, or from that and the mean of the map `x` (ASDM_NONE: none), normed so
 * that scores are of sensible size. */
static int random_routing(struct trial *t, uint64_t *r, int x, int experts) {
    static const float temperatures[] = {0.5f, 1, 4};
    int time = asdm_build_layer_norm(t->program, sequence_input(t, 1, 16, ASDM_RATE_SCHEDULE), "time", 1e-5f);
    int first = time, second = ASDM_NONE;
    if (x != ASDM_NONE) {
        first = asdm_build_layer_norm(t->program, asdm_build_global_pool(t->program, x), "mean", 1e-5f);
        second = time;
    }
    return asdm_build_routing(t->program, first, second, "router", experts, temperatures[test_random(r) % 3]);
}

/* Rows share the timestep's kernel or do not, as the maps have it; now and then a single pixel. */
static int experts_conv(struct trial *t, uint64_t *r, int *length) {
    int in = random_width(r), out = random_width(r),
        kernel = test_random(r) % 4 ? 3 : 1 + 2 * (int)(test_random(r) % 3);
    int experts = test_random_int(r, 2, ASDM_EXPERTS_MAX);
    random_map(t, r);
    t->rows = test_random_int(r, 1, 5);
    if (test_random(r) % 8 == 0)
        t->height = t->width = 1;
    *length = in * kernel * kernel + experts;
    int routing = random_routing(t, r, ASDM_NONE, experts);
    return asdm_build_mixed_conv2d(t->program, map_input(t, 0, in), routing, expert_names, experts, out, kernel);
}

static int experts_conv_full(struct trial *t, uint64_t *r, int *length) {
    int channels = random_width(r), experts = test_random_int(r, 2, ASDM_EXPERTS_MAX);
    random_map(t, r);
    *length = larger(9 * channels, t->height * t->width) + experts;
    int x = map_input(t, 0, channels);
    int y =
        asdm_build_mixed_conv2d(t->program, x, random_routing(t, r, x, experts), expert_names, experts, channels, 3);
    return test_random(r) % 2 ? y : asdm_build_add(t->program, y, x);
}

/* A shortcut with experts that reads a concat, and the mean of it. */
static int experts_shortcut(struct trial *t, uint64_t *r, int *length) {
    int a = random_width(r), b = random_width(r), out = random_width(r),
        experts = test_random_int(r, 2, ASDM_EXPERTS_MAX);
    random_map(t, r);
    *length = larger(a + b, t->height * t->width) + experts;
    int x = asdm_build_concat(t->program, map_input(t, 0, a), map_input(t, 0, b));
    int routing = random_routing(t, r, test_random(r) % 2 ? x : ASDM_NONE, experts);
    return asdm_build_mixed_pointwise(t->program, x, routing, expert_names, experts, out);
}

/* Projections of the time embedding, mixed, and added before a norm. */
static int experts_time(struct trial *t, uint64_t *r, int *length) {
    int groups = test_random_int(r, 1, 8), channels = groups * test_random_int(r, 1, 12);
    int experts = test_random_int(r, 2, ASDM_EXPERTS_MAX), vectors[ASDM_EXPERTS_MAX];
    random_map(t, r);
    *length = larger(channels / groups * t->height * t->width, 16) + experts;
    int x = map_input(t, 0, channels), time = sequence_input(t, 1, 16, ASDM_RATE_SCHEDULE);
    for (int e = 0; e < experts; e++)
        vectors[e] = asdm_build_linear(t->program, time, expert_names[e], channels, true);
    int routing = random_routing(t, r, test_random(r) % 2 ? x : ASDM_NONE, experts);
    x = asdm_build_add_row_bias(t->program, x, asdm_build_mix(t->program, vectors, routing, experts));
    return asdm_build_group_norm(t->program, x, "norm", groups, 1e-5f);
}

/* All of a resnet, as light models have it. */
static int experts_resnet(struct trial *t, uint64_t *r, int *length) {
    int groups = test_random_int(r, 1, 4), in = groups * test_random_int(r, 1, 12),
        out = groups * test_random_int(r, 1, 12);
    struct asdm_resnet_experts experts = {.count = test_random_int(r, 2, ASDM_EXPERTS_MAX),
                                          .parts = (unsigned)test_random_int(r, 1, 15),
                                          .routing = test_random(r) % 2 ? ASDM_ROUTING_FULL : ASDM_ROUTING_TIMESTEP,
                                          .temperature = 1};
    random_map(t, r);
    struct asdm_resnet resnet = {groups, 1e-5f, ASDM_ACT_SILU, sequence_input(t, 1, 16, ASDM_RATE_SCHEDULE), &experts};
    *length = larger(9 * larger(in, out), larger(in, out) / groups * t->height * t->width);
    return asdm_build_resnet(t->program, &resnet, map_input(t, 0, in), out, "resnet");
}

/* ---- the rest */

static int activation(struct trial *t, uint64_t *r, int *length) {
    random_map(t, r);
    *length = 1;
    return asdm_build_activation(t->program, map_input(t, 0, random_width(r)),
                                 ASDM_ACT_SILU + (enum asdm_activation)(test_random(r) % 5));
}

static int elementwise(struct trial *t, uint64_t *r, int *length) {
    int channels = random_width(r);
    random_map(t, r);
    *length = 2;
    int x = map_input(t, 0, channels), y = map_input(t, 0, channels);
    int concat = asdm_build_concat(t->program, asdm_build_add(t->program, x, y), y);
    x = asdm_build_geglu(t->program, concat);
    return asdm_build_upsample(
        t->program, asdm_build_add_row_bias(t->program, x, sequence_input(t, 1, channels, ASDM_RATE_SCHEDULE)));
}

static int planes(struct trial *t, uint64_t *r, int *length) {
    random_map(t, r);
    *length = 1;
    int x = asdm_build_input(t->program, asdm_dim_height(0), asdm_dim_width(0), random_width(r), ASDM_RATE_STEP);
    return asdm_build_import(t->program, x, true);
}

static int embedding(struct trial *t, uint64_t *r, int *length) {
    int tokens = test_random_int(r, 1, 77);
    t->vocabulary = test_random_int(r, 1, 200);
    *length = 2;
    int ids = asdm_build_input(t->program, asdm_dim_const(1), asdm_dim_const(tokens), 1, ASDM_RATE_STEP);
    return asdm_build_embedding(t->program, ids, "tokens", t->vocabulary, "positions", 77, random_width(r));
}

static int timestep(struct trial *t, uint64_t *r, int *length) {
    int x = asdm_build_input(t->program, asdm_dim_const(1), asdm_dim_const(1), 1, ASDM_RATE_STEP);
    *length = 1;
    return asdm_build_timestep_embedding(t->program, x, 4 * test_random_int(r, 1, 80), test_random(r) % 2,
                                         (float)(test_random(r) % 2));
}

const struct recipe recipes[] = {
    {"conv", conv, 1},
    {"conv stride 2", conv_down, 1},
    {"conv + residual", conv_residual, 1},
    {"upsample, conv", conv_upsample, 1},
    {"linear", linear, 1},
    {"linear, activation", linear_activation, 1},
    {"linear + residual", linear_residual, 1},
    {"linear, geglu", linear_geglu, 1},
    {"concat, norm, conv + shortcut", concat_resnet, 1},
    {"group norm", group_norm, 1},
    {"time, group norm", group_norm_time, 1},
    {"conv, time, group norm", conv_time_norm, 2},
    {"products, concat, group norm", products_concat_norm, 2},
    {"layer norm", layer_norm, 1},
    {"self-attention", self_attention, 1},
    {"cross-attention", cross_attention, 1},
    {"gri attention", gri_attention, 3},
    {"gri attention, edges", gri_edges, 3},
    {"conv with experts", experts_conv, 2},
    {"conv with experts + residual, norm", experts_conv_full, 2},
    {"shortcut with experts, norm", experts_shortcut, 2},
    {"time with experts, norm", experts_time, 2},
    {"resnet with experts, norm", experts_resnet, 2},
    {"activation", activation, 1},
    {"element-wise", elementwise, 1},
    {"planes", planes, 1},
    {"embedding", embedding, 1},
    {"timestep", timestep, 1},
};
const int recipe_count = sizeof recipes / sizeof *recipes;

struct trial trial_make(const struct recipe *recipe, uint64_t seed, int *ret_length) {
    uint64_t random = seed;
    struct trial trial = {.height = 1, .width = 1, .seed = seed};
    struct asdm_error err;
    trial.rows = test_random_int(&random, 1, 3);
    trial.slots = test_random_int(&random, 1, 4);
    trial.fill = (enum fill)(test_random(&random) % FILL_COUNT);
    assert_int_equal(asdm_program_create(recipe->name, &trial.program, &err), ASDM_OK);
    int x = recipe->build(&trial, &random, ret_length);
    trial.output = asdm_build_export(trial.program, x, test_random(&random) % 2);
    asdm_build_output(trial.program, trial.output);
    if (asdm_program_finish(trial.program, &err) != ASDM_OK)
        fail_msg("%s", err.message);
    return trial;
}
