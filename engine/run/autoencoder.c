#include "run/autoencoder.h"

#include <math.h>
#include <string.h>

#include <asdm/error.h>
#include "ops/rewrite.h"

enum asdm_status asdm_autoencoder_create(struct asdm_autoencoder *vae, struct asdm_vae_decoder *decoder,
                                         struct asdm_vae_encoder *encoder, double scaling_factor,
                                         struct asdm_backend *backend, struct asdm_weight_store *weights,
                                         struct asdm_error *err) {
    *vae = (struct asdm_autoencoder){.decoder = *decoder,
                                     .encoder = *encoder,
                                     .backend = backend,
                                     .weights = weights,
                                     .scaling_factor = scaling_factor};
    *decoder = (struct asdm_vae_decoder){0};
    *encoder = (struct asdm_vae_encoder){0};
    vae->step_row = asdm_build_sampler_input(vae->decoder.program, vae->decoder.latents);
    ASDM_TRY(asdm_program_finish(vae->decoder.program, err));
    ASDM_TRY(asdm_program_rewrite(vae->decoder.program, backend->class->rewrites, err));
    return asdm_program_rewrite(vae->encoder.program, backend->class->rewrites, err);
}

static void destroy_plans(struct asdm_vae_plan *plans) {
    for (int i = 0; i < ASDM_LIMIT_VAE_PLANS; i++)
        asdm_plan_destroy(&plans[i].plan);
}

void asdm_autoencoder_done(struct asdm_autoencoder *vae) {
    destroy_plans(vae->decodes);
    destroy_plans(vae->encodes);
    asdm_program_destroy(&vae->decoder.program);
    asdm_program_destroy(&vae->encoder.program);
}

/* The plan of a size, known or made now, at plans[0]; the one used longest ago makes room. */
static enum asdm_status find_plan(struct asdm_autoencoder *vae, struct asdm_vae_plan *plans,
                                  const struct asdm_program *program, int height, int width, struct asdm_plan **ret,
                                  struct asdm_error *err) {
    int at = 0;
    while (at < ASDM_LIMIT_VAE_PLANS - 1 && plans[at].plan && (plans[at].height != height || plans[at].width != width))
        at++;
    struct asdm_vae_plan found = plans[at];
    if (!found.plan || found.height != height || found.width != width) {
        asdm_plan_destroy(&plans[at].plan);
        found = (struct asdm_vae_plan){height, width, NULL};
        ASDM_TRY(
            asdm_plan_create(program, vae->backend, vae->weights, ASDM_RATE_STEP, 1, height, width, &found.plan, err));
    }
    memmove(plans + 1, plans, (size_t)at * sizeof *plans);
    plans[0] = found;
    *ret = found.plan;
    return ASDM_OK;
}

enum asdm_status asdm_autoencoder_begin_decode(struct asdm_autoencoder *vae, float *latents, int height, int width,
                                               float *pixels, struct asdm_plan **ret, struct asdm_error *err) {
    ASDM_TRY(find_plan(vae, vae->decodes, vae->decoder.program, height, width, ret, err));
    vae->latents =
        (struct asdm_step_row){.row.input_scale = 1 / (double)(float)vae->scaling_factor, .latents = latents};
    asdm_plan_bind(*ret, vae->step_row, &vae->latents);
    asdm_plan_bind(*ret, vae->decoder.pixels, pixels);
    return ASDM_OK;
}

enum asdm_status asdm_autoencoder_begin_encode(struct asdm_autoencoder *vae, const float *pixels, int height, int width,
                                               float *moments, struct asdm_plan **ret, struct asdm_error *err) {
    ASDM_TRY(find_plan(vae, vae->encodes, vae->encoder.program, height, width, ret, err));
    asdm_plan_bind(*ret, vae->encoder.pixels, (void *)(uintptr_t)pixels);
    asdm_plan_bind(*ret, vae->encoder.moments, moments);
    return ASDM_OK;
}

void asdm_autoencoder_sample(const struct asdm_autoencoder *vae, const float *moments, struct asdm_rng *rng,
                             float *noise, float *latents, size_t count) {
    asdm_rng_normal(rng, noise, count);
    for (size_t i = 0; i < count; i++) {
        float variance = fminf(fmaxf(moments[count + i], -30.0f), 20.0f);
        latents[i] = (float)((moments[i] + expf(0.5f * variance) * noise[i]) * vae->scaling_factor);
    }
}

/* Without a branch or a call, so that the compiler makes vectors of it: with lrintf() a picture of 512x512 took 6 ms.
 * A sum as large as 1.5 * 2^23 is rounded to a whole number, half to even, and the last of its bits count. Bits of
 * floats that are not negative grow with them. */
void asdm_pixels_to_bytes(const float *restrict pixels, uint8_t *restrict bytes, size_t count) {
    const float large = 12582912.0f;
    const int32_t zero = 0x4b400000, infinite = 0x7f800000; /* the bits of large, of infinity */
    for (size_t i = 0; i < count; i++) {
        float unit = pixels[i] * 0.5f + 0.5f, sum = unit * 255.0f + large;
        int32_t bits;
        memcpy(&bits, &sum, sizeof bits);
        bits = bits > infinite ? zero : bits; /* NaN becomes 0 */
        bits = bits < zero ? zero : bits;
        bytes[i] = (uint8_t)(bits > zero + 255 ? 255 : bits - zero);
    }
}

void asdm_pixels_from_bytes(const uint8_t *bytes, float *pixels, size_t count) {
    for (size_t i = 0; i < count; i++)
        pixels[i] = 2.0f * ((float)bytes[i] / 255.0f) - 1.0f;
}
