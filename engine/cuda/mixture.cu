/* Conditional convolution: the experts' shares of each row, and what is mixed by them. Every sum is taken in float32
 * and in one order, whatever the number of rows. */
#include <math.h>

#include "cuda/shares.cuh"

namespace {

enum {
    THREADS = 256,
    MIX_BLOCKS = 528 /* enough to keep any device's memory busy */,
    ROWS_MAX = CUDA_MIXTURE_ROWS_MAX
};

/* ---- kernels of convolutions */

/* What every block finds out for itself: the distinct rows of shares, and where their kernels go. */
struct distinct {
    float shares[ROWS_MAX][ASDM_EXPERTS_MAX]; /* first of all rows, then of the distinct ones */
    int first[ROWS_MAX];                      /* the first row with the shares of this one */
    int number[ROWS_MAX], count;              /* which of the distinct ones a row is */
    int slot[ROWS_MAX];                       /* of each distinct one */
    bool known[ROWS_MAX];                     /* its kernel is there */
    uint32_t next;
};

__device__ __forceinline__ bool equal(const float *a, const float *b) {
    bool same = true;
    for (int e = 0; e < ASDM_EXPERTS_MAX; e++)
        same = same && a[e] == b[e];
    return same;
}

template <class T> __device__ void find_distinct(const cuda_shares &shares, distinct &d) {
    const int row = (int)threadIdx.x;
    float own[ASDM_EXPERTS_MAX] = {};
    if (row < shares.rows) {
        cuda_read_shares<T>(shares, row, own);
        for (int e = 0; e < ASDM_EXPERTS_MAX; e++)
            d.shares[row][e] = own[e];
    }
    __syncthreads();
    if (row < shares.rows) {
        int first = 0;
        while (first < row && !equal(d.shares[first], own))
            first++;
        d.first[row] = first;
    }
    __syncthreads();
    if (row < shares.rows) {
        int number = 0;
        for (int r = 0; r < d.first[row]; r++)
            number += d.first[r] == r;
        d.number[row] = number;
        if (d.first[row] == row)
            for (int e = 0; e < ASDM_EXPERTS_MAX; e++)
                d.shares[number][e] = own[e]; /* number <= row: all rows were read */
        if (row == shares.rows - 1) {
            d.count = 0;
            for (int r = 0; r <= row; r++)
                d.count += d.first[r] == r;
        }
    }
    __syncthreads();
}

/* A slot for each of the distinct ones: where the cache has it, otherwise drawn from those that this launch does not
 * need. All blocks come to the same, as the cache changes only when all have read it. */
__device__ void find_slots(const struct cuda_mixture &m, distinct &d) {
    const int i = (int)threadIdx.x;
    if (i < d.count) {
        d.slot[i] = m.cache ? -1 : i;
        for (int s = 0; m.cache && s < m.slot_count; s++)
            if (equal(m.cache->keys[s], d.shares[i]))
                d.slot[i] = s;
        d.known[i] = m.cache && d.slot[i] >= 0;
    }
    __syncthreads();
    if (i == 0 && m.cache) {
        d.next = m.cache->next;
        for (int n = 0; n < d.count; n++) {
            if (d.known[n])
                continue;
            d.next = d.next * 1664525u + 1013904223u; /* Numerical Recipes' generator */
            int slot = (int)((d.next >> 16) % (unsigned)m.slot_count);
            for (int other = 0; other < d.count;) /* slots are at least as many as rows */
                if (other != n && d.slot[other] == slot) {
                    slot = (slot + 1) % m.slot_count;
                    other = 0;
                } else {
                    other++;
                }
            d.slot[n] = slot;
        }
    }
    __syncthreads();
}

/* The last block to come here notes what the cache holds now. */
__device__ void update_cache(const struct cuda_mixture &m, const distinct &d) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(&m.cache->done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last)
        return;
    for (int n = (int)threadIdx.x; n < d.count; n += THREADS)
        for (int e = 0; e < ASDM_EXPERTS_MAX; e++)
            m.cache->keys[d.slot[n]][e] = d.shares[n][e];
    if (threadIdx.x == 0) {
        m.cache->next = d.next;
        m.cache->done = 0;
    }
}

/* The experts are read once and leave the cache first, so that the mixed kernel stays there for its convolution. */
template <class T, int LANES> __device__ __forceinline__ void load(const T *from, float (&v)[LANES]) {
    if constexpr (LANES == 1)
        v[0] = cuda_to_float(*from);
    else
        cuda_unpack_vector<T>(__ldcs((const uint4 *)from), v);
}

template <class T, int LANES> __device__ __forceinline__ void save(T *to, const float (&v)[LANES]) {
    if constexpr (LANES == 1)
        *to = cuda_from_float<T>(v[0]);
    else
        cuda_store(to, v);
}

/* A share of 0 leaves its expert out, whatever that holds. */
template <int EXPERTS, int LANES>
__device__ __forceinline__ void sum_experts(const float (&w)[EXPERTS][LANES], const float *shares,
                                            float (&sum)[LANES]) {
    bool started = false;
#pragma unroll
    for (int e = 0; e < EXPERTS; e++) {
        const float share = shares[e];
        if (share == 0.0f)
            continue;
#pragma unroll
        for (int i = 0; i < LANES; i++)
            sum[i] = started ? fmaf(share, w[e][i], sum[i]) : share * w[e][i];
        started = true;
    }
}

template <class T, int EXPERTS, int LANES>
__device__ __forceinline__ void mix_weights(const struct cuda_mixture &m, const distinct &d, size_t start,
                                            size_t step) {
    for (size_t at = start * LANES; at < m.weight_count; at += step * LANES) {
        float w[EXPERTS][LANES];
#pragma unroll
        for (int e = 0; e < EXPERTS; e++)
            load<T, LANES>((const T *)m.experts.weight[e] + at, w[e]);
        for (int n = 0; n < d.count; n++) {
            float sum[LANES] = {};
            if (d.known[n])
                continue;
            sum_experts<EXPERTS, LANES>(w, d.shares[n], sum);
            save<T, LANES>((T *)m.weight + d.slot[n] * m.weight_count + at, sum);
        }
    }
}

template <class T, int EXPERTS, int LANES>
__global__ void __launch_bounds__(THREADS) mix_kernel(const __grid_constant__ struct cuda_mixture m) {
    __shared__ distinct d;
    const size_t step = (size_t)gridDim.x * THREADS, start = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const int rows = m.experts.shares.rows;
    cuda_launch_dependents();
    cuda_wait_inputs();
    find_distinct<T>(m.experts.shares, d);
    find_slots(m, d);
    if (blockIdx.x == 0 && (int)threadIdx.x <= rows)
        m.slots[threadIdx.x] = (int)threadIdx.x < rows ? d.slot[d.number[threadIdx.x]] : d.count;
    bool missing = false;
    for (int n = 0; n < d.count; n++)
        missing = missing || !d.known[n];
    if (missing)
        mix_weights<T, EXPERTS, LANES>(m, d, start, step);
    for (size_t i = start; missing && i < m.bias_count * d.count; i += step) {
        const size_t n = i / m.bias_count, at = i - n * m.bias_count;
        float b[EXPERTS][1], sum[1] = {};
#pragma unroll
        for (int e = 0; e < EXPERTS; e++)
            b[e][0] = m.experts.bias[e][at];
        sum_experts<EXPERTS, 1>(b, d.shares[n], sum);
        m.bias[d.slot[n] * m.bias_count + at] = sum[0];
    }
    if (m.cache)
        update_cache(m, d);
}

template <class T, int EXPERTS> cudaError_t launch_mix(const struct cuda_mixture &m, cudaStream_t stream) {
    constexpr int lanes = CUDA_LANES<T>;
    const bool vectors = m.weight_count % lanes == 0;
    const size_t items = m.weight_count / (vectors ? lanes : 1), blocks = (items + THREADS - 1) / THREADS;
    const dim3 grid((unsigned)(blocks < 1 ? 1 : blocks < (size_t)MIX_BLOCKS ? blocks : (size_t)MIX_BLOCKS));
    return vectors ? cuda_launch(mix_kernel<T, EXPERTS, lanes>, grid, dim3(THREADS), 0, stream, m)
                   : cuda_launch(mix_kernel<T, EXPERTS, 1>, grid, dim3(THREADS), 0, stream, m);
}

/* ---- vectors */

struct vectors {
    const void *x[ASDM_EXPERTS_MAX];
    const int32_t *maps[ASDM_EXPERTS_MAX];
};

template <class T>
__global__ void __launch_bounds__(THREADS)
    mix_vectors_kernel(const cuda_shares shares, const vectors from, T *y, int channels) {
    const int row = (int)blockIdx.y, c = (int)(blockIdx.x * THREADS + threadIdx.x);
    float own[ASDM_EXPERTS_MAX], sum = 0.0f;
    bool started = false;
    cuda_launch_dependents();
    cuda_wait_inputs();
    if (c >= channels)
        return;
    cuda_read_shares<T>(shares, row, own);
#pragma unroll
    for (int e = 0; e < ASDM_EXPERTS_MAX; e++) {
        if (own[e] == 0.0f) /* those that are not there too */
            continue;
        const size_t line = (size_t)(from.maps[e] ? from.maps[e][row] : row);
        const float x = cuda_to_float(((const T *)from.x[e])[line * channels + c]);
        sum = started ? fmaf(own[e], x, sum) : own[e] * x;
        started = true;
    }
    y[(size_t)row * channels + c] = cuda_from_float<T>(sum);
}

/* ---- means */

/* A block has a slice of channels of one row: POOL_LINES threads along the tokens by POOL_WIDTH along the channels. */
enum { POOL_WIDTH = 4, POOL_LINES = 128 };

template <class T, int LANES>
__global__ void __launch_bounds__(POOL_WIDTH *POOL_LINES)
    pool_kernel(const T *x, T *y, int tokens, int channels, int first, int y_channels) {
    __shared__ float sums[POOL_LINES][POOL_WIDTH * LANES];
    const int lane = (int)threadIdx.x % POOL_WIDTH, line = (int)threadIdx.x / POOL_WIDTH;
    const int column = (int)blockIdx.x * POOL_WIDTH * LANES, c = column + lane * LANES;
    const T *from = x + (size_t)blockIdx.y * tokens * channels + c;
    float sum[LANES] = {};
    cuda_launch_dependents();
    cuda_wait_inputs();
    if (c < channels) {
#pragma unroll 8
        for (int t = line; t < tokens; t += POOL_LINES) {
            float v[LANES];
            if constexpr (LANES == 1)
                v[0] = cuda_to_float(from[(size_t)t * channels]);
            else
                cuda_load(from + (size_t)t * channels, v);
#pragma unroll
            for (int i = 0; i < LANES; i++)
                sum[i] += v[i];
        }
    }
#pragma unroll
    for (int i = 0; i < LANES; i++)
        sums[line][lane * LANES + i] = sum[i];
    for (int half = POOL_LINES / 2; half; half /= 2) {
        __syncthreads();
        for (int i = (int)threadIdx.x; i < half * POOL_WIDTH * LANES; i += POOL_WIDTH * POOL_LINES)
            sums[i / (POOL_WIDTH * LANES)][i % (POOL_WIDTH * LANES)] +=
                sums[i / (POOL_WIDTH * LANES) + half][i % (POOL_WIDTH * LANES)];
    }
    __syncthreads();
    const int own = (int)threadIdx.x;
    if (own < POOL_WIDTH * LANES && column + own < channels)
        y[(size_t)blockIdx.y * y_channels + first + column + own] = cuda_from_float<T>(sums[0][own] / (float)tokens);
}

template <class T>
cudaError_t launch_pool(const void *x, void *y, int rows, int tokens, int channels, int first, int y_channels,
                        cudaStream_t stream) {
    constexpr int lanes = CUDA_LANES<T>;
    const bool wide = channels % lanes == 0;
    const int width = POOL_WIDTH * (wide ? lanes : 1);
    const dim3 grid((unsigned)((channels + width - 1) / width), (unsigned)rows), block(POOL_WIDTH * POOL_LINES);
    return wide ? cuda_launch(pool_kernel<T, lanes>, grid, block, 0, stream, (const T *)x, (T *)y, tokens, channels,
                              first, y_channels)
                : cuda_launch(pool_kernel<T, 1>, grid, block, 0, stream, (const T *)x, (T *)y, tokens, channels, first,
                              y_channels);
}

/* ---- routing: a block has a row */

template <class T>
__global__ void __launch_bounds__(THREADS) routing_kernel(const __grid_constant__ struct cuda_routing r) {
    __shared__ float parts[ASDM_EXPERTS_MAX][THREADS / 32];
    const int row = (int)blockIdx.x, warp = (int)threadIdx.x / 32, features = r.channels[0] + r.channels[1];
    float sum[ASDM_EXPERTS_MAX] = {};
    cuda_launch_dependents();
    cuda_wait_inputs();
    for (int source = 0; source < 2 && r.channels[source]; source++) {
        const T *x = (const T *)r.x[source] + (size_t)(r.maps[source] ? r.maps[source][row] : row) * r.channels[source];
        const float *weight = r.weight + (source ? r.channels[0] : 0);
#pragma unroll 4
        for (int c = (int)threadIdx.x; c < r.channels[source]; c += THREADS) {
            const float v = cuda_to_float(x[c]);
#pragma unroll
            for (int e = 0; e < ASDM_EXPERTS_MAX; e++)
                if (e < r.experts)
                    sum[e] = fmaf(v, weight[(size_t)e * features + c], sum[e]);
        }
    }
#pragma unroll
    for (int e = 0; e < ASDM_EXPERTS_MAX; e++) {
        for (int offset = 16; offset; offset /= 2)
            sum[e] += __shfl_xor_sync(0xffffffffu, sum[e], offset);
        if (threadIdx.x % 32 == 0)
            parts[e][warp] = sum[e];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        float score[ASDM_EXPERTS_MAX], most = -INFINITY, total = 0.0f;
        for (int e = 0; e < r.experts; e++) {
            float all = r.bias[e];
            for (int w = 0; w < THREADS / 32; w++)
                all += parts[e][w];
            score[e] = r.scale * all;
            most = fmaxf(most, score[e]);
        }
        for (int e = 0; e < r.experts; e++)
            total += score[e] = expf(score[e] - most);
        for (int e = 0; e < r.experts; e++)
            ((T *)r.y)[(size_t)row * r.experts + e] = cuda_from_float<T>(score[e] / total);
    }
}

} // namespace

extern "C" {

cudaError_t cuda_mix(const struct cuda_mixture *m, cudaStream_t stream) {
    switch (m->experts.shares.experts) {
    case 2:
        return CUDA_BY_DTYPE(m->dtype, (launch_mix<T, 2>(*m, stream)));
    case 3:
        return CUDA_BY_DTYPE(m->dtype, (launch_mix<T, 3>(*m, stream)));
    case 4:
        return CUDA_BY_DTYPE(m->dtype, (launch_mix<T, 4>(*m, stream)));
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t cuda_mix_vectors(enum cuda_dtype dtype, const struct cuda_shares *shares,
                             const void *const x[ASDM_EXPERTS_MAX], const int32_t *const maps[ASDM_EXPERTS_MAX],
                             void *y, int channels, cudaStream_t stream) {
    vectors from = {};
    for (int e = 0; e < shares->experts; e++) {
        from.x[e] = x[e];
        from.maps[e] = maps[e];
    }
    const dim3 grid((unsigned)((channels + THREADS - 1) / THREADS), (unsigned)shares->rows);
    return CUDA_BY_DTYPE(
        dtype, cuda_launch(mix_vectors_kernel<T>, grid, dim3(THREADS), 0, stream, *shares, from, (T *)y, channels));
}

cudaError_t cuda_global_pool(enum cuda_dtype dtype, const void *x, void *y, int rows, int tokens, int channels,
                             int first, int y_channels, cudaStream_t stream) {
    return CUDA_BY_DTYPE(dtype, launch_pool<T>(x, y, rows, tokens, channels, first, y_channels, stream));
}

cudaError_t cuda_routing(const struct cuda_routing *r, cudaStream_t stream) {
    return CUDA_BY_DTYPE(r->dtype,
                         cuda_launch(routing_kernel<T>, dim3((unsigned)r->rows), dim3(THREADS), 0, stream, *r));
}

} // extern "C"
