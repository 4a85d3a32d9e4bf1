/* Group norm (statistics per row and group, then one pass that also activates) and layer norm. */
#include <math.h>

#include <asdm/error.h>
#include "base/size.h"
#include "cpu/cpu_ops.h"

enum { CHUNK_PIXELS_MIN = 64, CHUNKS_MAX = 64, TOKENS_PER_TASK = 16 };

/* The map is cut into chunks of pixels that do not depend on the number of threads or rows, and their sums are added in
 * order, so that a row's bits depend on neither. */
struct norm {
    struct cpu_op op;
    const float *gain, *bias;
    size_t pixels, chunk, chunks, channels;
    size_t sums_floats; /* scratch: [rows][chunks][2][channels], then scale and offset [rows][2][channels] */
};

/* A source and where its channels stand among all. */
struct part {
    const unsigned char *data;
    size_t channels, first;
};

static int parts_of(const struct norm *norm, const struct asdm_run *run, int row, struct part parts[2]) {
    const struct asdm_extent *in = norm->op.site.in;
    parts[0] = (struct part){cpu_source(&norm->op, run, ASDM_SRC_X, row), (size_t)in[ASDM_SRC_X].channels, 0};
    parts[1] = (struct part){cpu_source(&norm->op, run, ASDM_SRC_X2, row), (size_t)in[ASDM_SRC_X2].channels,
                             (size_t)in[ASDM_SRC_X].channels};
    return parts[1].data ? 2 : 1;
}

static float *chunk_sums(const struct norm *norm, const struct asdm_run *run, size_t row, size_t chunk) {
    return (float *)run->scratch + (row * norm->chunks + chunk) * 2 * norm->channels;
}

static float *row_scale(const struct norm *norm, const struct asdm_run *run, size_t row) {
    return (float *)run->scratch + norm->sums_floats + row * 2 * norm->channels;
}

static size_t chunk_length(const struct norm *norm, size_t chunk) {
    size_t first = chunk * norm->chunk;
    return norm->pixels - first < norm->chunk ? norm->pixels - first : norm->chunk;
}

/* Sums of x - x[first pixel] and of its square: the shift keeps the variance exact when the mean is large. */
static void sum_chunk(const struct norm *norm, const struct asdm_run *run, int row, size_t chunk) {
    const struct cpu_backend *backend = norm->op.backend;
    size_t element = backend->base.element_bytes;
    float *sums = chunk_sums(norm, run, (size_t)row, chunk);
    struct part parts[2];
    int count = parts_of(norm, run, row, parts);
    for (int i = 0; i < count; i++)
        backend->vector->norm_sums(parts[i].data + chunk * norm->chunk * parts[i].channels * element,
                                   chunk_length(norm, chunk), parts[i].channels, parts[i].channels, parts[i].data,
                                   sums + parts[i].first, sums + norm->channels + parts[i].first);
}

/* One channel's mean and sum of squared distances from it, all chunks together; in place of the first chunk's sums. */
static void join_chunks(const struct norm *norm, const struct asdm_run *run, int row, const float *shift,
                        const float *row_bias, size_t c) {
    double sum = 0, square = 0, n = (double)norm->pixels;
    for (size_t chunk = 0; chunk < norm->chunks; chunk++) {
        const float *sums = chunk_sums(norm, run, (size_t)row, chunk);
        sum += sums[c];
        square += sums[norm->channels + c];
    }
    float *joined = chunk_sums(norm, run, (size_t)row, 0);
    joined[c] = (float)(shift[c] + sum / n + (row_bias ? row_bias[c] : 0));
    joined[norm->channels + c] = (float)fmax(square - sum * sum / n, 0);
}

/* Statistics of every group, turned into one scale and offset per channel: act(x * scale + offset). */
static void finish_row(const struct norm *norm, const struct asdm_run *run, int row) {
    const struct cpu_vector *vector = norm->op.backend->vector;
    const struct asdm_op *op = norm->op.site.op;
    size_t size = norm->channels / (size_t)op->groups;
    float *scale = row_scale(norm, run, (size_t)row), *offset = scale + norm->channels;
    const unsigned char *bias = cpu_source(&norm->op, run, ASDM_SRC_ROW_BIAS, row);
    float *row_bias = bias ? offset : NULL; /* read before offset is written, channel by channel */
    struct part parts[2];
    int count = parts_of(norm, run, row, parts);
    for (int i = 0; i < count; i++)
        vector->to_f32(parts[i].data, scale + parts[i].first, parts[i].channels);
    if (bias)
        vector->to_f32(bias, row_bias, norm->channels);
    const float *means = chunk_sums(norm, run, (size_t)row, 0), *squares = means + norm->channels;
    for (size_t first = 0; first < norm->channels; first += size) {
        double mean = 0, square = 0;
        for (size_t c = first; c < first + size; c++) {
            join_chunks(norm, run, row, scale, row_bias, c);
            mean += means[c] / (double)size;
        }
        for (size_t c = first; c < first + size; c++)
            square += squares[c] + (double)norm->pixels * (means[c] - mean) * (means[c] - mean);
        double inverse = 1 / sqrt(square / ((double)norm->pixels * (double)size) + op->eps);
        for (size_t c = first; c < first + size; c++) {
            float shift = row_bias ? row_bias[c] : 0;
            scale[c] = (float)(inverse * norm->gain[c]);
            offset[c] = (float)(norm->bias[c] + (shift - mean) * inverse * norm->gain[c]);
        }
    }
}

static void apply_chunk(const struct norm *norm, const struct asdm_run *run, int row, size_t chunk) {
    const struct cpu_backend *backend = norm->op.backend;
    size_t element = backend->base.element_bytes, first = chunk * norm->chunk;
    const float *scale = row_scale(norm, run, (size_t)row), *offset = scale + norm->channels;
    unsigned char *dst = cpu_result(&norm->op, run, row) + first * norm->channels * element;
    struct part parts[2];
    int count = parts_of(norm, run, row, parts);
    for (int i = 0; i < count; i++)
        backend->vector->norm_apply(parts[i].data + first * parts[i].channels * element, parts[i].channels,
                                    dst + parts[i].first * element, norm->channels, chunk_length(norm, chunk),
                                    parts[i].channels, scale + parts[i].first, offset + parts[i].first,
                                    norm->op.site.op->activation);
}

static void run_group_norm(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct norm *norm = kernel->state;
    int rows = norm->op.site.rows;
#pragma omp parallel
    {
#pragma omp for collapse(2)
        for (int row = 0; row < rows; row++)
            for (size_t chunk = 0; chunk < norm->chunks; chunk++)
                sum_chunk(norm, run, row, chunk);
#pragma omp for
        for (int row = 0; row < rows; row++)
            finish_row(norm, run, row);
#pragma omp for collapse(2)
        for (int row = 0; row < rows; row++)
            for (size_t chunk = 0; chunk < norm->chunks; chunk++)
                apply_chunk(norm, run, row, chunk);
    }
}

static void run_layer_norm(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct norm *norm = kernel->state;
    const struct cpu_backend *backend = norm->op.backend;
    size_t tokens = (size_t)norm->op.site.rows * norm->pixels, pitch = norm->channels * backend->base.element_bytes;
    const unsigned char *src = cpu_source(&norm->op, run, ASDM_SRC_X, 0);
    unsigned char *dst = cpu_result(&norm->op, run, 0);
#pragma omp parallel for
    for (size_t t = 0; t < tokens; t += TOKENS_PER_TASK)
        backend->vector->layer_norm(src + t * pitch, dst + t * pitch,
                                    tokens - t < TOKENS_PER_TASK ? tokens - t : TOKENS_PER_TASK, norm->channels,
                                    norm->gain, norm->bias, norm->op.site.op->eps);
}

enum asdm_status cpu_plan_norm(const struct cpu_backend *backend, const struct asdm_site *site, struct asdm_kernel *ret,
                               struct asdm_error *err) {
    bool group = site->op->kind == ASDM_OP_GROUP_NORM;
    struct asdm_kernel kernel;
    ASDM_TRY(cpu_kernel_create(backend, site, sizeof(struct norm), backend->vector->name,
                               group ? run_group_norm : run_layer_norm, &kernel, err));
    struct norm *norm = kernel.state;
    norm->pixels = cpu_tokens(site->out);
    norm->channels = (size_t)site->out.channels;
    norm->chunk = (norm->pixels + CHUNKS_MAX - 1) / CHUNKS_MAX;
    norm->chunk = norm->chunk < CHUNK_PIXELS_MIN ? CHUNK_PIXELS_MIN : norm->chunk;
    norm->chunks = (norm->pixels + norm->chunk - 1) / norm->chunk;
    norm->sums_floats = (size_t)site->rows * norm->chunks * 2 * norm->channels;
    if (group)
        kernel.scratch_bytes = (norm->sums_floats + (size_t)site->rows * 2 * norm->channels) * sizeof(float);
    enum asdm_status status = cpu_weight_f32(site, site->op->weight[0], &norm->gain, err);
    if (status == ASDM_OK)
        status = cpu_weight_f32(site, site->op->bias[0], &norm->bias, err);
    if (status != ASDM_OK) {
        kernel.destroy(&kernel);
        return status;
    }
    *ret = kernel;
    return ASDM_OK;
}
