/* The analysis: which sets are measured, in which order, and what is kept of it. */
#include <asdm/analyze.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "asdm_limits.h"
#include <asdm/error.h>
#include "base/file.h"
#include "light/analysis.h"
#include "light/meter.h"
#include "light/search.h"
#include "model/light_config.h"

enum { ROWS_MAX = 64, RUNS_MAX = 100000 };

/* Things that any model of pictures knows something about. */
static const char *const default_prompts[] = {
    "a photo of a red house by a lake",         "a portrait of an old fisherman",
    "a bowl of fruit on a wooden table",        "a small boat on the sea at sunset",
    "a black cat sitting on a window sill",     "a street in the rain at night, neon signs",
    "an oil painting of mountains in the snow", "a bicycle leaning against a brick wall",
    "a white horse running in a green meadow",  "a detailed drawing of a steam engine",
    "a castle on a hill under a cloudy sky",    "a close-up of a flower with drops of dew"};

void asdm_analyze_options_init(struct asdm_analyze_options *options) {
    *options = (struct asdm_analyze_options){.prompts = default_prompts,
                                             .prompt_count = sizeof default_prompts / sizeof *default_prompts,
                                             .steps = 10,
                                             .rows = 2,
                                             .runs = 15,
                                             .guidance_scale = 7.5};
}

struct work {
    struct asdm_model *model;
    const struct asdm_analyze_options *asked;
    struct asdm_analyze_options options; /* with the size set, and progress through this */
    struct asdm_analysis *analysis;
    struct asdm_meter meter;
    bool has_meter;
    int trial_count; /* at most */
};

static bool tell(void *user, const struct asdm_analyze_progress *progress) {
    const struct work *work = user;
    struct asdm_analyze_progress whole = *progress;
    whole.trial = work->analysis->trial_count;
    whole.trial_count = whole.trial < work->trial_count ? work->trial_count : whole.trial + 1;
    return !work->asked->progress || work->asked->progress(work->asked->user, &whole);
}

/* ---- before anything is measured */

static enum asdm_status check_number(const char *name, double value, double min, double max, struct asdm_error *err) {
    if (value >= min && value <= max)
        return ASDM_OK;
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: must be from %g to %g, is %g", name, min, max, value);
}

/* What a picture of these options would be asked for. */
static enum asdm_status check_request(const struct work *work, struct asdm_error *err) {
    const struct asdm_analyze_options *o = &work->options;
    struct asdm_request request;
    asdm_request_init(&request);
    request.steps = o->steps;
    request.guidance_scale = o->guidance_scale;
    request.width = o->width;
    request.height = o->height;
    if (work->model->tokenizer)
        return asdm_request_check(work->model, &request, err);
    ASDM_TRY(check_number("steps", o->steps, 1, ASDM_LIMIT_STEPS, err));
    if (work->model->checkpoint->layout != ASDM_LAYOUT_RANDOM)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: has no tokenizer; give its directory (--tokenizer DIR)",
                         work->model->checkpoint->path);
    return ASDM_OK;
}

/* A model with conditional convolutions cannot be pruned further; one with global-regional attention keeps its window.
 */
static enum asdm_status resolve_gri(struct work *work, struct asdm_error *err) {
    const struct asdm_unet_config *config = &work->model->checkpoint->unet;
    struct asdm_analyze_options *o = &work->options;
    struct asdm_gri_config gri = config->gri;
    if (config->condconv.routing)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                         "%s: has conditional convolutions (asdm.condconv); analyze the model that it was made of",
                         work->model->checkpoint->path);
    o->gri_window = gri.window = o->gri_window ? o->gri_window : gri.window ? gri.window : ASDM_GRI_WINDOW;
    o->gri_pool = gri.pool = o->gri_pool ? o->gri_pool : gri.pool ? gri.pool : ASDM_GRI_POOL;
    return asdm_gri_check(&gri, "gri", err) == ASDM_OK ? ASDM_OK : asdm_fail_context(err, ASDM_ERR_ARGUMENT, "analyze");
}

static enum asdm_status resolve(struct work *work, struct asdm_error *err) {
    struct asdm_analyze_options *o = &work->options;
    int width, height;
    *o = *work->asked;
    o->progress = tell;
    o->user = work;
    asdm_model_default_size(work->model, &width, &height);
    o->width = o->width ? o->width : width;
    o->height = o->height ? o->height : height;
    ASDM_TRY(check_number("rows", o->rows, 1, ROWS_MAX, err));
    ASDM_TRY(check_number("runs", o->runs, 1, RUNS_MAX, err));
    ASDM_TRY(check_number("prompts", o->prompt_count, 1, ASDM_ANALYSIS_PROMPTS_MAX, err));
    ASDM_TRY(check_number("speed-up", o->target.speedup, 0, 1000, err));
    ASDM_TRY(check_number("budget", o->target.budget_ms, 0, 1e9, err));
    ASDM_TRY(resolve_gri(work, err));
    return check_request(work, err);
}

/* The trials of `there`, if they are of the same model and options. */
static enum asdm_status take_trials(struct work *work, const struct asdm_analysis *there, struct asdm_error *err) {
    ASDM_TRY(asdm_analysis_same(work->analysis, there, work->model, err));
    for (int i = 0; i < there->trial_count; i++)
        if (!asdm_analysis_trial(work->analysis, there->trials[i].removed))
            ASDM_TRY(asdm_analysis_add(work->analysis, &there->trials[i], err));
    work->analysis->reused = work->analysis->trial_count;
    return ASDM_OK;
}

/* Those that the file has from an earlier run. One of something else is an error, or with `force` forgotten. */
static enum asdm_status take_file(struct work *work, struct asdm_error *err) {
    const char *path = work->options.file;
    struct asdm_analysis *there = NULL;
    ASDM_TRY(asdm_file_check_writable(path, err));
    if (!asdm_file_exists(path))
        return ASDM_OK;
    enum asdm_status status = asdm_analysis_read(path, &there, err);
    if (status == ASDM_OK) {
        status = take_trials(work, there, err);
        if (status != ASDM_OK)
            asdm_fail_context(err, status, "%s", path);
    }
    asdm_analysis_destroy(&there);
    if (status == ASDM_OK || status == ASDM_ERR_MEMORY || work->options.force)
        return status == ASDM_ERR_MEMORY ? status : ASDM_OK;
    char reason[512];
    snprintf(reason, sizeof reason, "%.500s", err->message);
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s; --force replaces it", reason);
}

/* ---- trials */

static enum asdm_status open_meter(struct work *work, struct asdm_error *err) {
    if (work->has_meter)
        return ASDM_OK;
    ASDM_TRY(asdm_meter_create(work->model, &work->options, work->analysis->units, work->analysis->unit_count,
                               &work->meter, err));
    work->has_meter = true;
    return ASDM_OK;
}

static enum asdm_status measure(struct work *work, unsigned set, const struct asdm_trial **ret,
                                struct asdm_error *err) {
    struct asdm_trial trial;
    *ret = asdm_analysis_trial(work->analysis, set);
    if (*ret)
        return ASDM_OK;
    ASDM_TRY(open_meter(work, err));
    bool alone = (set & (set - 1)) == 0;
    ASDM_TRY(asdm_meter_measure(&work->meter, set, alone, &trial, err));
    ASDM_TRY(asdm_analysis_add(work->analysis, &trial, err));
    *ret = asdm_analysis_trial(work->analysis, set);
    return work->options.file ? asdm_analysis_write(work->analysis, work->options.file, false, err) : ASDM_OK;
}

static enum asdm_status cost_of(void *user, unsigned set, struct asdm_cost *ret, struct asdm_error *err) {
    const struct asdm_trial *trial;
    ASDM_TRY(measure(user, set, &trial, err));
    *ret = (struct asdm_cost){trial->damage.mean, trial->full_ms, trial->ms, (double)trial->size.parameters};
    return ASDM_OK;
}

static bool find_unit(const struct asdm_unit *units, int count, const char *name, int *ret) {
    for (*ret = 0; *ret < count; ++*ret)
        if (strcmp(units[*ret].name, name) == 0)
            return true;
    return false;
}

/* Stages where global-regional attention changes nothing are no part of any set. */
static enum asdm_status take_given(struct work *work, struct asdm_error *err) {
    struct asdm_analysis *a = work->analysis;
    for (const char *at = work->options.gri; at && *at;) {
        char name[sizeof a->units->name], *end;
        int unit;
        snprintf(name, sizeof name, "gri%ld", strtol(at, &end, 10));
        if (end == at || (*end && *end != ','))
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "gri: \"%.40s\" is not a list of heights of maps", at);
        if (find_unit(a->units, a->unit_count, name, &unit))
            a->given |= 1u << unit;
        else if (!find_unit(a->covered, a->covered_count, name, &unit))
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "gri: this model has no %s", name);
        at = end + (*end == ',');
    }
    return ASDM_OK;
}

static enum asdm_status search(struct work *work, struct asdm_error *err) {
    struct asdm_analysis *a = work->analysis;
    struct asdm_search search = {
        .unit_count = a->unit_count, .target = work->options.target, .measure = cost_of, .user = work};
    ASDM_TRY(take_given(work, err));
    search.given = a->given;
    unsigned *known = calloc((size_t)a->trial_count + 1, sizeof *known);
    if (!known)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a search");
    for (int i = 0; i < a->trial_count; i++)
        known[search.known_count++] = a->trials[i].removed;
    search.known = known;
    enum asdm_status status = asdm_search_run(&search, err);
    free(known);
    if (status != ASDM_OK)
        return status;
    memcpy(a->path, search.path, sizeof a->path);
    a->path_count = search.path_count;
    a->chosen = search.chosen;
    return ASDM_OK;
}

/* "a,b;c": each set between semicolons; how many in *ret_count. With `sets` NULL they are only counted. */
static enum asdm_status parse_sets(const struct work *work, unsigned *sets, int *ret_count, struct asdm_error *err) {
    int count = 0;
    for (const char *at = work->options.sets; at; count++) {
        size_t length = strcspn(at, ";");
        unsigned set;
        char *part = strndup(at, length);
        if (!part)
            return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a list of sets");
        enum asdm_status status =
            asdm_units_parse("sets", part, work->analysis->units, work->analysis->unit_count, &set, err);
        free(part);
        if (status == ASDM_OK && !set)
            status = asdm_fail(err, ASDM_ERR_ARGUMENT, "sets: must name at least one unit between two semicolons");
        if (status != ASDM_OK)
            return status;
        if (sets)
            sets[count] = set;
        at = at[length] ? at + length + 1 : NULL;
    }
    *ret_count = count;
    return ASDM_OK;
}

static enum asdm_status measure_sets(struct work *work, struct asdm_error *err) {
    int count;
    ASDM_TRY(parse_sets(work, NULL, &count, err));
    unsigned *sets = calloc((size_t)count, sizeof *sets);
    if (!sets)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a list of sets");
    enum asdm_status status = parse_sets(work, sets, &count, err);
    work->trial_count = work->analysis->trial_count + count;
    for (int i = 0; i < count && status == ASDM_OK; i++) {
        const struct asdm_trial *trial;
        status = measure(work, sets[i], &trial, err);
    }
    free(sets);
    return status;
}

static enum asdm_status run(struct work *work, struct asdm_error *err) {
    int units = work->analysis->unit_count;
    work->trial_count = units * (units + 1) / 2;
    if (asdm_target_is_set(&work->options.target)) /* rounds without large units, putting back, exchanging */
        work->trial_count = units < 8 ? (1 << units) - 1 : 1 + 3 * work->trial_count;
    if (work->options.known)
        ASDM_TRY(take_trials(work, work->options.known, err));
    if (work->options.file)
        ASDM_TRY(take_file(work, err));
    if (work->options.latents) {
        ASDM_TRY(asdm_file_check_writable(work->options.latents, err));
        ASDM_TRY(open_meter(work, err));
        ASDM_TRY(asdm_calibration_write(&work->meter.calibration, work->options.latents, err));
    }
    ASDM_TRY(work->options.sets ? measure_sets(work, err) : search(work, err));
    return work->options.file ? asdm_analysis_write(work->analysis, work->options.file, true, err) : ASDM_OK;
}

enum asdm_status asdm_analyze(struct asdm_model *model, const struct asdm_analyze_options *options,
                              struct asdm_analysis **ret, struct asdm_error *err) {
    struct work work = {.model = model, .asked = options};
    struct asdm_error ours; /* messages are built from it */
    err = err ? err : &ours;
    ASDM_TRY(resolve(&work, err));
    ASDM_TRY(asdm_analysis_create(model, &work.options, &work.analysis, err));
    enum asdm_status status = run(&work, err);
    if (work.has_meter)
        asdm_meter_done(&work.meter);
    if (status != ASDM_OK)
        asdm_analysis_destroy(&work.analysis);
    else
        *ret = work.analysis;
    return status;
}
