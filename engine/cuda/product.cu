/* The general product: convolutions (any kernel, stride, padding; doubled input) and linears with one or two sources,
 * as one implicit matrix product y[m][n] = sum_k x[m][k] w[n][k]. m: pixels of the result, all rows; n: packed output
 * rows; k: (tap, channel), channels innermost. x[m][k] is gathered: no patches are laid out in memory.
 *
 * float16 and bfloat16 on tensor cores (mma.sync, sm_80 on) with float32 sums; float32 by plain FMA. The sum over k has
 * one order, whatever the number of rows. This is the product of the other architectures and of odd shapes; Hopper's
 * own is product_sm90.cu. */
#include "cuda/launch.cuh"

namespace {

/* What the gather of x needs of one m: a pixel of the result. */
struct pixel {
    int row, i, j; /* i, j: of the first tap in x (doubled first if upsample); may be outside: padding */
    int unused;    /* 16 bytes */
};

enum { OUTSIDE = -(1 << 28) }; /* an i that no tap brings inside */

/* Walks along k in steps: tap and channel of k. */
struct walk {
    int tap_i, tap_j, channel;
};

__device__ __forceinline__ struct pixel pixel_of(const struct cuda_product &p, int m, int pixels) {
    struct pixel at = {0, OUTSIDE, 0, 0};
    if (m >= pixels)
        return at;
    const int line = m / p.out_width;
    at.j = (m - line * p.out_width) * p.stride - p.pad_before;
    at.row = line / p.out_height;
    at.i = (line - at.row * p.out_height) * p.stride - p.pad_before;
    return at;
}

__device__ __forceinline__ void advance(const struct cuda_product &p, struct walk *k, int by, int channels) {
    k->channel += by;
    while (k->channel >= channels) {
        k->channel -= channels;
        if (++k->tap_j == p.kernel) {
            k->tap_j = 0;
            k->tap_i++;
        }
    }
}

/* Address of x there; NULL in the padding and past the last k. */
template <class T>
__device__ __forceinline__ const T *gather(const struct cuda_product &p, const struct pixel &at, const struct walk &k) {
    int i = at.i + k.tap_i, j = at.j + k.tap_j;
    const int height = p.upsample ? p.out_height : p.in_height, width = p.upsample ? p.out_width : p.in_width;
    if ((unsigned)i >= (unsigned)height || (unsigned)j >= (unsigned)width || k.tap_i >= p.kernel)
        return nullptr;
    if (p.upsample)
        i /= 2, j /= 2;
    const int source = k.channel >= p.channels[0];
    const size_t place = ((size_t)at.row * (size_t)p.in_height + (size_t)i) * (size_t)p.in_width + (size_t)j;
    return static_cast<const T *>(p.x[source]) + place * (size_t)p.channels[source] +
           (k.channel - (source ? p.channels[0] : 0));
}

/* Which of the kernels is the rows'; where they have kernels of their own, a launch has one row. */
__device__ __forceinline__ int slot_of(const struct cuda_product &p) {
    return p.slots ? *p.slots : 0;
}

/* ---- result */

/* y[m][n], y[m][n + 1] from activated values. A thread reads the residual that it overwrites: they may be one. */
template <class T> __device__ __forceinline__ void store_pair(const struct cuda_product &p, int m, int n, float2 v) {
    const size_t at = (size_t)m * (size_t)p.out_channels + (size_t)n;
    T *y = static_cast<T *>(p.y) + at;
    const T *residual = p.residual ? static_cast<const T *>(p.residual) + at : nullptr;
    if (n >= p.out_channels)
        return;
    if constexpr (sizeof(T) == 2) {
        if (p.out_channels % 2 == 0) {
            if (residual) {
                const float2 r = cuda_unpack(*reinterpret_cast<const uint32_t *>(residual), T());
                v.x += r.x, v.y += r.y;
            }
            *reinterpret_cast<uint32_t *>(y) = cuda_pack(v.x, v.y, T());
            return;
        }
    }
    y[0] = cuda_from_float<T>(v.x + (residual ? cuda_to_float(residual[0]) : 0.0f));
    if (n + 1 < p.out_channels)
        y[1] = cuda_from_float<T>(v.y + (residual ? cuda_to_float(residual[1]) : 0.0f));
}

__device__ __forceinline__ float2 add_bias(const struct cuda_product &p, int n, int columns, float2 v) {
    const float *bias = p.bias ? p.bias + (size_t)slot_of(p) * columns : nullptr;
    if (bias && n < columns)
        v.x += bias[n];
    if (bias && n + 1 < columns)
        v.y += bias[n + 1];
    return v;
}

/* Sums of packed columns n, n + 1 (`first`) and n + 8, n + 9 (`second`), n % 16 < 8: with geglu, values and gates. */
template <class T>
__device__ __forceinline__ void finish(const struct cuda_product &p, int m, int n, float2 first, float2 second) {
    constexpr bool exact = sizeof(T) == 4;
    const int columns = p.geglu ? 2 * p.out_channels : p.out_channels;
    first = add_bias(p, n, columns, first);
    second = add_bias(p, n + 8, columns, second);
    if (p.geglu) {
        first.x *= cuda_gelu<exact>(second.x);
        first.y *= cuda_gelu<exact>(second.y);
        store_pair<T>(p, m, n / 16 * 8 + n % 8, first);
        return;
    }
    if (p.activation != ASDM_ACT_NONE) {
        first.x = cuda_activate<exact>(p.activation, first.x);
        first.y = cuda_activate<exact>(p.activation, first.y);
        second.x = cuda_activate<exact>(p.activation, second.x);
        second.y = cuda_activate<exact>(p.activation, second.y);
    }
    store_pair<T>(p, m, n, first);
    store_pair<T>(p, m, n + 8, second);
}

/* ---- tensor cores */

enum {
    TILE_M = 128,
    TILE_N = 64,
    TILE_K = 32,
    PITCH = TILE_K + 8, /* 80 bytes: the eight rows of an ldmatrix fall into different banks */
    STAGES = 3,
    THREADS = 256, /* warps 4 x 2, each 32 x 32 of the tile */
    STAGE_ELEMENTS = (TILE_M + TILE_N) * PITCH
};

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* E elements of 2 bytes from x (NULL: zeros) to shared memory, in the background; a single one at once. */
template <int E, class T> __device__ __forceinline__ void copy_elements(T *to, const T *from, const T *anywhere) {
    if constexpr (E == 1) {
        *reinterpret_cast<uint16_t *>(to) = from ? *reinterpret_cast<const uint16_t *>(from) : (uint16_t)0;
    } else if constexpr (E == 8) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                     "l"(from ? from : anywhere), "r"(from ? 16 : 0)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)),
                     "l"(from ? from : anywhere), "n"(E * 2), "r"(from ? E * 2 : 0)
                     : "memory");
    }
}

__device__ __forceinline__ void copies_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int LEFT> __device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* Four 8x8 matrices of 2-byte elements; thread t gives the address of row t % 8 of matrix t / 8. */
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* d += a b': 16 x 16 by 8 x 16 */
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                         __nv_bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Loads tile after tile along k. A thread copies the same E elements of k of several rows of x and of the weight. */
template <class T, int E> struct loader {
    static constexpr int PER_ROW = TILE_K / E, ROWS = THREADS / PER_ROW; /* copies in a row; rows at a time */
    struct walk k;
    int channels, depth, position, first_row, in_row, first_n, columns;
    const T *weight;

    __device__ __forceinline__ loader(const struct cuda_product &p, int n0) {
        channels = p.channels[0] + p.channels[1];
        depth = p.kernel * p.kernel * channels;
        columns = p.geglu ? 2 * p.out_channels : p.out_channels;
        in_row = (int)threadIdx.x % PER_ROW * E;
        first_row = (int)threadIdx.x / PER_ROW;
        first_n = n0 + first_row;
        position = in_row;
        weight = static_cast<const T *>(p.weight) + (size_t)slot_of(p) * columns * depth;
        k = {0, 0, 0};
        advance(p, &k, in_row, channels);
    }
    __device__ __forceinline__ void next(const struct cuda_product &p, const struct pixel *pixels, T *stage) {
        T *a = stage + first_row * PITCH + in_row, *b = a + TILE_M * PITCH;
        const T *x = static_cast<const T *>(p.x[0]), *w = weight;
#pragma unroll
        for (int r = 0; r < TILE_M; r += ROWS)
            copy_elements<E>(a + r * PITCH, gather<T>(p, pixels[first_row + r], k), x);
#pragma unroll
        for (int r = 0; r < TILE_N; r += ROWS) {
            const bool inside = first_n + r < columns && position < depth;
            copy_elements<E>(b + r * PITCH, inside ? w + (size_t)(first_n + r) * (size_t)depth + position : nullptr, w);
        }
        position += TILE_K;
        advance(p, &k, TILE_K, channels);
    }
};

/* A warp's 32 x 32 sums: [16 rows][8 columns]. */
typedef float accumulators[2][4][4];

template <class T>
__device__ __forceinline__ void multiply_tile(accumulators &sums, const T *stage, int warp_m, int warp_n) {
    const int thread = (int)threadIdx.x % 32;
    const T *a = stage + (warp_m + thread % 16) * PITCH + thread / 16 * 8;
    const T *b = stage + (TILE_M + warp_n + thread % 8 + thread / 16 * 8) * PITCH + thread / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < TILE_K; k += 16) {
        uint32_t fa[2][4], fb[2][4]; /* fb: two times 8 columns, each two halves of k */
#pragma unroll
        for (int i = 0; i < 2; i++) {
            load_matrices(fa[i], a + i * 16 * PITCH + k);
            load_matrices(fb[i], b + i * 16 * PITCH + k);
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                multiply(sums[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1], T());
    }
}

template <class T>
__device__ __forceinline__ void finish_tile(const struct cuda_product &p, const accumulators &sums, int m0, int n0,
                                            int pixels) {
    const int thread = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++) { /* blocks of 8 rows */
        const int m = m0 + i * 8 + thread / 4;
        if (m >= pixels)
            continue;
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            const float(&first)[4] = sums[i / 2][j], (&second)[4] = sums[i / 2][j + 1];
            finish<T>(p, m, n0 + j * 8 + thread % 4 * 2, make_float2(first[i % 2 * 2], first[i % 2 * 2 + 1]),
                      make_float2(second[i % 2 * 2], second[i % 2 * 2 + 1]));
        }
    }
}

template <class T, int E>
__global__ void __launch_bounds__(THREADS, 2) tensor_kernel(const __grid_constant__ struct cuda_product p, int pixels) {
    __shared__ struct pixel pixel_table[TILE_M];
    __shared__ __align__(16) T ring[STAGES * STAGE_ELEMENTS];
    const int m0 = (int)blockIdx.x * TILE_M, n0 = (int)blockIdx.y * TILE_N, warp = (int)threadIdx.x / 32;
    const int warp_m = warp / 2 * 32, warp_n = warp % 2 * 32;
    if (threadIdx.x < TILE_M)
        pixel_table[threadIdx.x] = pixel_of(p, m0 + (int)threadIdx.x, pixels);
    __syncthreads();
    cuda_wait_inputs();
    cuda_launch_dependents();

    struct loader<T, E> load(p, n0);
    const int tiles = (load.depth + TILE_K - 1) / TILE_K;
    for (int t = 0; t < STAGES - 1; t++) {
        if (t < tiles)
            load.next(p, pixel_table, ring + t * STAGE_ELEMENTS);
        copies_commit();
    }
    accumulators sums = {};
    for (int t = 0; t < tiles; t++) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        if (t + STAGES - 1 < tiles)
            load.next(p, pixel_table, ring + (t + STAGES - 1) % STAGES * STAGE_ELEMENTS);
        copies_commit();
        multiply_tile<T>(sums, ring + t % STAGES * STAGE_ELEMENTS, warp_m, warp_n);
    }
    copies_wait<0>();
    finish_tile<T>(p, sums, m0 + warp_m, n0 + warp_n, pixels);
}

/* ---- float32: a thread has 4 x 4 of a 64 x 64 tile; its columns are two pairs 8 apart, as `finish` takes them */

enum { PLAIN_TILE = 64, PLAIN_K = 16, PLAIN_PITCH = PLAIN_TILE + 4 };
static_assert((int)PLAIN_TILE == (int)TILE_N, "the launch counts columns by one tile");

/* One slice of k: element threadIdx.x % 16 of it, for rows threadIdx.x / 16 + 16 i. */
__device__ __forceinline__ void load_slice(const struct cuda_product &p, const float *weight,
                                           const struct pixel *pixels, const struct walk &k, int position, int n0,
                                           int depth, float (&a)[4], float (&b)[4]) {
    const int columns = p.geglu ? 2 * p.out_channels : p.out_channels, r0 = (int)threadIdx.x / PLAIN_K;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float *x = gather<float>(p, pixels[r0 + i * 16], k);
        const int n = n0 + r0 + i * 16;
        a[i] = x ? *x : 0.0f;
        b[i] = n < columns && position < depth ? weight[(size_t)n * (size_t)depth + (size_t)position] : 0.0f;
    }
}

__global__ void __launch_bounds__(THREADS, 2) plain_kernel(const __grid_constant__ struct cuda_product p, int pixels) {
    __shared__ struct pixel pixel_table[PLAIN_TILE];
    __shared__ __align__(16) float slice_a[PLAIN_K][PLAIN_PITCH], slice_b[PLAIN_K][PLAIN_PITCH];
    const int m0 = (int)blockIdx.x * PLAIN_TILE, n0 = (int)blockIdx.y * PLAIN_TILE;
    const int channels = p.channels[0] + p.channels[1], depth = p.kernel * p.kernel * channels;
    const int k0 = (int)threadIdx.x % PLAIN_K, r0 = (int)threadIdx.x / PLAIN_K;
    const int column = r0 / 4 * 16 + r0 % 4 * 2, line = k0 * 4; /* of the thread's results in the tile */
    if (threadIdx.x < PLAIN_TILE)
        pixel_table[threadIdx.x] = pixel_of(p, m0 + (int)threadIdx.x, pixels);
    __syncthreads();
    cuda_wait_inputs();
    cuda_launch_dependents();

    float sums[4][4] = {}, next_a[4], next_b[4];
    struct walk k = {0, 0, 0};
    advance(p, &k, k0, channels);
    const float *weight = static_cast<const float *>(p.weight) + (size_t)slot_of(p) * p.out_channels * depth;
    load_slice(p, weight, pixel_table, k, k0, n0, depth, next_a, next_b);
    for (int position = k0; position - k0 < depth;) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            slice_a[k0][r0 + i * 16] = next_a[i];
            slice_b[k0][r0 + i * 16] = next_b[i];
        }
        __syncthreads();
        position += PLAIN_K;
        advance(p, &k, PLAIN_K, channels);
        if (position - k0 < depth)
            load_slice(p, weight, pixel_table, k, position, n0, depth, next_a, next_b);
#pragma unroll
        for (int s = 0; s < PLAIN_K; s++) {
            const float4 a = *reinterpret_cast<const float4 *>(&slice_a[s][line]);
            const float2 b0 = *reinterpret_cast<const float2 *>(&slice_b[s][column]);
            const float2 b1 = *reinterpret_cast<const float2 *>(&slice_b[s][column + 8]);
            const float va[4] = {a.x, a.y, a.z, a.w}, vb[4] = {b0.x, b0.y, b1.x, b1.y};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sums[i][j] = fmaf(va[i], vb[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (m0 + line + i < pixels)
            finish<float>(p, m0 + line + i, n0 + column, make_float2(sums[i][0], sums[i][1]),
                          make_float2(sums[i][2], sums[i][3]));
}

/* ---- launch */

template <class T> cudaError_t launch_tensor(const struct cuda_product &p, dim3 grid, int pixels, cudaStream_t stream) {
    const int both = p.channels[0] | p.channels[1]; /* copies must not cross taps or sources */
    if (both % 8 == 0)
        return cuda_launch(tensor_kernel<T, 8>, grid, dim3(THREADS), 0, stream, p, pixels);
    if (both % 4 == 0)
        return cuda_launch(tensor_kernel<T, 4>, grid, dim3(THREADS), 0, stream, p, pixels);
    return cuda_launch(tensor_kernel<T, 1>, grid, dim3(THREADS), 0, stream, p, pixels);
}

} // namespace

extern "C" size_t cuda_product_scratch(const struct cuda_product *p) {
    (void)p;
    return 0;
}

static cudaError_t launch_rows(const struct cuda_product *p, cudaStream_t stream) {
    const size_t pixels = (size_t)p->rows * (size_t)p->out_height * (size_t)p->out_width;
    const size_t columns = cuda_product_rows(p);
    if (pixels == 0 || columns == 0)
        return cudaSuccess;
    if (pixels > INT32_MAX - TILE_M || columns > INT32_MAX - TILE_N || cuda_product_depth(p) > INT32_MAX - TILE_K)
        return cudaErrorInvalidValue;
    const unsigned tile_n = TILE_N; /* of both kernels */
    const unsigned tile_m = p->dtype == CUDA_F32 ? (unsigned)PLAIN_TILE : (unsigned)TILE_M;
    const dim3 grid((unsigned)((pixels + tile_m - 1) / tile_m), (unsigned)((columns + tile_n - 1) / tile_n));
    if (p->dtype == CUDA_F32)
        return cuda_launch(plain_kernel, grid, dim3(THREADS), 0, stream, *p, (int)pixels);
    if (p->dtype == CUDA_F16)
        return launch_tensor<__half>(*p, grid, (int)pixels, stream);
    return launch_tensor<__nv_bfloat16>(*p, grid, (int)pixels, stream);
}

extern "C" cudaError_t cuda_product(const struct cuda_product *p, cudaStream_t stream) {
    const size_t element = p->dtype == CUDA_F32 ? 4 : 2;
    const size_t in = (size_t)p->in_height * (size_t)p->in_width * element;
    const size_t out = (size_t)p->out_height * (size_t)p->out_width * (size_t)p->out_channels * element;
    if (!p->slots)
        return launch_rows(p, stream);
    for (int row = 0; row < p->rows; row++) { /* a tile would have pixels of several rows */
        struct cuda_product one = *p;
        one.rows = 1;
        one.slots += row;
        for (int i = 0; i < 2; i++)
            one.x[i] = p->x[i] ? (const unsigned char *)p->x[i] + row * in * (size_t)p->channels[i] : nullptr;
        one.residual = p->residual ? (const unsigned char *)p->residual + row * out : nullptr;
        one.y = (unsigned char *)p->y + row * out;
        const cudaError_t status = launch_rows(&one, stream);
        if (status != cudaSuccess)
            return status;
    }
    return cudaSuccess;
}
