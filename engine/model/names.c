#include "model/names.h"

#include <stdio.h>
#include <string.h>

/* ---- small string tools */

/* After `prefix`, or NULL. */
static const char *after(const char *text, const char *prefix) {
    size_t length = strlen(prefix);
    return strncmp(text, prefix, length) == 0 ? text + length : NULL;
}

struct renaming {
    const char *ours, *theirs;
};

/* Writes prefix + `name` with its first matching beginning replaced. */
static void rename_start(char dst[ASDM_NAME_MAX], const char *prefix, const char *name, const struct renaming *table) {
    for (; table->ours; table++) {
        const char *rest = after(name, table->ours);
        if (rest) {
            snprintf(dst, ASDM_NAME_MAX, "%s%s%s", prefix, table->theirs, rest);
            return;
        }
    }
    snprintf(dst, ASDM_NAME_MAX, "%s%s", prefix, name);
}

/* ---- unet, original names (CompVis/stable-diffusion, openaimodel.py) */

static const struct renaming resnet_names[] = {{"norm1", "in_layers.0"},
                                               {"conv1", "in_layers.2"},
                                               {"time_emb_proj", "emb_layers.1"},
                                               {"norm2", "out_layers.0"},
                                               {"conv2", "out_layers.3"},
                                               {"conv_shortcut", "skip_connection"},
                                               {NULL, NULL}};

static const struct renaming unet_names[] = {{"conv_in", "input_blocks.0.0"},
                                             {"time_embedding.linear_1", "time_embed.0"},
                                             {"time_embedding.linear_2", "time_embed.2"},
                                             {"conv_norm_out", "out.0"},
                                             {"conv_out", "out.2"},
                                             {NULL, NULL}};

/* Number of input block (0 is conv_in) of down layer (stage, layer); a stage's downsampler follows its layers. */
static int input_block(const struct asdm_unet_config *c, int stage, int layer) {
    int n = 1;
    for (int i = 0; i < stage && i < c->stages; i++)
        n += c->layers[i] + 1;
    return n + layer;
}

static int output_block(const struct asdm_unet_config *c, int up, int layer) {
    int n = 0;
    for (int i = 0; i < up && i < c->stages; i++)
        n += c->layers[c->stages - 1 - i] + 1;
    return n + layer;
}

static void unet_block_name(const struct asdm_unet_config *c, const char *name, char dst[ASDM_NAME_MAX]) {
    char prefix[96];
    int block, layer, used = 0;
    if (sscanf(name, "down_blocks.%d.resnets.%d.%n", &block, &layer, &used) == 2 && used) {
        snprintf(prefix, sizeof prefix, "input_blocks.%d.0.", input_block(c, block, layer));
        rename_start(dst, prefix, name + used, resnet_names);
    } else if (sscanf(name, "down_blocks.%d.attentions.%d.%n", &block, &layer, &used) == 2 && used) {
        snprintf(dst, ASDM_NAME_MAX, "input_blocks.%d.1.%s", input_block(c, block, layer), name + used);
    } else if (sscanf(name, "down_blocks.%d.downsamplers.0.conv.%n", &block, &used) == 1 && used) {
        snprintf(dst, ASDM_NAME_MAX, "input_blocks.%d.0.op.%s", input_block(c, block, c->layers[block]), name + used);
    } else if (sscanf(name, "up_blocks.%d.resnets.%d.%n", &block, &layer, &used) == 2 && used) {
        snprintf(prefix, sizeof prefix, "output_blocks.%d.0.", output_block(c, block, layer));
        rename_start(dst, prefix, name + used, resnet_names);
    } else if (sscanf(name, "up_blocks.%d.attentions.%d.%n", &block, &layer, &used) == 2 && used) {
        snprintf(dst, ASDM_NAME_MAX, "output_blocks.%d.1.%s", output_block(c, block, layer), name + used);
    } else if (sscanf(name, "up_blocks.%d.upsamplers.0.conv.%n", &block, &used) == 1 && used) {
        int stage = c->stages - 1 - block;
        snprintf(dst, ASDM_NAME_MAX, "output_blocks.%d.%d.conv.%s", output_block(c, block, c->layers[stage]),
                 c->up_attention[stage] ? 2 : 1, name + used);
    } else if (sscanf(name, "mid_block.resnets.%d.%n", &layer, &used) == 1 && used) {
        snprintf(prefix, sizeof prefix, "middle_block.%d.", layer * 2);
        rename_start(dst, prefix, name + used, resnet_names);
    } else if (after(name, "mid_block.attentions.0.")) {
        snprintf(dst, ASDM_NAME_MAX, "middle_block.1.%s", after(name, "mid_block.attentions.0."));
    } else {
        rename_start(dst, "", name, unet_names);
    }
}

static void original_unet_name(const struct asdm_checkpoint *c, const char *name, char dst[ASDM_NAME_MAX]) {
    char inner[ASDM_NAME_MAX];
    unet_block_name(&c->unet, name, inner);
    snprintf(dst, ASDM_NAME_MAX, "model.diffusion_model.%.290s", inner);
}

/* ---- autoencoder, original names (CompVis/latent-diffusion, model.py) */

static const struct renaming vae_resnet_names[] = {{"conv_shortcut", "nin_shortcut"}, {NULL, NULL}};

static const struct renaming vae_attention_names[] = {
    {"group_norm", "norm"}, {"to_q", "q"}, {"to_k", "k"}, {"to_v", "v"}, {"to_out.0", "proj_out"}, {NULL, NULL}};

static const struct renaming vae_names[] = {{"conv_norm_out", "norm_out"}, {NULL, NULL}};

static void original_vae_name(const struct asdm_checkpoint *c, const char *name, char dst[ASDM_NAME_MAX]) {
    const char *inner = strchr(name, '.');
    bool decoder = after(name, "decoder.") != NULL;
    char prefix[96];
    int block, layer, used = 0;
    if (!decoder && !after(name, "encoder.")) { /* quant_conv, post_quant_conv */
        snprintf(dst, ASDM_NAME_MAX, "first_stage_model.%s", name);
        return;
    }
    const char *side = decoder ? "decoder" : "encoder";
    inner++;
    if (sscanf(inner, "down_blocks.%d.resnets.%d.%n", &block, &layer, &used) == 2 && used) {
        snprintf(prefix, sizeof prefix, "first_stage_model.%s.down.%d.block.%d.", side, block, layer);
        rename_start(dst, prefix, inner + used, vae_resnet_names);
    } else if (sscanf(inner, "up_blocks.%d.resnets.%d.%n", &block, &layer, &used) == 2 && used) {
        snprintf(prefix, sizeof prefix, "first_stage_model.%s.up.%d.block.%d.", side, c->vae.stages - 1 - block, layer);
        rename_start(dst, prefix, inner + used, vae_resnet_names);
    } else if (sscanf(inner, "down_blocks.%d.downsamplers.0.%n", &block, &used) == 1 && used) {
        snprintf(dst, ASDM_NAME_MAX, "first_stage_model.%s.down.%d.downsample.%s", side, block, inner + used);
    } else if (sscanf(inner, "up_blocks.%d.upsamplers.0.%n", &block, &used) == 1 && used) {
        snprintf(dst, ASDM_NAME_MAX, "first_stage_model.%s.up.%d.upsample.%s", side, c->vae.stages - 1 - block,
                 inner + used);
    } else if (sscanf(inner, "mid_block.resnets.%d.%n", &layer, &used) == 1 && used) {
        snprintf(prefix, sizeof prefix, "first_stage_model.%s.mid.block_%d.", side, layer + 1);
        rename_start(dst, prefix, inner + used, vae_resnet_names);
    } else if (sscanf(inner, "mid_block.attentions.0.%n", &used) == 0 && used) {
        snprintf(prefix, sizeof prefix, "first_stage_model.%s.mid.attn_1.", side);
        rename_start(dst, prefix, inner + used, vae_attention_names);
    } else {
        snprintf(prefix, sizeof prefix, "first_stage_model.%s.", side);
        rename_start(dst, prefix, inner, vae_names);
    }
}

/* Diffusers' names for the autoencoder's attention before 0.15, still in many released files. */
static bool old_vae_name(const char *name, char dst[ASDM_NAME_MAX]) {
    static const struct renaming table[] = {
        {"to_q.", "query."}, {"to_k.", "key."}, {"to_v.", "value."}, {"to_out.0.", "proj_attn."}, {NULL, NULL}};
    const char *attention = strstr(name, "attentions.0.");
    char prefix[ASDM_NAME_MAX];
    if (!attention)
        return false;
    snprintf(prefix, sizeof prefix, "%.*s", (int)(attention - name) + 13, name);
    rename_start(dst, prefix, attention + 13, table);
    return strcmp(dst, name) != 0;
}

/* ---- text encoder */

static const struct renaming openclip_names[] = {
    {"text_model.embeddings.token_embedding.weight", "token_embedding.weight"},
    {"text_model.embeddings.position_embedding.weight", "positional_embedding"},
    {"text_model.final_layer_norm", "ln_final"},
    {NULL, NULL}};

static const struct renaming openclip_layer_names[] = {
    {"layer_norm1", "ln_1"}, {"layer_norm2", "ln_2"},   {"self_attn.out_proj", "attn.out_proj"},
    {"mlp.fc1", "mlp.c_fc"}, {"mlp.fc2", "mlp.c_proj"}, {NULL, NULL}};

static void openclip_name(const char *name, struct asdm_file_name *ret) {
    static const char *const stacked[] = {"self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."};
    char prefix[96];
    int layer, used = 0;
    if (sscanf(name, "text_model.encoder.layers.%d.%n", &layer, &used) != 1 || !used) {
        rename_start(ret->name, "cond_stage_model.model.", name, openclip_names);
        return;
    }
    for (int part = 0; part < 3; part++) {
        const char *rest = after(name + used, stacked[part]);
        if (rest) { /* "weight" or "bias" of q, k, v, one above the other */
            snprintf(ret->name, ASDM_NAME_MAX, "cond_stage_model.model.transformer.resblocks.%d.attn.in_proj_%s", layer,
                     rest);
            ret->part = part;
            ret->parts = 3;
            return;
        }
    }
    snprintf(prefix, sizeof prefix, "cond_stage_model.model.transformer.resblocks.%d.", layer);
    rename_start(ret->name, prefix, name + used, openclip_layer_names);
}

/* ---- all together */

static bool diffusers_name(enum asdm_component component, const char *weight, int attempt, struct asdm_file_name *ret) {
    if (attempt == 0) {
        snprintf(ret->name, ASDM_NAME_MAX, "%s", weight);
        return true;
    }
    if (attempt > 1)
        return false;
    if (component == ASDM_COMPONENT_VAE)
        return old_vae_name(weight, ret->name);
    const char *bare = component == ASDM_COMPONENT_TEXT ? after(weight, "text_model.") : NULL;
    if (bare)
        snprintf(ret->name, ASDM_NAME_MAX, "%s", bare);
    return bare != NULL;
}

bool asdm_file_name(const struct asdm_checkpoint *checkpoint, enum asdm_component component, const char *weight,
                    int attempt, struct asdm_file_name *ret) {
    *ret = (struct asdm_file_name){.parts = 1};
    if (checkpoint->layout == ASDM_LAYOUT_DIFFUSERS)
        return diffusers_name(component, weight, attempt, ret);
    if (component == ASDM_COMPONENT_UNET) {
        original_unet_name(checkpoint, weight, ret->name);
    } else if (component == ASDM_COMPONENT_VAE) {
        original_vae_name(checkpoint, weight, ret->name);
    } else if (checkpoint->layout == ASDM_LAYOUT_ORIGINAL_OPENCLIP) {
        openclip_name(weight, ret);
    } else { /* with and, in some conversions, without "text_model." */
        const char *bare = after(weight, "text_model.");
        snprintf(ret->name, ASDM_NAME_MAX, "cond_stage_model.transformer.%s", attempt && bare ? bare : weight);
        return attempt < 2;
    }
    return attempt == 0;
}

bool asdm_file_name_is_extra(const struct asdm_checkpoint *checkpoint, enum asdm_component component,
                             const char *name) {
    static const char *const prefixes[] = {"model.diffusion_model.", "first_stage_model.", "cond_stage_model."};
    /* Buffers, projections that only CLIP's training needs, the autoencoder's loss, and OpenCLIP's last layer, which
     * SD 2.x skips. */
    static const char *const harmless[] = {"position_ids", "logit_scale", "text_projection", "first_stage_model.loss.",
                                           "attn_mask",    "model_ema"};
    if (checkpoint->layout != ASDM_LAYOUT_DIFFUSERS && !after(name, prefixes[component]))
        return false;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        if (strstr(name, harmless[i]))
            return false;
    int layer;
    if (checkpoint->layout == ASDM_LAYOUT_ORIGINAL_OPENCLIP &&
        sscanf(name, "cond_stage_model.model.transformer.resblocks.%d.", &layer) == 1)
        return layer != checkpoint->text.layers;
    return true;
}
