/* What the parts of product_sm90.cu share: what a launch is given, a CTA's place and memory, and its tiles. */
#ifndef ASDM_CUDA_PRODUCT_WORK_CUH
#define ASDM_CUDA_PRODUCT_WORK_CUH

#include "cuda/product_sm90.h"
#include "cuda/sm90.cuh"

namespace {

enum { BM = CUDA_TILE_PIXELS, BK = CUDA_TILE_DEPTH, A_BYTES = BM * BK * 2, EXPERTS_WIDTH = CUDA_EXPERTS_WIDTH };
/* Threads: two warpgroups that multiply, and one (setmaxnreg wants whole warpgroups) of which two warps load and two
 * carry what the ends of a tile need and what comes of them, each for one of those. */
enum { CONSUMERS = 256, THREADS = CONSUMERS + 128, LOADERS = 2, PIPELINE_THREADS = CONSUMERS + 32 * LOADERS };
enum { HALF = BM / 2 }; /* pixels of a warpgroup */
/* Registers of a thread: the third warpgroup gives of its own to the two that multiply. Together no more than the
 * launch has, 168 for each: an increase waits for registers that are there. */
enum { PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232 };
/* Named barriers; those with a group are two, one for each warpgroup that multiplies. */
enum {
    BAR_STAGED = 1, /* + group: what it made of a tile is staged */
    BAR_GROUP = 3,  /* + group: its own threads */
    BAR_CONSUMERS = 5,
    BAR_REFILL,
    BAR_TURN /* + group */
};
/* The staging: blocks of so many channels by HALF pixels, as the copy engine swizzles rows of 128, 64 or 32 bytes. The
 * wider, the less it has to do. `width`: outputs of a tile. */
__host__ __device__ constexpr int block_channels(int width, bool geglu) {
    const int columns = geglu ? width / 2 : width;
    return columns % 64 == 0 ? 64 : columns % 32 == 0 ? 32 : 16;
}

/* What may come at the end of a tile. Each has kernels of its own: code that an operation does not run costs it time
 * even so, as what it does run lies scattered between and is fetched in more and smaller pieces. */
enum ends {
    ENDS_PLAIN, /* biases, a residual, moments; whole vectors of 8 channels */
    ENDS_GEGLU, /* a bias, value times gelu(gate), a residual; whole vectors */
    ENDS_OTHER, /* a bias, an activation, a residual; any channels */
};

/* How the two warpgroups that multiply share the tiles. */
enum mode {
    MODE_TOGETHER,  /* half of each tile; one chunk (of all or, spread, of each CTA) */
    MODE_WALK,      /* the same, chunk after chunk */
    MODE_ALTERNATE, /* a tile each, in turn */
    MODE_EXPERTS,   /* half of each tile, each chunk once for every expert, added by the rows' shares of them */
};

/* A kernel: its element type, the outputs of its tiles, its mode, its ends and whether porters carry them. */
template <typename T_, int BN_, int MODE_, int ENDS_, bool PORTED_> struct kind {
    using T = T_;
    static constexpr int BN = BN_, MODE = MODE_, ENDS = ENDS_;
    static constexpr bool PORTED = PORTED_;
    static constexpr bool GEGLU = ENDS == ENDS_GEGLU;
    static constexpr bool PLAIN = ENDS == ENDS_PLAIN; /* row biases, moments */
    static constexpr bool SPREAD =
        !PORTED && (MODE == MODE_TOGETHER || MODE == MODE_EXPERTS); /* a cluster may share chunks */
    static constexpr int COLUMNS = GEGLU ? BN / 2 : BN;             /* channels of a tile in y */
};

/* Quotients of any n >= 0 by one divisor, without a division: n * factor / 2^shift. Made on the host. */
struct divisor {
    uint32_t factor;
    int shift;

    __device__ __forceinline__ int quotient(int n) const {
        return (int)((uint64_t)(uint32_t)n * factor >> shift);
    }
};

/* What a launch is given. */
struct work {
    CUtensorMap a[2], b[ASDM_EXPERTS_MAX]; /* b: of each expert, or one */
    CUtensorMap to, from;                  /* y, residual: where a porter carries them */
    const float *bias, *expert_bias[ASDM_EXPERTS_MAX];
    struct cuda_shares shares;       /* experts 0: there are none */
    const void *residual, *row_bias; /* row_bias: of a row of pixels, through the map; or NULL */
    const int32_t *row_bias_map;
    void *y;
    struct asdm_moments *moments;       /* of y, as kernels.h has them; or NULL */
    int granule, granules, slab, slabs; /* channels of a part, their number; pixels of one, their number in a row */
    int across;                         /* granules of a tile */
    float across_inverse;
    divisor by_width, by_pixels, by_n_tiles, by_m_tiles, by_row_tiles, by_steps_first, by_taps_across;
    int m, weight_rows, out_channels; /* output pixels (of one phase), packed rows, channels of y */
    int chunks, spread;               /* of K; CTAs of the cluster along K: chunks or 1 */
    int chunks_log2, spread_log2;
    int n_tiles, m_tiles, tiles; /* tiles: of all phases */
    int steps, steps_first;      /* of BK along K: all; those of a tap (conv) or of the first source */
    int im2col, taps_across;     /* kernel width */
    int height, width, pixels;   /* of a row, as `m` counts them */
    int lower, stride;           /* first base pixel, distance */
    int upsample, activation;
    /* Rows with kernels of their own: of each row, and their number; or NULL. Tiles of single rows: of one, of all. */
    const int32_t *slots;
    int row_tiles, rows;
};

template <int BN> struct shape {
    static constexpr int b_bytes = BN * BK * 2;
    static constexpr int stage_bytes = A_BYTES + b_bytes;
    static constexpr int staging_bytes = BM * BN * 2;
    static constexpr int rest = staging_bytes + 2 * BN * (4 + 2) + 256;
    static constexpr int most = (232448 - 1024 - rest) / stage_bytes;
    static constexpr int stages = most < 8 ? most : 8;
    static constexpr int smem_bytes = 1024 + stages * stage_bytes + rest;
};

#if SM90_CODE

/* The warp's number, known to be the same for its threads. */
SM90_INLINE int warp_of() {
    return __shfl_sync(0xffffffff, (int)threadIdx.x / 32, 0);
}

/* A CTA's place in its cluster, and its shared memory. */
template <int BN> struct cta {
    uint32_t ring, staging, bias, row_bias, full, empty, ready; /* addresses */
    uint8_t *staging_ptr, *bias_ptr, *row_bias_ptr;
    int chunk;             /* with spread, the one it sums: its rank in the cluster */
    int cluster, clusters; /* this cluster, their number */
    int tiles;             /* as in struct work; by single rows where these have kernels of their own */
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
    const int rest = p.by_n_tiles.quotient(index), n = index - rest * p.n_tiles;
    const int phase = p.upsample ? p.by_m_tiles.quotient(rest) : 0, m = rest - phase * p.m_tiles;
    tile t = {m * BM, p.m, n * BN, phase, 0};
    if (!p.slots)
        return t;
    const int row = c.single_rows ? p.by_row_tiles.quotient(m) : p.by_pixels.quotient(t.m0);
    if (c.single_rows) {
        t.m0 = row * p.pixels + (m - row * p.row_tiles) * BM;
        t.m_end = (row + 1) * p.pixels;
    }
    t.slot = p.slots[row];
    return t;
}

/* Rows may have kernels of their own: whether they do is known when the kernel before has mixed them. A tile may hold
 * pixels of several rows where these share a kernel. */
template <int BN> SM90_INLINE void find_rows(const work &p, cta<BN> &c) {
    c.tiles = p.tiles;
    c.single_rows = false;
    if (!p.slots)
        return;
    sm90_grid_wait();
    if (p.slots[p.rows] > 1 && p.pixels % BM) {
        c.single_rows = true;
        c.tiles = p.n_tiles * p.rows * p.row_tiles;
    }
}

SM90_INLINE int chunk_begin(const work &p, int chunk) {
    return p.steps * chunk >> p.chunks_log2;
}

#endif /* SM90_CODE */

} // namespace

#endif
