/* The models, each written once as a program. All inputs and outputs are float32 (ids: int32) of the caller's. */
#ifndef ASDM_BUILD_H
#define ASDM_BUILD_H

#include "model/config.h"
#include "ops/program.h"

/* CLIP text transformer (Radford et al. 2021): ids [1 x positions] -> last hidden state after the final norm
 * [1 x positions x hidden_size]. */
struct asdm_text_encoder {
    struct asdm_program *program;
    int ids, embeds;
};
enum asdm_status asdm_text_encoder_build(const struct asdm_text_config *config, int tokens,
                                         struct asdm_text_encoder *ret, struct asdm_error *err);

/* The denoising network (Rombach et al. 2022, as diffusers' UNet2DConditionModel): latents [4, H, W] (channel planes,
 * already scaled by the sampler), timestep (one number), context [1 x tokens x cross_attention_dim] -> the prediction
 * [4, H, W]. Rates: context is per prompt, timestep per schedule, latents per step. */
struct asdm_unet {
    struct asdm_program *program;
    int latents, timestep, context, prediction;
    int down[ASDM_STAGES_MAX], mid, up[ASDM_STAGES_MAX]; /* results of the blocks, samplers included; mid may be
                                                            ASDM_NONE */
};
enum asdm_status asdm_unet_build(const struct asdm_unet_config *config, int tokens, struct asdm_unet *ret,
                                 struct asdm_error *err);

/* AutoencoderKL's decoder: latents [4, H, W] (divided by the scaling factor) -> pixels [8H x 8W x 3], -1 .. 1,
 * unclamped. */
struct asdm_vae_decoder {
    struct asdm_program *program;
    int latents, pixels;
};
enum asdm_status asdm_vae_decoder_build(const struct asdm_vae_config *config, struct asdm_vae_decoder *ret,
                                        struct asdm_error *err);

/* AutoencoderKL's encoder: pixels [8H x 8W x 3], -1 .. 1 -> moments [8, H, W]: means, then log variances. */
struct asdm_vae_encoder {
    struct asdm_program *program;
    int pixels, moments;
};
enum asdm_status asdm_vae_encoder_build(const struct asdm_vae_config *config, struct asdm_vae_encoder *ret,
                                        struct asdm_error *err);

#endif
