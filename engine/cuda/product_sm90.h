/* How cuda_product_sm90 cuts an operation into tiles: what its kernels and their choice share, and what a tuner that
 * tries the alternatives needs. */
#ifndef ASDM_CUDA_PRODUCT_SM90_H
#define ASDM_CUDA_PRODUCT_SM90_H

#include "cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CUDA_TILE_PIXELS = 128,
    CUDA_TILE_DEPTH = 64, /* of K, a step */
    CUDA_CHUNKS_MAX = 8,
    CUDA_EXPERTS_WIDTH = 80,   /* widest tile of experts: registers for three sums */
    CUDA_ALTERNATE_WIDTH = 128 /* narrowest whose tiles warpgroups take in turn: never best below */
};

/* An operation as the kernels see it. */
struct cuda_product_extent {
    int pixels; /* of one row and phase */
    int phases, weight_rows, steps;
    int experts; /* that the kernel multiplies: all steps once for each; 0: none */
    bool residual, geglu;
    bool other_ends;   /* an activation, or channels that do not make whole vectors: kernels of their own */
    bool rows_apart;   /* rows have biases of their own */
    int granule, slab; /* of the parts whose moments are kept; 0: none are */
};
struct cuda_product_extent cuda_product_extent_of(const struct cuda_product *p);

struct cuda_product_choice {
    int width;     /* outputs of a tile (of 128 pixels) */
    int chunks;    /* of K; the order of the sum follows from it: a function of the operation without `rows`, unless
                    * batch_dependent */
    int spread;    /* CTAs that share a tile's chunks: 1 or chunks */
    int alternate; /* warpgroups take whole tiles in turn; with one chunk */
};

/* The built-in choice for the operation; of addresses, whether there is a residual and a row bias counts. */
struct cuda_product_choice cuda_product_sm90_choice(const struct cuda_product *p);
/* The cheapest of those with `chunks` chunks. */
struct cuda_product_choice cuda_product_sm90_choice_of(const struct cuda_product *p, int chunks);
/* Whether the kernels can compute the operation so. */
bool cuda_product_sm90_possible(const struct cuda_product *p, const struct cuda_product_choice *c);

/* The choices with `chunks` chunks of K (0: the built-in number); at most `capacity` are written, their number is
 * returned. */
int cuda_product_sm90_candidates(const struct cuda_product *p, int chunks, struct cuda_product_choice *ret,
                                 int capacity);

#ifdef __cplusplus
}
#endif

#endif
