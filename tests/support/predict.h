/* The UNet's own output, for tests: a step whose sampler takes the prediction for the new latents. */
#ifndef ASDM_TESTS_PREDICT_H
#define ASDM_TESTS_PREDICT_H

#include "run/denoiser.h"

/* latents [rows][4][height][width] in the model's scale -> the same of predictions, in one call. Slots by row. */
enum asdm_status predict(struct asdm_denoiser *denoiser, int rows, int height, int width, const float *latents,
                         const int32_t *prompt_slots, const int32_t *timestep_slots, float *prediction,
                         struct asdm_error *err);

#endif
