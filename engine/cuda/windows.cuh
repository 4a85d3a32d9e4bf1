/* Global-regional attention on the device (see ops/op.h): the windows and cells of a map, and what a window's queries
 * see. Here that is the window's tokens in row-major order and then every cell of the map; cells of the window itself
 * get a bias of minus infinity, which spares the counting around them. */
#ifndef ASDM_CUDA_WINDOWS_CUH
#define ASDM_CUDA_WINDOWS_CUH

#include <math.h>

#include "cuda/launch.cuh"

/* Pieces that cut a length; the last may be short. */
static __host__ __device__ __forceinline__ int cuda_pieces(int length, int piece) {
    return (length + piece - 1) / piece;
}

/* Tokens of a whole window, and the number of windows. */
static __host__ __device__ __forceinline__ int cuda_window_tokens(const struct cuda_regions &map) {
    return (map.window < map.height ? map.window : map.height) * (map.window < map.width ? map.window : map.width);
}
static inline int cuda_windows(const struct cuda_regions &map) {
    return cuda_pieces(map.height, map.window) * cuda_pieces(map.width, map.window);
}

/* Blocks of `queries` that cover a row's queries; windows do not share any. */
static inline int cuda_query_blocks(const struct cuda_attention &a, int queries) {
    return a.regions.window ? cuda_windows(a.regions) * cuda_pieces(cuda_window_tokens(a.regions), queries)
                            : cuda_pieces(a.tokens, queries);
}

/* Quotients of numbers n by one divisor: n * divisor < 2^32. */
struct cuda_divisor {
    uint32_t factor; /* ceil(2^32 / divisor); 0: the divisor is 1 */

    __host__ __device__ explicit cuda_divisor(int divisor) : factor(0xffffffffu / (uint32_t)divisor + 1) {
    }
    __device__ __forceinline__ int quotient(int n) const {
        return factor ? (int)__umulhi((uint32_t)n, factor) : n;
    }
};

/* One window of a map. Its tokens and cells are numbered row by row. */
struct cuda_window {
    int top, left, height, width; /* of the window, in tokens; what the map leaves of it */
    int map_height, map_width, pool;
    cuda_divisor by_width, by_cells;

    __device__ __forceinline__ cuda_window(const struct cuda_regions &map, int index)
        : map_height(map.height), map_width(map.width), pool(map.pool),
          by_width(min(map.window, map.width - index % cuda_pieces(map.width, map.window) * map.window)),
          by_cells(cuda_pieces(map.width, map.pool)) {
        const int across = cuda_pieces(map.width, map.window);
        top = index / across * map.window;
        left = index % across * map.window;
        height = min(map.window, map.height - top);
        width = min(map.window, map.width - left);
    }
    __device__ __forceinline__ int tokens() const {
        return height * width;
    }
    /* Of the whole map. */
    __device__ __forceinline__ int cells() const {
        return cuda_pieces(map_height, pool) * cuda_pieces(map_width, pool);
    }
    /* Keys that its queries go over: its tokens, then all cells. */
    __device__ __forceinline__ int keys() const {
        return tokens() + cells();
    }
    /* The map's number of the window's token i. */
    __device__ __forceinline__ int token(int i) const {
        const int y = by_width.quotient(i);
        return (top + y) * map_width + left + (i - y * width);
    }
    /* log2 of how many tokens key i stands for. */
    __device__ __forceinline__ float bias(int i) const {
        const int cell = i - tokens(), row = by_cells.quotient(max(cell, 0));
        const int y = row * pool, x = (cell - row * cuda_pieces(map_width, pool)) * pool;
        if (cell < 0)
            return 0.0f;
        if ((unsigned)(y - top) < (unsigned)height && (unsigned)(x - left) < (unsigned)width)
            return -INFINITY;
        return log2f((float)(min(pool, map_height - y) * min(pool, map_width - x)));
    }
};

#endif
