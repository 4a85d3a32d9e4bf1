/* Moments on the device (ops/moments.h): of small sets, and of what they make up, merged by the formula of Chan, Golub
 * and LeVeque (1979). */
#ifndef ASDM_CUDA_MOMENTS_CUH
#define ASDM_CUDA_MOMENTS_CUH

#include "cuda/launch.cuh"
#include "ops/moments.h"

enum { CUDA_PART_LANES = 8 };

static __device__ __forceinline__ float cuda_inverse(float count) {
    return count > 0.0f ? 1.0f / count : 0.0f;
}

/* Of values with the given sums of the differences from `shift` and of their squares; `inverse`: of their count. */
static __device__ __forceinline__ struct asdm_moments cuda_moments_about(float shift, float sum, float squares,
                                                                         float inverse) {
    const float mean = sum * inverse;
    return {shift + mean, fmaxf(fmaf(-sum, mean, squares), 0.0f)};
}

/* What a set adds to the merged squared deviations. */
static __device__ __forceinline__ float cuda_deviations(struct asdm_moments set, float count, float mean) {
    const float d = set.mean - mean;
    return fmaf(count * d, d, set.m2);
}

/* Two neighbouring elements. */
template <class T> static __device__ __forceinline__ float2 cuda_load_pair(const T *p) {
    if constexpr (sizeof(T) == 4)
        return *reinterpret_cast<const float2 *>(p);
    else
        return cuda_unpack(*reinterpret_cast<const uint32_t *>(p), T());
}

/* A lane's sums over its tokens of a part, of the differences from `first` and of their squares. */
template <int GRANULE, class F>
static __device__ __forceinline__ float2 cuda_granule_sums(int tokens, float first, const F &pair) {
    float2 sum = make_float2(0.0f, 0.0f), squares = sum;
#pragma unroll 2
    for (int i = 0; i < tokens / CUDA_PART_LANES; i++) {
#pragma unroll
        for (int c = 0; c < GRANULE; c += 2) {
            const float2 v = pair(i, c), d = make_float2(v.x - first, v.y - first);
            sum.x += d.x;
            sum.y += d.y;
            squares.x = fmaf(d.x, d.x, squares.x);
            squares.y = fmaf(d.y, d.y, squares.y);
        }
    }
    return make_float2(sum.x + sum.y, squares.x + squares.y);
}

/* A part's moments, by CUDA_PART_LANES neighbouring lanes, of which lane i takes tokens i, i + CUDA_PART_LANES, ... of
 * `tokens`: the same bits in each of them and whoever asks. By whole warps, each of whose lanes has a part.
 * pair(i, channel): two neighbouring values of the lane's i-th token. Taken about the part's `first` value: as the part
 * is small, that loses at most a factor of its size in relative precision, whatever the mean. */
template <class F>
static __device__ __forceinline__ struct asdm_moments cuda_part_moments(int tokens, int granule, float first,
                                                                        const F &pair) {
    float2 sums = granule == ASDM_GRANULE          ? cuda_granule_sums<ASDM_GRANULE>(tokens, first, pair)
                  : granule == ASDM_GRANULE_MIDDLE ? cuda_granule_sums<ASDM_GRANULE_MIDDLE>(tokens, first, pair)
                                                   : cuda_granule_sums<ASDM_GRANULE_SMALL>(tokens, first, pair);
#pragma unroll
    for (int offset = CUDA_PART_LANES / 2; offset > 0; offset /= 2) {
        sums.x += __shfl_xor_sync(0xffffffffu, sums.x, offset);
        sums.y += __shfl_xor_sync(0xffffffffu, sums.y, offset);
    }
    return cuda_moments_about(first, sums.x, sums.y, cuda_reciprocal((float)(tokens * granule)));
}

#endif
