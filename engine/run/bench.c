/* Timing one part of a model on numbers drawn at random. */
#include <asdm/bench.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/clock.h"
#include "run/internal.h"

enum { WARM_UP = 2, SEED = 1 };

/* A call that is ready to be made. */
struct call {
    struct asdm_model *model;
    enum asdm_bench_what what;
    int rows, height, width; /* latents */
    float *in, *out, *scaled;
    int32_t *ids, *prompt_slots, *timestep_slots;
    struct asdm_step_plan *plan;
};

static void call_done(struct call *call) {
    free(call->in);
    free(call->out);
    free(call->scaled);
    free(call->ids);
    free(call->prompt_slots);
    free(call->timestep_slots);
}

static enum asdm_status prepare_unet(struct call *call, struct asdm_error *err) {
    struct asdm_denoiser *denoiser = call->model->denoisers[ASDM_PRECISION_MAIN][0];
    float timestep = 500;
    int first;
    ASDM_TRY(asdm_denoiser_plan(denoiser, call->rows, call->height, call->width, &call->plan, err));
    ASDM_TRY(asdm_denoiser_add_timesteps(denoiser, &timestep, 1, &first, err));
    for (int i = 0; i < call->rows; i++) {
        ASDM_TRY(asdm_denoiser_add_prompt(denoiser, call->in, &call->prompt_slots[i], err));
        call->timestep_slots[i] = first;
    }
    return ASDM_OK;
}

static enum asdm_status call_init(struct call *call, struct asdm_error *err) {
    size_t pixels = 3 * 64 * (size_t)call->height * (size_t)call->width;
    size_t latents = 8 * (size_t)call->height * (size_t)call->width;
    size_t embeds = (size_t)ASDM_PROMPT_TOKENS * (size_t)call->model->text.width;
    size_t room = (size_t)call->rows * (pixels > embeds ? pixels : embeds);
    call->in = calloc(room, sizeof *call->in);
    call->out = calloc(room, sizeof *call->out);
    call->scaled = calloc(latents, sizeof *call->scaled);
    call->ids = calloc(ASDM_PROMPT_TOKENS, sizeof *call->ids);
    call->prompt_slots = calloc((size_t)call->rows, sizeof *call->prompt_slots);
    call->timestep_slots = calloc((size_t)call->rows, sizeof *call->timestep_slots);
    if (!call->in || !call->out || !call->scaled || !call->ids || !call->prompt_slots || !call->timestep_slots)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a picture of this size");
    struct asdm_rng rng;
    asdm_rng_init(&rng, ASDM_RNG_PHILOX, SEED);
    asdm_rng_normal(&rng, call->in, room);
    if (call->what == ASDM_BENCH_UNET)
        return prepare_unet(call, err);
    return ASDM_OK;
}

static enum asdm_status make_call(struct call *call, struct asdm_error *err) {
    struct asdm_model *model = call->model;
    size_t latents = (size_t)ASDM_LATENT_CHANNELS * (size_t)call->height * (size_t)call->width, pixels = 48 * latents;
    if (call->what == ASDM_BENCH_UNET) {
        return asdm_denoiser_run(model->denoisers[ASDM_PRECISION_MAIN][0], call->plan, call->in, call->prompt_slots,
                                 call->timestep_slots, call->out, err);
    }
    for (size_t row = 0; row < (size_t)call->rows; row++) {
        struct asdm_plan *plan = NULL;
        if (call->what == ASDM_BENCH_TEXT)
            ASDM_TRY(asdm_text_encode(&model->text, call->ids, call->out, err));
        else if (call->what == ASDM_BENCH_VAE_DECODE)
            ASDM_TRY(asdm_autoencoder_begin_decode(&model->autoencoder, call->in + row * latents, call->height,
                                                   call->width, call->scaled, call->out + row * pixels, &plan, err));
        else
            ASDM_TRY(asdm_autoencoder_begin_encode(&model->autoencoder, call->in + row * pixels, call->height,
                                                   call->width, call->out + row * 2 * latents, &plan, err));
        if (plan)
            ASDM_TRY(asdm_plan_run(plan, err));
    }
    return ASDM_OK;
}

static enum asdm_status time_calls(struct call *call, int runs, double *ret_seconds, struct asdm_error *err) {
    for (int i = -WARM_UP; i < runs; i++) {
        double start = asdm_clock_seconds();
        ASDM_TRY(make_call(call, err));
        if (i >= 0)
            ret_seconds[i] = asdm_clock_seconds() - start;
    }
    return ASDM_OK;
}

static struct call call_of(struct asdm_model *model, enum asdm_bench_what what, int rows, int width, int height) {
    return (struct call){.model = model,
                         .what = what,
                         .rows = rows,
                         .height = height / ASDM_PIXELS_PER_LATENT,
                         .width = width / ASDM_PIXELS_PER_LATENT};
}

enum asdm_status asdm_bench_run(struct asdm_model *model, enum asdm_bench_what what, int rows, int width, int height,
                                int runs, double *ret_seconds, struct asdm_error *err) {
    struct call call = call_of(model, what, rows, width, height);
    enum asdm_status status = call_init(&call, err);
    if (status == ASDM_OK)
        status = time_calls(&call, runs, ret_seconds, err);
    call_done(&call);
    return status;
}

/* ---- profile */

struct profile {
    struct asdm_bench_line *lines;
    int room, count, height, width;
    size_t element_bytes;
};

static double numbers_of(const struct asdm_extent *extent) {
    return (double)extent->height * (double)extent->width * (double)extent->channels;
}

/* Bytes of one number of the operand: the caller's inputs and results are float32 (ids: int32). */
static double bytes_of_source(const struct profile *profile, const struct asdm_op *op) {
    return op->kind == ASDM_OP_IMPORT || op->kind == ASDM_OP_EMBEDDING || op->kind == ASDM_OP_TIMESTEP_EMBEDDING
               ? sizeof(float)
               : (double)profile->element_bytes;
}

static double weight_numbers(const struct asdm_site *site) {
    const struct asdm_op *op = site->op;
    if (op->kind == ASDM_OP_EMBEDDING) /* of its tables only the rows that are looked up */
        return 2 * site->rows * numbers_of(&site->out);
    double sum = 0;
    for (int i = 0; i < ASDM_PARTS_MAX; i++) {
        if (op->weight[i] != ASDM_NONE)
            sum += (double)asdm_weight_count(&site->program->weights[op->weight[i]]);
        if (op->bias[i] != ASDM_NONE)
            sum += (double)asdm_weight_count(&site->program->weights[op->bias[i]]);
    }
    return sum;
}

static double bytes_moved(const struct profile *profile, const struct asdm_site *site) {
    const struct asdm_op *op = site->op;
    double element = (double)profile->element_bytes, in = 0;
    for (int i = 0; i < ASDM_SRC_COUNT; i++)
        if (op->inputs[i] != ASDM_NONE)
            in += op->kind == ASDM_OP_ATTENTION
                      ? (double)(site->in[i].height * site->in[i].width) * op->heads * op->head_dim
                      : numbers_of(&site->in[i]);
    return site->rows * (in * bytes_of_source(profile, op) +
                         numbers_of(&site->out) * (op->kind == ASDM_OP_EXPORT ? sizeof(float) : element)) +
           weight_numbers(site) * element;
}

static double gmac_of(const struct profile *profile, const struct asdm_site *site) {
    return site->rows * asdm_program_op_step_macs(site->program, site->op, profile->height, profile->width) / 1e9;
}

static void describe_shape(const struct asdm_site *site, char *text, size_t room) {
    const struct asdm_op *op = site->op;
    const struct asdm_extent *in = &site->in[ASDM_SRC_X], *out = &site->out;
    int64_t inputs = in->channels + (op->inputs[ASDM_SRC_X2] != ASDM_NONE ? site->in[ASDM_SRC_X2].channels : 0);
    int64_t keys = site->in[ASDM_SRC_K].height * site->in[ASDM_SRC_K].width;
    switch (op->kind) {
    case ASDM_OP_CONV2D:
        snprintf(text, room, "%dx%d %d->%d k%d%s%s", (int)out->height, (int)out->width, (int)inputs, (int)out->channels,
                 op->kernel, op->stride == 2 ? " s2" : "", op->upsample ? " up" : "");
        break;
    case ASDM_OP_LINEAR:
        snprintf(text, room, "%d %d->%d%s", (int)(out->height * out->width), (int)inputs,
                 (int)out->channels * (op->geglu ? 2 : 1), op->geglu ? " geglu" : "");
        break;
    case ASDM_OP_ATTENTION:
        if (asdm_op_is_gri(op, out->height, out->width))
            snprintf(text, room, "%dx%d d%d h%d window %d/%d", (int)out->height, (int)out->width, op->head_dim,
                     op->heads, op->window, op->pool);
        else
            snprintf(text, room, "%dx%d d%d h%d", (int)(in->height * in->width), (int)keys, op->head_dim, op->heads);
        break;
    default:
        snprintf(text, room, "%dx%d %d", (int)out->height, (int)out->width, (int)out->channels);
    }
}

static struct asdm_bench_line *find_line(struct profile *profile, const char *op, const char *kernel,
                                         const char *shape) {
    for (int i = 0; i < profile->count; i++) {
        struct asdm_bench_line *line = &profile->lines[i];
        if (strcmp(line->op, op) == 0 && strcmp(line->kernel, kernel) == 0 && strcmp(line->shape, shape) == 0)
            return line;
    }
    if (profile->count == profile->room)
        return NULL;
    struct asdm_bench_line *line = &profile->lines[profile->count++];
    *line = (struct asdm_bench_line){0};
    snprintf(line->op, sizeof line->op, "%s", op);
    snprintf(line->kernel, sizeof line->kernel, "%s", kernel);
    snprintf(line->shape, sizeof line->shape, "%s", shape);
    return line;
}

static void add_to_profile(void *user, const struct asdm_site *site, const struct asdm_kernel *kernel, double seconds) {
    struct profile *profile = user;
    char shape[sizeof profile->lines->shape];
    describe_shape(site, shape, sizeof shape);
    struct asdm_bench_line *line = find_line(profile, asdm_op_kind_name(site->op->kind), kernel->name, shape);
    if (!line)
        return;
    line->count++;
    line->seconds += seconds;
    line->gmac += gmac_of(profile, site);
    line->bytes += bytes_moved(profile, site);
}

static int slowest_first(const void *a, const void *b) {
    double x = ((const struct asdm_bench_line *)a)->seconds, y = ((const struct asdm_bench_line *)b)->seconds;
    return (x < y) - (x > y);
}

static struct asdm_plan *plan_of(const struct call *call) {
    switch (call->what) {
    case ASDM_BENCH_UNET:
        return asdm_step_plan_inner(call->plan);
    case ASDM_BENCH_TEXT:
        return call->model->text.plan;
    case ASDM_BENCH_VAE_DECODE:
        return call->model->autoencoder.decodes[0].plan;
    default:
        return call->model->autoencoder.encodes[0].plan;
    }
}

enum asdm_status asdm_bench_profile(struct asdm_model *model, enum asdm_bench_what what, int rows, int width,
                                    int height, struct asdm_bench_line *lines, int room, int *ret_count,
                                    double *ret_whole_seconds, struct asdm_error *err) {
    struct call call = call_of(model, what, rows, width, height);
    struct profile profile = {lines, room, 0, call.height, call.width, model->backend->element_bytes};
    enum asdm_status status = call_init(&call, err);
    if (status == ASDM_OK)
        status = time_calls(&call, 0, NULL, err);
    if (status == ASDM_OK) {
        asdm_plan_profile(plan_of(&call), add_to_profile, &profile);
        *ret_whole_seconds = asdm_plan_device_seconds(plan_of(&call));
        qsort(lines, (size_t)profile.count, sizeof *lines, slowest_first);
        *ret_count = profile.count;
    }
    call_done(&call);
    return status;
}
