#include "light/calibration.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "run/picture.h"

/* ---- one trajectory */

struct drawing {
    struct asdm_model *model;
    const struct asdm_analyze_options *options;
    struct asdm_calibration *c;
    struct asdm_prompts prompts;
    struct asdm_flight_sizes sizes;
    struct asdm_state state;
};

/* One evaluation; what the model was given goes to `input` [count]. */
static enum asdm_status step(struct drawing *d, struct asdm_flight *flight, float *input, struct asdm_error *err) {
    struct asdm_denoiser *denoiser;
    struct asdm_step_plan *plan;
    struct asdm_step_row rows[2];
    int32_t prompt_slots[2], timestep_slots[2];
    ASDM_TRY(asdm_model_denoiser(d->model, asdm_flight_precision(flight), 1, &denoiser, err));
    ASDM_TRY(asdm_denoiser_plan(denoiser, asdm_flight_rows(flight), d->c->height, d->c->width, &plan, err));
    asdm_flight_fill_rows(flight, d->model, rows, prompt_slots, timestep_slots);
    struct asdm_step_row given = rows[0];
    given.latents = d->state.host.latents; /* as started with, or as they came down with the evaluation before */
    asdm_step_input(&given, input, d->c->count);
    asdm_denoiser_start(denoiser, plan, rows, prompt_slots, timestep_slots);
    asdm_flight_draw_ahead(flight);
    ASDM_TRY(asdm_denoiser_finish(plan, err));
    asdm_flight_advance(flight);
    /* The evaluation may have run on the back end for fine precision, whose work the state's own does not wait for. */
    const struct asdm_device_class *device = d->state.backend->class->device;
    asdm_state_download(&d->state);
    return device ? device->finish(d->state.backend, err) : ASDM_OK;
}

/* The embeddings of the flight's prompts: what the denoisers of light UNets are given. */
static enum asdm_status embed(struct drawing *d, const struct asdm_flight *flight, int prompt, struct asdm_error *err) {
    struct asdm_calibration *c = d->c;
    struct asdm_text *text = &d->model->text;
    ASDM_TRY(asdm_text_encode(text, flight->prompts[ASDM_PICTURE_GUIDED].ids,
                              c->embeds + (size_t)prompt * c->embed_count, err));
    if (prompt > 0 || c->sides < 2)
        return ASDM_OK;
    return asdm_text_encode(text, flight->prompts[ASDM_PICTURE_PLAIN].ids,
                            c->embeds + (size_t)c->prompt_count * c->embed_count, err);
}

static enum asdm_status follow(struct drawing *d, struct asdm_flight *flight, int prompt, struct asdm_error *err) {
    struct asdm_calibration *c = d->c;
    ASDM_TRY(asdm_flight_encode_text(flight, d->model, &d->prompts, err));
    ASDM_TRY(embed(d, flight, prompt, err));
    for (int k = 0; k < c->evaluations; k++) {
        struct asdm_analyze_progress progress = {
            .what = "trajectories", .done = prompt * c->evaluations + k, .total = c->prompt_count * c->evaluations};
        if (!d->options->progress(d->options->user, &progress))
            return asdm_fail(err, ASDM_ERR_CANCELLED, "interrupted");
        ASDM_TRY(step(d, flight, c->latents + ((size_t)prompt * (size_t)c->evaluations + (size_t)k) * c->count, err));
    }
    return ASDM_OK;
}

static enum asdm_status draw(struct drawing *d, int prompt, struct asdm_error *err) {
    const struct asdm_analyze_options *o = d->options;
    struct asdm_request request;
    struct asdm_flight flight;
    asdm_request_init(&request);
    request.prompt = o->prompts[prompt];
    request.width = o->width;
    request.height = o->height;
    request.steps = o->steps;
    request.guidance_scale = o->guidance_scale;
    request.seed = o->seed + (uint64_t)prompt;
    ASDM_TRY(asdm_flight_create(d->model, &d->sizes, &d->state, &request, 1, &flight, err));
    enum asdm_status status = follow(d, &flight, prompt, err);
    asdm_flight_drop(&flight, d->model, &d->prompts);
    return status;
}

static enum asdm_status draw_all(struct asdm_model *model, const struct asdm_analyze_options *options,
                                 struct asdm_calibration *c, struct asdm_error *err) {
    struct drawing d = {.model = model, .options = options, .c = c};
    enum asdm_status status = ASDM_OK;
    asdm_prompts_init(&d.prompts, model);
    for (int i = 0; i < c->prompt_count && status == ASDM_OK; i++)
        status = draw(&d, i, err);
    asdm_state_done(&d.state);
    asdm_prompts_done(&d.prompts);
    return status;
}

/* ---- all together */

static void fill_random(struct asdm_calibration *c, uint64_t seed) {
    struct asdm_rng rng;
    asdm_rng_init(&rng, ASDM_RNG_PHILOX, seed);
    asdm_rng_normal(&rng, c->latents, (size_t)c->prompt_count * (size_t)c->evaluations * c->count);
    asdm_rng_normal(&rng, c->embeds, ((size_t)c->prompt_count + 1) * c->embed_count);
}

static enum asdm_status allocate(struct asdm_calibration *c, struct asdm_error *err) {
    size_t points = (size_t)c->prompt_count * (size_t)c->evaluations;
    c->latents = calloc(points * c->count, sizeof *c->latents);
    c->timesteps = calloc((size_t)c->evaluations, sizeof *c->timesteps);
    c->embeds = calloc(((size_t)c->prompt_count + 1) * c->embed_count, sizeof *c->embeds);
    return c->latents && c->timesteps && c->embeds
               ? ASDM_OK
               : asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the latents of %d prompts", c->prompt_count);
}

enum asdm_status asdm_calibration_create(struct asdm_model *model, const struct asdm_analyze_options *options,
                                         struct asdm_calibration *ret, struct asdm_error *err) {
    struct asdm_sampler_table *table;
    ASDM_TRY(asdm_sampler_table_build(&model->checkpoint->scheduler, model->sampler, ASDM_SCHEDULE_DEFAULT,
                                      options->steps, -1, &table, err));
    struct asdm_calibration c = {.prompt_count = options->prompt_count,
                                 .evaluations = table->row_count,
                                 .sides = options->guidance_scale > 1 ? 2 : 1,
                                 .height = options->height / ASDM_PIXELS_PER_LATENT,
                                 .width = options->width / ASDM_PIXELS_PER_LATENT};
    c.count = (size_t)ASDM_LATENT_CHANNELS * (size_t)c.height * (size_t)c.width;
    c.embed_count = (size_t)ASDM_PROMPT_TOKENS * (size_t)model->text.width;
    enum asdm_status status = allocate(&c, err);
    for (int k = 0; status == ASDM_OK && k < c.evaluations; k++)
        c.timesteps[k] = (float)table->rows[k].timestep;
    free(table);
    if (status == ASDM_OK && model->tokenizer)
        status = draw_all(model, options, &c, err);
    else if (status == ASDM_OK)
        fill_random(&c, options->seed);
    if (status != ASDM_OK)
        asdm_calibration_done(&c);
    else
        *ret = c;
    return status;
}

void asdm_calibration_done(struct asdm_calibration *c) {
    free(c->latents);
    free(c->timesteps);
    free(c->embeds);
    *c = (struct asdm_calibration){0};
}

int asdm_calibration_rows(const struct asdm_calibration *c) {
    return c->prompt_count * c->evaluations * c->sides;
}

void asdm_calibration_row(const struct asdm_calibration *c, int row, const float **ret_latents, int *ret_prompt,
                          int *ret_timestep) {
    int point = row / c->sides;
    bool empty = c->sides == 2 && row % 2 == 0;
    *ret_latents = c->latents + (size_t)point * c->count;
    *ret_prompt = empty ? c->prompt_count : point / c->evaluations;
    *ret_timestep = point % c->evaluations;
}

enum asdm_status asdm_calibration_write(const struct asdm_calibration *c, const char *path, struct asdm_error *err) {
    size_t points = (size_t)c->prompt_count * (size_t)c->evaluations, prompts = (size_t)c->prompt_count + 1;
    int64_t width = (int64_t)c->embed_count / ASDM_PROMPT_TOKENS;
    struct asdm_tensor tensors[] = {{"latents",
                                     ASDM_F32,
                                     4,
                                     {(int64_t)points, ASDM_LATENT_CHANNELS, c->height, c->width},
                                     c->latents,
                                     points * c->count,
                                     points * c->count * sizeof(float)},
                                    {"timesteps",
                                     ASDM_F32,
                                     1,
                                     {c->evaluations},
                                     c->timesteps,
                                     (size_t)c->evaluations,
                                     (size_t)c->evaluations * sizeof(float)},
                                    {"embeds",
                                     ASDM_F32,
                                     3,
                                     {(int64_t)prompts, ASDM_PROMPT_TOKENS, width},
                                     c->embeds,
                                     prompts * c->embed_count,
                                     prompts * c->embed_count * sizeof(float)}};
    return asdm_safetensors_write(path, tensors, sizeof tensors / sizeof *tensors, NULL, err);
}
