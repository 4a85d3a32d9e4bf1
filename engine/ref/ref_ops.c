#include "ref/ref_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "sampler/step.h"

/* ---- operands */

static int64_t tokens_of(struct asdm_extent extent) {
    return extent.height * extent.width;
}

static int64_t row_size(struct asdm_extent extent) {
    return tokens_of(extent) * extent.channels;
}

/* Row `row` of operand `place`; NULL when the operation has none there. */
static const float *source(const struct ref_op *op, const struct asdm_run *run, int place, int row) {
    int value = op->site.op->inputs[place];
    if (value == ASDM_NONE)
        return NULL;
    struct asdm_extent extent = op->site.in[place];
    int64_t index = extent.mapped ? run->row_maps[extent.rate][row] : row;
    return (const float *)run->values[value] + index * row_size(extent);
}

static float *result(const struct ref_op *op, const struct asdm_run *run, int row) {
    return (float *)run->values[op->site.op->output] + row * row_size(op->site.out);
}

/* Sources that follow each other along the channels: x, then x2. */
struct joined {
    const float *x, *x2;
    int64_t channels, channels2;
};

static struct joined join(const struct ref_op *op, const struct asdm_run *run, int row) {
    return (struct joined){source(op, run, ASDM_SRC_X, row), source(op, run, ASDM_SRC_X2, row),
                           op->site.in[ASDM_SRC_X].channels, op->site.in[ASDM_SRC_X2].channels};
}

static float joined_at(const struct joined *j, int64_t token, int64_t channel) {
    return channel < j->channels ? j->x[token * j->channels + channel]
                                 : j->x2[token * j->channels2 + channel - j->channels];
}

/* ---- activations */

static double gelu(double x) {
    return 0.5 * x * erfc(-x * 0.70710678118654752440); /* 1 + erf would cancel in the tail */
}

static double activate(enum asdm_activation activation, double x) {
    switch (activation) {
    case ASDM_ACT_SILU:
        return x / (1 + exp(-x));
    case ASDM_ACT_GELU:
        return gelu(x);
    case ASDM_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case ASDM_ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case ASDM_ACT_RELU:
        return x > 0 ? x : 0;
    case ASDM_ACT_NONE:
        break;
    }
    return x;
}

/* ---- the caller's side */

static void run_import(const struct ref_op *op, const struct asdm_run *run) {
    int64_t tokens = tokens_of(op->site.out), channels = op->site.out.channels;
    for (int row = 0; row < op->site.rows; row++)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t c = 0; c < channels; c++)
                result(op, run, row)[t * channels + c] =
                    source(op, run, ASDM_SRC_X, row)[op->site.op->nchw ? c * tokens + t : t * channels + c];
}

static void run_export(const struct ref_op *op, const struct asdm_run *run) {
    int64_t tokens = tokens_of(op->site.out), channels = op->site.out.channels;
    for (int row = 0; row < op->site.rows; row++)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t c = 0; c < channels; c++)
                result(op, run, row)[op->site.op->nchw ? c * tokens + t : t * channels + c] =
                    source(op, run, ASDM_SRC_X, row)[t * channels + c];
}

static void run_embedding(const struct ref_op *op, const struct asdm_run *run) {
    int64_t tokens = tokens_of(op->site.out), channels = op->site.out.channels;
    for (int row = 0; row < op->site.rows; row++) {
        const int32_t *ids = (const int32_t *)source(op, run, ASDM_SRC_X, row);
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t c = 0; c < channels; c++)
                result(op, run, row)[t * channels + c] =
                    op->weight[0][ids[t] * channels + c] + op->weight[1][t * channels + c];
    }
}

static void run_timestep_embedding(const struct ref_op *op, const struct asdm_run *run) {
    int64_t half = op->site.out.channels / 2;
    for (int row = 0; row < op->site.rows; row++) {
        double t = *source(op, run, ASDM_SRC_X, row);
        float *dst = result(op, run, row);
        for (int64_t i = 0; i < half; i++) {
            double angle = t * exp(-log(10000.0) * (double)i / ((double)half - op->site.op->freq_shift));
            dst[op->site.op->flip_sin_to_cos ? half + i : i] = (float)sin(angle);
            dst[op->site.op->flip_sin_to_cos ? i : half + i] = (float)cos(angle);
        }
    }
}

/* ---- products */

/* sum[o] += x * w[o] */
static void accumulate(double *sum, double x, const float *w, int64_t count) {
    for (int64_t o = 0; o < count; o++)
        sum[o] += x * w[o];
}

static void start_sum(double *sum, const float *bias, int64_t count) {
    for (int64_t o = 0; o < count; o++)
        sum[o] = bias ? bias[o] : 0;
}

/* One output pixel: every tap that lies inside the (possibly upsampled) map. */
static void conv_pixel(const struct ref_op *op, const float *x, int64_t y0, int64_t x0, double *sum) {
    const struct asdm_op *o = op->site.op;
    struct asdm_extent in = op->site.in[ASDM_SRC_X], out = op->site.out;
    int64_t height = o->upsample ? out.height : in.height, width = o->upsample ? out.width : in.width;
    for (int ky = 0; ky < o->kernel; ky++)
        for (int kx = 0; kx < o->kernel; kx++) {
            int64_t yy = y0 + ky, xx = x0 + kx;
            if (yy < 0 || yy >= height || xx < 0 || xx >= width)
                continue;
            int64_t token = o->upsample ? (yy / 2) * in.width + xx / 2 : yy * in.width + xx;
            const float *w = op->weight[0] + (ky * o->kernel + kx) * in.channels * out.channels;
            for (int64_t c = 0; c < in.channels; c++)
                accumulate(sum, x[token * in.channels + c], w + c * out.channels, out.channels);
        }
}

/* The shares of a row's experts. */
static void read_shares(const struct ref_op *op, const struct asdm_run *run, int row, double shares[ASDM_EXPERTS_MAX]) {
    const float *stored = source(op, run, ASDM_SRC_ROUTING, row);
    double sum = 0;
    for (int e = 0; e < op->site.op->experts; e++)
        sum += stored[e];
    for (int e = 0; e < op->site.op->experts; e++)
        shares[e] = stored[e] / sum;
}

/* Numbers of the experts by their shares. */
static void mix(const float *const *from, const double *shares, int experts, size_t count, float *dst) {
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (int e = 0; e < experts; e++)
            sum += shares[e] != 0 ? shares[e] * from[e][i] : 0;
        dst[i] = (float)sum;
    }
}

typedef void run_rows(const struct ref_op *op, const struct asdm_run *run, int first, int count);

/* All rows, or with experts row by row, each with its own kernel as the only one. */
static void run_mixed(const struct ref_op *op, const struct asdm_run *run, run_rows *run_some) {
    const struct asdm_op *o = op->site.op;
    if (!o->experts) {
        run_some(op, run, 0, op->site.rows);
        return;
    }
    size_t count = asdm_weight_count(&op->site.program->weights[o->weight[0]]), outputs = (size_t)op->site.out.channels;
    float *weight = malloc(count * sizeof *weight), *bias = malloc(outputs * sizeof *bias);
    ASDM_ASSERT(weight && bias);
    struct ref_op mixed = *op;
    mixed.weight[0] = weight;
    mixed.bias[0] = bias;
    for (int row = 0; row < op->site.rows; row++) {
        double shares[ASDM_EXPERTS_MAX];
        read_shares(op, run, row, shares);
        mix(op->weight, shares, o->experts, count, weight);
        mix(op->bias, shares, o->experts, outputs, bias);
        run_some(&mixed, run, row, 1);
    }
    free(weight);
    free(bias);
}

static void conv2d_rows(const struct ref_op *op, const struct asdm_run *run, int first, int rows) {
    const struct asdm_op *o = op->site.op;
    struct asdm_extent out = op->site.out;
#pragma omp parallel for collapse(2)
    for (int row = first; row < first + rows; row++)
        for (int64_t y = 0; y < out.height; y++) {
            double *sum = malloc((size_t)out.channels * sizeof *sum);
            ASDM_ASSERT(sum);
            const float *residual = source(op, run, ASDM_SRC_RESIDUAL, row);
            const float *row_bias = source(op, run, ASDM_SRC_ROW_BIAS, row);
            for (int64_t x = 0; x < out.width; x++) {
                int64_t at = (y * out.width + x) * out.channels;
                start_sum(sum, op->bias[0], out.channels);
                conv_pixel(op, source(op, run, ASDM_SRC_X, row), y * o->stride - o->pad_before,
                           x * o->stride - o->pad_before, sum);
                for (int64_t c = 0; c < out.channels; c++)
                    result(op, run, row)[at + c] =
                        (float)(sum[c] + (row_bias ? row_bias[c] : 0) + (residual ? residual[at + c] : 0));
            }
            free(sum);
        }
}

static void run_conv2d(const struct ref_op *op, const struct asdm_run *run) {
    run_mixed(op, run, conv2d_rows);
}

/* All parts' outputs of one token, before activation. */
static void linear_token(const struct ref_op *op, const struct joined *x, int64_t token, double *sum) {
    const struct asdm_op *o = op->site.op;
    for (int part = 0; part < o->parts; part++) {
        int64_t outputs = op->site.program->weights[o->weight[part]].dims[0];
        start_sum(sum, op->bias[part], outputs);
        for (int64_t c = 0; c < x->channels + x->channels2; c++)
            accumulate(sum, joined_at(x, token, c), op->weight[part] + c * outputs, outputs);
        sum += outputs;
    }
}

static void linear_rows(const struct ref_op *op, const struct asdm_run *run, int first, int rows) {
    const struct asdm_op *o = op->site.op;
    int64_t channels = op->site.out.channels, tokens = tokens_of(op->site.out);
#pragma omp parallel for collapse(2)
    for (int row = first; row < first + rows; row++)
        for (int64_t t = 0; t < tokens; t++) {
            double *sum = malloc((size_t)(o->geglu ? 2 * channels : channels) * sizeof *sum);
            ASDM_ASSERT(sum);
            struct joined x = join(op, run, row);
            const float *residual = source(op, run, ASDM_SRC_RESIDUAL, row);
            linear_token(op, &x, t, sum);
            for (int64_t c = 0; c < channels; c++) {
                double y = o->geglu ? sum[c] * gelu(sum[channels + c]) : activate(o->activation, sum[c]);
                result(op, run, row)[t * channels + c] = (float)(y + (residual ? residual[t * channels + c] : 0));
            }
            free(sum);
        }
}

static void run_linear(const struct ref_op *op, const struct asdm_run *run) {
    run_mixed(op, run, linear_rows);
}

/* ---- conditional forms */

static void run_global_pool(const struct ref_op *op, const struct asdm_run *run) {
    int64_t channels = op->site.out.channels, tokens = tokens_of(op->site.in[ASDM_SRC_X]);
#pragma omp parallel for collapse(2)
    for (int row = 0; row < op->site.rows; row++)
        for (int64_t c = 0; c < channels; c++) {
            struct joined x = join(op, run, row);
            double sum = 0;
            for (int64_t t = 0; t < tokens; t++)
                sum += joined_at(&x, t, c);
            result(op, run, row)[c] = (float)(sum / (double)tokens);
        }
}

static void run_routing(const struct ref_op *op, const struct asdm_run *run) {
    int64_t experts = op->site.out.channels;
    for (int row = 0; row < op->site.rows; row++) {
        struct joined x = join(op, run, row);
        double score[ASDM_EXPERTS_MAX], most = -INFINITY, total = 0;
        start_sum(score, op->bias[0], experts);
        for (int64_t c = 0; c < x.channels + x.channels2; c++)
            accumulate(score, joined_at(&x, 0, c), op->weight[0] + c * experts, experts);
        for (int64_t e = 0; e < experts; e++)
            most = fmax(most, score[e] *= op->site.op->scale);
        for (int64_t e = 0; e < experts; e++)
            total += score[e] = exp(score[e] - most);
        for (int64_t e = 0; e < experts; e++)
            result(op, run, row)[e] = (float)(score[e] / total);
    }
}

static void run_mix(const struct ref_op *op, const struct asdm_run *run) {
    for (int row = 0; row < op->site.rows; row++) {
        const float *vectors[ASDM_EXPERTS_MAX];
        double shares[ASDM_EXPERTS_MAX];
        for (int e = 0; e < op->site.op->experts; e++)
            vectors[e] = source(op, run, e, row);
        read_shares(op, run, row, shares);
        mix(vectors, shares, op->site.op->experts, (size_t)op->site.out.channels, result(op, run, row));
    }
}

/* ---- norms */

static void normalize_group(const struct ref_op *op, const struct joined *x, const float *row_bias, int64_t first,
                            int64_t count, float *dst) {
    int64_t tokens = tokens_of(op->site.out), channels = op->site.out.channels;
    double n = (double)tokens * (double)count, mean = 0, variance = 0;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = first; c < first + count; c++)
            mean += joined_at(x, t, c) + (row_bias ? row_bias[c] : 0);
    mean /= n;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = first; c < first + count; c++) {
            double d = (double)joined_at(x, t, c) + (row_bias ? row_bias[c] : 0) - mean;
            variance += d * d;
        }
    double scale = 1 / sqrt(variance / n + op->site.op->eps);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t c = first; c < first + count; c++) {
            double y = (double)joined_at(x, t, c) + (row_bias ? row_bias[c] : 0) - mean;
            dst[t * channels + c] =
                (float)activate(op->site.op->activation, y * scale * op->weight[0][c] + op->bias[0][c]);
        }
}

static void run_group_norm(const struct ref_op *op, const struct asdm_run *run) {
    int groups = op->site.op->groups;
    int64_t count = op->site.out.channels / groups;
#pragma omp parallel for collapse(2)
    for (int row = 0; row < op->site.rows; row++)
        for (int group = 0; group < groups; group++) {
            struct joined x = join(op, run, row);
            normalize_group(op, &x, source(op, run, ASDM_SRC_ROW_BIAS, row), group * count, count,
                            result(op, run, row));
        }
}

static void run_layer_norm(const struct ref_op *op, const struct asdm_run *run) {
    int64_t channels = op->site.out.channels, tokens = tokens_of(op->site.out);
    for (int row = 0; row < op->site.rows; row++)
        for (int64_t t = 0; t < tokens; t++) {
            const float *x = source(op, run, ASDM_SRC_X, row) + t * channels;
            float *dst = result(op, run, row) + t * channels;
            double mean = 0, variance = 0;
            for (int64_t c = 0; c < channels; c++)
                mean += x[c];
            mean /= (double)channels;
            for (int64_t c = 0; c < channels; c++)
                variance += (x[c] - mean) * (x[c] - mean);
            double scale = 1 / sqrt(variance / (double)channels + op->site.op->eps);
            for (int64_t c = 0; c < channels; c++)
                dst[c] = (float)((x[c] - mean) * scale * op->weight[0][c] + op->bias[0][c]);
        }
}

/* ---- attention */

/* One query of one head: q, and the first key and value of the head with the distance to the next; `bias` (or NULL) is
 * added to the scores. */
static void attend(const float *q, const float *k, const float *v, int64_t k_pitch, int64_t v_pitch, int64_t keys,
                   const double *bias, int dim, double *weight, float *dst) {
    double most = -INFINITY, total = 0;
    for (int64_t j = 0; j < keys; j++) {
        weight[j] = 0;
        for (int c = 0; c < dim; c++)
            weight[j] += (double)q[c] * k[j * k_pitch + c];
        weight[j] = weight[j] / sqrt(dim) + (bias ? bias[j] : 0);
        most = fmax(most, weight[j]);
    }
    for (int64_t j = 0; j < keys; j++)
        total += weight[j] = exp(weight[j] - most);
    for (int c = 0; c < dim; c++) {
        double sum = 0;
        for (int64_t j = 0; j < keys; j++)
            sum += weight[j] * v[j * v_pitch + c];
        dst[c] = (float)(sum / total);
    }
}

/* What the queries of one window see of one head: copies, dense. */
struct seen {
    float *k, *v;
    double *bias, *weight;
    int64_t count;
};

/* The mean of k and v over tokens [y0, y1) x [x0, x1), as one key more. */
static void see(struct seen *seen, const float *k, const float *v, const struct ref_op *op, int64_t y0, int64_t y1,
                int64_t x0, int64_t x1) {
    int64_t width = op->site.out.width, k_pitch = op->site.in[ASDM_SRC_K].channels;
    int64_t v_pitch = op->site.in[ASDM_SRC_V].channels;
    double tokens = (double)((y1 - y0) * (x1 - x0));
    int dim = op->site.op->head_dim;
    for (int c = 0; c < dim; c++) {
        double key = 0, value = 0;
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++) {
                key += k[(y * width + x) * k_pitch + c];
                value += v[(y * width + x) * v_pitch + c];
            }
        seen->k[seen->count * dim + c] = (float)(key / tokens);
        seen->v[seen->count * dim + c] = (float)(value / tokens);
    }
    seen->bias[seen->count++] = log(tokens);
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* One window of global-regional attention: top left (top, left); its tokens, then the cells of all other windows. */
static void attend_window(const struct ref_op *op, const float *q, const float *k, const float *v, int64_t top,
                          int64_t left, struct seen *seen, float *dst) {
    const struct asdm_op *o = op->site.op;
    int64_t height = op->site.out.height, width = op->site.out.width;
    int64_t bottom = least(top + o->window, height), right = least(left + o->window, width);
    seen->count = 0;
    for (int64_t y = top; y < bottom; y++)
        for (int64_t x = left; x < right; x++)
            see(seen, k, v, op, y, y + 1, x, x + 1);
    for (int64_t y = 0; y < height; y += o->pool)
        for (int64_t x = 0; x < width; x += o->pool)
            if (y < top || y >= bottom || x < left || x >= right)
                see(seen, k, v, op, y, least(y + o->pool, height), x, least(x + o->pool, width));
    for (int64_t y = top; y < bottom; y++)
        for (int64_t x = left; x < right; x++)
            attend(q + (y * width + x) * op->site.in[ASDM_SRC_Q].channels, seen->k, seen->v, o->head_dim, o->head_dim,
                   seen->count, seen->bias, o->head_dim, seen->weight, dst + (y * width + x) * op->site.out.channels);
}

static void attend_windows(const struct ref_op *op, const float *q, const float *k, const float *v, float *dst) {
    const struct asdm_op *o = op->site.op;
    size_t dim = (size_t)o->head_dim, room = 2 * (size_t)tokens_of(op->site.out); /* tokens and cells at most */
    struct seen seen = {malloc(room * dim * sizeof(float)), malloc(room * dim * sizeof(float)),
                        malloc(room * sizeof(double)), malloc(room * sizeof(double)), 0};
    ASDM_ASSERT(seen.k && seen.v && seen.bias && seen.weight);
    for (int64_t top = 0; top < op->site.out.height; top += o->window)
        for (int64_t left = 0; left < op->site.out.width; left += o->window)
            attend_window(op, q, k, v, top, left, &seen, dst);
    free(seen.k);
    free(seen.v);
    free(seen.bias);
    free(seen.weight);
}

static void run_attention(const struct ref_op *op, const struct asdm_run *run) {
    const struct asdm_op *o = op->site.op;
    const struct asdm_extent *in = op->site.in;
    bool windows = asdm_op_is_gri(o, op->site.out.height, op->site.out.width);
    int64_t queries = tokens_of(op->site.out), keys = tokens_of(in[ASDM_SRC_K]);
#pragma omp parallel for collapse(2)
    for (int row = 0; row < op->site.rows; row++)
        for (int head = 0; head < o->heads; head++) {
            double *weight = malloc((size_t)keys * sizeof *weight);
            ASDM_ASSERT(weight);
            const float *q = source(op, run, ASDM_SRC_Q, row) + o->channel[0] + head * o->head_dim;
            const float *k = source(op, run, ASDM_SRC_K, row) + o->channel[1] + head * o->head_dim;
            const float *v = source(op, run, ASDM_SRC_V, row) + o->channel[2] + head * o->head_dim;
            float *dst = result(op, run, row) + head * o->head_dim;
            if (windows)
                attend_windows(op, q, k, v, dst);
            for (int64_t i = 0; i < queries && !windows; i++)
                attend(q + i * in[ASDM_SRC_Q].channels, k, v, in[ASDM_SRC_K].channels, in[ASDM_SRC_V].channels,
                       o->causal && i + 1 < keys ? i + 1 : keys, NULL, o->head_dim, weight,
                       dst + i * op->site.out.channels);
            free(weight);
        }
}

/* ---- element by element */

static void run_activation(const struct ref_op *op, const struct asdm_run *run) {
    for (int row = 0; row < op->site.rows; row++)
        for (int64_t i = 0; i < row_size(op->site.out); i++)
            result(op, run, row)[i] = (float)activate(op->site.op->activation, source(op, run, ASDM_SRC_X, row)[i]);
}

static void run_geglu(const struct ref_op *op, const struct asdm_run *run) {
    int64_t channels = op->site.out.channels, tokens = tokens_of(op->site.out);
    for (int row = 0; row < op->site.rows; row++)
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t c = 0; c < channels; c++) {
                const float *x = source(op, run, ASDM_SRC_X, row) + 2 * t * channels;
                result(op, run, row)[t * channels + c] = (float)(x[c] * gelu(x[channels + c]));
            }
}

static void run_add(const struct ref_op *op, const struct asdm_run *run) {
    int64_t channels = op->site.out.channels;
    for (int row = 0; row < op->site.rows; row++) {
        const float *x = source(op, run, ASDM_SRC_X, row), *residual = source(op, run, ASDM_SRC_RESIDUAL, row);
        const float *row_bias = source(op, run, ASDM_SRC_ROW_BIAS, row);
        for (int64_t i = 0; i < row_size(op->site.out); i++)
            result(op, run, row)[i] = x[i] + (residual ? residual[i] : row_bias[i % channels]);
    }
}

static void run_concat(const struct ref_op *op, const struct asdm_run *run) {
    int64_t channels = op->site.out.channels;
    for (int row = 0; row < op->site.rows; row++) {
        struct joined x = join(op, run, row);
        for (int64_t i = 0; i < row_size(op->site.out); i++)
            result(op, run, row)[i] = joined_at(&x, i / channels, i % channels);
    }
}

static void run_upsample(const struct ref_op *op, const struct asdm_run *run) {
    struct asdm_extent in = op->site.in[ASDM_SRC_X], out = op->site.out;
    for (int row = 0; row < op->site.rows; row++)
        for (int64_t y = 0; y < out.height; y++)
            for (int64_t x = 0; x < out.width; x++)
                memcpy(result(op, run, row) + (y * out.width + x) * out.channels,
                       source(op, run, ASDM_SRC_X, row) + ((y / 2) * in.width + x / 2) * in.channels,
                       (size_t)out.channels * sizeof(float));
}

/* ---- the ends of a step */

static const struct asdm_step_row *step_row(const struct ref_op *op, const struct asdm_run *run, int place, int row) {
    return (const struct asdm_step_row *)run->values[op->site.op->inputs[place]] + row;
}

static void run_sampler_input(const struct ref_op *op, const struct asdm_run *run) {
    for (int row = 0; row < op->site.rows; row++)
        asdm_step_input(step_row(op, run, ASDM_SRC_X, row), result(op, run, row), (size_t)row_size(op->site.out));
}

static void run_guidance(const struct ref_op *op, const struct asdm_run *run) {
    for (int row = 0; row < op->site.rows; row++)
        asdm_step_guide(step_row(op, run, ASDM_SRC_STEP, row), source(op, run, ASDM_SRC_X, row), result(op, run, row),
                        (size_t)row_size(op->site.out));
}

static void run_sampler_update(const struct ref_op *op, const struct asdm_run *run) {
    struct asdm_extent x = op->site.in[ASDM_SRC_X];
    for (int row = 0; row < op->site.rows; row++)
        asdm_step_update(step_row(op, run, ASDM_SRC_STEP, row), source(op, run, ASDM_SRC_X, row), (size_t)row_size(x),
                         (size_t)tokens_of(x));
}

ref_run *ref_run_of(enum asdm_op_kind kind) {
    static ref_run *const runs[ASDM_OP_KIND_COUNT] = {
        [ASDM_OP_IMPORT] = run_import,
        [ASDM_OP_EXPORT] = run_export,
        [ASDM_OP_EMBEDDING] = run_embedding,
        [ASDM_OP_TIMESTEP_EMBEDDING] = run_timestep_embedding,
        [ASDM_OP_CONV2D] = run_conv2d,
        [ASDM_OP_LINEAR] = run_linear,
        [ASDM_OP_GROUP_NORM] = run_group_norm,
        [ASDM_OP_LAYER_NORM] = run_layer_norm,
        [ASDM_OP_ATTENTION] = run_attention,
        [ASDM_OP_ACTIVATION] = run_activation,
        [ASDM_OP_GEGLU] = run_geglu,
        [ASDM_OP_ADD] = run_add,
        [ASDM_OP_CONCAT] = run_concat,
        [ASDM_OP_UPSAMPLE] = run_upsample,
        [ASDM_OP_GLOBAL_POOL] = run_global_pool,
        [ASDM_OP_ROUTING] = run_routing,
        [ASDM_OP_MIX] = run_mix,
        [ASDM_OP_SAMPLER_INPUT] = run_sampler_input,
        [ASDM_OP_GUIDANCE] = run_guidance,
        [ASDM_OP_SAMPLER_UPDATE] = run_sampler_update,
    };
    return runs[kind];
}
