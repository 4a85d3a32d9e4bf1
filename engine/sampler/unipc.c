/* Zhao et al., "UniPC: a unified predictor-corrector framework for fast sampling of diffusion models" (2023),
 * algorithms 1 and 2 with B(h) = h or exp(h) - 1. At every evaluation the latents that the model has just seen are
 * first corrected with what it said about them, then carried to the next step. History: earlier outputs, newest
 * first, then the corrected latents of the step before. */
#include "sampler/build.h"

#include <math.h>

#include <asdm/error.h>

enum { ORDER_MAX = ASDM_SOLVER_ORDER_MAX };

/* One step in lambda = -log sigma, from `source` to `target` (indices of sigmas). */
struct step {
    int order;
    double keep;  /* weight of the latents */
    double scale; /* what the integral is multiplied with */
    double phi;   /* exp(hh) - 1 */
    double basis; /* B(h) */
    double hh;    /* the signed step */
    double h;
    double ratios[ORDER_MAX]; /* positions of the earlier outputs in units of the step; the target is 1 */
};

static struct step make_step(const struct asdm_sampler_build *build, int source, int target, int order) {
    double from = build->sigmas[source], to = build->sigmas[target];
    double alpha_from = 1.0 / sqrt(from * from + 1.0), alpha_to = 1.0 / sqrt(to * to + 1.0);
    bool clean = build->config->predict_x0, bh1 = build->config->solver_type == ASDM_SOLVER_BH1;
    struct step s = {.order = order, .h = log(from / to)};
    s.hh = clean ? -s.h : s.h;
    s.phi = expm1(s.hh);
    s.basis = bh1 ? s.hh : s.phi;
    s.keep = clean ? to * alpha_to / (from * alpha_from) : alpha_to / alpha_from;
    s.scale = clean ? alpha_to : to * alpha_to;
    for (int k = 1; k < order; k++)
        s.ratios[k - 1] = log(from / build->sigmas[source - k]) / s.h;
    s.ratios[order - 1] = 1.0;
    return s;
}

/* Gaussian elimination with row pivots; `matrix` and `vector` are overwritten, the solution is left in `vector`. */
static void solve(double matrix[ORDER_MAX][ORDER_MAX], double vector[ORDER_MAX], int size) {
    for (int column = 0; column < size; column++) {
        int pivot = column;
        for (int i = column + 1; i < size; i++)
            pivot = fabs(matrix[i][column]) > fabs(matrix[pivot][column]) ? i : pivot;
        for (int j = 0; j < size; j++) {
            double kept = matrix[column][j];
            matrix[column][j] = matrix[pivot][j];
            matrix[pivot][j] = kept;
        }
        double kept = vector[column];
        vector[column] = vector[pivot];
        vector[pivot] = kept;
        for (int i = 0; i < size; i++) {
            double factor = i == column ? 0.0 : matrix[i][column] / matrix[column][column];
            for (int j = column; j < size; j++)
                matrix[i][j] -= factor * matrix[column][j];
            vector[i] -= factor * vector[column];
        }
    }
    for (int i = 0; i < size; i++)
        vector[i] /= matrix[i][i];
}

/* The paper's eq. 5: sum over k of ratio_k^(i-1) weight_k = phi_i i! / B(h), for i to `size`. */
static void solve_weights(const struct step *s, int size, double weights[ORDER_MAX]) {
    double matrix[ORDER_MAX][ORDER_MAX], phi = s->phi / s->hh - 1.0, factorial = 1.0;
    for (int i = 0; i < size; i++) {
        for (int k = 0; k < size; k++)
            matrix[i][k] = pow(s->ratios[k], i);
        weights[i] = phi * factorial / s->basis;
        factorial *= i + 2;
        phi = phi / s->hh - 1.0 / factorial;
    }
    solve(matrix, weights, size);
}

/* dst -= scale B(h) weight (output - newest) / ratio */
static void add_difference(struct asdm_linear *dst, const struct step *s, double weight, double ratio,
                           enum asdm_sampler_input output, enum asdm_sampler_input newest) {
    double factor = s->scale * s->basis * weight / ratio;
    dst->k[output] -= factor;
    dst->k[newest] += factor;
}

/* The latents that were predicted for `at`, again, now that the model's output there is known. */
static struct asdm_linear correct(const struct asdm_sampler_build *build, int at, int order) {
    struct step s = make_step(build, at - 1, at, order);
    double weights[ORDER_MAX] = {0.5};
    if (order > 1)
        solve_weights(&s, order, weights);
    struct asdm_linear form = {{0.0}};
    enum asdm_sampler_input newest = asdm_history_input(0);
    form.k[asdm_history_input(build->config->solver_order)] = s.keep;
    form.k[newest] = -s.scale * s.phi;
    for (int k = 1; k < order; k++)
        add_difference(&form, &s, weights[k - 1], s.ratios[k - 1], asdm_history_input(k), newest);
    add_difference(&form, &s, weights[order - 1], 1.0, ASDM_IN_CONVERTED, newest);
    return form;
}

static struct asdm_linear predict(const struct asdm_sampler_build *build, int at, int order,
                                  const struct asdm_linear *latents) {
    struct step s = make_step(build, at, at + 1, order);
    double weights[ORDER_MAX] = {0.5};
    if (order > 2)
        solve_weights(&s, order - 1, weights);
    struct asdm_linear form = {{0.0}};
    asdm_linear_add(&form, latents, s.keep);
    form.k[ASDM_IN_CONVERTED] -= s.scale * s.phi;
    for (int k = 1; k < order; k++)
        add_difference(&form, &s, weights[k - 1], s.ratios[k - 1], asdm_history_input(k - 1), ASDM_IN_CONVERTED);
    return form;
}

static int choose_order(const struct asdm_sampler_build *build, int i) {
    int order = build->config->solver_order, left = build->timestep_count - i, seen = i - build->begin;
    if (build->config->lower_order_final && left < order)
        order = left;
    return seen + 1 < order ? seen + 1 : order;
}

static bool corrects(const struct asdm_sampler_build *build, int i) {
    if (i == build->begin)
        return false;
    for (int k = 0; k < build->config->corrector_off_count; k++) {
        if (build->config->corrector_off[k] == i - 1)
            return false;
    }
    return true;
}

static void convert(const struct asdm_sampler_build *build, double sigma, struct asdm_sampler_row *row) {
    double alpha = 1.0 / sqrt(sigma * sigma + 1.0);
    if (build->config->predict_x0) {
        row->convert_latents = build->predicts_v ? alpha : 1.0 / alpha;
        row->convert_model = build->predicts_v ? -sigma * alpha : -sigma;
    } else {
        row->convert_latents = build->predicts_v ? sigma * alpha : 0.0;
        row->convert_model = build->predicts_v ? alpha : 1.0;
    }
}

static void add_row(struct asdm_sampler_build *build, int i) {
    int outputs = build->config->solver_order;
    struct asdm_sampler_row *row = asdm_sampler_row_add(build, build->timesteps[i], i - build->begin);
    convert(build, build->sigmas[i], row);
    struct asdm_linear latents = asdm_linear_of(ASDM_IN_LATENTS);
    if (corrects(build, i))
        latents = correct(build, i, choose_order(build, i - 1));
    struct asdm_linear next = predict(build, i, choose_order(build, i), &latents);
    for (int j = 0; j < ASDM_IN_COUNT; j++) {
        row->latents[j] = next.k[j];
        row->history[0][j] = j == ASDM_IN_CONVERTED ? 1.0 : 0.0;
        for (int k = 1; k < outputs; k++)
            row->history[k][j] = j == (int)asdm_history_input(k - 1) ? 1.0 : 0.0;
        row->history[outputs][j] = latents.k[j];
    }
}

static enum asdm_status add_rows(struct asdm_sampler_build *build, struct asdm_error *err) {
    (void)err;
    asdm_schedule_start_solver(build);
    build->table->history_count = build->config->solver_order + 1;
    for (int i = build->begin; i < build->timestep_count; i++)
        add_row(build, i);
    return ASDM_OK;
}

const struct asdm_sampler_class asdm_sampler_class_unipc = {
    .name = "unipc",
    .diffusers_name = "UniPCMultistepScheduler",
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
