#include "sampler/sampler.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "asdm_limits.h"
#include <asdm/error.h>
#include "sampler/build.h"

static const struct asdm_sampler_class *const classes[ASDM_SAMPLER_COUNT] = {
    [ASDM_SAMPLER_DDIM] = &asdm_sampler_class_ddim,
    [ASDM_SAMPLER_PNDM] = &asdm_sampler_class_pndm,
    [ASDM_SAMPLER_EULER] = &asdm_sampler_class_euler,
    [ASDM_SAMPLER_EULER_A] = &asdm_sampler_class_euler_a,
    [ASDM_SAMPLER_HEUN] = &asdm_sampler_class_heun,
    [ASDM_SAMPLER_LMS] = &asdm_sampler_class_lms,
    [ASDM_SAMPLER_DPMPP_2M] = &asdm_sampler_class_dpmpp_2m,
    [ASDM_SAMPLER_DPMPP_2M_SDE] = &asdm_sampler_class_dpmpp_2m_sde,
    [ASDM_SAMPLER_UNIPC] = &asdm_sampler_class_unipc,
    [ASDM_SAMPLER_LCM] = &asdm_sampler_class_lcm,
    [ASDM_SAMPLER_DDPM] = &asdm_sampler_class_ddpm,
};

static const char *const schedule_names[ASDM_SCHEDULE_COUNT] = {"default", "karras", "exponential", "sgm_uniform"};

/* What A1111 calls them. */
static const char *const sampler_labels[ASDM_SAMPLER_COUNT] = {
    [ASDM_SAMPLER_DDIM] = "DDIM",         [ASDM_SAMPLER_PNDM] = "PLMS",
    [ASDM_SAMPLER_EULER] = "Euler",       [ASDM_SAMPLER_EULER_A] = "Euler a",
    [ASDM_SAMPLER_HEUN] = "Heun",         [ASDM_SAMPLER_LMS] = "LMS",
    [ASDM_SAMPLER_DPMPP_2M] = "DPM++ 2M", [ASDM_SAMPLER_DPMPP_2M_SDE] = "DPM++ 2M SDE",
    [ASDM_SAMPLER_UNIPC] = "UniPC",       [ASDM_SAMPLER_LCM] = "LCM",
    [ASDM_SAMPLER_DDPM] = "DDPM",
};
static const char *const schedule_labels[ASDM_SCHEDULE_COUNT] = {"Automatic", "Karras", "Exponential", "SGM Uniform"};

/* Other programs' names for the same; compared by letters, digits and '+' alone. A schedule's name may follow. */
static const struct {
    const char *name;
    enum asdm_sampler sampler;
} aliases[] = {
    {"Euler a", ASDM_SAMPLER_EULER_A},     {"Euler ancestral", ASDM_SAMPLER_EULER_A},
    {"DPM++ 2M", ASDM_SAMPLER_DPMPP_2M},   {"DPM++ 2M SDE", ASDM_SAMPLER_DPMPP_2M_SDE},
    {"PLMS", ASDM_SAMPLER_PNDM},           {"k_euler", ASDM_SAMPLER_EULER},
    {"k_euler_a", ASDM_SAMPLER_EULER_A},   {"k_euler_ancestral", ASDM_SAMPLER_EULER_A},
    {"k_heun", ASDM_SAMPLER_HEUN},         {"k_lms", ASDM_SAMPLER_LMS},
    {"k_dpmpp_2m", ASDM_SAMPLER_DPMPP_2M}, {"k_dpmpp_2m_sde", ASDM_SAMPLER_DPMPP_2M_SDE},
    {"dpmpp_2m", ASDM_SAMPLER_DPMPP_2M},   {"dpmpp_2m_sde", ASDM_SAMPLER_DPMPP_2M_SDE},
};

const char *asdm_sampler_name(enum asdm_sampler sampler) {
    ASDM_ASSERT((int)sampler >= 0 && sampler < ASDM_SAMPLER_COUNT);
    return classes[sampler]->name;
}

const char *asdm_schedule_name(enum asdm_schedule schedule) {
    ASDM_ASSERT((int)schedule >= 0 && schedule < ASDM_SCHEDULE_COUNT);
    return schedule_names[schedule];
}

const char *asdm_sampler_label(enum asdm_sampler sampler) {
    ASDM_ASSERT((int)sampler >= 0 && sampler < ASDM_SAMPLER_COUNT);
    return sampler_labels[sampler];
}

const char *asdm_schedule_label(enum asdm_schedule schedule) {
    ASDM_ASSERT((int)schedule >= 0 && schedule < ASDM_SCHEDULE_COUNT);
    return schedule_labels[schedule];
}

bool asdm_sampler_has_schedule(enum asdm_sampler sampler, enum asdm_schedule schedule) {
    ASDM_ASSERT((int)sampler >= 0 && sampler < ASDM_SAMPLER_COUNT);
    return (classes[sampler]->schedules >> schedule) & 1u;
}

/* Compares without case and without what separates words. `rest`: where `name` went on after `word`. */
static bool starts_with(const char *name, const char *word, const char **rest) {
    for (;; name++, word++) {
        while (*name && strchr(" _-", *name))
            name++;
        while (*word && strchr(" _-", *word))
            word++;
        if (!*word) {
            *rest = name;
            return true;
        }
        if (tolower((unsigned char)*name) != tolower((unsigned char)*word))
            return false;
    }
}

static bool same_name(const char *name, const char *word) {
    const char *rest;
    return starts_with(name, word, &rest) && !*rest;
}

static bool match_schedule(const char *name, enum asdm_schedule *ret) {
    if (same_name(name, "Automatic") || !*name) {
        *ret = ASDM_SCHEDULE_DEFAULT;
        return true;
    }
    for (int i = 0; i < ASDM_SCHEDULE_COUNT; i++) {
        if (same_name(name, schedule_names[i])) {
            *ret = (enum asdm_schedule)i;
            return true;
        }
    }
    return false;
}

/* `name` is `word`, or `word` and a schedule. */
static bool match_sampler(const char *name, const char *word, enum asdm_schedule *ret_schedule) {
    const char *rest;
    if (!starts_with(name, word, &rest))
        return false;
    return !*rest || match_schedule(rest, ret_schedule);
}

enum asdm_status asdm_sampler_find(const char *name, enum asdm_sampler *ret, enum asdm_schedule *ret_schedule,
                                   struct asdm_error *err) {
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        if (match_sampler(name, aliases[i].name, ret_schedule)) {
            *ret = aliases[i].sampler;
            return ASDM_OK;
        }
    }
    char known[256] = "";
    for (int i = 0; i < ASDM_SAMPLER_COUNT; i++) {
        if (match_sampler(name, classes[i]->name, ret_schedule)) {
            *ret = (enum asdm_sampler)i;
            return ASDM_OK;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", classes[i]->name);
    }
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "sampler \"%.100s\" is not known; known: %s", name, known);
}

enum asdm_status asdm_schedule_find(const char *name, enum asdm_schedule *ret, struct asdm_error *err) {
    if (match_schedule(name, ret))
        return ASDM_OK;
    return asdm_fail(err, ASDM_ERR_ARGUMENT,
                     "schedule \"%.100s\" is not known; known: default, karras, exponential, sgm_uniform", name);
}

enum asdm_sampler asdm_sampler_default(const struct asdm_scheduler_config *config) {
    for (int i = 0; i < ASDM_SAMPLER_COUNT; i++) {
        if (strcmp(config->class_name, classes[i]->diffusers_name) != 0)
            continue;
        if (i == ASDM_SAMPLER_DPMPP_2M && config->algorithm == ASDM_ALGORITHM_SDE_DPMSOLVERPP)
            return ASDM_SAMPLER_DPMPP_2M_SDE;
        return (enum asdm_sampler)i;
    }
    return ASDM_SAMPLER_PNDM;
}

struct asdm_sampler_row *asdm_sampler_row_add(struct asdm_sampler_build *build, double timestep, int step) {
    struct asdm_sampler_table *table = build->table;
    ASDM_ASSERT(table->row_count < build->row_capacity);
    struct asdm_sampler_row *row = &table->rows[table->row_count++];
    row->timestep = timestep;
    row->input_scale = 1.0;
    row->step = step < table->step_count ? step : table->step_count - 1;
    for (int k = 0; k < ASDM_SAMPLER_HISTORY_MAX; k++)
        row->history[k][asdm_history_input(k)] = 1.0;
    return row;
}

void asdm_sampler_convert_alpha(const struct asdm_sampler_build *build, double alpha, struct asdm_sampler_row *row) {
    double signal = sqrt(alpha), noise = sqrt(1.0 - alpha);
    row->convert_latents = build->predicts_v ? signal : 1.0 / signal;
    row->convert_model = build->predicts_v ? -noise : -noise / signal;
    row->clamp = build->clip;
}

void asdm_sampler_convert_sigma(const struct asdm_sampler_build *build, double sigma, struct asdm_sampler_row *row) {
    double variance = sigma * sigma + 1.0;
    row->convert_latents = build->predicts_v ? 1.0 / variance : 1.0;
    row->convert_model = build->predicts_v ? -sigma / sqrt(variance) : -sigma;
    row->clamp = build->clip;
}

void asdm_linear_add(struct asdm_linear *dst, const struct asdm_linear *src, double factor) {
    for (int i = 0; i < ASDM_IN_COUNT; i++) {
        if (src->k[i] != 0.0)
            dst->k[i] += factor * src->k[i];
    }
}

struct asdm_linear asdm_linear_of(enum asdm_sampler_input input) {
    struct asdm_linear form = {{0.0}};
    form.k[input] = 1.0;
    return form;
}

static enum asdm_status check_request(const struct asdm_scheduler_config *config, enum asdm_sampler sampler,
                                      enum asdm_schedule schedule, int steps, double strength, struct asdm_error *err) {
    int most = config->train_steps < ASDM_LIMIT_STEPS ? config->train_steps : ASDM_LIMIT_STEPS;
    if (steps < 1 || steps > most)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "steps must be from 1 to %d, are %d", most, steps);
    if (isnan(strength) || strength > 1.0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "strength must be from 0 to 1, is %g", strength);
    if (!asdm_sampler_has_schedule(sampler, schedule)) {
        char has[128] = "";
        for (int i = 0; i < ASDM_SCHEDULE_COUNT; i++) {
            size_t used = strlen(has);
            if (asdm_sampler_has_schedule(sampler, (enum asdm_schedule)i))
                snprintf(has + used, sizeof has - used, "%s%s", used ? ", " : "", schedule_names[i]);
        }
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "sampler %s has no schedule %s; it has: %s", classes[sampler]->name,
                         schedule_names[schedule], has);
    }
    if (config->thresholding && classes[sampler]->reads_thresholding)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "sampler %s: thresholding: true is not supported",
                         classes[sampler]->name);
    if (config->use_beta_sigmas && classes[sampler]->reads_sigma_options && schedule == ASDM_SCHEDULE_DEFAULT)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "sampler %s: use_beta_sigmas: true is not supported",
                         classes[sampler]->name);
    return ASDM_OK;
}

/* Reads the configuration as the sampler's class would. */
static void resolve(struct asdm_sampler_build *build, enum asdm_schedule schedule) {
    const struct asdm_scheduler_config *config = build->config;
    const struct asdm_sampler_class *class = build->class;
    build->train_steps = config->train_steps;
    build->steps_offset = config->steps_offset < 0 ? 0 : config->steps_offset;
    build->predicts_v = config->prediction == ASDM_PREDICT_V;
    build->spacing = config->spacing < 0 ? class->spacing : (enum asdm_timestep_spacing)config->spacing;
    build->alpha_to_one = config->set_alpha_to_one < 0 ? class->alpha_to_one_by_default : config->set_alpha_to_one == 1;
    bool clips = config->clip_sample < 0 ? class->clips_by_default : config->clip_sample == 1;
    build->clip = class->clips && clips ? config->clip_sample_range : 0.0;

    build->schedule = schedule;
    if (schedule == ASDM_SCHEDULE_SGM_UNIFORM) {
        build->spacing = ASDM_SPACING_TRAILING;
        build->schedule = ASDM_SCHEDULE_DEFAULT;
    } else if (schedule == ASDM_SCHEDULE_DEFAULT && class->reads_sigma_options) {
        bool dpmpp = build->sampler == ASDM_SAMPLER_DPMPP_2M || build->sampler == ASDM_SAMPLER_DPMPP_2M_SDE;
        if (config->use_karras_sigmas)
            build->schedule = ASDM_SCHEDULE_KARRAS;
        else if (config->use_lu_lambdas && dpmpp)
            build->lu_lambdas = true;
        else if (config->use_exponential_sigmas)
            build->schedule = ASDM_SCHEDULE_EXPONENTIAL;
    }
}

/* Where i2i begins: with `strength` of the steps left, rounded down, counted in evaluations as diffusers counts. */
static void place_begin(struct asdm_sampler_build *build, double strength) {
    int wanted = build->steps;
    build->from_image = strength >= 0.0;
    if (build->from_image) {
        wanted = (int)(build->steps * strength);
        build->begin = (build->steps - wanted) * build->class->order;
    }
    if (strength == 0.0 || build->begin > build->timestep_count)
        build->begin = build->timestep_count;
    /* PNDM has an evaluation more than steps, and does it when no step is left. */
    build->table->step_count = wanted > 0 ? wanted : 1;
}

/* A row of each timestep at most. */
static enum asdm_status allocate_table(struct asdm_sampler_build *build, struct asdm_error *err) {
    build->row_capacity = build->timestep_count;
    size_t bytes = sizeof *build->table + (size_t)build->row_capacity * sizeof build->table->rows[0];
    build->table = calloc(1, bytes);
    if (!build->table)
        return asdm_fail(err, ASDM_ERR_MEMORY, "sampler %s: out of memory", build->class->name);
    return ASDM_OK;
}

static bool row_is_finite(const struct asdm_sampler_row *row) {
    double sum = row->timestep + row->input_scale + row->convert_latents + row->convert_model;
    for (int i = 0; i < ASDM_IN_COUNT; i++) {
        sum += row->latents[i];
        for (int k = 0; k < ASDM_SAMPLER_HISTORY_MAX; k++)
            sum += row->history[k][i];
    }
    return isfinite(sum);
}

/* Two steps at the same noise level, or a step where the model's output says nothing (epsilon at zero signal). */
static enum asdm_status check_table(const struct asdm_sampler_build *build, struct asdm_error *err) {
    const struct asdm_sampler_table *table = build->table;
    for (int i = 0; i < table->row_count; i++) {
        if (!row_is_finite(&table->rows[i]))
            return asdm_fail(err, ASDM_ERR_ARGUMENT,
                             "sampler %s: cannot step at timestep %g with %d steps of this noise schedule",
                             build->class->name, table->rows[i].timestep, build->steps);
    }
    return ASDM_OK;
}

static enum asdm_status fill(struct asdm_sampler_build *build, double strength, struct asdm_error *err) {
    ASDM_TRY(asdm_schedule_build_alphas(build, err));
    ASDM_TRY(build->class->plan(build, err));
    ASDM_TRY(allocate_table(build, err));
    place_begin(build, strength);
    if (build->begin == build->timestep_count) {
        build->table->step_count = 0;
        build->table->start_image = 1.0;
        return ASDM_OK;
    }
    ASDM_TRY(build->class->rows(build, err));
    return check_table(build, err);
}

enum asdm_status asdm_sampler_table_build(const struct asdm_scheduler_config *config, enum asdm_sampler sampler,
                                          enum asdm_schedule schedule, int steps, double strength,
                                          struct asdm_sampler_table **ret, struct asdm_error *err) {
    ASDM_TRY(check_request(config, sampler, schedule, steps, strength, err));
    struct asdm_sampler_build build = {.config = config, .class = classes[sampler], .sampler = sampler, .steps = steps};
    resolve(&build, schedule);
    enum asdm_status status = fill(&build, strength, err);
    if (status == ASDM_OK) {
        *ret = build.table;
        build.table = NULL;
    }
    free(build.table);
    free(build.alphas_cumprod);
    free(build.train_sigmas);
    free(build.timesteps);
    free(build.sigmas);
    return status;
}
