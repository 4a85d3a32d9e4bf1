#include "run/autoencoder.h"

#include <math.h>

#include "base/error.h"
#include "ops/rewrite.h"

enum { LATENT_CHANNELS = 4 };

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
    ASDM_TRY(asdm_program_rewrite(vae->decoder.program, backend->class->rewrites, err));
    return asdm_program_rewrite(vae->encoder.program, backend->class->rewrites, err);
}

void asdm_autoencoder_done(struct asdm_autoencoder *vae) {
    asdm_plan_destroy(&vae->decode);
    asdm_plan_destroy(&vae->encode);
    asdm_program_destroy(&vae->decoder.program);
    asdm_program_destroy(&vae->encoder.program);
}

enum asdm_status asdm_autoencoder_prepare_decode(struct asdm_autoencoder *vae, int height, int width,
                                                 struct asdm_error *err) {
    if (vae->decode && vae->decode_height == height && vae->decode_width == width)
        return ASDM_OK;
    asdm_plan_destroy(&vae->decode);
    vae->decode_height = height;
    vae->decode_width = width;
    return asdm_plan_create(vae->decoder.program, vae->backend, vae->weights, ASDM_RATE_STEP, 1, height, width,
                            &vae->decode, err);
}

enum asdm_status asdm_autoencoder_prepare_encode(struct asdm_autoencoder *vae, int height, int width,
                                                 struct asdm_error *err) {
    if (vae->encode && vae->encode_height == height && vae->encode_width == width)
        return ASDM_OK;
    asdm_plan_destroy(&vae->encode);
    vae->encode_height = height;
    vae->encode_width = width;
    return asdm_plan_create(vae->encoder.program, vae->backend, vae->weights, ASDM_RATE_STEP, 1, height, width,
                            &vae->encode, err);
}

enum asdm_status asdm_autoencoder_decode(struct asdm_autoencoder *vae, const float *latents, int height, int width,
                                         float *scaled, float *pixels, struct asdm_error *err) {
    size_t count = (size_t)LATENT_CHANNELS * (size_t)height * (size_t)width;
    ASDM_TRY(asdm_autoencoder_prepare_decode(vae, height, width, err));
    for (size_t i = 0; i < count; i++)
        scaled[i] = latents[i] / (float)vae->scaling_factor;
    asdm_plan_bind(vae->decode, vae->decoder.latents, scaled);
    asdm_plan_bind(vae->decode, vae->decoder.pixels, pixels);
    asdm_plan_run(vae->decode);
    return ASDM_OK;
}

enum asdm_status asdm_autoencoder_encode(struct asdm_autoencoder *vae, const float *pixels, int height, int width,
                                         float *moments, struct asdm_error *err) {
    ASDM_TRY(asdm_autoencoder_prepare_encode(vae, height, width, err));
    asdm_plan_bind(vae->encode, vae->encoder.pixels, (void *)(uintptr_t)pixels);
    asdm_plan_bind(vae->encode, vae->encoder.moments, moments);
    asdm_plan_run(vae->encode);
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

void asdm_pixels_to_bytes(const float *pixels, uint8_t *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float unit = fminf(fmaxf(pixels[i] * 0.5f + 0.5f, 0.0f), 1.0f); /* NaN becomes 0 */
        bytes[i] = (uint8_t)lrintf(unit * 255.0f);
    }
}

void asdm_pixels_from_bytes(const uint8_t *bytes, float *pixels, size_t count) {
    for (size_t i = 0; i < count; i++)
        pixels[i] = 2.0f * ((float)bytes[i] / 255.0f) - 1.0f;
}
