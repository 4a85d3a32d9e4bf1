/* Song, Meng and Ermon, "Denoising diffusion implicit models" (2020), eq. 12 with eta 0. */
#include "sampler/build.h"

#include <math.h>

#include <asdm/error.h>

static enum asdm_status add_row(struct asdm_sampler_build *build, int i, struct asdm_error *err) {
    double timestep = build->timesteps[i];
    double before = timestep - build->train_steps / build->steps;
    double alpha, alpha_before = asdm_schedule_final_alpha(build);
    ASDM_TRY(asdm_schedule_alpha(build, timestep, &alpha, err));
    if (before >= 0.0)
        ASDM_TRY(asdm_schedule_alpha(build, before, &alpha_before, err));

    struct asdm_sampler_row *row = asdm_sampler_row_add(build, timestep, i - build->begin);
    asdm_sampler_convert_alpha(build, alpha, row);
    /* The direction keeps the noise as the model sees it, whether or not the clean latents were clamped. */
    double direction = sqrt(1.0 - alpha_before);
    row->latents[ASDM_IN_CONVERTED] = sqrt(alpha_before);
    row->latents[ASDM_IN_MODEL] = build->predicts_v ? direction * sqrt(alpha) : direction;
    row->latents[ASDM_IN_LATENTS] = build->predicts_v ? direction * sqrt(1.0 - alpha) : 0.0;
    return ASDM_OK;
}

static enum asdm_status add_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    ASDM_TRY(asdm_schedule_start_alpha(build, err));
    for (int i = build->begin; i < build->timestep_count; i++)
        ASDM_TRY(add_row(build, i, err));
    return ASDM_OK;
}

const struct asdm_sampler_class asdm_sampler_class_ddim = {
    .name = "ddim",
    .diffusers_name = "DDIMScheduler",
    .schedules = 1u << ASDM_SCHEDULE_DEFAULT | 1u << ASDM_SCHEDULE_SGM_UNIFORM,
    .spacing = ASDM_SPACING_LEADING,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .beta_schedule = ASDM_BETA_LINEAR,
    .reads_zero_snr = true,
    .reads_thresholding = true,
    .clips = true,
    .clips_by_default = true,
    .alpha_to_one_by_default = true,
    .order = 1,
    .plan = asdm_schedule_plan_discrete,
    .rows = add_rows,
};
