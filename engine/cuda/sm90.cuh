/* Hopper's own instructions (sm_90a) behind small functions: mbarriers, the tensor copy engine (TMA), wgmma, clusters
 * and programmatic dependent launch; and, on the host, the encoding of tensor maps. Names follow the PTX ISA 8.x, where
 * each is defined. Shared memory addresses are 32-bit addresses of the shared window (sm90_smem).
 *
 * Compiled for another architecture the device functions are empty: kernels that use them are never launched there. */
#ifndef ASDM_CUDA_SM90_CUH
#define ASDM_CUDA_SM90_CUH

#include <cuda.h>
#include <cuda_runtime.h>
#include <stdint.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || (defined(__CUDA_ARCH_SPECIFIC__) && __CUDA_ARCH_SPECIFIC__ == 900)
#define SM90_CODE 1
#else
#define SM90_CODE 0
#endif

/* Compile with -DSM90_SPIN_LIMIT=n: a wait on an mbarrier that fails n times traps, so that a hang is an error. */
#ifndef SM90_SPIN_LIMIT
#define SM90_SPIN_LIMIT 0
#endif

#define SM90_INLINE static __device__ __forceinline__

SM90_INLINE uint32_t sm90_smem(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

#if SM90_CODE

/* ---- mbarrier */

SM90_INLINE void sm90_mbarrier_init(uint32_t barrier, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

/* After the inits: makes them visible to the copy engine and, after a cluster barrier, to the cluster. */
SM90_INLINE void sm90_fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

SM90_INLINE void sm90_mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

SM90_INLINE void sm90_mbarrier_expect_tx(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

SM90_INLINE bool sm90_mbarrier_try_wait(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done != 0;
}

/* Waits until the phase of parity `parity` has completed. */
SM90_INLINE void sm90_mbarrier_wait(uint32_t barrier, uint32_t parity) {
#if SM90_SPIN_LIMIT
    for (uint32_t spin = 0; !sm90_mbarrier_try_wait(barrier, parity); spin++)
        if (spin > SM90_SPIN_LIMIT)
            __trap();
#else
    while (!sm90_mbarrier_try_wait(barrier, parity)) {
    }
#endif
}

/* ---- TMA: a box of the tensor to shared memory; its bytes are counted on `barrier`. Coordinates innermost first.
 * `policy`: an L2 eviction policy, see SM90_EVICT_*. */

#define SM90_EVICT_NORMAL 0x1000000000000000ull
#define SM90_EVICT_FIRST 0x12F0000000000000ull
#define SM90_EVICT_LAST 0x14F0000000000000ull

SM90_INLINE void sm90_prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

SM90_INLINE void sm90_load_2d(uint32_t dst, const CUtensorMap *map, uint32_t barrier, int x0, int x1,
                              uint64_t policy = SM90_EVICT_NORMAL) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
                 "l"(map), "r"(barrier), "r"(x0), "r"(x1), "l"(policy)
                 : "memory");
}

SM90_INLINE void sm90_load_4d(uint32_t dst, const CUtensorMap *map, uint32_t barrier, int x0, int x1, int x2, int x3,
                              uint64_t policy = SM90_EVICT_NORMAL) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(dst),
                 "l"(map), "r"(barrier), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "l"(policy)
                 : "memory");
}

/* im2col over [n][h][w][c]: pixelsPerColumn pixels from base pixel (w, h, n) on, each read at offset (dw, dh). */
SM90_INLINE void sm90_load_im2col(uint32_t dst, const CUtensorMap *map, uint32_t barrier, int c, int w, int h, int n,
                                  uint16_t dw, uint16_t dh, uint64_t policy = SM90_EVICT_NORMAL) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8}, %9;" ::"r"(dst),
                 "l"(map), "r"(barrier), "r"(c), "r"(w), "r"(h), "r"(n), "h"(dw), "h"(dh), "l"(policy)
                 : "memory");
}

/* `bytes` in a row, a multiple of 16 from a multiple of 16. */
SM90_INLINE void sm90_load_bytes(uint32_t dst, const void *src, int bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst),
                 "l"(src), "r"(bytes), "r"(barrier)
                 : "memory");
}

/* The way back: what lies outside of the tensor is not written. Stores are committed in groups, and waited for by the
 * thread that put them in: until all have been read, or until all are done. */
SM90_INLINE void sm90_store_2d(const CUtensorMap *map, uint32_t src, int x0, int x1) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(src), "r"(x0), "r"(x1)
                 : "memory");
}
/* 16 bytes to shared memory by this thread, which waits for them by sm90_copy_wait(). */
SM90_INLINE void sm90_copy_async(uint32_t dst, const void *src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}
SM90_INLINE void sm90_copy_wait() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

SM90_INLINE void sm90_store_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
SM90_INLINE void sm90_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* Orders this thread's ordinary accesses to shared memory before those of the copy engine and the tensor cores. */
SM90_INLINE void sm90_fence_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- wgmma */

/* What a wgmma is told of an operand's tile in shared memory. Unswizzled: of core matrices, 8 rows of 16 bytes in a
 * row; bytes from one to the next along the depth (leading) and across it (stride). */
SM90_INLINE uint64_t sm90_descriptor_plain(uint32_t smem, uint32_t leading, uint32_t stride) {
    return (uint64_t)(smem >> 4) | (uint64_t)(leading >> 4) << 16 | (uint64_t)(stride >> 4) << 32;
}

/* Blocks of rows of 128, 64 or 32 bytes, swizzled as wide as they are (sm90_swizzle_of) and aligned to 8 of them.
 * Either the depth is contiguous, or what is across it: then `leading` is from one block to the next. */
SM90_INLINE uint64_t sm90_descriptor_swizzled(uint32_t smem, uint32_t leading, int row_bytes) {
    return sm90_descriptor_plain(smem, leading, 8 * row_bytes) | (uint64_t)(row_bytes == 128  ? 1
                                                                            : row_bytes == 64 ? 2
                                                                                              : 3)
                                                                     << 62;
}

/* A K-major tile of rows of 64 16-bit values. The next 16 values along K: + 2. */
SM90_INLINE uint64_t sm90_descriptor(uint32_t smem) {
    return sm90_descriptor_swizzled(smem & 0x3FFFF, 16, 128);
}

SM90_INLINE void sm90_wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

SM90_INLINE void sm90_wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int n> SM90_INLINE void sm90_wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}

/* d = a b' (+ d if `accumulate`): m64nNk16 on both operands' tiles in shared memory, N = 2 * count: the warpgroup's
 * thread holds, of rows g and g + 8 (g = 16 * warp + lane / 4) and columns c and c + 1 (c = 8 j + 2 * (lane % 4)),
 * d[4 j] = (g, c), d[4 j + 1] = (g, c + 1), d[4 j + 2] = (g + 8, c), d[4 j + 3] = (g + 8, c + 1). */
template <bool bf16, int count> SM90_INLINE void sm90_wgmma(float (&d)[count], uint64_t a, uint64_t b, bool accumulate);

/* Groups of 8 registers: their names in the instruction's text, and their operands. */
#define SM90_R8_0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define SM90_R8_1 SM90_R8_0 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define SM90_R8_2 SM90_R8_1 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define SM90_R8_3 SM90_R8_2 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define SM90_R8_4 SM90_R8_3 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define SM90_R8_5 SM90_R8_4 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define SM90_R8_6 SM90_R8_5 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define SM90_R8_7 SM90_R8_6 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define SM90_R8_8 SM90_R8_7 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define SM90_R8_9 SM90_R8_8 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define SM90_R8_10 SM90_R8_9 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define SM90_R8_11 SM90_R8_10 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define SM90_R8_12 SM90_R8_11 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define SM90_R8_13 SM90_R8_12 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define SM90_R8_14 SM90_R8_13 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define SM90_R8_15 SM90_R8_14 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define SM90_D8(i)                                                                                                     \
    "+f"(d[8 * (i)]), "+f"(d[8 * (i) + 1]), "+f"(d[8 * (i) + 2]), "+f"(d[8 * (i) + 3]), "+f"(d[8 * (i) + 4]),          \
        "+f"(d[8 * (i) + 5]), "+f"(d[8 * (i) + 6]), "+f"(d[8 * (i) + 7])
#define SM90_D16(i) SM90_D8(2 * (i)), SM90_D8(2 * (i) + 1)
#define SM90_D32(i) SM90_D16(2 * (i)), SM90_D16(2 * (i) + 1)
#define SM90_D64(i) SM90_D32(2 * (i)), SM90_D32(2 * (i) + 1)

/* n columns, `last` the last group of registers, %a %b %p the operands after them. */
#define SM90_WGMMA(type, is_bf16, n, last, a_, b_, p_, ...)                                                            \
    template <>                                                                                                        \
    SM90_INLINE_SPEC void sm90_wgmma<is_bf16, n / 2>(float(&d)[n / 2], uint64_t a, uint64_t b, bool accumulate) {      \
        asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, " p_ ", 0;\n"                                                 \
                     " wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" last "}, " a_ ", " b_       \
                     ", p, 1, 1, 0, 0;\n}"                                                                             \
                     : __VA_ARGS__                                                                                     \
                     : "l"(a), "l"(b), "r"((int)accumulate));                                                          \
    }
#define SM90_INLINE_SPEC __device__ __forceinline__
#define SM90_WGMMA_TYPES(n, last, a_, b_, p_, ...)                                                                     \
    SM90_WGMMA("f16", false, n, last, a_, b_, p_, __VA_ARGS__)                                                         \
    SM90_WGMMA("bf16", true, n, last, a_, b_, p_, __VA_ARGS__)

SM90_WGMMA_TYPES(16, SM90_R8_0, "%8", "%9", "%10", SM90_D8(0))
SM90_WGMMA_TYPES(32, SM90_R8_1, "%16", "%17", "%18", SM90_D16(0))
SM90_WGMMA_TYPES(64, SM90_R8_3, "%32", "%33", "%34", SM90_D32(0))
SM90_WGMMA_TYPES(80, SM90_R8_4, "%40", "%41", "%42", SM90_D32(0), SM90_D8(4))
SM90_WGMMA_TYPES(128, SM90_R8_7, "%64", "%65", "%66", SM90_D64(0))
SM90_WGMMA_TYPES(160, SM90_R8_9, "%80", "%81", "%82", SM90_D64(0), SM90_D16(4))
SM90_WGMMA_TYPES(256, SM90_R8_15, "%128", "%129", "%130", SM90_D64(0), SM90_D64(1))

/* Keeps the compiler from moving accesses to registers that a wgmma is still writing. */
template <int count> SM90_INLINE void sm90_hold(float (&d)[count]) {
#pragma unroll
    for (int i = 0; i < count; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int n> SM90_INLINE void sm90_setmaxnreg_inc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

template <int n> SM90_INLINE void sm90_setmaxnreg_dec() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}

/* ---- clusters and named barriers */

SM90_INLINE void sm90_cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}

/* Orders no memory: for CTAs that only tell how far they are. */
SM90_INLINE void sm90_cluster_arrive_relaxed() {
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}

SM90_INLINE void sm90_cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

/* `smem` of this CTA -> the same place in CTA `rank` of the cluster. */
SM90_INLINE uint32_t sm90_mapa(uint32_t smem, uint32_t rank) {
    uint32_t mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(smem), "r"(rank));
    return mapped;
}

SM90_INLINE void sm90_cluster_store(uint32_t mapped, float4 v) {
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(mapped), "f"(v.x), "f"(v.y), "f"(v.z),
                 "f"(v.w)
                 : "memory");
}

SM90_INLINE void sm90_bar_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

SM90_INLINE void sm90_bar_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- programmatic dependent launch */

SM90_INLINE void sm90_grid_wait() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

SM90_INLINE void sm90_grid_launch_dependents() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

#endif /* SM90_CODE */

/* ---- tensor maps, on the host */

typedef CUresult (*sm90_encode_tiled_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                         const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                                         CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                         CUtensorMapFloatOOBfill);
typedef CUresult (*sm90_encode_im2col_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                          const cuuint64_t *, const int *, const int *, cuuint32_t, cuuint32_t,
                                          const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                          CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static inline void *sm90_driver_function(const char *name) {
    void *function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    if (cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return nullptr;
    return function;
}

/* The copy engine's swizzle of rows of 128, 64 or 32 bytes. */
static inline CUtensorMapSwizzle sm90_swizzle_of(int row_bytes) {
    return row_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
           : row_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                             : CU_TENSOR_MAP_SWIZZLE_32B;
}

/* A tensor of `rank` (2 to 5) dimensions, innermost first; `strides` in bytes of dimensions 1 and up; `box` elements of
 * each are loaded. Elements are 16 bits wide; outside of the tensor they read as zero. False: the driver refused. */
static inline bool sm90_encode_tiled(CUtensorMap *ret, bool bf16, int rank, const void *base, const uint64_t *dims,
                                     const uint64_t *strides, const uint32_t *box, CUtensorMapSwizzle swizzle) {
    static const sm90_encode_tiled_fn encode = (sm90_encode_tiled_fn)sm90_driver_function("cuTensorMapEncodeTiled");
    cuuint64_t size[5], step[5];
    cuuint32_t part[5], ones[5] = {1, 1, 1, 1, 1};
    for (int i = 0; i < rank; i++) {
        size[i] = dims[i];
        step[i] = i + 1 < rank ? strides[i] : 0;
        part[i] = box[i];
    }
    return encode &&
           encode(ret, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, (cuuint32_t)rank,
                  (void *)(uintptr_t)base, size, step, part, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* im2col over a dense [rows][height][width][channels] of 16-bit values: base pixels run from `lower` (both w and h) in
 * steps of `stride`, out_width by out_height of them per row; `pixels` base pixels by 64 channels per load, 128-byte
 * swizzle. */
static inline bool sm90_encode_im2col(CUtensorMap *ret, bool bf16, const void *base, int rows, int height, int width,
                                      int channels, int lower, int stride, int out_height, int out_width, int pixels) {
    static const sm90_encode_im2col_fn encode = (sm90_encode_im2col_fn)sm90_driver_function("cuTensorMapEncodeIm2col");
    const cuuint64_t c = (cuuint64_t)channels, w = (cuuint64_t)width, h = (cuuint64_t)height;
    const cuuint64_t dims[4] = {c, w, h, (cuuint64_t)rows};
    const cuuint64_t strides[3] = {2 * c, 2 * c * w, 2 * c * w * h};
    const int first[2] = {lower, lower};
    /* Where base pixels end, relative to the last pixel of x. */
    const int last[2] = {lower + (out_width - 1) * stride - (width - 1),
                         lower + (out_height - 1) * stride - (height - 1)};
    const cuuint32_t steps[4] = {1, (cuuint32_t)stride, (cuuint32_t)stride, 1};
    return encode && encode(ret, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
                            (void *)(uintptr_t)base, dims, strides, first, last, 64, (cuuint32_t)pixels, steps,
                            CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* ---- shared memory by address */

SM90_INLINE void sm90_store(uint32_t smem, float x) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(smem), "f"(x) : "memory");
}
SM90_INLINE float2 sm90_load_pair(uint32_t smem) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(smem) : "memory");
    return v;
}

#endif
