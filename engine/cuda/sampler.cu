/* The ends of a step (sampler/step.h): the latents into the model, guidance, and the sampler's update. Planes of
 * float32, one thread per number and a line of blocks per row; the coefficients, the same for a whole row, come from
 * its struct asdm_step_row. A row's sums are taken in double, as on the processor: the terms of some samplers cancel.
 */
#include "cuda/launch.cuh"
#include "sampler/step.h"

namespace {

enum { THREADS = 256 };

__global__ void __launch_bounds__(THREADS) input_kernel(const struct asdm_step_row *rows, float *y, size_t count) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const struct asdm_step_row *row = rows + blockIdx.y;
    cuda_wait_inputs();
    cuda_launch_dependents();
    if (i < count)
        y[blockIdx.y * count + i] = (float)(row->row.input_scale * row->latents[i]);
}

/* The plain row of a guided picture is the one before; its own result is read by nobody. */
__global__ void __launch_bounds__(THREADS)
    guidance_kernel(const struct asdm_step_row *rows, const float *x, float *y, size_t count) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x, at = blockIdx.y * count + i;
    const struct asdm_step_row *row = rows + blockIdx.y;
    cuda_wait_inputs();
    cuda_launch_dependents();
    if (i >= count || row->part == ASDM_STEP_PLAIN)
        return;
    float value = x[at];
    if (row->part == ASDM_STEP_GUIDED) {
        const float plain = x[at - count];
        value = plain + row->guidance_scale * (value - plain);
    }
    y[at] = value;
}

/* The weighted sum of what the sampler sees. */
__device__ __forceinline__ double weigh(const double *coefficients, const double (&in)[ASDM_IN_COUNT]) {
    double sum = 0;
#pragma unroll
    for (int i = 0; i < ASDM_IN_COUNT; i++)
        sum += coefficients[i] * in[i];
    return sum;
}

/* Number i of a row's picture, whose guided prediction is m: clean, then latents and history, then what the mask keeps.
 * Everything is read before anything is written, so that no read waits for a write that might alias it. */
__device__ __forceinline__ void update(const struct asdm_step_row *step, double m, size_t i, size_t cells) {
    const struct asdm_sampler_row *row = &step->row;
    const int histories = step->history_count;
    double in[ASDM_IN_COUNT];
    const double x = step->latents[i], converted = row->convert_latents * x + row->convert_model * m;
    in[ASDM_IN_LATENTS] = x;
    in[ASDM_IN_MODEL] = m;
    in[ASDM_IN_CONVERTED] = row->clamp > 0 ? fmin(fmax(converted, -row->clamp), row->clamp) : converted;
    in[ASDM_IN_NOISE] = step->noise ? step->noise[i] : 0.0f;
#pragma unroll
    for (int k = 0; k < ASDM_SAMPLER_HISTORY_MAX; k++)
        in[ASDM_IN_HISTORY + k] = k < histories ? step->history[k][i] : 0.0f;
    double latents = weigh(row->latents, in), history[ASDM_SAMPLER_HISTORY_MAX];
    if (step->mask && step->mask[i % cells] == 0)
        latents = step->keep_image * step->image[i] + step->keep_noise * step->image_noise[i];
#pragma unroll
    for (int k = 0; k < ASDM_SAMPLER_HISTORY_MAX; k++)
        history[k] = weigh(row->history[k], in);
    float *const clean = step->clean, *const to = step->latents;
    float *history_to[ASDM_SAMPLER_HISTORY_MAX];
#pragma unroll
    for (int k = 0; k < ASDM_SAMPLER_HISTORY_MAX; k++)
        history_to[k] = k < histories ? step->history[k] : nullptr;
    if (clean)
        clean[i] = (float)converted;
    to[i] = (float)latents;
#pragma unroll
    for (int k = 0; k < ASDM_SAMPLER_HISTORY_MAX; k++)
        if (history_to[k])
            history_to[k][i] = (float)history[k];
}

__global__ void __launch_bounds__(THREADS)
    update_kernel(const struct asdm_step_row *rows, const float *x, size_t count, size_t cells) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    const struct asdm_step_row *row = rows + blockIdx.y;
    cuda_wait_inputs();
    cuda_launch_dependents();
    if (i < count && row->part != ASDM_STEP_PLAIN)
        update(row, x[blockIdx.y * count + i], i, cells);
}

dim3 grid_of(int rows, size_t count) {
    return dim3((unsigned)((count + THREADS - 1) / THREADS), (unsigned)rows);
}

} // namespace

extern "C" cudaError_t cuda_sampler_input(const struct asdm_step_row *step_rows, float *y, int rows, size_t count,
                                          cudaStream_t stream) {
    return cuda_launch(input_kernel, grid_of(rows, count), dim3(THREADS), 0, stream, step_rows, y, count);
}

extern "C" cudaError_t cuda_guidance(const struct asdm_step_row *step_rows, const float *x, float *y, int rows,
                                     size_t count, cudaStream_t stream) {
    return cuda_launch(guidance_kernel, grid_of(rows, count), dim3(THREADS), 0, stream, step_rows, x, y, count);
}

extern "C" cudaError_t cuda_sampler_update(const struct asdm_step_row *step_rows, const float *x, int rows,
                                           size_t count, size_t cells, cudaStream_t stream) {
    return cuda_launch(update_kernel, grid_of(rows, count), dim3(THREADS), 0, stream, step_rows, x, count, cells);
}
