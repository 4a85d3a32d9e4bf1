#include "sampler/step.h"

#include <string.h>

void asdm_step_input(const struct asdm_step_row *row, float *input, size_t count) {
    for (size_t i = 0; i < count; i++)
        input[i] = (float)(row->row.input_scale * row->latents[i]);
}

void asdm_step_guide(const struct asdm_step_row *row, const float *prediction, float *guided, size_t count) {
    if (row->part == ASDM_STEP_PLAIN)
        return;
    if (row->part == ASDM_STEP_ALONE) {
        memcpy(guided, prediction, count * sizeof *guided);
        return;
    }
    const float *plain = prediction - count;
    for (size_t i = 0; i < count; i++)
        guided[i] = plain[i] + row->guidance_scale * (prediction[i] - plain[i]);
}

static void predict_clean(const struct asdm_step_row *row, const float *model, size_t count) {
    for (size_t i = 0; i < count; i++)
        row->clean[i] = (float)(row->row.convert_latents * row->latents[i] + row->row.convert_model * model[i]);
}

static void keep_image(const struct asdm_step_row *row, size_t count, size_t cells) {
    for (size_t i = 0; i < count; i++)
        if (row->mask[i % cells] == 0)
            row->latents[i] = (float)(row->keep_image * row->image[i] + row->keep_noise * row->image_noise[i]);
}

void asdm_step_update(const struct asdm_step_row *row, const float *model, size_t count, size_t cells) {
    if (row->part == ASDM_STEP_PLAIN)
        return;
    if (row->clean)
        predict_clean(row, model, count);
    asdm_sampler_row_apply(&row->row, row->history_count, row->latents, row->history, model, row->noise, count);
    if (row->mask)
        keep_image(row, count, cells);
}
