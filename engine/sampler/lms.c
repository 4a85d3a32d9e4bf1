/* A linear multistep method in sigma: Adams-Bashforth of order four for uneven steps (Crowson's k-diffusion,
 * sample_lms). */
#include "sampler/build.h"

#include <math.h>

#include <asdm/error.h>

enum { ORDER = 4 };

/* Lagrange's polynomial that is 1 at sigmas[at - which] and 0 at the other `order` - 1 points before `at`. */
static double lagrange(const double *sigmas, int at, int order, int which, double sigma) {
    double product = 1.0;
    for (int k = 0; k < order; k++) {
        if (k != which)
            product *= (sigma - sigmas[at - k]) / (sigmas[at - which] - sigmas[at - k]);
    }
    return product;
}

/* Its integral over the step; two Gauss-Legendre points are exact for a cubic. */
static double coefficient(const double *sigmas, int at, int order, int which) {
    double middle = (sigmas[at] + sigmas[at + 1]) / 2.0, half = (sigmas[at + 1] - sigmas[at]) / 2.0;
    double offset = half / sqrt(3.0);
    return half *
           (lagrange(sigmas, at, order, which, middle - offset) + lagrange(sigmas, at, order, which, middle + offset));
}

static void add_row(struct asdm_sampler_build *build, int i) {
    double sigma = build->sigmas[i], root = sqrt(sigma * sigma + 1.0);
    struct asdm_sampler_row *row = asdm_sampler_row_add(build, build->timesteps[i], i - build->begin);
    asdm_sampler_convert_sigma(build, sigma, row);
    row->input_scale = 1.0 / root;

    struct asdm_linear slope = asdm_linear_of(ASDM_IN_MODEL);
    if (build->predicts_v) {
        slope.k[ASDM_IN_MODEL] = 1.0 / root;
        slope.k[ASDM_IN_LATENTS] = sigma / (root * root);
    }
    /* The order counts steps from the schedule's start; an i2i that begins later has fewer slopes. Those it lacks are
     * zeros in the history, so their weights are lost, as in diffusers. */
    int order = i + 1 < ORDER ? i + 1 : ORDER;
    struct asdm_linear next = asdm_linear_of(ASDM_IN_LATENTS);
    for (int k = 0; k < order; k++) {
        struct asdm_linear past = k > 0 ? asdm_linear_of(asdm_history_input(k - 1)) : slope;
        asdm_linear_add(&next, &past, coefficient(build->sigmas, i, order, k));
    }
    for (int j = 0; j < ASDM_IN_COUNT; j++) {
        row->latents[j] = next.k[j];
        row->history[0][j] = slope.k[j];
        for (int k = 1; k < ORDER - 1; k++)
            row->history[k][j] = j == (int)asdm_history_input(k - 1) ? 1.0 : 0.0;
    }
}

static enum asdm_status add_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    (void)err;
    asdm_schedule_start_sigma(build);
    build->table->history_count = ORDER - 1;
    for (int i = build->begin; i < build->timestep_count; i++)
        add_row(build, i);
    return ASDM_OK;
}

const struct asdm_sampler_class asdm_sampler_class_lms = {
    .name = "lms",
    .diffusers_name = "LMSDiscreteScheduler",
    .schedules = (1u << ASDM_SCHEDULE_COUNT) - 1u,
    .spacing = ASDM_SPACING_LINSPACE,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .beta_schedule = ASDM_BETA_LINEAR,
    .reads_sigma_options = true,
    .order = 1,
    .plan = asdm_schedule_plan_sigmas,
    .rows = add_rows,
};
