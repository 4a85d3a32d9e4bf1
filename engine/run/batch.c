/* Pictures in flight. A picture is a slot: latents, history, prompts, timesteps, a sampler table and a place in it. A
 * step takes every picture that has a row of its table left, puts the rows of pictures of one size (and precision)
 * together into calls of the UNet, then guides and updates each picture by its own row of coefficients. */
#include <stdlib.h>
#include <string.h>

#include "asdm_limits.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/resize.h"
#include "base/rng.h"
#include "run/request.h"

enum { ROWS_PER_PICTURE = 2, GUIDED = 0, PLAIN = 1 /* prompts of a picture */ };

struct picture {
    uint64_t id; /* 0: the slot is free */
    struct asdm_order order;
    struct asdm_sampler_table *table;
    struct asdm_rng rng;
    double guidance_scale;
    int next;      /* row of the table */
    int fine_rows; /* the table's first rows run in fine precision */
    /* By precision, ASDM_NONE where there is none: the prompt's slot and the negative prompt's, and that of the first
     * of its timesteps. */
    int prompt_slots[ASDM_PRECISION_COUNT][2];
    int timestep_first[ASDM_PRECISION_COUNT];
    size_t count;  /* numbers of the latents */
    float *memory; /* all that follow */
    size_t memory_bytes;
    float *latents, *noise, *input, *prediction; /* [count] each; input: scaled for the UNet, prediction: guided */
    float *history[ASDM_SAMPLER_HISTORY_MAX];
    size_t prompt_tokens;
    bool due; /* within a step: not evaluated yet */
};

struct asdm_batch {
    struct asdm_model *model;
    int picture_max;
    uint64_t last_id;
    struct picture *pictures; /* [picture_max] */
    /* One call's rows, gathered. */
    float *rows_in, *rows_out;
    size_t rows_in_bytes, rows_out_bytes;
    int32_t *prompt_slots, *timestep_slots;
    /* The picture that was handed out last. */
    uint8_t *rgb;
    float *pixels, *latents;
    size_t rgb_bytes, pixels_bytes, latents_bytes;
};

/* ---- life */

enum asdm_status asdm_batch_create(struct asdm_model *model, int pictures_max, struct asdm_batch **ret,
                                   struct asdm_error *err) {
    ASDM_ASSERT(pictures_max > 0);
    struct asdm_batch *batch = calloc(1, sizeof *batch);
    size_t rows = (size_t)pictures_max * ROWS_PER_PICTURE;
    if (batch) {
        batch->model = model;
        batch->picture_max = pictures_max;
        batch->pictures = calloc((size_t)pictures_max, sizeof *batch->pictures);
        batch->prompt_slots = calloc(rows, sizeof *batch->prompt_slots);
        batch->timestep_slots = calloc(rows, sizeof *batch->timestep_slots);
    }
    if (!batch || !batch->pictures || !batch->prompt_slots || !batch->timestep_slots) {
        asdm_batch_destroy(&batch);
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a batch of %d pictures", pictures_max);
    }
    *ret = batch;
    return ASDM_OK;
}

/* Rows of a picture's table that run in a precision, and the first of them. */
static int table_rows(const struct picture *picture, enum asdm_precision precision) {
    return precision == ASDM_PRECISION_FINE ? picture->fine_rows : picture->table->row_count - picture->fine_rows;
}

static int table_first(const struct picture *picture, enum asdm_precision precision) {
    return precision == ASDM_PRECISION_FINE ? 0 : picture->fine_rows;
}

static void drop_picture(struct asdm_batch *batch, struct picture *picture) {
    for (int p = 0; p < ASDM_PRECISION_COUNT; p++) {
        struct asdm_denoiser *denoiser = &batch->model->denoisers[p];
        for (int i = 0; i < 2; i++)
            if (picture->prompt_slots[p][i] != ASDM_NONE)
                asdm_denoiser_drop_prompt(denoiser, picture->prompt_slots[p][i]);
        if (picture->timestep_first[p] != ASDM_NONE)
            asdm_denoiser_drop_timesteps(denoiser, picture->timestep_first[p], table_rows(picture, p));
    }
    asdm_memory_unmap(picture->memory, picture->memory_bytes);
    free(picture->table);
    *picture = (struct picture){0};
}

void asdm_batch_destroy(struct asdm_batch **batch) {
    struct asdm_batch *b = *batch;
    if (!b)
        return;
    for (int i = 0; b->pictures && i < b->picture_max; i++)
        if (b->pictures[i].id)
            drop_picture(b, &b->pictures[i]);
    asdm_memory_unmap(b->rows_in, b->rows_in_bytes);
    asdm_memory_unmap(b->rows_out, b->rows_out_bytes);
    asdm_memory_unmap(b->rgb, b->rgb_bytes);
    asdm_memory_unmap(b->pixels, b->pixels_bytes);
    asdm_memory_unmap(b->latents, b->latents_bytes);
    free(b->prompt_slots);
    free(b->timestep_slots);
    free(b->pictures);
    free(b);
    *batch = NULL;
}

static struct picture *find_picture(const struct asdm_batch *batch, uint64_t id) {
    for (int i = 0; i < batch->picture_max; i++)
        if (batch->pictures[i].id == id)
            return &batch->pictures[i];
    return NULL;
}

void asdm_batch_cancel(struct asdm_batch *batch, uint64_t id) {
    struct picture *picture = id ? find_picture(batch, id) : NULL;
    if (picture)
        drop_picture(batch, picture);
}

bool asdm_batch_progress(const struct asdm_batch *batch, uint64_t id, int *ret_done, int *ret_total) {
    const struct picture *picture = id ? find_picture(batch, id) : NULL;
    if (!picture)
        return false;
    int last = picture->table->row_count;
    *ret_total = picture->table->step_count;
    *ret_done = picture->next < last ? picture->table->rows[picture->next].step : *ret_total;
    return true;
}

/* ---- submitting */

/* At least `bytes`; contents are lost when it grows. On failure what was is still there, for the pictures that use it.
 */
static enum asdm_status ensure(void **memory, size_t *have, size_t bytes, const char *what, struct asdm_error *err) {
    void *larger;
    if (*have >= bytes)
        return ASDM_OK;
    ASDM_TRY(asdm_memory_map(bytes, what, &larger, err));
    asdm_memory_unmap(*memory, *have);
    *memory = larger;
    *have = bytes;
    return ASDM_OK;
}

/* Token ids, embeddings, then everything of the UNet that depends on the prompt alone: prompt `which` of the picture.
 */
static enum asdm_status add_prompt(struct asdm_batch *batch, struct picture *picture, int which, const char *name,
                                   const char *text, size_t *ret_tokens, struct asdm_error *err) {
    struct asdm_model *model = batch->model;
    int32_t ids[ASDM_PROMPT_TOKENS];
    text = text ? text : "";
    size_t length = strlen(text);
    if (length > ASDM_LIMIT_PROMPT_BYTES)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: must be at most %d bytes, is %zu", name, ASDM_LIMIT_PROMPT_BYTES,
                         length);
    enum asdm_status status =
        asdm_tokenizer_encode(model->tokenizer, text, length, ids, ASDM_PROMPT_TOKENS, ret_tokens, err);
    if (status != ASDM_OK)
        return asdm_fail_context(err, status, "%s", name);
    float *embeds = malloc((size_t)ASDM_PROMPT_TOKENS * (size_t)model->text.width * sizeof *embeds);
    if (!embeds)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the %s", name);
    status = asdm_text_encode(&model->text, ids, embeds, err);
    for (int p = 0; p < ASDM_PRECISION_COUNT && status == ASDM_OK; p++)
        if (table_rows(picture, p))
            status = asdm_denoiser_add_prompt(&model->denoisers[p], embeds, &picture->prompt_slots[p][which], err);
    free(embeds);
    return status;
}

static enum asdm_status add_prompts(struct asdm_batch *batch, struct picture *picture,
                                    const struct asdm_request *request, struct asdm_error *err) {
    ASDM_TRY(add_prompt(batch, picture, GUIDED, "prompt", request->prompt, &picture->prompt_tokens, err));
    if (!picture->order.guided)
        return ASDM_OK;
    return add_prompt(batch, picture, PLAIN, "negative prompt", request->negative_prompt, NULL, err);
}

static enum asdm_status add_timesteps(struct asdm_batch *batch, struct picture *picture, struct asdm_error *err) {
    float timesteps[2 * ASDM_LIMIT_STEPS + 8];
    ASDM_ASSERT((size_t)picture->table->row_count <= sizeof timesteps / sizeof *timesteps);
    for (int i = 0; i < picture->table->row_count; i++)
        timesteps[i] = (float)picture->table->rows[i].timestep;
    for (int p = 0; p < ASDM_PRECISION_COUNT; p++)
        if (table_rows(picture, p))
            ASDM_TRY(asdm_denoiser_add_timesteps(&batch->model->denoisers[p], timesteps + table_first(picture, p),
                                                 table_rows(picture, p), &picture->timestep_first[p], err));
    return ASDM_OK;
}

/* How many of the first evaluations are noisy enough for fine precision, where the model has it. */
static int count_fine_rows(const struct asdm_model *model, const struct asdm_sampler_table *table) {
    double limit = model->checkpoint->scheduler.train_steps * (ASDM_LIMIT_FINE_TIMESTEP_PERCENT / 100.0);
    int rows = 0;
    while (model->fine && rows < table->row_count && table->rows[rows].timestep >= limit)
        rows++;
    return rows;
}

/* The picture's own arrays, in one piece. */
static enum asdm_status allocate(struct picture *picture, struct asdm_error *err) {
    size_t arrays = 4 + (size_t)picture->table->history_count;
    picture->memory_bytes = arrays * picture->count * sizeof(float);
    void *memory;
    ASDM_TRY(asdm_memory_map(picture->memory_bytes, "a picture of this size", &memory, err));
    float *at = picture->memory = memory;
    picture->latents = at;
    picture->noise = at += picture->count;
    picture->input = at += picture->count;
    picture->prediction = at += picture->count;
    for (int i = 0; i < picture->table->history_count; i++)
        picture->history[i] = at += picture->count;
    return ASDM_OK;
}

/* The init image's latents, into `latents`. Draws from the picture's generator first, as diffusers does. */
static enum asdm_status encode_image(struct asdm_batch *batch, struct picture *picture,
                                     const struct asdm_request *request, struct asdm_error *err) {
    struct asdm_autoencoder *vae = &batch->model->autoencoder;
    int height = picture->order.height, width = picture->order.width;
    size_t numbers = 3 * picture->count / ASDM_LATENT_CHANNELS * ASDM_PIXELS_PER_LATENT * ASDM_PIXELS_PER_LATENT;
    uint8_t *rgb = malloc(numbers);
    float *pixels = malloc(numbers * sizeof *pixels), *moments = malloc(2 * picture->count * sizeof *moments);
    enum asdm_status status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the init image");
    if (rgb && pixels && moments)
        status = asdm_resize_rgb(request->init_rgb, request->init_width, request->init_height, rgb,
                                 width * ASDM_PIXELS_PER_LATENT, height * ASDM_PIXELS_PER_LATENT, err);
    if (status == ASDM_OK) {
        asdm_pixels_from_bytes(rgb, pixels, numbers);
        status = asdm_autoencoder_encode(vae, pixels, height, width, moments, err);
    }
    if (status == ASDM_OK)
        asdm_autoencoder_sample(vae, moments, &picture->rng, picture->noise, picture->latents, picture->count);
    free(rgb);
    free(pixels);
    free(moments);
    return status;
}

/* start_image * image + start_noise * noise */
static enum asdm_status start_latents(struct asdm_batch *batch, struct picture *picture,
                                      const struct asdm_request *request, struct asdm_error *err) {
    const struct asdm_sampler_table *table = picture->table;
    if (request->init_rgb)
        ASDM_TRY(encode_image(batch, picture, request, err));
    asdm_rng_normal(&picture->rng, picture->noise, picture->count);
    for (size_t i = 0; i < picture->count; i++)
        picture->latents[i] =
            (float)(table->start_image * picture->latents[i] + table->start_noise * picture->noise[i]);
    return ASDM_OK;
}

/* The UNet and the decoder, before either costs anything. */
static enum asdm_status check_size(const struct asdm_model *model, const struct asdm_order *order,
                                   struct asdm_error *err) {
    const struct asdm_denoiser *denoiser = &model->denoisers[ASDM_PRECISION_MAIN];
    ASDM_TRY(asdm_plan_check(denoiser->unet.program, model->backend, ASDM_RATE_STEP, order->guided ? 2 : 1,
                             order->height, order->width, err));
    return asdm_plan_check(model->autoencoder.decoder.program, model->backend, ASDM_RATE_STEP, 1, order->height,
                           order->width, err);
}

/* Plans and memory for the size: refused before anything is computed. */
static enum asdm_status prepare_size(struct asdm_batch *batch, const struct picture *picture, bool encodes,
                                     struct asdm_error *err) {
    const struct asdm_order *order = &picture->order;
    struct asdm_model *model = batch->model;
    size_t latents = (size_t)ASDM_LATENT_CHANNELS * (size_t)order->height * (size_t)order->width;
    size_t rows = (size_t)batch->picture_max * ROWS_PER_PICTURE;
    size_t pixels = 3 * (size_t)order->height * (size_t)order->width * ASDM_PIXELS_PER_LATENT * ASDM_PIXELS_PER_LATENT;
    ASDM_TRY(check_size(model, order, err));
    for (int p = 0; p < ASDM_PRECISION_COUNT; p++) {
        struct asdm_step_plan *plan;
        if (table_rows(picture, p))
            ASDM_TRY(asdm_denoiser_plan(&model->denoisers[p], order->guided ? 2 : 1, order->height, order->width, &plan,
                                        err));
    }
    ASDM_TRY(asdm_autoencoder_prepare_decode(&model->autoencoder, order->height, order->width, err));
    if (encodes)
        ASDM_TRY(asdm_autoencoder_prepare_encode(&model->autoencoder, order->height, order->width, err));
    ASDM_TRY(ensure((void **)&batch->rows_in, &batch->rows_in_bytes, rows * latents * sizeof(float), "a batch", err));
    ASDM_TRY(ensure((void **)&batch->rows_out, &batch->rows_out_bytes, rows * latents * sizeof(float), "a batch", err));
    ASDM_TRY(ensure((void **)&batch->rgb, &batch->rgb_bytes, pixels, "a picture of this size", err));
    ASDM_TRY(
        ensure((void **)&batch->pixels, &batch->pixels_bytes, pixels * sizeof(float), "a picture of this size", err));
    return ensure((void **)&batch->latents, &batch->latents_bytes, latents * sizeof(float), "a picture of this size",
                  err);
}

static enum asdm_status fill_picture(struct asdm_batch *batch, struct picture *picture,
                                     const struct asdm_request *request, struct asdm_error *err) {
    const struct asdm_order *order = &picture->order;
    ASDM_TRY(asdm_sampler_table_build(&batch->model->checkpoint->scheduler, order->sampler, order->schedule,
                                      order->steps, order->strength, &picture->table, err));
    picture->fine_rows = count_fine_rows(batch->model, picture->table);
    ASDM_TRY(prepare_size(batch, picture, request->init_rgb != NULL, err));
    ASDM_TRY(allocate(picture, err));
    ASDM_TRY(add_prompts(batch, picture, request, err));
    ASDM_TRY(add_timesteps(batch, picture, err));
    return start_latents(batch, picture, request, err);
}

enum asdm_status asdm_batch_submit(struct asdm_batch *batch, const struct asdm_request *request, uint64_t *ret_id,
                                   struct asdm_error *err) {
    struct picture *picture = find_picture(batch, 0);
    struct asdm_order order;
    ASDM_TRY(asdm_order_resolve(batch->model, request, &order, err));
    if (!picture)
        return asdm_fail(err, ASDM_ERR_MEMORY, "the batch is full: %d pictures", batch->picture_max);
    *picture = (struct picture){.order = order,
                                .guidance_scale = request->guidance_scale,
                                .prompt_slots = {{ASDM_NONE, ASDM_NONE}, {ASDM_NONE, ASDM_NONE}},
                                .timestep_first = {ASDM_NONE, ASDM_NONE},
                                .count = (size_t)ASDM_LATENT_CHANNELS * (size_t)order.height * (size_t)order.width};
    asdm_rng_init(&picture->rng, request->rng == ASDM_REQUEST_TORCH ? ASDM_RNG_TORCH : ASDM_RNG_PHILOX, request->seed);
    enum asdm_status status = fill_picture(batch, picture, request, err);
    if (status != ASDM_OK) {
        drop_picture(batch, picture);
        return status;
    }
    *ret_id = picture->id = ++batch->last_id;
    return ASDM_OK;
}

/* ---- stepping */

static bool is_running(const struct picture *picture) {
    return picture->id && picture->next < picture->table->row_count;
}

static int rows_of(const struct picture *picture) {
    return picture->order.guided ? 2 : 1;
}

/* Pictures whose rows go into one call: of one size, and in one precision at this step. */
struct group {
    int height, width;
    enum asdm_precision precision;
};

static struct group group_of(const struct picture *picture) {
    return (struct group){picture->order.height, picture->order.width,
                          picture->next < picture->fine_rows ? ASDM_PRECISION_FINE : ASDM_PRECISION_MAIN};
}

static bool is_in_group(const struct picture *picture, const struct group *group) {
    if (!is_running(picture))
        return false;
    struct group own = group_of(picture);
    return own.height == group->height && own.width == group->width && own.precision == group->precision;
}

/* A picture's rows: the negative prompt's first, as diffusers has them. Returns how many. */
static int gather_picture(struct asdm_batch *batch, struct picture *picture, const struct group *group, int first) {
    const struct asdm_sampler_row *row = &picture->table->rows[picture->next];
    int rows = rows_of(picture);
    for (size_t k = 0; k < picture->count; k++)
        picture->input[k] = (float)(row->input_scale * picture->latents[k]);
    for (int r = 0; r < rows; r++) {
        memcpy(batch->rows_in + (size_t)(first + r) * picture->count, picture->input, picture->count * sizeof(float));
        batch->prompt_slots[first + r] = picture->prompt_slots[group->precision][rows == 2 && r == 0 ? PLAIN : GUIDED];
        batch->timestep_slots[first + r] =
            picture->timestep_first[group->precision] + picture->next - table_first(picture, group->precision);
    }
    return rows;
}

/* All gathered rows through the UNet, in calls of the sizes that plans are made for. */
static enum asdm_status predict(struct asdm_batch *batch, const struct group *group, int rows, struct asdm_error *err) {
    struct asdm_denoiser *denoiser = &batch->model->denoisers[group->precision];
    size_t count = (size_t)ASDM_LATENT_CHANNELS * (size_t)group->height * (size_t)group->width;
    for (int done = 0; done < rows;) {
        struct asdm_step_plan *plan;
        int taken = asdm_denoiser_rows(rows - done);
        ASDM_TRY(asdm_denoiser_plan(denoiser, taken, group->height, group->width, &plan, err));
        asdm_denoiser_run(denoiser, plan, batch->rows_in + (size_t)done * count, batch->prompt_slots + done,
                          batch->timestep_slots + done, batch->rows_out + (size_t)done * count);
        done += taken;
    }
    return ASDM_OK;
}

/* Classifier-free guidance (Ho and Salimans 2022), then the sampler's row. */
static void update(struct picture *picture, const float *predictions) {
    const struct asdm_sampler_row *row = &picture->table->rows[picture->next];
    const float *model = predictions;
    if (picture->order.guided) {
        const float *plain = predictions, *guided = predictions + picture->count;
        float scale = (float)picture->guidance_scale;
        for (size_t i = 0; i < picture->count; i++)
            picture->prediction[i] = plain[i] + scale * (guided[i] - plain[i]);
        model = picture->prediction;
    }
    if (row->draws_noise)
        asdm_rng_normal(&picture->rng, picture->noise, picture->count);
    asdm_sampler_row_apply(row, picture->table->history_count, picture->latents, picture->history, model,
                           picture->noise, picture->count);
    picture->next++;
}

/* One evaluation for all pictures of the group that are marked; unmarks them. */
static enum asdm_status step_group(struct asdm_batch *batch, const struct group *group, struct asdm_error *err) {
    int rows = 0, row = 0;
    for (int i = 0; i < batch->picture_max; i++)
        if (batch->pictures[i].due && is_in_group(&batch->pictures[i], group))
            rows += gather_picture(batch, &batch->pictures[i], group, rows);
    ASDM_TRY(predict(batch, group, rows, err));
    for (int i = 0; i < batch->picture_max; i++) {
        struct picture *picture = &batch->pictures[i];
        if (!picture->due || !is_in_group(picture, group))
            continue;
        picture->due = false;
        update(picture, batch->rows_out + (size_t)row * picture->count);
        row += rows_of(picture);
    }
    return ASDM_OK;
}

enum asdm_status asdm_batch_step(struct asdm_batch *batch, bool *ret_worked, struct asdm_error *err) {
    bool worked = false;
    for (int i = 0; i < batch->picture_max; i++)
        batch->pictures[i].due = is_running(&batch->pictures[i]);
    for (int i = 0; i < batch->picture_max; i++) {
        if (!batch->pictures[i].due)
            continue;
        struct group group = group_of(&batch->pictures[i]);
        ASDM_TRY(step_group(batch, &group, err));
        worked = true;
    }
    if (ret_worked)
        *ret_worked = worked;
    return ASDM_OK;
}

/* ---- handing out */

enum asdm_status asdm_batch_poll(struct asdm_batch *batch, struct asdm_picture *ret, bool *ret_found,
                                 struct asdm_error *err) {
    struct picture *picture = NULL;
    for (int i = 0; i < batch->picture_max && !picture; i++)
        if (batch->pictures[i].id && !is_running(&batch->pictures[i]))
            picture = &batch->pictures[i];
    *ret_found = picture != NULL;
    if (!picture)
        return ASDM_OK;
    int height = picture->order.height, width = picture->order.width;
    size_t numbers = 3 * (size_t)height * (size_t)width * ASDM_PIXELS_PER_LATENT * ASDM_PIXELS_PER_LATENT;
    ASDM_TRY(asdm_autoencoder_decode(&batch->model->autoencoder, picture->latents, height, width, picture->noise,
                                     batch->pixels, err));
    asdm_pixels_to_bytes(batch->pixels, batch->rgb, numbers);
    memcpy(batch->latents, picture->latents, picture->count * sizeof(float));
    *ret = (struct asdm_picture){.id = picture->id,
                                 .width = width * ASDM_PIXELS_PER_LATENT,
                                 .height = height * ASDM_PIXELS_PER_LATENT,
                                 .rgb = batch->rgb,
                                 .latents = batch->latents,
                                 .prompt_tokens = picture->prompt_tokens};
    drop_picture(batch, picture);
    return ASDM_OK;
}
