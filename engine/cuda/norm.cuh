/* What the norms share: sums over a warp and over a block, SiLU, and the plain way, element by element. */
#ifndef ASDM_CUDA_NORM_CUH
#define ASDM_CUDA_NORM_CUH

#include "cuda/moments.cuh"

namespace {

enum { PLAIN_THREADS = 256 };

__device__ __forceinline__ float warp_sum(float x, int width = 32) {
    for (int offset = width / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

template <int W> __device__ __forceinline__ void load_floats(const float *p, float (&v)[W]) {
#pragma unroll
    for (int i = 0; i < W; i += 4) {
        const float4 part = *reinterpret_cast<const float4 *>(p + i);
        v[i] = part.x, v[i + 1] = part.y, v[i + 2] = part.z, v[i + 3] = part.w;
    }
}

/* v / (1 + exp(-v)) for float16 and bfloat16. The special function unit is the bottleneck: four share a reciprocal.
 * The exponent is limited so that the product of four stays finite; below -20.8 the result is then within 1e-6. */
template <int W> __device__ __forceinline__ void silu_fast(float (&v)[W]) {
#pragma unroll
    for (int i = 0; i < W; i += 4) {
        float d[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            d[j] = 1.0f + cuda_exp2(fminf(-1.44269504088896340736f * v[i + j], 30.0f));
        const float low = d[0] * d[1], high = d[2] * d[3];
        const float all = cuda_reciprocal(low * high);
        const float of_low = all * high, of_high = all * low;
        v[i] *= of_low * d[1];
        v[i + 1] *= of_low * d[0];
        v[i + 2] *= of_high * d[3];
        v[i + 3] *= of_high * d[2];
    }
}

template <class T> __device__ __forceinline__ void silu(float (&v)[CUDA_LANES<T>]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < CUDA_LANES<T>; i++)
            v[i] = cuda_logistic_times<true>(v[i], 1.0f);
    } else {
        silu_fast(v);
    }
}

/* ---- element by element */

/* Element c of a token of x, or of x2. */
template <class T> __device__ __forceinline__ float element(const struct cuda_norm &n, int row, size_t token, int c) {
    const int source = c >= n.channels[0], channels = n.channels[0] + n.channels[1];
    const size_t at = (size_t)row * (size_t)n.tokens + token;
    return cuda_to_float(static_cast<const T *>(
        n.x[source])[at * (size_t)n.channels[source] + (size_t)(source ? c - n.channels[0] : c)]);
}

/* A sum over the block's threads, the same in all of them; whole warps, at most 32. */
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float of_warp[32];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll 4
    for (int i = 0; i < (int)blockDim.x / 32; i++)
        sum += of_warp[i];
    return sum;
}

/* Moments of channels [first, first + width) of some tokens, by a block: the mean, then the deviations from it. */
template <class T>
__device__ __forceinline__ struct asdm_moments plain_moments(const struct cuda_norm &n, int row, size_t token,
                                                             int tokens, int first, int width) {
    const uint32_t count = (uint32_t)tokens * (uint32_t)width;
    struct asdm_moments m = {0.0f, 0.0f};
    for (uint32_t e = threadIdx.x; e < count; e += PLAIN_THREADS)
        m.mean += element<T>(n, row, token + e / width, first + (int)(e % width));
    m.mean = block_sum(m.mean) * cuda_inverse((float)count);
    for (uint32_t e = threadIdx.x; e < count; e += PLAIN_THREADS) {
        const float d = element<T>(n, row, token + e / width, first + (int)(e % width)) - m.mean;
        m.m2 = fmaf(d, d, m.m2);
    }
    m.m2 = block_sum(m.m2);
    return m;
}

template <class T>
__device__ __forceinline__ void plain_result(const struct cuda_norm &n, int row, size_t token, int c, float2 by) {
    const size_t channels = (size_t)(n.channels[0] + n.channels[1]);
    const float v = fmaf((element<T>(n, row, token, c) - by.x) * by.y, n.gain[c], n.bias[c]);
    static_cast<T *>(n.y)[((size_t)row * (size_t)n.tokens + token) * channels + (size_t)c] =
        cuda_from_float<T>(cuda_activate<sizeof(T) == 4>(n.activation, v));
}

} // namespace

#endif
