/* Global-regional attention (see op.h): first the mean keys and values of all cells of the map, then window by window,
 * over all threads: the window's tokens and the cells of the other windows are gathered and packed, and its queries go
 * over them as in plain attention (attend.c), without a score matrix. Gathered numbers and means are float32 whatever
 * the element type. A window's arithmetic does not depend on rows, threads or other windows. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include <asdm/error.h>
#include "base/size.h"
#include "cpu/cpu_ops.h"

struct gri {
    struct cpu_op op;
    const struct cpu_vector *floats; /* for float32 elements, of the same instruction set */
    size_t height, width, window, pool, dim;
    size_t windows_down, windows_across, cells_down, cells_across;
    size_t means_floats; /* scratch: means of all rows [row][cell][k, then v][head][dim], then one area per thread */
    size_t thread_floats;
    size_t keys_max; /* of a window */
};

/* One thread's area. */
struct area {
    float *gathered, *keys, *values, *bias, *scratch; /* gathered: [key][dim] */
    unsigned char *q, *dst;                           /* of a window: [query][dim] elements */
};

static size_t aligned(size_t floats) {
    return asdm_size_align(floats, 16);
}

/* Lays the area out from `at` on; returns its floats. */
static size_t lay_out(const struct gri *g, float *at, struct area *ret) {
    size_t queries = asdm_size_least(g->window, g->height) * asdm_size_least(g->window, g->width);
    size_t sizes[] = {g->keys_max * g->dim,
                      g->floats->packed_keys_floats(g->keys_max, g->dim),
                      g->floats->packed_values_floats(g->keys_max, g->dim),
                      g->keys_max,
                      g->op.backend->vector->attend_scratch_floats(g->dim),
                      queries * g->dim,
                      queries * g->dim};
    size_t offsets[sizeof sizes / sizeof *sizes + 1] = {0};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        offsets[i + 1] = offsets[i] + aligned(sizes[i]);
    if (ret)
        *ret = (struct area){at + offsets[0],
                             at + offsets[1],
                             at + offsets[2],
                             at + offsets[3],
                             at + offsets[4],
                             (unsigned char *)(at + offsets[5]),
                             (unsigned char *)(at + offsets[6])};
    return offsets[sizeof sizes / sizeof *sizes];
}

static size_t channels_of(const struct gri *g) {
    return (size_t)g->op.site.op->heads * g->dim;
}

/* Means of a cell: keys or values of all heads. */
static float *means_of(const struct gri *g, const struct asdm_run *run, size_t row, size_t cell, bool values) {
    size_t index = (row * g->cells_down * g->cells_across + cell) * 2 + values;
    return (float *)run->scratch + index * channels_of(g);
}

/* The first element of token (y, x) of q, k or v, all heads. */
static const unsigned char *token_of(const struct gri *g, const struct asdm_run *run, int place, int row, size_t y,
                                     size_t x) {
    size_t at = (y * g->width + x) * (size_t)g->op.site.in[place].channels + (size_t)g->op.site.op->channel[place];
    return cpu_source(&g->op, run, place, row) + at * g->op.backend->base.element_bytes;
}

/* ---- means */

static void average(const struct gri *g, const struct asdm_run *run, int row, size_t cell, float *line) {
    size_t top = cell / g->cells_across * g->pool, left = cell % g->cells_across * g->pool;
    size_t bottom = asdm_size_least(top + g->pool, g->height), right = asdm_size_least(left + g->pool, g->width);
    size_t channels = channels_of(g);
    float scale = 1.0f / (float)((bottom - top) * (right - left));
    for (int values = 0; values < 2; values++) {
        float *mean = means_of(g, run, (size_t)row, cell, values);
        memset(mean, 0, channels * sizeof *mean);
        for (size_t y = top; y < bottom; y++)
            for (size_t x = left; x < right; x++) {
                g->op.backend->vector->to_f32(token_of(g, run, values ? ASDM_SRC_V : ASDM_SRC_K, row, y, x), line,
                                              channels);
                for (size_t c = 0; c < channels; c++)
                    mean[c] += line[c];
            }
        for (size_t c = 0; c < channels; c++)
            mean[c] *= scale;
    }
}

/* ---- windows */

/* A window of one head of one row. */
struct place {
    int row;
    size_t head, top, left, bottom, right;
};

static struct place place_of(const struct gri *g, int row, size_t head, size_t window) {
    size_t top = window / g->windows_across * g->window, left = window % g->windows_across * g->window;
    return (struct place){
        row, head, top, left, asdm_size_least(top + g->window, g->height), asdm_size_least(left + g->window, g->width)};
}

/* Keys (or values) of the window and of the cells beside it, in order; their number. */
static size_t gather(const struct gri *g, const struct asdm_run *run, const struct place *p, bool values,
                     const struct area *area) {
    size_t count = 0, skip = p->head * g->dim, element = g->op.backend->base.element_bytes;
    for (size_t y = p->top; y < p->bottom; y++)
        for (size_t x = p->left; x < p->right; x++, count++) {
            const unsigned char *from = token_of(g, run, values ? ASDM_SRC_V : ASDM_SRC_K, p->row, y, x);
            g->op.backend->vector->to_f32(from + skip * element, area->gathered + count * g->dim, g->dim);
            area->bias[count] = 0;
        }
    for (size_t cell = 0; cell < g->cells_down * g->cells_across; cell++) {
        size_t y = cell / g->cells_across * g->pool, x = cell % g->cells_across * g->pool;
        if (p->top <= y && y < p->bottom && p->left <= x && x < p->right)
            continue;
        size_t tokens = asdm_size_least(g->pool, g->height - y) * asdm_size_least(g->pool, g->width - x);
        memcpy(area->gathered + count * g->dim, means_of(g, run, (size_t)p->row, cell, values) + skip,
               g->dim * sizeof(float));
        area->bias[count++] = log2f((float)tokens);
    }
    return count;
}

static void gather_queries(const struct gri *g, const struct asdm_run *run, const struct place *p, unsigned char *q) {
    size_t element = g->op.backend->base.element_bytes, bytes = g->dim * element;
    for (size_t y = p->top; y < p->bottom; y++)
        for (size_t x = p->left; x < p->right; x++, q += bytes)
            memcpy(q, token_of(g, run, ASDM_SRC_Q, p->row, y, x) + p->head * bytes, bytes);
}

static void scatter_results(const struct gri *g, const struct asdm_run *run, const struct place *p,
                            const unsigned char *from) {
    size_t element = g->op.backend->base.element_bytes, bytes = g->dim * element;
    for (size_t y = p->top; y < p->bottom; y++)
        for (size_t x = p->left; x < p->right; x++, from += bytes)
            memcpy(cpu_result(&g->op, run, p->row) + (y * g->width + x) * channels_of(g) * element + p->head * bytes,
                   from, bytes);
}

static void attend_window(const struct gri *g, const struct asdm_run *run, struct place p) {
    const struct cpu_vector *vector = g->op.backend->vector;
    size_t queries = (p.bottom - p.top) * (p.right - p.left), bytes = g->dim * g->op.backend->base.element_bytes;
    struct area area;
    lay_out(g, (float *)run->scratch + g->means_floats + (size_t)omp_get_thread_num() * g->thread_floats, &area);
    size_t keys = gather(g, run, &p, false, &area);
    g->floats->pack_keys(area.gathered, g->dim, keys, g->dim, area.keys);
    gather(g, run, &p, true, &area);
    g->floats->pack_values(area.gathered, g->dim, keys, g->dim, area.values);
    gather_queries(g, run, &p, area.q);
    for (size_t first = 0; first < queries; first += CPU_QUERY_BLOCK) {
        struct cpu_attend block = {.q = area.q + first * bytes,
                                   .queries = asdm_size_least(CPU_QUERY_BLOCK, queries - first),
                                   .q_pitch = g->dim,
                                   .dim = g->dim,
                                   .keys = area.keys,
                                   .values = area.values,
                                   .key_count = keys,
                                   .key_bias = area.bias,
                                   .scale = 1.0f / sqrtf((float)g->dim),
                                   .dst = area.dst + first * bytes,
                                   .dst_pitch = g->dim,
                                   .scratch = area.scratch};
        vector->attend(&block);
    }
    scatter_results(g, run, &p, area.dst);
}

static void run_gri(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct gri *g = kernel->state;
    int rows = g->op.site.rows;
    size_t heads = (size_t)g->op.site.op->heads;
#pragma omp parallel
    {
        /* The means come before the areas are used for anything else. */
        float *line = (float *)run->scratch + g->means_floats + (size_t)omp_get_thread_num() * g->thread_floats;
#pragma omp for collapse(2)
        for (int row = 0; row < rows; row++)
            for (size_t cell = 0; cell < g->cells_down * g->cells_across; cell++)
                average(g, run, row, cell, line);
#pragma omp for collapse(3) schedule(dynamic)
        for (int row = 0; row < rows; row++)
            for (size_t head = 0; head < heads; head++)
                for (size_t window = 0; window < g->windows_down * g->windows_across; window++)
                    attend_window(g, run, place_of(g, row, head, window));
    }
}

static size_t pieces(size_t length, size_t piece) {
    return (length + piece - 1) / piece;
}

enum asdm_status cpu_plan_gri(const struct cpu_backend *backend, const struct asdm_site *site, struct asdm_kernel *ret,
                              struct asdm_error *err) {
    struct asdm_kernel kernel;
    ASDM_TRY(cpu_kernel_create(backend, site, sizeof(struct gri), "windows", run_gri, &kernel, err));
    struct gri *g = kernel.state;
    g->floats = cpu_vector_select(false);
    g->height = (size_t)site->out.height;
    g->width = (size_t)site->out.width;
    g->window = (size_t)site->op->window;
    g->pool = (size_t)site->op->pool;
    g->dim = (size_t)site->op->head_dim;
    g->windows_down = pieces(g->height, g->window);
    g->windows_across = pieces(g->width, g->window);
    g->cells_down = pieces(g->height, g->pool);
    g->cells_across = pieces(g->width, g->pool);
    g->keys_max =
        asdm_size_least(g->window, g->height) * asdm_size_least(g->window, g->width) + g->cells_down * g->cells_across;
    g->means_floats = aligned((size_t)site->rows * g->cells_down * g->cells_across * 2 * channels_of(g));
    size_t area = lay_out(g, NULL, NULL);
    g->thread_floats = area > channels_of(g) ? area : aligned(channels_of(g));
    kernel.scratch_bytes = (g->means_floats + (size_t)backend->threads * g->thread_floats) * sizeof(float);
    *ret = kernel;
    return ASDM_OK;
}
