#include "run/predict.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

enum { CHANNELS = 4 };

/* Row r's latents are the r-th part of the state's. */
static struct asdm_step_row *make_rows(const struct asdm_state *state, int rows) {
    struct asdm_step_row *step_rows = calloc((size_t)rows, sizeof *step_rows);
    for (int r = 0; step_rows && r < rows; r++)
        step_rows[r] =
            (struct asdm_step_row){.row = {.input_scale = 1, .latents = {[ASDM_IN_MODEL] = 1}},
                                   .latents = state->own.latents + (size_t)r * (state->count / (size_t)rows)};
    return step_rows;
}

enum asdm_status asdm_predict(struct asdm_denoiser *denoiser, struct asdm_state *state, int rows, int height, int width,
                              const float *latents, const int32_t *prompt_slots, const int32_t *timestep_slots,
                              float *prediction, struct asdm_error *err) {
    struct asdm_step_plan *plan;
    size_t count = (size_t)rows * CHANNELS * (size_t)height * (size_t)width;
    ASDM_TRY(asdm_denoiser_plan(denoiser, rows, height, width, &plan, err));
    ASDM_TRY(asdm_state_fit(state, denoiser->backend, count, 0, false, err));
    memcpy(state->host.latents, latents, count * sizeof *latents);
    ASDM_TRY(asdm_state_upload(state, err));
    struct asdm_step_row *step_rows = make_rows(state, rows);
    if (!step_rows)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a call of %d rows", rows);
    asdm_denoiser_start(denoiser, plan, step_rows, prompt_slots, timestep_slots);
    asdm_state_download(state);
    enum asdm_status status = asdm_denoiser_finish(plan, err);
    if (status == ASDM_OK)
        memcpy(prediction, state->host.latents, count * sizeof *prediction);
    free(step_rows);
    return status;
}
