/* Pictures in flight. A picture is a slot: latents, history, prompts, timesteps, a sampler table and a place in it. A step
 * takes every picture that has a row of its table left, puts the rows of pictures of one size together into calls of the
 * UNet, then guides and updates each picture by its own row of coefficients. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/resize.h"
#include "base/rng.h"
#include "run/request.h"

enum { PROMPT_BYTES_MAX = 1 << 20, ROWS_PER_PICTURE = 2, GUIDED = 0, PLAIN = 1 /* prompts of a picture */ };

struct picture {
    uint64_t id; /* 0: the slot is free */
    struct asdm_order order;
    struct asdm_sampler_table *table;
    struct asdm_rng rng;
    double guidance_scale;
    int next;                       /* row of the table */
    int prompt_slots[2];            /* the prompt's, the negative prompt's (ASDM_NONE: not guided) */
    int timestep_first;             /* slot of the table's first row */
    size_t count;                   /* numbers of the latents */
    float *memory;                  /* all that follow */
    size_t memory_bytes;
    float *latents, *noise, *input, *predictions; /* [count], ..., [2][count]: negative, then prompt */
    float *history[ASDM_SAMPLER_HISTORY_MAX];
    size_t prompt_tokens;
};

struct asdm_batch {
    struct asdm_model *model;
    int picture_max;
    uint64_t last_id;
    struct picture *pictures; /* [picture_max] */
    /* One call's rows, gathered. */
    float *rows_in, *rows_out;
    size_t rows_bytes;
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

static void drop_picture(struct asdm_batch *batch, struct picture *picture) {
    struct asdm_denoiser *denoiser = &batch->model->denoiser;
    for (int i = 0; i < 2; i++)
        if (picture->prompt_slots[i] != ASDM_NONE)
            asdm_denoiser_drop_prompt(denoiser, picture->prompt_slots[i]);
    if (picture->timestep_first != ASDM_NONE)
        asdm_denoiser_drop_timesteps(denoiser, picture->timestep_first, picture->table->row_count);
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
    asdm_memory_unmap(b->rows_in, b->rows_bytes);
    asdm_memory_unmap(b->rows_out, b->rows_bytes);
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

/* At least `bytes`; contents are lost when it grows. */
static enum asdm_status ensure(void **memory, size_t *have, size_t bytes, const char *what, struct asdm_error *err) {
    if (*have >= bytes)
        return ASDM_OK;
    asdm_memory_unmap(*memory, *have);
    *memory = NULL;
    *have = 0;
    ASDM_TRY(asdm_memory_map(bytes, what, memory, err));
    *have = bytes;
    return ASDM_OK;
}

/* Token ids, embeddings, then everything of the UNet that depends on the prompt alone. */
static enum asdm_status add_prompt(struct asdm_batch *batch, const char *name, const char *text, int *ret_slot,
                                   size_t *ret_tokens, struct asdm_error *err) {
    struct asdm_model *model = batch->model;
    int32_t ids[ASDM_PROMPT_TOKENS];
    text = text ? text : "";
    if (!model->tokenizer)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: a model with random weights has no tokenizer", name);
    size_t length = strlen(text);
    if (length > PROMPT_BYTES_MAX)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: must be at most %d bytes, is %zu", name, PROMPT_BYTES_MAX, length);
    enum asdm_status status = asdm_tokenizer_encode(model->tokenizer, text, length, ids, ASDM_PROMPT_TOKENS, ret_tokens, err);
    if (status != ASDM_OK)
        return asdm_fail_context(err, status, "%s", name);
    float *embeds = malloc((size_t)ASDM_PROMPT_TOKENS * (size_t)model->text.width * sizeof *embeds);
    if (!embeds)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the %s", name);
    status = asdm_text_encode(&model->text, ids, embeds, err);
    if (status == ASDM_OK)
        status = asdm_denoiser_add_prompt(&model->denoiser, embeds, ret_slot, err);
    free(embeds);
    return status;
}

static enum asdm_status add_prompts(struct asdm_batch *batch, struct picture *picture, const struct asdm_request *request,
                                    struct asdm_error *err) {
    ASDM_TRY(add_prompt(batch, "prompt", request->prompt, &picture->prompt_slots[GUIDED], &picture->prompt_tokens, err));
    if (!picture->order.guided)
        return ASDM_OK;
    return add_prompt(batch, "negative prompt", request->negative_prompt, &picture->prompt_slots[PLAIN], NULL, err);
}

static enum asdm_status add_timesteps(struct asdm_batch *batch, struct picture *picture, struct asdm_error *err) {
    int count = picture->table->row_count;
    if (count == 0) /* strength 0: nothing to do */
        return ASDM_OK;
    float *timesteps = malloc((size_t)count * sizeof *timesteps);
    if (!timesteps)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for %d steps", count);
    for (int i = 0; i < count; i++)
        timesteps[i] = (float)picture->table->rows[i].timestep;
    enum asdm_status status =
        asdm_denoiser_add_timesteps(&batch->model->denoiser, timesteps, count, &picture->timestep_first, err);
    free(timesteps);
    return status;
}

/* The picture's own arrays, in one piece. */
static enum asdm_status allocate(struct picture *picture, struct asdm_error *err) {
    size_t arrays = 5 + (size_t)picture->table->history_count;
    picture->memory_bytes = arrays * picture->count * sizeof(float);
    void *memory;
    ASDM_TRY(asdm_memory_map(picture->memory_bytes, "a picture of this size", &memory, err));
    float *at = picture->memory = memory;
    picture->latents = at;
    picture->noise = at += picture->count;
    picture->input = at += picture->count;
    picture->predictions = at += picture->count;
    at += picture->count;
    for (int i = 0; i < picture->table->history_count; i++)
        picture->history[i] = at += picture->count;
    return ASDM_OK;
}

/* The init image's latents, into `latents`. Draws from the picture's generator first, as diffusers does. */
static enum asdm_status encode_image(struct asdm_batch *batch, struct picture *picture, const struct asdm_request *request,
                                     struct asdm_error *err) {
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
static enum asdm_status start_latents(struct asdm_batch *batch, struct picture *picture, const struct asdm_request *request,
                                      struct asdm_error *err) {
    const struct asdm_sampler_table *table = picture->table;
    if (request->init_rgb)
        ASDM_TRY(encode_image(batch, picture, request, err));
    asdm_rng_normal(&picture->rng, picture->noise, picture->count);
    for (size_t i = 0; i < picture->count; i++)
        picture->latents[i] = (float)(table->start_image * picture->latents[i] + table->start_noise * picture->noise[i]);
    return ASDM_OK;
}

/* Plans and memory for the size: refused before anything is computed. */
static enum asdm_status prepare_size(struct asdm_batch *batch, const struct asdm_order *order, bool encodes,
                                     struct asdm_error *err) {
    struct asdm_model *model = batch->model;
    struct asdm_step_plan *plan;
    size_t latents = (size_t)ASDM_LATENT_CHANNELS * (size_t)order->height * (size_t)order->width;
    size_t rows = (size_t)batch->picture_max * ROWS_PER_PICTURE;
    size_t pixels = 3 * (size_t)order->height * (size_t)order->width * ASDM_PIXELS_PER_LATENT * ASDM_PIXELS_PER_LATENT;
    ASDM_TRY(asdm_denoiser_plan(&model->denoiser, order->guided ? 2 : 1, order->height, order->width, &plan, err));
    ASDM_TRY(asdm_autoencoder_prepare_decode(&model->autoencoder, order->height, order->width, err));
    if (encodes)
        ASDM_TRY(asdm_autoencoder_prepare_encode(&model->autoencoder, order->height, order->width, err));
    size_t rows_out_bytes = batch->rows_bytes;
    ASDM_TRY(ensure((void **)&batch->rows_in, &batch->rows_bytes, rows * latents * sizeof(float), "a batch", err));
    ASDM_TRY(ensure((void **)&batch->rows_out, &rows_out_bytes, rows * latents * sizeof(float), "a batch", err));
    ASDM_TRY(ensure((void **)&batch->rgb, &batch->rgb_bytes, pixels, "a picture of this size", err));
    ASDM_TRY(ensure((void **)&batch->pixels, &batch->pixels_bytes, pixels * sizeof(float), "a picture of this size", err));
    return ensure((void **)&batch->latents, &batch->latents_bytes, latents * sizeof(float), "a picture of this size", err);
}

static enum asdm_status fill_picture(struct asdm_batch *batch, struct picture *picture, const struct asdm_request *request,
                                     struct asdm_error *err) {
    const struct asdm_order *order = &picture->order;
    ASDM_TRY(asdm_sampler_table_build(&batch->model->checkpoint->scheduler, order->sampler, order->schedule, order->steps,
                                      order->strength, &picture->table, err));
    ASDM_TRY(prepare_size(batch, order, request->init_rgb != NULL, err));
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
                                .prompt_slots = {ASDM_NONE, ASDM_NONE},
                                .timestep_first = ASDM_NONE,
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

/* The rows of running pictures of one size: negative prompt first, as diffusers has them. */
static int gather(struct asdm_batch *batch, int height, int width) {
    int rows = 0;
    for (int i = 0; i < batch->picture_max; i++) {
        struct picture *picture = &batch->pictures[i];
        if (!is_running(picture) || picture->order.height != height || picture->order.width != width)
            continue;
        const struct asdm_sampler_row *row = &picture->table->rows[picture->next];
        for (size_t k = 0; k < picture->count; k++)
            picture->input[k] = (float)(row->input_scale * picture->latents[k]);
        for (int r = 0; r < rows_of(picture); r++, rows++) {
            memcpy(batch->rows_in + (size_t)rows * picture->count, picture->input, picture->count * sizeof(float));
            batch->prompt_slots[rows] = picture->prompt_slots[rows_of(picture) == 2 && r == 0 ? PLAIN : GUIDED];
            batch->timestep_slots[rows] = picture->timestep_first + picture->next;
        }
    }
    return rows;
}

/* All gathered rows through the UNet, in calls of the sizes that plans are made for. */
static enum asdm_status predict(struct asdm_batch *batch, int rows, int height, int width, struct asdm_error *err) {
    struct asdm_denoiser *denoiser = &batch->model->denoiser;
    size_t count = (size_t)ASDM_LATENT_CHANNELS * (size_t)height * (size_t)width;
    for (int done = 0; done < rows;) {
        struct asdm_step_plan *plan;
        int taken = asdm_denoiser_rows(rows - done);
        ASDM_TRY(asdm_denoiser_plan(denoiser, taken, height, width, &plan, err));
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
            picture->predictions[i] = plain[i] + scale * (guided[i] - plain[i]);
        model = picture->predictions;
    }
    if (row->draws_noise)
        asdm_rng_normal(&picture->rng, picture->noise, picture->count);
    asdm_sampler_row_apply(row, picture->table->history_count, picture->latents, picture->history, model, picture->noise,
                           picture->count);
    picture->next++;
}

/* One evaluation for all running pictures of one size; they are marked by `stepped`, the step's number. */
static enum asdm_status step_size(struct asdm_batch *batch, int height, int width, struct asdm_error *err) {
    int rows = gather(batch, height, width), row = 0;
    ASDM_TRY(predict(batch, rows, height, width, err));
    for (int i = 0; i < batch->picture_max; i++) {
        struct picture *picture = &batch->pictures[i];
        if (!is_running(picture) || picture->order.height != height || picture->order.width != width)
            continue;
        int own = rows_of(picture);
        update(picture, batch->rows_out + (size_t)row * picture->count);
        row += own;
    }
    return ASDM_OK;
}

/* Whether an earlier picture has the same size, so that its group was stepped already. */
static bool is_grouped(const struct asdm_batch *batch, int index) {
    const struct asdm_order *order = &batch->pictures[index].order;
    for (int i = 0; i < index; i++)
        if (batch->pictures[i].id && batch->pictures[i].order.height == order->height &&
            batch->pictures[i].order.width == order->width)
            return true;
    return false;
}

static bool group_runs(const struct asdm_batch *batch, const struct asdm_order *order) {
    for (int i = 0; i < batch->picture_max; i++)
        if (is_running(&batch->pictures[i]) && batch->pictures[i].order.height == order->height &&
            batch->pictures[i].order.width == order->width)
            return true;
    return false;
}

enum asdm_status asdm_batch_step(struct asdm_batch *batch, bool *ret_worked, struct asdm_error *err) {
    bool worked = false;
    for (int i = 0; i < batch->picture_max; i++) {
        const struct asdm_order *order = &batch->pictures[i].order;
        if (!batch->pictures[i].id || is_grouped(batch, i) || !group_runs(batch, order))
            continue;
        ASDM_TRY(step_size(batch, order->height, order->width, err));
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
