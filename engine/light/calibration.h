/* What damage is measured on: latents, timesteps and prompts of the whole model's own trajectories. */
#ifndef ASDM_LIGHT_CALIBRATION_H
#define ASDM_LIGHT_CALIBRATION_H

#include <asdm/analyze.h>

#include "run/internal.h"

struct asdm_calibration {
    int prompt_count, evaluations, sides; /* sides: 2 with guidance (the empty prompt's row first), else 1 */
    int height, width;                    /* latents */
    size_t count, embed_count;            /* numbers of a row of latents, of a prompt's embeddings */
    float *latents;                       /* [prompt_count][evaluations][count], as the UNet sees them */
    float *timesteps;                     /* [evaluations] */
    float *embeds;                        /* [prompt_count + 1][embed_count]; the last: the empty prompt */
};

/* Of `options` prompts, steps, size (set), guidance, seed, progress. Draws each prompt's trajectory; a model without a
 * tokenizer gets random latents and embeddings, at timesteps spread evenly. */
enum asdm_status asdm_calibration_create(struct asdm_model *model, const struct asdm_analyze_options *options,
                                         struct asdm_calibration *ret, struct asdm_error *err);
void asdm_calibration_done(struct asdm_calibration *calibration); /* fine on a zeroed one */

int asdm_calibration_rows(const struct asdm_calibration *calibration);
/* Of a row (less than their number): its latents, its prompt (prompt_count: the empty one), its place among the
 * timesteps. */
void asdm_calibration_row(const struct asdm_calibration *calibration, int row, const float **ret_latents,
                          int *ret_prompt, int *ret_timestep);

enum asdm_status asdm_calibration_write(const struct asdm_calibration *calibration, const char *path,
                                        struct asdm_error *err);

#endif
