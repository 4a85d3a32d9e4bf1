/* Moments of a value's parts (ops/moments.h), where its producer's kernel does not find them itself: as that one would.
 */
#include "cuda/moments.cuh"

namespace {

enum { THREADS = 256 };

template <class T>
__global__ void __launch_bounds__(THREADS) moments_kernel(const T *x, size_t parts, int channels,
                                                          struct asdm_moments_layout layout, struct asdm_moments *ret) {
    const size_t own = ((size_t)blockIdx.x * THREADS + threadIdx.x) / CUDA_PART_LANES, part = min(own, parts - 1);
    cuda_wait_inputs();
    cuda_launch_dependents();
    const size_t slab = part / layout.granules, granule = part - slab * layout.granules; /* slabs of all rows */
    const T *first = x + slab * layout.slab * channels + granule * layout.granule;
    const T *mine = first + (size_t)(threadIdx.x % CUDA_PART_LANES) * channels;
    const struct asdm_moments moments =
        cuda_part_moments(layout.slab, layout.granule, cuda_to_float(first[0]), [&](int i, int c) {
            return cuda_load_pair(mine + (size_t)(i * CUDA_PART_LANES) * channels + c);
        });
    if (own == part && threadIdx.x % CUDA_PART_LANES == 0)
        ret[part] = moments;
}

template <class T>
cudaError_t launch(const void *x, int rows, int channels, const struct asdm_moments_layout &layout,
                   struct asdm_moments *ret, cudaStream_t stream) {
    const size_t parts = (size_t)rows * layout.slabs * layout.granules;
    const size_t blocks = (parts * CUDA_PART_LANES + THREADS - 1) / THREADS;
    return cuda_launch(moments_kernel<T>, dim3((unsigned)blocks), dim3(THREADS), 0, stream, static_cast<const T *>(x),
                       parts, channels, layout, ret);
}

} // namespace

extern "C" cudaError_t cuda_moments(enum cuda_dtype dtype, const void *x, int rows, int channels,
                                    struct asdm_moments_layout layout, struct asdm_moments *ret, cudaStream_t stream) {
    return CUDA_BY_DTYPE(dtype, launch<T>(x, rows, channels, layout, ret, stream));
}
