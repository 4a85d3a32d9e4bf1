/* Euler's method on the probability flow, and its ancestral form, in sigma: Karras et al., "Elucidating the design
 * space of diffusion-based generative models" (2022), algorithm 1 first order; Crowson's k-diffusion,
 * sample_euler_ancestral. */
#include "sampler/build.h"

#include <math.h>

#include <asdm/error.h>

enum { ALL_SCHEDULES = (1u << ASDM_SCHEDULE_COUNT) - 1u };

/* x' = x + (x - x0) / sigma * (target - sigma). Written for the model's own output, the quotient needs no division. */
static struct asdm_sampler_row *add_row(struct asdm_sampler_build *build, int i, double target) {
    double sigma = build->sigmas[i], root = sqrt(sigma * sigma + 1.0);
    struct asdm_sampler_row *row = asdm_sampler_row_add(build, build->timesteps[i], i - build->begin);
    asdm_sampler_convert_sigma(build, sigma, row);
    row->input_scale = 1.0 / root;
    row->latents[ASDM_IN_LATENTS] = 1.0;
    if (build->predicts_v) {
        row->latents[ASDM_IN_LATENTS] += sigma / (root * root) * (target - sigma);
        row->latents[ASDM_IN_MODEL] = (target - sigma) / root;
    } else {
        row->latents[ASDM_IN_MODEL] = target - sigma;
    }
    return row;
}

static enum asdm_status add_euler_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    (void)err;
    asdm_schedule_start_sigma(build);
    for (int i = build->begin; i < build->timestep_count; i++)
        add_row(build, i, build->sigmas[i + 1]);
    return ASDM_OK;
}

static enum asdm_status add_ancestral_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    (void)err;
    asdm_schedule_start_sigma(build);
    for (int i = build->begin; i < build->timestep_count; i++) {
        double from = build->sigmas[i], to = build->sigmas[i + 1];
        double up = sqrt(fmax(to * to * (from * from - to * to), 0.0)) / from;
        double down = sqrt(fmax(to * to - up * up, 0.0));
        struct asdm_sampler_row *row = add_row(build, i, down);
        row->latents[ASDM_IN_NOISE] = up;
        row->draws_noise = true;
    }
    return ASDM_OK;
}

const struct asdm_sampler_class asdm_sampler_class_euler = {
    .name = "euler",
    .diffusers_name = "EulerDiscreteScheduler",
    .schedules = ALL_SCHEDULES,
    .spacing = ASDM_SPACING_LINSPACE,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .beta_schedule = ASDM_BETA_LINEAR,
    .reads_zero_snr = true,
    .bounds_zero_snr = true,
    .reads_sigma_options = true,
    .order = 1,
    .plan = asdm_schedule_plan_sigmas,
    .rows = add_euler_rows,
};

/* diffusers' class has no Karras or exponential schedule; asked for by name, they give k-diffusion's sampler on
 * them. */
const struct asdm_sampler_class asdm_sampler_class_euler_a = {
    .name = "euler_a",
    .diffusers_name = "EulerAncestralDiscreteScheduler",
    .schedules = ALL_SCHEDULES,
    .spacing = ASDM_SPACING_LINSPACE,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .beta_schedule = ASDM_BETA_LINEAR,
    .reads_zero_snr = true,
    .bounds_zero_snr = true,
    .order = 1,
    .plan = asdm_schedule_plan_sigmas,
    .rows = add_ancestral_rows,
};
