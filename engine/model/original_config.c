#include "model/original_config.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <asdm/error.h>

enum { CHANNELS_PER_HEAD = 64, SD1_HEADS = 8 };

/* A tensor of the file by formatted name; NULL when there is none. */
__attribute__((format(printf, 2, 3))) static const struct asdm_tensor *find(const struct asdm_checkpoint *c,
                                                                            const char *format, ...) {
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return asdm_safetensors_find(c->files[0], name);
}

static enum asdm_status need(const struct asdm_checkpoint *c, const char *name, int rank,
                             const struct asdm_tensor **ret, struct asdm_error *err) {
    const struct asdm_tensor *tensor = asdm_safetensors_find(c->files[0], name);
    if (!tensor)
        return asdm_fail(err, ASDM_ERR_FORMAT,
                         "%s: no tensor %s: not a whole Stable Diffusion 1.x or 2.x checkpoint with its original names",
                         c->path, name);
    if (tensor->rank < rank || tensor->dims[0] > 1 << 20 || tensor->dims[1] > 1 << 20)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: tensor %s has the wrong shape", c->path, name);
    *ret = tensor;
    return ASDM_OK;
}

static int count_transformer_layers(const struct asdm_checkpoint *c, const char *block) {
    int count = 0;
    while (count < ASDM_LAYERS_MAX &&
           find(c, "model.diffusion_model.%s.1.transformer_blocks.%d.norm1.weight", block, count))
        count++;
    return count;
}

/* What one attention block tells: cross_attention_dim, and whether projections are linears. */
static void read_attention(const struct asdm_checkpoint *c, struct asdm_unet_config *u, const char *block) {
    const struct asdm_tensor *to_k =
        find(c, "model.diffusion_model.%s.1.transformer_blocks.0.attn2.to_k.weight", block);
    const struct asdm_tensor *proj_in = find(c, "model.diffusion_model.%s.1.proj_in.weight", block);
    if (to_k && to_k->rank == 2)
        u->cross_attention_dim = (int)to_k->dims[1];
    if (proj_in)
        u->linear_projection = proj_in->rank == 2;
}

/* Walks input_blocks: layers until a downsampler, which ends a stage. */
static void read_down(const struct asdm_checkpoint *c, struct asdm_unet_config *u) {
    for (int n = 1; u->stages < ASDM_STAGES_MAX; n++) {
        char block[32];
        snprintf(block, sizeof block, "input_blocks.%d", n);
        if (find(c, "model.diffusion_model.%s.0.op.weight", block)) {
            u->stages++;
            continue;
        }
        const struct asdm_tensor *conv = find(c, "model.diffusion_model.%s.0.out_layers.3.weight", block);
        if (!conv || u->layers[u->stages] == ASDM_LAYERS_MAX)
            break;
        u->channels[u->stages] = (int)conv->dims[0];
        u->layers[u->stages]++;
        u->down_attention[u->stages] = count_transformer_layers(c, block) > 0;
        if (u->down_attention[u->stages]) {
            u->transformer_layers[u->stages] = count_transformer_layers(c, block);
            read_attention(c, u, block);
        }
    }
    u->stages++;
}

static void read_up(const struct asdm_checkpoint *c, struct asdm_unet_config *u) {
    int n = 0;
    for (int stage = u->stages - 1; stage >= 0; stage--) {
        char block[32];
        snprintf(block, sizeof block, "output_blocks.%d", n);
        int layers = count_transformer_layers(c, block);
        u->up_attention[stage] = layers > 0;
        if (layers && !u->transformer_layers[stage])
            u->transformer_layers[stage] = layers;
        n += u->layers[stage] + 1;
    }
}

static enum asdm_status read_unet(struct asdm_checkpoint *c, bool openclip, struct asdm_error *err) {
    struct asdm_unet_config u = {.norm_groups = 32,
                                 .norm_eps = 1e-5f,
                                 .activation = ASDM_ACT_SILU,
                                 .flip_sin_to_cos = true,
                                 .sample_height = 64,
                                 .sample_width = 64};
    const struct asdm_tensor *in = NULL, *out = NULL, *time = NULL;
    ASDM_TRY(need(c, "model.diffusion_model.input_blocks.0.0.weight", 4, &in, err));
    ASDM_TRY(need(c, "model.diffusion_model.out.2.weight", 4, &out, err));
    ASDM_TRY(need(c, "model.diffusion_model.time_embed.0.weight", 2, &time, err));
    u.in_channels = (int)in->dims[1];
    u.out_channels = (int)out->dims[0];
    u.conv_in_kernel = (int)in->dims[2];
    u.conv_out_kernel = (int)out->dims[2];
    u.time_embedding_dim = (int)time->dims[0];
    read_down(c, &u);
    if (u.stages > ASDM_STAGES_MAX || !u.channels[u.stages - 1])
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: model.diffusion_model.input_blocks: not a known UNet", c->path);
    read_up(c, &u);
    u.mid = find(c, "model.diffusion_model.middle_block.0.in_layers.0.weight") != NULL;
    u.mid_attention = find(c, "model.diffusion_model.middle_block.1.norm.weight") != NULL;
    if (u.mid_attention) {
        read_attention(c, &u, "middle_block");
        u.transformer_layers[u.stages - 1] = count_transformer_layers(c, "middle_block");
    }
    for (int i = 0; i < u.stages; i++) {
        u.heads[i] = openclip ? u.channels[i] / CHANNELS_PER_HEAD : SD1_HEADS;
        u.heads[i] = u.heads[i] ? u.heads[i] : 1;
    }
    ASDM_TRY(asdm_unet_config_check(&u, c->path, err));
    c->unet = u;
    return ASDM_OK;
}

static enum asdm_status read_vae(struct asdm_checkpoint *c, struct asdm_error *err) {
    struct asdm_vae_config v = {.in_channels = 3,
                                .out_channels = 3,
                                .latent_channels = 4,
                                .stages = 4,
                                .norm_groups = 32,
                                .activation = ASDM_ACT_SILU,
                                .scaling_factor = 0.18215};
    for (int stage = 0; stage < v.stages; stage++) {
        char name[128];
        const struct asdm_tensor *conv = NULL;
        snprintf(name, sizeof name, "first_stage_model.encoder.down.%d.block.0.conv1.weight", stage);
        ASDM_TRY(need(c, name, 4, &conv, err));
        v.channels[stage] = (int)conv->dims[0];
        if (v.channels[stage] < 1 || v.channels[stage] % v.norm_groups)
            return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: %s: %d channels do not divide into %d norm groups",
                             c->path, name, v.channels[stage], v.norm_groups);
    }
    while (v.layers < ASDM_LAYERS_MAX && find(c, "first_stage_model.encoder.down.0.block.%d.conv1.weight", v.layers))
        v.layers++;
    v.mid_attention = find(c, "first_stage_model.decoder.mid.attn_1.q.weight") != NULL;
    v.quant_conv = find(c, "first_stage_model.quant_conv.weight") != NULL;
    v.post_quant_conv = find(c, "first_stage_model.post_quant_conv.weight") != NULL;
    c->vae = v;
    return ASDM_OK;
}

/* OpenCLIP's last block is not read: SD 2.x takes the hidden state before it. */
static enum asdm_status read_openclip(struct asdm_checkpoint *c, struct asdm_error *err) {
    const struct asdm_tensor *tokens = NULL, *positions = NULL, *fc = NULL;
    ASDM_TRY(need(c, "cond_stage_model.model.token_embedding.weight", 2, &tokens, err));
    ASDM_TRY(need(c, "cond_stage_model.model.positional_embedding", 2, &positions, err));
    ASDM_TRY(need(c, "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight", 2, &fc, err));
    int layers = 0;
    while (layers < 256 && find(c, "cond_stage_model.model.transformer.resblocks.%d.ln_1.weight", layers))
        layers++;
    c->text = (struct asdm_text_config){.vocab_size = (int)tokens->dims[0],
                                        .hidden_size = (int)tokens->dims[1],
                                        .intermediate_size = (int)fc->dims[0],
                                        .layers = layers - 1,
                                        .positions = (int)positions->dims[0],
                                        .norm_eps = 1e-5f,
                                        .activation = ASDM_ACT_GELU};
    return ASDM_OK;
}

static enum asdm_status read_clip(struct asdm_checkpoint *c, struct asdm_error *err) {
    bool bare = find(c, "cond_stage_model.transformer.embeddings.token_embedding.weight") != NULL;
    const char *prefix = bare ? "cond_stage_model.transformer" : "cond_stage_model.transformer.text_model";
    const struct asdm_tensor *tokens = NULL, *positions = NULL, *fc = NULL;
    char name[128];
    snprintf(name, sizeof name, "%s.embeddings.token_embedding.weight", prefix);
    ASDM_TRY(need(c, name, 2, &tokens, err));
    snprintf(name, sizeof name, "%s.embeddings.position_embedding.weight", prefix);
    ASDM_TRY(need(c, name, 2, &positions, err));
    snprintf(name, sizeof name, "%s.encoder.layers.0.mlp.fc1.weight", prefix);
    ASDM_TRY(need(c, name, 2, &fc, err));
    int layers = 0;
    while (layers < 256 && find(c, "%s.encoder.layers.%d.layer_norm1.weight", prefix, layers))
        layers++;
    c->text = (struct asdm_text_config){.vocab_size = (int)tokens->dims[0],
                                        .hidden_size = (int)tokens->dims[1],
                                        .intermediate_size = (int)fc->dims[0],
                                        .layers = layers,
                                        .positions = (int)positions->dims[0],
                                        .norm_eps = 1e-5f,
                                        .activation = ASDM_ACT_QUICK_GELU};
    return ASDM_OK;
}

static void read_scheduler(struct asdm_checkpoint *c, bool openclip) {
    const char *prediction = asdm_safetensors_metadata(c->files[0], "modelspec.prediction_type");
    asdm_scheduler_config_init(&c->scheduler);
    bool v = prediction ? strncmp(prediction, "v", 1) == 0 : openclip || find(c, "v_pred");
    c->scheduler.prediction = v ? ASDM_PREDICT_V : ASDM_PREDICT_EPSILON;
    if (openclip && v) /* the 768-pixel models are the ones that predict v */
        c->unet.sample_height = c->unet.sample_width = 96;
}

enum asdm_status asdm_original_config_read(struct asdm_checkpoint *c, struct asdm_error *err) {
    if (find(c, "conditioner.embedders.0.transformer.text_model.embeddings.position_ids") ||
        find(c, "conditioner.embedders.1.model.token_embedding.weight"))
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                         "%s: a Stable Diffusion XL checkpoint; only 1.x and 2.x are supported", c->path);
    bool openclip = find(c, "cond_stage_model.model.token_embedding.weight") != NULL;
    c->layout = openclip ? ASDM_LAYOUT_ORIGINAL_OPENCLIP : ASDM_LAYOUT_ORIGINAL;
    ASDM_TRY(read_unet(c, openclip, err));
    ASDM_TRY(read_vae(c, err));
    ASDM_TRY(openclip ? read_openclip(c, err) : read_clip(c, err));
    c->text.heads = c->text.hidden_size >= CHANNELS_PER_HEAD ? c->text.hidden_size / CHANNELS_PER_HEAD : 1;
    if (c->text.hidden_size < 1 || c->text.hidden_size % c->text.heads || c->text.layers < 1 || c->text.positions < 77)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: cond_stage_model: not a known text encoder", c->path);
    read_scheduler(c, openclip);
    return ASDM_OK;
}
