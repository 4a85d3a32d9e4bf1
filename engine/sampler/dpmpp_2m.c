/* Lu et al., "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models" (2022): the
 * multistep solver that works on the clean latents, and its stochastic form (appendix). Second order unless the
 * configuration says otherwise. With lambda = -log sigma, exp(-h) is the quotient of two sigmas. */
#include "sampler/build.h"

#include <math.h>

#include <asdm/error.h>

enum { ORDER_MAX = 3 };

/* One step's quantities: from sigma_s at `i` to sigma_t. */
struct step {
    double alpha_t, noise_t; /* weights of signal and noise at the target */
    double keep;             /* noise_t / noise_s */
    double h, decay;         /* step in lambda; exp(-h) */
    bool stochastic, heun;
};

static struct step make_step(const struct asdm_sampler_build *build, int i) {
    double sigma_s = build->sigmas[i], sigma_t = build->sigmas[i + 1];
    double alpha_t = 1.0 / sqrt(sigma_t * sigma_t + 1.0), alpha_s = 1.0 / sqrt(sigma_s * sigma_s + 1.0);
    return (struct step){
        .alpha_t = alpha_t,
        .noise_t = sigma_t * alpha_t,
        .keep = sigma_t * alpha_t / (sigma_s * alpha_s),
        .h = log(sigma_s / sigma_t),
        .decay = sigma_t / sigma_s,
        .stochastic = build->sampler == ASDM_SAMPLER_DPMPP_2M_SDE,
        .heun = build->config->solver_type == ASDM_SOLVER_HEUN,
    };
}

/* Weights of D0, D1 and D2: the clean latents and their first differences. The stochastic solver takes twice the step
 * in lambda. */
static double weight_value(const struct step *s) {
    return s->alpha_t * (s->stochastic ? 1.0 - s->decay * s->decay : 1.0 - s->decay);
}

static double weight_slope(const struct step *s, int order) {
    if (order == 2 && !s->heun)
        return 0.5 * weight_value(s);
    double h = s->stochastic ? 2.0 * s->h : s->h;
    return s->alpha_t - weight_value(s) / h;
}

static double weight_curve(const struct step *s) {
    double h = s->stochastic ? 2.0 * s->h : s->h;
    double value = weight_value(s) / s->alpha_t; /* 1 - exp(-h) */
    if (s->stochastic)
        return s->alpha_t * ((value - h) / (h * h) - 0.5);
    return -s->alpha_t * ((h - value) / (h * h) - 0.5);
}

/* Differences of the clean latents e, h_0, h_1, divided by the steps between them. */
static void add_differences(const struct asdm_sampler_build *build, const struct step *s, int i, int order,
                            struct asdm_linear *next) {
    struct asdm_linear m0 = asdm_linear_of(ASDM_IN_CONVERTED), m1 = asdm_linear_of(asdm_history_input(0));
    struct asdm_linear first = {{0.0}};
    double r0 = log(build->sigmas[i - 1] / build->sigmas[i]) / s->h;
    asdm_linear_add(&first, &m0, 1.0 / r0);
    asdm_linear_add(&first, &m1, -1.0 / r0);
    if (order == 2) {
        asdm_linear_add(next, &first, weight_slope(s, order));
        return;
    }
    struct asdm_linear m2 = asdm_linear_of(asdm_history_input(1)), bend = first, slope = first;
    double r1 = log(build->sigmas[i - 2] / build->sigmas[i - 1]) / s->h;
    asdm_linear_add(&bend, &m1, -1.0 / r1);
    asdm_linear_add(&bend, &m2, 1.0 / r1);
    asdm_linear_add(&slope, &bend, r0 / (r0 + r1));
    asdm_linear_add(next, &slope, weight_slope(s, order));
    asdm_linear_add(next, &bend, weight_curve(s) / (r0 + r1));
}

/* The first step of a run has no past; the last ones go down in order where steps are few or the target is sigma 0. */
static int choose_order(const struct asdm_sampler_build *build, int i) {
    const struct asdm_scheduler_config *config = build->config;
    int count = build->timestep_count, seen = i - build->begin, order = config->solver_order;
    bool few = config->lower_order_final && count < 15;
    bool last = i == count - 1 && (config->euler_at_final || few || config->final_sigma == ASDM_FINAL_SIGMA_ZERO);
    if (order == 1 || seen < 1 || last)
        return 1;
    if (order == 2 || seen < 2 || (i == count - 2 && few))
        return 2;
    return 3;
}

static void add_row(struct asdm_sampler_build *build, int i) {
    struct step s = make_step(build, i);
    int order = choose_order(build, i);
    struct asdm_sampler_row *row = asdm_sampler_row_add(build, build->timesteps[i], i - build->begin);
    double sigma = build->sigmas[i], alpha = 1.0 / sqrt(sigma * sigma + 1.0);
    row->convert_latents = build->predicts_v ? alpha : 1.0 / alpha;
    row->convert_model = build->predicts_v ? -sigma * alpha : -sigma;

    struct asdm_linear next = {{0.0}};
    next.k[ASDM_IN_LATENTS] = s.stochastic ? s.keep * s.decay : s.keep;
    next.k[ASDM_IN_CONVERTED] = weight_value(&s);
    if (s.stochastic)
        next.k[ASDM_IN_NOISE] = s.noise_t * sqrt(fmax(1.0 - s.decay * s.decay, 0.0));
    if (order > 1)
        add_differences(build, &s, i, order, &next);
    row->draws_noise = s.stochastic;
    for (int j = 0; j < ASDM_IN_COUNT; j++) {
        row->latents[j] = next.k[j];
        row->history[0][j] = j == ASDM_IN_CONVERTED ? 1.0 : 0.0;
        row->history[1][j] = j == ASDM_IN_HISTORY ? 1.0 : 0.0;
    }
}

static enum asdm_status add_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    enum asdm_algorithm algorithm = build->config->algorithm;
    if (algorithm == ASDM_ALGORITHM_DPMSOLVER || algorithm == ASDM_ALGORITHM_SDE_DPMSOLVER)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                         "sampler %s: algorithm_type: dpmsolver and sde-dpmsolver are not supported",
                         build->class->name);
    int order = build->config->solver_order < ORDER_MAX ? build->config->solver_order : ORDER_MAX;
    asdm_schedule_start_solver(build);
    build->table->history_count = order - 1;
    for (int i = build->begin; i < build->timestep_count; i++)
        add_row(build, i);
    return ASDM_OK;
}

const struct asdm_sampler_class asdm_sampler_class_dpmpp_2m = {
    .name = "dpm++_2m",
    .diffusers_name = "DPMSolverMultistepScheduler",
    .schedules = (1u << ASDM_SCHEDULE_COUNT) - 1u,
    .spacing = ASDM_SPACING_LINSPACE,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .beta_schedule = ASDM_BETA_LINEAR,
    .reads_zero_snr = true,
    .bounds_zero_snr = true,
    .reads_sigma_options = true,
    .reads_thresholding = true,
    .order = 1,
    .plan = asdm_schedule_plan_solver,
    .rows = add_rows,
};

const struct asdm_sampler_class asdm_sampler_class_dpmpp_2m_sde = {
    .name = "dpm++_2m_sde",
    .diffusers_name = "DPMSolverMultistepScheduler",
    .schedules = (1u << ASDM_SCHEDULE_COUNT) - 1u,
    .spacing = ASDM_SPACING_LINSPACE,
    .beta_start = 0.0001,
    .beta_end = 0.02,
    .beta_schedule = ASDM_BETA_LINEAR,
    .reads_zero_snr = true,
    .bounds_zero_snr = true,
    .reads_sigma_options = true,
    .reads_thresholding = true,
    .order = 1,
    .plan = asdm_schedule_plan_solver,
    .rows = add_rows,
};
