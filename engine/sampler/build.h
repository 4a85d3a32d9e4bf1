/* Private to engine/sampler: what a sampler's file is given to build its table from, and what it must offer. */
#ifndef ASDM_SAMPLER_BUILD_H
#define ASDM_SAMPLER_BUILD_H

#include <stdbool.h>

#include "sampler/sampler.h"

/* A linear form over what a sampler can see; indexed by enum asdm_sampler_input. */
struct asdm_linear {
    double k[ASDM_IN_COUNT];
};

/* One build. Filled in by sampler.c (options), by the sampler's `schedule` (timesteps, sigmas), by its `rows`
 * (table). */
struct asdm_sampler_build {
    const struct asdm_scheduler_config *config;
    const struct asdm_sampler_class *class;
    enum asdm_sampler sampler;

    /* the configuration as this sampler's class reads it */
    int steps, train_steps, steps_offset;
    bool predicts_v;
    enum asdm_timestep_spacing spacing;
    enum asdm_schedule schedule; /* DEFAULT, KARRAS or EXPONENTIAL; sgm_uniform is a spacing here */
    bool lu_lambdas;
    double clip; /* 0: none */
    bool alpha_to_one;
    float *alphas_cumprod; /* [train_steps] */
    float *train_sigmas;   /* [train_steps], ascending */

    /* the schedule: what the model is called at, in order (PNDM and Heun repeat some) */
    double *timesteps; /* [timestep_count] */
    int timestep_count;
    double *sigmas; /* [timestep_count + 1] for the samplers that step in sigma, else NULL */

    int begin;       /* first of `timesteps` that is evaluated */
    bool from_image; /* i2i */
    struct asdm_sampler_table *table;
    int row_capacity;
};

/* A registered sampler and the defaults of diffusers' class of that name. */
struct asdm_sampler_class {
    const char *name, *diffusers_name;
    unsigned schedules; /* bit s: has enum asdm_schedule s */
    enum asdm_timestep_spacing spacing;
    double beta_start, beta_end;
    enum asdm_beta_schedule beta_schedule;
    bool reads_zero_snr;      /* the class has rescale_betas_zero_snr */
    bool bounds_zero_snr;     /* ... and then sets the last cumulative alpha to 2^-24 */
    bool reads_sigma_options; /* use_karras_sigmas and its like are the class's own keys */
    bool reads_thresholding;
    bool clips, clips_by_default; /* reads clip_sample; its default */
    bool alpha_to_one_by_default;
    int order; /* evaluations per step, as diffusers counts where to begin */
    /* Fills in timesteps, timestep_count and, where the sampler uses them, sigmas. */
    enum asdm_status (*plan)(struct asdm_sampler_build *build, struct asdm_error *err);
    /* The first latents and all rows from `begin` on. */
    enum asdm_status (*rows)(struct asdm_sampler_build *build, struct asdm_error *err);
};

extern const struct asdm_sampler_class asdm_sampler_class_ddim, asdm_sampler_class_pndm, asdm_sampler_class_euler,
    asdm_sampler_class_euler_a, asdm_sampler_class_heun, asdm_sampler_class_lms, asdm_sampler_class_dpmpp_2m,
    asdm_sampler_class_dpmpp_2m_sde, asdm_sampler_class_unipc, asdm_sampler_class_lcm, asdm_sampler_class_ddpm;

/* schedule.c */

/* alphas_cumprod and train_sigmas. In float32 in diffusers' order of operations: 1 - alpha has few digits near t =
 * 0, and rounding differently there would move the last steps visibly. */
enum asdm_status asdm_schedule_build_alphas(struct asdm_sampler_build *build, struct asdm_error *err);
/* Whole timesteps, descending (ddim, pndm, ddpm). */
enum asdm_status asdm_schedule_plan_discrete(struct asdm_sampler_build *build, struct asdm_error *err);
/* Timesteps that may be fractions, and their sigmas (euler, euler_a, heun, lms). */
enum asdm_status asdm_schedule_plan_sigmas(struct asdm_sampler_build *build, struct asdm_error *err);
/* Whole timesteps out of one step more than is done, and their sigmas (dpm++, unipc). */
enum asdm_status asdm_schedule_plan_solver(struct asdm_sampler_build *build, struct asdm_error *err);
/* Room for `count` timesteps and, if asked, count + 1 sigmas; and for one more of each. */
enum asdm_status asdm_schedule_reserve(struct asdm_sampler_build *build, int count, bool with_sigmas,
                                       struct asdm_error *err);
/* The cumulative alpha at a timestep; ERR_ARGUMENT when the schedule left [0, train_steps), which steps_offset can
 * bring about. */
enum asdm_status asdm_schedule_alpha(const struct asdm_sampler_build *build, double timestep, double *ret,
                                     struct asdm_error *err);
/* The step before the first one: what follows the last timestep (set_alpha_to_one). */
double asdm_schedule_final_alpha(const struct asdm_sampler_build *build);
/* Latents and noise of a sampler that keeps variance: sqrt(alpha) and sqrt(1 - alpha) for i2i, else 0 and 1. */
enum asdm_status asdm_schedule_start_alpha(struct asdm_sampler_build *build, struct asdm_error *err);
/* ... that works in sigma (euler and its like), and of one that keeps variance but counts in sigma (dpm++, unipc). */
void asdm_schedule_start_sigma(struct asdm_sampler_build *build);
void asdm_schedule_start_solver(struct asdm_sampler_build *build);

/* sampler.c */

/* The next row, zeroed; model input scale 1 and history kept as it is. Steps past the last one count as the last. */
struct asdm_sampler_row *asdm_sampler_row_add(struct asdm_sampler_build *build, double timestep, int step);

/* e = the predicted clean latents, by the cumulative alpha or, for latents scaled as x + sigma noise, by sigma. */
void asdm_sampler_convert_alpha(const struct asdm_sampler_build *build, double alpha, struct asdm_sampler_row *row);
void asdm_sampler_convert_sigma(const struct asdm_sampler_build *build, double sigma, struct asdm_sampler_row *row);

/* dst += factor * src; the form of one input. */
void asdm_linear_add(struct asdm_linear *dst, const struct asdm_linear *src, double factor);
struct asdm_linear asdm_linear_of(enum asdm_sampler_input input);
static inline enum asdm_sampler_input asdm_history_input(int k) {
    return (enum asdm_sampler_input)(ASDM_IN_HISTORY + k);
}

#endif
