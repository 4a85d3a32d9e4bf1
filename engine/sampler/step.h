/* The ends of a step: what happens to a picture's latents before and after the model. One row of a model's call has one
 * of these beside it; the operations sampler_input, guidance and sampler_update (ops/op.h) do what it says, wherever
 * the back end's memory is. The functions here do it on the processor. */
#ifndef ASDM_SAMPLER_STEP_H
#define ASDM_SAMPLER_STEP_H

#include <stdint.h>

#include "sampler/row.h"

/* Guidance takes two rows of one call, one after the other, the plain one first. */
enum asdm_step_part {
    ASDM_STEP_ALONE,  /* not guided */
    ASDM_STEP_PLAIN,  /* without the prompt: read by the row after it, updates nothing */
    ASDM_STEP_GUIDED, /* with the prompt */
};

/* Arrays are planes of float32, [4][height][width], in memory that the back end's kernels reach; those that the row
 * does not need are NULL. */
struct asdm_step_row {
    struct asdm_sampler_row row;
    float *latents;                           /* x, before the row and after */
    float *history[ASDM_SAMPLER_HISTORY_MAX]; /* history_count of them, likewise */
    const float *noise;                       /* z, where the row draws it */
    float *clean;                             /* where the clean latents as predicted are wanted, for a preview */
    /* Inpainting: where mask [height][width] is 0, x' = keep_image image + keep_noise image_noise. */
    const float *mask, *image, *image_noise;
    double keep_image, keep_noise;
    float guidance_scale;
    int32_t part; /* enum asdm_step_part */
    int32_t history_count;
};

/* What the model sees: input_scale x, `count` numbers. */
void asdm_step_input(const struct asdm_step_row *row, float *input, size_t count);
/* Classifier-free guidance (Ho and Salimans 2022): plain + guidance_scale (guided - plain), where `prediction` is the
 * guided row's and the plain one's lies just before it; of a row that is not guided, a copy. */
void asdm_step_guide(const struct asdm_step_row *row, const float *prediction, float *guided, size_t count);
/* The sampler's row, from the model's guided output m: clean, then latents and history, then what the mask keeps. */
void asdm_step_update(const struct asdm_step_row *row, const float *model, size_t count, size_t cells);

#endif
