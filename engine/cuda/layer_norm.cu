/* Layer norm: each token by a part of a warp. */
#include "cuda/norm.cuh"

namespace {

enum { TOKEN_THREADS = 128 };

int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

/* `share` threads of a warp (a power of two) take a token, each DEPTH vectors of it. */
template <class T, int DEPTH>
__global__ void __launch_bounds__(TOKEN_THREADS, DEPTH <= 5 ? 4 : 2)
    token_kernel(const T *x, T *y, const float *gain, const float *bias, size_t tokens, int vectors, int share,
                 float eps, bool with_silu) {
    constexpr int W = CUDA_LANES<T>;
    constexpr bool early = DEPTH <= 5;
    const size_t token = ((size_t)blockIdx.x * TOKEN_THREADS + threadIdx.x) / (unsigned)share;
    const int first = (int)threadIdx.x & (share - 1);
    float g[early ? DEPTH : 1][W], b[early ? DEPTH : 1][W];
    uint4 data[DEPTH];
    if constexpr (early) {
#pragma unroll
        for (int i = 0; i < DEPTH; i++)
            if (first + i * share < vectors) {
                load_floats(gain + (first + i * share) * W, g[i]);
                load_floats(bias + (first + i * share) * W, b[i]);
            }
    }
    cuda_wait_inputs();
    cuda_launch_dependents();
    const size_t at = token * (size_t)(vectors * W) + (size_t)(first * W);
    const int mine = token < tokens ? vectors - first : 0; /* of the token's vectors, every share-th of so many */
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        data[i] = i * share < mine ? *reinterpret_cast<const uint4 *>(x + at + (size_t)(i * share * W))
                                   : make_uint4(0, 0, 0, 0);
    float v[W], sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
        cuda_unpack_vector<T>(data[i], v);
#pragma unroll
        for (int j = 0; j < W; j++)
            sum += v[j];
    }
    const float all = 1.0f / (float)(vectors * W), mean = warp_sum(sum, share) * all;
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
        cuda_unpack_vector<T>(data[i], v);
#pragma unroll
        for (int j = 0; j < W; j++) {
            const float d = i * share < mine ? v[j] - mean : 0.0f;
            squares = fmaf(d, d, squares);
        }
    }
    const float scale = rsqrtf(warp_sum(squares, share) * all + eps);
#pragma unroll
    for (int i = 0; i < DEPTH; i++) {
        if (i * share >= mine)
            continue;
        const int k = early ? i : 0;
        if constexpr (!early) {
            load_floats(gain + (first + i * share) * W, g[0]);
            load_floats(bias + (first + i * share) * W, b[0]);
        }
        cuda_unpack_vector<T>(data[i], v);
#pragma unroll
        for (int j = 0; j < W; j++)
            v[j] = fmaf((v[j] - mean) * scale, g[k][j], b[k][j]);
        if (with_silu)
            silu<T>(v);
        cuda_store<T>(y + at + (size_t)(i * share * W), v);
    }
}

/* Any token, by a block. */
template <class T>
__global__ void __launch_bounds__(PLAIN_THREADS) plain_token_kernel(const __grid_constant__ struct cuda_norm n) {
    const int row = (int)(blockIdx.x / (unsigned)n.tokens), channels = n.channels[0] + n.channels[1];
    const size_t token = blockIdx.x % (unsigned)n.tokens;
    cuda_wait_inputs();
    cuda_launch_dependents();
    const struct asdm_moments m = plain_moments<T>(n, row, token, 1, 0, channels);
    const float2 by = make_float2(m.mean, rsqrtf(m.m2 * cuda_inverse((float)channels) + n.eps));
    for (int c = (int)threadIdx.x; c < channels; c += PLAIN_THREADS)
        plain_result<T>(n, row, token, c, by);
}

template <class T, int DEPTH>
cudaError_t launch_tokens(const struct cuda_norm &n, int vectors, int share, cudaStream_t stream) {
    const size_t tokens = (size_t)n.rows * (size_t)n.tokens;
    const size_t blocks = (tokens * (size_t)share + TOKEN_THREADS - 1) / TOKEN_THREADS;
    return cuda_launch(token_kernel<T, DEPTH>, dim3((unsigned)blocks), dim3(TOKEN_THREADS), 0, stream,
                       static_cast<const T *>(n.x[0]), static_cast<T *>(n.y), n.gain, n.bias, tokens, vectors, share,
                       n.eps, n.activation == ASDM_ACT_SILU);
}

template <class T> cudaError_t layer_norm(const struct cuda_norm &n, cudaStream_t stream) {
    const int vectors = n.channels[0] / CUDA_LANES<T>;
    const bool whole = n.channels[0] % CUDA_LANES<T> == 0 && !n.channels[1];
    int share = 1;
    while (share < 32 && ceil_div(vectors, share) > 5)
        share *= 2;
    const int depth = ceil_div(vectors, share);
    if (!whole || depth > 8 || (n.activation != ASDM_ACT_NONE && n.activation != ASDM_ACT_SILU))
        return cuda_launch(plain_token_kernel<T>, dim3((unsigned)n.rows * (unsigned)n.tokens), dim3(PLAIN_THREADS), 0,
                           stream, n);
    switch (depth) {
    case 1:
        return launch_tokens<T, 1>(n, vectors, share, stream);
    case 2:
        return launch_tokens<T, 2>(n, vectors, share, stream);
    case 3:
        return launch_tokens<T, 3>(n, vectors, share, stream);
    case 4:
        return launch_tokens<T, 4>(n, vectors, share, stream);
    case 5:
        return launch_tokens<T, 5>(n, vectors, share, stream);
    default:
        return launch_tokens<T, 8>(n, vectors, share, stream);
    }
}

} // namespace

extern "C" cudaError_t cuda_layer_norm(const struct cuda_norm *n, cudaStream_t stream) {
    if (n->rows == 0 || n->tokens == 0)
        return cudaSuccess;
    return CUDA_BY_DTYPE(n->dtype, layer_norm<T>(*n, stream));
}
