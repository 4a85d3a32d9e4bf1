/* Mean keys and values of the cells of a map, for global-regional attention. */
#include "cuda/windows.cuh"

namespace {

enum { THREADS = 128 };

/* A thread has LANES channels of the keys or the values of a cell. */
template <class T, int LANES>
__global__ void __launch_bounds__(THREADS) cells_kernel(const __grid_constant__ struct cuda_attention a, T *cells) {
    const cuda_regions &map = a.regions;
    const int channels = a.heads * a.head_dim, across = cuda_pieces(map.width, map.pool);
    const int item = (int)(blockIdx.y * THREADS + threadIdx.x), vectors = channels / LANES;
    const int values = item >= vectors, c = (item - values * vectors) * LANES, cell = (int)blockIdx.x;
    const int top = cell / across * map.pool, left = cell % across * map.pool;
    const int bottom = min(top + map.pool, map.height), right = min(left + map.pool, map.width);
    const int stride = values ? a.v_stride : a.k_stride;
    const T *from = (const T *)(values ? a.v : a.k) + (size_t)blockIdx.z * a.tokens * stride + c;
    float sum[LANES] = {};
    cuda_launch_dependents();
    cuda_wait_inputs();
    if (item >= 2 * vectors)
        return;
    for (int y = top; y < bottom; y++) {
#pragma unroll 4
        for (int x = left; x < right; x++) {
            float v[LANES];
            const T *at = from + (size_t)(y * map.width + x) * stride;
            if constexpr (LANES == 1)
                v[0] = cuda_to_float(*at);
            else
                cuda_load(at, v);
#pragma unroll
            for (int i = 0; i < LANES; i++)
                sum[i] += v[i];
        }
    }
    const float scale = 1.0f / (float)((bottom - top) * (right - left));
    T *to = cells + (((size_t)blockIdx.z * gridDim.x + cell) * 2 + values) * channels + c;
#pragma unroll
    for (int i = 0; i < LANES; i++)
        sum[i] *= scale;
    if constexpr (LANES == 1)
        *to = cuda_from_float<T>(sum[0]);
    else
        cuda_store(to, sum);
}

size_t count(const struct cuda_regions &map) {
    return (size_t)cuda_pieces(map.height, map.pool) * (size_t)cuda_pieces(map.width, map.pool);
}

template <class T> cudaError_t launch(const struct cuda_attention &a, T *cells, cudaStream_t stream) {
    constexpr int lanes = CUDA_LANES<T>;
    const int channels = a.heads * a.head_dim;
    const bool wide = channels % lanes == 0 && a.k_stride % lanes == 0 && a.v_stride % lanes == 0 &&
                      (uintptr_t)a.k % 16 == 0 && (uintptr_t)a.v % 16 == 0;
    const int items = 2 * channels / (wide ? lanes : 1);
    const dim3 grid((unsigned)count(a.regions), (unsigned)((items + THREADS - 1) / THREADS), (unsigned)a.rows);
    return wide ? cuda_launch(cells_kernel<T, lanes>, grid, dim3(THREADS), 0, stream, a, cells)
                : cuda_launch(cells_kernel<T, 1>, grid, dim3(THREADS), 0, stream, a, cells);
}

} // namespace

extern "C" size_t cuda_cells_bytes(const struct cuda_attention *a) {
    return (size_t)a->rows * count(a->regions) * 2 * (size_t)a->heads * (size_t)a->head_dim *
           (a->dtype == CUDA_F32 ? 4 : 2);
}

extern "C" cudaError_t cuda_cells(const struct cuda_attention *a, void *cells, cudaStream_t stream) {
    return CUDA_BY_DTYPE(a->dtype, launch<T>(*a, (T *)cells, stream));
}
