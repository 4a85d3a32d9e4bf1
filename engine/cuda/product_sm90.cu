/* Linears and convolutions on Hopper: y = epilogue(A W') by wgmma, operands through the tensor copy engine (TMA).
 *
 * A [pixels][taps * channels] is never in memory: TMA's im2col mode gathers 128 output pixels by 64 channels of one tap
 * straight into shared memory, across rows of pixels and of the batch; a linear is a plain 2D load. A CTA computes
 * tiles of 128 pixels by BN outputs: one thread loads A, one W, and two warpgroups of 64 pixels each multiply. What
 * the loading threads do between two loads is kept short: a division there would bound the whole kernel. A warpgroup
 * waits for its products as it issues them, so whatever it does beside them costs their time: another thread, the
 * porter, has the copy engine bring what the end of a tile needs and take away what comes of it.
 *
 * The sum over K is cut into chunks, a function of the operation without `rows` (unless it is said that bits may depend
 * on them); each is summed from zero in float32 and the chunks are added in order. With few rows a cluster's CTAs take
 * a chunk each (spread) and exchange the partial sums through distributed shared memory; with many, one CTA walks
 * through them. Same bits both ways.
 *
 * Where a CTA has several tiles of one chunk, its warpgroups may take whole tiles in turn (alternate): one finishes a
 * tile while the other multiplies. */
#include "cuda/product_ends.cuh"

namespace {

#if SM90_CODE

/* ---- the producers: a thread for A, a thread for B */

/* Where along K a load is: the block of channels, and the tap (of a conv) or the source (of a linear). */
struct cursor {
    int block, tap, r, s;

    __device__ cursor(const work &p, int step) {
        tap = p.im2col ? p.by_steps_first.quotient(step) : step >= p.steps_first;
        block = step - tap * p.steps_first;
        r = p.by_taps_across.quotient(tap);
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
    const int n = p.by_pixels.quotient(t.m0), pixel = t.m0 - n * p.pixels;
    const int h = p.by_width.quotient(pixel), w = pixel - h * p.width;
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
template <class K, typename F> SM90_INLINE void for_sums(const work &p, const cta<K::BN> &c, const F &body) {
    if (K::MODE != MODE_EXPERTS) {
        body(first_step(p, c.chunk), end_step(p, c.chunk), 0);
        return;
    }
    const int first = p.spread > 1 ? c.chunk : 0, end = p.spread > 1 ? c.chunk + 1 : p.chunks;
    for (int chunk = first; chunk < end; chunk++)
        for (int e = 0; e < p.shares.experts; e++)
            body(chunk_begin(p, chunk), chunk_begin(p, chunk + 1), e);
}

template <class K> SM90_INLINE void produce_a(const work &p, const cta<K::BN> &c, const tile &t, ring<K::BN> &to) {
    const origin o = origin_of(p, t);
    for_sums<K>(p, c, [&](int begin, int end, int) {
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

template <class K> SM90_INLINE void produce_b(const work &p, const cta<K::BN> &c, const tile &t, ring<K::BN> &to) {
    for_sums<K>(p, c, [&](int begin, int end, int expert) {
        cursor at(p, begin);
        for (int step = begin; step < end; step++, at.advance(p), to.advance()) {
            to.reserve(c, shape<K::BN>::b_bytes);
            sm90_load_4d(c.b_at(to.stage), &p.b[expert], c.full_at(to.stage), (p.im2col ? at.block : step) * BK,
                         p.im2col ? at.tap : 0, t.n0, p.slots ? t.slot : t.phase);
        }
    });
}

/* A warp of loading, of which one thread loads: everything of every tile. Weights do not wait for the kernels before.
 */
template <class K> SM90_INLINE void produce(const work &p, const cta<K::BN> &c, bool a) {
    const bool loads = threadIdx.x % 32 == 0;
    ring<K::BN> to;
    if (a && loads)
        sm90_grid_wait();
    for (int index = c.cluster; index < c.tiles; index += c.clusters) {
        if (loads) {
            const tile t = tile_of(p, c, index);
            if (a)
                produce_a<K>(p, c, t, to);
            else
                produce_b<K>(p, c, t, to);
        }
        __syncwarp();
        if (K::SPREAD && p.spread > 1) {
            for (int i = 0; i < 2; i++) {
                sm90_cluster_arrive_relaxed();
                sm90_cluster_wait();
            }
            if (index + c.clusters < c.tiles)
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
                sm90_wgmma<pair_of<T>::bf16>(acc[half], a + 2 * k + half * (HALF * BK * 2 / 16), b + 2 * k,
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

/* sum = all chunks of this CTA, each the experts' own sums by their shares. */
template <class K>
SM90_INLINE void multiply_experts(const work &p, const cta<K::BN> &c, const tile &t, float (&sum)[K::BN / 2],
                                  int &iteration) {
    using T = typename K::T;
    constexpr int BN = K::BN;
    const expert_shares<T> shares(p, t, warp_of() * 16);
    float acc[1][BN / 2], chunk[BN / 2];
    bool started = false, any = false; /* this chunk; a chunk before */
    for_sums<K>(p, c, [&](int begin, int end, int expert) {
        const float share = shares[expert];
        multiply<T, BN, 1>(c, acc, warp_of() / 4 * HALF, begin, end, iteration, [] {});
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

/* The regions that a group of consumers finishes, in order: number n, of tile `index`. */
template <class K> SM90_INLINE int index_of(const cta<K::BN> &c, int group, int n) {
    return c.cluster + c.clusters * (K::MODE == MODE_ALTERNATE ? n / 2 * 2 + group : n);
}
template <class K> SM90_INLINE region region_at(const work &p, const cta<K::BN> &c, int group, int n) {
    return region_of(p, c.chunk, group, K::MODE == MODE_ALTERNATE ? n % 2 : group);
}

/* Before region n, of tile t, is summed. */
template <class K> SM90_INLINE void start_region(const work &p, const cta<K::BN> &c, const tile &t, int n) {
    if (!K::PORTED)
        fetch_own<K>(p, c, region_at<K>(p, c, warp_of() / 4, n), t);
}

/* A region, from its sums to y or into the porter's hands: not the last, as its own threads store that sooner. */
template <class K>
SM90_INLINE void finish_region(const work &p, const cta<K::BN> &c, const tile &t, int n, float (&sum)[K::BN / 2]) {
    const int group = warp_of() / 4;
    const region r = region_at<K>(p, c, group, n);
    const bool last = index_of<K>(c, group, n + 1) >= c.tiles, ported = K::PORTED && !last;
    if (K::PORTED)
        sm90_mbarrier_wait(c.ready + 8 * r.group, n & 1);
    else
        wait_own(r);
    if (K::SPREAD && p.spread > 1)
        finish_slice<K>(p, c, r, t, last, sum);
    else
        finish_all<K>(p, c, sum);
    /* Where the threads of a warp may have parted they meet at a barrier, whatever comes of the tile: the compiler must
     * see that they are together in multiply(), else it holds what all of them share in each one's registers. */
    if (!ported)
        store_own<K>(p, c, r, t);
    sm90_bar_sync(r.barrier, r.threads);
    if (K::PLAIN && p.moments) {
        measure<K>(p, c, r, t);
        sm90_bar_sync(r.barrier, r.threads); /* the staging may be filled again, */
    }
    if (ported) { /* or first taken away */
        sm90_fence_async();
        sm90_bar_arrive(BAR_STAGED + r.group, r.threads + 32);
    }
}

/* A tile by both warpgroups: its sums. */
template <class K>
SM90_INLINE void sum_tile(const work &p, const cta<K::BN> &c, const tile &t, float (&sum)[1][K::BN / 2],
                          int &iteration) {
    using T = typename K::T;
    constexpr int BN = K::BN;
    const int row0 = warp_of() / 4 * HALF;
    if constexpr (K::MODE == MODE_WALK) {
        float acc[1][BN / 2];
        for (int chunk = 0; chunk < p.chunks; chunk++) {
            multiply<T, BN, 1>(c, acc, row0, chunk_begin(p, chunk), chunk_begin(p, chunk + 1), iteration, [] {});
#pragma unroll
            for (int i = 0; i < BN / 2; i++)
                sum[0][i] = chunk == 0 ? acc[0][i] : sum[0][i] + acc[0][i];
        }
    } else if constexpr (K::MODE == MODE_EXPERTS) {
        multiply_experts<K>(p, c, t, sum[0], iteration);
    } else {
        multiply<T, BN, 1>(c, sum, row0, first_step(p, c.chunk), end_step(p, c.chunk), iteration, [] {});
    }
}

/* All of this CTA's tiles, by both warpgroups. */
template <class K> SM90_INLINE void consume_together(const work &p, const cta<K::BN> &c) {
    int iteration = 0, n = 0;
    for (int index = c.cluster; index < c.tiles; index += c.clusters) {
        const tile t = tile_of(p, c, index);
        float sum[1][K::BN / 2];
        start_region<K>(p, c, t, n);
        sum_tile<K>(p, c, t, sum, iteration);
        finish_region<K>(p, c, t, n++, sum[0]);
    }
}

/* Every second tile, by this warpgroup. It waits for its turn: a stage's barrier tells only one round from the next, so
 * nobody may look at it a round early. */
template <class K> SM90_INLINE void consume_alternate(const work &p, const cta<K::BN> &c) {
    const int group = warp_of() / 4;
    int iteration = group * p.steps, n = 0;
    for (int index = c.cluster + group * c.clusters; index < c.tiles; index += 2 * c.clusters) {
        const tile t = tile_of(p, c, index);
        float acc[2][K::BN / 2];
        start_region<K>(p, c, t, n);
        if (index != c.cluster)
            sm90_bar_sync(BAR_TURN + group, CONSUMERS);
        multiply<typename K::T, K::BN, 2>(c, acc, 0, 0, p.steps, iteration, [&] {
            if (index + c.clusters < c.tiles)
                sm90_bar_arrive(BAR_TURN + (group ^ 1), CONSUMERS);
        });
        finish_region<K>(p, c, t, n++, acc[0]);
        start_region<K>(p, c, t, n);
        finish_region<K>(p, c, t, n++, acc[1]);
        iteration += p.steps; /* the other's */
    }
}

/* ---- the porters */

/* What a group's regions need beside their sums, and what comes of all but the last. */
template <class K> SM90_INLINE void carry(const work &p, const cta<K::BN> &c, int group) {
    const bool carries = threadIdx.x % 32 == 0;
    for (int n = 0;; n++) {
        const int index = index_of<K>(c, group, n);
        if (index >= c.tiles)
            return;
        if (n > 0) {
            const region before = region_at<K>(p, c, group, n - 1);
            sm90_bar_sync(BAR_STAGED + group, before.threads + 32);
            if (carries) {
                take<K>(p, c, before, tile_of(p, c, index_of<K>(c, group, n - 1)));
                sm90_store_wait_read();
            }
        }
        if (carries)
            bring<K>(p, c, region_at<K>(p, c, group, n), tile_of(p, c, index));
        __syncwarp();
    }
}

/* ---- both */

/* Where consumers exchange sums: the barriers of the cluster count all threads. */
template <int BN> SM90_INLINE void meet_cluster(const work &p, const cta<BN> &c) {
    for (int index = c.cluster; index < c.tiles; index += c.clusters) {
        for (int i = 0; i < 2; i++) {
            sm90_cluster_arrive_relaxed();
            sm90_cluster_wait();
        }
    }
}

template <class K> SM90_INLINE cta<K::BN> cta_begin(const work &p, uint8_t *raw) {
    constexpr int BN = K::BN, stages = shape<BN>::stages;
    cta<BN> c;
    const uint32_t base = sm90_smem(raw), aligned = (base + 1023) & ~1023u;
    c.ring = aligned;
    c.staging = c.ring + stages * shape<BN>::stage_bytes;
    c.bias = c.staging + shape<BN>::staging_bytes;
    c.row_bias = c.bias + 2 * BN * 4;
    c.full = c.row_bias + 2 * BN * 2;
    c.empty = c.full + 8 * stages;
    c.ready = c.empty + 8 * stages;
    c.staging_ptr = raw + (c.staging - base);
    c.bias_ptr = raw + (c.bias - base);
    c.row_bias_ptr = raw + (c.row_bias - base);
    c.chunk = (int)blockIdx.x & (p.spread - 1);
    c.cluster = (int)blockIdx.x >> p.spread_log2;
    c.clusters = (int)gridDim.x >> p.spread_log2;
    if (threadIdx.x == CONSUMERS) {
        for (int i = 0; i < stages; i++) {
            sm90_mbarrier_init(c.full_at(i), 2); /* A and B */
            sm90_mbarrier_init(c.empty_at(i), CONSUMERS / 32 / (K::MODE == MODE_ALTERNATE ? 2 : 1));
        }
        for (int group = 0; group < 2; group++)
            sm90_mbarrier_init(c.ready + 8 * group, 1);
        sm90_fence_mbarrier_init();
        sm90_prefetch_map(&p.a[0]);
        sm90_prefetch_map(&p.b[0]);
        if (K::PORTED)
            sm90_prefetch_map(&p.to);
        if (K::PORTED && p.residual)
            sm90_prefetch_map(&p.from);
    }
    __syncthreads();
    if (K::SPREAD && p.spread > 1) { /* the barriers were fenced for the cluster */
        sm90_cluster_arrive_relaxed();
        sm90_cluster_wait();
    }
    return c;
}

#endif /* SM90_CODE */

template <class K> __global__ void __launch_bounds__(THREADS, 1) product_kernel(const __grid_constant__ work p) {
#if SM90_CODE
    extern __shared__ uint8_t raw[];
    cta<K::BN> c = cta_begin<K>(p, raw);
    sm90_grid_launch_dependents();
    find_rows(p, c);
    const int loader = warp_of() - CONSUMERS / 32;
    if (loader >= 0) {
        sm90_setmaxnreg_dec<PRODUCER_REGISTERS>();
        if (loader < LOADERS) {
            produce<K>(p, c, loader == 0);
        } else if (K::PORTED) {
            sm90_grid_wait();
            carry<K>(p, c, loader - LOADERS);
        } else if (K::SPREAD && p.spread > 1) {
            meet_cluster(p, c);
        }
    } else {
        sm90_setmaxnreg_inc<CONSUMER_REGISTERS>();
        sm90_grid_wait();
        if constexpr (K::MODE == MODE_ALTERNATE)
            consume_alternate<K>(p, c);
        else
            consume_together<K>(p, c);
    }
    if (K::SPREAD && p.spread > 1) { /* nobody leaves while others still write here */
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

/* y and the residual, in blocks of the staging. */
bool encode_ends(const struct cuda_product *p, const choice &c, work *w) {
    const uint64_t dims[2] = {(uint64_t)p->out_channels, (uint64_t)w->m}, strides[1] = {2 * dims[0]};
    const int channels = block_channels(c.width, p->geglu);
    const uint32_t box[2] = {(uint32_t)channels, HALF};
    const bool bf16 = p->dtype == CUDA_BF16;
    const CUtensorMapSwizzle swizzle = sm90_swizzle_of(2 * channels);
    return sm90_encode_tiled(&w->to, bf16, 2, p->y, dims, strides, box, swizzle) &&
           (!p->residual || sm90_encode_tiled(&w->from, bf16, 2, p->residual, dims, strides, box, swizzle));
}

template <class K> cudaError_t launch(const work &w, cudaStream_t stream) {
    constexpr int BN = K::BN;
    const auto kernel = product_kernel<K>;
    static const cudaError_t prepared =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape<BN>::smem_bytes);
    if (prepared != cudaSuccess)
        return prepared;
    const int size = w.spread, room = cuda_processors() / size;
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

/* Which kernel a launch takes, beside the width. */
struct way {
    int ends;
    bool alternate, carried; /* carried: by porters; else those who finish a tile fetch and store themselves */
};

template <typename T, int BN, int MODE, int ENDS>
cudaError_t launch_ported(const work &w, const way &by, cudaStream_t stream) {
    if constexpr (ENDS != ENDS_OTHER)
        if (by.carried)
            return launch<kind<T, BN, MODE, ENDS, true>>(w, stream);
    return launch<kind<T, BN, MODE, ENDS, false>>(w, stream);
}

template <typename T, int BN, int ENDS> cudaError_t launch_mode(const work &w, const way &by, cudaStream_t stream) {
    if constexpr (BN == 256) { /* registers for one accumulator of half a tile */
        return launch_ported<T, BN, MODE_TOGETHER, ENDS>(w, by, stream);
    } else {
        if constexpr (BN <= EXPERTS_WIDTH && ENDS == ENDS_PLAIN)
            if (w.shares.experts)
                return launch_ported<T, BN, MODE_EXPERTS, ENDS>(w, by, stream);
        if (w.chunks > 1 && w.spread == 1)
            return launch_ported<T, BN, MODE_WALK, ENDS>(w, by, stream);
        if constexpr (BN >= CUDA_ALTERNATE_WIDTH && ENDS != ENDS_OTHER)
            if (by.alternate)
                return launch_ported<T, BN, MODE_ALTERNATE, ENDS>(w, by, stream);
        return launch_ported<T, BN, MODE_TOGETHER, ENDS>(w, by, stream);
    }
}

/* Widths as cuda_product_sm90_possible() has them. */
template <typename T, int ENDS> cudaError_t launch_width(const work &w, int width, const way &by, cudaStream_t stream) {
    if constexpr (ENDS != ENDS_OTHER) {
        if (width == 256)
            return launch_mode<T, 256, ENDS>(w, by, stream);
        if (width == 160)
            return launch_mode<T, 160, ENDS>(w, by, stream);
    }
    if constexpr (ENDS != ENDS_GEGLU) {
        if (width == 32)
            return launch_mode<T, 32, ENDS>(w, by, stream);
    }
    return width == 128  ? launch_mode<T, 128, ENDS>(w, by, stream)
           : width == 80 ? launch_mode<T, 80, ENDS>(w, by, stream)
                         : launch_mode<T, 64, ENDS>(w, by, stream);
}

template <typename T> cudaError_t launch_way(const work &w, int width, const way &by, cudaStream_t stream) {
    return by.ends == ENDS_OTHER   ? launch_width<T, ENDS_OTHER>(w, width, by, stream)
           : by.ends == ENDS_GEGLU ? launch_width<T, ENDS_GEGLU>(w, width, by, stream)
                                   : launch_width<T, ENDS_PLAIN>(w, width, by, stream);
}

/* factor = ceil(2^shift / by), which fits as shift is 31 more than log2 of it, rounded up: exact below 2^31. */
divisor divisor_of(int by) {
    divisor d = {0, 31};
    while (1ll << (d.shift - 31) < by)
        d.shift++;
    d.factor = (uint32_t)(((1ull << d.shift) + (uint64_t)by - 1) / (uint64_t)by);
    return d;
}

int log2_of(int power) {
    int log2 = 0;
    while (1 << log2 < power)
        log2++;
    return log2;
}

cudaError_t run_choice(const struct cuda_product *p, const choice &c, cudaStream_t stream) {
    const struct cuda_product_extent e = cuda_product_extent_of(p);
    work w = {};
    w.bias = p->bias;
    w.residual = p->residual;
    w.row_bias = p->row_bias;
    w.row_bias_map = p->row_bias_map;
    w.y = p->y;
    if (e.granule) {
        w.moments = p->moments;
        w.granule = p->parts.granule;
        w.granules = p->parts.granules;
        w.slab = p->parts.slab;
        w.slabs = p->parts.slabs;
        w.across = c.width / w.granule;
        w.across_inverse = 1.0f / (float)w.across;
    }
    w.im2col = p->kernel > 1;
    w.upsample = p->upsample;
    w.activation = p->geglu ? ASDM_ACT_NONE : p->activation;
    w.height = p->upsample ? p->in_height : p->out_height;
    w.width = p->upsample ? p->in_width : p->out_width;
    w.pixels = w.height * w.width;
    w.m = p->rows * w.pixels;
    w.weight_rows = e.weight_rows;
    w.out_channels = p->out_channels;
    w.chunks = c.chunks;
    w.spread = c.spread;
    w.chunks_log2 = log2_of(c.chunks);
    w.spread_log2 = log2_of(c.spread);
    w.n_tiles = ceil_div(e.weight_rows, c.width);
    w.m_tiles = ceil_div(w.m, BM);
    w.tiles = w.n_tiles * w.m_tiles * e.phases;
    w.slots = p->slots;
    w.shares = p->experts.shares;
    for (int i = 0; i < w.shares.experts; i++)
        w.expert_bias[i] = p->experts.bias[i];
    w.rows = p->rows;
    w.row_tiles = ceil_div(w.pixels, BM);
    w.steps = e.steps;
    w.steps_first = ceil_div(p->channels[0], BK);
    w.taps_across = p->upsample ? 2 : p->kernel;
    w.lower = p->upsample ? -1 : -p->pad_before;
    w.stride = p->stride;
    w.by_width = divisor_of(w.width);
    w.by_pixels = divisor_of(w.pixels);
    w.by_n_tiles = divisor_of(w.n_tiles);
    w.by_m_tiles = divisor_of(w.m_tiles);
    w.by_row_tiles = divisor_of(w.row_tiles);
    w.by_steps_first = divisor_of(w.steps_first);
    w.by_taps_across = divisor_of(w.taps_across);
    way by;
    by.ends = e.other_ends ? ENDS_OTHER : p->geglu ? ENDS_GEGLU : ENDS_PLAIN;
    by.alternate = c.alternate;
    by.carried = w.spread == 1 && w.tiles > cuda_processors() && !e.other_ends && !p->upsample &&
                 !(p->geglu && c.width % 32) && !(p->slots && w.pixels % BM);
    if (!encode_maps(p, c, &w) || (by.carried && !encode_ends(p, c, &w)))
        return cudaErrorInvalidValue;
    return p->dtype == CUDA_BF16 ? launch_way<__nv_bfloat16>(w, c.width, by, stream)
                                 : launch_way<__half>(w, c.width, by, stream);
}

} // namespace

extern "C" {

cudaError_t cuda_product_sm90(const struct cuda_product *p, cudaStream_t stream) {
    return run_choice(p, p->choice ? *p->choice : cuda_product_sm90_choice(p), stream);
}

} // extern "C"
