/* The variational autoencoder at work: pixels to latents and back, one picture at a time. */
#ifndef ASDM_AUTOENCODER_H
#define ASDM_AUTOENCODER_H

#include "asdm_limits.h"
#include "base/rng.h"
#include "model/build.h"
#include "ops/plan.h"
#include "sampler/step.h"

struct asdm_autoencoder {
    struct asdm_vae_decoder decoder;
    struct asdm_vae_encoder encoder;
    struct asdm_backend *backend;
    struct asdm_weight_store *weights;
    double scaling_factor;
    int step_row;                 /* the decoder's value: where it finds the latents */
    struct asdm_step_row latents; /* of the picture being decoded */
    struct asdm_vae_plan {
        int height, width; /* of the latents */
        struct asdm_plan *plan;
    } decodes[ASDM_LIMIT_VAE_PLANS], encodes[ASDM_LIMIT_VAE_PLANS]; /* the last used first */
};

/* Rewrites the programs for the back end, the decoder's to read the latents where steps leave them; takes both over. */
enum asdm_status asdm_autoencoder_create(struct asdm_autoencoder *vae, struct asdm_vae_decoder *decoder,
                                         struct asdm_vae_encoder *encoder, double scaling_factor,
                                         struct asdm_backend *backend, struct asdm_weight_store *weights,
                                         struct asdm_error *err);
void asdm_autoencoder_done(struct asdm_autoencoder *vae);

/* Begin with a plan bound to its operands and run by the caller, at once or in parts (asdm_plan_run_until); it is valid
 * until the next begin of the same kind.
 *
 * latents [4][height][width] in the UNet's scale, in the back end's memory (read by the plan's first operation and not
 * again) -> pixels [8 height][8 width][3], about -1 .. 1. */
enum asdm_status asdm_autoencoder_begin_decode(struct asdm_autoencoder *vae, float *latents, int height, int width,
                                               float *pixels, struct asdm_plan **ret, struct asdm_error *err);
/* pixels [8 height][8 width][3], -1 .. 1 -> moments [8][height][width]: means, then log variances, unscaled. */
enum asdm_status asdm_autoencoder_begin_encode(struct asdm_autoencoder *vae, const float *pixels, int height, int width,
                                               float *moments, struct asdm_plan **ret, struct asdm_error *err);

/* latents = (mean + exp(clamp(log variance, -30, 20) / 2) noise) * scaling_factor, noise being the generator's next
 * draw; `count` numbers; `noise` is room for as many. */
void asdm_autoencoder_sample(const struct asdm_autoencoder *vae, const float *moments, struct asdm_rng *rng,
                             float *noise, float *latents, size_t count);

/* -1 .. 1 in float to 0 .. 255, rounded to nearest even, clamped; NaN becomes 0. */
void asdm_pixels_to_bytes(const float *pixels, uint8_t *bytes, size_t count);
void asdm_pixels_from_bytes(const uint8_t *bytes, float *pixels, size_t count);

#endif
