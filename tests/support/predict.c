#include "predict.h"

#include <string.h>

#include <asdm/error.h>
#include "run/state.h"

enum { ROWS_MAX = 16 };

enum asdm_status predict(struct asdm_denoiser *denoiser, int rows, int height, int width, const float *latents,
                         const int32_t *prompt_slots, const int32_t *timestep_slots, float *prediction,
                         struct asdm_error *err) {
    struct asdm_state states[ROWS_MAX] = {{0}};
    struct asdm_step_row step_rows[ROWS_MAX];
    struct asdm_step_plan *plan;
    size_t count = 4 * (size_t)height * (size_t)width;
    enum asdm_status status = asdm_denoiser_plan(denoiser, rows, height, width, &plan, err);
    ASDM_ASSERT(rows <= ROWS_MAX);
    for (int r = 0; r < rows && status == ASDM_OK; r++) {
        status = asdm_state_fit(&states[r], denoiser->backend, count, 0, false, err);
        if (status != ASDM_OK)
            break;
        memcpy(states[r].host.latents, latents + (size_t)r * count, count * sizeof *latents);
        step_rows[r] = (struct asdm_step_row){.row = {.input_scale = 1, .latents = {[ASDM_IN_MODEL] = 1}},
                                              .latents = states[r].own.latents};
        status = asdm_state_upload(&states[r], err);
    }
    if (status == ASDM_OK) {
        asdm_denoiser_start(denoiser, plan, step_rows, prompt_slots, timestep_slots);
        for (int r = 0; r < rows; r++)
            asdm_state_download(&states[r]);
        status = asdm_denoiser_finish(plan, err);
    }
    for (int r = 0; r < rows; r++) {
        if (status == ASDM_OK)
            memcpy(prediction + (size_t)r * count, states[r].host.latents, count * sizeof *prediction);
        asdm_state_done(&states[r]);
    }
    return status;
}
