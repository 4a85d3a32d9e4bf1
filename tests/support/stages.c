/* Runs single stages of a model on given tensors, for the tests against diffusers:
 *     stages MODEL DEVICE DTYPE IN.safetensors OUT.safetensors [TOKENIZER]
 * input_ids -> prompt_embeds; unet_in, timestep, prompt_embeds (and negative_prompt_embeds for row 0 of two) ->
 * unet_out; latents -> image [1, 3, H, W]; pixels [1, 3, H, W] -> moments. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "run/internal.h"
#include "run/predict.h"

enum { OUTPUTS_MAX = 8 };

struct run {
    struct asdm_model *model;
    struct asdm_safetensors *in;
    struct asdm_tensor out[OUTPUTS_MAX];
    int out_count;
    struct asdm_error *err;
};

static void *allocate(size_t bytes) {
    void *memory = calloc(1, bytes ? bytes : 1);
    ASDM_ASSERT(memory);
    return memory;
}

static float *read_floats(const struct run *run, const char *name, const struct asdm_tensor **ret) {
    *ret = asdm_safetensors_find(run->in, name);
    if (!*ret)
        return NULL;
    float *values = allocate((*ret)->count * sizeof *values);
    asdm_tensor_to_f32(*ret, 0, (*ret)->count, values);
    return values;
}

static void keep(struct run *run, const char *name, float *values, int rank, const int64_t *dims) {
    struct asdm_tensor tensor = {.name = name, .dtype = ASDM_F32, .rank = rank, .data = values, .count = 1};
    for (int i = 0; i < rank; i++)
        tensor.count *= (size_t)(tensor.dims[i] = dims[i]);
    tensor.bytes = tensor.count * sizeof *values;
    ASDM_ASSERT(run->out_count < OUTPUTS_MAX);
    run->out[run->out_count++] = tensor;
}

static enum asdm_status text(struct run *run) {
    const struct asdm_tensor *ids = asdm_safetensors_find(run->in, "input_ids");
    if (!ids)
        return ASDM_OK;
    ASDM_ASSERT((ids->dtype == ASDM_I32 || ids->dtype == ASDM_I64) && ids->count == ASDM_PROMPT_TOKENS);
    int width = run->model->text.width;
    float *embeds = allocate((size_t)ASDM_PROMPT_TOKENS * (size_t)width * sizeof *embeds);
    int32_t copy[ASDM_PROMPT_TOKENS];
    for (size_t i = 0; i < ASDM_PROMPT_TOKENS; i++) /* little endian: the low half of an I64 */
        memcpy(&copy[i], (const char *)ids->data + i * asdm_dtype_bytes(ids->dtype), sizeof *copy);
    ASDM_TRY(asdm_text_encode(&run->model->text, copy, embeds, run->err));
    keep(run, "prompt_embeds", embeds, 3, (int64_t[]){1, ASDM_PROMPT_TOKENS, width});
    return ASDM_OK;
}

static enum asdm_status unet(struct run *run) {
    const struct asdm_tensor *in, *t, *prompt, *negative;
    float *latents = read_floats(run, "unet_in", &in), *timestep = read_floats(run, "timestep", &t);
    float *embeds[2] = {read_floats(run, "negative_prompt_embeds", &negative),
                        read_floats(run, "prompt_embeds", &prompt)};
    if (!latents)
        return ASDM_OK;
    struct asdm_denoiser *denoiser = run->model->denoisers[ASDM_PRECISION_MAIN][0];
    int rows = (int)in->dims[0], first;
    int32_t prompts[16], times[16];
    ASDM_ASSERT(timestep && embeds[1] && rows <= 2 && (rows == 1 || embeds[0]));
    ASDM_TRY(asdm_denoiser_add_timesteps(denoiser, timestep, 1, &first, run->err));
    for (int i = 0; i < rows; i++) {
        ASDM_TRY(asdm_denoiser_add_prompt(denoiser, rows == 2 ? embeds[i] : embeds[1], &prompts[i], run->err));
        times[i] = first;
    }
    float *out = allocate(in->count * sizeof *out);
    struct asdm_state state = {0};
    ASDM_TRY(asdm_predict(denoiser, &state, rows, (int)in->dims[2], (int)in->dims[3], latents, prompts, times, out,
                          run->err));
    asdm_state_done(&state);
    keep(run, "unet_out", out, 4, in->dims);
    free(latents);
    free(timestep);
    free(embeds[0]);
    free(embeds[1]);
    return ASDM_OK;
}

/* [height][width][3] and [3][height][width] */
static void to_planes(const float *pixels, float *planes, size_t count) {
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < 3; c++)
            planes[c * count + i] = pixels[i * 3 + c];
}

static void from_planes(const float *planes, float *pixels, size_t count) {
    for (size_t i = 0; i < count; i++)
        for (size_t c = 0; c < 3; c++)
            pixels[i * 3 + c] = planes[c * count + i];
}

static enum asdm_status decode(struct run *run) {
    const struct asdm_tensor *in;
    float *latents = read_floats(run, "latents", &in);
    if (!latents)
        return ASDM_OK;
    int64_t height = in->dims[2], width = in->dims[3];
    size_t count = 64 * (size_t)height * (size_t)width;
    float *pixels = allocate(3 * count * sizeof *pixels), *planes = allocate(3 * count * sizeof *planes);
    struct asdm_state state = {0};
    struct asdm_plan *plan;
    ASDM_TRY(asdm_state_fit(&state, run->model->backend, in->count, 0, false, run->err));
    memcpy(state.host.latents, latents, in->count * sizeof *latents);
    ASDM_TRY(asdm_state_upload(&state, run->err));
    ASDM_TRY(asdm_autoencoder_begin_decode(&run->model->autoencoder, state.own.latents, (int)height, (int)width, pixels,
                                           &plan, run->err));
    ASDM_TRY(asdm_plan_run(plan, run->err));
    to_planes(pixels, planes, count);
    keep(run, "image", planes, 4, (int64_t[]){1, 3, 8 * height, 8 * width});
    asdm_state_done(&state);
    free(latents);
    free(pixels);
    return ASDM_OK;
}

static enum asdm_status encode(struct run *run) {
    const struct asdm_tensor *in;
    float *planes = read_floats(run, "pixels", &in);
    if (!planes)
        return ASDM_OK;
    int64_t height = in->dims[2] / 8, width = in->dims[3] / 8;
    size_t count = 64 * (size_t)height * (size_t)width;
    float *pixels = allocate(3 * count * sizeof *pixels),
          *moments = allocate(8 * (size_t)(height * width) * sizeof *moments);
    from_planes(planes, pixels, count);
    struct asdm_plan *plan;
    ASDM_TRY(asdm_autoencoder_begin_encode(&run->model->autoencoder, pixels, (int)height, (int)width, moments, &plan,
                                           run->err));
    ASDM_TRY(asdm_plan_run(plan, run->err));
    keep(run, "moments", moments, 4, (int64_t[]){1, 8, height, width});
    free(planes);
    free(pixels);
    return ASDM_OK;
}

int main(int argc, char **argv) {
    struct asdm_error err = {0};
    struct run run = {.err = &err};
    if (argc < 6) {
        fprintf(stderr, "usage: stages MODEL DEVICE DTYPE IN OUT [TOKENIZER]\n");
        return 2;
    }
    struct asdm_model_options options = {.device = argv[2], .tokenizer = argc > 6 ? argv[6] : NULL};
    enum asdm_status status = asdm_dtype_find(argv[3], &options.dtype, &err);
    if (status == ASDM_OK)
        status = asdm_model_open(argv[1], &options, &run.model, &err);
    if (status == ASDM_OK)
        status = asdm_safetensors_open(argv[4], &run.in, &err);
    enum asdm_status (*const stages[])(struct run *) = {text, unet, decode, encode};
    for (size_t i = 0; i < sizeof stages / sizeof *stages && status == ASDM_OK; i++)
        status = stages[i](&run);
    if (status == ASDM_OK)
        status = asdm_safetensors_write(argv[5], run.out, (size_t)run.out_count, NULL, &err);
    for (int i = 0; i < run.out_count; i++)
        free((void *)(uintptr_t)run.out[i].data);
    asdm_safetensors_close(&run.in);
    asdm_model_close(&run.model);
    if (status != ASDM_OK)
        fprintf(stderr, "stages: %s\n", err.message);
    return status == ASDM_OK ? 0 : 1;
}
