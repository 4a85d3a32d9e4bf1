/* What the kernels share: the launch, the dependency on the grid before, 16-byte vectors of each element type, and the
 * activations.
 *
 * Kernels overlap their start with the end of the one before (programmatic dependent launch). So each executes
 * cuda_wait_inputs() before it reads what another kernel wrote and before it writes anything. Addresses that
 * kernels write must not be read through the read-only path (no __restrict__ on them, no __ldg): the compiler could
 * move such a read above the wait. */
#ifndef ASDM_CUDA_LAUNCH_CUH
#define ASDM_CUDA_LAUNCH_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "cuda/kernels.h"

/* ---- host */

enum { CUDA_DEVICES_MAX = 64, CUDA_SHARED_DEFAULT = 48 * 1024 };

/* Compute capability of the current device as major * 10 + minor; 0 when there is none. */
static inline int cuda_capability() {
    static int known[CUDA_DEVICES_MAX];
    int device = 0, major = 0, minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess || device >= CUDA_DEVICES_MAX)
        return 0;
    if (!known[device]) { /* threads that race here store the same number */
        if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
            cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
            return 0;
        known[device] = major * 10 + minor;
    }
    return known[device];
}

/* SMs of the current device; 1 when there is none. All devices of a process are taken to be alike. */
static inline int cuda_processors() {
    static const int processors = [] {
        int device = 0, count = 0;
        return cudaGetDevice(&device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
                       count > 0
                   ? count
                   : 1;
    }();
    return processors;
}

/* Launches with clusters of `cluster` blocks along x (1: none; more needs capability 9.0). Arguments convert to the
 * kernel's parameter types. */
template <class... P, class... A>
static cudaError_t cuda_launch_cluster(void (*kernel)(P...), dim3 grid, dim3 block, unsigned cluster, size_t shared,
                                       cudaStream_t stream, A... arguments) {
    const bool dependent = cuda_capability() >= 90;
    if (shared > CUDA_SHARED_DEFAULT) {
        cudaError_t status =
            cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
        if (status != cudaSuccess)
            return status;
    }
    cudaLaunchAttribute attributes[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
    if (dependent) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs].val.clusterDim.x = cluster;
        attributes[config.numAttrs].val.clusterDim.y = 1;
        attributes[config.numAttrs++].val.clusterDim.z = 1;
    }
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

template <class... P, class... A>
static cudaError_t cuda_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                               A... arguments) {
    return cuda_launch_cluster(kernel, grid, block, 1, shared, stream, arguments...);
}

/* ---- device: dependency on the grid before */

/* Returns when every earlier kernel of the stream has finished and its writes are visible. */
static __device__ __forceinline__ void cuda_wait_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Lets the next kernel's blocks start (they still wait for this grid's end before they touch its results). */
static __device__ __forceinline__ void cuda_launch_dependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- device: elements */

static __device__ __forceinline__ float cuda_to_float(float x) {
    return x;
}
static __device__ __forceinline__ float cuda_to_float(__half x) {
    return __half2float(x);
}
static __device__ __forceinline__ float cuda_to_float(__nv_bfloat16 x) {
    return __bfloat162float(x);
}

template <class T> static __device__ __forceinline__ T cuda_from_float(float x);
template <> __device__ __forceinline__ float cuda_from_float<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ __half cuda_from_float<__half>(float x) {
    return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 cuda_from_float<__nv_bfloat16>(float x) {
    return __float2bfloat16_rn(x);
}

/* Elements of a 16-byte vector. */
template <class T> constexpr int CUDA_LANES = 16 / (int)sizeof(T);

/* 32 bits <-> two elements of 16. */
static __device__ __forceinline__ float2 cuda_unpack(uint32_t bits, __half) {
    return __half22float2(*reinterpret_cast<const __half2 *>(&bits));
}
static __device__ __forceinline__ float2 cuda_unpack(uint32_t bits, __nv_bfloat16) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
}
static __device__ __forceinline__ uint32_t cuda_pack(float a, float b, __half) {
    const __half2 h = __floats2half2_rn(a, b);
    return *reinterpret_cast<const uint32_t *>(&h);
}
static __device__ __forceinline__ uint32_t cuda_pack(float a, float b, __nv_bfloat16) {
    const __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<const uint32_t *>(&h);
}

template <class T> static __device__ __forceinline__ void cuda_unpack_vector(uint4 bits, float (&v)[CUDA_LANES<T>]) {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if constexpr (sizeof(T) == 4) {
            v[i] = __uint_as_float(words[i]);
        } else {
            const float2 pair = cuda_unpack(words[i], T());
            v[2 * i] = pair.x;
            v[2 * i + 1] = pair.y;
        }
    }
}

template <class T> static __device__ __forceinline__ uint4 cuda_pack_vector(const float (&v)[CUDA_LANES<T>]) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if constexpr (sizeof(T) == 4)
            words[i] = __float_as_uint(v[i]);
        else
            words[i] = cuda_pack(v[2 * i], v[2 * i + 1], T());
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

/* One 16-byte vector; p is 16-byte aligned. */
template <class T> static __device__ __forceinline__ void cuda_load(const T *p, float (&v)[CUDA_LANES<T>]) {
    cuda_unpack_vector<T>(*reinterpret_cast<const uint4 *>(p), v);
}
template <class T> static __device__ __forceinline__ void cuda_store(T *p, const float (&v)[CUDA_LANES<T>]) {
    *reinterpret_cast<uint4 *>(p) = cuda_pack_vector<T>(v);
}

/* Runs body with a value of the element type: CUDA_BY_DTYPE(dtype, launch<T>(...)). */
#define CUDA_BY_DTYPE(dtype, call)                                                                                     \
    [&]() -> cudaError_t {                                                                                             \
        if ((dtype) == CUDA_F16) {                                                                                     \
            using T = __half;                                                                                          \
            return call;                                                                                               \
        }                                                                                                              \
        if ((dtype) == CUDA_BF16) {                                                                                    \
            using T = __nv_bfloat16;                                                                                   \
            return call;                                                                                               \
        }                                                                                                              \
        using T = float;                                                                                               \
        return call;                                                                                                   \
    }()

/* ---- device: the special function unit's own, in one instruction */

static __device__ __forceinline__ float cuda_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ float cuda_reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ---- device: activations. EXACT: to float32's precision; otherwise to well below half's and bfloat16's. */

template <bool EXACT> static __device__ __forceinline__ float cuda_logistic_times(float x, float slope) {
    if (EXACT)
        return x / (1.0f + expf(-slope * x));
    return __fdividef(x, 1.0f + __expf(-slope * x));
}

template <bool EXACT> static __device__ __forceinline__ float cuda_gelu(float x) {
    if (EXACT)
        return 0.5f * x * erfcf(-0.70710678118654752440f * x); /* 1 + erf would cancel in the tail */
    const float half_x = 0.5f * x;
    return half_x + half_x * erff(0.70710678118654752440f * x);
}

/* 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)) */
template <bool EXACT> static __device__ __forceinline__ float cuda_gelu_tanh(float x) {
    const float u2 = 1.59576912160573071176f * (x + 0.044715f * x * x * x);
    return EXACT ? x / (1.0f + expf(-u2)) : __fdividef(x, 1.0f + __expf(-u2));
}

template <bool EXACT> static __device__ __forceinline__ float cuda_activate(enum asdm_activation activation, float x) {
    switch (activation) {
    case ASDM_ACT_SILU:
        return cuda_logistic_times<EXACT>(x, 1.0f);
    case ASDM_ACT_GELU:
        return cuda_gelu<EXACT>(x);
    case ASDM_ACT_GELU_TANH:
        return cuda_gelu_tanh<EXACT>(x);
    case ASDM_ACT_QUICK_GELU:
        return cuda_logistic_times<EXACT>(x, 1.702f);
    case ASDM_ACT_RELU:
        return fmaxf(x, 0.0f); /* NaN becomes 0, as in x > 0 ? x : 0 */
    case ASDM_ACT_NONE:
        break;
    }
    return x;
}

#endif
