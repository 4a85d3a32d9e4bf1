/* Random numbers as the field draws them, so that a seed gives the picture that users of other programs know. */
#ifndef ASDM_BASE_RNG_H
#define ASDM_BASE_RNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum asdm_rng_kind {
    ASDM_RNG_PHILOX, /* Philox4x32-10 as PyTorch's CUDA generator lays it out (one element per thread) */
    ASDM_RNG_TORCH,  /* mt19937 as PyTorch's CPU generator draws normals */
};

/* State of Matsumoto and Nishimura's mt19937, 32-bit outputs. */
struct asdm_mt19937 {
    uint32_t state[624];
    int next;
};

void asdm_mt19937_seed(struct asdm_mt19937 *mt, uint32_t seed);
uint32_t asdm_mt19937_next(struct asdm_mt19937 *mt);

/* Philox4x32-10 (Salmon et al. 2011): ten rounds over `counter` with `key`. */
void asdm_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t ret[4]);

/* One stream of standard normal draws; each picture has its own. */
struct asdm_rng {
    enum asdm_rng_kind kind;
    uint64_t seed;
    uint32_t draws;         /* philox: calls so far, the counter's offset */
    struct asdm_mt19937 mt; /* torch */
    bool has_spare;         /* torch, fewer than 16 values: Box-Muller's second value, kept for the next one */
    double spare;
};

void asdm_rng_init(struct asdm_rng *rng, enum asdm_rng_kind kind, uint64_t seed);

/* What torch.randn(count) gives as the next call on this generator: `count` standard normals in float32. */
void asdm_rng_normal(struct asdm_rng *rng, float *dst, size_t count);

#endif
