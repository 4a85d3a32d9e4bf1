/* Heun's method on the probability flow: Karras et al., "Elucidating the design space of diffusion-based generative
 * models" (2022), algorithm 1 without churn. Two evaluations per step, the last step one. */
#include "sampler/build.h"

#include <stdlib.h>
#include <string.h>

#include <math.h>

#include <asdm/error.h>

enum { SLOPE, START, HISTORY_COUNT }; /* h: the slope at the step's start, and the latents there */

/* From one entry per step to one per evaluation: every entry but the ends twice. */
static enum asdm_status plan(struct asdm_sampler_build *build, struct asdm_error *err) {
    ASDM_TRY(asdm_schedule_plan_sigmas(build, err));
    int steps = build->timestep_count;
    double *timesteps = build->timesteps, *sigmas = build->sigmas;
    build->timesteps = build->sigmas = NULL;
    enum asdm_status status = asdm_schedule_reserve(build, 2 * steps - 1, true, err);
    if (status == ASDM_OK) {
        for (int i = 0; i < 2 * steps - 1; i++) {
            build->timesteps[i] = timesteps[(i + 1) / 2];
            build->sigmas[i] = sigmas[(i + 1) / 2];
        }
        build->sigmas[2 * steps - 1] = sigmas[steps];
    }
    free(timesteps);
    free(sigmas);
    return status;
}

/* Goes to the next sigma along the slope (x - e) / sigma, and keeps both. */
static void add_first(struct asdm_sampler_row *row, double sigma, double next) {
    row->latents[ASDM_IN_LATENTS] = 1.0 + (next - sigma) / sigma;
    row->latents[ASDM_IN_CONVERTED] = -(next - sigma) / sigma;
    memset(row->history, 0, sizeof row->history);
    row->history[SLOPE][ASDM_IN_LATENTS] = 1.0 / sigma;
    row->history[SLOPE][ASDM_IN_CONVERTED] = -1.0 / sigma;
    row->history[START][ASDM_IN_LATENTS] = 1.0;
}

/* Goes there again from the start, along the mean of the slopes at both ends. */
static void add_second(struct asdm_sampler_row *row, double sigma, double next) {
    double half = (next - sigma) / 2.0;
    row->latents[asdm_history_input(START)] = 1.0;
    row->latents[asdm_history_input(SLOPE)] = half;
    row->latents[ASDM_IN_LATENTS] = half / next;
    row->latents[ASDM_IN_CONVERTED] = -half / next;
    memset(row->history, 0, sizeof row->history);
}

static enum asdm_status add_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    (void)err;
    asdm_schedule_start_sigma(build);
    build->table->history_count = HISTORY_COUNT;
    for (int i = build->begin; i < build->timestep_count; i++) {
        double sigma = build->sigmas[i];
        struct asdm_sampler_row *row = asdm_sampler_row_add(build, build->timesteps[i], (i - build->begin) / 2);
        asdm_sampler_convert_sigma(build, sigma, row);
        row->input_scale = 1.0 / sqrt(sigma * sigma + 1.0);
        if (i % 2 == 0)
            add_first(row, sigma, build->sigmas[i + 1]);
        else
            add_second(row, build->sigmas[i - 1], sigma);
    }
    return ASDM_OK;
}

const struct asdm_sampler_class asdm_sampler_class_heun = {
    .name = "heun",
    .diffusers_name = "HeunDiscreteScheduler",
    .schedules = (1u << ASDM_SCHEDULE_COUNT) - 1u,
    .spacing = ASDM_SPACING_LINSPACE,
    .beta_start = 0.00085,
    .beta_end = 0.012,
    .beta_schedule = ASDM_BETA_LINEAR,
    .reads_sigma_options = true,
    .clips = true,
    .order = 2,
    .plan = plan,
    .rows = add_rows,
};
