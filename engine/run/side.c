#include "run/side.h"

#include <asdm/error.h>
#include "base/clock.h"
#include "base/memory.h"

void asdm_side_done(struct asdm_side *side) {
    asdm_memory_unmap(side->pixels, side->pixels_bytes);
    *side = (struct asdm_side){0};
}

void asdm_side_forget(struct asdm_side *side, const struct asdm_flight *flight) {
    if (side->flight == flight)
        side->kind = ASDM_SIDE_NONE;
}

/* ---- the autoencoder */

static size_t pixel_numbers(const struct asdm_flight *flight) {
    return 3 * flight->count / ASDM_LATENT_CHANNELS * ASDM_PIXELS_PER_LATENT * ASDM_PIXELS_PER_LATENT;
}

static enum asdm_status begin(struct asdm_side *side, struct asdm_error *err) {
    struct asdm_flight *f = side->flight;
    struct asdm_autoencoder *vae = &side->model->autoencoder;
    side->position = 0;
    if (side->kind == ASDM_SIDE_ENCODE)
        return asdm_autoencoder_begin_encode(vae, f->pixels, f->order.height, f->order.width, f->moments, &side->plan,
                                             err);
    ASDM_TRY(asdm_memory_ensure(&side->pixels, &side->pixels_bytes, pixel_numbers(f) * sizeof(float),
                                "a picture of this size", err));
    if (side->kind == ASDM_SIDE_PREVIEW) {
        f->preview_due = false; /* the work that follows at once reads the latents, so the next may come */
        f->preview_step = f->clean_step;
    } else {
        asdm_state_download(f->state); /* for whoever asks for them with the picture */
    }
    return asdm_autoencoder_begin_decode(vae,
                                         side->kind == ASDM_SIDE_PREVIEW ? f->state->own.clean : f->state->own.latents,
                                         f->order.height, f->order.width, side->pixels, &side->plan, err);
}

static enum asdm_status finish(struct asdm_side *side, struct asdm_error *err) {
    struct asdm_flight *f = side->flight;
    enum asdm_status status = ASDM_OK;
    if (side->kind == ASDM_SIDE_ENCODE) {
        status = asdm_flight_start(f, side->model, err);
    } else {
        uint8_t *rgb = side->kind == ASDM_SIDE_PREVIEW ? f->preview_rgb : f->rgb;
        asdm_pixels_to_bytes(side->pixels, rgb, pixel_numbers(f));
        asdm_flight_paste(f, rgb);
        if (side->kind == ASDM_SIDE_PREVIEW)
            f->preview_done = true;
        else
            f->phase = ASDM_PHASE_FINISHED;
    }
    side->kind = ASDM_SIDE_NONE;
    return status;
}

/* What fails is the picture's, but for a lost device. */
static enum asdm_status blame(struct asdm_flight *flight, enum asdm_status status, const struct asdm_error *err) {
    if (status == ASDM_ERR_DEVICE)
        return status;
    if (status != ASDM_OK)
        asdm_flight_fail(flight, err);
    return ASDM_OK;
}

/* Goes on with the piece under way. */
static enum asdm_status work(struct asdm_side *side, double deadline, struct asdm_error *err) {
    double start = asdm_clock_seconds();
    bool done = false;
    enum asdm_status status = asdm_plan_run_until(side->plan, &side->position, deadline, &done, err);
    side->flight->seconds[side->kind == ASDM_SIDE_ENCODE ? ASDM_STAGE_ENCODE : ASDM_STAGE_DECODE] +=
        asdm_clock_seconds() - start;
    if (status != ASDM_OK)
        side->kind = ASDM_SIDE_NONE;
    else if (done)
        status = finish(side, err);
    return blame(side->flight, status, err);
}

/* ---- what comes next */

/* The earliest picture that needs this; NULL: none. A preview waits until the one before was handed out. */
static struct asdm_flight *find(struct asdm_side *side, enum asdm_side_kind kind) {
    struct asdm_flight *found = NULL;
    for (int i = 0; i < side->flight_count; i++) {
        struct asdm_flight *f = &side->flights[i];
        bool needs = kind == ASDM_SIDE_NONE      ? f->phase == ASDM_PHASE_TEXT
                     : kind == ASDM_SIDE_ENCODE  ? f->phase == ASDM_PHASE_ENCODE
                     : kind == ASDM_SIDE_PREVIEW ? f->preview_due && !f->preview_done
                                                 : f->phase == ASDM_PHASE_DECODE && !f->preview_due;
        if (needs && (!found || f->id < found->id))
            found = f;
    }
    return found;
}

static enum asdm_status encode_text(struct asdm_side *side, struct asdm_flight *flight, struct asdm_error *err) {
    double start = asdm_clock_seconds();
    enum asdm_status status = asdm_flight_encode_text(flight, side->model, side->prompts, err);
    flight->seconds[ASDM_STAGE_TEXT] += asdm_clock_seconds() - start;
    return blame(flight, status, err);
}

/* Begins the autoencoder's next piece; false: there is none. */
static bool choose(struct asdm_side *side, bool idle) {
    static const enum asdm_side_kind finishing[] = {ASDM_SIDE_PREVIEW, ASDM_SIDE_DECODE, ASDM_SIDE_ENCODE},
                                     starting[] = {ASDM_SIDE_ENCODE, ASDM_SIDE_PREVIEW, ASDM_SIDE_DECODE};
    struct asdm_error err = {0};
    for (int i = 0; i < 3; i++) {
        side->kind = (idle ? starting : finishing)[i];
        side->flight = find(side, side->kind);
        if (!side->flight)
            continue;
        if (begin(side, &err) == ASDM_OK)
            return true;
        asdm_flight_fail(side->flight, &err);
        i = -1; /* look again, without it */
    }
    side->kind = ASDM_SIDE_NONE;
    return false;
}

static bool is_any_ready(const struct asdm_side *side) {
    for (int i = 0; i < side->flight_count; i++)
        if (side->flights[i].phase == ASDM_PHASE_READY || side->flights[i].phase == ASDM_PHASE_RUNNING)
            return true;
    return false;
}

enum asdm_status asdm_side_run(struct asdm_side *side, double deadline, bool idle, bool *ret_worked,
                               struct asdm_error *err) {
    struct asdm_flight *text;
    *ret_worked = false;
    do {
        if ((text = find(side, ASDM_SIDE_NONE)))
            ASDM_TRY(encode_text(side, text, err));
        else if (side->kind != ASDM_SIDE_NONE || choose(side, idle))
            ASDM_TRY(work(side, deadline, err));
        else
            break;
        *ret_worked = true;
    } while (asdm_clock_seconds() < deadline && !(idle && is_any_ready(side) && !find(side, ASDM_SIDE_NONE)));
    return ASDM_OK;
}
