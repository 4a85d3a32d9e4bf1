/* The UNet's own output, where no picture is drawn from it: a step whose sampler takes the prediction for the new
 * latents. */
#ifndef ASDM_RUN_PREDICT_H
#define ASDM_RUN_PREDICT_H

#include "run/denoiser.h"
#include "run/state.h"

/* One call: latents [rows][4][height][width] in the model's scale -> the same of predictions; slots by row. `state`
 * (empty at first) keeps its memory from call to call, and is the caller's to end. */
enum asdm_status asdm_predict(struct asdm_denoiser *denoiser, struct asdm_state *state, int rows, int height, int width,
                              const float *latents, const int32_t *prompt_slots, const int32_t *timestep_slots,
                              float *prediction, struct asdm_error *err);

#endif
