/* The shares of experts (kernels.h) as kernels read them. */
#ifndef ASDM_CUDA_SHARES_CUH
#define ASDM_CUDA_SHARES_CUH

#include "cuda/launch.cuh"

/* A row's shares, divided by their sum; experts that are not there get 0. */
template <class T>
static __device__ __forceinline__ void cuda_read_shares(const struct cuda_shares &shares, int row,
                                                        float (&ret)[ASDM_EXPERTS_MAX]) {
    const T *from = (const T *)shares.values + (size_t)(shares.map ? shares.map[row] : row) * shares.experts;
    float sum = 0.0f;
#pragma unroll
    for (int e = 0; e < ASDM_EXPERTS_MAX; e++) {
        ret[e] = e < shares.experts ? cuda_to_float(from[e]) : 0.0f;
        sum += ret[e];
    }
#pragma unroll
    for (int e = 0; e < ASDM_EXPERTS_MAX; e++)
        ret[e] /= sum;
}

#endif
