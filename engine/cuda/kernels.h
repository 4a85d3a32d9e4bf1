/* The device's kernels, as the rest of the back end launches them. Each structure holds an operation's sizes and the
 * device addresses of one launch; values are dense [rows][tokens][channels] (NHWC), 16-byte aligned. A launch only
 * enqueues: it allocates nothing, waits for nothing, and may be captured into a graph. Its status is the launch's own
 * (cudaSuccess, or what the driver refused).
 *
 * Batch invariance: a row's bits depend on that row alone. The order in which a sum is taken is a function of the
 * operation's sizes without `rows`; which tile or cluster computes it may depend on them. (A product of which it is not
 * asked, `batch_dependent`, may sum in another order for another number of rows.) */
#ifndef ASDM_CUDA_KERNELS_H
#define ASDM_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/moments.h"
#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

enum cuda_dtype { CUDA_F16, CUDA_BF16, CUDA_F32 };

struct cuda_product_choice; /* product_sm90.h */

/* The shares of experts: [rows, or mapped][experts] in the back end's type. Read divided by their sum. */
struct cuda_shares {
    const void *values;
    const int32_t *map; /* device; NULL: the same row */
    int rows, experts;  /* experts 0: there are none */
};

/* Experts of a conditional convolution (ops/op.h): their packed weights and biases (NULL: none). */
struct cuda_experts {
    struct cuda_shares shares;
    const void *weight[ASDM_EXPERTS_MAX];
    const float *bias[ASDM_EXPERTS_MAX];
};

/* A convolution, or a linear (kernel 1, height 1, width the tokens; `channels[1]` of a second source follow those of
 * the first). y = post(activation(sum_k x w + bias) + residual); with geglu: a * gelu(gate) in place of the activation.
 * Sums in float32. Bias float32. */
struct cuda_product {
    enum cuda_dtype dtype;
    bool tf32;            /* float32 alone: products of numbers rounded to 10 bits of mantissa, on tensor cores */
    bool batch_dependent; /* product_sm90.cu: the order of the sum may depend on `rows` */
    const struct cuda_product_choice *choice;             /* product_sm90.cu: tiles; NULL: the built-in choice */
    int rows, in_height, in_width, out_height, out_width; /* of x as stored; with upsample, out is up to twice in */
    int channels[2];                                      /* of x[0] and x[1] (0: no second source) */
    int out_channels;                                     /* of y: with geglu half of the weight's rows */
    int kernel, stride, pad_before, pad_after;
    bool upsample; /* x doubled by nearest neighbour first (kernel 3, stride 1, pads 1) */
    bool geglu;
    enum asdm_activation activation;
    const void *x[2], *weight; /* weight: as cuda_product_pack lays it out */
    const float *bias;         /* in the packed rows' order; or NULL */
    const void *residual;      /* like y; or NULL; may be y itself */
    /* product_sm90.cu alone, where it has a place for them (cuda_product_sm90_adds_rows, cuda_product_sm90_measures):
     */
    const void *row_bias;             /* [rows or mapped][out_channels], added to each pixel like the bias; or NULL */
    const int32_t *row_bias_map;      /* device; NULL: the same row */
    struct asdm_moments_layout parts; /* of y, whose moments are kept; granule 0: they are not */
    struct asdm_moments *moments;
    /* Where rows have kernels of their own (stride 1, no upsampling, no geglu), either of two in place of the weight
     * and bias: `slot_count` of both lie one after another, and device slots[rows + 1] says which is a row's and how
     * many different ones there are; or the experts, whose products the kernel itself weighs (cuda_product_sm90_mixes).
     */
    const int32_t *slots;
    int slot_count;
    struct cuda_experts experts;
    void *y;
    void *scratch; /* cuda_product_scratch bytes */
};

/* The packed weight, in the back end's type: [out rows][kernel * kernel][channels], channels innermost. With geglu the
 * rows alternate in groups of 8: 8 of the values, then the 8 gates of the same outputs. */
static inline size_t cuda_product_rows(const struct cuda_product *p) {
    return (size_t)p->out_channels * (p->geglu ? 2 : 1);
}
static inline size_t cuda_product_depth(const struct cuda_product *p) {
    return (size_t)p->kernel * (size_t)p->kernel * (size_t)(p->channels[0] + p->channels[1]);
}

/* ---- product_sm90.cu: wgmma with TMA (sm_90a; fp16 and bf16) */
bool cuda_product_sm90_fits(const struct cuda_product *p);
cudaError_t cuda_product_sm90(const struct cuda_product *p, cudaStream_t stream);
/* For an upsampling convolution the four 2x2 kernels that replace the 3x3 one follow it in memory, each
 * [out rows][2 * 2][channels], by (row phase, column phase): the packed weight of 25/9 the bytes. */
bool cuda_product_sm90_folds(const struct cuda_product *p);
/* Whether experts are better multiplied one by one than mixed first: small maps, whose time is the weights' way. A
 * function of the operation without `rows`. */
bool cuda_product_sm90_mixes(const struct cuda_product *p);

/* Whether rows may have biases of their own, and whether the moments of y's parts can be found on the way: functions of
 * the operation without `rows`. */
bool cuda_product_sm90_adds_rows(const struct cuda_product *p);
bool cuda_product_sm90_measures(const struct cuda_product *p);

/* ---- product.cu: mma.sync for fp16, bf16 and tf32, plain float32 otherwise: any shape, any architecture from sm_80 */
size_t cuda_product_scratch(const struct cuda_product *p);
cudaError_t cuda_product(const struct cuda_product *p, cudaStream_t stream);

/* Global-regional attention (ops/op.h): a map of tokens cut into windows and into cells. window 0: plain attention. */
struct cuda_regions {
    int height, width, window, pool; /* in tokens */
};

/* Softmax(q k' / sqrt(head_dim)) v per row and head. q, k and v may be channel ranges of wider values. */
struct cuda_attention {
    enum cuda_dtype dtype;
    int rows, heads, head_dim, tokens, keys; /* tokens: queries per row */
    bool causal;                             /* token i sees keys 0 .. i */
    const void *q, *k, *v;                   /* first channel of head 0, row 0 */
    int q_stride, k_stride, v_stride;        /* elements from token to token */
    const int32_t *kv_map;                   /* device: row -> row of k and v; NULL: the same row */
    struct cuda_regions regions;             /* with a window: keys are tokens, no kv_map, not causal */
    const void *cells; /* with a window: mean keys, then mean values, [rows][cells][2][heads * head_dim] */
    void *y;           /* [rows][tokens][heads * head_dim] */
};

/* attention_sm90.cu */
bool cuda_attention_sm90_fits(const struct cuda_attention *a);
cudaError_t cuda_attention_sm90(const struct cuda_attention *a, cudaStream_t stream);
/* attention.cu: head_dim 1 to 512 (fp32: plain), any number of tokens and keys */
cudaError_t cuda_attention(const struct cuda_attention *a, cudaStream_t stream);
/* cells.cu: the mean keys and values of all cells, summed in float32, to `cells` (cuda_cells_bytes). */
size_t cuda_cells_bytes(const struct cuda_attention *a);
cudaError_t cuda_cells(const struct cuda_attention *a, void *cells, cudaStream_t stream);

/* Group norm (x and x2's channels counted on) and layer norm (over the channels of each token; groups 0), then gain,
 * bias and activation. Statistics in float32, two-pass or shifted: exact for values with a large mean. Gain and bias
 * float32. A group norm takes no statistics where the moments of its sources' parts are known. */
struct cuda_norm {
    enum cuda_dtype dtype;
    int rows, tokens, channels[2], groups;
    float eps;
    enum asdm_activation activation;
    const void *x[2];
    struct asdm_moments_layout parts[2]; /* of x; granule 0: not known */
    const struct asdm_moments *moments[2];
    const float *gain, *bias;
    void *y;
    void *scratch; /* group norm: cuda_group_norm_scratch bytes */
};
size_t cuda_group_norm_scratch(const struct cuda_norm *n);
cudaError_t cuda_group_norm(const struct cuda_norm *n, cudaStream_t stream); /* norm.cu */
cudaError_t cuda_layer_norm(const struct cuda_norm *n, cudaStream_t stream); /* layer_norm.cu */
/* moments.cu: of x's parts */
cudaError_t cuda_moments(enum cuda_dtype dtype, const void *x, int rows, int channels,
                         struct asdm_moments_layout layout, struct asdm_moments *ret, cudaStream_t stream);

/* ---- mixture.cu: conditional convolution (ops/op.h) */

enum { CUDA_MIXTURE_ROWS_MAX = 64 };

/* Kernels that were mixed before, by their shares; zeroed at first. */
enum { CUDA_CACHE_SLOTS_MAX = 32 };
struct cuda_mixture_cache {
    float keys[CUDA_CACHE_SLOTS_MAX][ASDM_EXPERTS_MAX];
    uint32_t next, done; /* draws the slot that goes next; blocks of a launch that are done */
};

/* Kernels of all rows as weighted sums of the experts' kernels. Rows with equal shares have one. */
struct cuda_mixture {
    enum cuda_dtype dtype;
    struct cuda_experts experts;
    size_t weight_count, bias_count;  /* of one kernel; bias_count 0: none */
    void *weight;                     /* [slot_count][weight_count] */
    float *bias;                      /* [slot_count][bias_count] */
    int slot_count;                   /* at least the rows */
    int32_t *slots;                   /* [rows + 1], as cuda_product wants them */
    struct cuda_mixture_cache *cache; /* device; what `weight` and `bias` hold from launch to launch; NULL: nothing */
};
cudaError_t cuda_mix(const struct cuda_mixture *m, cudaStream_t stream);
/* y[row] = the sum of the experts' vectors x[e] by the row's shares; maps as of the shares. */
cudaError_t cuda_mix_vectors(enum cuda_dtype dtype, const struct cuda_shares *shares,
                             const void *const x[ASDM_EXPERTS_MAX], const int32_t *const maps[ASDM_EXPERTS_MAX],
                             void *y, int channels, cudaStream_t stream);
/* y[row][first + c] = the mean of x[row][token][c] over the tokens; rows of y have `y_channels`. */
cudaError_t cuda_global_pool(enum cuda_dtype dtype, const void *x, void *y, int rows, int tokens, int channels,
                             int first, int y_channels, cudaStream_t stream);
/* y[row] = softmax(scale * (weight (x[0] then x[1]) + bias)); weight [experts][channels], float32. */
struct cuda_routing {
    enum cuda_dtype dtype;
    int rows, channels[2], experts;
    const void *x[2];
    const int32_t *maps[2]; /* device; NULL: the same row */
    const float *weight, *bias;
    float scale;
    void *y;
};
cudaError_t cuda_routing(const struct cuda_routing *r, cudaStream_t stream);

/* ---- simple.cu: one pass each. `count` in elements. */
cudaError_t cuda_import(enum cuda_dtype dtype, const float *x, void *y, int rows, int tokens, int channels, bool nchw,
                        cudaStream_t stream);
cudaError_t cuda_export(enum cuda_dtype dtype, const void *x, float *y, int rows, int tokens, int channels, bool nchw,
                        cudaStream_t stream);
cudaError_t cuda_embedding(enum cuda_dtype dtype, const int32_t *ids, const void *token_table,
                           const void *position_table, void *y, int rows, int tokens, int channels,
                           cudaStream_t stream);
cudaError_t cuda_timestep_embedding(enum cuda_dtype dtype, const float *t, void *y, int rows, int channels,
                                    bool flip_sin_to_cos, float freq_shift, cudaStream_t stream);
cudaError_t cuda_activation(enum cuda_dtype dtype, enum asdm_activation activation, const void *x, void *y,
                            size_t count, cudaStream_t stream);
/* x [tokens][2 * channels] -> y [tokens][channels] */
cudaError_t cuda_geglu(enum cuda_dtype dtype, const void *x, void *y, size_t tokens, int channels, cudaStream_t stream);
cudaError_t cuda_add(enum cuda_dtype dtype, const void *x, const void *residual, void *y, size_t count,
                     cudaStream_t stream);
/* y[row][token][c] = x + bias[map ? map[row] : row][c] */
cudaError_t cuda_add_row_bias(enum cuda_dtype dtype, const void *x, const void *bias, const int32_t *map, void *y,
                              int rows, int tokens, int channels, cudaStream_t stream);
cudaError_t cuda_concat(enum cuda_dtype dtype, const void *x, const void *x2, void *y, size_t tokens, int channels,
                        int channels2, cudaStream_t stream);
/* nearest: y(i, j) = x(i / 2, j / 2); out sizes up to twice the input's */
cudaError_t cuda_upsample(enum cuda_dtype dtype, const void *x, void *y, int rows, int height, int width,
                          int out_height, int out_width, int channels, cudaStream_t stream);

/* ---- sampler.cu: the ends of a step (sampler/step.h), planes of float32 with `count` numbers per row; `step_rows` on
 * the device, with addresses that the device reaches. `cells`: numbers of one plane. */
struct asdm_step_row;
cudaError_t cuda_sampler_input(const struct asdm_step_row *step_rows, float *y, int rows, size_t count,
                               cudaStream_t stream);
cudaError_t cuda_guidance(const struct asdm_step_row *step_rows, const float *x, float *y, int rows, size_t count,
                          cudaStream_t stream);
cudaError_t cuda_sampler_update(const struct asdm_step_row *step_rows, const float *x, int rows, size_t count,
                                size_t cells, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
