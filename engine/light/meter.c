#include "light/meter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "run/predict.h"
#include "base/clock.h"

enum { WARM_UP = 2, DAMAGE_MAX = 1000000 };

/* ---- numbers */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, int count, double part) {
    double at = part * (count - 1);
    int below = (int)at, above = below + 1 < count ? below + 1 : below;
    return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

struct asdm_spread asdm_spread_of(double *numbers, int count) {
    double sum = 0, squares = 0;
    qsort(numbers, (size_t)count, sizeof *numbers, ascending);
    for (int i = 0; i < count; i++)
        sum += numbers[i];
    double mean = sum / count;
    for (int i = 0; i < count; i++)
        squares += (numbers[i] - mean) * (numbers[i] - mean);
    return (struct asdm_spread){
        .mean = mean,
        .deviation = sqrt(squares / count),
        .min = numbers[0],
        .quartiles = {quantile(numbers, count, 0.25), quantile(numbers, count, 0.5), quantile(numbers, count, 0.75)},
        .max = numbers[count - 1]};
}

/* |light - full| / |full|; at most DAMAGE_MAX, which stands for an overflow, too. */
static double relative_change(const float *light, const float *full, size_t count) {
    double change = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        double d = (double)light[i] - (double)full[i];
        change += d * d;
        norm += (double)full[i] * (double)full[i];
    }
    double damage = change == 0 ? 0 : sqrt(change / norm);
    return damage <= DAMAGE_MAX ? damage : DAMAGE_MAX; /* no number compares as less */
}

/* ---- probes */

static void probe_done(struct asdm_probe *probe) {
    for (int i = 0; i < ASDM_TAPS_MAX; i++)
        free(probe->taps[i]);
    free(probe->prompt_slots);
    asdm_state_done(&probe->state);
    asdm_light_unet_done(&probe->student);
    *probe = (struct asdm_probe){0};
}

static enum asdm_status bind_taps(struct asdm_probe *probe, int rows, struct asdm_error *err) {
    struct asdm_plan *plan = asdm_step_plan_inner(probe->plan);
    for (int i = 0; i < probe->student.tap_count; i++) {
        int value = probe->student.taps[i].value;
        size_t bytes = asdm_plan_row_bytes(plan, value);
        probe->tap_count[i] = bytes / sizeof(float);
        probe->taps[i] = malloc((size_t)rows * bytes);
        if (!probe->taps[i])
            return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the results of blocks");
        asdm_plan_bind(plan, value, probe->taps[i]);
    }
    return ASDM_OK;
}

static enum asdm_status fill_probe(const struct asdm_meter *meter, struct asdm_probe *probe, struct asdm_error *err) {
    const struct asdm_calibration *c = &meter->calibration;
    struct asdm_denoiser *denoiser = &probe->student.denoiser;
    probe->prompt_slots = calloc((size_t)c->prompt_count + 1, sizeof *probe->prompt_slots);
    if (!probe->prompt_slots)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a light UNet");
    ASDM_TRY(asdm_denoiser_plan(denoiser, meter->options->rows, c->height, c->width, &probe->plan, err));
    ASDM_TRY(asdm_denoiser_add_timesteps(denoiser, c->timesteps, c->evaluations, &probe->timestep_first, err));
    for (int i = 0; i <= c->prompt_count; i++)
        ASDM_TRY(
            asdm_denoiser_add_prompt(denoiser, c->embeds + (size_t)i * c->embed_count, &probe->prompt_slots[i], err));
    return bind_taps(probe, meter->options->rows, err);
}

static enum asdm_status probe_create(const struct asdm_meter *meter, unsigned removed, bool tapped,
                                     struct asdm_probe *ret, struct asdm_error *err) {
    struct asdm_probe probe = {0};
    ASDM_TRY(asdm_light_unet_create(meter->model, meter->units, meter->unit_count, removed, meter->calibration.height,
                                    meter->calibration.width, tapped, &probe.student, err));
    enum asdm_status status = fill_probe(meter, &probe, err);
    if (status != ASDM_OK)
        probe_done(&probe);
    else
        *ret = probe;
    return status;
}

/* One call, on the calibration's rows from `first` on; past the last they start over. Into meter->predictions. */
static enum asdm_status call(struct asdm_meter *meter, struct asdm_probe *probe, int first, struct asdm_error *err) {
    enum { ROWS_MAX = 64 };
    int32_t prompt_slots[ROWS_MAX], timestep_slots[ROWS_MAX];
    int rows = meter->options->rows;
    size_t count = meter->calibration.count;
    ASDM_ASSERT(rows <= ROWS_MAX);
    for (int i = 0; i < rows; i++) {
        const float *latents;
        int prompt, timestep;
        asdm_calibration_row(&meter->calibration, (first + i) % meter->total, &latents, &prompt, &timestep);
        memcpy(meter->latents + (size_t)i * count, latents, count * sizeof *latents);
        prompt_slots[i] = probe->prompt_slots[prompt];
        timestep_slots[i] = probe->timestep_first + timestep;
    }
    return asdm_predict(&probe->student.denoiser, &probe->state, rows, meter->calibration.height,
                        meter->calibration.width, meter->latents, prompt_slots, timestep_slots, meter->predictions,
                        err);
}

static enum asdm_status report(const struct asdm_meter *meter, const char *what, int done, int total,
                               struct asdm_error *err) {
    struct asdm_analyze_progress progress = {.what = what, .done = done, .total = total};
    return meter->options->progress(meter->options->user, &progress)
               ? ASDM_OK
               : asdm_fail(err, ASDM_ERR_CANCELLED, "interrupted");
}

/* ---- damage */

/* The rows of the last call that are new, `first` being its first. */
static int fresh_rows(const struct asdm_meter *meter, int first) {
    int left = meter->total - first;
    return left < meter->options->rows ? left : meter->options->rows;
}

static void add_damage(struct asdm_meter *meter, int first, double *damage) {
    size_t count = meter->calibration.count;
    for (int i = 0; i < fresh_rows(meter, first); i++)
        damage[first + i] =
            relative_change(meter->predictions + (size_t)i * count, meter->wanted + (size_t)(first + i) * count, count);
}

/* Blocks of the light UNet, numbered as its taps: damage[tap][row]. */
static void add_block_damage(struct asdm_meter *meter, const struct asdm_probe *light, int first, double *damage) {
    const struct asdm_probe *full = &meter->full_tapped;
    for (int t = 0; t < light->student.tap_count; t++) {
        const struct asdm_tap *tap = asdm_light_unet_tap(&full->student, light->student.taps[t].name);
        ASDM_ASSERT(tap);
        ptrdiff_t other = tap - full->student.taps;
        size_t count = light->tap_count[t];
        ASDM_ASSERT(count == full->tap_count[other]);
        for (int i = 0; i < fresh_rows(meter, first); i++)
            damage[t * meter->total + first + i] =
                relative_change(light->taps[t] + (size_t)i * count, full->taps[other] + (size_t)i * count, count);
    }
}

/* `block_damage` NULL: of the predictions alone. */
static enum asdm_status measure_damage(struct asdm_meter *meter, struct asdm_probe *probe, const char *what,
                                       double *block_damage, struct asdm_error *err) {
    for (int first = 0; first < meter->total; first += meter->options->rows) {
        ASDM_TRY(report(meter, what, first, meter->total + 2 * meter->options->runs, err));
        if (block_damage)
            ASDM_TRY(call(meter, &meter->full_tapped, first, err));
        ASDM_TRY(call(meter, probe, first, err));
        add_damage(meter, first, meter->numbers);
        if (block_damage)
            add_block_damage(meter, probe, first, block_damage);
    }
    return ASDM_OK;
}

static enum asdm_status measure_blocks(struct asdm_meter *meter, unsigned removed, const char *what,
                                       struct asdm_trial *ret, struct asdm_error *err) {
    struct asdm_probe probe;
    if (!meter->full_tapped.plan)
        ASDM_TRY(probe_create(meter, 0, true, &meter->full_tapped, err));
    ASDM_TRY(probe_create(meter, removed, true, &probe, err));
    double *damage = calloc((size_t)probe.student.tap_count * (size_t)meter->total, sizeof *damage);
    enum asdm_status status = damage ? measure_damage(meter, &probe, what, damage, err)
                                     : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the damage of blocks");
    for (int t = 0; t < probe.student.tap_count && status == ASDM_OK; t++) {
        struct asdm_block_damage *block = &ret->blocks[ret->block_count++];
        snprintf(block->name, sizeof block->name, "%s", probe.student.taps[t].name);
        block->damage = asdm_spread_of(damage + (size_t)t * (size_t)meter->total, meter->total);
    }
    free(damage);
    probe_done(&probe);
    return status;
}

/* ---- time */

static double median(double *numbers, int count) {
    return asdm_spread_of(numbers, count).quartiles[1];
}

/* In turns, each going first every other time, so that a machine that becomes slower or faster does so for both. Where
 * others use the machine, the ratio of two neighbouring calls says more than the difference of two medians: a call is
 * slow when its neighbour is. */
static enum asdm_status measure_time(struct asdm_meter *meter, struct asdm_probe *probe, const char *what,
                                     struct asdm_trial *ret, struct asdm_error *err) {
    int runs = meter->options->runs;
    double *whole = meter->numbers, *ratios = meter->numbers + runs, seconds[2];
    struct asdm_probe *probes[2] = {&meter->full, probe};
    for (int i = -WARM_UP; i < runs; i++) {
        if (i >= 0)
            ASDM_TRY(report(meter, what, meter->total + 2 * i, meter->total + 2 * runs, err));
        for (int k = 0; k < 2; k++) {
            int which = (k + i) & 1;
            double start = asdm_clock_seconds();
            ASDM_TRY(call(meter, probes[which], 0, err));
            seconds[which] = asdm_clock_seconds() - start;
        }
        if (i >= 0) {
            whole[i] = seconds[0];
            ratios[i] = seconds[1] / seconds[0];
        }
    }
    ret->full_ms = median(whole, runs) * 1e3;
    ret->ms = ret->full_ms * median(ratios, runs);
    return ASDM_OK;
}

enum asdm_status asdm_meter_measure(struct asdm_meter *meter, unsigned removed, bool blocks, struct asdm_trial *ret,
                                    struct asdm_error *err) {
    struct asdm_trial trial = {.removed = removed};
    struct asdm_probe probe;
    char what[256];
    asdm_units_names(meter->units, meter->unit_count, removed, "+", what, sizeof what);
    ASDM_TRY(probe_create(meter, removed, false, &probe, err));
    trial.size = probe.student.size;
    enum asdm_status status = blocks ? measure_blocks(meter, removed, what, &trial, err) : ASDM_OK;
    if (status == ASDM_OK) /* of the program that is timed; that with its blocks' results may round otherwise */
        status = measure_damage(meter, &probe, what, NULL, err);
    if (status == ASDM_OK) {
        trial.damage = asdm_spread_of(meter->numbers, meter->total);
        status = measure_time(meter, &probe, what, &trial, err);
    }
    probe_done(&probe);
    if (status == ASDM_OK)
        *ret = trial;
    return status;
}

/* ---- life */

static enum asdm_status fill_meter(struct asdm_meter *meter, struct asdm_error *err) {
    const struct asdm_analyze_options *o = meter->options;
    ASDM_TRY(asdm_calibration_create(meter->model, o, &meter->calibration, err));
    size_t count = meter->calibration.count;
    meter->total = asdm_calibration_rows(&meter->calibration);
    size_t numbers = (size_t)(meter->total > 2 * o->runs ? meter->total : 2 * o->runs);
    meter->wanted = calloc((size_t)meter->total * count, sizeof *meter->wanted);
    meter->latents = calloc((size_t)o->rows * count, sizeof *meter->latents);
    meter->predictions = calloc((size_t)o->rows * count, sizeof *meter->predictions);
    meter->numbers = calloc(numbers, sizeof *meter->numbers);
    if (!meter->wanted || !meter->latents || !meter->predictions || !meter->numbers)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for %d rows of latents", meter->total);
    ASDM_TRY(probe_create(meter, 0, false, &meter->full, err));
    for (int first = 0; first < meter->total; first += o->rows) {
        ASDM_TRY(report(meter, "the whole UNet", first, meter->total, err));
        ASDM_TRY(call(meter, &meter->full, first, err));
        memcpy(meter->wanted + (size_t)first * count, meter->predictions,
               (size_t)fresh_rows(meter, first) * count * sizeof(float));
    }
    return ASDM_OK;
}

enum asdm_status asdm_meter_create(struct asdm_model *model, const struct asdm_analyze_options *options,
                                   const struct asdm_unit *units, int unit_count, struct asdm_meter *ret,
                                   struct asdm_error *err) {
    *ret = (struct asdm_meter){.model = model, .options = options, .units = units, .unit_count = unit_count};
    enum asdm_status status = fill_meter(ret, err);
    if (status != ASDM_OK)
        asdm_meter_done(ret);
    return status;
}

void asdm_meter_done(struct asdm_meter *meter) {
    probe_done(&meter->full);
    probe_done(&meter->full_tapped);
    asdm_calibration_done(&meter->calibration);
    free(meter->wanted);
    free(meter->latents);
    free(meter->predictions);
    free(meter->numbers);
    *meter = (struct asdm_meter){0};
}
