#include "run/picture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/memory.h"
#include "base/resize.h"

/* ---- life */

/* Rows of a picture's table that run in a precision, and the first of them. */
static int table_rows(const struct asdm_flight *flight, enum asdm_precision precision) {
    return precision == ASDM_PRECISION_FINE ? flight->fine_rows : flight->table->row_count - flight->fine_rows;
}

static int table_first(const struct asdm_flight *flight, enum asdm_precision precision) {
    return precision == ASDM_PRECISION_FINE ? 0 : flight->fine_rows;
}

int asdm_flight_rows(const struct asdm_flight *flight) {
    return flight->order.guided ? 2 : 1;
}

enum asdm_precision asdm_flight_precision(const struct asdm_flight *flight) {
    return flight->next < flight->fine_rows ? ASDM_PRECISION_FINE : ASDM_PRECISION_MAIN;
}

int asdm_flight_chunks(const struct asdm_flight *flight) {
    return flight->prompts[ASDM_PICTURE_GUIDED].chunk_count;
}

void asdm_flight_drop(struct asdm_flight *flight, struct asdm_model *model, struct asdm_prompts *prompts) {
    for (int p = 0; p < ASDM_PRECISION_COUNT; p++)
        if (flight->timestep_first[p] != ASDM_NONE)
            asdm_denoiser_drop_timesteps(model->denoisers[p][asdm_flight_chunks(flight) - 1],
                                         flight->timestep_first[p]);
    for (int i = 0; i < ASDM_PICTURE_PROMPTS; i++) {
        if (flight->entries[i])
            asdm_prompts_give(prompts, flight->entries[i]);
        asdm_prompt_done(&flight->prompts[i]);
    }
    asdm_memory_unmap(flight->memory, flight->memory_bytes);
    free(flight->table);
    *flight = (struct asdm_flight){.phase = ASDM_PHASE_FREE};
}

void asdm_flight_fail(struct asdm_flight *flight, const struct asdm_error *err) {
    flight->phase = ASDM_PHASE_FINISHED;
    flight->status = err->status;
    flight->preview_due = flight->preview_done = false;
    snprintf(flight->message, sizeof flight->message, "%.255s", err->message);
}

/* ---- creating */

/* How many of the first evaluations are noisy enough for fine precision, where the model has it. */
static int count_fine_rows(const struct asdm_model *model, const struct asdm_sampler_table *table) {
    double limit = model->checkpoint->scheduler.train_steps * (ASDM_LIMIT_FINE_TIMESTEP_PERCENT / 100.0);
    int rows = 0;
    while (model->fine && rows < table->row_count && table->rows[rows].timestep >= limit)
        rows++;
    return rows;
}

static enum asdm_status tokenize(const struct asdm_model *model, struct asdm_flight *flight,
                                 const struct asdm_request *request, struct asdm_error *err) {
    const char *texts[ASDM_PICTURE_PROMPTS] = {request->prompt, request->negative_prompt};
    static const char *const names[ASDM_PICTURE_PROMPTS] = {"prompt", "negative prompt"};
    int count = flight->order.guided ? ASDM_PICTURE_PROMPTS : 1, chunks = 0;
    for (int i = 0; i < count; i++) {
        enum asdm_status status = asdm_prompt_encode(model->tokenizer, texts[i] ? texts[i] : "", request->syntax,
                                                     ASDM_LIMIT_PROMPT_CHUNKS, &flight->prompts[i], err);
        if (status != ASDM_OK)
            return asdm_fail_context(err, status, "%s", names[i]);
        chunks = flight->prompts[i].chunk_count > chunks ? flight->prompts[i].chunk_count : chunks;
    }
    for (int i = 0; i < count; i++) /* both rows go into one call */
        ASDM_TRY(asdm_prompt_pad(&flight->prompts[i], model->tokenizer, chunks, err));
    return ASDM_OK;
}

/* Refused before anything is computed: what the UNet or the decoder could not hold. */
static enum asdm_status check_size(const struct asdm_model *model, struct asdm_flight_sizes *sizes,
                                   const struct asdm_flight *flight, struct asdm_error *err) {
    struct asdm_flight_size size = {asdm_flight_rows(flight), flight->order.height, flight->order.width};
    for (int i = 0; i < ASDM_LIMIT_KNOWN_SIZES; i++) {
        const struct asdm_flight_size *known = &sizes->known[i];
        if (known->rows == size.rows && known->height == size.height && known->width == size.width)
            return ASDM_OK;
    }
    ASDM_TRY(asdm_plan_check(model->denoisers[ASDM_PRECISION_MAIN][0]->unet.program, model->backend, ASDM_RATE_STEP,
                             size.rows, size.height, size.width, NULL, err));
    ASDM_TRY(asdm_plan_check(model->autoencoder.decoder.program, model->backend, ASDM_RATE_STEP, 1, size.height,
                             size.width, NULL, err));
    sizes->known[sizes->next] = size;
    sizes->next = (sizes->next + 1) % ASDM_LIMIT_KNOWN_SIZES;
    return ASDM_OK;
}

/* Takes the next `bytes` of what is being divided; with a NULL base only counts. */
static void *carve(unsigned char *base, size_t *used, size_t bytes) {
    unsigned char *place = base ? base + *used : NULL;
    *used += (bytes + 63) / 64 * 64;
    return place;
}

static size_t divide(struct asdm_flight *flight, unsigned char *base, bool image, bool mask) {
    size_t used = 0, floats = flight->count * sizeof(float);
    size_t pixels = flight->count / ASDM_LATENT_CHANNELS * ASDM_PIXELS_PER_LATENT * ASDM_PIXELS_PER_LATENT;
    flight->rgb = carve(base, &used, 3 * pixels);
    flight->preview_rgb = carve(base, &used, 3 * pixels);
    if (image) {
        flight->pixels = carve(base, &used, 3 * pixels * sizeof(float));
        flight->moments = carve(base, &used, 2 * floats);
        flight->init_rgb = carve(base, &used, 3 * pixels);
    }
    if (mask)
        flight->pixel_mask = carve(base, &used, pixels);
    return used;
}

static enum asdm_status allocate(struct asdm_flight *flight, struct asdm_backend *backend, bool image, bool mask,
                                 struct asdm_error *err) {
    ASDM_TRY(asdm_state_fit(flight->state, backend, flight->count, flight->table->history_count, mask, err));
    flight->memory_bytes = divide(flight, NULL, image, mask);
    ASDM_TRY(asdm_memory_map(flight->memory_bytes, "a picture of this size", &flight->memory, err));
    divide(flight, flight->memory, image, mask);
    return ASDM_OK;
}

/* Mean of the mask over each cell of `dst_width` x `dst_height`, 0 .. 255. */
static void shrink_mask(const uint8_t *mask, int width, int height, float *dst, int dst_width, int dst_height) {
    for (int y = 0; y < dst_height; y++)
        for (int x = 0; x < dst_width; x++) {
            int64_t top = (int64_t)y * height / dst_height, bottom = (int64_t)(y + 1) * height / dst_height;
            int64_t left = (int64_t)x * width / dst_width, right = (int64_t)(x + 1) * width / dst_width;
            bottom = bottom > top ? bottom : top + 1;
            right = right > left ? right : left + 1;
            double sum = 0;
            for (int64_t v = top; v < bottom; v++)
                for (int64_t u = left; u < right; u++)
                    sum += mask[v * width + u];
            dst[y * dst_width + x] = (float)(sum / (double)((bottom - top) * (right - left)));
        }
}

/* A latent is redrawn when the mask covers at least half of it; a pixel likewise. */
static void read_mask(struct asdm_flight *flight, const struct asdm_request *request) {
    int width = flight->order.width, height = flight->order.height;
    size_t cells = (size_t)width * (size_t)height;
    float *mask = flight->state->host.mask;
    shrink_mask(request->mask, request->init_width, request->init_height, mask, width, height);
    for (size_t i = 0; i < cells; i++)
        mask[i] = mask[i] >= 127.5f;
    for (int y = 0; y < height * ASDM_PIXELS_PER_LATENT; y++)
        for (int x = 0; x < width * ASDM_PIXELS_PER_LATENT; x++) {
            int64_t v = (int64_t)y * request->init_height / (height * ASDM_PIXELS_PER_LATENT);
            int64_t u = (int64_t)x * request->init_width / (width * ASDM_PIXELS_PER_LATENT);
            flight->pixel_mask[(size_t)y * (size_t)width * ASDM_PIXELS_PER_LATENT + (size_t)x] =
                request->mask[v * request->init_width + u];
        }
}

static enum asdm_status read_image(struct asdm_flight *flight, const struct asdm_request *request,
                                   struct asdm_error *err) {
    int width = flight->order.width * ASDM_PIXELS_PER_LATENT, height = flight->order.height * ASDM_PIXELS_PER_LATENT;
    ASDM_TRY(asdm_resize_rgb(request->init_rgb, request->init_width, request->init_height, flight->init_rgb, width,
                             height, err));
    asdm_pixels_from_bytes(flight->init_rgb, flight->pixels, 3 * (size_t)width * (size_t)height);
    if (flight->pixel_mask)
        read_mask(flight, request);
    return ASDM_OK;
}

static enum asdm_status fill(struct asdm_model *model, struct asdm_flight_sizes *sizes,
                             const struct asdm_request *request, struct asdm_flight *flight, struct asdm_error *err) {
    const struct asdm_order *order = &flight->order;
    ASDM_TRY(asdm_sampler_table_build(&model->checkpoint->scheduler, order->sampler, order->schedule, order->steps,
                                      order->strength, &flight->table, err));
    flight->fine_rows = count_fine_rows(model, flight->table);
    ASDM_TRY(check_size(model, sizes, flight, err));
    ASDM_TRY(tokenize(model, flight, request, err));
    ASDM_TRY(allocate(flight, model->backend, request->init_rgb != NULL, request->init_rgb && request->mask, err));
    return request->init_rgb ? read_image(flight, request, err) : ASDM_OK;
}

enum asdm_status asdm_flight_create(struct asdm_model *model, struct asdm_flight_sizes *sizes, struct asdm_state *state,
                                    const struct asdm_request *request, uint64_t id, struct asdm_flight *ret,
                                    struct asdm_error *err) {
    struct asdm_order order;
    ASDM_TRY(asdm_order_resolve(model, request, &order, err));
    struct asdm_flight flight = {.id = id,
                                 .phase = ASDM_PHASE_TEXT,
                                 .order = order,
                                 .state = state,
                                 .guidance_scale = request->guidance_scale,
                                 .timestep_first = {ASDM_NONE, ASDM_NONE},
                                 .previews = request->previews,
                                 .count = (size_t)ASDM_LATENT_CHANNELS * (size_t)order.height * (size_t)order.width};
    asdm_rng_init(&flight.rng, request->rng == ASDM_REQUEST_TORCH ? ASDM_RNG_TORCH : ASDM_RNG_PHILOX, request->seed);
    enum asdm_status status = fill(model, sizes, request, &flight, err);
    if (status != ASDM_OK) {
        asdm_flight_drop(&flight, model, NULL);
        return status;
    }
    *ret = flight;
    return ASDM_OK;
}

/* ---- before the first step */

static enum asdm_status add_timesteps(struct asdm_flight *flight, struct asdm_model *model, struct asdm_error *err) {
    float timesteps[2 * ASDM_LIMIT_STEPS + 8];
    ASDM_ASSERT((size_t)flight->table->row_count <= sizeof timesteps / sizeof *timesteps);
    for (int i = 0; i < flight->table->row_count; i++)
        timesteps[i] = (float)flight->table->rows[i].timestep;
    for (int p = 0; p < ASDM_PRECISION_COUNT; p++) {
        struct asdm_denoiser *denoiser;
        if (!table_rows(flight, p))
            continue;
        ASDM_TRY(asdm_model_denoiser(model, (enum asdm_precision)p, asdm_flight_chunks(flight), &denoiser, err));
        ASDM_TRY(asdm_denoiser_add_timesteps(denoiser, timesteps + table_first(flight, p), table_rows(flight, p),
                                             &flight->timestep_first[p], err));
    }
    return ASDM_OK;
}

enum asdm_status asdm_flight_encode_text(struct asdm_flight *flight, struct asdm_model *model,
                                         struct asdm_prompts *prompts, struct asdm_error *err) {
    bool precisions[ASDM_PRECISION_COUNT];
    for (int p = 0; p < ASDM_PRECISION_COUNT; p++)
        precisions[p] = table_rows(flight, p) > 0;
    for (int i = 0; i < asdm_flight_rows(flight); i++)
        ASDM_TRY(asdm_prompts_take(prompts, &flight->prompts[i], precisions, &flight->entries[i], err));
    ASDM_TRY(add_timesteps(flight, model, err));
    if (!flight->pixels)
        return asdm_flight_start(flight, model, err);
    flight->phase = ASDM_PHASE_ENCODE;
    return ASDM_OK;
}

/* Where the mask keeps the image, the latents are the image's with the noise of the evaluation to come: with x the
 * latents, c the input's scale and e = p x + q m the clean latents as predicted, a model of epsilon has
 * x = (1 / p) e - (q / p) m; one of v has c x = alpha e + s noise with p = alpha c and q = -s. After the last
 * evaluation they are the image's alone. A sampler that predicts noise (p = 0) does without until then: false. */
static bool weigh_kept(const struct asdm_flight *flight, const struct asdm_model *model, int next, double *ret_image,
                       double *ret_noise) {
    bool v = model->checkpoint->scheduler.prediction == ASDM_PREDICT_V;
    *ret_image = 1;
    *ret_noise = 0;
    if (next >= flight->table->row_count)
        return true;
    const struct asdm_sampler_row *row = &flight->table->rows[next];
    double p = row->convert_latents, q = row->convert_model, c = row->input_scale;
    if (p <= 0)
        return false;
    *ret_image = v ? p / (c * c) : 1 / p;
    *ret_noise = v ? -q / c : -q / p;
    return true;
}

/* The noise of evaluation `next`, where it draws any, in diffusers' order: evaluation by evaluation. */
static void draw_noise(struct asdm_flight *flight, int next) {
    if (next < flight->table->row_count && flight->table->rows[next].draws_noise)
        asdm_rng_normal(&flight->rng, flight->state->noise[next % 2], flight->count);
}

/* Before the first evaluation, as after every other: see struct asdm_step_row. */
static void keep_image(const struct asdm_flight *flight, const struct asdm_model *model) {
    const struct asdm_state_planes *host = &flight->state->host;
    size_t cells = flight->count / ASDM_LATENT_CHANNELS;
    double image, noise;
    if (!weigh_kept(flight, model, 0, &image, &noise))
        return;
    for (size_t i = 0; i < flight->count; i++)
        if (host->mask[i % cells] == 0)
            host->latents[i] = (float)(image * host->image[i] + noise * host->image_noise[i]);
}

enum asdm_status asdm_flight_start(struct asdm_flight *flight, const struct asdm_model *model, struct asdm_error *err) {
    const struct asdm_sampler_table *table = flight->table;
    const struct asdm_state_planes *host = &flight->state->host;
    float *noise = flight->state->noise[0];
    if (flight->pixels) /* draws from the picture's generator first, as diffusers does */
        asdm_autoencoder_sample(&model->autoencoder, flight->moments, &flight->rng, noise, host->latents,
                                flight->count);
    asdm_rng_normal(&flight->rng, noise, flight->count);
    if (host->mask) {
        memcpy(host->image, host->latents, flight->count * sizeof(float));
        memcpy(host->image_noise, noise, flight->count * sizeof(float));
    }
    for (size_t i = 0; i < flight->count; i++)
        host->latents[i] = (float)(table->start_image * host->latents[i] + table->start_noise * noise[i]);
    if (host->mask && table->row_count)
        keep_image(flight, model);
    draw_noise(flight, 0);
    flight->phase = table->row_count ? ASDM_PHASE_READY : ASDM_PHASE_DECODE;
    return asdm_state_upload(flight->state, err);
}

/* ---- steps */

/* Whether one of the evenly spread previews falls on evaluation `done - 1`. */
static bool is_preview_step(const struct asdm_flight *flight, int done) {
    int total = flight->table->row_count, parts = flight->previews + 1;
    return flight->previews && done * parts / total > (done - 1) * parts / total && done < total;
}

void asdm_flight_fill_rows(struct asdm_flight *flight, const struct asdm_model *model, struct asdm_step_row *rows,
                           int32_t *prompt_slots, int32_t *timestep_slots) {
    const struct asdm_sampler_row *row = &flight->table->rows[flight->next];
    const struct asdm_state_planes *own = &flight->state->own;
    enum asdm_precision precision = asdm_flight_precision(flight);
    flight->preview_asked |= is_preview_step(flight, flight->next + 1);
    flight->clean_wanted = flight->preview_asked && !flight->preview_due && flight->next + 1 < flight->table->row_count;
    for (int r = 0; r < asdm_flight_rows(flight); r++) {
        bool plain = flight->order.guided && r == 0;
        rows[r] = (struct asdm_step_row){.row = *row,
                                         .latents = own->latents,
                                         .noise = row->draws_noise ? flight->state->noise[flight->next % 2] : NULL,
                                         .clean = flight->clean_wanted ? own->clean : NULL,
                                         .image = own->image,
                                         .image_noise = own->image_noise,
                                         .guidance_scale = (float)flight->guidance_scale,
                                         .part = !flight->order.guided ? ASDM_STEP_ALONE
                                                 : plain               ? ASDM_STEP_PLAIN
                                                                       : ASDM_STEP_GUIDED,
                                         .history_count = flight->table->history_count};
        memcpy(rows[r].history, own->history, sizeof own->history);
        if (own->mask && weigh_kept(flight, model, flight->next + 1, &rows[r].keep_image, &rows[r].keep_noise))
            rows[r].mask = own->mask;
        prompt_slots[r] =
            asdm_prompt_entry_slot(flight->entries[plain ? ASDM_PICTURE_PLAIN : ASDM_PICTURE_GUIDED], precision);
        timestep_slots[r] = flight->timestep_first[precision] + flight->next - table_first(flight, precision);
    }
}

void asdm_flight_draw_ahead(struct asdm_flight *flight) {
    draw_noise(flight, flight->next + 1);
}

void asdm_flight_advance(struct asdm_flight *flight) {
    flight->next++;
    if (flight->next == flight->table->row_count)
        flight->phase = ASDM_PHASE_DECODE;
    if (!flight->clean_wanted)
        return;
    flight->preview_asked = false;
    flight->preview_due = true;
    flight->clean_step = flight->table->rows[flight->next].step;
}

void asdm_flight_paste(struct asdm_flight *flight, uint8_t *rgb) {
    size_t pixels = flight->count / ASDM_LATENT_CHANNELS * ASDM_PIXELS_PER_LATENT * ASDM_PIXELS_PER_LATENT;
    for (size_t i = 0; flight->pixel_mask && i < pixels; i++)
        if (flight->pixel_mask[i] < 128)
            memcpy(rgb + 3 * i, flight->init_rgb + 3 * i, 3);
}
