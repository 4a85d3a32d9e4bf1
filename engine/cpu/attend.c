/* Attention without the full score matrix: a block of queries goes over the keys block by block, keeping for each query
 * the largest score, the sum of exponentials and the weighted values so far (Milakov and Gimelshein 2018; Dao et al.
 * 2022). Scores and sums are float32 whatever the element type.
 *
 * Both matrix products run through one small kernel: MR rows of the left factor times a panel of up to 4 vectors of
 * columns of the right one, accumulated in registers. Keys are packed as panels [panel][dim][columns = keys], values as
 * [key block][panel][key][columns = dims], both padded with zeros to whole vectors. */
#include <float.h>
#include <string.h>

#include "base/size.h"
#include "cpu/vector_types.h"

enum { LANES = CPU_LANES, PANEL = 4 * LANES, ROWS = CPU_LANES == 16 ? 6 : CPU_LANES == 8 ? 3 : 2 };

typedef float vec __attribute__((vector_size(4 * CPU_LANES), aligned(4), may_alias));

static size_t round_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

/* ---- the product kernel: c[rows][width * LANES] (+)= a[rows][depth] * b[depth][width * LANES] */

struct product {
    const float *a;
    size_t a_pitch;
    const float *b;
    float *c;
    size_t c_pitch, depth;
};

/* Without unrolling the sums would live in memory. */
#define UNROLL _Pragma("GCC unroll 16")

#define PRODUCT_KERNEL(rows, width)                                                                                    \
    static void product_##rows##x##width(const struct product *p, bool accumulate) {                                   \
        vec sum[rows][width];                                                                                          \
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < width; j++) sum[i][j] =                       \
            accumulate ? *(const vec *)(p->c + (size_t)i * p->c_pitch + (size_t)j * LANES) : (vec){0};                 \
        const float *a = p->a, *b = p->b;                                                                              \
        for (size_t d = 0; d < p->depth; d++, b += width * LANES)                                                      \
            UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < width; j++) sum[i][j] +=                  \
                a[(size_t)i * p->a_pitch + d] * *(const vec *)(b + (size_t)j * LANES);                                 \
        UNROLL for (int i = 0; i < rows; i++) UNROLL for (int j = 0; j < width; j++) *                                 \
            (vec *)(p->c + (size_t)i * p->c_pitch + (size_t)j * LANES) = sum[i][j];                                    \
    }

#define PRODUCT_KERNELS(width)                                                                                         \
    PRODUCT_KERNEL(1, width)                                                                                           \
    PRODUCT_KERNEL(2, width)                                                                                           \
    PRODUCT_KERNEL(3, width)                                                                                           \
    PRODUCT_KERNEL(6, width)

PRODUCT_KERNELS(1)
PRODUCT_KERNELS(2)
PRODUCT_KERNELS(3)
PRODUCT_KERNELS(4)
PRODUCT_KERNEL(12, 1)
PRODUCT_KERNEL(12, 2)

typedef void product_function(const struct product *p, bool accumulate);

/* `columns` is a multiple of LANES, at most PANEL. */
static void multiply_panel(struct product p, size_t rows, size_t columns, bool accumulate) {
    static product_function *const kernels[4][4] = {{product_1x1, product_1x2, product_1x3, product_1x4},
                                                    {product_2x1, product_2x2, product_2x3, product_2x4},
                                                    {product_3x1, product_3x2, product_3x3, product_3x4},
                                                    {product_6x1, product_6x2, product_6x3, product_6x4}};
    size_t width = columns / LANES - 1;
    /* Narrow panels need more rows to keep the multipliers busy. */
    for (; width < 2 && ROWS == 6 && rows >= 12; rows -= 12) {
        (width ? product_12x2 : product_12x1)(&p, accumulate);
        p.a += 12 * p.a_pitch;
        p.c += 12 * p.c_pitch;
    }
    while (rows) {
        size_t taken = rows >= ROWS ? ROWS : rows >= 3 ? 3 : rows;
        kernels[taken == 6 ? 3 : taken - 1][width](&p, accumulate);
        p.a += taken * p.a_pitch;
        p.c += taken * p.c_pitch;
        rows -= taken;
    }
}

/* ---- packing */

size_t CPU_NAME(cpu_packed_keys_floats)(size_t keys, size_t dim) {
    return round_up(keys, LANES) * dim;
}

size_t CPU_NAME(cpu_packed_values_floats)(size_t keys, size_t dim) {
    return keys * round_up(dim, LANES);
}

void CPU_NAME(cpu_pack_keys)(const void *k, size_t pitch, size_t keys, size_t dim, float *dst) {
    const element *src = k;
    for (size_t first = 0; first < keys; first += PANEL, dst += PANEL * dim) {
        size_t count = asdm_size_least(PANEL, keys - first), width = round_up(count, LANES);
        if (count < width)
            memset(dst, 0, width * dim * sizeof *dst);
        for (size_t j = 0; j < count; j++)
            for (size_t d = 0; d < dim; d++)
                dst[d * width + j] = load(src[(first + j) * pitch + d]);
    }
}

void CPU_NAME(cpu_pack_values)(const void *v, size_t pitch, size_t keys, size_t dim, float *dst) {
    const element *src = v;
    size_t padded = round_up(dim, LANES);
    for (size_t first = 0; first < keys; first += CPU_KEY_BLOCK) {
        size_t count = asdm_size_least(CPU_KEY_BLOCK, keys - first);
        for (size_t panel = 0; panel < padded; panel += PANEL) {
            size_t width = asdm_size_least(PANEL, padded - panel), used = asdm_size_least(width, dim - panel);
            for (size_t j = 0; j < count; j++, dst += width) {
                for (size_t d = 0; d < used; d++)
                    dst[d] = load(src[(first + j) * pitch + panel + d]);
                for (size_t d = used; d < width; d++)
                    dst[d] = 0;
            }
        }
    }
}

/* ---- one query block */

/* Views into the scratch of one block. */
struct state {
    float *q, *scores, *sums; /* [QUERY][dim], [QUERY][KEY_BLOCK], [QUERY][padded dim] */
    float most[CPU_QUERY_BLOCK], total[CPU_QUERY_BLOCK];
    size_t padded;
};

size_t CPU_NAME(cpu_attend_scratch_floats)(size_t dim) {
    return CPU_QUERY_BLOCK * (dim + CPU_KEY_BLOCK + round_up(dim, LANES)) + 3 * 16;
}

static void score(const struct cpu_attend *b, const struct state *s, size_t first, size_t count) {
    for (size_t panel = 0; panel < count; panel += PANEL) {
        struct product p = {s->q, b->dim, b->keys + (first + panel) * b->dim, s->scores + panel, CPU_KEY_BLOCK, b->dim};
        multiply_panel(p, b->queries, asdm_size_least(PANEL, round_up(count - panel, LANES)), false);
    }
}

static inline float larger(float a, float b) {
    return a > b ? a : b;
}

/* The largest of `most` and x[0 .. count - 1]; several maxima side by side, since each waits for its last comparison.
 */
static float largest(const float *x, size_t count, float most) {
    enum { WAYS = 4 * LANES };
    float side[WAYS];
    size_t j = 0;
    for (size_t i = 0; i < WAYS; i++)
        side[i] = most;
    for (; j + WAYS <= count; j += WAYS)
        for (size_t i = 0; i < WAYS; i++)
            side[i] = larger(side[i], x[j + i]);
    for (; j < count; j++)
        most = larger(most, x[j]);
    for (size_t half = WAYS / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            side[i] = larger(side[i], side[i + half]);
    return larger(most, side[0]);
}

/* Turns a row of scores (times log2 e, which the queries carry) into weights exp(score - most), and rescales what was
 * summed with an earlier, smaller maximum. */
static void soften(struct state *s, size_t query, size_t seen, size_t count, const float *restrict bias) {
    float *restrict x = s->scores + query * CPU_KEY_BLOCK;
    for (size_t j = 0; bias && j < seen; j++)
        x[j] += bias[j];
    float most = largest(x, seen, s->most[query]), total = 0;
#pragma omp simd reduction(+ : total)
    for (size_t j = 0; j < seen; j++) {
        float w = fast_exp2(x[j] - most);
        x[j] = w;
        total += w;
    }
    for (size_t j = seen; j < count; j++)
        x[j] = 0;
    if (most > s->most[query]) {
        float rescale = s->total[query] > 0 ? fast_exp2(s->most[query] - most) : 0;
        float *restrict sum = s->sums + query * s->padded;
        for (size_t d = 0; d < s->padded; d++)
            sum[d] *= rescale;
        s->total[query] *= rescale;
        s->most[query] = most;
    }
    s->total[query] += total;
}

static void weigh(const struct cpu_attend *b, const struct state *s, size_t first, size_t count) {
    const float *values = b->values + first * s->padded;
    for (size_t panel = 0; panel < s->padded; panel += PANEL) {
        size_t width = asdm_size_least(PANEL, s->padded - panel);
        struct product p = {s->scores, CPU_KEY_BLOCK, values, s->sums + panel, s->padded, count};
        multiply_panel(p, b->queries, width, true);
        values += count * width;
    }
}

/* Keys among [first, first + count) that a query sees. */
static size_t seen_by(const struct cpu_attend *b, size_t query, size_t first, size_t count) {
    size_t visible = b->causal_first ? b->causal_first + query : b->key_count;
    return visible <= first ? 0 : asdm_size_least(count, visible - first);
}

void CPU_NAME(cpu_attend)(const struct cpu_attend *b) {
    struct state s = {.q = b->scratch, .padded = round_up(b->dim, LANES)};
    s.scores = s.q + round_up(CPU_QUERY_BLOCK * b->dim, 16);
    s.sums = s.scores + CPU_QUERY_BLOCK * CPU_KEY_BLOCK;
    memset(s.sums, 0, CPU_QUERY_BLOCK * s.padded * sizeof *s.sums);
    for (size_t i = 0; i < b->queries; i++) {
        const element *q = (const element *)b->q + i * b->q_pitch;
        for (size_t d = 0; d < b->dim; d++)
            s.q[i * b->dim + d] = load(q[d]) * (b->scale * 1.44269504088896341f);
        s.most[i] = -FLT_MAX; /* no score is smaller */
        s.total[i] = 0;
    }
    for (size_t first = 0; first < b->key_count; first += CPU_KEY_BLOCK) {
        size_t count = asdm_size_least(CPU_KEY_BLOCK, b->key_count - first);
        if (!seen_by(b, b->queries - 1, first, count))
            break;
        score(b, &s, first, count);
        for (size_t i = 0; i < b->queries; i++)
            soften(&s, i, seen_by(b, i, first, count), count, b->key_bias ? b->key_bias + first : NULL);
        weigh(b, &s, first, count);
    }
    for (size_t i = 0; i < b->queries; i++) {
        element *dst = (element *)b->dst + i * b->dst_pitch;
        float scale = 1.0f / s.total[i];
        for (size_t d = 0; d < b->dim; d++)
            dst[d] = store(s.sums[i * s.padded + d] * scale);
    }
}
