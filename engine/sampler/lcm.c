/* Luo et al., "Latent consistency models" (2023): the clean latents through the boundary condition, noised again
 * for the next step. Timesteps are taken from those the model was distilled on. */
#include "sampler/build.h"

#include <math.h>

#include <asdm/error.h>

#define SIGMA_DATA 0.5

static enum asdm_status plan(struct asdm_sampler_build *build, struct asdm_error *err) {
    int original = build->config->original_inference_steps, count = build->steps;
    if (original > build->train_steps)
        return asdm_fail(err, ASDM_ERR_ARGUMENT,
                         "sampler lcm: original_inference_steps is %d, more than num_train_timesteps, %d", original,
                         build->train_steps);
    if (count > original)
        return asdm_fail(err, ASDM_ERR_ARGUMENT,
                         "sampler lcm: steps must be from 1 to %d (original_inference_steps), are %d", original, count);
    ASDM_TRY(asdm_schedule_reserve(build, count, false, err));
    int stride = build->train_steps / original;
    double skip = (double)original / count;
    for (int i = 0; i < count; i++)
        build->timesteps[i] = (double)(original - (int)floor(i * skip)) * stride - 1.0;
    return ASDM_OK;
}

static enum asdm_status add_row(struct asdm_sampler_build *build, int i, struct asdm_error *err) {
    double timestep = build->timesteps[i];
    double alpha, alpha_next = 1.0;
    bool last = i + 1 == build->timestep_count;
    ASDM_TRY(asdm_schedule_alpha(build, timestep, &alpha, err));
    if (!last)
        ASDM_TRY(asdm_schedule_alpha(build, build->timesteps[i + 1], &alpha_next, err));

    struct asdm_sampler_row *row = asdm_sampler_row_add(build, timestep, i - build->begin);
    asdm_sampler_convert_alpha(build, alpha, row);
    double scaled = timestep * build->config->timestep_scaling;
    double spread = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
    row->latents[ASDM_IN_CONVERTED] = sqrt(alpha_next) * scaled / sqrt(spread);
    row->latents[ASDM_IN_LATENTS] = sqrt(alpha_next) * SIGMA_DATA * SIGMA_DATA / spread;
    row->latents[ASDM_IN_NOISE] = sqrt(1.0 - alpha_next);
    row->draws_noise = !last;
    return ASDM_OK;
}

static enum asdm_status add_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    ASDM_TRY(asdm_schedule_start_alpha(build, err));
    for (int i = build->begin; i < build->timestep_count; i++)
        ASDM_TRY(add_row(build, i, err));
    return ASDM_OK;
}

const struct asdm_sampler_class asdm_sampler_class_lcm = {
    .name = "lcm",
    .diffusers_name = "LCMScheduler",
    .schedules = 1u << ASDM_SCHEDULE_DEFAULT,
    .spacing = ASDM_SPACING_LEADING,
    .beta_start = 0.00085,
    .beta_end = 0.012,
    .beta_schedule = ASDM_BETA_SCALED_LINEAR,
    .reads_zero_snr = true,
    .reads_thresholding = true,
    .clips = true,
    .alpha_to_one_by_default = true,
    .order = 1,
    .plan = plan,
    .rows = add_rows,
};
