/* Linears and convolutions on Hopper: y = epilogue(A W') by wgmma, operands through the tensor copy engine (TMA).
 *
 * A [pixels][taps * channels] is never in memory: TMA's im2col mode gathers 128 output pixels by 64 channels of one tap
 * straight into shared memory, across rows of pixels and of the batch; a linear is a plain 2D load. A CTA computes
 * tiles of 128 pixels by BN outputs: one thread loads A, one W, and two warpgroups of 64 pixels each multiply. What
 * the loading threads do between two loads is kept short: a division there would bound the whole kernel.
 *
 * The sum over K is cut into chunks, a function of the operation without `rows` (unless it is said that bits may depend
 * on them); each is summed from zero in float32
 * and the chunks are added in order. With few rows a cluster's CTAs take a chunk each (spread) and exchange the
 * partial sums through distributed shared memory; with many, one CTA walks through them. Same bits both ways.
 *
 * Where a CTA has several tiles of one chunk, its warpgroups take whole tiles in turn (alternate): one finishes a tile
 * while the other multiplies. */
#include "cuda/product_sm90.h"
#include "cuda/shares.cuh"
#include "cuda/sm90.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

enum { BM = CUDA_TILE_PIXELS, BK = CUDA_TILE_DEPTH, A_BYTES = BM * BK * 2, EXPERTS_WIDTH = CUDA_EXPERTS_WIDTH };
/* Threads: two warpgroups that multiply and one of which two warps load (setmaxnreg wants whole warpgroups). */
enum { CONSUMERS = 256, THREADS = CONSUMERS + 128, LOADERS = 2, PIPELINE_THREADS = CONSUMERS + 32 * LOADERS };
/* Registers of a thread: a warpgroup of loading gives most of its own to the two that multiply. */
enum { PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232 };
enum { BAR_GROUP = 1, BAR_CONSUMERS = 3, BAR_REFILL = 4, BAR_TURN = 5 }; /* BAR_GROUP, BAR_TURN: + warpgroup */

/* How the two warpgroups that multiply share the tiles. */
enum mode {
    MODE_TOGETHER,  /* half of each tile; one chunk (of all or, spread, of each CTA) */
    MODE_WALK,      /* the same, chunk after chunk */
    MODE_ALTERNATE, /* a tile each, in turn */
    MODE_EXPERTS,   /* half of each tile, each chunk once for every expert, added by the rows' shares of them */
};

/* Whether a cluster's CTAs may have a chunk each. */
__host__ __device__ constexpr bool may_spread(int mode) {
    return mode == MODE_TOGETHER || mode == MODE_EXPERTS;
}

/* What a launch is given. */
struct work {
    CUtensorMap a[2], b[ASDM_EXPERTS_MAX]; /* b: of each expert, or one */
    const float *bias, *expert_bias[ASDM_EXPERTS_MAX];
    struct cuda_shares shares; /* experts 0: there are none */
    const void *residual;
    void *y;
    int m, weight_rows, out_channels; /* output pixels (of one phase), packed rows, channels of y */
    int chunks, spread;               /* of K; CTAs of the cluster along K: chunks or 1 */
    int n_tiles, m_tiles, tiles;      /* tiles: of all phases */
    int steps, steps_first;           /* of BK along K: all; those of a tap (conv) or of the first source */
    int im2col, taps_across;          /* kernel width */
    int height, width;                /* pixels of a row, as `m` counts them */
    int lower, stride;                /* first base pixel, distance */
    int upsample, geglu, activation;
    /* Rows with kernels of their own: of each row, and their number; or NULL. Tiles of single rows: of one, of all. */
    const int32_t *slots;
    int row_tiles, rows;
};

template <int BN> struct shape {
    static constexpr int b_bytes = BN * BK * 2;
    static constexpr int stage_bytes = A_BYTES + b_bytes;
    static constexpr int staging_bytes = BM * (BN * 2 + 16); /* rows padded by 16 bytes: no bank conflicts */
    static constexpr int rest = staging_bytes + 2 * BN * 4 + 256;
    static constexpr int most = (232448 - 1024 - rest) / stage_bytes;
    static constexpr int stages = most < 8 ? most : 8;
    static constexpr int smem_bytes = 1024 + stages * stage_bytes + rest;
};

#if SM90_CODE

template <typename T> struct pair_of;
template <> struct pair_of<__half> {
    static constexpr bool bf16 = false;
    using type = __half2;
    static __device__ type pack(float a, float b) {
        return __floats2half2_rn(a, b);
    }
    static __device__ float2 unpack(type v) {
        return __half22float2(v);
    }
};
template <> struct pair_of<__nv_bfloat16> {
    static constexpr bool bf16 = true;
    using type = __nv_bfloat162;
    static __device__ type pack(float a, float b) {
        return __floats2bfloat162_rn(a, b);
    }
    static __device__ float2 unpack(type v) {
        return __bfloat1622float2(v);
    }
};

/* x * Phi(x), by erfc's rational approximation (Abramowitz and Stegun 7.1.26, absolute error 1.5e-7). */
SM90_INLINE float gelu_erf(float x) {
    const float z = fabsf(x) * 0.70710678f;
    const float t = __fdividef(1.0f, fmaf(0.3275911f, z, 1.0f));
    float poly = fmaf(1.061405429f, t, -1.453152027f);
    poly = fmaf(poly, t, 1.421413741f);
    poly = fmaf(poly, t, -0.284496736f);
    poly = fmaf(poly, t, 0.254829592f) * t;
    const float tail = 0.5f * poly * __expf(-z * z);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

SM90_INLINE float sigmoid_times(float x, float scale) {
    return __fdividef(x, 1.0f + __expf(-scale * x));
}

SM90_INLINE float activate(int kind, float x) {
    switch (kind) {
    case ASDM_ACT_SILU:
        return sigmoid_times(x, 1.0f);
    case ASDM_ACT_GELU:
        return gelu_erf(x);
    case ASDM_ACT_GELU_TANH: /* 0.5 (1 + tanh(u)) = sigmoid(2 u) */
        return sigmoid_times(x, 1.5957691216f * fmaf(0.044715f * x, x, 1.0f));
    case ASDM_ACT_QUICK_GELU:
        return sigmoid_times(x, 1.702f);
    case ASDM_ACT_RELU:
        return fmaxf(x, 0.0f);
    default:
        return x;
    }
}

/* The warp's number, known to be the same for its threads. */
SM90_INLINE int warp_of() {
    return __shfl_sync(0xffffffff, (int)threadIdx.x / 32, 0);
}

/* A CTA's place in its cluster, and its shared memory. */
template <int BN> struct cta {
    uint32_t ring, staging, bias, full, empty; /* addresses */
    uint8_t *staging_ptr;
    float *bias_ptr;
    int chunk;             /* with spread, the one it sums: its rank in the cluster */
    int cluster, clusters; /* this cluster, their number */
    int m_tiles, tiles;    /* as in struct work; by single rows where these have kernels of their own */
    bool single_rows;

    __device__ uint32_t full_at(int stage) const {
        return full + 8 * stage;
    }
    __device__ uint32_t empty_at(int stage) const {
        return empty + 8 * stage;
    }
    __device__ uint32_t a_at(int stage) const {
        return ring + stage * shape<BN>::stage_bytes;
    }
    __device__ uint32_t b_at(int stage) const {
        return a_at(stage) + A_BYTES;
    }
};

struct tile {
    int m0, m_end, n0;
    int phase; /* of upsampling */
    int slot;  /* of the kernels */
};

/* Outputs innermost: the tiles that run together share their pixels and, all but the last few, their weights. */
template <int BN> SM90_INLINE tile tile_of(const work &p, const cta<BN> &c, int index) {
    const int n = index % p.n_tiles, rest = index / p.n_tiles, m = rest % c.m_tiles;
    tile t = {m * BM, p.m, n * BN, rest / c.m_tiles, 0};
    if (!p.slots)
        return t;
    const int pixels = p.height * p.width, row = c.single_rows ? m / p.row_tiles : t.m0 / pixels;
    if (c.single_rows) {
        t.m0 = row * pixels + (m - row * p.row_tiles) * BM;
        t.m_end = (row + 1) * pixels;
    }
    t.slot = p.slots[row];
    return t;
}

/* Rows may have kernels of their own: whether they do is known when the kernel before has mixed them. A tile may hold
 * pixels of several rows where these share a kernel. */
template <int BN> SM90_INLINE void find_rows(const work &p, cta<BN> &c) {
    c.m_tiles = p.m_tiles;
    c.tiles = p.tiles;
    c.single_rows = false;
    if (!p.slots)
        return;
    sm90_grid_wait();
    if (p.slots[p.rows] > 1 && p.height * p.width % BM) {
        c.single_rows = true;
        c.m_tiles = p.rows * p.row_tiles;
        c.tiles = p.n_tiles * c.m_tiles;
    }
}

SM90_INLINE int chunk_begin(const work &p, int chunk) {
    return p.steps * chunk / p.chunks;
}

/* ---- the producers: a thread for A, a thread for B */

/* Where along K a load is: the block of channels, and the tap (of a conv) or the source (of a linear). */
struct cursor {
    int block, tap, r, s;

    __device__ cursor(const work &p, int step) {
        tap = p.im2col ? step / p.steps_first : step >= p.steps_first;
        block = step - tap * p.steps_first;
        r = tap / p.taps_across;
        s = tap - r * p.taps_across;
    }
    __device__ void advance(const work &p) {
        if (++block < p.steps_first || (tap && !p.im2col))
            return;
        block = 0;
        tap++;
        if (++s == p.taps_across) {
            s = 0;
            r++;
        }
    }
};

/* The place in the ring that the next load goes to. */
template <int BN> struct ring {
    int stage = 0, round = 0;

    /* Waits until the stage has been read, and announces `bytes` to come. */
    __device__ void reserve(const cta<BN> &c, int bytes) const {
        if (round > 0)
            sm90_mbarrier_wait(c.empty_at(stage), (round - 1) & 1);
        sm90_mbarrier_expect_tx(c.full_at(stage), bytes);
    }
    __device__ void advance() {
        if (++stage == shape<BN>::stages) {
            stage = 0;
            round++;
        }
    }
};

/* The first base pixel of a tile. */
struct origin {
    int w, h, n;
};

SM90_INLINE origin origin_of(const work &p, const tile &t) {
    const int pixels = p.height * p.width, n = t.m0 / pixels, pixel = t.m0 - n * pixels;
    const int h = pixel / p.width, w = pixel - h * p.width;
    return {w * p.stride + p.lower, h * p.stride + p.lower, n};
}

/* Steps of a tile that this CTA sums. */
SM90_INLINE int first_step(const work &p, int chunk) {
    return p.spread > 1 ? chunk_begin(p, chunk) : 0;
}
SM90_INLINE int end_step(const work &p, int chunk) {
    return p.spread > 1 ? chunk_begin(p, chunk + 1) : p.steps;
}

/* Visits this CTA's steps of a tile as they are summed: body(first, end, expert). */
template <int MODE, int BN, typename F> SM90_INLINE void for_sums(const work &p, const cta<BN> &c, const F &body) {
    if (MODE != MODE_EXPERTS) {
        body(first_step(p, c.chunk), end_step(p, c.chunk), 0);
        return;
    }
    const int first = p.spread > 1 ? c.chunk : 0, end = p.spread > 1 ? c.chunk + 1 : p.chunks;
    for (int chunk = first; chunk < end; chunk++)
        for (int e = 0; e < p.shares.experts; e++)
            body(chunk_begin(p, chunk), chunk_begin(p, chunk + 1), e);
}

template <int BN, int MODE> SM90_INLINE void produce_a(const work &p, const cta<BN> &c, const tile &t, ring<BN> &to) {
    const origin o = origin_of(p, t);
    for_sums<MODE>(p, c, [&](int begin, int end, int) {
        cursor at(p, begin);
        for (int step = begin; step < end; step++, at.advance(p), to.advance()) {
            to.reserve(c, A_BYTES);
            if (p.im2col)
                sm90_load_im2col(c.a_at(to.stage), &p.a[0], c.full_at(to.stage), at.block * BK, o.w, o.h, o.n,
                                 (uint16_t)(at.s + (t.phase & 1)), (uint16_t)(at.r + (t.phase >> 1)));
            else
                sm90_load_2d(c.a_at(to.stage), &p.a[at.tap], c.full_at(to.stage), at.block * BK, t.m0);
        }
    });
}

template <int BN, int MODE> SM90_INLINE void produce_b(const work &p, const cta<BN> &c, const tile &t, ring<BN> &to) {
    for_sums<MODE>(p, c, [&](int begin, int end, int expert) {
        cursor at(p, begin);
        for (int step = begin; step < end; step++, at.advance(p), to.advance()) {
            to.reserve(c, shape<BN>::b_bytes);
            sm90_load_4d(c.b_at(to.stage), &p.b[expert], c.full_at(to.stage), (p.im2col ? at.block : step) * BK,
                         p.im2col ? at.tap : 0, t.n0, p.slots ? t.slot : t.phase);
        }
    });
}

/* A warp of loading, of which one thread loads: everything of every tile. Weights do not wait for the kernels before.
 */
template <int BN, int MODE> SM90_INLINE void produce(const work &p, const cta<BN> &c, bool a) {
    const bool loads = threadIdx.x % 32 == 0;
    ring<BN> to;
    if (a && loads)
        sm90_grid_wait();
    for (int index = c.cluster; index < c.tiles; index += c.clusters) {
        if (loads) {
            const tile t = tile_of(p, c, index);
            if (a)
                produce_a<BN, MODE>(p, c, t, to);
            else
                produce_b<BN, MODE>(p, c, t, to);
        }
        __syncwarp();
        if (may_spread(MODE) && p.spread > 1) {
            for (int i = 0; i < 2; i++) {
                sm90_cluster_arrive_relaxed();
                sm90_cluster_wait();
            }
            sm90_bar_sync(BAR_REFILL, PIPELINE_THREADS);
        }
    }
}

/* ---- the consumers */

/* acc = the sum of steps begin .. end - 1, from zero: of HALVES times 64 pixels, from the tile's row `row0` on.
 * issued(): called when everything has arrived and is being multiplied. */
template <typename T, int BN, int HALVES, typename F>
SM90_INLINE void multiply(const cta<BN> &c, float (&acc)[HALVES][BN / 2], int row0, int begin, int end, int &iteration,
                          const F &issued) {
    constexpr int stages = shape<BN>::stages;
    int previous = -1;
    const auto release = [&](int stage) {
        if (threadIdx.x % 32 == 0)
            sm90_mbarrier_arrive(c.empty_at(stage));
    };
#pragma unroll
    for (int half = 0; half < HALVES; half++)
        sm90_hold(acc[half]);
    for (int step = begin; step < end; step++, iteration++) {
        const int stage = iteration % stages;
        sm90_mbarrier_wait(c.full_at(stage), iteration / stages & 1);
        const uint64_t a = sm90_descriptor(c.a_at(stage) + row0 * BK * 2), b = sm90_descriptor(c.b_at(stage));
        sm90_wgmma_fence();
#pragma unroll
        for (int k = 0; k < BK / 16; k++)
#pragma unroll
            for (int half = 0; half < HALVES; half++)
                sm90_wgmma<pair_of<T>::bf16>(acc[half], a + 2 * k + half * (64 * BK * 2 / 16), b + 2 * k,
                                             step > begin || k > 0);
        sm90_wgmma_commit();
        sm90_wgmma_wait<1>();
        if (previous >= 0)
            release(previous);
        previous = stage;
    }
    issued();
    sm90_wgmma_wait<0>();
#pragma unroll
    for (int half = 0; half < HALVES; half++)
        sm90_hold(acc[half]);
    release(previous);
}

/* Pixels of a tile that a group of threads finishes together: a warpgroup its 64, or with spread all consumers the
 * CTA's slice. Staged in shared memory: residual in, y out. */
struct region {
    int row0, rows; /* of the tile */
    int staging_row;
    int thread, threads, barrier;
};

/* `half`: of the tile, by this warpgroup. */
SM90_INLINE region region_of_half(int half) {
    const int thread = threadIdx.x, group = warp_of() / 4;
    return {half * 64, 64, group * 64, thread % 128, 128, BAR_GROUP + group};
}

/* What a warpgroup finishes of a tile that both compute. */
template <int BN> SM90_INLINE region region_of(const work &p, const cta<BN> &c) {
    if (p.spread > 1)
        return {c.chunk * (BM / p.spread), BM / p.spread, 0, (int)threadIdx.x, CONSUMERS, BAR_CONSUMERS};
    return region_of_half(warp_of() / 4);
}

SM90_INLINE void copy_async(uint32_t dst, const void *src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dst), "l"(src) : "memory");
}

/* The place in y of pixel m: with upsampling, of its phase among the doubled pixels. */
SM90_INLINE size_t out_pixel(const work &p, int m, int phase) {
    if (!p.upsample)
        return (size_t)m;
    const int line = m / p.width, w = m - line * p.width; /* lines of all rows */
    return ((size_t)line * 2 + (phase >> 1)) * (2 * p.width) + 2 * w + (phase & 1);
}

/* Visits the region's groups of 8 channels: body(staging byte, element of y, channels of the group that exist). */
template <int GROUPS, int PITCH, typename F>
SM90_INLINE void for_groups(const work &p, const region &r, const tile &t, int channel0, const F &body) {
#pragma unroll 4
    for (int i = r.thread; i < r.rows * GROUPS; i += r.threads) {
        const int row = i / GROUPS, group = i - row * GROUPS;
        const int m = t.m0 + r.row0 + row, channel = channel0 + group * 8, left = p.out_channels - channel;
        if (m < t.m_end && left > 0)
            body((r.staging_row + row) * PITCH + group * 16,
                 out_pixel(p, m, t.phase) * (size_t)p.out_channels + channel, left);
    }
}

template <int BN, typename F>
SM90_INLINE void for_region(const work &p, const region &r, const tile &t, const F &body) {
    constexpr int pitch = BN * 2 + 16;
    if (p.geglu)
        for_groups<BN / 16, pitch>(p, r, t, t.n0 / 2, body);
    else
        for_groups<BN / 8, pitch>(p, r, t, t.n0, body);
}

/* Bias and residual of a tile, on their way while the products are summed. */
template <int BN> SM90_INLINE void fetch_bias(const work &p, const cta<BN> &c, const region &r, const tile &t) {
    float *bias = c.bias_ptr + (p.spread > 1 ? 0 : warp_of() / 4 * BN);
    const int first = t.slot * p.weight_rows + t.n0;
    for (int i = r.thread; i < BN; i += r.threads)
        bias[i] = p.bias && t.n0 + i < p.weight_rows ? p.bias[first + i] : 0.0f;
}

template <typename T, int BN>
SM90_INLINE void prefetch_residual(const work &p, const cta<BN> &c, const region &r, const tile &t) {
    if (!p.residual)
        return;
    const T *residual = (const T *)p.residual;
    const bool whole = p.out_channels % 8 == 0;
    for_region<BN>(p, r, t, [&](int at, size_t element, int left) {
        if (whole) {
            copy_async(c.staging + at, residual + element);
        } else {
            for (int i = 0; i < min(left, 8); i++)
                ((T *)(c.staging_ptr + at))[i] = residual[element + i];
        }
    });
}

/* UNITS times 16 columns, from `column` on, of 16 rows: v[8 unit .. 8 unit + 3] are 8 columns as sm90_wgmma lays them
 * out, the next four the 8 columns after. Bias, activation or GEGLU, residual; to the staging rows from `row` on. Step
 * by step over all of them, so that the latencies of shared memory overlap and nothing is decided per number. */
template <typename T, int BN, int UNITS>
SM90_INLINE void finish(const work &p, const cta<BN> &c, int row, int bias_at, int column, float *v) {
    using P = pair_of<T>;
    constexpr int pitch = BN * 2 + 16;
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4 * 2;
    uint8_t *at = c.staging_ptr + (row + g) * pitch + q * 2;
    const float *bias = c.bias_ptr + bias_at + column + q;
#pragma unroll
    for (int i = 0; i < 2 * UNITS; i++) {
        const float2 b = *(const float2 *)(bias + 8 * i);
        v[4 * i] += b.x, v[4 * i + 1] += b.y, v[4 * i + 2] += b.x, v[4 * i + 3] += b.y;
    }
    if (p.geglu) {
#pragma unroll
        for (int i = 0; i < 4 * UNITS; i++)
            v[i / 4 * 8 + i % 4] *= gelu_erf(v[i / 4 * 8 + 4 + i % 4]);
    } else if (p.activation != ASDM_ACT_NONE) {
#pragma unroll
        for (int i = 0; i < 8 * UNITS; i++)
            v[i] = activate(p.activation, v[i]);
    }
    /* pair i: v[2 i] and v[2 i + 1], of rows g and g + 8 in turn; with geglu only those of the values */
    const int width = p.geglu ? 1 : 2;
    const auto place = [&](int i) {
        return (typename P::type *)(at + width * column + i / 4 * (width * 16) + (i / 2 & 1) * 16 +
                                    (i & 1) * 8 * pitch);
    };
    const auto for_pairs = [&](const auto &body) {
#pragma unroll
        for (int i = 0; i < 4 * UNITS; i++)
            if (!(i & 2) || !p.geglu)
                body(i);
    };
    if (p.residual) {
        typename P::type old[4 * UNITS];
        for_pairs([&](int i) { old[i] = *place(i); });
        for_pairs([&](int i) {
            const float2 r = P::unpack(old[i]);
            v[2 * i] += r.x;
            v[2 * i + 1] += r.y;
        });
    }
    for_pairs([&](int i) { *place(i) = P::pack(v[2 * i], v[2 * i + 1]); });
}

/* Staging to y; the group's threads have all written. */
template <typename T, int BN> SM90_INLINE void store(const work &p, const cta<BN> &c, const region &r, const tile &t) {
    T *y = (T *)p.y;
    const bool whole = p.out_channels % 8 == 0;
    for_region<BN>(p, r, t, [&](int at, size_t element, int left) {
        if (whole) {
            *(uint4 *)(y + element) = *(const uint4 *)(c.staging_ptr + at);
        } else {
            for (int i = 0; i < min(left, 8); i++)
                y[element + i] = ((const T *)(c.staging_ptr + at))[i];
        }
    });
}

/* Sends this chunk's sums to the CTAs that finish them: warp w's pixels to the CTA of slice w * spread / 8. */
template <int BN> SM90_INLINE void push(const work &p, const cta<BN> &c, const float (&acc)[BN / 2]) {
    const int warp = warp_of(), lane = threadIdx.x % 32, warps = 8 / p.spread;
    const uint32_t slot = ((c.chunk * warps + warp % warps) * (BN / 8)) * 512 + lane * 16;
    const uint32_t to = sm90_mapa(c.ring + slot, warp / warps);
#pragma unroll
    for (int j = 0; j < BN / 8; j++)
        sm90_cluster_store(to + j * 512, make_float4(acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]));
}

/* The experts' shares for the 16 pixels from `row` of a tile on, which are one row's. */
template <typename T> struct expert_shares {
    float share[ASDM_EXPERTS_MAX];

    __device__ __forceinline__ expert_shares(const work &p, const tile &t, int row) {
        cuda_read_shares<T>(p.shares, min((t.m0 + row) / (p.height * p.width), p.rows - 1), share);
    }
    __device__ __forceinline__ float operator[](int expert) const {
        return share[0] * (expert == 0) + share[1] * (expert == 1) + share[2] * (expert == 2) +
               share[3] * (expert == 3);
    }
    /* Adds the biases of columns n and n + 1 to two pixels' sums, as a wgmma lays them out. A share of 0 leaves its
     * expert out. */
    __device__ __forceinline__ void add_bias(const work &p, int n, float *v) const {
        if (!p.expert_bias[0] || n >= p.weight_rows)
            return;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float bias = 0.0f;
#pragma unroll
            for (int e = 0; e < ASDM_EXPERTS_MAX; e++)
                if (share[e] != 0.0f && n + i < p.weight_rows)
                    bias = fmaf(share[e], p.expert_bias[e][n + i], bias);
            v[i] += bias;
            v[i + 2] += bias;
        }
    }
};

/* Adds the chunks of this CTA's slice in order and finishes it. */
template <typename T, int BN, int MODE>
SM90_INLINE void gather(const work &p, const cta<BN> &c, const region &r, const tile &t) {
    const int warp = warp_of(), lane = threadIdx.x % 32, warps = 8 / p.spread;
    const uint8_t *ring = c.staging_ptr - (c.staging - c.ring);
    for (int unit = warp; unit < warps * (BN / 16); unit += 8) {
        const int part = unit / (BN / 16), j = unit - part * (BN / 16);
        float v[8];
        for (int chunk = 0; chunk < p.spread; chunk++) {
            const uint8_t *slot = ring + ((chunk * warps + part) * (BN / 8) + 2 * j) * 512 + lane * 16;
            const float4 x = *(const float4 *)slot, y = *(const float4 *)(slot + 512);
            const float w[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = chunk == 0 ? w[i] : v[i] + w[i];
        }
        if constexpr (MODE == MODE_EXPERTS) {
            const expert_shares<T> shares(p, t, r.row0 + part * 16);
            shares.add_bias(p, t.n0 + j * 16 + lane % 4 * 2, v);
            shares.add_bias(p, t.n0 + j * 16 + 8 + lane % 4 * 2, v + 4);
        }
        finish<T, BN, 1>(p, c, part * 16, 0, j * 16, v);
    }
}

template <typename T, int BN> SM90_INLINE void finish_all(const work &p, const cta<BN> &c, float (&acc)[BN / 2]) {
    constexpr int units = BN % 80 == 0 ? 5 : BN % 64 == 0 ? 4 : 2; /* at a time: registers */
    const int warp = warp_of();
#pragma unroll
    for (int j = 0; j < BN / 16; j += units)
        finish<T, BN, units>(p, c, warp * 16, warp / 4 * BN, j * 16, acc + 8 * j);
}

/* A warpgroup's 64 pixels, whose residual is on its way: to y. */
template <typename T, int BN>
SM90_INLINE void finish_half(const work &p, const cta<BN> &c, const region &r, const tile &t, float (&acc)[BN / 2]) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    sm90_bar_sync(r.barrier, r.threads);
    finish_all<T, BN>(p, c, acc);
    sm90_bar_sync(r.barrier, r.threads);
    store<T, BN>(p, c, r, t);
    sm90_bar_sync(r.barrier, r.threads); /* the staging may be filled again */
}

/* The sums of all chunks, exchanged within the cluster: this CTA's slice of the tile to y. */
template <typename T, int BN, int MODE>
SM90_INLINE void finish_slice(const work &p, const cta<BN> &c, const region &r, const tile &t,
                              const float (&acc)[BN / 2]) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    sm90_cluster_arrive_relaxed(); /* every CTA's ring is free */
    sm90_cluster_wait();
    push<BN>(p, c, acc);
    sm90_cluster_arrive(); /* every chunk has arrived */
    sm90_cluster_wait();
    gather<T, BN, MODE>(p, c, r, t);
    sm90_fence_async();
    sm90_bar_sync(BAR_REFILL, PIPELINE_THREADS);
    store<T, BN>(p, c, r, t);
    sm90_bar_sync(r.barrier, r.threads);
}

/* sum = all chunks of this CTA, each the experts' own sums by their shares. */
template <typename T, int BN>
SM90_INLINE void multiply_experts(const work &p, const cta<BN> &c, const tile &t, float (&sum)[BN / 2],
                                  int &iteration) {
    const expert_shares<T> shares(p, t, warp_of() * 16);
    float acc[1][BN / 2], chunk[BN / 2];
    bool started = false, any = false; /* this chunk; a chunk before */
    for_sums<MODE_EXPERTS>(p, c, [&](int begin, int end, int expert) {
        const float share = shares[expert];
        multiply<T, BN, 1>(c, acc, warp_of() / 4 * 64, begin, end, iteration, [] {});
        started = started && expert > 0;
        if (share != 0.0f) {
#pragma unroll
            for (int i = 0; i < BN / 2; i++)
                chunk[i] = started ? fmaf(share, acc[0][i], chunk[i]) : share * acc[0][i];
            started = true;
        }
        if (expert < p.shares.experts - 1)
            return;
#pragma unroll
        for (int i = 0; i < BN / 2; i++)
            sum[i] = any ? sum[i] + chunk[i] : chunk[i];
        any = true;
    });
    if (p.spread == 1) {
#pragma unroll
        for (int j = 0; j < BN / 8; j++)
            shares.add_bias(p, t.n0 + j * 8 + (int)threadIdx.x % 4 * 2, sum + 4 * j);
    }
}

/* A tile by both warpgroups. */
template <typename T, int BN, int MODE>
SM90_INLINE void consume(const work &p, const cta<BN> &c, int index, int &iteration) {
    const tile t = tile_of(p, c, index);
    const region r = region_of<BN>(p, c);
    const int row0 = warp_of() / 4 * 64;
    float acc[1][BN / 2];
    fetch_bias<BN>(p, c, r, t);
    prefetch_residual<T, BN>(p, c, r, t);
    if constexpr (MODE == MODE_WALK) {
        float sum[BN / 2];
        for (int chunk = 0; chunk < p.chunks; chunk++) {
            multiply<T, BN, 1>(c, acc, row0, chunk_begin(p, chunk), chunk_begin(p, chunk + 1), iteration, [] {});
#pragma unroll
            for (int i = 0; i < BN / 2; i++)
                sum[i] = chunk == 0 ? acc[0][i] : sum[i] + acc[0][i];
        }
        finish_half<T, BN>(p, c, r, t, sum);
    } else {
        if constexpr (MODE == MODE_EXPERTS)
            multiply_experts<T, BN>(p, c, t, acc[0], iteration);
        else
            multiply<T, BN, 1>(c, acc, row0, first_step(p, c.chunk), end_step(p, c.chunk), iteration, [] {});
        if (p.spread > 1)
            finish_slice<T, BN, MODE>(p, c, r, t, acc[0]);
        else
            finish_half<T, BN>(p, c, r, t, acc[0]);
    }
}

/* Every second tile, by this warpgroup. It waits for its turn: a stage's barrier tells only one round from the next, so
 * nobody may look at it a round early. */
template <typename T, int BN> SM90_INLINE void consume_alternate(const work &p, const cta<BN> &c) {
    const int group = warp_of() / 4;
    int iteration = group * p.steps;
    for (int index = c.cluster + group * c.clusters; index < c.tiles; index += 2 * c.clusters) {
        const tile t = tile_of(p, c, index);
        float acc[2][BN / 2];
        fetch_bias<BN>(p, c, region_of_half(0), t);
        prefetch_residual<T, BN>(p, c, region_of_half(0), t);
        if (index != c.cluster)
            sm90_bar_sync(BAR_TURN + group, CONSUMERS);
        multiply<T, BN, 2>(c, acc, 0, 0, p.steps, iteration, [&] {
            if (index + c.clusters < c.tiles)
                sm90_bar_arrive(BAR_TURN + (group ^ 1), CONSUMERS);
        });
        finish_half<T, BN>(p, c, region_of_half(0), t, acc[0]);
        prefetch_residual<T, BN>(p, c, region_of_half(1), t);
        finish_half<T, BN>(p, c, region_of_half(1), t, acc[1]);
        iteration += p.steps; /* the other's */
    }
}

/* ---- both */

/* The threads that have no work: the barriers of the cluster count them. */
template <int BN> SM90_INLINE void idle(const work &p, const cta<BN> &c) {
    for (int index = c.cluster; index < c.tiles; index += c.clusters) {
        for (int i = 0; i < 2; i++) {
            sm90_cluster_arrive_relaxed();
            sm90_cluster_wait();
        }
    }
}

template <int BN, int MODE> SM90_INLINE cta<BN> cta_begin(const work &p, uint8_t *raw) {
    constexpr int stages = shape<BN>::stages;
    cta<BN> c;
    const uint32_t base = sm90_smem(raw), aligned = (base + 1023) & ~1023u;
    c.ring = aligned;
    c.staging = c.ring + stages * shape<BN>::stage_bytes;
    c.bias = c.staging + shape<BN>::staging_bytes;
    c.full = c.bias + 2 * BN * 4;
    c.empty = c.full + 8 * stages;
    c.staging_ptr = raw + (c.staging - base);
    c.bias_ptr = (float *)(raw + (c.bias - base));
    c.chunk = blockIdx.x % p.spread;
    c.cluster = blockIdx.x / p.spread;
    c.clusters = gridDim.x / p.spread;
    if (threadIdx.x == CONSUMERS) {
        for (int i = 0; i < stages; i++) {
            sm90_mbarrier_init(c.full_at(i), 2); /* A and B */
            sm90_mbarrier_init(c.empty_at(i), CONSUMERS / 32 / (MODE == MODE_ALTERNATE ? 2 : 1));
        }
        sm90_fence_mbarrier_init();
        sm90_prefetch_map(&p.a[0]);
        sm90_prefetch_map(&p.b[0]);
    }
    __syncthreads();
    if (p.spread > 1) { /* the barriers were fenced for the cluster */
        sm90_cluster_arrive_relaxed();
        sm90_cluster_wait();
    }
    return c;
}

#endif /* SM90_CODE */

template <typename T, int BN, int MODE>
__global__ void __launch_bounds__(THREADS, 1) product_kernel(const __grid_constant__ work p) {
#if SM90_CODE
    extern __shared__ uint8_t raw[];
    cta<BN> c = cta_begin<BN, MODE>(p, raw);
    sm90_grid_launch_dependents();
    find_rows(p, c);
    const int loader = warp_of() - CONSUMERS / 32;
    if (loader >= 0) {
        sm90_setmaxnreg_dec<PRODUCER_REGISTERS>();
        if (loader < LOADERS)
            produce<BN, MODE>(p, c, loader == 0);
        else if (may_spread(MODE) && p.spread > 1)
            idle(p, c);
    } else {
        int iteration = 0;
        sm90_setmaxnreg_inc<CONSUMER_REGISTERS>();
        sm90_grid_wait();
        if (MODE == MODE_ALTERNATE)
            consume_alternate<T, BN>(p, c);
        else
            for (int index = c.cluster; index < c.tiles; index += c.clusters)
                consume<T, BN, MODE>(p, c, index, iteration);
    }
    if (p.spread > 1) { /* nobody leaves while others still write here */
        sm90_cluster_arrive_relaxed();
        sm90_cluster_wait();
    }
#else
    (void)p;
#endif
}

/* ---- the launch */

typedef struct cuda_product_choice choice;

int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

bool encode_maps(const struct cuda_product *p, const choice &c, work *w) {
    const bool bf16 = p->dtype == CUDA_BF16;
    const uint64_t channels = (uint64_t)(p->channels[0] + p->channels[1]);
    const uint64_t taps = p->upsample ? 4 : (uint64_t)(p->kernel * p->kernel), n = cuda_product_rows(p);
    const uint64_t b_dims[4] = {channels, taps, n, p->upsample ? 4u : p->slots ? (uint64_t)p->slot_count : 1u};
    const uint64_t b_strides[3] = {2 * channels, 2 * channels * taps, 2 * channels * taps * n};
    const uint32_t b_box[4] = {BK, 1, (uint32_t)c.width, 1};
    for (int e = 0; e < (w->shares.experts ? w->shares.experts : 1); e++) {
        const void *weight = w->shares.experts ? p->experts.weight[e] : p->weight;
        const uint16_t *from = (const uint16_t *)weight + (p->upsample ? n * 9 * channels : 0);
        if (!sm90_encode_tiled(&w->b[e], bf16, 4, from, b_dims, b_strides, b_box, CU_TENSOR_MAP_SWIZZLE_128B))
            return false;
    }
    if (w->im2col)
        return sm90_encode_im2col(&w->a[0], bf16, p->x[0], p->rows, p->in_height, p->in_width, p->channels[0], w->lower,
                                  w->stride, w->height, w->width, BM);
    for (int i = 0; i < 2 && p->channels[i]; i++) {
        const uint64_t dims[2] = {(uint64_t)p->channels[i], (uint64_t)w->m}, strides[1] = {2 * dims[0]};
        const uint32_t box[2] = {BK, BM};
        if (!sm90_encode_tiled(&w->a[i], bf16, 2, p->x[i], dims, strides, box, CU_TENSOR_MAP_SWIZZLE_128B))
            return false;
    }
    return true;
}

template <typename T, int BN, int MODE> cudaError_t launch(const work &w, cudaStream_t stream) {
    const auto kernel = product_kernel<T, BN, MODE>;
    static const cudaError_t prepared =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape<BN>::smem_bytes);
    if (prepared != cudaSuccess)
        return prepared;
    const int size = w.spread, room = sm90_processors() / size;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = (unsigned)size;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    const int tiles =
        w.slots && w.n_tiles * w.rows * w.row_tiles > w.tiles ? w.n_tiles * w.rows * w.row_tiles : w.tiles;
    config.gridDim = dim3((unsigned)((tiles < room ? tiles : room) * size));
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = shape<BN>::smem_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = size > 1 ? 2 : 1;
    return cudaLaunchKernelEx(&config, kernel, w);
}

template <typename T, int BN> cudaError_t launch_mode(const work &w, bool alternate, cudaStream_t stream) {
    if constexpr (BN <= EXPERTS_WIDTH)
        if (w.shares.experts)
            return launch<T, BN, MODE_EXPERTS>(w, stream);
    if (w.chunks > 1 && w.spread == 1)
        return launch<T, BN, MODE_WALK>(w, stream);
    return alternate ? launch<T, BN, MODE_ALTERNATE>(w, stream) : launch<T, BN, MODE_TOGETHER>(w, stream);
}

template <typename T> cudaError_t launch_choice(const work &w, const choice &c, cudaStream_t stream) {
    switch (c.width) {
    case 256: /* registers for one accumulator of half a tile */
        return launch<T, 256, MODE_TOGETHER>(w, stream);
    case 160:
        return launch_mode<T, 160>(w, c.alternate, stream);
    case 128:
        return launch_mode<T, 128>(w, c.alternate, stream);
    case 80:
        return launch_mode<T, 80>(w, c.alternate, stream);
    case 64:
        return launch_mode<T, 64>(w, c.alternate, stream);
    default:
        return launch_mode<T, 32>(w, c.alternate, stream);
    }
}

cudaError_t run_choice(const struct cuda_product *p, const choice &c, cudaStream_t stream) {
    const struct cuda_product_extent e = cuda_product_extent_of(p);
    work w = {};
    w.bias = p->bias;
    w.residual = p->residual;
    w.y = p->y;
    w.im2col = p->kernel > 1;
    w.upsample = p->upsample;
    w.geglu = p->geglu;
    w.activation = p->geglu ? ASDM_ACT_NONE : p->activation;
    w.height = p->upsample ? p->in_height : p->out_height;
    w.width = p->upsample ? p->in_width : p->out_width;
    w.m = p->rows * w.height * w.width;
    w.weight_rows = e.weight_rows;
    w.out_channels = p->out_channels;
    w.chunks = c.chunks;
    w.spread = c.spread;
    w.n_tiles = ceil_div(e.weight_rows, c.width);
    w.m_tiles = ceil_div(w.m, BM);
    w.tiles = w.n_tiles * w.m_tiles * e.phases;
    w.slots = p->slots;
    w.shares = p->experts.shares;
    for (int i = 0; i < w.shares.experts; i++)
        w.expert_bias[i] = p->experts.bias[i];
    w.rows = p->rows;
    w.row_tiles = ceil_div(w.height * w.width, BM);
    w.steps = e.steps;
    w.steps_first = ceil_div(p->channels[0], BK);
    w.taps_across = p->upsample ? 2 : p->kernel;
    w.lower = p->upsample ? -1 : -p->pad_before;
    w.stride = p->stride;
    if (!encode_maps(p, c, &w))
        return cudaErrorInvalidValue;
    return p->dtype == CUDA_BF16 ? launch_choice<__nv_bfloat16>(w, c, stream) : launch_choice<__half>(w, c, stream);
}

} // namespace

extern "C" {

cudaError_t cuda_product_sm90(const struct cuda_product *p, cudaStream_t stream) {
    return run_choice(p, p->choice ? *p->choice : cuda_product_sm90_choice(p), stream);
}

} // extern "C"
