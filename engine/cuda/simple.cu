/* Operations of one pass over memory. Each is a functor that gives W neighbouring channels of one token of the result
 * (W: a 16-byte vector's elements where every channel count divides, else 1); one thread computes one such group. */
#include "cuda/launch.cuh"

namespace {

enum { THREADS = 256 };

template <class T, int W> __device__ __forceinline__ void load_lanes(const T *p, float (&v)[W]) {
    if constexpr (W == 1)
        v[0] = cuda_to_float(*p);
    else
        cuda_load<T>(p, v);
}

template <class T, int W> __device__ __forceinline__ void store_lanes(T *p, const float (&v)[W]) {
    if constexpr (W == 1)
        *p = cuda_from_float<T>(v[0]);
    else
        cuda_store<T>(p, v);
}

/* y [tokens][channels], both counted in groups of W channels: `groups` of them in all. I: wide enough to count them
 * (64-bit division is slow). */
template <class T, int W, class I, class F>
__global__ void __launch_bounds__(THREADS) token_kernel(F f, T *y, I groups, I groups_per_token) {
    const I i = (I)blockIdx.x * THREADS + threadIdx.x;
    cuda_wait_inputs();
    cuda_launch_dependents();
    if (i >= groups)
        return;
    const I token = i / groups_per_token;
    const int c = (int)(i - token * groups_per_token) * W;
    float v[W];
    f.template lanes<T, W>((size_t)token, c, v);
    store_lanes<T, W>(y + (size_t)i * W, v);
}

template <class T, int W, class F>
cudaError_t launch_groups(F f, T *y, size_t tokens, int channels, cudaStream_t stream) {
    const size_t per_token = (size_t)channels / W, groups = tokens * per_token;
    if (groups == 0)
        return cudaSuccess;
    const size_t blocks = (groups + THREADS - 1) / THREADS;
    if (blocks > INT32_MAX)
        return cudaErrorInvalidValue;
    if (groups <= UINT32_MAX - THREADS)
        return cuda_launch(token_kernel<T, W, uint32_t, F>, dim3((unsigned)blocks), dim3(THREADS), 0, stream, f, y,
                           (uint32_t)groups, (uint32_t)per_token);
    return cuda_launch(token_kernel<T, W, uint64_t, F>, dim3((unsigned)blocks), dim3(THREADS), 0, stream, f, y,
                       (uint64_t)groups, (uint64_t)per_token);
}

/* `divisor`: divides every channel count and offset that f reads with. */
template <class T, class F>
cudaError_t launch_tokens(F f, void *y, size_t tokens, int channels, int divisor, cudaStream_t stream) {
    if (divisor % CUDA_LANES<T> == 0)
        return launch_groups<T, CUDA_LANES<T>, F>(f, static_cast<T *>(y), tokens, channels, stream);
    return launch_groups<T, 1, F>(f, static_cast<T *>(y), tokens, channels, stream);
}

/* Where the values have no structure: y [count], vectors first, the rest by single elements. */
template <class T, class F> __global__ void __launch_bounds__(THREADS) flat_kernel(F f, T *y, size_t count) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const size_t vectors = count / CUDA_LANES<T>;
    cuda_wait_inputs();
    cuda_launch_dependents();
    if (i < vectors) {
        float v[CUDA_LANES<T>];
        f.template lanes<T, CUDA_LANES<T>>(i * CUDA_LANES<T>, 0, v);
        cuda_store<T>(y + i * CUDA_LANES<T>, v);
        return;
    }
    const size_t element = vectors * CUDA_LANES<T> + (i - vectors);
    if (element < count) {
        float v[1];
        f.template lanes<T, 1>(element, 0, v);
        y[element] = cuda_from_float<T>(v[0]);
    }
}

template <class T, class F> cudaError_t launch_flat(F f, void *y, size_t count, cudaStream_t stream) {
    if (count == 0)
        return cudaSuccess;
    const size_t threads = count / CUDA_LANES<T> + count % CUDA_LANES<T>;
    const size_t blocks = (threads + THREADS - 1) / THREADS;
    if (blocks > INT32_MAX)
        return cudaErrorInvalidValue;
    return cuda_launch(flat_kernel<T, F>, dim3((unsigned)blocks), dim3(THREADS), 0, stream, f, static_cast<T *>(y),
                       count);
}

/* ---- import, export: [rows][channels][tokens] float32 of the caller <-> [rows][tokens][channels] */

/* The writes are dense; the reads of a warp fall into a few segments per plane, channels being few. */
struct import_nchw {
    const float *x;
    size_t tokens, channels;
    template <class T, int W> __device__ void lanes(size_t token, int c, float (&v)[W]) const {
        static_assert(W == 1, "planes are gathered element by element");
        const size_t row = token / tokens;
        v[0] = x[(row * channels + (size_t)c) * tokens + (token - row * tokens)];
    }
};

/* A "token" of y is a plane [row][channel], its "channels" the tokens. S: type of x. */
template <class S> struct export_nchw {
    const S *x;
    size_t tokens, channels;
    template <class T, int W> __device__ void lanes(size_t plane, int token, float (&v)[W]) const {
        static_assert(W == 1, "planes are gathered element by element");
        const size_t row = plane / channels;
        v[0] = cuda_to_float(x[(row * tokens + (size_t)token) * channels + (plane - row * channels)]);
    }
};

/* W elements of another type, one by one: their vectors are wider or narrower. */
template <class S> struct convert {
    const S *x;
    template <class T, int W> __device__ void lanes(size_t first, int, float (&v)[W]) const {
        if constexpr (W > 1 && sizeof(S) == 4) {
#pragma unroll
            for (int i = 0; i < W; i += 4) {
                const float4 part = *reinterpret_cast<const float4 *>(x + first + i);
                v[i] = part.x, v[i + 1] = part.y, v[i + 2] = part.z, v[i + 3] = part.w;
            }
        } else {
#pragma unroll
            for (int i = 0; i < W; i++)
                v[i] = cuda_to_float(x[first + (size_t)i]);
        }
    }
};

/* ---- the others */

struct embedding {
    const int32_t *ids;
    const void *token_table, *position_table;
    size_t tokens, channels;
    template <class T, int W> __device__ void lanes(size_t token, int c, float (&v)[W]) const {
        const size_t position = token % tokens;
        float p[W];
        load_lanes<T, W>(static_cast<const T *>(token_table) + (size_t)ids[token] * channels + c, v);
        load_lanes<T, W>(static_cast<const T *>(position_table) + position * channels + c, p);
#pragma unroll
        for (int i = 0; i < W; i++)
            v[i] += p[i];
    }
};

struct activate {
    const void *x;
    enum asdm_activation activation;
    template <class T, int W> __device__ void lanes(size_t first, int, float (&v)[W]) const {
        load_lanes<T, W>(static_cast<const T *>(x) + first, v);
#pragma unroll
        for (int i = 0; i < W; i++)
            v[i] = cuda_activate<sizeof(T) == 4>(activation, v[i]);
    }
};

struct geglu {
    const void *x;
    size_t channels;
    template <class T, int W> __device__ void lanes(size_t token, int c, float (&v)[W]) const {
        const T *values = static_cast<const T *>(x) + token * 2 * channels + c;
        float gate[W];
        load_lanes<T, W>(values, v);
        load_lanes<T, W>(values + channels, gate);
#pragma unroll
        for (int i = 0; i < W; i++)
            v[i] *= cuda_gelu<sizeof(T) == 4>(gate[i]);
    }
};

struct add {
    const void *x, *residual;
    template <class T, int W> __device__ void lanes(size_t first, int, float (&v)[W]) const {
        float r[W];
        load_lanes<T, W>(static_cast<const T *>(x) + first, v);
        load_lanes<T, W>(static_cast<const T *>(residual) + first, r);
#pragma unroll
        for (int i = 0; i < W; i++)
            v[i] += r[i];
    }
};

struct add_row_bias {
    const void *x, *bias;
    const int32_t *map;
    uint32_t tokens;
    size_t channels;
    template <class T, int W> __device__ void lanes(size_t token, int c, float (&v)[W]) const {
        const uint32_t row = token <= UINT32_MAX ? (uint32_t)token / tokens : (uint32_t)(token / tokens);
        const size_t bias_row = map ? (size_t)map[row] : row;
        float b[W];
        load_lanes<T, W>(static_cast<const T *>(x) + token * channels + c, v);
        load_lanes<T, W>(static_cast<const T *>(bias) + bias_row * channels + c, b);
#pragma unroll
        for (int i = 0; i < W; i++)
            v[i] += b[i];
    }
};

struct concat {
    const void *x, *x2;
    int channels, channels2;
    template <class T, int W> __device__ void lanes(size_t token, int c, float (&v)[W]) const {
        const bool first = c < channels;
        const T *source = static_cast<const T *>(first ? x : x2);
        load_lanes<T, W>(source + token * (size_t)(first ? channels : channels2) + (first ? c : c - channels), v);
    }
};

struct upsample {
    const void *x;
    uint32_t height, width, out_height, out_width;
    size_t channels;
    template <class T, int W> __device__ void lanes(size_t token, int c, float (&v)[W]) const {
        const size_t line = token <= UINT32_MAX ? (uint32_t)token / out_width : token / out_width;
        const size_t row = line <= UINT32_MAX ? (uint32_t)line / out_height : line / out_height;
        const size_t i = (line - row * out_height) / 2, j = (token - line * out_width) / 2;
        load_lanes<T, W>(static_cast<const T *>(x) + ((row * height + i) * width + j) * channels + c, v);
    }
};

/* One angle a thread, in double: t reaches 1000, where float32 would be off by 1e-4. */
template <class T>
__global__ void __launch_bounds__(THREADS)
    timestep_kernel(const float *t, T *y, int rows, int channels, bool flip_sin_to_cos, float freq_shift) {
    const int half = channels / 2;
    const size_t n = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const int row = (int)(n / (size_t)(half + 1)), i = (int)(n % (size_t)(half + 1));
    cuda_wait_inputs();
    cuda_launch_dependents();
    if (row >= rows)
        return;
    T *out = y + (size_t)row * channels;
    if (i == half) { /* an odd count's last channel is 0 */
        if (channels % 2)
            out[channels - 1] = cuda_from_float<T>(0.0f);
        return;
    }
    double sine, cosine;
    sincos((double)t[row] * exp(-9.210340371976182736 * i / (half - (double)freq_shift)), &sine, &cosine);
    out[i] = cuda_from_float<T>((float)(flip_sin_to_cos ? cosine : sine));
    out[half + i] = cuda_from_float<T>((float)(flip_sin_to_cos ? sine : cosine));
}

template <class T>
cudaError_t launch_timestep(const float *t, void *y, int rows, int channels, bool flip, float freq_shift,
                            cudaStream_t stream) {
    const size_t threads = (size_t)rows * (size_t)(channels / 2 + 1);
    if (threads == 0)
        return cudaSuccess;
    return cuda_launch(timestep_kernel<T>, dim3((unsigned)((threads + THREADS - 1) / THREADS)), dim3(THREADS), 0,
                       stream, t, static_cast<T *>(y), rows, channels, flip, freq_shift);
}

} // namespace

/* ---- launchers */

extern "C" cudaError_t cuda_import(enum cuda_dtype dtype, const float *x, void *y, int rows, int tokens, int channels,
                                   bool nchw, cudaStream_t stream) {
    const size_t all = (size_t)rows * (size_t)tokens;
    const import_nchw planes = {x, (size_t)tokens, (size_t)channels};
    const convert<float> dense = {x};
    if (nchw)
        return CUDA_BY_DTYPE(dtype, (launch_groups<T, 1>(planes, static_cast<T *>(y), all, channels, stream)));
    return CUDA_BY_DTYPE(dtype, launch_flat<T>(dense, y, all * (size_t)channels, stream));
}

extern "C" cudaError_t cuda_export(enum cuda_dtype dtype, const void *x, float *y, int rows, int tokens, int channels,
                                   bool nchw, cudaStream_t stream) {
    const size_t planes = (size_t)rows * (size_t)channels;
    if (nchw)
        return CUDA_BY_DTYPE(
            dtype, (launch_groups<float, 1>(export_nchw<T>{static_cast<const T *>(x), (size_t)tokens, (size_t)channels},
                                            y, planes, tokens, stream)));
    return CUDA_BY_DTYPE(dtype,
                         launch_flat<float>(convert<T>{static_cast<const T *>(x)}, y, planes * (size_t)tokens, stream));
}

extern "C" cudaError_t cuda_embedding(enum cuda_dtype dtype, const int32_t *ids, const void *token_table,
                                      const void *position_table, void *y, int rows, int tokens, int channels,
                                      cudaStream_t stream) {
    const embedding f = {ids, token_table, position_table, (size_t)tokens, (size_t)channels};
    return CUDA_BY_DTYPE(dtype, launch_tokens<T>(f, y, (size_t)rows * (size_t)tokens, channels, channels, stream));
}

extern "C" cudaError_t cuda_timestep_embedding(enum cuda_dtype dtype, const float *t, void *y, int rows, int channels,
                                               bool flip_sin_to_cos, float freq_shift, cudaStream_t stream) {
    return CUDA_BY_DTYPE(dtype, launch_timestep<T>(t, y, rows, channels, flip_sin_to_cos, freq_shift, stream));
}

extern "C" cudaError_t cuda_activation(enum cuda_dtype dtype, enum asdm_activation activation, const void *x, void *y,
                                       size_t count, cudaStream_t stream) {
    const activate f = {x, activation};
    return CUDA_BY_DTYPE(dtype, launch_flat<T>(f, y, count, stream));
}

extern "C" cudaError_t cuda_geglu(enum cuda_dtype dtype, const void *x, void *y, size_t tokens, int channels,
                                  cudaStream_t stream) {
    const geglu f = {x, (size_t)channels};
    return CUDA_BY_DTYPE(dtype, launch_tokens<T>(f, y, tokens, channels, channels, stream));
}

extern "C" cudaError_t cuda_add(enum cuda_dtype dtype, const void *x, const void *residual, void *y, size_t count,
                                cudaStream_t stream) {
    const add f = {x, residual};
    return CUDA_BY_DTYPE(dtype, launch_flat<T>(f, y, count, stream));
}

extern "C" cudaError_t cuda_add_row_bias(enum cuda_dtype dtype, const void *x, const void *bias, const int32_t *map,
                                         void *y, int rows, int tokens, int channels, cudaStream_t stream) {
    const add_row_bias f = {x, bias, map, (uint32_t)tokens, (size_t)channels};
    return CUDA_BY_DTYPE(dtype, launch_tokens<T>(f, y, (size_t)rows * (size_t)tokens, channels, channels, stream));
}

extern "C" cudaError_t cuda_concat(enum cuda_dtype dtype, const void *x, const void *x2, void *y, size_t tokens,
                                   int channels, int channels2, cudaStream_t stream) {
    const concat f = {x, x2, channels, channels2};
    /* A common divisor of both counts: their lowest set bit. */
    const int both = channels | channels2;
    return CUDA_BY_DTYPE(dtype, launch_tokens<T>(f, y, tokens, channels + channels2, both & -both, stream));
}

extern "C" cudaError_t cuda_upsample(enum cuda_dtype dtype, const void *x, void *y, int rows, int height, int width,
                                     int out_height, int out_width, int channels, cudaStream_t stream) {
    const upsample f = {
        x, (uint32_t)height, (uint32_t)width, (uint32_t)out_height, (uint32_t)out_width, (size_t)channels};
    const size_t tokens = (size_t)rows * (size_t)out_height * (size_t)out_width;
    return CUDA_BY_DTYPE(dtype, launch_tokens<T>(f, y, tokens, channels, channels, stream));
}
