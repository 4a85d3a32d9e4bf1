/* Timesteps and noise levels: which of the training steps are visited, and how much noise each of them stands for.
 * Spacings: Lin et al., "Common diffusion noise schedules and sample steps are flawed" (2023), table 2. Karras et
 * al., "Elucidating the design space of diffusion-based generative models" (2022), eq. 5. */
#include "sampler/build.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include <asdm/error.h>

#define PI 3.14159265358979323846

/* Evenly spaced numbers as torch.linspace makes them in float32: from both ends towards the middle. */
static void linspace_float(float first, float last, int count, float *dst) {
    float step = (last - first) / (float)(count - 1);
    for (int i = 0; i < count; i++)
        dst[i] = i < count / 2 ? fmaf(step, (float)i, first) : fmaf(-step, (float)(count - 1 - i), last);
}

static double alpha_bar(double t) {
    double c = cos((t + 0.008) / 1.008 * PI / 2.0);
    return c * c;
}

static void fill_betas(const struct asdm_sampler_build *build, float *betas) {
    const struct asdm_scheduler_config *config = build->config;
    const struct asdm_sampler_class *class = build->class;
    double first = isnan(config->beta_start) ? class->beta_start : config->beta_start;
    double last = isnan(config->beta_end) ? class->beta_end : config->beta_end;
    int kind = config->beta_schedule < 0 ? (int)class->beta_schedule : config->beta_schedule;
    int count = build->train_steps;

    if (config->trained_betas) {
        for (int i = 0; i < count; i++)
            betas[i] = (float)config->trained_betas[i];
    } else if (kind == ASDM_BETA_LINEAR) {
        linspace_float((float)first, (float)last, count, betas);
    } else if (kind == ASDM_BETA_SCALED_LINEAR) {
        linspace_float((float)sqrt(first), (float)sqrt(last), count, betas);
        for (int i = 0; i < count; i++)
            betas[i] *= betas[i];
    } else {
        for (int i = 0; i < count; i++)
            betas[i] = (float)fmin(1.0 - alpha_bar((double)(i + 1) / count) / alpha_bar((double)i / count), 0.999);
    }
}

/* Cumulative products of 1 - beta; summed up in double, kept in float32. */
static void accumulate(const float *betas, int count, float *ret) {
    double product = 1.0;
    for (int i = 0; i < count; i++) {
        product *= 1.0f - betas[i];
        ret[i] = (float)product;
    }
}

/* Lin et al., algorithm 1: shifts and scales sqrt(alpha) so that the last step is pure noise. `scratch`: [count] */
static void rescale_betas(float *betas, int count, float *scratch) {
    accumulate(betas, count, scratch);
    float first = sqrtf(scratch[0]), last = sqrtf(scratch[count - 1]);
    float scale = first / (first - last);
    for (int i = 0; i < count; i++) {
        float root = (sqrtf(scratch[i]) - last) * scale;
        scratch[i] = root * root;
    }
    betas[0] = 1.0f - scratch[0];
    for (int i = 1; i < count; i++)
        betas[i] = 1.0f - scratch[i] / scratch[i - 1];
}

enum asdm_status asdm_schedule_build_alphas(struct asdm_sampler_build *build, struct asdm_error *err) {
    int count = build->train_steps;
    build->alphas_cumprod = malloc((size_t)count * sizeof(float));
    build->train_sigmas = malloc((size_t)count * sizeof(float));
    float *betas = malloc((size_t)count * sizeof(float));
    if (!build->alphas_cumprod || !build->train_sigmas || !betas) {
        free(betas);
        return asdm_fail(err, ASDM_ERR_MEMORY, "sampler %s: out of memory", build->class->name);
    }
    bool rescaled = build->config->rescale_betas_zero_snr && build->class->reads_zero_snr;
    fill_betas(build, betas);
    if (rescaled)
        rescale_betas(betas, count, build->alphas_cumprod);
    accumulate(betas, count, build->alphas_cumprod);
    /* Sigma would be infinite: the classes that divide by alpha put the smallest float16 in its place. */
    if (rescaled && build->class->bounds_zero_snr)
        build->alphas_cumprod[count - 1] = 0x1p-24f;
    for (int i = 0; i < count; i++) {
        float alpha = build->alphas_cumprod[i];
        build->train_sigmas[i] = sqrtf((1.0f - alpha) / alpha);
    }
    free(betas);
    return ASDM_OK;
}

enum asdm_status asdm_schedule_reserve(struct asdm_sampler_build *build, int count, bool with_sigmas,
                                       struct asdm_error *err) {
    free(build->timesteps);
    build->timesteps = calloc((size_t)count + 2, sizeof *build->timesteps);
    build->timestep_count = count;
    if (with_sigmas)
        build->sigmas = calloc((size_t)count + 2, sizeof *build->sigmas);
    if (!build->timesteps || (with_sigmas && !build->sigmas))
        return asdm_fail(err, ASDM_ERR_MEMORY, "sampler %s: out of memory", build->class->name);
    return ASDM_OK;
}

/* `count` + `extra` numbers evenly over [0, last], highest first, the lowest `extra` of them left out. */
static void space_linspace(double last, int count, int extra, double *dst) {
    int total = count + extra;
    double step = total > 1 ? last / (total - 1) : 0.0;
    for (int i = 0; i < count; i++) {
        int rank = total - 1 - i;
        dst[i] = rank > 0 && i == 0 ? last : rank * step;
    }
}

static void space_leading(int ratio, int offset, int count, int extra, double *dst) {
    for (int i = 0; i < count; i++)
        dst[i] = (double)(count + extra - 1 - i) * ratio + offset;
}

/* From `last` (the number of training steps, or where they were clipped) down in strides of `stride`. */
static void space_trailing(double last, double stride, int count, double *dst) {
    double step = (last - stride) - last;
    for (int i = 0; i < count; i++)
        dst[i] = rint(last + i * step) - 1.0;
}

enum asdm_status asdm_schedule_plan_discrete(struct asdm_sampler_build *build, struct asdm_error *err) {
    int count = build->steps, total = build->train_steps;
    ASDM_TRY(asdm_schedule_reserve(build, count, false, err));
    double *timesteps = build->timesteps;
    if (build->spacing == ASDM_SPACING_LINSPACE) {
        space_linspace(total - 1, count, 0, timesteps);
        for (int i = 0; i < count; i++)
            timesteps[i] = rint(timesteps[i]);
    } else if (build->spacing == ASDM_SPACING_LEADING) {
        space_leading(total / count, build->steps_offset, count, 0, timesteps);
    } else {
        space_trailing(total, (double)total / count, count, timesteps);
    }
    return ASDM_OK;
}

/* The training schedule's sigma at a timestep between two of its steps; the ends outside of them. */
static double sigma_at(const struct asdm_sampler_build *build, double timestep) {
    int last = build->train_steps - 1;
    if (timestep <= 0.0)
        return build->train_sigmas[0];
    if (timestep >= last)
        return build->train_sigmas[last];
    int low = (int)timestep;
    double slope = (double)build->train_sigmas[low + 1] - build->train_sigmas[low];
    return slope * (timestep - low) + build->train_sigmas[low];
}

/* The timestep whose sigma this is, interpolated in log sigma. */
static double timestep_of(const struct asdm_sampler_build *build, double sigma) {
    double wanted = log(fmax(sigma, 1e-10));
    int low = 0, high = build->train_steps - 1;
    /* the last index whose log sigma is not above the wanted one; sigmas ascend */
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (wanted >= (double)logf(build->train_sigmas[middle]))
            low = middle;
        else
            high = middle - 1;
    }
    if (low > build->train_steps - 2)
        low = build->train_steps - 2;
    float below = logf(build->train_sigmas[low]), above = logf(build->train_sigmas[low + 1]);
    double weight = (below - wanted) / (double)(below - above);
    weight = fmin(fmax(weight, 0.0), 1.0);
    return (1.0 - weight) * low + weight * (low + 1);
}

static void space_karras(double sigma_max, double sigma_min, int count, double *sigmas) {
    const double rho = 7.0;
    double first = pow(sigma_max, 1.0 / rho), last = pow(sigma_min, 1.0 / rho);
    for (int i = 0; i < count; i++) {
        double ramp = count > 1 ? (double)i / (count - 1) : 0.0;
        sigmas[i] = pow(first + ramp * (last - first), rho);
    }
}

static void space_exponential(double sigma_max, double sigma_min, int count, double *sigmas) {
    double first = log(sigma_max), last = log(sigma_min);
    for (int i = 0; i < count; i++) {
        double ramp = count > 1 ? (double)i / (count - 1) : 0.0;
        sigmas[i] = exp(i > 0 && i == count - 1 ? last : first + ramp * (last - first));
    }
}

/* Replaces sigmas[0 .. timestep_count) as the schedule asks, between the configuration's ends or those given;
 * timesteps follow. False: the schedule is the plain one. */
static bool respace(struct asdm_sampler_build *build, double sigma_max, double sigma_min) {
    const struct asdm_scheduler_config *config = build->config;
    int count = build->timestep_count;
    bool fixed_ends =
        build->lu_lambdas || (build->sampler == ASDM_SAMPLER_LMS && build->schedule == ASDM_SCHEDULE_KARRAS);
    if (!fixed_ends && !isnan(config->sigma_max))
        sigma_max = config->sigma_max;
    if (!fixed_ends && !isnan(config->sigma_min))
        sigma_min = config->sigma_min;
    if (build->schedule == ASDM_SCHEDULE_KARRAS)
        space_karras(sigma_max, sigma_min, count, build->sigmas);
    else if (build->schedule == ASDM_SCHEDULE_EXPONENTIAL || build->lu_lambdas)
        space_exponential(sigma_max, sigma_min, count, build->sigmas);
    else
        return false;
    for (int i = 0; i < count; i++)
        build->timesteps[i] = timestep_of(build, build->sigmas[i]);
    return true;
}

static void round_sigmas(struct asdm_sampler_build *build) {
    for (int i = 0; i <= build->timestep_count; i++)
        build->sigmas[i] = (float)build->sigmas[i];
}

/* Euler's own keys: interpolation_type log_linear, final_sigmas_type, timestep_type continuous. */
static void apply_log_interpolation(struct asdm_sampler_build *build) {
    int points = build->steps + 1;
    double first = logf(build->train_sigmas[build->train_steps - 1]), last = logf(build->train_sigmas[0]);
    for (int i = 0; i < points; i++)
        build->sigmas[i] = expf((float)(first + (last - first) * i / (points - 1)));
}

static void apply_continuous_time(struct asdm_sampler_build *build) {
    for (int i = 0; i < build->timestep_count; i++)
        build->timesteps[i] = (float)(0.25 * log(build->sigmas[i]));
}

static void fill_timesteps(struct asdm_sampler_build *build) {
    int count = build->steps, total = build->train_steps;
    if (build->spacing == ASDM_SPACING_LINSPACE)
        space_linspace(total - 1, count, 0, build->timesteps);
    else if (build->spacing == ASDM_SPACING_LEADING)
        space_leading(total / count, build->steps_offset, count, 0, build->timesteps);
    else
        space_trailing(total, (double)total / count, count, build->timesteps);
    for (int i = 0; i < count; i++)
        build->timesteps[i] = (float)build->timesteps[i];
}

enum asdm_status asdm_schedule_plan_sigmas(struct asdm_sampler_build *build, struct asdm_error *err) {
    const struct asdm_scheduler_config *config = build->config;
    bool euler = build->sampler == ASDM_SAMPLER_EULER;
    bool by_log = euler && config->interpolates_log, continuous = euler && config->continuous_time && build->predicts_v;
    int count = build->steps, last = by_log ? count : count - 1;
    ASDM_TRY(asdm_schedule_reserve(build, count, true, err));
    fill_timesteps(build);
    for (int i = 0; i < count; i++)
        build->sigmas[i] = sigma_at(build, build->timesteps[i]);
    if (by_log)
        apply_log_interpolation(build);
    bool plain = !respace(build, build->sigmas[0], build->sigmas[last]);
    for (int i = 0; i < count; i++)
        build->timesteps[i] = (float)build->timesteps[i];
    /* With log_linear there is one sigma more than steps, before the final one. Steps stop there; timesteps made of
     * the sigmas go on to the final one. (There is room for both.) */
    if (by_log && plain && continuous)
        build->timestep_count = count + 1;
    if (!(by_log && plain && !continuous))
        build->sigmas[build->timestep_count] =
            euler && config->final_sigma == ASDM_FINAL_SIGMA_MIN ? build->train_sigmas[0] : 0.0;
    round_sigmas(build);
    if (continuous)
        apply_continuous_time(build);
    return ASDM_OK;
}

/* The training steps whose log signal-to-noise ratio is not below lambda_min_clipped. */
static int count_unclipped(const struct asdm_sampler_build *build) {
    int clipped = 0;
    for (int i = 0; i < build->train_steps; i++) {
        float alpha = build->alphas_cumprod[i];
        clipped += logf(sqrtf(alpha)) - logf(sqrtf(1.0f - alpha)) < (float)build->config->lambda_min_clipped;
    }
    return build->train_steps - clipped;
}

static enum asdm_status fill_solver_timesteps(struct asdm_sampler_build *build, struct asdm_error *err) {
    int count = build->steps, total = build->train_steps, usable = total;
    if (build->sampler != ASDM_SAMPLER_UNIPC && isfinite(build->config->lambda_min_clipped))
        usable = count_unclipped(build);
    if (build->spacing == ASDM_SPACING_TRAILING && usable < total)
        count = (int)ceil(usable / ((double)total / count) - 1e-9);
    if (usable < 2 || count < 1)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "sampler %s: lambda_min_clipped leaves no training steps",
                         build->class->name);
    ASDM_TRY(asdm_schedule_reserve(build, count, true, err));
    if (build->spacing == ASDM_SPACING_LINSPACE)
        space_linspace(usable - 1, count, 1, build->timesteps);
    else if (build->spacing == ASDM_SPACING_LEADING)
        space_leading(usable / (count + 1), build->steps_offset, count, 1, build->timesteps);
    else
        space_trailing(usable, (double)total / build->steps, count, build->timesteps);
    for (int i = 0; i < count; i++)
        build->timesteps[i] = rint(build->timesteps[i]);
    return ASDM_OK;
}

/* Respaced timesteps are fractions, and become whole ones in the way each class does it. */
static void make_whole(struct asdm_sampler_build *build) {
    bool unipc = build->sampler == ASDM_SAMPLER_UNIPC;
    bool karras_like = build->schedule == ASDM_SCHEDULE_KARRAS || build->lu_lambdas;
    bool rounds = karras_like && (unipc || build->config->beta_schedule != ASDM_BETA_SQUAREDCOS_CAP_V2);
    for (int i = 0; i < build->timestep_count; i++)
        build->timesteps[i] = rounds ? rint(build->timesteps[i]) : trunc(build->timesteps[i]);
}

enum asdm_status asdm_schedule_plan_solver(struct asdm_sampler_build *build, struct asdm_error *err) {
    ASDM_TRY(fill_solver_timesteps(build, err));
    int count = build->timestep_count;
    for (int i = 0; i < count; i++)
        build->sigmas[i] = sigma_at(build, build->timesteps[i]);
    bool respaced = respace(build, build->train_sigmas[build->train_steps - 1], build->train_sigmas[0]);
    if (respaced)
        make_whole(build);
    if (build->config->final_sigma == ASDM_FINAL_SIGMA_MIN)
        build->sigmas[count] =
            respaced && build->sampler == ASDM_SAMPLER_UNIPC ? build->sigmas[count - 1] : build->train_sigmas[0];
    round_sigmas(build);
    return ASDM_OK;
}

enum asdm_status asdm_schedule_alpha(const struct asdm_sampler_build *build, double timestep, double *ret,
                                     struct asdm_error *err) {
    if (!(timestep >= 0.0 && timestep < build->train_steps))
        return asdm_fail(
            err, ASDM_ERR_ARGUMENT,
            "sampler %s: %d steps reach timestep %g, the model was trained with 0 to %d (steps_offset is %d)",
            build->class->name, build->steps, timestep, build->train_steps - 1, build->steps_offset);
    *ret = build->alphas_cumprod[(int)timestep];
    return ASDM_OK;
}

double asdm_schedule_final_alpha(const struct asdm_sampler_build *build) {
    return build->alpha_to_one ? 1.0 : build->alphas_cumprod[0];
}

enum asdm_status asdm_schedule_start_alpha(struct asdm_sampler_build *build, struct asdm_error *err) {
    double alpha = 0.0;
    if (build->from_image)
        ASDM_TRY(asdm_schedule_alpha(build, build->timesteps[build->begin], &alpha, err));
    build->table->start_image = sqrt(alpha);
    build->table->start_noise = sqrt(1.0 - alpha);
    return ASDM_OK;
}

void asdm_schedule_start_sigma(struct asdm_sampler_build *build) {
    struct asdm_sampler_table *table = build->table;
    double highest = 0.0;
    for (int i = 0; i < build->timestep_count; i++)
        highest = fmax(highest, build->sigmas[i]);
    table->start_image = build->from_image ? 1.0 : 0.0;
    if (build->from_image)
        table->start_noise = build->sigmas[build->begin];
    else
        table->start_noise = build->spacing == ASDM_SPACING_LEADING ? sqrt(highest * highest + 1.0) : highest;
}

void asdm_schedule_start_solver(struct asdm_sampler_build *build) {
    struct asdm_sampler_table *table = build->table;
    double sigma = build->sigmas[build->begin];
    double alpha = 1.0 / sqrt(sigma * sigma + 1.0);
    table->start_image = build->from_image ? alpha : 0.0;
    table->start_noise = build->from_image ? sigma * alpha : 1.0;
}
