/* What each compilation of vector.c and attend.c is for: CPU_SET (a name: avx512, avx2, base), CPU_LANES (floats per
 * vector) and CPU_BF16 (elements are bfloat16) come from the build. */
#ifndef ASDM_CPU_VECTOR_TYPES_H
#define ASDM_CPU_VECTOR_TYPES_H

#include <math.h>
#include <stdint.h>

#include "base/half.h"
#include "cpu/vector.h"

#define CPU_PASTE_(a, b, c) a##_##b##_##c
#define CPU_PASTE(a, b, c) CPU_PASTE_(a, b, c)
#define CPU_TEXT_(a) #a
#define CPU_TEXT(a) CPU_TEXT_(a)

#if CPU_BF16
typedef uint16_t element;
#define CPU_NAME(base) CPU_PASTE(base, CPU_SET, bf16)

static inline float load(element x) {
    return asdm_bf16_to_f32(x);
}

/* Rounds to nearest even; NaN is not kept apart, since a branch would keep the loop from vectorising. */
static inline element store(float x) {
    uint32_t bits = asdm_f32_bits(x);
    return (element)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
#else
typedef float element;
#define CPU_NAME(base) CPU_PASTE(base, CPU_SET, f32)

static inline float load(element x) {
    return x;
}

static inline element store(float x) {
    return x;
}
#endif

/* Made in attend.c, listed in vector.c's table. */
size_t CPU_NAME(cpu_packed_keys_floats)(size_t keys, size_t dim);
size_t CPU_NAME(cpu_packed_values_floats)(size_t keys, size_t dim);
void CPU_NAME(cpu_pack_keys)(const void *k, size_t pitch, size_t keys, size_t dim, float *dst);
void CPU_NAME(cpu_pack_values)(const void *v, size_t pitch, size_t keys, size_t dim, float *dst);
size_t CPU_NAME(cpu_attend_scratch_floats)(size_t dim);
void CPU_NAME(cpu_attend)(const struct cpu_attend *block);

extern const struct cpu_vector CPU_NAME(cpu_vector);

/* exp in float32, within 2 units in the last place on -87 .. 87, clamped outside: Cody-Waite reduction by ln 2 in two
 * parts, then a polynomial of degree 6. Without branches, so that loops over it vectorise. */
static inline float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    float n = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: the sum's low bits are the rounded number */
    int32_t exponent = (int32_t)asdm_f32_bits(n) - 0x4b400000;
    n -= 12582912.0f;
    float r = x - n * 0.693359375f;
    r -= n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * asdm_bits_f32((uint32_t)(exponent + 127) << 23);
}

/* 2^x for x <= 0, within 3 units in the last place, for softmax: polynomial of degree 5 on -1/2 .. 1/2, the exponent
 * added to the bits. Below -126: 2^-126, which no sum of weights feels. */
static inline float fast_exp2(float x) {
    x = x < -126.0f ? -126.0f : x;
    float n = x + 12582912.0f;
    int32_t exponent = (int32_t)(asdm_f32_bits(n) << 23); /* the rounded number sits in the low bits */
    float r = x - (n - 12582912.0f);
    float p = 1.327647152e-3f;
    p = p * r + 9.675541331e-3f;
    p = p * r + 5.550713275e-2f;
    p = p * r + 2.402211972e-1f;
    p = p * r + 6.931469671e-1f;
    p = p * r + 1.000000072f;
    return asdm_bits_f32(asdm_f32_bits(p) + (uint32_t)exponent);
}

/* 1 / x for 1 <= x < 2^126: a first guess from the bits, within 5 %, then Newton's steps, each squaring the error. A
 * division unit takes as long as all the rest of an activation. */
static inline float reciprocal(float x) {
    float y = asdm_bits_f32(0x7ef127eau - asdm_f32_bits(x));
    y = y * (2.0f - x * y);
    y = y * (2.0f - x * y);
#if !CPU_BF16 /* 7e-6 is enough for bfloat16 */
    y = y * (2.0f - x * y);
#endif
    return y;
}

static inline float sigmoid(float x) {
    return reciprocal(1.0f + fast_exp(-x));
}

/* x/2 (1 + erf(x / sqrt 2)). The tail is half the complementary error function by its Chebyshev fit (Press et al.,
 * Numerical Recipes, "erfcc"), whose relative error stays below 1.2e-7 however small the tail. */
static inline float gelu(float x) {
    float z = fabsf(x) * 0.70710678118654752f;
    float t = reciprocal(1.0f + 0.5f * z);
    float p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    float tail = 0.5f * t * fast_exp(p - z * z);
    return x * (x < 0 ? tail : 1.0f - tail);
}

static inline float gelu_tanh(float x) {
    return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
}

#endif
