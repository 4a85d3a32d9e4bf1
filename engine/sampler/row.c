#include "sampler/row.h"

#include <math.h>

static double weigh(const double *coefficients, const double *inputs, int count) {
    double sum = 0.0;
    for (int i = 0; i < count; i++)
        sum += coefficients[i] * inputs[i];
    return sum;
}

void asdm_sampler_row_apply(const struct asdm_sampler_row *row, int history_count, float *latents,
                            float *const *history, const float *model, const float *noise, size_t count) {
    int inputs = ASDM_IN_HISTORY + history_count;
    for (size_t i = 0; i < count; i++) {
        double in[ASDM_IN_COUNT];
        in[ASDM_IN_LATENTS] = latents[i];
        in[ASDM_IN_MODEL] = model[i];
        in[ASDM_IN_CONVERTED] = row->convert_latents * latents[i] + row->convert_model * model[i];
        if (row->clamp > 0.0)
            in[ASDM_IN_CONVERTED] = fmin(fmax(in[ASDM_IN_CONVERTED], -row->clamp), row->clamp);
        in[ASDM_IN_NOISE] = noise ? noise[i] : 0.0;
        for (int k = 0; k < history_count; k++)
            in[ASDM_IN_HISTORY + k] = history[k][i];
        latents[i] = (float)weigh(row->latents, in, inputs);
        for (int k = 0; k < history_count; k++)
            history[k][i] = (float)weigh(row->history[k], in, inputs);
    }
}
