/* The ends of a tile of product_sm90.cu: from sums in registers to y, through a staging in shared memory. Where a CTA
 * has several tiles, a porter has the copy engine bring bias and residual while a tile is summed, and take what was
 * staged of it to y while the next one is. Where there is but one, or where the copy engine cannot do it (a phase of
 * upsampling, odd channels), those who finish a tile fetch before they sum and store behind it: it takes less time than
 * handing over. */
#ifndef ASDM_CUDA_PRODUCT_ENDS_CUH
#define ASDM_CUDA_PRODUCT_ENDS_CUH

#include "cuda/moments.cuh"
#include "cuda/product_work.cuh"
#include "cuda/shares.cuh"

namespace {

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
    const float t = cuda_reciprocal(fmaf(0.3275911f, z, 1.0f));
    float poly = fmaf(1.061405429f, t, -1.453152027f);
    poly = fmaf(poly, t, 1.421413741f);
    poly = fmaf(poly, t, -0.284496736f);
    poly = fmaf(poly, t, 0.254829592f) * t;
    const float tail = 0.5f * poly * cuda_exp2(-1.44269504f * z * z);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

/* An activation of all of v: decided once, not for each number. */
template <int COUNT> SM90_INLINE void activate(int kind, float *v) {
    if (kind == ASDM_ACT_GELU) {
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            v[i] = gelu_erf(v[i]);
    } else if (kind == ASDM_ACT_RELU) {
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            v[i] = fmaxf(v[i], 0.0f);
    } else if (kind != ASDM_ACT_NONE) { /* x * sigmoid(slope * (x + cubic * x^3)); 0.5 (1 + tanh(u)) = sigmoid(2 u) */
        const float cubic = kind == ASDM_ACT_GELU_TANH ? 0.044715f : 0.0f;
        const float slope = kind == ASDM_ACT_GELU_TANH ? 1.5957691216f : kind == ASDM_ACT_QUICK_GELU ? 1.702f : 1.0f;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const float inner = fmaf(cubic, fminf(v[i] * v[i], 1e30f), 1.0f) * slope;
            v[i] *= cuda_reciprocal(1.0f + cuda_exp2(-1.44269504f * inner * v[i]));
        }
    }
}

/* Pixels of a tile that are finished together: by a warpgroup its half, or with spread by all consumers the CTA's
 * slice. Staged in shared memory: residual in, y out. */
struct region {
    int group;                    /* of barriers, bias and staging */
    int row0, rows;               /* of the tile */
    int thread, threads, barrier; /* of those who finish it */
};

/* Half `half` of a tile, or with spread the CTA's slice, by consumers of `group`. */
SM90_INLINE region region_of(const work &p, int chunk, int group, int half) {
    if (p.spread > 1)
        return {0, chunk * (BM >> p.spread_log2), BM >> p.spread_log2, (int)threadIdx.x, CONSUMERS, BAR_CONSUMERS};
    return {group, half * HALF, HALF, (int)threadIdx.x % 128, 128, BAR_GROUP + group};
}

/* Byte of a block's row where channel `column` of it is: 16 bytes each change places with others by the row. */
SM90_INLINE int swizzled(int row, int column, int channels) {
    return ((column / 8) ^ (row * channels / 64 & (channels / 8 - 1))) * 16 + column % 8 * 2;
}

/* Byte of the staging where channel `column` (of the tile's) of a region's pixel is. */
template <class K> SM90_INLINE int staged_at(int group, int row, int column) {
    constexpr int channels = block_channels(K::BN, K::GEGLU);
    return group * (HALF * K::BN * 2) + column / channels * (HALF * 2 * channels) + row * 2 * channels +
           swizzled(row, column % channels, channels);
}

/* The place in y of pixel m: with upsampling, of its phase among the doubled pixels. */
SM90_INLINE size_t out_pixel(const work &p, int m, int phase) {
    if (!p.upsample)
        return (size_t)m;
    const int line = p.by_width.quotient(m), w = m - line * p.width; /* lines of all rows */
    return ((size_t)line * 2 + (phase >> 1)) * (2 * p.width) + 2 * w + (phase & 1);
}

/* Visits the groups of 8 channels of `rows` pixels of a region, from `row0` on, by `threads`: body(staging byte,
 * element of y, channels of the group that exist). */
template <class K, typename F>
SM90_INLINE void for_groups(const work &p, const region &r, const tile &t, int row0, int rows, int thread, int threads,
                            const F &body) {
    constexpr int groups = (K::COLUMNS + 7) / 8;
    const int channel0 = K::GEGLU ? t.n0 / 2 : t.n0;
#pragma unroll(K::ENDS == ENDS_OTHER ? 1 : 5)
    for (int i = thread; i < rows * groups; i += threads) {
        const int row = row0 + i / groups, group = i % groups;
        const int m = t.m0 + r.row0 + row, channel = channel0 + group * 8, left = p.out_channels - channel;
        if (m < t.m_end && left > 0)
            body(staged_at<K>(r.group, row, group * 8), out_pixel(p, m, t.phase) * (size_t)p.out_channels + channel,
                 left);
    }
}

/* The same of all of a region, by those who finish it, */
template <class K, typename F>
SM90_INLINE void for_region(const work &p, const region &r, const tile &t, const F &body) {
    for_groups<K>(p, r, t, 0, r.rows, r.thread, r.threads, body);
}

/* or of a warp's pixels, by itself. */
template <class K, typename F> SM90_INLINE void for_warp(const work &p, const region &r, const tile &t, const F &body) {
    for_groups<K>(p, r, t, warp_of() % 4 * 16, 16, (int)threadIdx.x % 32, 32, body);
}

/* Rows of y are aligned to 16 bytes, and none of their vectors of 8 channels is cut. */
template <class K> SM90_INLINE bool is_whole(const work &p) {
    return K::ENDS != ENDS_OTHER || p.out_channels % 8 == 0;
}

/* Biases of a tile's kernel and of its row, from the tile's first output on; or NULL. */
SM90_INLINE const float *bias_of(const work &p, const tile &t) {
    return p.bias ? p.bias + (size_t)t.slot * p.weight_rows + t.n0 : NULL;
}
template <class K> SM90_INLINE const typename K::T *row_bias_of(const work &p, const region &r, const tile &t) {
    if (!K::PLAIN || !p.row_bias)
        return NULL;
    const int row = min(p.by_pixels.quotient(t.m0 + r.row0), p.rows - 1);
    return (const typename K::T *)p.row_bias + (size_t)(p.row_bias_map ? p.row_bias_map[row] : row) * p.out_channels +
           t.n0;
}

/* Bias and residual of a region, by those who will finish it; on their way until wait_own(). */
template <class K> SM90_INLINE void fetch_own(const work &p, const cta<K::BN> &c, const region &r, const tile &t) {
    using T = typename K::T;
    const float *bias = bias_of(p, t);
    const T *row_bias = row_bias_of<K>(p, r, t), *residual = (const T *)p.residual;
    const bool whole = is_whole<K>(p);
    const int outputs = min(K::BN, p.weight_rows - t.n0);
    if (bias) {
        if (whole && r.thread < outputs / 4)
            sm90_copy_async(c.bias + (r.group * K::BN + 4 * r.thread) * 4, bias + 4 * r.thread);
        for (int i = r.thread; !whole && i < outputs; i += r.threads)
            ((float *)c.bias_ptr)[r.group * K::BN + i] = bias[i];
    }
    if (row_bias && r.thread < outputs / 8)
        sm90_copy_async(c.row_bias + (r.group * K::BN + 8 * r.thread) * 2, row_bias + 8 * r.thread);
    if (residual)
        for_region<K>(p, r, t, [&](int at, size_t element, int left) {
            if (whole)
                sm90_copy_async(c.staging + at, residual + element);
            for (int i = 0; !whole && i < min(left, 8); i++)
                ((T *)(c.staging_ptr + at))[i] = residual[element + i];
        });
}

SM90_INLINE void wait_own(const region &r) {
    sm90_copy_wait();
    sm90_bar_sync(r.barrier, r.threads);
}

/* Staging to y, by those who finished it: of a slice all together, else each warp what it staged itself. */
template <class K> SM90_INLINE void store_own(const work &p, const cta<K::BN> &c, const region &r, const tile &t) {
    using T = typename K::T;
    T *y = (T *)p.y;
    const bool whole = is_whole<K>(p);
    const auto store = [&](int at, size_t element, int left) {
        if (whole)
            *(uint4 *)(y + element) = *(const uint4 *)(c.staging_ptr + at);
        for (int i = 0; !whole && i < min(left, 8); i++)
            y[element + i] = ((const T *)(c.staging_ptr + at))[i];
    };
    if (K::SPREAD && p.spread > 1) { /* finish_slice() let them meet */
        for_region<K>(p, r, t, store);
    } else {
        __syncwarp();
        for_warp<K>(p, r, t, store);
    }
}

/* UNITS times 16 columns, from `column` on, of 16 rows: v[8 unit .. 8 unit + 3] are 8 columns as sm90_wgmma lays them
 * out, the next four the 8 columns after. Bias, activation or GEGLU, residual; to the staging rows from `row` on. Step
 * by step over all of them, so that the latencies of shared memory overlap and nothing is decided per number. */
template <class K, int UNITS>
SM90_INLINE void finish(const work &p, const cta<K::BN> &c, int group, int row, int column, float *v) {
    using T = typename K::T;
    using P = pair_of<T>;
    constexpr int BN = K::BN, channels = block_channels(BN, K::GEGLU);
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4 * 2;
    if (p.bias) {
        const float *bias = (const float *)c.bias_ptr + group * BN + column + q;
#pragma unroll
        for (int i = 0; i < 2 * UNITS; i++) {
            const float2 b = *(const float2 *)(bias + 8 * i);
            v[4 * i] += b.x, v[4 * i + 1] += b.y, v[4 * i + 2] += b.x, v[4 * i + 3] += b.y;
        }
    }
    if (K::PLAIN && p.row_bias) {
        const T *bias = (const T *)c.row_bias_ptr + group * BN + column + q;
#pragma unroll
        for (int i = 0; i < 2 * UNITS; i++) {
            const float2 b = P::unpack(*(const typename P::type *)(bias + 8 * i));
            v[4 * i] += b.x, v[4 * i + 1] += b.y, v[4 * i + 2] += b.x, v[4 * i + 3] += b.y;
        }
    }
    if (K::GEGLU) {
#pragma unroll
        for (int i = 0; i < 4 * UNITS; i++)
            v[i / 4 * 8 + i % 4] *= gelu_erf(v[i / 4 * 8 + 4 + i % 4]);
    }
    if (K::ENDS == ENDS_OTHER)
        activate<8 * UNITS>(p.activation, v);
    /* pair i: v[2 i] and v[2 i + 1], of rows g and g + 8 in turn; with geglu only those of the values */
    uint8_t *at = c.staging_ptr + group * (HALF * BN * 2) + (row + g) * 2 * channels + q * 2;
    const auto place = [&](int i) {
        const int unit = column / 16 + i / 4, first = K::GEGLU ? unit * 8 : unit * 16 + i / 2 % 2 * 8;
        return (typename P::type *)(at + first / channels * (HALF * 2 * channels) + (i & 1) * 16 * channels +
                                    swizzled(g, first % channels, channels));
    };
    const auto for_pairs = [&](const auto &body) {
#pragma unroll
        for (int i = 0; i < 4 * UNITS; i++)
            if (!(i & 2) || !K::GEGLU)
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

/* Sends this chunk's sums to the CTAs that finish them: warp w's pixels to the CTA of slice w * spread / 8. */
template <int BN> SM90_INLINE void push(const work &p, const cta<BN> &c, const float (&acc)[BN / 2]) {
    const int warp = warp_of(), lane = threadIdx.x % 32, warps = 8 >> p.spread_log2, rank = warp >> (3 - p.spread_log2);
    const uint32_t slot = ((c.chunk * warps + warp - rank * warps) * (BN / 8)) * 512 + lane * 16;
    const uint32_t to = sm90_mapa(c.ring + slot, rank);
#pragma unroll
    for (int j = 0; j < BN / 8; j++)
        sm90_cluster_store(to + j * 512, make_float4(acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]));
}

/* The experts' shares for the 16 pixels from `row` of a tile on, which are one row's. */
template <typename T> struct expert_shares {
    float share[ASDM_EXPERTS_MAX];

    __device__ __forceinline__ expert_shares(const work &p, const tile &t, int row) {
        cuda_read_shares<T>(p.shares, min(p.by_pixels.quotient(t.m0 + row), p.rows - 1), share);
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
template <class K> SM90_INLINE void gather(const work &p, const cta<K::BN> &c, const region &r, const tile &t) {
    constexpr int BN = K::BN;
    const int warp = warp_of(), lane = threadIdx.x % 32, warps = 8 >> p.spread_log2;
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
        if constexpr (K::MODE == MODE_EXPERTS) {
            const expert_shares<typename K::T> shares(p, t, r.row0 + part * 16);
            shares.add_bias(p, t.n0 + j * 16 + lane % 4 * 2, v);
            shares.add_bias(p, t.n0 + j * 16 + 8 + lane % 4 * 2, v + 4);
        }
        finish<K, 1>(p, c, 0, part * 16, j * 16, v);
    }
}

template <class K> SM90_INLINE void finish_all(const work &p, const cta<K::BN> &c, float (&acc)[K::BN / 2]) {
    constexpr int BN = K::BN;
    constexpr int units = BN % 80 == 0 ? 5 : BN % 64 == 0 ? 4 : 2; /* at a time: registers */
    const int warp = warp_of();
#pragma unroll
    for (int j = 0; j < BN / 16; j += units)
        finish<K, units>(p, c, warp / 4, warp % 4 * 16, j * 16, acc + 8 * j);
}

/* The sums of all chunks, exchanged within the cluster: this CTA's slice of the tile to the staging. `last`: the ring
 * is not filled again. */
template <class K>
SM90_INLINE void finish_slice(const work &p, const cta<K::BN> &c, const region &r, const tile &t, bool last,
                              const float (&acc)[K::BN / 2]) {
    sm90_cluster_arrive_relaxed(); /* every CTA's ring is free */
    sm90_cluster_wait();
    push<K::BN>(p, c, acc);
    sm90_cluster_arrive(); /* every chunk has arrived */
    sm90_cluster_wait();
    gather<K>(p, c, r, t);
    if (!last) {
        sm90_fence_async();
        sm90_bar_arrive(BAR_REFILL, PIPELINE_THREADS);
    }
    sm90_bar_sync(r.barrier, r.threads);
}

/* Moments of the parts of a region whose result is staged. */
template <class K> SM90_INLINE void measure(const work &p, const cta<K::BN> &c, const region &r, const tile &t) {
    using T = typename K::T;
    constexpr int BN = K::BN;
    constexpr int channels = block_channels(BN, false);
    const int parts = r.rows / (p.slab == ASDM_SLAB ? ASDM_SLAB : ASDM_SLAB_SMALL) * p.across,
              lane = r.thread % CUDA_PART_LANES;
    for (int begin = r.thread / 32 * 4; begin < parts; begin += r.threads / CUDA_PART_LANES) { /* a warp's four parts */
        const int own = begin + r.thread % 32 / CUDA_PART_LANES, part = min(own, parts - 1);
        const int slab = (int)(((float)part + 0.5f) * p.across_inverse); /* exact: there are few parts */
        const int granule = part - slab * p.across, row0 = slab * p.slab, first = granule * p.granule;
        /* Slabs are of whole eights of pixels, and as swizzled() has it, those eight times i on are alike. */
        const uint8_t *mine = c.staging_ptr + r.group * (HALF * BN * 2) + (row0 + lane) * 2 * channels;
        const float about = cuda_to_float(*(const T *)(c.staging_ptr + staged_at<K>(r.group, row0, first)));
        const struct asdm_moments moments = cuda_part_moments(p.slab, p.granule, about, [&](int i, int in_part) {
            const unsigned channel = (unsigned)(first + in_part);
            return cuda_load_pair((const T *)(mine + channel / channels * (HALF * 2 * channels) +
                                              swizzled(lane, (int)(channel % channels), channels) +
                                              i * (CUDA_PART_LANES * 2 * channels)));
        });
        const int m = t.m0 + r.row0 + row0;
        if (own == part && lane == 0 && m < t.m_end && t.n0 + first < p.out_channels) {
            const int row = p.by_pixels.quotient(m), at = t.phase * p.pixels + m - row * p.pixels;
            p.moments[((size_t)row * p.slabs + (p.slab == ASDM_SLAB ? at / ASDM_SLAB : at / ASDM_SLAB_SMALL)) *
                          p.granules +
                      t.n0 / BN * p.across + granule] = moments;
        }
    }
}

/* ---- the porter's ways */

/* Bias and residual of a region, to those who wait at c.ready. The staging is free. */
template <class K> SM90_INLINE void bring(const work &p, const cta<K::BN> &c, const region &r, const tile &t) {
    constexpr int BN = K::BN, columns = K::COLUMNS, channels = block_channels(BN, K::GEGLU);
    const uint32_t ready = c.ready + 8 * r.group;
    const float *bias = bias_of(p, t);
    const typename K::T *row_bias = row_bias_of<K>(p, r, t);
    const int outputs = min(BN, p.weight_rows - t.n0);
    const int bytes = (bias ? outputs * 4 : 0) + (row_bias ? outputs * 2 : 0) + (p.residual ? columns * r.rows * 2 : 0);
    sm90_mbarrier_expect_tx(ready, bytes);
    if (bias)
        sm90_load_bytes(c.bias + r.group * BN * 4, bias, outputs * 4, ready);
    if (row_bias)
        sm90_load_bytes(c.row_bias + r.group * BN * 2, row_bias, outputs * 2, ready);
    for (int column = 0; p.residual && column < columns; column += channels)
        sm90_load_2d(c.staging + staged_at<K>(r.group, 0, column), &p.from, ready,
                     (K::GEGLU ? t.n0 / 2 : t.n0) + column, t.m0 + r.row0);
}

/* What is staged of a region, to y: by one thread, which waits for it later. */
template <class K> SM90_INLINE void take(const work &p, const cta<K::BN> &c, const region &r, const tile &t) {
    constexpr int channels = block_channels(K::BN, K::GEGLU);
    for (int column = 0; column < K::COLUMNS; column += channels)
        sm90_store_2d(&p.to, c.staging + staged_at<K>(r.group, 0, column), (K::GEGLU ? t.n0 / 2 : t.n0) + column,
                      t.m0 + r.row0);
    sm90_store_commit();
}

#endif /* SM90_CODE */

} // namespace

#endif
