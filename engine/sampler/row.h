/* One row of a sampler's table, and how it is applied. */
#ifndef ASDM_SAMPLER_ROW_H
#define ASDM_SAMPLER_ROW_H

#include <stdbool.h>
#include <stddef.h>

enum {
    ASDM_SAMPLER_HISTORY_MAX = 5 /* saved tensors beside the latents */
};

/* Columns of a row's matrix: what a sampler can see. */
enum asdm_sampler_input {
    ASDM_IN_LATENTS,   /* x: the latents before this row */
    ASDM_IN_MODEL,     /* m: the guided output of the model */
    ASDM_IN_CONVERTED, /* e = clamp(convert_latents x + convert_model m) */
    ASDM_IN_NOISE,     /* z: fresh standard normal noise */
    ASDM_IN_HISTORY,   /* h_0 .. h_4 */
    ASDM_IN_COUNT = ASDM_IN_HISTORY + ASDM_SAMPLER_HISTORY_MAX
};

/* One model evaluation. The model sees `input_scale * x` at `timestep`. Then, all from the values before the row,
 *     x'   = sum over inputs of latents[i] * input_i
 *     h_k' = sum over inputs of history[k][i] * input_i
 * e is the clean latents as predicted at this row (good for a preview), except where UniPC is told to predict noise. */
struct asdm_sampler_row {
    double timestep;
    double input_scale;
    double convert_latents, convert_model;
    double clamp; /* |e| <= clamp; 0: not clamped */
    double latents[ASDM_IN_COUNT];
    double history[ASDM_SAMPLER_HISTORY_MAX][ASDM_IN_COUNT];
    bool draws_noise; /* a draw is taken from the picture's generator, as diffusers does, even if its weight is 0 */
    int step;         /* which of the user's steps this evaluation belongs to, from 0 */
};

/* Applies one row to `count` elements. `history` are history_count arrays; `noise` may be NULL where the row draws
 * none. Works in double per element; latents and history are updated in place. */
void asdm_sampler_row_apply(const struct asdm_sampler_row *row, int history_count, float *latents,
                            float *const *history, const float *model, const float *noise, size_t count);

#endif
