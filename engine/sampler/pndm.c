/* Liu et al., "Pseudo numerical methods for diffusion models on manifolds" (2022), eq. 9, 12 and 13: a linear
 * multistep method of order four. It starts with three steps of a Runge-Kutta method (four evaluations each), or,
 * with skip_prk_steps, with one evaluation more at the second timestep, as in Crowson's PLMS. Which evaluation does
 * what is counted from the first one done, not from the schedule's start: so does diffusers, also where i2i begins
 * later. */
#include "sampler/build.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

/* h: the last three outputs, newest first; the latents that a start of several evaluations goes from; the sum of the
 * Runge-Kutta outputs. */
enum { OUTPUTS = 3, START = 3, SUM = 4, PRK_STEPS = 3, PRK_ROWS = 4 * PRK_STEPS };

static bool skips_prk(const struct asdm_sampler_build *build) {
    return build->config->skip_prk_steps == 1;
}

/* Descending: the highest three steps as r r' r' s, s s' s' t, ..., r' half a step below r; then the others. */
static void arrange_prk(const struct asdm_sampler_build *build, const double *plain, int count, double *dst) {
    int half = build->train_steps / count / 2;
    for (int step = 0; step < PRK_STEPS; step++) {
        double lower = plain[step + 1], middle = lower + half;
        double *four = dst + 4 * step;
        four[0] = plain[step];
        four[1] = four[2] = middle;
        four[3] = lower;
    }
    for (int i = PRK_STEPS; i < count; i++)
        dst[PRK_ROWS + i - PRK_STEPS] = plain[i];
}

/* Descending, the second timestep twice. */
static void arrange_plms(const double *plain, int count, double *dst) {
    dst[0] = plain[0];
    for (int i = 1; i < count; i++)
        dst[i + 1] = plain[i];
    if (count > 1)
        dst[1] = plain[1];
}

static enum asdm_status plan(struct asdm_sampler_build *build, struct asdm_error *err) {
    bool skips = skips_prk(build);
    int count = build->steps;
    if (!skips && count < PRK_STEPS + 1)
        return asdm_fail(err, ASDM_ERR_ARGUMENT,
                         "sampler pndm: steps must be at least %d where skip_prk_steps is false, are %d", PRK_STEPS + 1,
                         count);
    ASDM_TRY(asdm_schedule_plan_discrete(build, err));
    double *plain = build->timesteps;
    build->timesteps = NULL;
    int evaluations = skips ? (count > 1 ? count + 1 : 1) : count - PRK_STEPS + PRK_ROWS;
    enum asdm_status status = asdm_schedule_reserve(build, evaluations, false, err);
    if (status == ASDM_OK && skips)
        arrange_plms(plain, count, build->timesteps);
    else if (status == ASDM_OK)
        arrange_prk(build, plain, count, build->timesteps);
    free(plain);
    return status;
}

/* Eq. 9: from `latents` at timestep `from` to timestep `to` along the model's output. */
static enum asdm_status transfer(const struct asdm_sampler_build *build, const struct asdm_linear *latents,
                                 const struct asdm_linear *output, double from, double to, struct asdm_linear *ret,
                                 struct asdm_error *err) {
    double alpha, alpha_to = asdm_schedule_final_alpha(build);
    ASDM_TRY(asdm_schedule_alpha(build, from, &alpha, err));
    if (to >= 0.0)
        ASDM_TRY(asdm_schedule_alpha(build, to, &alpha_to, err));
    double along = -(alpha_to - alpha) / (alpha * sqrt(1.0 - alpha_to) + sqrt(alpha * (1.0 - alpha) * alpha_to));
    memset(ret, 0, sizeof *ret);
    asdm_linear_add(ret, latents, sqrt(alpha_to / alpha));
    if (build->predicts_v) {
        asdm_linear_add(ret, output, along * sqrt(alpha));
        asdm_linear_add(ret, latents, along * sqrt(1.0 - alpha));
    } else {
        asdm_linear_add(ret, output, along);
    }
    return ASDM_OK;
}

static void push_output(struct asdm_sampler_row *row) {
    for (int k = 0; k < OUTPUTS; k++) {
        memset(row->history[k], 0, sizeof row->history[k]);
        row->history[k][k > 0 ? asdm_history_input(k - 1) : ASDM_IN_MODEL] = 1.0;
    }
}

static void keep_latents(struct asdm_sampler_row *row) {
    memset(row->history[START], 0, sizeof row->history[START]);
    row->history[START][ASDM_IN_LATENTS] = 1.0;
}

/* One of the four evaluations of a Runge-Kutta step, the `counter`-th of all. */
static enum asdm_status step_prk(struct asdm_sampler_build *build, struct asdm_sampler_row *row, int counter,
                                 struct asdm_linear *ret, struct asdm_error *err) {
    static const double shares[4] = {1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0};
    int quarter = counter % 4, half = build->train_steps / build->steps / 2;
    double from = build->timesteps[counter / 4 * 4];
    double to = row->timestep - (counter % 2 ? 0 : half);
    struct asdm_linear latents = asdm_linear_of(asdm_history_input(START));
    struct asdm_linear output = asdm_linear_of(ASDM_IN_MODEL), sum = asdm_linear_of(asdm_history_input(SUM));
    asdm_linear_add(&sum, &output, shares[quarter]);
    if (quarter == 0) {
        latents = asdm_linear_of(ASDM_IN_LATENTS);
        push_output(row);
        keep_latents(row);
    }
    if (quarter == 3) {
        output = sum;
        memset(&sum, 0, sizeof sum);
    }
    memcpy(row->history[SUM], sum.k, sizeof sum.k);
    return transfer(build, &latents, &output, from, to, ret, err);
}

/* The multistep method; `known` outputs are in the history. */
static enum asdm_status step_plms(struct asdm_sampler_build *build, struct asdm_sampler_row *row, int counter,
                                  int *known, struct asdm_linear *ret, struct asdm_error *err) {
    static const double weights[4][4] = {
        {1.0, 0.0, 0.0, 0.0},
        {3.0 / 2.0, -1.0 / 2.0, 0.0, 0.0},
        {23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0, 0.0},
        {55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0},
    };
    int stride = build->train_steps / build->steps;
    struct asdm_linear latents = asdm_linear_of(ASDM_IN_LATENTS), output = asdm_linear_of(ASDM_IN_MODEL);
    if (counter == 1) { /* the first step once more, with the mean of the outputs at both its ends */
        latents = asdm_linear_of(asdm_history_input(START));
        output.k[ASDM_IN_MODEL] = 0.5;
        output.k[asdm_history_input(0)] = 0.5;
        return transfer(build, &latents, &output, row->timestep + stride, row->timestep, ret, err);
    }
    for (int k = 0; k <= *known; k++)
        output.k[k > 0 ? asdm_history_input(k - 1) : ASDM_IN_MODEL] = weights[*known][k];
    push_output(row);
    if (*known < OUTPUTS)
        ++*known;
    if (counter == 0)
        keep_latents(row);
    return transfer(build, &latents, &output, row->timestep, row->timestep - stride, ret, err);
}

static int user_step(const struct asdm_sampler_build *build, int counter) {
    if (skips_prk(build))
        return counter > 0 ? counter - 1 : 0;
    return counter < PRK_ROWS ? counter / 4 : counter - PRK_ROWS + PRK_STEPS;
}

static enum asdm_status add_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    bool skips = skips_prk(build);
    int known = skips ? 0 : PRK_STEPS;
    ASDM_TRY(asdm_schedule_start_alpha(build, err));
    build->table->history_count = skips ? START + 1 : SUM + 1;
    for (int i = build->begin; i < build->timestep_count; i++) {
        int counter = i - build->begin;
        struct asdm_sampler_row *row = asdm_sampler_row_add(build, build->timesteps[i], user_step(build, counter));
        struct asdm_linear next;
        double alpha;
        ASDM_TRY(asdm_schedule_alpha(build, row->timestep, &alpha, err));
        asdm_sampler_convert_alpha(build, alpha, row);
        if (!skips && counter < PRK_ROWS)
            ASDM_TRY(step_prk(build, row, counter, &next, err));
        else
            ASDM_TRY(step_plms(build, row, counter, &known, &next, err));
        memcpy(row->latents, next.k, sizeof row->latents);
    }
    return ASDM_OK;
}

const struct asdm_sampler_class asdm_sampler_class_pndm = {
    .name = "pndm",
    .diffusers_name = "PNDMScheduler",
    .schedules = 1u << ASDM_SCHEDULE_DEFAULT | 1u << ASDM_SCHEDULE_SGM_UNIFORM,
    .spacing = ASDM_SPACING_LEADING,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .beta_schedule = ASDM_BETA_LINEAR,
    .order = 1,
    .plan = plan,
    .rows = add_rows,
};
