/* The vectorised inner loops of the CPU back end. vector.c and attend.c are compiled once per instruction set and
 * element type (float32, bfloat16); the best set that the processor has is chosen when the back end is created. */
#ifndef ASDM_CPU_VECTOR_H
#define ASDM_CPU_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/op.h"

/* One query block of one head; see attend.c. Keys and values were packed by pack_keys and pack_values. */
struct cpu_attend {
    const void *q; /* first query: `queries` of `q_pitch` elements, `dim` of them used */
    size_t queries, q_pitch, dim;
    const float *keys, *values; /* packed */
    size_t key_count;
    const float *key_bias; /* added to the scores, in units of ln 2; NULL: none */
    size_t causal_first;   /* number of keys that the first query sees; each later one sees one more. 0: all see all */
    float scale;           /* on the scores */
    void *dst;             /* `queries` of `dst_pitch` elements, `dim` of them written */
    size_t dst_pitch;
    float *scratch; /* attend_scratch_floats(dim) */
};

enum { CPU_QUERY_BLOCK = 24, CPU_KEY_BLOCK = 512 };

/* All counts are in elements; "element" is float32 or bfloat16, in memory. */
struct cpu_vector {
    const char *name;

    void (*to_f32)(const void *src, float *dst, size_t count);
    void (*from_f32)(const float *src, void *dst, size_t count);

    /* Sums over `pixels` of (x - shift) and its square, per channel; `x` and `shift` have `pitch` >= channels. */
    void (*norm_sums)(const void *x, size_t pixels, size_t pitch, size_t channels, const void *shift, float *sum,
                      float *square);
    /* dst = act(x * scale + offset), scale and offset per channel. */
    void (*norm_apply)(const void *x, size_t x_pitch, void *dst, size_t dst_pitch, size_t pixels, size_t channels,
                       const float *scale, const float *offset, enum asdm_activation activation);
    void (*layer_norm)(const void *x, void *dst, size_t tokens, size_t channels, const float *gain, const float *bias,
                       float eps);
    void (*activate)(const void *x, void *dst, size_t count, enum asdm_activation activation);
    /* dst[t][c] = x[t][c] * gelu(x[t][channels + c]) */
    void (*geglu)(const void *x, void *dst, size_t tokens, size_t channels);
    void (*add)(const void *x, const void *y, void *dst, size_t count);
    void (*add_row_bias)(const void *x, const void *bias, void *dst, size_t tokens, size_t channels);

    /* dst = the sum of `count` (1 .. ASDM_EXPERTS_MAX) sources by their shares, in order. */
    void (*mix)(const void *const *src, const float *shares, int count, void *dst, size_t elements);

    /* Attention. Packed sizes in floats for `keys` keys of `dim`. */
    size_t (*packed_keys_floats)(size_t keys, size_t dim);
    size_t (*packed_values_floats)(size_t keys, size_t dim);
    void (*pack_keys)(const void *k, size_t pitch, size_t keys, size_t dim, float *dst);
    void (*pack_values)(const void *v, size_t pitch, size_t keys, size_t dim, float *dst);
    size_t (*attend_scratch_floats)(size_t dim);
    void (*attend)(const struct cpu_attend *block);
};

/* The best set for this processor, for elements in bfloat16 or float32. */
const struct cpu_vector *cpu_vector_select(bool bf16);

#endif
