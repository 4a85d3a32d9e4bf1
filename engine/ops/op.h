/* Operations: what a model is made of. A value is a batch of rows; each row is a grid of tokens with `channels` numbers
 * each, channels innermost, so a feature map (NHWC), a token sequence (1 x n) and a vector (1 x 1) are one thing and
 * flattening a map into a sequence costs nothing. */
#ifndef ASDM_OP_H
#define ASDM_OP_H

#include <stdbool.h>
#include <stdint.h>

/* How often a value changes. It follows from the inputs: an operation that reads two rates gives the faster one, and
 * prompt with schedule gives step. A value slower than its reader is read through a map from the reader's rows to the
 * value's own. */
enum asdm_rate {
    ASDM_RATE_PROMPT,   /* once per prompt: keys and values of every cross-attention */
    ASDM_RATE_SCHEDULE, /* once per timestep of a schedule: time embeddings and their projections */
    ASDM_RATE_STEP,     /* every step (every call, in programs that have no steps) */
    ASDM_RATE_COUNT
};

/* A size that may depend on the picture: constant, or ceil(H / 2^level), ceil(W / 2^level) where H, W are the latents'
 * height and width; negative levels multiply (pixels are level -3). */
enum asdm_dim_kind { ASDM_DIM_CONST, ASDM_DIM_HEIGHT, ASDM_DIM_WIDTH };
struct asdm_dim {
    enum asdm_dim_kind kind;
    int n; /* the constant, or the level */
};

enum asdm_op_kind {
    ASDM_OP_IMPORT,             /* float32 -> the back end's type; see nchw */
    ASDM_OP_EXPORT,             /* the back end's type -> float32 */
    ASDM_OP_EMBEDDING,          /* int32 ids -> row of weight[0] plus row of weight[1] by position */
    ASDM_OP_TIMESTEP_EMBEDDING, /* float32 t -> sinusoids (Vaswani et al. 2017; flip_sin_to_cos, freq_shift as in DDPM)
                                 */
    ASDM_OP_CONV2D,
    ASDM_OP_LINEAR, /* also every 1x1 convolution */
    ASDM_OP_GROUP_NORM,
    ASDM_OP_LAYER_NORM,
    ASDM_OP_ATTENTION,
    ASDM_OP_ACTIVATION,
    ASDM_OP_GEGLU,       /* a * gelu(b), a and b being the halves of the channels */
    ASDM_OP_ADD,         /* x + residual, or x + row_bias (one vector per row, added to every token) */
    ASDM_OP_CONCAT,      /* channels of x, then channels of x2 */
    ASDM_OP_UPSAMPLE,    /* nearest: output (i, j) = input (i / 2, j / 2) */
    ASDM_OP_GLOBAL_POOL, /* the mean over all tokens: one token */
    ASDM_OP_ROUTING,     /* one token: the shares of experts, softmax(scale * (linear of x, then x2)) */
    ASDM_OP_MIX,         /* the sum of the experts' vectors (inputs 0, 1, ...) by their shares */
    /* The ends of a step, see below. */
    ASDM_OP_SAMPLER_INPUT,  /* a picture's latents, scaled for the model */
    ASDM_OP_GUIDANCE,       /* predictions -> the guided ones */
    ASDM_OP_SAMPLER_UPDATE, /* guided predictions -> the picture's latents and history after the row */
    ASDM_OP_KIND_COUNT
};

enum asdm_activation {
    ASDM_ACT_NONE,
    ASDM_ACT_SILU,
    ASDM_ACT_GELU /* erf */,
    ASDM_ACT_GELU_TANH,
    ASDM_ACT_QUICK_GELU,
    ASDM_ACT_RELU
};

/* Places of the operands in `inputs`. */
enum {
    ASDM_SRC_X = 0,
    ASDM_SRC_X2 = 1,       /* second source: its channels follow those of x (concat, linear, group_norm, global_pool,
                            * routing) */
    ASDM_SRC_STEP = 1,     /* guidance, sampler_update: the rows' struct asdm_step_row */
    ASDM_SRC_RESIDUAL = 2, /* added to the result (conv2d, linear, add) */
    ASDM_SRC_ROW_BIAS = 3, /* a vector per row, added to x (group_norm: before the statistics; add), to the result of a
                            * conv2d before the residual */
    ASDM_SRC_Q = 0,
    ASDM_SRC_K = 1,
    ASDM_SRC_V = 2,       /* attention */
    ASDM_SRC_ROUTING = 4, /* conv2d, linear and mix with experts: their shares, a vector per row */
    ASDM_SRC_COUNT = 5
};

enum { ASDM_PARTS_MAX = 4, ASDM_EXPERTS_MAX = 4, ASDM_NONE = -1 };

/* One operation. Fields that a kind does not use are zero (value and weight numbers: ASDM_NONE). The fused forms
 * (activation, residual, x2, row_bias, upsample, geglu, several parts) are written by the rewrites, never by a model.
 */
struct asdm_op {
    enum asdm_op_kind kind;
    int inputs[ASDM_SRC_COUNT]; /* values */
    int output;                 /* value */
    /* conv2d [out, in, k, k]; linear [out, in], `parts` of them stacked along the output; norms: gain, and bias;
     * embedding: weight[0] tokens, weight[1] positions */
    int weight[ASDM_PARTS_MAX], bias[ASDM_PARTS_MAX];
    int parts;
    int experts; /* conv2d, linear (of one part): 2 or more where the kernel is mixed, see below; mix: inputs */
    enum asdm_activation activation;           /* on the result before the residual (linear, group_norm, activation) */
    int kernel, stride, pad_before, pad_after; /* conv2d; padding at top and left, at bottom and right */
    bool upsample;                             /* conv2d: x is upsampled first */
    bool geglu;                                /* linear: GEGLU on the result */
    int groups;                                /* group_norm */
    float eps;                                 /* norms, inside the square root */
    float scale;                               /* routing: one over the temperature */
    int heads, head_dim;                       /* attention; softmax(q k' / sqrt(head_dim)) v */
    bool causal;                               /* attention: token i sees tokens 0 .. i */
    int window, pool;                          /* attention: global-regional (GRI) where window > 0, see below */
    int channel[3];                            /* attention: first channel of q, k, v in their values */
    bool flip_sin_to_cos;                      /* timestep_embedding: cosines first */
    float freq_shift;
    bool nchw; /* import, export: the float32 rows are channel planes; otherwise channels innermost */
};

/* Conditional convolution (CondConv, Yang et al. 2019, with a softmax): weight[e] and bias[e] are the kernels and
 * biases of `experts` experts, all of one shape, and operand ASDM_SRC_ROUTING has their shares for each row, at any
 * rate. A row's kernel is sum_e share_e weight_e, summed in float32 and rounded once to the type that weights are kept
 * in, its bias sum_e share_e bias_e in float32; then it is an ordinary convolution or product. Shares are stored
 * rounded: who reads them divides them by their sum. A share of exactly 0 leaves its expert out, so that with one share
 * of 1 the result is that expert's, bit by bit. Rows with equal shares have equal kernels. */

/* Global-regional attention (A-SDM): q, k and v are one map of height x width tokens. The map is cut into windows of
 * window x window tokens and into cells of pool x pool, both from the top left, the last ones of a row or column as
 * small as the map leaves them; `pool` divides `window`, so that each cell lies in one window. A query sees, in one
 * softmax, the tokens of its own window in row-major order, and then every cell that lies in another window, in
 * row-major order: a cell's key and value are the means of its tokens' (n of them), and log(n) is added to its score. A
 * window that covers the map is plain attention, bit by bit. */

/* The ends of a step (sampler/step.h). Latents, history and noise are no values of the program: they stay in memory of
 * the picture's own from one step to the next, and a struct asdm_step_row beside each row of the call says where, and
 * what is to be done, so that one call serves pictures of different samplers at different steps. sampler_input reads
 * these rows (x) and gives planes of float32; the model's import and export lie between it and guidance, which gives
 * planes of float32 as well. A guided picture's two rows are neighbours in one call, and guidance leaves the plain
 * one's result unwritten. sampler_update gives a value without channels: what it does is done to the pictures. Which
 * rows are beside a picture's own changes nothing in its bits. */

const char *asdm_op_kind_name(enum asdm_op_kind kind);

#endif
