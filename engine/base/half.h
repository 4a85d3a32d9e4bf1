/* 16-bit floating point formats in plain C: IEEE binary16 and bfloat16, rounding to nearest even. */
#ifndef ASDM_BASE_HALF_H
#define ASDM_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float asdm_bits_f32(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t asdm_f32_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float asdm_bf16_to_f32(uint16_t half) {
    return asdm_bits_f32((uint32_t)half << 16);
}

static inline uint16_t asdm_f32_to_bf16(float value) {
    uint32_t bits = asdm_f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) /* NaN: keep it one, quiet */
        return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

static inline float asdm_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 0x3ff;
    if (exponent == 31)
        return asdm_bits_f32(sign | 0x7f800000u | fraction << 13);
    if (exponent)
        return asdm_bits_f32(sign | (exponent + 112) << 23 | fraction << 13);
    float magnitude = (float)fraction * 0x1p-24f; /* zero and subnormals, exact */
    return asdm_bits_f32(sign | asdm_f32_bits(magnitude));
}

static inline uint16_t asdm_f32_to_f16(float value) {
    uint32_t bits = asdm_f32_bits(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) /* NaN */
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000u) /* 65520 and up round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude >= 0x38800000u) /* normal from 2^-14 */
        return (uint16_t)(sign | (magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1)) >> 13);
    /* Adding 0.5 leaves multiples of 2^-24 in the lowest bits, rounded to nearest even. */
    return (uint16_t)(sign | (asdm_f32_bits(asdm_bits_f32(magnitude) + 0.5f) - 0x3f000000u));
}

#endif
