/* Group norm.
 *
 * A row's channels are cut into slabs of whole groups and whole 16-byte vectors. In a slab each thread keeps to one
 * column (a vector of W neighbouring channels, of at most two groups) and walks along the tokens. Three ways:
 *  - resident: for few tokens. A cluster of blocks shares a slab's tokens, holds them in registers, exchanges its
 *    statistics through distributed shared memory and writes the result: one kernel, one read, one write. Where a block
 *    holds a whole group and no other, its threads' sums are all there is to exchange (single);
 *  - streamed: for more, two kernels: statistics per chunk of tokens, then the result, of which each block merges the
 *    chunks' statistics for itself. Many chunks are merged by a kernel between. The second read comes from the L2 cache
 *    as long as a batch fits there, and a kernel without a barrier in its middle keeps more loads under way: it is
 *    twice as fast as the resident one. Where the producers of the sources left the moments of their parts, these are
 *    merged instead of the chunks' and the first kernel is not needed. How many blocks the last one has depends on the
 *    rows, as no bits depend on it;
 *  - plain: any sizes, element by element, in three such steps.
 *
 * Statistics are (mean, sum of squared deviations) of small sets, merged in a fixed order by the formula of Chan, Golub
 * and LeVeque (1979). A thread's own set is taken about its first element: as the set is small, that loses at most a
 * factor of its size in relative precision, whatever the mean. How tokens are partitioned does not depend on the number
 * of rows. */
#include <cooperative_groups.h>

#include "cuda/norm.cuh"

namespace {

enum {
    RESIDENT_THREADS = 640,      /* most in a block of the resident kernel, */
    RESIDENT_THREADS_DEEP = 512, /* and with 16 vectors a thread, for their registers */
    RESIDENT_VECTORS = 1280,     /* of a block; above it, more blocks share the slab, */
    RESIDENT_BLOCKS = 64,        /* up to so many a row: two rows fill the device */
    CLUSTER_MAX = 8,
    SLAB_VECTORS = 4, /* of a token in a slab, at least */
    STREAM_THREADS = 384,
    STREAM_BLOCKS = 2, /* on an SM at once, in the last kernel */
    STREAM_COLUMNS = 64,
    STREAM_BATCH = 4,         /* loads of a thread in flight */
    STREAM_CHUNKS = 64,       /* of a row, about, as far as threads have a whole batch: two rows fill the device */
    STREAM_CHUNKS_MAX = 1024, /* of a plain row */
    STREAM_TOKENS = 256,      /* fewest that are streamed */
    MERGE_LOADS = 4,          /* moments of a lane in a merge within the last kernel: of 128 chunks at most, */
    PARTS_LOADS = 8,          /* or of parts, so many at a time, */
    PARTS_MOST = 512,         /* and so many of a group, at most */
    PLAIN_ELEMENTS = 16384,   /* of a chunk, about */
};

/* How a group norm is cut; a function of its sizes without rows. */
struct plan {
    bool vectors;        /* resident or streamed; else plain */
    bool resident;       /* scratch is not used */
    bool single;         /* resident: a block, a group */
    int group_channels;  /* channels of a group */
    int slab_groups;     /* groups of a slab */
    int slabs;           /* of a row */
    int columns;         /* vectors of a token in a slab */
    int lanes;           /* threads that share a column's tokens */
    int depth;           /* resident: vectors of a thread, at most (1, 2, 4, 8 or 16) */
    int blocks;          /* resident: the cluster; else chunks of a row */
    bool given;          /* streamed: the moments of the sources' parts are known */
    bool merged;         /* moments, by a kernel between */
    int merge_lanes;     /* given, not merged: that merge the parts of a group */
    int tokens_of_block; /* but the last has fewer */
};

/* ---- the cut */

int lanes_of(enum cuda_dtype dtype) {
    return dtype == CUDA_F32 ? 4 : 8;
}

int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

/* Whether no vector of `lanes` channels has channels of more than two groups. */
bool two_groups_at_most(int channels, int group_channels, int lanes) {
    for (int c = 0; c < channels; c += lanes)
        if ((c + lanes - 1) / group_channels > c / group_channels + 1)
            return false;
    return true;
}

/* The fewest groups that make whole vectors, and some of them: lines of memory should be used as a whole. 0 if there is
 * no such divisor of the groups. */
int least_slab(int groups, int group_channels, int lanes) {
    int least = 1;
    while (least <= lanes && least * group_channels % lanes)
        least *= 2;
    if (least > lanes || groups % least)
        return 0;
    while (least * group_channels < SLAB_VECTORS * lanes && groups % (least * 2) == 0)
        least *= 2;
    return least;
}

/* Spreads a block's tokens over threads; false if they are too many for the registers. */
bool spread_tokens(struct plan *p) {
    for (p->depth = 1; p->depth <= 16; p->depth *= 2) {
        p->lanes = ceil_div(p->tokens_of_block, p->depth);
        if (p->lanes * p->columns <= (p->depth == 16 ? RESIDENT_THREADS_DEEP : RESIDENT_THREADS))
            return true;
    }
    return false;
}

bool plan_resident(const struct cuda_norm *n, struct plan *p, int lanes, int least) {
    p->slab_groups = least;
    p->slabs = n->groups / least;
    p->columns = least * p->group_channels / lanes;
    const int cluster_max = cuda_capability() >= 90 ? CLUSTER_MAX : 1;
    if (p->columns > RESIDENT_THREADS_DEEP || n->tokens > (1 << 24) / p->columns)
        return false;
    for (p->blocks = 1; p->blocks < cluster_max; p->blocks *= 2)
        if (p->columns * ceil_div(n->tokens, p->blocks) <= RESIDENT_VECTORS || p->slabs * p->blocks >= RESIDENT_BLOCKS)
            break;
    for (; p->blocks <= cluster_max; p->blocks *= 2) {
        p->tokens_of_block = ceil_div(n->tokens, p->blocks);
        p->single = p->blocks == 1 && p->slab_groups == 1;
        if (spread_tokens(p))
            return true;
    }
    return false;
}

bool is_given(const struct cuda_norm *n) {
    return n->parts[0].granule && (!n->channels[1] || n->parts[1].granule);
}

/* Parts of a group, at most. */
int parts_of_group(const struct cuda_norm *n, int group_channels) {
    const bool small = n->channels[1] && n->parts[1].granule < n->parts[0].granule;
    return n->parts[0].slabs * (group_channels / n->parts[small].granule);
}

bool plan_streamed(const struct cuda_norm *n, struct plan *p, int lanes, int least) {
    p->slab_groups = least;
    while (n->groups % (p->slab_groups * 2) == 0 && p->slab_groups * 2 * p->group_channels / lanes <= STREAM_COLUMNS)
        p->slab_groups *= 2;
    p->slabs = n->groups / p->slab_groups;
    p->columns = p->slab_groups * p->group_channels / lanes;
    if (p->columns > STREAM_THREADS)
        return false;
    p->lanes = STREAM_THREADS / p->columns;
    const int unit = p->lanes * STREAM_BATCH, most = n->tokens > (1 << 17) ? 4 * STREAM_CHUNKS : STREAM_CHUNKS;
    p->tokens_of_block = unit * ceil_div(ceil_div(n->tokens, unit), most);
    p->blocks = ceil_div(n->tokens, p->tokens_of_block);
    p->given = is_given(n);
    p->merged = p->given ? parts_of_group(n, p->group_channels) > PARTS_MOST : p->blocks > 32 * MERGE_LOADS;
    for (p->merge_lanes = 32; p->merge_lanes > 8 && p->merge_lanes * p->slab_groups > STREAM_THREADS;)
        p->merge_lanes /= 2;
    return true;
}

struct plan plan_of(const struct cuda_norm *n) {
    struct plan p = {};
    const int lanes = lanes_of(n->dtype), channels = n->channels[0] + n->channels[1];
    p.group_channels = channels / n->groups;
    const int least = least_slab(n->groups, p.group_channels, lanes);
    p.vectors = least && channels % lanes == 0 && n->channels[0] % lanes == 0 &&
                two_groups_at_most(channels, p.group_channels, lanes);
    const bool single = least == 1 && n->tokens * (p.group_channels / lanes) <= RESIDENT_VECTORS;
    const bool streamed = p.vectors && !single && n->tokens >= STREAM_TOKENS && plan_streamed(n, &p, lanes, least);
    if (!streamed && p.vectors && plan_resident(n, &p, lanes, least)) {
        p.resident = true;
        return p;
    }
    if (streamed || (p.vectors && plan_streamed(n, &p, lanes, least)))
        return p;
    p.vectors = p.given = false;
    p.merged = true;
    p.tokens_of_block = ceil_div(PLAIN_ELEMENTS, p.group_channels);
    p.tokens_of_block = p.tokens_of_block > ceil_div(n->tokens, STREAM_CHUNKS_MAX)
                            ? p.tokens_of_block
                            : ceil_div(n->tokens, STREAM_CHUNKS_MAX);
    p.blocks = ceil_div(n->tokens, p.tokens_of_block);
    return p;
}

__device__ __forceinline__ int tokens_in_block(const struct plan &p, int tokens, int block) {
    return max(0, min(p.tokens_of_block, tokens - block * p.tokens_of_block));
}

/* Merges the moments of a group from the blocks' ones, in order: (mean, 1 / standard deviation). */
__device__ __forceinline__ float2 merge_blocks(const struct asdm_moments *of_block, int step, const struct plan &p,
                                               int tokens, float eps) {
    const float all = cuda_inverse((float)tokens * (float)p.group_channels);
    float sum = 0.0f, m2 = 0.0f;
    for (int b = 0; b < p.blocks; b++)
        sum += (float)(tokens_in_block(p, tokens, b) * p.group_channels) * of_block[b * step].mean;
    const float mean = sum * all;
    for (int b = 0; b < p.blocks; b++)
        m2 += cuda_deviations(of_block[b * step], (float)(tokens_in_block(p, tokens, b) * p.group_channels), mean);
    return make_float2(mean, rsqrtf(m2 * all + eps));
}

/* ---- device: columns */

/* A thread's column. */
template <class T> struct column {
    const T *x;    /* first token of the row, first channel of the column */
    size_t stride; /* elements from token to token there */
    int channel;   /* among all channels */
    int index;     /* in the slab */
    int lane;      /* which of the threads that share the column */
    int group;     /* in the slab: of the first channel; */
    int split;     /* so many channels belong to it, the others to the next group */
    bool active;   /* false: a thread that only fills the warp */
};

template <class T>
__device__ __forceinline__ struct column<T> column_of(const struct cuda_norm &n, const struct plan &p, int slab,
                                                      int row) {
    struct column<T> c;
    c.index = (int)threadIdx.x % p.columns;
    c.lane = (int)threadIdx.x / p.columns;
    c.active = c.lane < p.lanes;
    const int in_slab = c.index * CUDA_LANES<T>;
    c.channel = slab * p.slab_groups * p.group_channels + in_slab;
    c.group = in_slab / p.group_channels;
    c.split = min(CUDA_LANES<T>, (c.group + 1) * p.group_channels - in_slab);
    const int source = c.channel >= n.channels[0];
    c.stride = (size_t)n.channels[source];
    c.x = static_cast<const T *>(n.x[source]) + (size_t)row * (size_t)n.tokens * c.stride +
          (c.channel - (source ? n.channels[0] : 0));
    return c;
}

/* Tokens of a block that a lane walks along: lane, lane + lanes, ... */
__device__ __forceinline__ int
tokens_of_lane(int tokens, int lane, int lanes) {
    return tokens > lane ? (tokens - lane + lanes - 1) / lanes : 0;
}

/* Sums of a column's values about a value of each of its (one or two) groups. */
template <class T> struct column_sums {
    static constexpr int W = CUDA_LANES<T>;
    float first, second; /* the values: of the first channel, and of the last */
    float offset[W];     /* that of a channel's group */
    float sum[W], squares[W];

    __device__ __forceinline__ void start(uint4 bits, int split) {
        float v[W];
        cuda_unpack_vector<T>(bits, v);
        first = v[0];
        second = v[W - 1];
#pragma unroll
        for (int i = 0; i < W; i++) {
            offset[i] = i < split ? first : second;
            sum[i] = squares[i] = 0.0f;
        }
    }
    __device__ __forceinline__ void add(uint4 bits) {
        float v[W];
        cuda_unpack_vector<T>(bits, v);
#pragma unroll
        for (int i = 0; i < W; i++) {
            const float d = v[i] - offset[i];
            sum[i] += d;
            squares[i] = fmaf(d, d, squares[i]);
        }
    }
    /* Of `tokens` vectors: the moments of both groups' parts. */
    __device__ __forceinline__ void finish(int tokens, int split, struct asdm_moments (&part)[2]) const {
        float s[2] = {0.0f, 0.0f}, q[2] = {0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < W; i++) {
            s[0] += i < split ? sum[i] : 0.0f;
            q[0] += i < split ? squares[i] : 0.0f;
            s[1] += i < split ? 0.0f : sum[i];
            q[1] += i < split ? 0.0f : squares[i];
        }
        part[0] = cuda_moments_about(first, s[0], q[0], cuda_inverse((float)(tokens * split)));
        part[1] = cuda_moments_about(second, s[1], q[1], cuda_inverse((float)(tokens * (W - split))));
    }
};

/* Shared memory of the threads' moments: [part][column][lane], a lane more against bank conflicts. */
size_t parts_bytes(const struct plan *p) {
    return sizeof(struct asdm_moments) * 2 * (size_t)p->columns * (size_t)(p->lanes + 1);
}

__device__ __forceinline__ int part_index(const struct plan &p, int part, int column, int lane) {
    return (part * p.columns + column) * (p.lanes + 1) + lane;
}

/* Moments of a slab's group over a block's tokens, from its threads' ones; by a whole warp, the same in every lane. */
template <int W>
__device__ __forceinline__ struct asdm_moments merge_threads(const struct asdm_moments *parts, const struct plan &p,
                                                             int group, int tokens) {
    const int begin = group * p.group_channels, end = begin + p.group_channels, thread = (int)threadIdx.x % 32;
    struct asdm_moments all = {0.0f, 0.0f};
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
        float sum = 0.0f;
        for (int c = begin / W; c * W < end; c++) {
            const int part = c * W < begin; /* the column began in the group before */
            const int channels = min(c * W + W, end) - max(c * W, begin);
            for (int lane = thread; lane < p.lanes; lane += 32) {
                const struct asdm_moments m = parts[part_index(p, part, c, lane)];
                const float count = (float)(channels * tokens_of_lane(tokens, lane, p.lanes));
                sum += pass ? cuda_deviations(m, count, all.mean) : count * m.mean;
            }
        }
        sum = warp_sum(sum);
        if (pass)
            all.m2 = sum;
        else
            all.mean = sum * cuda_inverse((float)(tokens * p.group_channels));
    }
    return all;
}

/* ---- device: result */

/* y = (x - shift) * scale + bias, by channel. In 16-bit types shift is taken into bias: a mean so large that this loses
 * digits of the result has left none in x. */
template <class T> struct column_affine {
    static constexpr int W = CUDA_LANES<T>;
    static constexpr bool FOLDED = sizeof(T) == 2;
    float shift[FOLDED ? 1 : W], scale[W], bias[W];

    __device__ __forceinline__ void start(float2 first, float2 second, int split, const float (&gain)[W],
                                          const float (&with_bias)[W]) {
#pragma unroll
        for (int i = 0; i < W; i++) {
            const float from = i < split ? first.x : second.x;
            scale[i] = (i < split ? first.y : second.y) * gain[i];
            bias[i] = FOLDED ? fmaf(-from, scale[i], with_bias[i]) : with_bias[i];
            if (!FOLDED)
                shift[i] = from;
        }
    }
    __device__ __forceinline__ uint4 apply(uint4 bits, bool with_silu) const {
        float v[W];
        cuda_unpack_vector<T>(bits, v);
#pragma unroll
        for (int i = 0; i < W; i++)
            v[i] = fmaf(FOLDED ? v[i] : v[i] - shift[i], scale[i], bias[i]);
        if (with_silu)
            silu<T>(v);
        return cuda_pack_vector<T>(v);
    }
};

/* ---- resident */

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define CLUSTERS 1
#else
#define CLUSTERS 0
#endif

__device__ __forceinline__ void cluster_arrive() {
#if CLUSTERS
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if CLUSTERS
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/* Gives a group's moments to every block of the cluster: theirs[rank of the giver][group]. By a whole warp. */
__device__ __forceinline__ void publish(struct asdm_moments *theirs, struct asdm_moments mine, const struct plan &p,
                                        int rank, int group) {
    const int thread = (int)threadIdx.x % 32;
    struct asdm_moments *place = theirs + rank * p.slab_groups + group;
    if (thread >= p.blocks)
        return;
#if CLUSTERS
    if (p.blocks > 1)
        place = cooperative_groups::this_cluster().map_shared_rank(place, thread);
#endif
    *place = mine;
}

template <class T, int DEPTH>
__global__ void __launch_bounds__(DEPTH == 16 ? RESIDENT_THREADS_DEEP : RESIDENT_THREADS, 1)
    resident_kernel(const __grid_constant__ struct cuda_norm n, const __grid_constant__ struct plan p) {
    constexpr int W = CUDA_LANES<T>;
    constexpr bool early = DEPTH <= 4; /* gain and bias are read while the kernel before ends; else registers run out */
    extern __shared__ struct asdm_moments parts[];
    struct asdm_moments *of_block = parts + part_index(p, 2, 0, 0); /* [blocks][groups of the slab] */
    const int rank = (int)blockIdx.x % p.blocks, slab = (int)blockIdx.x / p.blocks, row = (int)blockIdx.y;
    const int first = rank * p.tokens_of_block, tokens = tokens_in_block(p, n.tokens, rank);
    const struct column<T> c = column_of<T>(n, p, slab, row);
    const int mine = c.active ? tokens_of_lane(tokens, c.lane, p.lanes) : 0;
    float gain[W], bias[W];
    uint4 data[DEPTH];

    if (p.blocks > 1)
        cluster_arrive(); /* "I run": shared memory of a block that has not started must not be written */
    if (early) {
        load_floats(n.gain + c.channel, gain);
        load_floats(n.bias + c.channel, bias);
    }
    cuda_wait_inputs();
    cuda_launch_dependents();
    const T *x = c.x + (size_t)(first + c.lane) * c.stride;
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        data[i] =
            i < mine ? *reinterpret_cast<const uint4 *>(x + (size_t)(i * p.lanes) * c.stride) : make_uint4(0, 0, 0, 0);

    struct column_sums<T> sums;
    sums.start(data[0], c.split);
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        if (i < mine)
            sums.add(data[i]);
    if (c.active) {
        struct asdm_moments part[2];
        sums.finish(mine, c.split, part);
        parts[part_index(p, 0, c.index, c.lane)] = part[0];
        parts[part_index(p, 1, c.index, c.lane)] = part[1];
    }
    __syncthreads();
    if (p.blocks > 1)
        cluster_wait();
    for (int group = (int)threadIdx.x / 32; group < p.slab_groups; group += (int)blockDim.x / 32)
        publish(of_block, merge_threads<W>(parts, p, group, tokens), p, rank, group);
    if (p.blocks > 1)
        cluster_arrive();
    if (!early) {
        load_floats(n.gain + c.channel, gain);
        load_floats(n.bias + c.channel, bias);
    }
    if (p.blocks > 1) {
        cluster_wait();
    } else {
        __syncthreads();
    }

    const float2 group1 = merge_blocks(of_block + c.group, p.slab_groups, p, n.tokens, n.eps);
    float2 group2 = group1;
    if (c.split < W)
        group2 = merge_blocks(of_block + c.group + 1, p.slab_groups, p, n.tokens, n.eps);
    struct column_affine<T> affine;
    affine.start(group1, group2, c.split, gain, bias);
    const size_t channels = (size_t)(n.channels[0] + n.channels[1]);
    T *y = static_cast<T *>(n.y) + ((size_t)row * (size_t)n.tokens + (size_t)(first + c.lane)) * channels + c.channel;
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        if (i < mine)
            *reinterpret_cast<uint4 *>(y + (size_t)(i * p.lanes) * channels) =
                affine.apply(data[i], n.activation == ASDM_ACT_SILU);
}

/* The mean, then the deviations from it: the values are at hand. */
template <class T, int DEPTH>
__global__ void __launch_bounds__(DEPTH == 16 ? RESIDENT_THREADS_DEEP : RESIDENT_THREADS, 1)
    single_kernel(const __grid_constant__ struct cuda_norm n, const __grid_constant__ struct plan p) {
    constexpr int W = CUDA_LANES<T>;
    const int group = (int)blockIdx.x, row = (int)blockIdx.y;
    const int lane = (int)threadIdx.x / p.columns, column = (int)threadIdx.x - lane * p.columns;
    const int channel = group * p.group_channels + column * W, source = channel >= n.channels[0];
    const size_t stride = (size_t)n.channels[source], channels = (size_t)(n.channels[0] + n.channels[1]);
    const size_t token = (size_t)row * (size_t)n.tokens + (size_t)lane; /* the first; then every p.lanes-th */
    const T *x = static_cast<const T *>(n.x[source]) + token * stride + (channel - (source ? n.channels[0] : 0));
    T *y = static_cast<T *>(n.y) + token * channels + channel;
    const float inverse = 1.0f / (float)(n.tokens * p.group_channels);
    const auto mine = [&](int i) { return lane < p.lanes && lane + i * p.lanes < n.tokens; };
    float gain[W], bias[W], sum = 0.0f, squares = 0.0f;
    uint4 data[DEPTH];
    load_floats(n.gain + channel, gain);
    load_floats(n.bias + channel, bias);
    cuda_wait_inputs();
    cuda_launch_dependents();
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        data[i] =
            mine(i) ? *reinterpret_cast<const uint4 *>(x + (size_t)(i * p.lanes) * stride) : make_uint4(0, 0, 0, 0);
    const auto for_values = [&](const auto &body) {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            float v[W];
            cuda_unpack_vector<T>(data[i], v);
#pragma unroll
            for (int j = 0; j < W; j++)
                body(i, v[j]);
        }
    };
    for_values([&](int, float value) { sum += value; });
    const float mean = block_sum(sum) * inverse;
    for_values([&](int i, float value) { squares = mine(i) ? fmaf(value - mean, value - mean, squares) : squares; });
    const float2 statistics = make_float2(mean, rsqrtf(block_sum(squares) * inverse + n.eps));
    struct column_affine<T> affine;
    affine.start(statistics, statistics, W, gain, bias);
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        if (mine(i))
            *reinterpret_cast<uint4 *>(y + (size_t)(i * p.lanes) * channels) =
                affine.apply(data[i], n.activation == ASDM_ACT_SILU);
}

template <class T, int DEPTH>
cudaError_t launch_depth(const struct cuda_norm &n, const struct plan &p, cudaStream_t stream) {
    const int threads = ceil_div(p.lanes * p.columns, 32) * 32;
    if (p.single)
        return cuda_launch(single_kernel<T, DEPTH>, dim3((unsigned)n.groups, (unsigned)n.rows), dim3((unsigned)threads),
                           0, stream, n, p);
    const size_t shared = parts_bytes(&p) + sizeof(struct asdm_moments) * (size_t)(p.blocks * p.slab_groups);
    return cuda_launch_cluster(resident_kernel<T, DEPTH>, dim3((unsigned)(p.slabs * p.blocks), (unsigned)n.rows),
                               dim3((unsigned)threads), (unsigned)p.blocks, shared, stream, n, p);
}

template <class T> cudaError_t launch_resident(const struct cuda_norm &n, const struct plan &p, cudaStream_t stream) {
    switch (p.depth) {
    case 1:
        return launch_depth<T, 1>(n, p, stream);
    case 2:
        return launch_depth<T, 2>(n, p, stream);
    case 4:
        return launch_depth<T, 4>(n, p, stream);
    case 8:
        return launch_depth<T, 8>(n, p, stream);
    default:
        return launch_depth<T, 16>(n, p, stream);
    }
}

/* ---- streamed: scratch holds moments [rows][groups][chunks], then, merged, (mean, 1 / deviation) [rows][groups] */

__device__ __forceinline__ struct asdm_moments *chunk_moments(const struct cuda_norm &n, const struct plan &p, int row,
                                                              int group) {
    return static_cast<struct asdm_moments *>(n.scratch) + ((size_t)row * n.groups + group) * p.blocks;
}

__device__ __forceinline__ float2 *group_statistics(const struct cuda_norm &n, const struct plan &p, int row,
                                                    int group) {
    float2 *first =
        p.given ? static_cast<float2 *>(n.scratch) : reinterpret_cast<float2 *>(chunk_moments(n, p, n.rows, 0));
    return first + (size_t)row * n.groups + group;
}

/* A batch of a lane's vectors: tokens first + (i + batch's) * lanes. */
template <class T>
__device__ __forceinline__ void load_batch(const T *x, size_t step, int left, uint4 (&data)[STREAM_BATCH]) {
#pragma unroll
    for (int i = 0; i < STREAM_BATCH; i++)
        if (i < left)
            data[i] = *reinterpret_cast<const uint4 *>(x + (size_t)i * step);
}

template <class T>
__global__ void __launch_bounds__(STREAM_THREADS)
    chunk_kernel(const __grid_constant__ struct cuda_norm n, const __grid_constant__ struct plan p) {
    constexpr int W = CUDA_LANES<T>;
    extern __shared__ struct asdm_moments parts[];
    const int chunk = (int)blockIdx.x, slab = (int)blockIdx.y, row = (int)blockIdx.z;
    const int first = chunk * p.tokens_of_block, tokens = tokens_in_block(p, n.tokens, chunk);
    const struct column<T> c = column_of<T>(n, p, slab, row);
    const int mine = c.active ? tokens_of_lane(tokens, c.lane, p.lanes) : 0;
    const size_t step = (size_t)p.lanes * c.stride;
    const T *x = c.x + (size_t)(first + c.lane) * c.stride;
    cuda_wait_inputs();
    cuda_launch_dependents();
    if (c.active) {
        struct column_sums<T> sums;
        sums.start(mine ? *reinterpret_cast<const uint4 *>(x) : make_uint4(0, 0, 0, 0), c.split);
        for (int t = 0; t < mine; t += STREAM_BATCH) {
            uint4 data[STREAM_BATCH];
            load_batch<T>(x + (size_t)t * step, step, mine - t, data);
#pragma unroll
            for (int i = 0; i < STREAM_BATCH; i++)
                if (i < mine - t)
                    sums.add(data[i]);
        }
        struct asdm_moments part[2];
        sums.finish(mine, c.split, part);
        parts[part_index(p, 0, c.index, c.lane)] = part[0];
        parts[part_index(p, 1, c.index, c.lane)] = part[1];
    }
    __syncthreads();
    for (int group = (int)threadIdx.x / 32; group < p.slab_groups; group += (int)blockDim.x / 32) {
        const struct asdm_moments m = merge_threads<W>(parts, p, group, tokens);
        if (threadIdx.x % 32 == 0)
            chunk_moments(n, p, row, slab * p.slab_groups + group)[chunk] = m;
    }
}

/* A warp merges a group's chunks: a lane takes every 32nd. */
__global__ void __launch_bounds__(32)
    merge_kernel(const __grid_constant__ struct cuda_norm n, const __grid_constant__ struct plan p) {
    const int group = (int)blockIdx.x, row = (int)blockIdx.y, thread = (int)threadIdx.x;
    const struct asdm_moments *m = chunk_moments(n, p, row, group);
    const float all = cuda_inverse((float)n.tokens * (float)p.group_channels);
    cuda_wait_inputs();
    cuda_launch_dependents();
    float sum = 0.0f, m2 = 0.0f;
    for (int b = thread; b < p.blocks; b += 32)
        sum += (float)(tokens_in_block(p, n.tokens, b) * p.group_channels) * m[b].mean;
    const float mean = warp_sum(sum) * all;
    for (int b = thread; b < p.blocks; b += 32)
        m2 += cuda_deviations(m[b], (float)(tokens_in_block(p, n.tokens, b) * p.group_channels), mean);
    m2 = warp_sum(m2);
    if (thread == 0)
        *group_statistics(n, p, row, group) = make_float2(mean, rsqrtf(m2 * all + n.eps));
}

/* The statistics of a slab's groups from those of the chunks, in shared memory; a warp for every group. */
__device__ __forceinline__ void merge_chunks(const struct cuda_norm &n, const struct plan &p, int row, int slab,
                                             float2 *of_group) {
    const int thread = (int)threadIdx.x % 32;
    const float all = cuda_inverse((float)n.tokens * (float)p.group_channels);
    for (int group = (int)threadIdx.x / 32; group < p.slab_groups; group += (int)blockDim.x / 32) {
        const struct asdm_moments *m = chunk_moments(n, p, row, slab * p.slab_groups + group);
        struct asdm_moments mine[MERGE_LOADS];
        float counts[MERGE_LOADS], sum = 0.0f, m2 = 0.0f;
#pragma unroll
        for (int i = 0; i < MERGE_LOADS; i++) {
            const int b = thread + 32 * i;
            counts[i] = b < p.blocks ? (float)(tokens_in_block(p, n.tokens, b) * p.group_channels) : 0.0f;
            mine[i] = b < p.blocks ? m[b] : (struct asdm_moments){0.0f, 0.0f};
        }
#pragma unroll
        for (int i = 0; i < MERGE_LOADS; i++)
            sum += counts[i] * mine[i].mean;
        const float mean = warp_sum(sum) * all;
#pragma unroll
        for (int i = 0; i < MERGE_LOADS; i++)
            m2 += cuda_deviations(mine[i], counts[i], mean);
        m2 = warp_sum(m2);
        if (thread == 0)
            of_group[group] = make_float2(mean, rsqrtf(m2 * all + n.eps));
    }
}

/* The parts of a group that are of one source: sets of a slab's neighbours, slab after slab. */
struct group_parts {
    const struct asdm_moments *first;
    int count, of_slab, step; /* parts: in all, of a slab, from slab to slab */
    float values;             /* in a part */

    __device__ __forceinline__ group_parts(const struct cuda_norm &n, const struct plan &p, int row, int group,
                                           int source) {
        const struct asdm_moments_layout &parts = n.parts[source];
        const int origin = source ? n.channels[0] : 0, begin = group * p.group_channels - origin;
        const int from = max(begin, 0), to = min(begin + p.group_channels, n.channels[source]);
        of_slab = from < to ? (to - from) / parts.granule : 0;
        count = of_slab * parts.slabs;
        step = parts.granules;
        first = n.moments[source] + (size_t)row * parts.slabs * parts.granules + (of_slab ? from / parts.granule : 0);
        values = (float)(parts.slab * parts.granule);
    }
    /* Sum of term(part) over a lane's parts. */
    template <class F> __device__ __forceinline__ float sum(int lane, int lanes, const F &term) const {
        const float inverse = 1.0f / (float)of_slab;
        float all = 0.0f;
        for (int begin = lane; begin < count; begin += PARTS_LOADS * lanes) {
            struct asdm_moments part[PARTS_LOADS];
#pragma unroll
            for (int i = 0; i < PARTS_LOADS; i++) {
                const int at = min(begin + i * lanes, count - 1);
                const int slab = (int)(((float)at + 0.5f) * inverse); /* exact: there are few */
                part[i] = first[slab * step + at - slab * of_slab];
            }
#pragma unroll
            for (int i = 0; i < PARTS_LOADS; i++)
                all += begin + i * lanes < count ? term(part[i]) : 0.0f;
        }
        return all;
    }
};

__device__ __forceinline__ float mean_of(struct asdm_moments part) {
    return part.mean;
}

/* A block merges a group's parts. */
__global__ void __launch_bounds__(PLAIN_THREADS)
    merge_parts_kernel(const __grid_constant__ struct cuda_norm n, const __grid_constant__ struct plan p) {
    const int group = (int)blockIdx.x, row = (int)blockIdx.y, thread = (int)threadIdx.x;
    const struct group_parts a(n, p, row, group, 0), b(n, p, row, group, 1);
    const float all = cuda_inverse((float)n.tokens * (float)p.group_channels);
    cuda_wait_inputs();
    cuda_launch_dependents();
    const float sum =
        a.values * a.sum(thread, PLAIN_THREADS, mean_of) + b.values * b.sum(thread, PLAIN_THREADS, mean_of);
    const float mean = block_sum(sum) * all;
    const float m2 = a.sum(thread, PLAIN_THREADS, [&](struct asdm_moments part) {
        return cuda_deviations(part, a.values, mean);
    }) + b.sum(thread, PLAIN_THREADS, [&](struct asdm_moments part) { return cuda_deviations(part, b.values, mean); });
    const float variance = block_sum(m2) * all;
    if (thread == 0)
        *group_statistics(n, p, row, group) = make_float2(mean, rsqrtf(variance + n.eps));
}

/* The statistics of a slab's groups from their sources' parts, in shared memory; some lanes for every group. */
__device__ __forceinline__ void merge_parts(const struct cuda_norm &n, const struct plan &p, int row, int slab,
                                            float2 *of_group) {
    const int lanes = p.merge_lanes, lane = (int)threadIdx.x % lanes;
    const unsigned mask = (lanes == 32 ? 0xffffffffu : (1u << lanes) - 1)
                          << (threadIdx.x & 31 & ~(unsigned)(lanes - 1));
    const float all = cuda_inverse((float)n.tokens * (float)p.group_channels);
    const auto sum_lanes = [&](float x) {
        for (int offset = lanes / 2; offset > 0; offset /= 2)
            x += __shfl_xor_sync(mask, x, offset);
        return x;
    };
    for (int group = (int)threadIdx.x / lanes; group < p.slab_groups; group += (int)blockDim.x / lanes) {
        const struct group_parts a(n, p, row, slab * p.slab_groups + group, 0);
        const struct group_parts b(n, p, row, slab * p.slab_groups + group, 1);
        const float sum = a.values * a.sum(lane, lanes, mean_of) + b.values * b.sum(lane, lanes, mean_of);
        const float mean = sum_lanes(sum) * all;
        const float m2 = a.sum(lane, lanes, [&](struct asdm_moments part) {
            return cuda_deviations(part, a.values, mean);
        }) + b.sum(lane, lanes, [&](struct asdm_moments part) { return cuda_deviations(part, b.values, mean); });
        const float variance = sum_lanes(m2) * all;
        if (lane == 0)
            of_group[group] = make_float2(mean, rsqrtf(variance + n.eps));
    }
}

/* A block takes `batches` batches of neighbouring tokens: as many as the launch likes, the statistics being known. */
template <class T, bool GIVEN>
__global__ void __launch_bounds__(STREAM_THREADS, STREAM_BLOCKS)
    apply_kernel(const __grid_constant__ struct cuda_norm n, const __grid_constant__ struct plan p, int batches) {
    extern __shared__ float2 of_group[];
    constexpr int W = CUDA_LANES<T>;
    const int slab = (int)blockIdx.y, row = (int)blockIdx.z, batch = p.lanes * STREAM_BATCH;
    const int first = (int)blockIdx.x * batches * batch;
    const struct column<T> c = column_of<T>(n, p, slab, row);
    const int end = c.active ? min(n.tokens, first + batches * batch) : 0;
    const size_t channels = (size_t)(n.channels[0] + n.channels[1]);
    T *const y = static_cast<T *>(n.y) + (size_t)row * (size_t)n.tokens * channels + c.channel;
    uint4 data[STREAM_BATCH];
    struct column_affine<T> affine;
    float gain[W], bias[W];
    const auto load = [&](int token) {
#pragma unroll
        for (int i = 0; i < STREAM_BATCH; i++)
            if (token + i * p.lanes < end)
                data[i] = *reinterpret_cast<const uint4 *>(c.x + (size_t)(token + i * p.lanes) * c.stride);
    };
    int token = first + c.lane;
    load_floats(n.gain + c.channel, gain);
    load_floats(n.bias + c.channel, bias);
    cuda_wait_inputs();
    cuda_launch_dependents();
    load(token);
    const float2 *statistics = p.merged ? group_statistics(n, p, row, slab * p.slab_groups) : of_group;
    if (!p.merged) {
        if (GIVEN)
            merge_parts(n, p, row, slab, of_group);
        else
            merge_chunks(n, p, row, slab, of_group);
        __syncthreads();
    }
    affine.start(statistics[c.group], statistics[c.group + (c.split < W)], c.split, gain, bias);
    while (token < end) {
#pragma unroll
        for (int i = 0; i < STREAM_BATCH; i++)
            if (token + i * p.lanes < end)
                *reinterpret_cast<uint4 *>(y + (size_t)(token + i * p.lanes) * channels) =
                    affine.apply(data[i], n.activation == ASDM_ACT_SILU);
        token += batch;
        load(token);
    }
}

cudaError_t launch_merge(const struct cuda_norm &n, const struct plan &p, cudaStream_t stream) {
    const dim3 grid((unsigned)n.groups, (unsigned)n.rows);
    return p.given ? cuda_launch(merge_parts_kernel, grid, dim3(PLAIN_THREADS), 0, stream, n, p)
                   : cuda_launch(merge_kernel, grid, dim3(32), 0, stream, n, p);
}

template <class T> cudaError_t launch_streamed(const struct cuda_norm &n, const struct plan &p, cudaStream_t stream) {
    const auto grid = [&](int chunks) { return dim3((unsigned)chunks, (unsigned)p.slabs, (unsigned)n.rows); };
    const dim3 threads((unsigned)ceil_div(p.lanes * p.columns, 32) * 32);
    const int all = ceil_div(n.tokens, p.lanes * STREAM_BATCH);
    const int room = STREAM_BLOCKS * cuda_processors() / (p.slabs * n.rows); /* blocks of a slab that run at once */
    const int batches = room < 1 ? all : ceil_div(all, room) > 2 ? ceil_div(all, room) : 2;
    const size_t statistics = sizeof(float2) * (size_t)p.slab_groups;
    cudaError_t status = cudaSuccess;
    if (!p.given)
        status = cuda_launch(chunk_kernel<T>, grid(p.blocks), threads, parts_bytes(&p), stream, n, p);
    if (status == cudaSuccess && p.merged)
        status = launch_merge(n, p, stream);
    if (status == cudaSuccess)
        status = cuda_launch(p.given ? apply_kernel<T, true> : apply_kernel<T, false>, grid(ceil_div(all, batches)),
                             threads, statistics, stream, n, p, batches);
    return status;
}

/* ---- plain: element by element; scratch as for streamed */

template <class T>
__global__ void __launch_bounds__(PLAIN_THREADS)
    plain_chunk_kernel(const __grid_constant__ struct cuda_norm n, const __grid_constant__ struct plan p) {
    const int chunk = (int)blockIdx.x, group = (int)blockIdx.y, row = (int)blockIdx.z;
    cuda_wait_inputs();
    cuda_launch_dependents();
    const struct asdm_moments m =
        plain_moments<T>(n, row, (size_t)chunk * p.tokens_of_block, tokens_in_block(p, n.tokens, chunk),
                         group * p.group_channels, p.group_channels);
    if (threadIdx.x == 0)
        chunk_moments(n, p, row, group)[chunk] = m;
}

template <class T>
__global__ void __launch_bounds__(PLAIN_THREADS)
    plain_apply_kernel(const __grid_constant__ struct cuda_norm n, const __grid_constant__ struct plan p) {
    const uint32_t channels = (uint32_t)(n.channels[0] + n.channels[1]);
    const size_t e = (size_t)blockIdx.x * PLAIN_THREADS + threadIdx.x, token = e / channels;
    const int c = (int)(e - token * channels), row = (int)blockIdx.y;
    cuda_wait_inputs();
    cuda_launch_dependents();
    if (token < (size_t)n.tokens)
        plain_result<T>(n, row, token, c, *group_statistics(n, p, row, c / p.group_channels));
}

template <class T> cudaError_t launch_plain(const struct cuda_norm &n, const struct plan &p, cudaStream_t stream) {
    const size_t elements = (size_t)n.tokens * (size_t)(n.channels[0] + n.channels[1]);
    const dim3 grid((unsigned)p.blocks, (unsigned)n.groups, (unsigned)n.rows);
    cudaError_t status = cuda_launch(plain_chunk_kernel<T>, grid, dim3(PLAIN_THREADS), 0, stream, n, p);
    if (status == cudaSuccess)
        status = launch_merge(n, p, stream);
    if (status == cudaSuccess)
        status = cuda_launch(plain_apply_kernel<T>,
                             dim3((unsigned)((elements + PLAIN_THREADS - 1) / PLAIN_THREADS), (unsigned)n.rows),
                             dim3(PLAIN_THREADS), 0, stream, n, p);
    return status;
}

template <class T> cudaError_t group_norm(const struct cuda_norm &n, const struct plan &p, cudaStream_t stream) {
    if (!p.vectors)
        return launch_plain<T>(n, p, stream);
    /* The vector kernels know SiLU alone; no model has another activation here. */
    struct cuda_norm first = n;
    const bool apart = n.activation != ASDM_ACT_SILU;
    if (apart)
        first.activation = ASDM_ACT_NONE;
    cudaError_t status = p.resident ? launch_resident<T>(first, p, stream) : launch_streamed<T>(first, p, stream);
    if (status == cudaSuccess && apart && n.activation != ASDM_ACT_NONE)
        status = cuda_activation(n.dtype, n.activation, n.y, n.y,
                                 (size_t)n.rows * (size_t)n.tokens * (size_t)(n.channels[0] + n.channels[1]), stream);
    return status;
}

} // namespace

extern "C" size_t cuda_group_norm_scratch(const struct cuda_norm *n) {
    const struct plan p = plan_of(n);
    const size_t groups = (size_t)n->rows * (size_t)n->groups;
    return p.resident ? 0 : groups * ((p.given ? 0 : (size_t)p.blocks * sizeof(struct asdm_moments)) + sizeof(float2));
}

extern "C" cudaError_t cuda_group_norm(const struct cuda_norm *n, cudaStream_t stream) {
    if (n->rows == 0 || n->tokens == 0)
        return cudaSuccess;
    const struct plan p = plan_of(n);
    return CUDA_BY_DTYPE(n->dtype, group_norm<T>(*n, p, stream));
}
