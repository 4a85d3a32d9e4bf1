#include <asdm/error.h>
#include "model/build.h"
#include "model/resnet.h"

enum { PIXEL_LEVEL = -3 }; /* 8 pixels to a latent */

static const float NORM_EPS = 1e-6f;

static struct asdm_resnet resnet_of(const struct asdm_vae_config *c) {
    return (struct asdm_resnet){c->norm_groups, NORM_EPS, c->activation, ASDM_NONE, NULL};
}

/* Single-head self-attention over the whole map, with a norm before and the map added after. */
static int build_attention(struct asdm_program *p, const struct asdm_vae_config *c, int x, const char *name) {
    int channels = c->channels[c->stages - 1];
    int h = asdm_build_group_norm(p, x, asdm_build_name(p, "%s.group_norm", name), c->norm_groups, NORM_EPS);
    int q = asdm_build_linear(p, h, asdm_build_name(p, "%s.to_q", name), channels, true);
    int k = asdm_build_linear(p, h, asdm_build_name(p, "%s.to_k", name), channels, true);
    int v = asdm_build_linear(p, h, asdm_build_name(p, "%s.to_v", name), channels, true);
    h = asdm_build_attention(p, q, k, v, 1, false);
    h = asdm_build_linear(p, h, asdm_build_name(p, "%s.to_out.0", name), channels, true);
    return asdm_build_add(p, h, x);
}

static int build_mid(struct asdm_program *p, const struct asdm_vae_config *c, int x, const char *side) {
    struct asdm_resnet resnet = resnet_of(c);
    int channels = c->channels[c->stages - 1];
    x = asdm_build_resnet(p, &resnet, x, channels, asdm_build_name(p, "%s.mid_block.resnets.0", side));
    if (c->mid_attention)
        x = build_attention(p, c, x, asdm_build_name(p, "%s.mid_block.attentions.0", side));
    return asdm_build_resnet(p, &resnet, x, channels, asdm_build_name(p, "%s.mid_block.resnets.1", side));
}

static int build_head(struct asdm_program *p, const struct asdm_vae_config *c, int x, const char *side, int channels) {
    x = asdm_build_group_norm(p, x, asdm_build_name(p, "%s.conv_norm_out", side), c->norm_groups, NORM_EPS);
    x = asdm_build_activation(p, x, ASDM_ACT_SILU); /* here diffusers does not look at act_fn */
    return asdm_build_conv2d(p, x, asdm_build_name(p, "%s.conv_out", side), channels, 3, 1, 1, 1);
}

static enum asdm_status finish(struct asdm_program *p, int output, struct asdm_error *err) {
    asdm_build_output(p, output);
    enum asdm_status status = asdm_program_finish(p, err);
    if (status != ASDM_OK)
        asdm_program_destroy(&p);
    return status;
}

enum asdm_status asdm_vae_decoder_build(const struct asdm_vae_config *c, struct asdm_vae_decoder *ret,
                                        struct asdm_error *err) {
    struct asdm_program *p;
    ASDM_TRY(asdm_program_create("vae_decoder", &p, err));
    struct asdm_resnet resnet = resnet_of(c);
    int latents = asdm_build_input(p, asdm_dim_height(0), asdm_dim_width(0), c->latent_channels, ASDM_RATE_STEP);
    int x = asdm_build_import(p, latents, true);
    if (c->post_quant_conv)
        x = asdm_build_pointwise(p, x, "post_quant_conv", c->latent_channels);
    x = asdm_build_conv2d(p, x, "decoder.conv_in", c->channels[c->stages - 1], 3, 1, 1, 1);
    x = build_mid(p, c, x, "decoder");
    for (int up = 0; up < c->stages; up++) {
        int channels = c->channels[c->stages - 1 - up];
        for (int i = 0; i <= c->layers; i++)
            x = asdm_build_resnet(p, &resnet, x, channels,
                                  asdm_build_name(p, "decoder.up_blocks.%d.resnets.%d", up, i));
        if (up + 1 == c->stages)
            break;
        x = asdm_build_upsample(p, x);
        x = asdm_build_conv2d(p, x, asdm_build_name(p, "decoder.up_blocks.%d.upsamplers.0.conv", up), channels, 3, 1, 1,
                              1);
    }
    int pixels = asdm_build_export(p, build_head(p, c, x, "decoder", c->out_channels), false);
    ASDM_TRY(finish(p, pixels, err));
    *ret = (struct asdm_vae_decoder){p, latents, pixels};
    return ASDM_OK;
}

enum asdm_status asdm_vae_encoder_build(const struct asdm_vae_config *c, struct asdm_vae_encoder *ret,
                                        struct asdm_error *err) {
    struct asdm_program *p;
    ASDM_TRY(asdm_program_create("vae_encoder", &p, err));
    struct asdm_resnet resnet = resnet_of(c);
    int pixels =
        asdm_build_input(p, asdm_dim_height(PIXEL_LEVEL), asdm_dim_width(PIXEL_LEVEL), c->in_channels, ASDM_RATE_STEP);
    int x = asdm_build_conv2d(p, asdm_build_import(p, pixels, false), "encoder.conv_in", c->channels[0], 3, 1, 1, 1);
    for (int stage = 0; stage < c->stages; stage++) {
        for (int i = 0; i < c->layers; i++)
            x = asdm_build_resnet(p, &resnet, x, c->channels[stage],
                                  asdm_build_name(p, "encoder.down_blocks.%d.resnets.%d", stage, i));
        if (stage + 1 < c->stages) /* padded at the bottom and the right only */
            x = asdm_build_conv2d(p, x, asdm_build_name(p, "encoder.down_blocks.%d.downsamplers.0.conv", stage),
                                  c->channels[stage], 3, 2, 0, 1);
    }
    x = build_head(p, c, build_mid(p, c, x, "encoder"), "encoder", 2 * c->latent_channels);
    if (c->quant_conv)
        x = asdm_build_pointwise(p, x, "quant_conv", 2 * c->latent_channels);
    int moments = asdm_build_export(p, x, true);
    ASDM_TRY(finish(p, moments, err));
    *ret = (struct asdm_vae_encoder){p, pixels, moments};
    return ASDM_OK;
}
