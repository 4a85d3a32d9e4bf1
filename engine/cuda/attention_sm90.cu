/* Attention for Hopper (sm_90a), fp16 and bf16, not causal: online softmax over tiles of keys (Dao et al. 2022, 2023)
 * with both products on wgmma.
 *
 * A block has one warpgroup that copies and several that compute, each 64 queries of one row and head. Which sums are
 * taken in which order follows from head_dim, tokens and keys, never from the number of rows.
 *
 * Most tiles of keys are brought by the copy engine, a head's channels in blocks as wide as its swizzles: of 64 as many
 * as there are, then of 32 and 16, each [key][channels of the block]. Wide rows matter: in pieces of 16 bytes an SM
 * gets 9 bytes a cycle, by threads (cp.async) as by the engine. Narrow heads, for which a second product of
 * probabilities would cost more than that, and windows, whose keys are scattered, are copied by threads, as [chunk of 8
 * channels][key][8 channels]: groups of 8 keys by 16 bytes are what wgmma calls core matrices. So are queries. Any
 * multiple of 8 channels does: those that a head lacks are zeros. A block of ones behind v makes the second product sum
 * the probabilities as well, as they were rounded.
 *
 * With narrow heads instructions bound the time: what is done for each score, beside the products, and what the copying
 * warps do for each tile. Hence a query's reference, which is subtracted from its scores, is the maximum of an earlier
 * tile for as long as no probability exceeds 2^8: then nothing is rescaled, and the test costs half an instruction a
 * score (three-way integer maxima, which order floats correctly above a limit that is not negative). A polynomial in
 * place of a part of the exponentials costs more than it spares. */
#include <math.h>

#include <type_traits>

#include "cuda/sm90.cuh"
#include "cuda/windows.cuh"

namespace {

enum {
    WARPGROUP = 128,
    QUERIES = 64, /* of a warpgroup: the rows of a wgmma */
    CHUNK = 8,    /* channels in 16 bytes */
    COPY_LAG = 1, /* tiles still under way when an older one is handed over: with more, warpgroups wait longer */
    HEADROOM = 8, /* log2 of the largest probability before the reference moves */
    BARRIER_BYTES = 128,
    SWIZZLE_BYTES = 1024, /* what a swizzled block is aligned to: 8 keys of 128 bytes */
    CHUNKS_NARROW = 5,    /* head_dim 40 */
    CHUNKS_MAX = 20,      /* 160 */
    CHUNKS_WIDE = 64,     /* 512 */
    COLUMNS_MAX = 128,    /* of o in a product, beside the ones */
    SHORT_KEYS = 80,      /* one tile: cross-attention */
    LONG_TOKENS = 2048    /* enough queries to fill the machine with blocks of 256 */
};

struct arguments {
    const void *q, *k, *v;
    void *y;
    const int32_t *kv_map;
    int heads, tokens, keys, chunks; /* chunks: head_dim / 8 */
    int q_stride, k_stride, v_stride;
    float scale;    /* log2(e) / sqrt(head_dim) */
    float headroom; /* HEADROOM / scale */
    struct cuda_regions regions;
    const void *cells;
    int window_blocks; /* blocks of queries in a window */
};

/* What the copy engine brings: blocks of the first width, and of the second where there is one. Not among the
 * arguments: as those have no address, they are read where they lie. */
struct maps {
    CUtensorMap k[2], v[2];
};

/* The block of a head's `chunks` chunks that `chunk` is in: the copy engine's. */
struct block {
    int first, chunks;
};
__host__ __device__ constexpr block block_of(int chunk, int chunks) {
    block b = {0, 8};
    while (chunks - b.first < b.chunks || chunk >= b.first + b.chunks)
        if (chunks - b.first < b.chunks)
            b.chunks /= 2;
        else
            b.first += b.chunks;
    return b;
}

/* Whether it is narrower than the first: there are two widths. */
__host__ __device__ constexpr bool is_rest(int chunk, int chunks) {
    return block_of(chunk, chunks).chunks != block_of(0, chunks).chunks;
}

__host__ __device__ constexpr int align(int bytes, int to) {
    return (bytes + to - 1) / to * to;
}

/* A kernel's sizes: C chunks in a head (missing ones are zeros), KEYS in a tile, and how the work is shared: among
 * GROUPS warpgroups, and v's channels among SPLIT blocks that all compute the scores. WINDOWS: global-regional. */
template <class T_, int C_, int KEYS_, int GROUPS_, int STAGES_, int SPLIT_, int BLOCKS_, int COPY_REGISTERS_,
          int COMPUTE_REGISTERS_, bool WINDOWS_ = false>
struct shape {
    using T = T_;
    static constexpr bool BF16 = std::is_same<T, __nv_bfloat16>::value;
    static constexpr bool WINDOWS = WINDOWS_, ENGINE = !WINDOWS && C_ > CHUNKS_NARROW; /* ENGINE: copies keys */
    static constexpr int C = C_, KEYS = KEYS_, STAGES = STAGES_, SPLIT = SPLIT_;
    static constexpr int GROUPS = GROUPS_, THREADS = WARPGROUP * (1 + GROUPS);
    static constexpr int BLOCKS = BLOCKS_, COPY_REGISTERS = COPY_REGISTERS_, COMPUTE_REGISTERS = COMPUTE_REGISTERS_;
    static constexpr int K_STEPS = (C + 1) / 2, K_CHUNKS = 2 * K_STEPS;
    static constexpr int V_CHUNKS = C / SPLIT, O_WIDTH = CHUNK * (V_CHUNKS + 1);
    static constexpr int S_COUNT = KEYS / 2, P_COUNT = KEYS / 4, O_COUNT = O_WIDTH / 2; /* registers of a thread */
    static constexpr int CHUNK_BYTES = KEYS * 16, Q_CHUNK_BYTES = QUERIES * 16;
    static constexpr int ALIGNMENT = ENGINE ? SWIZZLE_BYTES : BARRIER_BYTES;
    static constexpr int K_BYTES = align(K_CHUNKS * CHUNK_BYTES, ALIGNMENT), V_BYTES = V_CHUNKS * CHUNK_BYTES;
    static constexpr int ONES = ENGINE ? block_of(V_CHUNKS - 1, V_CHUNKS).chunks : 1; /* chunks of ones behind v */
    static constexpr int BIAS_AT = K_BYTES + V_BYTES + ONES * CHUNK_BYTES;            /* added to scores, float32 */
    static constexpr int STAGE_BYTES = align(BIAS_AT + (WINDOWS ? KEYS * 4 : 0), ALIGNMENT);
    /* Copying threads that hand a stage over and computing ones that give it back: one of each warp, or, where biases
     * are stored and read by the threads themselves, every one. */
    static constexpr int GIVERS = ENGINE ? 1 : WINDOWS ? WARPGROUP : WARPGROUP / 32;
    static constexpr int TAKERS = GROUPS * (WINDOWS ? WARPGROUP : WARPGROUP / 32);
    static constexpr int Q_GROUP_BYTES = K_CHUNKS * Q_CHUNK_BYTES;
    static constexpr int Q_AT = ALIGNMENT, STAGES_AT = Q_AT + GROUPS * Q_GROUP_BYTES;
    static constexpr int SHARED = STAGES_AT + STAGES * STAGE_BYTES;
    static_assert(C % SPLIT == 0 && KEYS % 16 == 0 && STAGES > COPY_LAG && 16 * STAGES <= BARRIER_BYTES, "");
    static_assert(!ENGINE || C % 2 == 0, "no blocks of 8 channels");
    static_assert(SHARED * BLOCKS <= 227 * 1024, "");
    static_assert(COPY_REGISTERS + GROUPS * COMPUTE_REGISTERS <= 65536 / (THREADS * BLOCKS) / 8 * 8 * (1 + GROUPS), "");
};

#if SM90_CODE

/* ---- wgmma of 64 rows, n columns, depth 16 */

#define R4(a, b, c, d) ",%" #a ",%" #b ",%" #c ",%" #d
#define D4(i) "+f"(d[4 * (i)]), "+f"(d[4 * (i) + 1]), "+f"(d[4 * (i) + 2]), "+f"(d[4 * (i) + 3])
#define D8(i) D4(2 * (i)), D4(2 * (i) + 1)
#define D16(i) D8(2 * (i)), D8(2 * (i) + 1)
#define D32(i) D16(2 * (i)), D16(2 * (i) + 1)
#define D64(i) D32(2 * (i)), D32(2 * (i) + 1)

/* registers: a in registers; shared: a in shared memory. TRANSPOSED: b's columns, not its depth, are contiguous. */
template <bool BF16, int N> struct product;

/* r0 and so on: the operands after the accumulators */
#define PRODUCT(type, is_bf16, n, names, r0, r1, r2, r3, r4, r5, r6, ...)                                              \
    template <> struct product<is_bf16, n> {                                                                           \
        template <int TRANSPOSED>                                                                                      \
        static __device__ __forceinline__ void registers(float *d, const uint32_t *a, uint64_t b, int accumulate) {    \
            asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %" #r5 ", 0;\n"                                           \
                         " wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" names "}, {%" #r0       \
                         ",%" #r1 ",%" #r2 ",%" #r3 "}, %" #r4 ", p, 1, 1, %" #r6 ";\n}"                               \
                         : __VA_ARGS__                                                                                 \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TRANSPOSED));      \
        }                                                                                                              \
        template <int TRANSPOSED>                                                                                      \
        static __device__ __forceinline__ void shared(float *d, uint64_t a, uint64_t b, int accumulate) {              \
            asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %" #r2 ", 0;\n"                                           \
                         " wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" names "}, %" #r0        \
                         ", %" #r1 ", p, 1, 1, 0, %" #r3 ";\n}"                                                        \
                         : __VA_ARGS__                                                                                 \
                         : "l"(a), "l"(b), "r"(accumulate), "n"(TRANSPOSED));                                          \
        }                                                                                                              \
    };
#define PRODUCTS(n, names, r0, r1, r2, r3, r4, r5, r6, ...)                                                            \
    PRODUCT("f16", false, n, names, r0, r1, r2, r3, r4, r5, r6, __VA_ARGS__)                                           \
    PRODUCT("bf16", true, n, names, r0, r1, r2, r3, r4, r5, r6, __VA_ARGS__)

PRODUCTS(16, SM90_R8_0, 8, 9, 10, 11, 12, 13, 14, D8(0))
PRODUCTS(24, SM90_R8_0 R4(8, 9, 10, 11), 12, 13, 14, 15, 16, 17, 18, D8(0), D4(2))
PRODUCTS(32, SM90_R8_1, 16, 17, 18, 19, 20, 21, 22, D16(0))
PRODUCTS(40, SM90_R8_1 R4(16, 17, 18, 19), 20, 21, 22, 23, 24, 25, 26, D16(0), D4(4))
PRODUCTS(48, SM90_R8_2, 24, 25, 26, 27, 28, 29, 30, D16(0), D8(2))
PRODUCTS(64, SM90_R8_3, 32, 33, 34, 35, 36, 37, 38, D32(0))
PRODUCTS(72, SM90_R8_3 R4(32, 33, 34, 35), 36, 37, 38, 39, 40, 41, 42, D32(0), D4(8))
PRODUCTS(80, SM90_R8_4, 40, 41, 42, 43, 44, 45, 46, D32(0), D8(4))
PRODUCTS(88, SM90_R8_4 R4(40, 41, 42, 43), 44, 45, 46, 47, 48, 49, 50, D32(0), D8(4), D4(10))
PRODUCTS(128, SM90_R8_7, 64, 65, 66, 67, 68, 69, 70, D64(0))
PRODUCTS(136, SM90_R8_7 R4(64, 65, 66, 67), 68, 69, 70, 71, 72, 73, 74, D64(0), D4(16))
PRODUCTS(168, SM90_R8_9 R4(80, 81, 82, 83), 84, 85, 86, 87, 88, 89, 90, D64(0), D16(4), D4(20))

/* ---- copies */

__device__ __forceinline__ void copy16(uint32_t dst, const void *src, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(inside ? 16 : 0) : "memory");
}

__device__ __forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int n> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

/* ROWS tokens, from(i) the first chunk of the i-th (those from `valid` on are zeros), of CHUNKS chunks (those from
 * `present` on are zeros), by the copying warpgroup. Eight neighbouring threads write the 128 bytes of a core matrix.
 */
template <class T, int ROWS, int CHUNKS, class F>
__device__ __forceinline__ void copy_tile(uint32_t dst, int valid, int present, const F &from) {
    constexpr int PART = 5, STEP = WARPGROUP / 8 / PART * 8; /* chunks that a row's threads copy, rows at once */
    static_assert(CHUNKS % PART == 0 && ROWS % 8 == 0, "");
    const int thread = threadIdx.x, chunk = thread / 8 % PART, first = thread / 8 / PART * 8 + thread % 8;
    dst += (uint32_t)(chunk * ROWS + first) * 16;
    if (first >= STEP)
        return;                     /* threads of which there are too few for a row */
#pragma unroll(CHUNKS > 16 ? 1 : 4) /* the copying threads have few registers */
    for (int i = 0; i < (ROWS + STEP - 1) / STEP; i++) {
        const int row = i * STEP + first;
        if (ROWS % STEP && row >= ROWS)
            continue;
        const T *const src = from(row < valid ? row : 0);
#pragma unroll
        for (int part = 0; part < CHUNKS / PART; part++) {
            const int at = part * PART + chunk;
            copy16(dst + (uint32_t)(part * PART * ROWS + i * STEP) * 16, src + (at < present ? at * CHUNK : 0),
                   row < valid && at < present);
        }
    }
}

__device__ __forceinline__ uint32_t full_barrier(uint32_t shared, int stage) {
    return shared + 16 * stage;
}
__device__ __forceinline__ uint32_t empty_barrier(uint32_t shared, int stage) {
    return shared + 16 * stage + 8;
}

/* This thread's copies are complete: hands the stage over when the whole warp's are. */
template <class S> __device__ __forceinline__ void hand_over(uint32_t shared, int stage) {
    sm90_fence_async();
    __syncwarp();
    if (threadIdx.x % (WARPGROUP / S::GIVERS) == 0)
        sm90_mbarrier_arrive(full_barrier(shared, stage));
}

/* The block's window; without windows one that nobody reads. */
template <class S> __device__ __forceinline__ cuda_window window_of(const arguments &a) {
    return cuda_window(S::WINDOWS ? a.regions : cuda_regions{1, 1, 1, 1},
                       S::WINDOWS ? (int)blockIdx.x / S::SPLIT / a.window_blocks : 0);
}

template <class S> __device__ __forceinline__ int keys_of(const arguments &a) {
    return S::WINDOWS ? window_of<S>(a).keys() : a.keys;
}

/* Copies tile by tile as stages become free, copy(tile, stage's address); hands the stages over. */
template <class S, class F> __device__ __forceinline__ void copy_tiles(int keys, uint32_t shared, const F &copy) {
    const int tiles = (keys + S::KEYS - 1) / S::KEYS;
    int stage = 0, behind = 0;
    for (int tile = 0; tile < tiles; tile++) {
        if (tile >= S::STAGES) {
            const uint32_t empty = empty_barrier(shared, stage), parity = (tile / S::STAGES + 1) & 1;
            /* The computing groups may need the tile under way before they give this stage back. */
            if (!__all_sync(0xffffffffu, sm90_mbarrier_try_wait(empty, parity))) {
                copy_wait<0>();
                for (; behind != stage; behind = behind + 1 == S::STAGES ? 0 : behind + 1)
                    hand_over<S>(shared, behind);
                sm90_mbarrier_wait(empty, parity);
            }
        }
        copy(tile, shared + S::STAGES_AT + stage * S::STAGE_BYTES);
        copy_commit();
        if (behind != stage) {
            copy_wait<COPY_LAG>();
            hand_over<S>(shared, behind);
            behind = behind + 1 == S::STAGES ? 0 : behind + 1;
        }
        stage = stage + 1 == S::STAGES ? 0 : stage + 1;
    }
    copy_wait<0>();
    for (; behind != stage; behind = behind + 1 == S::STAGES ? 0 : behind + 1)
        hand_over<S>(shared, behind);
}

/* CHUNKS chunks from `channel` on of a tile's keys, in blocks. */
template <class S, int CHUNKS, int I = 0>
__device__ __forceinline__ void load_blocks(uint32_t dst, const CUtensorMap (&maps)[2], uint32_t barrier, int channel,
                                            int key, int head, int row) {
    constexpr bool rest = is_rest(I, CHUNKS);
    sm90_load_4d(dst + I * S::CHUNK_BYTES, &maps[rest], barrier, channel + I * CHUNK, key, head, row);
    constexpr int next = I + block_of(I, CHUNKS).chunks;
    if constexpr (next < CHUNKS)
        load_blocks<S, CHUNKS, next>(dst, maps, barrier, channel, key, head, row);
}

/* Keys, by one thread and the copy engine. Beyond a row's last key and a head's last channel it brings zeros. */
template <class S> __device__ __forceinline__ void load_keys(const arguments &a, const maps &m, uint32_t shared) {
    const int head = blockIdx.y, row = a.kv_map ? a.kv_map[blockIdx.z] : (int)blockIdx.z;
    const int first_chunk = (int)(blockIdx.x % S::SPLIT) * S::V_CHUNKS;
    const int tiles = (a.keys + S::KEYS - 1) / S::KEYS;
    for (int tile = 0; tile < tiles && threadIdx.x == 0; tile++) {
        const int stage = tile % S::STAGES, round = tile / S::STAGES;
        const uint32_t full = full_barrier(shared, stage), k = shared + S::STAGES_AT + stage * S::STAGE_BYTES;
        if (round)
            sm90_mbarrier_wait(empty_barrier(shared, stage), (round + 1) & 1);
        sm90_mbarrier_expect_tx(full, (S::C + S::V_CHUNKS) * S::CHUNK_BYTES);
        load_blocks<S, S::C>(k, m.k, full, 0, tile * S::KEYS, head, row);
        load_blocks<S, S::V_CHUNKS>(k + S::K_BYTES, m.v, full, first_chunk * CHUNK, tile * S::KEYS, head, row);
    }
}

/* Keys of narrow heads, by the copying threads. */
template <class S> __device__ __forceinline__ void copy_keys(const arguments &a, uint32_t shared) {
    using T = typename S::T;
    const int head = blockIdx.y, row = a.kv_map ? a.kv_map[blockIdx.z] : (int)blockIdx.z;
    const T *k = (const T *)a.k + (size_t)row * a.keys * a.k_stride + head * a.chunks * CHUNK;
    const T *v = (const T *)a.v + (size_t)row * a.keys * a.v_stride + head * a.chunks * CHUNK;
    static_assert(S::SPLIT == 1, "");
    copy_tiles<S>(a.keys, shared, [&](int tile, uint32_t dst) {
        const int valid = a.keys - tile * S::KEYS;
        copy_tile<T, S::KEYS, S::C>(dst, valid, a.chunks, [&](int i) { return k + i * a.k_stride; });
        copy_tile<T, S::KEYS, S::C>(dst + S::K_BYTES, valid, a.chunks, [&](int i) { return v + i * a.v_stride; });
        k += (size_t)S::KEYS * a.k_stride;
        v += (size_t)S::KEYS * a.v_stride;
    });
}

/* The keys of a window: its tokens, then the cells; and their biases, in the units of unscaled scores. */
template <class S> __device__ __forceinline__ void copy_window(const arguments &a, uint32_t shared) {
    using T = typename S::T;
    const cuda_window window = window_of<S>(a);
    const int own = window.tokens(), keys = window.keys(), channels = a.heads * a.chunks * CHUNK;
    const int skip = blockIdx.y * a.chunks * CHUNK;
    const T *k = (const T *)a.k + (size_t)blockIdx.z * a.tokens * a.k_stride + skip;
    const T *v = (const T *)a.v + (size_t)blockIdx.z * a.tokens * a.v_stride + skip;
    const T *cells = (const T *)a.cells + (size_t)blockIdx.z * window.cells() * 2 * channels + skip;
    copy_tiles<S>(keys, shared, [&](int tile, uint32_t dst) {
        const int first = tile * S::KEYS, valid = keys - first;
        const auto from = [&](const T *tokens, int stride, const T *means, int i) {
            return first + i < own ? tokens + (size_t)window.token(first + i) * stride
                                   : means + (size_t)(first + i - own) * 2 * channels;
        };
        copy_tile<T, S::KEYS, S::C>(dst, valid, a.chunks, [&](int i) { return from(k, a.k_stride, cells, i); });
        copy_tile<T, S::KEYS, S::C>(dst + S::K_BYTES, valid, a.chunks,
                                    [&](int i) { return from(v, a.v_stride, cells + channels, i); });
        for (int i = threadIdx.x; i < S::KEYS; i += WARPGROUP)
            sm90_store(dst + S::BIAS_AT + 4 * i, i < valid ? window.bias(first + i) / a.scale : -INFINITY);
    });
}

/* ---- softmax. A thread has scores of two queries: s[4 j + 0, 1] and s[4 j + 2, 3]. */

struct reference {
    float max[2];   /* what is subtracted */
    float limit[2]; /* the score at which it moves */
    bool orderly;   /* limits of the whole warp are not negative */
};

/* most = the largest of most, x and y taken as integers: VIMNMX3. In assembly, as the compiler would keep copies. */
__device__ __forceinline__ void max3(int &most, float x, float y) {
    asm volatile("{\n .reg .s32 a, b;\n mov.b32 a, %1;\n mov.b32 b, %2;\n max.s32 a, a, b;\n max.s32 %0, %0, a;\n}"
                 : "+r"(most)
                 : "f"(x), "f"(y));
}

template <int COUNT> __device__ __forceinline__ bool exceeds(const float (&s)[COUNT], const reference &r) {
    bool above = !r.orderly;
    if (r.orderly) {
        int most[2] = {__float_as_int(r.limit[0]), __float_as_int(r.limit[1])};
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            max3(most[0], s[i], s[i + 1]);
            max3(most[1], s[i + 2], s[i + 3]);
        }
        above = most[0] > __float_as_int(r.limit[0]) || most[1] > __float_as_int(r.limit[1]);
    }
    return __any_sync(0xffffffffu, above);
}

/* Moves the reference of the queries whose scores exceed the limit, and rescales their sums. */
template <int COUNT, int O_COUNT>
__device__ __forceinline__ void move(const float (&s)[COUNT], float (&o)[O_COUNT], reference &r, const arguments &a) {
    float factor[2];
#pragma unroll
    for (int q = 0; q < 2; q++) {
        float most = s[2 * q];
#pragma unroll
        for (int i = 0; i < COUNT; i += 4)
            most = fmaxf(most, fmaxf(s[i + 2 * q], s[i + 2 * q + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        factor[q] = 1.0f;
        if (most > r.limit[q]) {
            factor[q] = cuda_exp2((r.max[q] - most) * a.scale);
            r.max[q] = most;
            r.limit[q] = most + a.headroom;
        }
    }
    r.orderly = __all_sync(0xffffffffu, r.limit[0] >= 0.0f && r.limit[1] >= 0.0f);
#pragma unroll
    for (int i = 0; i < O_COUNT; i++)
        o[i] *= factor[i / 2 % 2];
}

/* Scores -> probabilities, in place. */
template <int COUNT> __device__ __forceinline__ void exponentials(float (&s)[COUNT], const reference &r, float scale) {
    const float shift[2] = {-r.max[0] * scale, -r.max[1] * scale};
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        s[i] = cuda_exp2(fmaf(s[i], scale, shift[i / 2 % 2]));
}

/* ---- products and the loop over tiles */

/* A warpgroup's queries: in order from the row's or the window's `first` on, of `count`. */
template <class S> struct queries {
    int first, count;
    cuda_window window;

    __device__ __forceinline__ queries(const arguments &a, int group) : window(window_of<S>(a)) {
        const int block = (int)blockIdx.x / S::SPLIT;
        first = ((S::WINDOWS ? block % a.window_blocks : block) * S::GROUPS + group) * QUERIES;
        count = S::WINDOWS ? window.tokens() : a.tokens;
    }
    /* The row's number of the i-th. */
    __device__ __forceinline__ int token(int i) const {
        return S::WINDOWS ? window.token(i) : i;
    }
};

/* A warpgroup's queries to shared memory: their descriptor. */
template <class S> __device__ __forceinline__ uint64_t load_query(const arguments &a, uint32_t shared, int group) {
    using T = typename S::T;
    const queries<S> own(a, group);
    const T *q = (const T *)a.q + (size_t)blockIdx.z * a.tokens * a.q_stride + blockIdx.y * a.chunks * CHUNK;
    const uint32_t dst = shared + S::Q_AT + group * S::Q_GROUP_BYTES;
    for (int at = threadIdx.x % WARPGROUP; at < QUERIES * S::K_CHUNKS; at += WARPGROUP) {
        const int i = at % QUERIES, chunk = at / QUERIES;
        const bool inside = own.first + i < own.count && chunk < a.chunks;
        copy16(dst + at * 16, q + (inside ? (size_t)own.token(own.first + i) * a.q_stride + chunk * CHUNK : 0), inside);
    }
    copy_commit(); /* copies that are in no group are not waited for */
    copy_wait<0>();
    sm90_fence_async();
    sm90_bar_sync(1 + group, WARPGROUP);
    return sm90_descriptor_plain(dst, S::Q_CHUNK_BYTES, 128);
}

/* s = q k', from the I-th 16 channels on. */
template <class S, int I = 0> __device__ __forceinline__ void scores(float (&s)[S::S_COUNT], uint64_t q, uint32_t k) {
    constexpr block b = block_of(2 * I, S::K_CHUNKS);
    const uint64_t keys =
        S::ENGINE ? sm90_descriptor_swizzled(k + b.first * S::CHUNK_BYTES, 16, b.chunks * 16) + (2 * I - b.first)
                  : sm90_descriptor_plain(k, S::CHUNK_BYTES, 128) + I * (2 * S::CHUNK_BYTES >> 4);
    product<S::BF16, S::KEYS>::template shared<0>(s, q + I * (2 * S::Q_CHUNK_BYTES >> 4), keys, I > 0);
    if constexpr (I + 1 < S::K_STEPS)
        scores<S, I + 1>(s, q, k);
}

/* Columns of o from those of chunk FIRST on += p v, of the i-th 16 keys; the ones are behind the last. A product has
 * those of blocks of one width, at most COLUMNS_MAX; without blocks, all. */
template <class S, int FIRST = 0>
__device__ __forceinline__ void accumulate_columns(float *o, const uint32_t *p, uint32_t v, int i) {
    constexpr int left = S::V_CHUNKS - FIRST, width = S::ENGINE ? block_of(FIRST, S::V_CHUNKS).chunks : 1;
    constexpr int alike = left / width * width, most = S::ENGINE ? COLUMNS_MAX / CHUNK : left;
    constexpr int chunks = alike < most ? alike : most, columns = (chunks + (chunks == left)) * CHUNK;
    const uint32_t at = v + FIRST * S::CHUNK_BYTES; /* columns are contiguous */
    const uint64_t values = (S::ENGINE ? sm90_descriptor_swizzled(at, width * S::CHUNK_BYTES, width * 16)
                                       : sm90_descriptor_plain(at, 128, S::CHUNK_BYTES)) +
                            i * (width * 256 >> 4);
    product<S::BF16, columns>::template registers<1>(o + FIRST * 4, p, values, 1);
    if constexpr (chunks < left)
        accumulate_columns<S, FIRST + chunks>(o, p, v, i);
}

/* o += p v */
template <class S>
__device__ __forceinline__ void accumulate(float (&o)[S::O_COUNT], const uint32_t (&p)[S::P_COUNT], uint32_t v) {
#pragma unroll
    for (int i = 0; i < S::KEYS / 16; i++)
        accumulate_columns<S>(o, p + 4 * i, v, i);
}

/* Exponentials of the scores s of the tile, packed into p. The product of the tile before may be under way: it runs
 * while they are computed, and its stage is given back. */
template <class S>
__device__ __forceinline__ void probabilities(float (&s)[S::S_COUNT], uint32_t (&p)[S::P_COUNT], float (&o)[S::O_COUNT],
                                              reference &r, const arguments &a, uint32_t release) {
    if (exceeds(s, r)) {
        sm90_wgmma_wait<0>();
        sm90_hold(o);
        move(s, o, r, a);
    }
    exponentials(s, r, a.scale);
    sm90_hold(s);
    sm90_wgmma_wait<0>();
    sm90_hold(s);
    if (release && threadIdx.x % (S::GROUPS * WARPGROUP / S::TAKERS) == 0)
        sm90_mbarrier_arrive(release);
#pragma unroll
    for (int i = 0; i < S::P_COUNT; i++)
        p[i] = cuda_pack(s[2 * i], s[2 * i + 1], typename S::T());
}

/* Adds the keys' biases; for their own window's cells and for keys that are not there minus infinity. */
template <class S> __device__ __forceinline__ void add_bias(float (&s)[S::S_COUNT], uint32_t stage_address) {
    const uint32_t bias = stage_address + S::BIAS_AT + threadIdx.x % 4 * 8;
#pragma unroll
    for (int i = 0; i < S::S_COUNT; i += 4) {
        const float2 b = sm90_load_pair(bias + 8 * i);
        s[i] += b.x;
        s[i + 1] += b.y;
        s[i + 2] += b.x;
        s[i + 3] += b.y;
    }
}

/* Keys from `valid` on do not count. */
template <int COUNT> __device__ __forceinline__ void mask(float (&s)[COUNT], int valid) {
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        if (i / 4 * 8 + (int)threadIdx.x % 4 * 2 + i % 2 >= valid)
            s[i] = -INFINITY;
}

/* All tiles of keys. */
template <class S>
__device__ __forceinline__ void attend(const arguments &a, uint32_t shared, uint64_t q, float (&o)[S::O_COUNT],
                                       reference &r) {
    float s[S::S_COUNT] = {};
    uint32_t p[S::P_COUNT], release = 0;
    const int keys = keys_of<S>(a), tiles = (keys + S::KEYS - 1) / S::KEYS;
    int tile = 0, stage = 0, parity = 0;
    sm90_mbarrier_wait(full_barrier(shared, stage), parity);
    sm90_wgmma_fence();
    scores<S>(s, q, shared + S::STAGES_AT + stage * S::STAGE_BYTES);
    sm90_wgmma_commit();
    sm90_wgmma_wait<0>();
    sm90_hold(s);
    if (S::WINDOWS)
        add_bias<S>(s, shared + S::STAGES_AT + stage * S::STAGE_BYTES);
    while (++tile < tiles) {
        probabilities<S>(s, p, o, r, a, release);
        const int now = stage;
        if (++stage == S::STAGES) {
            stage = 0;
            parity ^= 1;
        }
        sm90_mbarrier_wait(full_barrier(shared, stage), parity);
        sm90_wgmma_fence();
        scores<S>(s, q, shared + S::STAGES_AT + stage * S::STAGE_BYTES);
        sm90_wgmma_commit();
        accumulate<S>(o, p, shared + S::STAGES_AT + now * S::STAGE_BYTES + S::K_BYTES);
        sm90_wgmma_commit();
        release = empty_barrier(shared, now);
        sm90_wgmma_wait<1>();
        sm90_hold(s);
        if (S::WINDOWS)
            add_bias<S>(s, shared + S::STAGES_AT + stage * S::STAGE_BYTES);
    }
    if (!S::WINDOWS && tiles * S::KEYS > keys)
        mask(s, keys - (tiles - 1) * S::KEYS);
    probabilities<S>(s, p, o, r, a, release);
    sm90_wgmma_fence();
    accumulate<S>(o, p, shared + S::STAGES_AT + stage * S::STAGE_BYTES + S::K_BYTES);
    sm90_wgmma_commit();
    sm90_wgmma_wait<0>();
    sm90_hold(o);
}

/* y = o / (sum of probabilities), the latter being the last columns of o */
template <class S> __device__ __forceinline__ void store(const arguments &a, int group, const float (&o)[S::O_COUNT]) {
    using T = typename S::T;
    const int lane = threadIdx.x % 32, first_chunk = (int)(blockIdx.x % S::SPLIT) * S::V_CHUNKS;
    const queries<S> own(a, group);
    const int first = own.first + (int)threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
    for (int q = 0; q < 2; q++) {
        if (first + 8 * q >= own.count)
            continue;
        const int token = own.token(first + 8 * q);
        const float factor = cuda_reciprocal(o[4 * S::V_CHUNKS + 2 * q]);
        T *y = (T *)a.y + (((size_t)blockIdx.z * a.tokens + token) * a.heads + blockIdx.y) * (a.chunks * CHUNK) +
               first_chunk * CHUNK + lane % 4 * 2;
#pragma unroll
        for (int c = 0; c < S::V_CHUNKS; c++)
            if (first_chunk + c < a.chunks)
                *(uint32_t *)(y + c * CHUNK) = cuda_pack(o[4 * c + 2 * q] * factor, o[4 * c + 2 * q + 1] * factor, T());
    }
}

template <class S> __device__ __forceinline__ void compute(const arguments &a, uint32_t shared, int group) {
    const uint64_t q = load_query<S>(a, shared, group);
    float o[S::O_COUNT];
#pragma unroll
    for (int i = 0; i < S::O_COUNT; i++)
        o[i] = 0.0f;
    reference r = {{-INFINITY, -INFINITY}, {-INFINITY, -INFINITY}, false};
    attend<S>(a, shared, q, o, r);
    store<S>(a, group, o);
}

/* Barriers, and the chunks of zeros behind k and of ones behind v, which no copy touches. */
template <class S> __device__ __forceinline__ void prepare(unsigned char *memory, uint32_t shared) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::STAGES; i++) {
            sm90_mbarrier_init(full_barrier(shared, i), S::GIVERS);
            sm90_mbarrier_init(empty_barrier(shared, i), S::TAKERS);
        }
    }
    const uint32_t ones = S::BF16 ? 0x3F803F80u : 0x3C003C00u;
    for (int i = threadIdx.x; i < S::STAGES * S::KEYS; i += S::THREADS) {
        unsigned char *stage = memory + S::STAGES_AT + i / S::KEYS * S::STAGE_BYTES + i % S::KEYS * 16;
        if (S::K_CHUNKS > S::C)
            *(uint4 *)(stage + S::C * S::CHUNK_BYTES) = make_uint4(0, 0, 0, 0);
        for (int j = 0; j < S::ONES; j++)
            *(uint4 *)(stage + S::K_BYTES + S::V_BYTES + j * S::CHUNK_BYTES) = make_uint4(ones, ones, ones, ones);
    }
    sm90_fence_async();
    __syncthreads();
}

/* copy(shared): by the copying warpgroup. */
template <class S, class F> __device__ __forceinline__ void attention(const arguments &a, const F &copy) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t shared = sm90_smem(memory);
    prepare<S>(memory, shared);
    cuda_wait_inputs();
    cuda_launch_dependents();
    if (threadIdx.x < WARPGROUP) {
        sm90_setmaxnreg_dec<S::COPY_REGISTERS>();
        copy(shared);
    } else {
        sm90_setmaxnreg_inc<S::COMPUTE_REGISTERS>();
        compute<S>(a, shared, __shfl_sync(0xffffffffu, (int)threadIdx.x / WARPGROUP - 1, 0));
    }
}

#endif /* SM90_CODE */

/* grid: (blocks of queries * SPLIT, heads, rows) */
template <class S> __global__ void __launch_bounds__(S::THREADS, S::BLOCKS) attention_kernel(const arguments a) {
#if SM90_CODE
    attention<S>(a, [&](uint32_t shared) {
        if constexpr (S::WINDOWS)
            copy_window<S>(a, shared);
        else
            copy_keys<S>(a, shared);
    });
#endif
}
template <class S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS)
    engine_attention_kernel(const arguments a, const __grid_constant__ maps m) {
#if SM90_CODE
    attention<S>(a, [&](uint32_t shared) { load_keys<S>(a, m, shared); });
#endif
}

/* k or v as [row][head][key][channel], of rows whose number does not matter, in blocks of `chunks` chunks. */
template <class S>
bool encode(CUtensorMap *ret, const struct cuda_attention *p, const void *x, int stride, int chunks) {
    const uint64_t dims[4] = {(uint64_t)p->head_dim, (uint64_t)p->keys, (uint64_t)p->heads, 1u << 16};
    const uint64_t strides[3] = {2 * (uint64_t)stride, 2 * dims[0], 2 * (uint64_t)stride * dims[1]};
    const uint32_t box[4] = {(uint32_t)(chunks * CHUNK), S::KEYS, 1, 1};
    return sm90_encode_tiled(ret, S::BF16, 4, x, dims, strides, box, sm90_swizzle_of(chunks * 16));
}

/* Of the first block and of the last. */
template <class S>
bool encode_blocks(CUtensorMap *ret, const struct cuda_attention *p, const void *x, int stride, int chunks) {
    return encode<S>(&ret[0], p, x, stride, block_of(0, chunks).chunks) &&
           encode<S>(&ret[1], p, x, stride, block_of(chunks - 1, chunks).chunks);
}

template <class S> cudaError_t launch(const struct cuda_attention *p, cudaStream_t stream) {
    const float scale = 1.44269504088896340736f / sqrtf((float)p->head_dim);
    const arguments a = {p->q,
                         p->k,
                         p->v,
                         p->y,
                         p->kv_map,
                         p->heads,
                         p->tokens,
                         p->keys,
                         p->head_dim / CHUNK,
                         p->q_stride,
                         p->k_stride,
                         p->v_stride,
                         scale,
                         HEADROOM / scale,
                         p->regions,
                         p->cells,
                         S::WINDOWS ? cuda_pieces(cuda_window_tokens(p->regions), S::GROUPS * QUERIES) : 1};
    const dim3 grid((unsigned)(cuda_query_blocks(*p, S::GROUPS * QUERIES) * S::SPLIT), (unsigned)p->heads,
                    (unsigned)p->rows);
    if constexpr (S::ENGINE) {
        maps m;
        if (!encode_blocks<S>(m.k, p, p->k, p->k_stride, S::C) ||
            !encode_blocks<S>(m.v, p, p->v, p->v_stride, S::V_CHUNKS))
            return cudaErrorInvalidValue;
        return cuda_launch(engine_attention_kernel<S>, grid, dim3(S::THREADS), S::SHARED, stream, a, m);
    } else {
        return cuda_launch(attention_kernel<S>, grid, dim3(S::THREADS), S::SHARED, stream, a);
    }
}

/* Of two shapes that sum in the same order, blocks of few warpgroups and of many, the one that is done first: a block
 * of many does more while it runs, and runs a little longer. */
template <class FEW, class MANY> cudaError_t launch_either(const struct cuda_attention *p, cudaStream_t stream) {
    static_assert(FEW::KEYS == MANY::KEYS && FEW::SPLIT == MANY::SPLIT, "the same order of sums");
    const auto cost = [&](int groups) {
        const long long blocks = (long long)cuda_query_blocks(*p, groups * QUERIES) * p->heads * p->rows;
        return (blocks + cuda_processors() - 1) / cuda_processors() * (4 + groups);
    };
    return cost(MANY::GROUPS) <= cost(FEW::GROUPS) ? launch<MANY>(p, stream) : launch<FEW>(p, stream);
}

/* Widths of heads by their chunks; a tile of keys by the numbers of keys and queries: never by the rows. Measured on an
 * H200 with 2 and 16 rows of Stable Diffusion's sizes. */
template <class T> cudaError_t choose(const struct cuda_attention *p, cudaStream_t stream) {
    const int chunks = p->head_dim / CHUNK;
    const bool short_keys = p->keys <= SHORT_KEYS, long_tokens = p->tokens >= LONG_TOKENS;
    if (chunks <= CHUNKS_NARROW) {
        if (short_keys || !long_tokens)
            return launch<shape<T, 5, 48, 2, 4, 1, 2, 32, 104>>(p, stream);
        return launch<shape<T, 5, 80, 4, 4, 1, 1, 32, 112>>(p, stream);
    }
    if (chunks <= 8) {
        if (short_keys)
            return launch<shape<T, 8, 80, 3, 2, 1, 1, 32, 152>>(p, stream);
        return launch_either<shape<T, 8, 64, 3, 4, 1, 1, 32, 152>, shape<T, 8, 64, 4, 4, 1, 1, 32, 112>>(p, stream);
    }
    if (chunks <= 10)
        return launch_either<shape<T, 10, 48, 2, 6, 1, 1, 32, 232>, shape<T, 10, 48, 4, 4, 1, 1, 32, 112>>(p, stream);
    if (chunks <= CHUNKS_MAX && short_keys)
        return launch<shape<T, 20, 80, 1, 2, 1, 1, 40, 216>>(p, stream);
    if (chunks <= CHUNKS_MAX)
        return launch_either<shape<T, 20, 32, 1, 4, 1, 1, 40, 240>, shape<T, 20, 32, 2, 4, 1, 1, 32, 232>>(p, stream);
    return launch<shape<T, CHUNKS_WIDE, 32, 1, 3, 2, 1, 56, 240>>(p, stream);
}

/* Windows of up to 64, of up to 128 and of more queries have blocks of as many. */
template <class T, int CHUNKS, int KEYS, int STAGES>
cudaError_t launch_windows(const struct cuda_attention *p, cudaStream_t stream) {
    if (cuda_window_tokens(p->regions) <= QUERIES)
        return launch<shape<T, CHUNKS, KEYS, 1, STAGES, 1, 1, 64, 216, true>>(p, stream);
    return launch_either<shape<T, CHUNKS, KEYS, 2, STAGES, 1, 1, 64, 216, true>,
                         shape<T, CHUNKS, KEYS, 4, STAGES, 1, 1, 64, 104, true>>(p, stream);
}

template <class T> cudaError_t choose_windows(const struct cuda_attention *p, cudaStream_t stream) {
    const int chunks = p->head_dim / CHUNK;
    if (chunks <= 5)
        return launch_windows<T, 5, 64, 6>(p, stream);
    if (chunks <= 10)
        return launch_windows<T, 10, 48, 6>(p, stream);
    return launch<shape<T, 20, 32, 2, 4, 1, 1, 64, 216, true>>(p, stream);
}

bool aligned(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

} // namespace

extern "C" bool cuda_attention_sm90_fits(const struct cuda_attention *p) {
    if ((p->dtype != CUDA_F16 && p->dtype != CUDA_BF16) || p->causal || cuda_capability() != 90)
        return false;
    if (p->rows < 1 || p->rows > 65535 || p->heads < 1 || p->heads > 65535 || p->tokens < 1 || p->keys < 1)
        return false;
    if (p->regions.window && p->head_dim > CHUNK * CHUNKS_MAX)
        return false;
    if (p->head_dim < CHUNK || p->head_dim % CHUNK ||
        (p->head_dim > CHUNK * CHUNKS_MAX && p->head_dim != CHUNK * CHUNKS_WIDE))
        return false;
    return p->q_stride % CHUNK == 0 && p->k_stride % CHUNK == 0 && p->v_stride % CHUNK == 0 && aligned(p->q) &&
           aligned(p->k) && aligned(p->v) && aligned(p->y);
}

extern "C" cudaError_t cuda_attention_sm90(const struct cuda_attention *p, cudaStream_t stream) {
    if (!cuda_attention_sm90_fits(p))
        return cudaErrorInvalidValue;
    if (p->regions.window)
        return p->dtype == CUDA_F16 ? choose_windows<__half>(p, stream) : choose_windows<__nv_bfloat16>(p, stream);
    return p->dtype == CUDA_F16 ? choose<__half>(p, stream) : choose<__nv_bfloat16>(p, stream);
}
