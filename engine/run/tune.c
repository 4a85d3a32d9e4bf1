/* Plan files: measuring what goes into one, and taking a model's choices out of one. */
#include <asdm/tune.h>

#include <stdio.h>

#include <asdm/bench.h>
#include <asdm/error.h>
#include "base/file.h"
#include "run/internal.h"

enum { LADDER_MAX = 16, LADDER_END = 1024 };

/* Whose choices this model's are. A device without measured choices has its name, and so no plan is its. */
static struct asdm_choices_key key_of(const struct asdm_model *model, struct asdm_machine *machine) {
    struct asdm_backend *backend = model->backend;
    *machine = (struct asdm_machine){0};
    snprintf(machine->gpu, sizeof machine->gpu, "device %s", backend->class->name);
    if (backend->class->device)
        backend->class->device->describe(backend, machine);
    return (struct asdm_choices_key){machine->gpu,
                                     machine->driver,
                                     machine->libraries,
                                     ASDM_VERSION,
                                     asdm_model_dtype_name(model),
                                     !backend->batch_dependent};
}

enum asdm_status asdm_model_read_plan(struct asdm_model *model, const char *path, struct asdm_error *err) {
    struct asdm_machine machine;
    struct asdm_choices_key key = key_of(model, &machine);
    char others[256];
    bool found;
    ASDM_TRY(asdm_choices_read(path, &key, &model->choices, &found, others, err));
    if (found)
        model->backend->choices = model->choices;
    else
        snprintf(model->note, sizeof model->note,
                 "%.200s: the built-in kernels are used: the file has no plan for %s, driver %s%s%s, asdm %s, %s, "
                 "batch-invariant %s; it has: %s",
                 path, key.gpu, *key.driver ? key.driver : "none", *key.libraries ? ", " : "", key.libraries,
                 key.version, key.dtype, key.batch_invariant ? "on" : "off", others);
    return ASDM_OK;
}

/* ---- tuning */

/* The numbers of rows that plans are made for. */
static int list_ladder(int *ret) {
    int count = 0;
    for (int rows = 1; rows <= LADDER_END && count < LADDER_MAX; rows++)
        if (asdm_denoiser_rows(rows) == rows)
            ret[count++] = rows;
    return count;
}

struct tuning {
    struct asdm_model *model;
    const struct asdm_tune_options *options;
    const struct asdm_tune_watch *watch;
};

/* Planning measures; the call itself only has the parts planned that are planned when first needed. */
static enum asdm_status measure(const struct tuning *t, enum asdm_bench_what what, const char *name, int rows,
                                struct asdm_error *err) {
    double seconds;
    if (t->watch->stop && t->watch->stop(t->watch->user))
        return asdm_fail(err, ASDM_ERR_CANCELLED, "stopped; nothing was written");
    if (t->watch->part)
        t->watch->part(t->watch->user, name, rows);
    return asdm_bench_run(t->model, what, rows, t->options->width, t->options->height, 1, &seconds, err);
}

static enum asdm_status measure_all(const struct tuning *t, struct asdm_error *err) {
    for (int i = 0; i < t->options->row_count; i++)
        ASDM_TRY(measure(t, ASDM_BENCH_UNET, "unet", asdm_denoiser_rows(t->options->rows[i]), err));
    ASDM_TRY(measure(t, ASDM_BENCH_TEXT, "text", 1, err));
    ASDM_TRY(measure(t, ASDM_BENCH_VAE_DECODE, "vae-decode", 1, err));
    return measure(t, ASDM_BENCH_VAE_ENCODE, "vae-encode", 1, err);
}

static void report(void *user, const struct asdm_choice *choice) {
    const struct tuning *t = user;
    struct asdm_tune_line line = {.operation = choice->operation,
                                  .implementation = choice->implementation,
                                  .built_in = choice->built_in,
                                  .rows = choice->rows,
                                  .candidates = choice->candidates,
                                  .us = choice->seconds * 1e6,
                                  .built_in_us = choice->built_in_seconds * 1e6};
    if (t->watch->line)
        t->watch->line(t->watch->user, &line);
}

static enum asdm_status choose_and_write(struct tuning *t, struct asdm_error *err) {
    struct asdm_machine machine;
    struct asdm_choices_key key = key_of(t->model, &machine);
    struct asdm_choices *choices;
    ASDM_TRY(asdm_choices_create(&choices, err));
    enum asdm_status status =
        asdm_measurements_choose(t->model->backend->measurements, key.batch_invariant, choices, report, t, err);
    if (status == ASDM_OK)
        status = asdm_choices_write(t->options->plan, &key, choices, err);
    asdm_choices_destroy(&choices);
    return status;
}

enum asdm_status asdm_tune_run(struct asdm_model *model, const struct asdm_tune_options *options,
                               const struct asdm_tune_watch *watch, struct asdm_error *err) {
    struct tuning tuning = {model, options, watch};
    int ladder[LADDER_MAX];
    ASDM_ASSERT(!model->backend->choices);
    if (!model->backend->class->device)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                         "device \"%s\" has no choices to measure: plan files are for device \"cuda\"",
                         model->backend->class->name);
    ASDM_TRY(asdm_file_check_writable(options->plan, err));
    ASDM_TRY(asdm_measurements_create(ladder, list_ladder(ladder), &model->backend->measurements, err));
    enum asdm_status status = measure_all(&tuning, err);
    if (status == ASDM_OK)
        status = choose_and_write(&tuning, err);
    asdm_measurements_destroy(&model->backend->measurements);
    return status;
}
