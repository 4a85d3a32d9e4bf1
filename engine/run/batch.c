/* Pictures in flight. A step takes every picture that has a row of its table left, puts the rows of pictures of one
 * size, precision and prompt length together into calls, and lets the denoiser do the rest: what a call does to each
 * picture is written beside its rows (sampler/step.h). No kernel lets one row's bits depend on the others, so neither
 * do a picture's. */
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/clock.h"
#include "base/memory.h"
#include "run/side.h"

/* Work beside the steps in one turn, when no step tells how long that may be. */
static const double SLICE_SECONDS = 0.05;

struct asdm_batch {
    struct asdm_model *model;
    int picture_max, rows_max;
    uint64_t last_id;
    struct asdm_flight *flights; /* [picture_max] */
    struct asdm_state *states;   /* [picture_max], by slot */
    struct asdm_flight_sizes sizes;
    struct asdm_prompts prompts;
    struct asdm_side side;
    double step_seconds;          /* of the last evaluation; 0: none yet */
    struct asdm_flight **members; /* [picture_max], of one group */
    /* One call's rows. */
    struct asdm_step_row *rows;
    int32_t *prompt_slots, *timestep_slots;
    struct asdm_flight *handed; /* given out by the last poll: leaves with the next call */
};

/* ---- life */

/* Every slot can take a picture of the model's own size without allocating. */
static enum asdm_status reserve_states(struct asdm_batch *batch, struct asdm_error *err) {
    const struct asdm_unet_config *unet = &batch->model->checkpoint->unet;
    size_t count = (size_t)ASDM_LATENT_CHANNELS * (size_t)unet->sample_width * (size_t)unet->sample_height;
    for (int i = 0; i < batch->picture_max; i++)
        ASDM_TRY(asdm_state_reserve(&batch->states[i], batch->model->backend, count, err));
    return ASDM_OK;
}

enum asdm_status asdm_batch_create(struct asdm_model *model, const struct asdm_batch_options *options,
                                   struct asdm_batch **ret, struct asdm_error *err) {
    ASDM_ASSERT(options->pictures_max > 0);
    struct asdm_batch *batch = calloc(1, sizeof *batch);
    size_t rows = 2 * (size_t)options->pictures_max;
    if (batch) {
        batch->model = model;
        batch->picture_max = options->pictures_max;
        batch->rows_max = options->rows_max ? options->rows_max : (int)rows;
        batch->flights = calloc((size_t)options->pictures_max, sizeof *batch->flights);
        batch->states = calloc((size_t)options->pictures_max, sizeof *batch->states);
        batch->members = calloc((size_t)options->pictures_max, sizeof(struct asdm_flight *));
        batch->rows = calloc(rows, sizeof *batch->rows);
        batch->prompt_slots = calloc(rows, sizeof *batch->prompt_slots);
        batch->timestep_slots = calloc(rows, sizeof *batch->timestep_slots);
    }
    if (!batch || !batch->flights || !batch->states || !batch->members || !batch->rows || !batch->prompt_slots ||
        !batch->timestep_slots) {
        asdm_batch_destroy(&batch);
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a batch of %d pictures", options->pictures_max);
    }
    enum asdm_status status = reserve_states(batch, err);
    if (status != ASDM_OK) {
        asdm_batch_destroy(&batch);
        return status;
    }
    asdm_prompts_init(&batch->prompts, model);
    batch->side = (struct asdm_side){
        .model = model, .prompts = &batch->prompts, .flights = batch->flights, .flight_count = batch->picture_max};
    *ret = batch;
    return ASDM_OK;
}

static void drop(struct asdm_batch *batch, struct asdm_flight *flight) {
    asdm_side_forget(&batch->side, flight);
    asdm_flight_drop(flight, batch->model, &batch->prompts);
    if (batch->handed == flight)
        batch->handed = NULL;
}

void asdm_batch_destroy(struct asdm_batch **batch) {
    struct asdm_batch *b = *batch;
    if (!b)
        return;
    for (int i = 0; b->flights && i < b->picture_max; i++)
        if (b->flights[i].phase != ASDM_PHASE_FREE)
            drop(b, &b->flights[i]);
    for (int i = 0; b->states && i < b->picture_max; i++)
        asdm_state_done(&b->states[i]);
    asdm_prompts_done(&b->prompts);
    asdm_side_done(&b->side);
    free(b->rows);
    free(b->prompt_slots);
    free(b->timestep_slots);
    free(b->members);
    free(b->states);
    free(b->flights);
    free(b);
    *batch = NULL;
}

/* What the last poll gave is no longer needed. */
static void release_handed(struct asdm_batch *batch) {
    if (batch->handed)
        drop(batch, batch->handed);
}

/* `id` 0: a free slot. */
static struct asdm_flight *find_flight(const struct asdm_batch *batch, uint64_t id) {
    for (int i = 0; i < batch->picture_max; i++)
        if (batch->flights[i].id == id && &batch->flights[i] != batch->handed)
            return &batch->flights[i];
    return NULL;
}

void asdm_batch_cancel(struct asdm_batch *batch, uint64_t id) {
    release_handed(batch);
    struct asdm_flight *flight = id ? find_flight(batch, id) : NULL;
    if (flight)
        drop(batch, flight);
}

bool asdm_batch_progress(const struct asdm_batch *batch, uint64_t id, struct asdm_picture_progress *ret) {
    const struct asdm_flight *flight = id ? find_flight(batch, id) : NULL;
    if (!flight)
        return false;
    enum asdm_picture_state state = flight->phase < ASDM_PHASE_RUNNING    ? ASDM_PICTURE_WAITING
                                    : flight->phase == ASDM_PHASE_RUNNING ? ASDM_PICTURE_RUNNING
                                    : flight->phase == ASDM_PHASE_DECODE  ? ASDM_PICTURE_DECODING
                                                                          : ASDM_PICTURE_FINISHED;
    const struct asdm_sampler_table *table = flight->table;
    int done = flight->next < table->row_count ? table->rows[flight->next].step : table->step_count;
    *ret = (struct asdm_picture_progress){state, done, table->step_count};
    return true;
}

void asdm_batch_preview(struct asdm_batch *batch, uint64_t id) {
    struct asdm_flight *flight = id ? find_flight(batch, id) : NULL;
    if (flight)
        flight->preview_asked = true;
}

enum asdm_status asdm_batch_submit(struct asdm_batch *batch, const struct asdm_request *request, uint64_t *ret_id,
                                   struct asdm_error *err) {
    release_handed(batch);
    struct asdm_flight *flight = find_flight(batch, 0);
    if (!flight)
        return asdm_fail(err, ASDM_ERR_MEMORY, "the batch is full: %d pictures", batch->picture_max);
    ASDM_TRY(asdm_flight_create(batch->model, &batch->sizes, &batch->states[flight - batch->flights], request,
                                batch->last_id + 1, flight, err));
    *ret_id = ++batch->last_id;
    return ASDM_OK;
}

/* ---- stepping */

/* Pictures whose rows can go into one call: of one size, in one precision at this step, with prompts of one length. */
struct group {
    int height, width, chunks;
    enum asdm_precision precision;
};

static struct group group_of(const struct asdm_flight *flight) {
    return (struct group){flight->order.height, flight->order.width, asdm_flight_chunks(flight),
                          asdm_flight_precision(flight)};
}

static bool is_in_group(const struct asdm_flight *flight, const struct group *group) {
    struct group own = group_of(flight);
    return own.height == group->height && own.width == group->width && own.chunks == group->chunks &&
           own.precision == group->precision;
}

/* One call of `rows` rows, made of whole pictures. While it runs, the next noise is drawn. */
static enum asdm_status call(struct asdm_batch *batch, const struct group *group, struct asdm_flight *const *members,
                             int count, int rows, struct asdm_error *err) {
    struct asdm_denoiser *denoiser;
    struct asdm_step_plan *plan;
    ASDM_TRY(asdm_model_denoiser(batch->model, group->precision, group->chunks, &denoiser, err));
    ASDM_TRY(asdm_denoiser_plan(denoiser, rows, group->height, group->width, &plan, err));
    for (int i = 0, row = 0; i < count; row += asdm_flight_rows(members[i++]))
        asdm_flight_fill_rows(members[i], batch->model, batch->rows + row, batch->prompt_slots + row,
                              batch->timestep_slots + row);
    asdm_denoiser_start(denoiser, plan, batch->rows, batch->prompt_slots, batch->timestep_slots);
    for (int i = 0; i < count; i++)
        asdm_flight_draw_ahead(members[i]);
    ASDM_TRY(asdm_denoiser_finish(plan, err));
    for (int i = 0; i < count; i++)
        asdm_flight_advance(members[i]);
    return ASDM_OK;
}

/* In calls of the sizes that plans are made for. Pictures of two rows come first in `members`: then every call but one
 * of a single row begins and ends between pictures, since those sizes are even. */
static enum asdm_status evaluate(struct asdm_batch *batch, const struct group *group,
                                 struct asdm_flight *const *members, int count, int rows, struct asdm_error *err) {
    while (rows) {
        int taken = asdm_denoiser_rows(rows), filled = 0, pictures = 0;
        while (filled < taken)
            filled += asdm_flight_rows(members[pictures++]);
        ASDM_ASSERT(filled == taken && pictures <= count);
        ASDM_TRY(call(batch, group, members, pictures, taken, err));
        members += pictures;
        count -= pictures;
        rows -= taken;
    }
    return ASDM_OK;
}

/* One evaluation for all pictures of the group that are due. What fails is theirs, but for a lost device: no picture
 * can be blamed for that. */
static enum asdm_status step_group(struct asdm_batch *batch, const struct group *group,
                                   struct asdm_batch_report *report, struct asdm_error *err) {
    struct asdm_flight **members = batch->members;
    int count = 0, rows = 0;
    double start = asdm_clock_seconds();
    for (int most = 2; most; most--)
        for (int i = 0; i < batch->picture_max; i++) {
            struct asdm_flight *flight = &batch->flights[i];
            if (flight->due && asdm_flight_rows(flight) == most && is_in_group(flight, group)) {
                flight->due = false;
                members[count++] = flight;
                rows += most;
            }
        }
    enum asdm_status status = evaluate(batch, group, members, count, rows, err);
    double seconds = asdm_clock_seconds() - start;
    for (int i = 0; i < count; i++) {
        members[i]->seconds[ASDM_STAGE_DENOISE] += seconds;
        if (status != ASDM_OK && status != ASDM_ERR_DEVICE)
            asdm_flight_fail(members[i], err);
    }
    report->rows += rows;
    report->pictures += count;
    report->seconds += seconds;
    return status == ASDM_ERR_DEVICE ? status : ASDM_OK;
}

/* Pictures that are ready get rows, in the order in which they came. Returns whether any picture runs. */
static bool admit(struct asdm_batch *batch) {
    int rows = 0;
    for (int i = 0; i < batch->picture_max; i++)
        if (batch->flights[i].phase == ASDM_PHASE_RUNNING)
            rows += asdm_flight_rows(&batch->flights[i]);
    for (;;) {
        struct asdm_flight *next = NULL;
        for (int i = 0; i < batch->picture_max; i++)
            if (batch->flights[i].phase == ASDM_PHASE_READY && (!next || batch->flights[i].id < next->id))
                next = &batch->flights[i];
        if (!next || (rows && rows + asdm_flight_rows(next) > batch->rows_max))
            return rows > 0;
        next->phase = ASDM_PHASE_RUNNING;
        rows += asdm_flight_rows(next);
    }
}

enum asdm_status asdm_batch_step(struct asdm_batch *batch, struct asdm_batch_report *ret, struct asdm_error *err) {
    struct asdm_batch_report report = {0};
    struct asdm_error ours;
    err = err ? err : &ours; /* the pictures' own failures are told from it */
    release_handed(batch);
    bool running = admit(batch);
    double slice = running && batch->step_seconds > 0 ? batch->step_seconds : SLICE_SECONDS;
    ASDM_TRY(asdm_side_run(&batch->side, asdm_clock_seconds() + slice, !running, &report.worked, err));
    if (admit(batch)) {
        report.worked = true;
        for (int i = 0; i < batch->picture_max; i++)
            batch->flights[i].due = batch->flights[i].phase == ASDM_PHASE_RUNNING;
        for (int i = 0; i < batch->picture_max; i++)
            if (batch->flights[i].due) {
                struct group group = group_of(&batch->flights[i]);
                ASDM_TRY(step_group(batch, &group, &report, err));
            }
        batch->step_seconds = report.seconds;
    }
    if (ret)
        *ret = report;
    return ASDM_OK;
}

/* ---- handing out */

static struct asdm_picture picture_of(const struct asdm_flight *f, bool preview) {
    struct asdm_picture picture = {.id = f->id,
                                   .preview = preview,
                                   .step = f->preview_step,
                                   .width = f->order.width * ASDM_PIXELS_PER_LATENT,
                                   .height = f->order.height * ASDM_PIXELS_PER_LATENT,
                                   .rgb = preview ? f->preview_rgb : f->rgb,
                                   .latents = preview ? NULL : f->state->host.latents,
                                   .prompt_tokens = f->prompts[ASDM_PICTURE_GUIDED].tokens,
                                   .status = f->status,
                                   .message = f->message};
    memcpy(picture.seconds, f->seconds, sizeof picture.seconds);
    if (f->status != ASDM_OK)
        picture.rgb = NULL;
    return picture;
}

bool asdm_batch_poll(struct asdm_batch *batch, struct asdm_picture *ret) {
    release_handed(batch);
    for (int i = 0; i < batch->picture_max; i++) {
        struct asdm_flight *flight = &batch->flights[i];
        if (flight->preview_done) {
            flight->preview_done = false;
            *ret = picture_of(flight, true);
            return true;
        }
        if (flight->phase == ASDM_PHASE_FINISHED) {
            batch->handed = flight;
            *ret = picture_of(flight, false);
            return true;
        }
    }
    return false;
}

/* ---- sizes */

/* Kernels' scratch and what alignment and lifetimes waste come on top of the values that live at once. */
static size_t with_scratch(size_t least_bytes) {
    return least_bytes + least_bytes / 2;
}

/* And back. */
static size_t least_of(size_t bytes) {
    return bytes - bytes / 3;
}

enum asdm_status asdm_batch_memory(struct asdm_model *model, int width, int height, int rows, size_t *ret_bytes,
                                   struct asdm_error *err) {
    size_t step, decode;
    int w = width / ASDM_PIXELS_PER_LATENT, h = height / ASDM_PIXELS_PER_LATENT;
    int taken = asdm_denoiser_rows(rows);
    ASDM_TRY(asdm_plan_check(model->denoisers[ASDM_PRECISION_MAIN][0]->unet.program, model->backend, ASDM_RATE_STEP,
                             taken, h, w, &step, err));
    ASDM_TRY(
        asdm_plan_check(model->autoencoder.decoder.program, model->backend, ASDM_RATE_STEP, 1, h, w, &decode, err));
    size_t pixels = (size_t)width * (size_t)height * 8;
    size_t state = asdm_state_bytes((size_t)ASDM_LATENT_CHANNELS * (size_t)h * (size_t)w);
    *ret_bytes = with_scratch(step) + with_scratch(decode) + (size_t)rows * (pixels + state);
    return ASDM_OK;
}

/* Weights of a program: what is laid out, or else about what will be, in the back end's type. `*ret_missing` counts up
 * what is still to come. */
static size_t weight_bytes(const struct asdm_model *model, enum asdm_component component,
                           const struct asdm_program *program, size_t *ret_missing) {
    size_t laid = asdm_weight_store_bytes(model->weights[component]), expected = 0;
    for (int i = 0; i < program->weight_count; i++)
        expected += asdm_weight_count(&program->weights[i]) * model->backend->element_bytes;
    *ret_missing += expected > laid ? expected - laid : 0;
    return expected > laid ? expected : laid;
}

enum asdm_status asdm_batch_plan_memory(struct asdm_model *model, int width, int height, int rows,
                                        struct asdm_memory *ret, struct asdm_error *err) {
    struct asdm_memory m;
    struct asdm_error why = {0};
    size_t missing = 0;
    m.free = asdm_backend_available(model->backend, &m.device);
    m.weights =
        weight_bytes(model, ASDM_COMPONENT_UNET, model->denoisers[ASDM_PRECISION_MAIN][0]->unet.program, &missing) +
        weight_bytes(model, ASDM_COMPONENT_TEXT, model->text.encoder.program, &missing) +
        weight_bytes(model, ASDM_COMPONENT_VAE, model->autoencoder.decoder.program, &missing);
    enum asdm_status status = asdm_batch_memory(model, width, height, rows, &m.plans, &why);
    if (status != ASDM_OK && !(m.device && status == ASDM_ERR_MEMORY)) {
        if (err)
            *err = why;
        return status;
    }
    if (m.device && status != ASDM_OK)
        return asdm_fail(
            err, ASDM_ERR_MEMORY,
            "the weights take about %.2f GB of device memory, %d row(s) of %d x %d more than is left; %.2f "
            "of %.2f GB are free",
            (double)m.weights / 1e9, rows, width, height, (double)m.free / 1e9, (double)m.device / 1e9);
    if (m.device && (missing > m.free || least_of(m.plans) > m.free - missing))
        return asdm_fail(
            err, ASDM_ERR_MEMORY,
            "the weights take about %.2f GB of device memory, of which %.2f GB are still to come, %d row(s) "
            "of %d x %d up to %.2f GB; %.2f of %.2f GB are free",
            (double)m.weights / 1e9, (double)missing / 1e9, rows, width, height, (double)m.plans / 1e9,
            (double)m.free / 1e9, (double)m.device / 1e9);
    *ret = m;
    return ASDM_OK;
}
