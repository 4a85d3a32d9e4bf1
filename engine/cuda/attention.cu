/* Flash attention (Dao et al. 2022) for any architecture from sm_80: mma.sync for fp16 and bf16, plain float32
 * otherwise. A block takes 16 queries per warp and goes over all keys in tiles with a running maximum and sum (Milakov
 * and Gimelshein 2018), so nothing depends on the number of rows. */
#include <math.h>
#include <type_traits>

#include "cuda/windows.cuh"

namespace {

using attention_args = struct ::cuda_attention;

constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

__device__ __forceinline__ int kv_row(const attention_args &a, int row) {
    return a.kv_map ? a.kv_map[row] : row;
}

/* What the queries of a block see of one row and head: all keys of the row, or those of a window. */
template <class T, bool WINDOWS> struct scene {
    const attention_args &a;
    const int row, kv, head, window_blocks; /* blocks of queries in a window */
    const cuda_window window;

    __device__ __forceinline__ scene(const attention_args &a_, int queries)
        : a(a_), row((int)blockIdx.z), kv(kv_row(a_, (int)blockIdx.z)), head((int)blockIdx.y),
          window_blocks(WINDOWS ? cuda_pieces(cuda_window_tokens(a_.regions), queries) : 1),
          window(WINDOWS ? a_.regions : cuda_regions{1, 1, 1, 1}, WINDOWS ? (int)blockIdx.x / window_blocks : 0) {
    }
    __device__ __forceinline__ int first_query(int queries) const {
        return (WINDOWS ? (int)blockIdx.x % window_blocks : (int)blockIdx.x) * queries;
    }
    __device__ __forceinline__ int tokens() const {
        return WINDOWS ? window.tokens() : a.tokens;
    }
    __device__ __forceinline__ int keys() const {
        return WINDOWS ? window.keys() : a.keys;
    }
    /* The row's number of query i. */
    __device__ __forceinline__ int token(int i) const {
        return WINDOWS ? window.token(i) : i;
    }
    __device__ __forceinline__ const T *query(int i) const {
        return (const T *)a.q + ((size_t)row * a.tokens + token(i)) * a.q_stride + head * a.head_dim;
    }
    /* Key i (values: its value). */
    __device__ __forceinline__ const T *key(int i, bool values) const {
        if (WINDOWS && i >= window.tokens()) {
            const size_t cell = (size_t)row * window.cells() + (i - window.tokens());
            return (const T *)a.cells + ((cell * 2 + values) * a.heads + head) * a.head_dim;
        }
        const size_t line = (size_t)kv * a.keys + token(i);
        return (values ? (const T *)a.v + line * a.v_stride : (const T *)a.k + line * a.k_stride) + head * a.head_dim;
    }
    /* log2 of how many tokens key i stands for; minus infinity where query `q` does not see it. */
    __device__ __forceinline__ float bias(int i, int q) const {
        if (i >= keys() || (a.causal && i > q))
            return -INFINITY;
        return WINDOWS ? window.bias(i) : 0.0f;
    }
    __device__ __forceinline__ T *result(int i) const {
        return (T *)a.y + (((size_t)row * a.tokens + token(i)) * a.heads + head) * a.head_dim;
    }
};

/* `count` tokens of one head, from(i) the address of the i-th; what is beyond `valid` tokens or head_dim is 0. */
template <class T, int D, int PITCH, class F>
__device__ __forceinline__ void load_tile(T *to, int stride, int head_dim, int count, int valid, const F &from) {
    const bool wide = head_dim % CUDA_LANES<T> == 0 && stride % CUDA_LANES<T> == 0 && (uintptr_t)from(0) % 16 == 0;
    constexpr int lanes = CUDA_LANES<T>, vectors = D / lanes;
    if (wide) {
        for (int i = threadIdx.x; i < count * vectors; i += blockDim.x) {
            const int token = i / vectors, d = i % vectors * lanes;
            uint4 bits = make_uint4(0, 0, 0, 0);
            if (token < valid && d < head_dim)
                bits = *(const uint4 *)(from(token) + d);
            *(uint4 *)(to + token * PITCH + d) = bits;
        }
        return;
    }
    for (int i = threadIdx.x; i < count * D; i += blockDim.x) {
        const int token = i / D, d = i % D;
        to[token * PITCH + d] = token < valid && d < head_dim ? from(token)[d] : cuda_from_float<T>(0.0f);
    }
}

/* ---- fp16 and bf16 */

__device__ __forceinline__ void load_matrix(uint32_t (&r)[4], const void *at) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(at);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrix_transposed(uint32_t (&r)[4], const void *at) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(at);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* c [16][8] += a [16][16] b [16][8] */
template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (std::is_same<T, __half>::value)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* D: head_dim rounded up. A group of 16 queries is shared by SPLIT warps: each computes all their logits and its own
 * part of the outputs' channels, since 512 channels do not fit into one warp's registers. */
template <class T, int D, int SPLIT, int GROUPS, int KEYS, bool WINDOWS> struct matrix_attention {
    using view = scene<T, WINDOWS>;
    static constexpr int pitch = D + 8, queries = 16 * GROUPS, threads = 32 * GROUPS * SPLIT, own = D / SPLIT;
    static constexpr size_t shared = sizeof(T) * pitch * (queries + 2 * KEYS);

    /* Logits of a group's 16 queries and KEYS keys. */
    static __device__ __forceinline__ void multiply_keys(float (&s)[KEYS / 8][4], const T *q, const T *k) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
            s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            uint32_t a[4];
            load_matrix(a, q + lane % 16 * pitch + d + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < KEYS; n += 16) {
                uint32_t b[4]; /* keys n .. n + 7: b[0], b[1]; n + 8 .. n + 15: b[2], b[3] */
                load_matrix(b, k + (n + lane / 16 * 8 + lane % 8) * pitch + d + lane / 8 % 2 * 8);
                mma<T>(s[n / 8], a, b[0], b[1]);
                mma<T>(s[n / 8 + 1], a, b[2], b[3]);
            }
        }
    }

    /* Logits to weights; the outputs so far and their sums are scaled to the new maximum. Row i: lane / 4 + 8 i. */
    static __device__ __forceinline__ void soften(float (&s)[KEYS / 8][4], float (&o)[own / 8][4], float (&most)[2],
                                                  float (&sum)[2], float scale) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float top = most[i];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
                top = fmaxf(top, fmaxf(s[n][2 * i], s[n][2 * i + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            const float keep = exp2f((most[i] - top) * scale);
            most[i] = top;
            sum[i] *= keep;
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; j++) {
                    s[n][j] = exp2f((s[n][j] - top) * scale);
                    sum[i] += s[n][j];
                }
#pragma unroll
            for (int n = 0; n < own / 8; n++) {
                o[n][2 * i] *= keep;
                o[n][2 * i + 1] *= keep;
            }
        }
    }

    static __device__ __forceinline__ void multiply_values(const float (&s)[KEYS / 8][4], float (&o)[own / 8][4],
                                                           const T *v) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int n = 0; n < KEYS; n += 16) {
            const float(*w)[4] = &s[n / 8];
            const uint32_t a[4] = {cuda_pack(w[0][0], w[0][1], T()), cuda_pack(w[0][2], w[0][3], T()),
                                   cuda_pack(w[1][0], w[1][1], T()), cuda_pack(w[1][2], w[1][3], T())};
#pragma unroll
            for (int c = 0; c < own; c += 16) {
                uint32_t b[4];
                load_matrix_transposed(b, v + (n + lane % 16) * pitch + c + lane / 16 * 8);
                mma<T>(o[c / 8], a, b[0], b[1]);
                mma<T>(o[c / 8 + 1], a, b[2], b[3]);
            }
        }
    }

    /* Adds the keys' biases, which are divided by the scale that logits are multiplied with later. */
    static __device__ __forceinline__ void add_bias(const view &seen, float (&s)[KEYS / 8][4], int query, int key,
                                                    float scale) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int k = key + n * 8 + lane % 4 * 2 + j % 2, q = query + lane / 4 + j / 2 * 8;
                s[n][j] += seen.bias(k, q) / scale;
            }
    }

    static __device__ __forceinline__ void store(const view &seen, const float (&o)[own / 8][4], const float (&sum)[2],
                                                 int query, int channel) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int token = query + lane / 4 + 8 * i;
            if (token >= seen.tokens())
                continue;
            T *y = seen.result(token);
#pragma unroll
            for (int n = 0; n < own / 8; n++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const int c = channel + n * 8 + lane % 4 * 2 + j;
                    if (c < seen.a.head_dim)
                        y[c] = cuda_from_float<T>(o[n][2 * i + j] / sum[i]);
                }
        }
    }

    static __device__ __forceinline__ void run(const attention_args &a, float scale) {
        extern __shared__ uint4 shared_memory[];
        T *q = (T *)shared_memory, *k = q + queries * pitch, *v = k + KEYS * pitch;
        const int warp = threadIdx.x / 32, group = warp / SPLIT, part = warp % SPLIT;
        const view seen(a, queries);
        const int first = seen.first_query(queries), tokens = seen.tokens(), keys = seen.keys();
        float s[KEYS / 8][4], o[own / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
        cuda_launch_dependents();
        cuda_wait_inputs();
        const int end = a.causal ? min(keys, first + queries) : keys;
        load_tile<T, D, pitch>(q, a.q_stride, a.head_dim, queries, tokens - first,
                               [&](int i) { return seen.query(first + i); });
        for (int key = 0; key < end; key += KEYS) {
            __syncthreads();
            load_tile<T, D, pitch>(k, a.k_stride, a.head_dim, KEYS, keys - key,
                                   [&](int i) { return seen.key(key + i, false); });
            load_tile<T, D, pitch>(v, a.v_stride, a.head_dim, KEYS, keys - key,
                                   [&](int i) { return seen.key(key + i, true); });
            __syncthreads();
            multiply_keys(s, q + group * 16 * pitch, k);
            if (WINDOWS || key + KEYS > keys || a.causal)
                add_bias(seen, s, first + group * 16, key, scale);
            soften(s, o, most, sum, scale);
            multiply_values(s, o, v + part * own);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 1);
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], 2);
        }
        store(seen, o, sum, first + group * 16, part * own);
    }
};

template <class T, int D, int SPLIT, int GROUPS, int KEYS, bool WINDOWS>
__global__ void __launch_bounds__(32 * GROUPS * SPLIT)
    matrix_kernel(const __grid_constant__ attention_args a, float scale) {
    matrix_attention<T, D, SPLIT, GROUPS, KEYS, WINDOWS>::run(a, scale);
}

template <class T, int D, int SPLIT, int GROUPS, int KEYS>
cudaError_t launch_matrix(const attention_args &a, cudaStream_t stream) {
    using M = matrix_attention<T, D, SPLIT, GROUPS, KEYS, false>;
    const auto kernel = a.regions.window ? matrix_kernel<T, D, SPLIT, GROUPS, KEYS, true>
                                         : matrix_kernel<T, D, SPLIT, GROUPS, KEYS, false>;
    const dim3 grid((unsigned)cuda_query_blocks(a, M::queries), (unsigned)a.heads, (unsigned)a.rows);
    return cuda_launch(kernel, grid, dim3(M::threads), M::shared, stream, a, LOG2_E / sqrtf((float)a.head_dim));
}

template <class T> cudaError_t launch_any(const attention_args &a, cudaStream_t stream) {
    if (a.head_dim <= 32)
        return launch_matrix<T, 32, 1, 4, 32>(a, stream);
    if (a.head_dim <= 64)
        return launch_matrix<T, 64, 1, 4, 32>(a, stream);
    if (a.head_dim <= 96)
        return launch_matrix<T, 96, 1, 4, 32>(a, stream);
    if (a.head_dim <= 160)
        return launch_matrix<T, 160, 1, 4, 32>(a, stream);
    if (a.head_dim <= 256)
        return launch_matrix<T, 256, 2, 4, 32>(a, stream);
    if (a.head_dim <= 512)
        return launch_matrix<T, 512, 4, 2, 16>(a, stream);
    return cudaErrorInvalidValue;
}

/* ---- float32 */

constexpr int PLAIN_QUERIES = 16, PLAIN_KEYS = 32, PLAIN_THREADS = 128;

/* D: head_dim rounded up to a multiple of 128. A thread owns channels threadIdx.x + 128 j of all the queries. */
template <int D, bool WINDOWS>
__global__ void __launch_bounds__(PLAIN_THREADS) plain_kernel(const __grid_constant__ attention_args a, float scale) {
    constexpr int pitch = D + 4, parts = D / PLAIN_THREADS;
    extern __shared__ uint4 shared_memory[];
    float *q = (float *)shared_memory, *kv = q + PLAIN_QUERIES * pitch;
    __shared__ float weights[PLAIN_QUERIES][PLAIN_KEYS], kept[PLAIN_QUERIES], sums[PLAIN_QUERIES];
    const scene<float, WINDOWS> seen(a, PLAIN_QUERIES);
    const int first = seen.first_query(PLAIN_QUERIES), tokens = seen.tokens(), keys = seen.keys(), t = threadIdx.x;
    const int query = t / 8, lane = t % 8; /* of the logits: 4 keys per thread */
    float most = -INFINITY, sum = 0.0f, o[PLAIN_QUERIES][parts] = {};
    cuda_launch_dependents();
    cuda_wait_inputs();
    const int end = a.causal ? min(keys, first + PLAIN_QUERIES) : keys;
    load_tile<float, D, pitch>(q, a.q_stride, a.head_dim, PLAIN_QUERIES, tokens - first,
                               [&](int i) { return seen.query(first + i); });
    for (int key = 0; key < end; key += PLAIN_KEYS) {
        float s[4] = {}, top = most;
        __syncthreads();
        load_tile<float, D, pitch>(kv, a.k_stride, a.head_dim, PLAIN_KEYS, keys - key,
                                   [&](int i) { return seen.key(key + i, false); });
        __syncthreads();
        for (int d = 0; d < a.head_dim; d++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[i] += q[query * pitch + d] * kv[(lane + 8 * i) * pitch + d];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int k = key + lane + 8 * i;
            s[i] = s[i] * scale + seen.bias(k, first + query) * LN_2;
            top = fmaxf(top, s[i]);
        }
        for (int offset = 4; offset; offset /= 2)
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
        const float keep = expf(most - top);
        most = top;
        sum *= keep;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[i] = expf(s[i] - top);
            sum += s[i];
            weights[query][lane + 8 * i] = s[i];
        }
        if (lane == 0)
            kept[query] = keep;
        __syncthreads();
        load_tile<float, D, pitch>(kv, a.v_stride, a.head_dim, PLAIN_KEYS, keys - key,
                                   [&](int i) { return seen.key(key + i, true); });
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PLAIN_QUERIES; i++)
#pragma unroll
            for (int j = 0; j < parts; j++)
                o[i][j] *= kept[i];
        for (int k = 0; k < PLAIN_KEYS; k++)
#pragma unroll
            for (int j = 0; j < parts; j++) {
                const float v = kv[k * pitch + t + PLAIN_THREADS * j];
#pragma unroll
                for (int i = 0; i < PLAIN_QUERIES; i++)
                    o[i][j] += weights[i][k] * v;
            }
    }
    for (int offset = 4; offset; offset /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0)
        sums[query] = sum;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PLAIN_QUERIES; i++)
#pragma unroll
        for (int j = 0; j < parts; j++) {
            const int token = first + i, c = t + PLAIN_THREADS * j;
            if (token < tokens && c < a.head_dim)
                seen.result(token)[c] = o[i][j] / sums[i];
        }
}

template <int D> cudaError_t launch_plain(const attention_args &a, cudaStream_t stream) {
    const size_t shared = sizeof(float) * (PLAIN_QUERIES + PLAIN_KEYS) * (D + 4);
    const dim3 grid((unsigned)cuda_query_blocks(a, PLAIN_QUERIES), (unsigned)a.heads, (unsigned)a.rows);
    return cuda_launch(a.regions.window ? plain_kernel<D, true> : plain_kernel<D, false>, grid, dim3(PLAIN_THREADS),
                       shared, stream, a, 1.0f / sqrtf((float)a.head_dim));
}

} // namespace

extern "C" cudaError_t cuda_attention(const struct cuda_attention *a, cudaStream_t stream) {
    switch (a->dtype) {
    case CUDA_F16:
        return launch_any<__half>(*a, stream);
    case CUDA_BF16:
        return launch_any<__nv_bfloat16>(*a, stream);
    case CUDA_F32:
        return a->head_dim <= 128   ? launch_plain<128>(*a, stream)
               : a->head_dim <= 256 ? launch_plain<256>(*a, stream)
               : a->head_dim <= 512 ? launch_plain<512>(*a, stream)
                                    : cudaErrorInvalidValue;
    }
    return cudaErrorInvalidValue;
}
