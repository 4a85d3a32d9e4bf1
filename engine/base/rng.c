#include "base/rng.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925286766559

enum { GROUP = 16, HALF_GROUP = GROUP / 2 };

void asdm_rng_init(struct asdm_rng *rng, enum asdm_rng_kind kind, uint64_t seed) {
    *rng = (struct asdm_rng){.kind = kind, .seed = seed};
    asdm_mt19937_seed(&rng->mt, (uint32_t)seed);
}

/* 24 bits in [0, 1): what a float32 mantissa holds. */
static float uniform24(struct asdm_mt19937 *mt) {
    return (float)(asdm_mt19937_next(mt) & 0xffffffu) * 0x1p-24f;
}

/* 53 bits in [0, 1), from two outputs, the first one high. */
static double uniform53(struct asdm_mt19937 *mt) {
    uint64_t high = asdm_mt19937_next(mt);
    uint64_t low = asdm_mt19937_next(mt);
    return (double)(((high << 32) | low) & ((1ull << 53) - 1)) * 0x1p-53;
}

/* Box-Muller over 16 uniforms in place: the first eight give radii, the other eight angles; cosines go to the first
 * half, sines to the second. */
static void normalize_group(float *group) {
    for (int i = 0; i < HALF_GROUP; i++) {
        float radius = sqrtf(-2.0f * logf(1.0f - group[i]));
        float angle = (float)TWO_PI * group[i + HALF_GROUP];
        group[i] = radius * cosf(angle);
        group[i + HALF_GROUP] = radius * sinf(angle);
    }
}

/* All uniforms are drawn before any is transformed; a ragged end is drawn anew as the last whole group, over values
 * that are there already. */
static void torch_normal_groups(struct asdm_rng *rng, float *dst, size_t count) {
    for (size_t i = 0; i < count; i++)
        dst[i] = uniform24(&rng->mt);
    for (size_t i = 0; i + GROUP <= count; i += GROUP)
        normalize_group(dst + i);
    if (count % GROUP != 0) {
        float *tail = dst + count - GROUP;
        for (int i = 0; i < GROUP; i++)
            tail[i] = uniform24(&rng->mt);
        normalize_group(tail);
    }
}

/* The scalar path keeps the second value of each pair across calls. */
static float torch_normal_single(struct asdm_rng *rng) {
    if (rng->has_spare) {
        rng->has_spare = false;
        return (float)rng->spare;
    }
    double angle = TWO_PI * uniform53(&rng->mt);
    double radius = sqrt(-2.0 * log1p(-uniform53(&rng->mt)));
    rng->spare = radius * sin(angle);
    rng->has_spare = true;
    return (float)(radius * cos(angle));
}

static void torch_normal(struct asdm_rng *rng, float *dst, size_t count) {
    if (count >= GROUP) {
        torch_normal_groups(rng, dst, count);
        return;
    }
    for (size_t i = 0; i < count; i++)
        dst[i] = torch_normal_single(rng);
}

/* Element i of draw d is counter {d, 0, i, 0}: one thread per element, each at the generator's offset d. Elements from
 * 2^32 on carry into the fourth word. */
static void philox_normal(struct asdm_rng *rng, float *dst, size_t count) {
    const uint32_t key[2] = {(uint32_t)rng->seed, (uint32_t)(rng->seed >> 32)};
    for (size_t i = 0; i < count; i++) {
        const uint32_t counter[4] = {rng->draws, 0, (uint32_t)i, (uint32_t)((uint64_t)i >> 32)};
        uint32_t words[4];
        asdm_philox4x32(counter, key, words);
        double radial = words[0] * 0x1p-32 + 0x1p-33;
        double angle = words[1] * (0x1p-32 * TWO_PI) + 0x1p-33 * TWO_PI;
        dst[i] = (float)(sqrt(-2.0 * log(radial)) * sin(angle));
    }
    rng->draws++;
}

void asdm_rng_normal(struct asdm_rng *rng, float *dst, size_t count) {
    if (rng->kind == ASDM_RNG_TORCH)
        torch_normal(rng, dst, count);
    else
        philox_normal(rng, dst, count);
}
