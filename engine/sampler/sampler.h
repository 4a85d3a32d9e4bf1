/* Samplers as tables. Every sampler here is linear in what it has seen, so a sampler is a function from (noise
 * schedule, steps, strength) to one row of coefficients per model evaluation, computed in double on the host;
 * applying a row is the same small loop for all of them, so pictures with different samplers and at different steps
 * can be stepped together. */
#ifndef ASDM_SAMPLER_H
#define ASDM_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>

#include <asdm/status.h>
#include "sampler/row.h"
#include "sampler/scheduler_config.h"

enum asdm_sampler {
    ASDM_SAMPLER_DDIM,
    ASDM_SAMPLER_PNDM,
    ASDM_SAMPLER_EULER,
    ASDM_SAMPLER_EULER_A,
    ASDM_SAMPLER_HEUN,
    ASDM_SAMPLER_LMS,
    ASDM_SAMPLER_DPMPP_2M,
    ASDM_SAMPLER_DPMPP_2M_SDE,
    ASDM_SAMPLER_UNIPC,
    ASDM_SAMPLER_LCM,
    ASDM_SAMPLER_DDPM,
    ASDM_SAMPLER_COUNT
};

enum asdm_schedule {
    ASDM_SCHEDULE_DEFAULT, /* what the checkpoint's configuration says */
    ASDM_SCHEDULE_KARRAS,
    ASDM_SCHEDULE_EXPONENTIAL,
    ASDM_SCHEDULE_SGM_UNIFORM, /* timestep spacing "trailing", whatever the configuration says */
    ASDM_SCHEDULE_COUNT
};

struct asdm_sampler_table {
    int row_count;
    int step_count;    /* steps really done: fewer than asked for where strength < 1 */
    int history_count; /* h_0 .. h_(history_count-1) are used; all start as zeros */
    /* first latents = start_image * init_latents + start_noise * noise (t2i: 0 and init_noise_sigma) */
    double start_image, start_noise;
    struct asdm_sampler_row rows[];
};

/* Canonical names: ddim pndm euler euler_a heun lms dpm++_2m dpm++_2m_sde unipc lcm ddpm; default karras exponential
 * sgm_uniform. */
const char *asdm_sampler_name(enum asdm_sampler sampler);
const char *asdm_schedule_name(enum asdm_schedule schedule);
/* What A1111 calls them: "Euler a", "Karras", ... */
const char *asdm_sampler_label(enum asdm_sampler sampler);
const char *asdm_schedule_label(enum asdm_schedule schedule);

/* Has this sampler that schedule? DEFAULT: always. */
bool asdm_sampler_has_schedule(enum asdm_sampler sampler, enum asdm_schedule schedule);

/* Finds a sampler by canonical name or by the name A1111 uses ("Euler a", "DPM++ 2M Karras", "DPM++ 2M SDE
 * Exponential", ...; case-insensitive; a space, '_' and '-' count as the same). A name that carries a schedule sets
 * *ret_schedule, others leave it. Unknown: ERR_ARGUMENT listing the known names. */
enum asdm_status asdm_sampler_find(const char *name, enum asdm_sampler *ret, enum asdm_schedule *ret_schedule,
                                   struct asdm_error *err);
/* "Automatic" and "" are the default, "SGM Uniform" is sgm_uniform. */
enum asdm_status asdm_schedule_find(const char *name, enum asdm_schedule *ret, struct asdm_error *err);

/* The sampler a checkpoint names in its scheduler_config.json (_class_name and algorithm_type); PNDM, what Stable
 * Diffusion was published with, when it names none of ours. */
enum asdm_sampler asdm_sampler_default(const struct asdm_scheduler_config *config);

/* Builds the table as diffusers' scheduler of that name steps, given `steps` and, for i2i, `strength` in [0, 1]
 * (t2i: a negative number). malloc'ed in one piece; free() it. ERR_ARGUMENT: steps out of range, a schedule the
 * sampler does not have (listing those it has), steps that the schedule cannot be divided into. ERR_UNSUPPORTED:
 * the configuration asks this sampler for something it cannot do here (dynamic thresholding, ...). A schedule
 * named by the caller replaces the configuration's use_*_sigmas and, for sgm_uniform, its timestep_spacing. */
enum asdm_status asdm_sampler_table_build(const struct asdm_scheduler_config *config, enum asdm_sampler sampler,
                                          enum asdm_schedule schedule, int steps, double strength,
                                          struct asdm_sampler_table **ret, struct asdm_error *err);

#endif
