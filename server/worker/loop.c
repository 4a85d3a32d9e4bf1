/* The steady state: what the front asks for goes into the batches, batches are stepped turn by turn, what comes out
 * goes to the places that the front gave. */
#include <stdatomic.h>
#include <string.h>

#include "worker/worker.h"

/* ---- pictures */

static struct worker_picture *find_by_id(struct worker *worker, uint64_t id) {
    for (int i = 0; id && i < worker->picture_count; i++)
        if (worker->pictures[i].id == id)
            return &worker->pictures[i];
    return NULL;
}

static struct worker_picture *find_free(struct worker *worker) {
    for (int i = 0; i < worker->picture_count; i++)
        if (worker->pictures[i].id == 0)
            return &worker->pictures[i];
    return NULL;
}

static struct worker_picture *find_in_batch(struct worker *worker, int model, uint64_t batch_id) {
    for (int i = 0; i < worker->picture_count; i++) {
        struct worker_picture *p = &worker->pictures[i];
        if (p->id && p->model == model && p->batch_id == batch_id)
            return p;
    }
    return NULL;
}

/* ---- from the front */

/* `bytes` of `place` in shared memory; NULL when they are not there. */
static uint8_t *place_data(const struct worker *worker, const struct wire_pixels *place, uint64_t bytes) {
    if (place->bytes < bytes || place->offset > worker->memory_bytes ||
        place->bytes > worker->memory_bytes - place->offset)
        return NULL;
    return worker->memory + place->offset;
}

static uint64_t preview_bytes(const struct wire_pixels *place) {
    return sizeof(struct wire_previews) + WIRE_PREVIEW_SLOTS * wire_picture_bytes(place->width, place->height);
}

static bool places_are_sound(const struct worker *worker, const struct wire_submit *s) {
    return s->result.width > 0 && s->result.height > 0 && s->preview.width == s->result.width &&
           s->preview.height == s->result.height &&
           place_data(worker, &s->result, wire_picture_bytes(s->result.width, s->result.height)) &&
           place_data(worker, &s->preview, preview_bytes(&s->preview)) &&
           (!s->init.bytes || (s->init.width > 0 && s->init.height > 0 &&
                               place_data(worker, &s->init, wire_picture_bytes(s->init.width, s->init.height)))) &&
           (!s->mask.bytes || (s->init.bytes && s->mask.width == s->init.width && s->mask.height == s->init.height &&
                               place_data(worker, &s->mask, (uint64_t)s->mask.width * (uint64_t)s->mask.height)));
}

static struct asdm_request request_of(const struct worker *worker, const struct wire_submit *s) {
    struct asdm_request r;
    asdm_request_init(&r);
    r.prompt = s->texts;
    r.negative_prompt = s->texts + s->prompt_bytes + 1;
    r.syntax = (enum asdm_prompt_syntax)s->syntax;
    r.width = s->width;
    r.height = s->height;
    r.steps = s->steps;
    r.sampler = *s->sampler ? s->sampler : NULL;
    r.schedule = *s->schedule ? s->schedule : NULL;
    r.guidance_scale = s->guidance_scale;
    r.seed = s->seed;
    r.rng = (enum asdm_request_rng)s->rng;
    r.previews = s->previews;
    if (s->init.bytes) {
        r.init_rgb = worker->memory + s->init.offset;
        r.init_width = s->init.width;
        r.init_height = s->init.height;
        r.strength = s->strength;
    }
    if (s->mask.bytes)
        r.mask = worker->memory + s->mask.offset;
    return r;
}

/* A picture that is not taken fails alone. */
static bool submit(struct worker *worker, uint64_t id, const struct wire_submit *s) {
    struct asdm_error err = {0};
    struct worker_picture *picture = find_free(worker);
    uint64_t batch_id;
    if (id == 0 || s->model < 0 || s->model >= worker->model_count || !places_are_sound(worker, s))
        return worker_send_failed(worker, id, ASDM_ERR_INTERNAL, "the picture's places in memory are not sound");
    if (!picture)
        return worker_send_failed(worker, id, ASDM_ERR_MEMORY, "the batch is full");
    struct asdm_request request = request_of(worker, s);
    enum asdm_status status = asdm_batch_submit(worker->models[s->model].batch, &request, &batch_id, &err);
    if (status != ASDM_OK)
        return worker_send_failed(worker, id, status, err.message);
    *picture = (struct worker_picture){.id = id,
                                       .batch_id = batch_id,
                                       .model = s->model,
                                       .result = s->result,
                                       .preview = s->preview,
                                       .told.state = (enum asdm_picture_state) - 1};
    return true;
}

static bool cancel(struct worker *worker, uint64_t id) {
    struct worker_picture *picture = find_by_id(worker, id);
    if (picture) {
        asdm_batch_cancel(worker->models[picture->model].batch, picture->batch_id);
        picture->id = 0;
    }
    return id == 0 || worker_send_failed(worker, id, ASDM_ERR_CANCELLED, "cancelled");
}

/* Takes in all that the front has sent. */
static enum worker_end read_front(struct worker *worker) {
    struct wire_message m;
    for (;;) {
        enum wire_received received = wire_receive(worker->socket, &m);
        if (received == WIRE_NOTHING)
            return WORKER_GOES_ON;
        struct worker_picture *picture;
        bool heard = received == WIRE_RECEIVED && m.type != WIRE_STOP;
        if (heard && m.type == WIRE_SUBMIT)
            heard = submit(worker, m.id, &m.submit);
        else if (heard && m.type == WIRE_CANCEL)
            heard = cancel(worker, m.id);
        else if (heard && m.type == WIRE_PREVIEW && (picture = find_by_id(worker, m.id)))
            asdm_batch_preview(worker->models[picture->model].batch, picture->batch_id);
        if (!heard)
            return WORKER_STOPPED;
    }
}

/* ---- to the front */

static bool tell_progress(struct worker *worker, int model) {
    struct asdm_batch *batch = worker->models[model].batch;
    for (int i = 0; i < worker->picture_count; i++) {
        struct worker_picture *p = &worker->pictures[i];
        struct asdm_picture_progress now;
        if (!p->id || p->model != model || !asdm_batch_progress(batch, p->batch_id, &now))
            continue;
        if (now.state == p->told.state && now.done == p->told.done && now.total == p->told.total)
            continue;
        p->told = now;
        struct wire_message m = {.type = WIRE_PROGRESS,
                                 .id = p->id,
                                 .progress = {.state = (int32_t)now.state, .done = now.done, .total = now.total}};
        if (!worker_send(worker, &m))
            return false;
    }
    return true;
}

/* Copies a preview into an empty slot; -1: the front has read none of the last ones yet. */
static int put_preview(struct worker *worker, const struct worker_picture *p, const uint8_t *rgb) {
    struct wire_previews *previews = (struct wire_previews *)(void *)(worker->memory + p->preview.offset);
    uint64_t bytes = wire_picture_bytes(p->preview.width, p->preview.height);
    for (int slot = 0; slot < WIRE_PREVIEW_SLOTS; slot++)
        if (!atomic_load(&previews->full[slot])) {
            memcpy((uint8_t *)(previews + 1) + (uint64_t)slot * bytes, rgb, bytes);
            atomic_store(&previews->full[slot], 1);
            return slot;
        }
    return -1;
}

static bool tell_picture(struct worker *worker, struct worker_picture *p, const struct asdm_picture *drawn) {
    struct wire_message m = {.type = WIRE_PICTURE, .id = p->id};
    if (drawn->status == ASDM_OK && (drawn->width != p->result.width || drawn->height != p->result.height)) {
        asdm_batch_cancel(worker->models[p->model].batch, p->batch_id);
        p->id = 0;
        return worker_send_failed(worker, m.id, ASDM_ERR_INTERNAL, "the picture is of another size than its place");
    }
    if (!drawn->preview || drawn->status != ASDM_OK)
        p->id = 0;
    if (drawn->status != ASDM_OK)
        return worker_send_failed(worker, m.id, drawn->status, drawn->message ? drawn->message : "");
    m.picture.preview = drawn->preview;
    m.picture.step = drawn->step;
    m.picture.prompt_tokens = drawn->prompt_tokens;
    memcpy(m.picture.seconds, drawn->seconds, sizeof m.picture.seconds);
    if (drawn->preview) {
        m.picture.slot = put_preview(worker, p, drawn->rgb);
        return m.picture.slot < 0 || worker_send(worker, &m);
    }
    memcpy(worker->memory + p->result.offset, drawn->rgb, wire_picture_bytes(p->result.width, p->result.height));
    return worker_send(worker, &m);
}

static bool tell_step(struct worker *worker, int model, const struct asdm_batch_report *report) {
    struct wire_message m = {
        .type = WIRE_STEP,
        .step = {.model = model, .rows = report->rows, .pictures = report->pictures, .seconds = report->seconds}};
    return report->rows > 0 ? worker_send(worker, &m) : worker_send_alive(worker);
}

/* One step of one model's batch, and what came of it. */
static enum worker_end turn(struct worker *worker, int model, bool *ret_worked) {
    struct asdm_batch *batch = worker->models[model].batch;
    struct asdm_batch_report report = {0};
    struct asdm_picture drawn;
    struct asdm_error err = {0};
    enum asdm_status status = asdm_batch_step(batch, &report, &err);
    if (status != ASDM_OK) {
        worker_send_failed(worker, 0, status, err.message);
        return WORKER_BROKEN;
    }
    if (report.worked && !tell_step(worker, model, &report))
        return WORKER_STOPPED;
    if (!tell_progress(worker, model))
        return WORKER_STOPPED;
    while (asdm_batch_poll(batch, &drawn)) {
        struct worker_picture *picture = find_in_batch(worker, model, drawn.id);
        report.worked = true;
        if (picture && !tell_picture(worker, picture, &drawn))
            return WORKER_STOPPED;
    }
    *ret_worked |= report.worked;
    return WORKER_GOES_ON;
}

enum worker_end worker_run(struct worker *worker) {
    for (;;) {
        bool worked = false;
        for (int i = 0; i < worker->model_count; i++) {
            enum worker_end end = read_front(worker);
            if (end == WORKER_GOES_ON)
                end = turn(worker, i, &worked);
            if (end != WORKER_GOES_ON)
                return end;
        }
        if (!worked)
            worker_wait(worker);
    }
}
