/* Ho, Jain and Abbeel, "Denoising diffusion probabilistic models" (2020), eq. 7, over the visited steps alone. */
#include "sampler/build.h"

#include <math.h>

#include <asdm/error.h>

/* Standard deviation of the noise; `beta` is the visited step's own, from 1 - alpha / alpha_before. fixed_small_log
 * differs from fixed_small in the way it is computed only. */
static double deviation(const struct asdm_sampler_build *build, double alpha, double alpha_before, double beta) {
    if (build->config->variance == ASDM_VARIANCE_FIXED_LARGE)
        return sqrt(beta);
    return sqrt((1.0 - alpha_before) / (1.0 - alpha) * beta);
}

static enum asdm_status add_row(struct asdm_sampler_build *build, int i, struct asdm_error *err) {
    double timestep = build->timesteps[i];
    double alpha, alpha_before = 1.0;
    ASDM_TRY(asdm_schedule_alpha(build, timestep, &alpha, err));
    if (i + 1 < build->timestep_count)
        ASDM_TRY(asdm_schedule_alpha(build, build->timesteps[i + 1], &alpha_before, err));

    struct asdm_sampler_row *row = asdm_sampler_row_add(build, timestep, i - build->begin);
    asdm_sampler_convert_alpha(build, alpha, row);
    /* In float32: where steps are many, beta is small and its last digits come from this rounding. */
    float ratio = (float)alpha / (float)alpha_before;
    double beta = 1.0f - ratio;
    row->latents[ASDM_IN_CONVERTED] = sqrt(alpha_before) * beta / (1.0 - alpha);
    row->latents[ASDM_IN_LATENTS] = sqrt((double)ratio) * (1.0 - alpha_before) / (1.0 - alpha);
    if (timestep > 0.0) {
        row->draws_noise = true;
        row->latents[ASDM_IN_NOISE] = deviation(build, alpha, alpha_before, beta);
    }
    return ASDM_OK;
}

static enum asdm_status add_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    ASDM_TRY(asdm_schedule_start_alpha(build, err));
    for (int i = build->begin; i < build->timestep_count; i++)
        ASDM_TRY(add_row(build, i, err));
    return ASDM_OK;
}

const struct asdm_sampler_class asdm_sampler_class_ddpm = {
    .name = "ddpm",
    .diffusers_name = "DDPMScheduler",
    .schedules = 1u << ASDM_SCHEDULE_DEFAULT | 1u << ASDM_SCHEDULE_SGM_UNIFORM,
    .spacing = ASDM_SPACING_LEADING,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .beta_schedule = ASDM_BETA_LINEAR,
    .reads_zero_snr = true,
    .reads_thresholding = true,
    .clips = true,
    .clips_by_default = true,
    .order = 1,
    .plan = asdm_schedule_plan_discrete,
    .rows = add_rows,
};
