/* Norms, activations and other element-wise loops, written so that compilers vectorise them. */
#include "cpu/vector_types.h"

static void to_f32(const void *src, float *dst, size_t count) {
    const element *x = src;
    for (size_t i = 0; i < count; i++)
        dst[i] = load(x[i]);
}

static void from_f32(const float *src, void *dst, size_t count) {
    element *y = dst;
    for (size_t i = 0; i < count; i++)
        y[i] = store(src[i]);
}

/* ---- activations: one loop per kind, so that the choice is outside the loop */

#define FOR_ACTIVATION(activation, LOOP)                                                                               \
    switch (activation) {                                                                                              \
    case ASDM_ACT_SILU:                                                                                                \
        LOOP(value *sigmoid(value));                                                                                   \
        break;                                                                                                         \
    case ASDM_ACT_GELU:                                                                                                \
        LOOP(gelu(value));                                                                                             \
        break;                                                                                                         \
    case ASDM_ACT_GELU_TANH:                                                                                           \
        LOOP(gelu_tanh(value));                                                                                        \
        break;                                                                                                         \
    case ASDM_ACT_QUICK_GELU:                                                                                          \
        LOOP(value *sigmoid(1.702f * value));                                                                          \
        break;                                                                                                         \
    case ASDM_ACT_RELU:                                                                                                \
        LOOP(value > 0 ? value : 0);                                                                                   \
        break;                                                                                                         \
    case ASDM_ACT_NONE:                                                                                                \
        LOOP(value);                                                                                                   \
        break;                                                                                                         \
    }

static void activate(const void *x, void *dst, size_t count, enum asdm_activation activation) {
    const element *src = x;
    element *y = dst;
#define ACTIVATE_LOOP(result)                                                                                          \
    for (size_t i = 0; i < count; i++) {                                                                               \
        float value = load(src[i]);                                                                                    \
        y[i] = store(result);                                                                                          \
    }
    FOR_ACTIVATION(activation, ACTIVATE_LOOP)
}

static void geglu(const void *x, void *dst, size_t tokens, size_t channels) {
    for (size_t t = 0; t < tokens; t++) {
        const element *restrict a = (const element *)x + t * 2 * channels;
        const element *restrict b = a + channels;
        element *restrict y = (element *)dst + t * channels;
        for (size_t c = 0; c < channels; c++)
            y[c] = store(load(a[c]) * gelu(load(b[c])));
    }
}

static void add(const void *x, const void *y, void *dst, size_t count) {
    const element *a = x, *b = y;
    element *r = dst;
    for (size_t i = 0; i < count; i++)
        r[i] = store(load(a[i]) + load(b[i]));
}

static void add_row_bias(const void *x, const void *bias, void *dst, size_t tokens, size_t channels) {
    for (size_t t = 0; t < tokens; t++)
        add((const element *)x + t * channels, bias, (element *)dst + t * channels, channels);
}

/* ---- norms */

enum { CHANNEL_BLOCK = 64 };

/* Up to CHANNEL_BLOCK channels, with the sums in registers while the pixels go by. */
static inline void sum_block(const element *x, size_t pixels, size_t pitch, size_t channels, const element *shift,
                             float *sum, float *square) {
    float s[CHANNEL_BLOCK] = {0}, q[CHANNEL_BLOCK] = {0}, k[CHANNEL_BLOCK] = {0};
    for (size_t c = 0; c < channels; c++)
        k[c] = load(shift[c]);
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < channels; c++) {
            float d = load(x[p * pitch + c]) - k[c];
            s[c] += d;
            q[c] += d * d;
        }
    for (size_t c = 0; c < channels; c++) {
        sum[c] = s[c];
        square[c] = q[c];
    }
}

static void norm_sums(const void *x, size_t pixels, size_t pitch, size_t channels, const void *shift, float *sum,
                      float *square) {
    const element *src = x, *first = shift;
    size_t c = 0;
    for (; c + CHANNEL_BLOCK <= channels; c += CHANNEL_BLOCK)
        sum_block(src + c, pixels, pitch, CHANNEL_BLOCK, first + c, sum + c, square + c);
    if (c < channels)
        sum_block(src + c, pixels, pitch, channels - c, first + c, sum + c, square + c);
}

static void norm_apply(const void *x, size_t x_pitch, void *dst, size_t dst_pitch, size_t pixels, size_t channels,
                       const float *restrict scale, const float *restrict offset, enum asdm_activation activation) {
    for (size_t p = 0; p < pixels; p++) {
        const element *restrict src = (const element *)x + p * x_pitch;
        element *restrict y = (element *)dst + p * dst_pitch;
#define NORM_LOOP(result)                                                                                              \
    for (size_t c = 0; c < channels; c++) {                                                                            \
        float value = load(src[c]) * scale[c] + offset[c];                                                             \
        y[c] = store(result);                                                                                          \
    }
        FOR_ACTIVATION(activation, NORM_LOOP)
    }
}

static void layer_norm(const void *x, void *dst, size_t tokens, size_t channels, const float *restrict gain,
                       const float *restrict bias, float eps) {
    for (size_t t = 0; t < tokens; t++) {
        const element *restrict src = (const element *)x + t * channels;
        element *restrict y = (element *)dst + t * channels;
        float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t c = 0; c < channels; c++)
            sum += load(src[c]);
        float mean = sum / (float)channels;
#pragma omp simd reduction(+ : square)
        for (size_t c = 0; c < channels; c++) {
            float d = load(src[c]) - mean;
            square += d * d;
        }
        float scale = 1.0f / sqrtf(square / (float)channels + eps);
        for (size_t c = 0; c < channels; c++)
            y[c] = store((load(src[c]) - mean) * scale * gain[c] + bias[c]);
    }
}

/* ---- the table; attention is in attend.c, compiled in the same way */

/* One loop per number of sources, so that it vectorises. */
static void mix(const void *const *src, const float *shares, int count, void *dst, size_t elements) {
    element *restrict y = dst;
    const element *restrict a = src[0], *restrict b = src[count > 1 ? 1 : 0], *restrict c = src[count > 2 ? 2 : 0],
                            *restrict d = src[count > 3 ? 3 : 0];
#define MIX_LOOP(sum)                                                                                                  \
    for (size_t i = 0; i < elements; i++)                                                                              \
        y[i] = store(sum);
    switch (count) {
    case 1:
        MIX_LOOP(shares[0] * load(a[i]))
        break;
    case 2:
        MIX_LOOP(shares[0] * load(a[i]) + shares[1] * load(b[i]))
        break;
    case 3:
        MIX_LOOP(shares[0] * load(a[i]) + shares[1] * load(b[i]) + shares[2] * load(c[i]))
        break;
    default:
        MIX_LOOP(shares[0] * load(a[i]) + shares[1] * load(b[i]) + shares[2] * load(c[i]) + shares[3] * load(d[i]))
    }
}

const struct cpu_vector CPU_NAME(cpu_vector) = {
    .name = CPU_TEXT(CPU_SET),
    .to_f32 = to_f32,
    .from_f32 = from_f32,
    .norm_sums = norm_sums,
    .norm_apply = norm_apply,
    .layer_norm = layer_norm,
    .activate = activate,
    .geglu = geglu,
    .add = add,
    .add_row_bias = add_row_bias,
    .mix = mix,
    .packed_keys_floats = CPU_NAME(cpu_packed_keys_floats),
    .packed_values_floats = CPU_NAME(cpu_packed_values_floats),
    .pack_keys = CPU_NAME(cpu_pack_keys),
    .pack_values = CPU_NAME(cpu_pack_values),
    .attend_scratch_floats = CPU_NAME(cpu_attend_scratch_floats),
    .attend = CPU_NAME(cpu_attend),
};
