/* A model as a program: values, operations on them in order, and references to weights by name. Written once by model/,
 * executed by every back end. Nothing here knows a data type, a back end or a number of rows. */
#ifndef ASDM_PROGRAM_H
#define ASDM_PROGRAM_H

#include <stddef.h>

#include <asdm/status.h>
#include "base/arena.h"
#include "ops/op.h"
#include "tensor/tensor.h"

struct asdm_value {
    struct asdm_dim height, width;
    int channels;
    enum asdm_rate rate;
    int producer; /* operation, or ASDM_NONE for an input */
    int common;   /* channels that are of one group in every norm which reads the moments of its parts (ops/moments.h);
                   * 0: moments are not kept */
    bool output;  /* read by the caller after a run */
};

/* A tensor of the checkpoint, with the shape that the program needs. */
struct asdm_weight {
    const char *name;
    int rank;
    int64_t dims[4];
};

struct asdm_program {
    const char *name; /* "unet", "text_encoder", "vae_decoder", "vae_encoder" */
    struct asdm_value *values;
    struct asdm_op *ops;
    struct asdm_weight *weights;
    int value_count, op_count, weight_count;
    int value_room, op_room, weight_room;
    enum asdm_status status; /* the builder's first failure; later calls do nothing */
    struct asdm_error error;
    struct asdm_arena arena;
};

/* Elements of a weight. */
size_t asdm_weight_count(const struct asdm_weight *weight);

enum asdm_status asdm_program_create(const char *name, struct asdm_program **ret, struct asdm_error *err);
void asdm_program_destroy(struct asdm_program **program);
/* To be called when all is emitted: the first failure of the builder, if any. */
enum asdm_status asdm_program_finish(struct asdm_program *program, struct asdm_error *err);

/* ---- building. Each call emits one operation and returns its result's value; after a failure, value 0. Weights are
 * found by `name` + ".weight" and ".bias". */

struct asdm_dim asdm_dim_const(int n);
struct asdm_dim asdm_dim_height(int level);
struct asdm_dim asdm_dim_width(int level);

int asdm_build_input(struct asdm_program *p, struct asdm_dim height, struct asdm_dim width, int channels,
                     enum asdm_rate rate);
void asdm_build_output(struct asdm_program *p, int x);

int asdm_build_import(struct asdm_program *p, int x, bool nchw);
int asdm_build_export(struct asdm_program *p, int x, bool nchw);
int asdm_build_embedding(struct asdm_program *p, int ids, const char *tokens, int64_t vocabulary, const char *positions,
                         int64_t position_count, int channels);
int asdm_build_timestep_embedding(struct asdm_program *p, int t, int channels, bool flip_sin_to_cos, float freq_shift);

/* Square kernels. Stride 1 keeps the size, stride 2 halves it (rounding up); both paddings are given. */
int asdm_build_conv2d(struct asdm_program *p, int x, const char *name, int out_channels, int kernel, int stride,
                      int pad_before, int pad_after);
int asdm_build_linear(struct asdm_program *p, int x, const char *name, int out_channels, bool bias);
/* A convolution with a 1x1 kernel: a linear whose weight is stored as [out, in, 1, 1]. */
int asdm_build_pointwise(struct asdm_program *p, int x, const char *name, int out_channels);
int asdm_build_group_norm(struct asdm_program *p, int x, const char *name, int groups, float eps);
int asdm_build_layer_norm(struct asdm_program *p, int x, const char *name, float eps);
int asdm_build_attention(struct asdm_program *p, int q, int k, int v, int heads, bool causal);
/* Global-regional attention of a map to itself (op.h); `pool` divides `window`. */
int asdm_build_gri_attention(struct asdm_program *p, int q, int k, int v, int heads, int window, int pool);
int asdm_build_activation(struct asdm_program *p, int x, enum asdm_activation activation);
int asdm_build_geglu(struct asdm_program *p, int x);
int asdm_build_add(struct asdm_program *p, int x, int residual);
int asdm_build_add_row_bias(struct asdm_program *p, int x, int bias); /* bias: 1 x 1 tokens */
int asdm_build_concat(struct asdm_program *p, int x, int x2);
int asdm_build_upsample(struct asdm_program *p, int x); /* one level down: sizes as the level gives them */
int asdm_build_global_pool(struct asdm_program *p, int x);
/* Shares of `experts` experts from vectors x and x2 (or ASDM_NONE), whose channels follow those of x; weights under
 * `name`: [experts, channels], and a bias. */
int asdm_build_routing(struct asdm_program *p, int x, int x2, const char *name, int experts, float temperature);
/* Conditional forms (op.h): `names` are the experts', `routing` their shares. Convolutions have stride 1 and keep the
 * size. */
int asdm_build_mixed_conv2d(struct asdm_program *p, int x, int routing, const char *const *names, int experts,
                            int out_channels, int kernel);
int asdm_build_mixed_pointwise(struct asdm_program *p, int x, int routing, const char *const *names, int experts,
                               int out_channels);
int asdm_build_mix(struct asdm_program *p, const int *vectors, int routing, int experts);

/* Puts the ends of a step around a finished model (op.h). asdm_build_sampler_input turns `latents`, so far an input,
 * into the scaled latents of each row's picture, and returns the input that takes its place: one struct asdm_step_row
 * per row. asdm_build_sampler puts guidance and the sampler's update behind `prediction`, which is an output no longer.
 */
int asdm_build_sampler_input(struct asdm_program *p, int latents);
void asdm_build_sampler(struct asdm_program *p, int prediction, int step_rows);

/* ---- reading */

/* Number of operations that read `value`. */
int asdm_program_uses(const struct asdm_program *program, int value);
/* The rate at which an operation runs: its output's. */
enum asdm_rate asdm_program_op_rate(const struct asdm_program *program, const struct asdm_op *op);
/* Whether a value's elements have 4 bytes on every back end: inputs, exports and what lies beside the sampler. */
bool asdm_program_is_wide(const struct asdm_program *program, int value);
/* A size for latents of height x width. */
int64_t asdm_dim_resolve(struct asdm_dim dim, int height, int width);

/* Whether an attention on a map of height x width tokens is global-regional and not plain, which it is where its window
 * covers the map. */
bool asdm_op_is_gri(const struct asdm_op *op, int64_t height, int64_t width);

/* Multiply-accumulates of an operation for one row and latents of height x width: products, convolutions and both
 * matrix products of attention; the basis of every GMAC figure in this project. A query of global-regional attention
 * has its window's tokens and all cells for keys, those that are masked counted; a conditional form has the mixing of
 * its kernels beside the rest, once per row. */
double asdm_program_op_macs(const struct asdm_program *program, const struct asdm_op *op, int height, int width);
/* What is left of an operation's at each step after the exact rewrites: nothing where its rate is slower, and 4/9 of a
 * 3x3 convolution that reads an upsampled map of twice the size, which is four 2x2 ones on the small map. */
double asdm_program_op_step_macs(const struct asdm_program *program, const struct asdm_op *op, int height, int width);

#endif
