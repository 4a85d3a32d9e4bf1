#include "light/analysis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "light/fingerprint.h"
#include "light/meter.h"
#include "light/units.h"

/* ---- life */

void asdm_analysis_destroy(struct asdm_analysis **analysis) {
    struct asdm_analysis *a = *analysis;
    if (!a)
        return;
    for (int i = 0; a->prompts && i < a->prompt_count; i++)
        free(a->prompts[i]);
    free(a->prompts);
    free(a->model);
    free(a->device);
    free(a->dtype);
    free(a->sampler);
    free(a->trials);
    free(a);
    *analysis = NULL;
}

enum asdm_status asdm_analysis_no_memory(struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for an analysis");
}

bool asdm_analysis_set_texts(struct asdm_analysis *a, const char *model, const char *device, const char *dtype,
                             const char *sampler) {
    a->model = strdup(model);
    a->device = strdup(device);
    a->dtype = strdup(dtype);
    a->sampler = strdup(sampler);
    return a->model && a->device && a->dtype && a->sampler;
}

static bool set_prompts(struct asdm_analysis *a, const char *const *prompts, int count) {
    a->prompts = calloc((size_t)count + 1, sizeof *a->prompts);
    for (int i = 0; a->prompts && i < count; i++, a->prompt_count++)
        if (!(a->prompts[i] = strdup(prompts[i])))
            return false;
    return a->prompts != NULL;
}

static bool covers(const struct asdm_unit *unit, int height, int width) {
    return asdm_dim_resolve(asdm_dim_height(unit->stage), height, width) <= unit->window &&
           asdm_dim_resolve(asdm_dim_width(unit->stage), height, width) <= unit->window;
}

/* Pairs, the middle block, then the stages for global-regional attention; those where it would change nothing apart. */
static void list_units(struct asdm_analysis *a, const struct asdm_unet_config *config) {
    struct asdm_unit gri[ASDM_UNITS_MAX];
    int count = asdm_units_of_gri(config, a->gri_window, a->gri_pool, gri);
    a->unit_count = asdm_units_of(config, a->units);
    for (int i = 0; i < count; i++)
        if (covers(&gri[i], a->height / ASDM_PIXELS_PER_LATENT, a->width / ASDM_PIXELS_PER_LATENT))
            a->covered[a->covered_count++] = gri[i];
        else
            a->units[a->unit_count++] = gri[i];
}

/* What follows from the model: units, sizes, the number of rows. */
static enum asdm_status fill(struct asdm_analysis *a, const struct asdm_model *model, struct asdm_error *err) {
    const struct asdm_unet_config *config = &model->checkpoint->unet;
    struct asdm_sampler_table *table;
    struct asdm_unet unet;
    ASDM_TRY(asdm_fingerprint(model, a->steps, a->prompts, a->prompt_count, &a->fingerprint, err));
    ASDM_TRY(asdm_sampler_table_build(&model->checkpoint->scheduler, model->sampler, ASDM_SCHEDULE_DEFAULT, a->steps,
                                      -1, &table, err));
    a->evaluations = table->row_count;
    free(table);
    a->row_count = a->prompt_count * a->evaluations * (a->guidance_scale > 1 ? 2 : 1);
    a->random_weights = model->checkpoint->layout == ASDM_LAYOUT_RANDOM;
    list_units(a, config);
    ASDM_TRY(asdm_unet_build(config, ASDM_PROMPT_TOKENS, &unet, err));
    asdm_unet_measure(unet.program, a->height / ASDM_PIXELS_PER_LATENT, a->width / ASDM_PIXELS_PER_LATENT,
                      model->backend->element_bytes, &a->full);
    asdm_program_destroy(&unet.program);
    return ASDM_OK;
}

enum asdm_status asdm_analysis_create(const struct asdm_model *model, const struct asdm_analyze_options *options,
                                      struct asdm_analysis **ret, struct asdm_error *err) {
    struct asdm_analysis *a = calloc(1, sizeof *a);
    if (!a)
        return asdm_analysis_no_memory(err);
    a->rows = options->rows;
    a->steps = options->steps;
    a->runs = options->runs;
    a->width = options->width;
    a->height = options->height;
    a->threads = options->threads;
    a->gri_window = options->gri_window;
    a->gri_pool = options->gri_pool;
    a->guidance_scale = options->guidance_scale;
    a->seed = options->seed;
    bool made = asdm_analysis_set_texts(a, model->checkpoint->path, asdm_model_device(model),
                                        asdm_model_dtype_name(model), asdm_sampler_name(model->sampler)) &&
                set_prompts(a, options->prompts, options->prompt_count);
    enum asdm_status status = made ? fill(a, model, err) : asdm_analysis_no_memory(err);
    if (status != ASDM_OK)
        asdm_analysis_destroy(&a);
    else
        *ret = a;
    return status;
}

enum asdm_status asdm_analysis_add(struct asdm_analysis *a, const struct asdm_trial *trial, struct asdm_error *err) {
    if (a->trial_count == a->trial_room) {
        int room = a->trial_room ? 2 * a->trial_room : 16;
        struct asdm_trial *grown = realloc(a->trials, (size_t)room * sizeof *grown);
        if (!grown)
            return asdm_analysis_no_memory(err);
        a->trials = grown;
        a->trial_room = room;
    }
    a->trials[a->trial_count++] = *trial;
    return ASDM_OK;
}

/* ---- asking */

void asdm_analysis_options(const struct asdm_analysis *a, struct asdm_analyze_options *ret) {
    *ret = (struct asdm_analyze_options){.prompts = (const char *const *)a->prompts,
                                         .prompt_count = a->prompt_count,
                                         .steps = a->steps,
                                         .rows = a->rows,
                                         .runs = a->runs,
                                         .width = a->width,
                                         .height = a->height,
                                         .threads = a->threads,
                                         .gri_window = a->gri_window,
                                         .gri_pool = a->gri_pool,
                                         .guidance_scale = a->guidance_scale,
                                         .seed = a->seed,
                                         .known = a};
}

const struct asdm_trial *asdm_analysis_trial(const struct asdm_analysis *a, unsigned removed) {
    for (int i = 0; i < a->trial_count; i++)
        if (a->trials[i].removed == removed)
            return &a->trials[i];
    return NULL;
}

double asdm_analysis_full_ms(const struct asdm_analysis *a) {
    double *numbers = calloc((size_t)a->trial_count + 1, sizeof *numbers), median = 0;
    for (int i = 0; numbers && i < a->trial_count; i++)
        numbers[i] = a->trials[i].full_ms;
    if (numbers && a->trial_count)
        median = asdm_spread_of(numbers, a->trial_count).quartiles[1];
    free(numbers);
    return median;
}

double asdm_analysis_saved_ms(const struct asdm_analysis *a, const struct asdm_trial *trial) {
    return asdm_analysis_full_ms(a) * (1 - trial->ms / trial->full_ms);
}

void asdm_analysis_names(const struct asdm_analysis *a, unsigned removed, char *text, size_t room) {
    asdm_units_names(a->units, a->unit_count, removed, ",", text, room);
}

static enum asdm_status differ(struct asdm_error *err, const char *what, const char *there, const char *here) {
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "is of another %s: %s, not %s", what, there, here);
}

static enum asdm_status differ_number(struct asdm_error *err, const char *what, double there, double here) {
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "is of another %s: %g, not %g", what, there, here);
}

static enum asdm_status same_model(const struct asdm_analysis *there, const struct asdm_model *model,
                                   uint64_t fingerprint, struct asdm_error *err) {
    struct asdm_analysis here = {
        .width = there->width, .height = there->height, .gri_window = there->gri_window, .gri_pool = there->gri_pool};
    const char *device = asdm_model_device(model), *dtype = asdm_model_dtype_name(model);
    if (there->fingerprint != fingerprint)
        return asdm_fail(err, ASDM_ERR_ARGUMENT,
                         "is of another model: its layers, weights, tokenizer or sampler are not these");
    if (strcmp(there->device, device) != 0)
        return differ(err, "device", there->device, device);
    if (strcmp(there->dtype, dtype) != 0)
        return differ(err, "data type", there->dtype, dtype);
    list_units(&here, &model->checkpoint->unet);
    if (there->unit_count != here.unit_count)
        return differ_number(err, "number of units", there->unit_count, here.unit_count);
    for (int i = 0; i < here.unit_count; i++)
        if (strcmp(there->units[i].name, here.units[i].name) != 0)
            return differ(err, "set of units", there->units[i].name, here.units[i].name);
    return ASDM_OK;
}

enum asdm_status asdm_analysis_same(const struct asdm_analysis *here, const struct asdm_analysis *there,
                                    const struct asdm_model *model, struct asdm_error *err) {
    const struct {
        const char *what;
        double there, here;
    } numbers[] = {{"number of steps", there->steps, here->steps},
                   {"number of rows", there->rows, here->rows},
                   {"number of timed runs", there->runs, here->runs},
                   {"width", there->width, here->width},
                   {"height", there->height, here->height},
                   {"number of threads", there->threads, here->threads},
                   {"window of global-regional attention", there->gri_window, here->gri_window},
                   {"pool of global-regional attention", there->gri_pool, here->gri_pool},
                   {"guidance scale", there->guidance_scale, here->guidance_scale},
                   {"number of prompts", there->prompt_count, here->prompt_count}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].there != numbers[i].here)
            return differ_number(err, numbers[i].what, numbers[i].there, numbers[i].here);
    if (there->seed != here->seed)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "is of another seed");
    for (int i = 0; i < here->prompt_count; i++)
        if (strcmp(here->prompts[i], there->prompts[i]) != 0)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "is of other prompts: \"%.60s\", not \"%.60s\"", there->prompts[i],
                             here->prompts[i]);
    return same_model(there, model, here->fingerprint, err);
}

enum asdm_status asdm_analysis_fits(const struct asdm_analysis *analysis, const struct asdm_model *model,
                                    struct asdm_error *err) {
    uint64_t fingerprint;
    ASDM_TRY(asdm_fingerprint(model, analysis->steps, analysis->prompts, analysis->prompt_count, &fingerprint, err));
    return same_model(analysis, model, fingerprint, err);
}
