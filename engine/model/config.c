#include "model/config.h"

#include <string.h>

#include <asdm/error.h>
#include "model/config_keys.h"
#include "model/light_config.h"

enum { CHANNELS_MAX = 16384, SAMPLE_MAX = 16384, HEADS_MAX = 1024 };

/* ---- unet */

static const struct asdm_config_key unet_keys[] = {
    {"act_fn", NULL},
    {"addition_embed_type", "null"},
    {"addition_embed_type_num_heads", NULL},
    {"addition_time_embed_dim", NULL},
    {"asdm", NULL}, /* has keys of its own */
    {"attention_head_dim", NULL},
    {"attention_type", "\"default\""},
    {"block_out_channels", NULL},
    {"center_input_sample", "false"},
    {"class_embed_type", "null"},
    {"class_embeddings_concat", "false"},
    {"conv_in_kernel", NULL},
    {"conv_out_kernel", NULL},
    {"cross_attention_dim", NULL},
    {"cross_attention_norm", "null"},
    {"decay", NULL}, /* this, inv_gamma, min_decay, optimization_step, power, update_after_step, use_ema_warmup: moving
                        average */
    {"down_block_types", NULL},
    {"downsample_padding", "1"},
    {"dropout", NULL}, /* training only */
    {"dual_cross_attention", "false"},
    {"encoder_hid_dim", "null"},
    {"encoder_hid_dim_type", "null"},
    {"flip_sin_to_cos", NULL},
    {"freq_shift", NULL},
    {"in_channels", NULL},
    {"inv_gamma", NULL},
    {"layers_per_block", NULL},
    {"mid_block_only_cross_attention", "false"},
    {"mid_block_scale_factor", "1"},
    {"mid_block_type", NULL},
    {"min_decay", NULL},
    {"norm_eps", NULL},
    {"norm_num_groups", NULL},
    {"num_attention_heads", "null"},
    {"num_class_embeds", "null"},
    {"only_cross_attention", "false"},
    {"optimization_step", NULL},
    {"out_channels", NULL},
    {"power", NULL},
    {"projection_class_embeddings_input_dim", NULL},
    {"resnet_out_scale_factor", "1"},
    {"resnet_skip_time_act", "false"},
    {"resnet_time_scale_shift", "\"default\""},
    {"reverse_transformer_layers_per_block", "null"},
    {"sample_size", NULL},
    {"time_cond_proj_dim", "null"},
    {"time_embedding_act_fn", "null"},
    {"time_embedding_dim", NULL},
    {"time_embedding_type", "\"positional\""},
    {"timestep_post_act", "null"},
    {"transformer_layers_per_block", NULL},
    {"up_block_types", NULL},
    {"upcast_attention", NULL}, /* precision only: scores are float32 everywhere */
    {"update_after_step", NULL},
    {"use_ema_warmup", NULL},
    {"use_linear_projection", NULL},
    {NULL, NULL}};

static enum asdm_status read_channels(const struct asdm_json *json, const char *name, int *stages, int *channels,
                                      struct asdm_error *err) {
    const struct asdm_json *node = asdm_json_get(json, "block_out_channels");
    if (!node || asdm_json_type(node) != ASDM_JSON_ARRAY || asdm_json_count(node) < 1 ||
        asdm_json_count(node) > ASDM_STAGES_MAX)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: block_out_channels: must be an array of 1 to %d numbers", name,
                         ASDM_STAGES_MAX);
    *stages = (int)asdm_json_count(node);
    return asdm_config_get_ints(json, name, "block_out_channels", *stages, 1, CHANNELS_MAX, channels, err);
}

/* An array of block class names, each `plain` or `attention` (NULL: not allowed); *ret says which. */
static enum asdm_status read_blocks(const struct asdm_json *json, const char *name, const char *key, int stages,
                                    const char *plain, const char *attention, bool *ret, struct asdm_error *err) {
    const struct asdm_json *node = asdm_json_get(json, key);
    if (!node || asdm_json_type(node) != ASDM_JSON_ARRAY || asdm_json_count(node) != (size_t)stages)
        return asdm_fail(err, ASDM_ERR_FORMAT,
                         "%s: %s: must be an array of %d block names, one per entry of block_out_channels", name, key,
                         stages);
    int i = 0;
    for (const struct asdm_json *item = asdm_json_first(node); item; item = asdm_json_next(item), i++) {
        const char *text = asdm_json_type(item) == ASDM_JSON_STRING ? asdm_json_string(item) : "";
        ret[i] = attention && strcmp(text, attention) == 0;
        if (!ret[i] && strcmp(text, plain) != 0)
            return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: %s: \"%.60s\" is not supported, only %s%s%s", name, key,
                             text, plain, attention ? " and " : "", attention ? attention : "");
    }
    return ASDM_OK;
}

static enum asdm_status read_sample_size(const struct asdm_json *json, const char *name, struct asdm_unet_config *c,
                                         struct asdm_error *err) {
    int size[2] = {64, 64};
    ASDM_TRY(asdm_config_get_ints(json, name, "sample_size", 2, 1, SAMPLE_MAX, size, err));
    c->sample_height = size[0];
    c->sample_width = size[1];
    return ASDM_OK;
}

static enum asdm_status read_mid_block(const struct asdm_json *json, const char *name, struct asdm_unet_config *c,
                                       struct asdm_error *err) {
    const struct asdm_json *node = asdm_json_get(json, "mid_block_type");
    if (node && asdm_json_type(node) == ASDM_JSON_NULL)
        return ASDM_OK; /* BK-SDM Small and Tiny: no middle block */
    const char *type = "UNetMidBlock2DCrossAttn";
    ASDM_TRY(asdm_json_get_string(json, name, "mid_block_type", &type, err));
    c->mid = true;
    c->mid_attention = strcmp(type, "UNetMidBlock2DCrossAttn") == 0;
    if (!c->mid_attention && strcmp(type, "UNetMidBlock2D") != 0)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                         "%s: mid_block_type: \"%.60s\" is not supported, only UNetMidBlock2DCrossAttn, UNetMidBlock2D "
                         "and null",
                         name, type);
    return ASDM_OK;
}

/* One number for all stages; a list must repeat it. */
static enum asdm_status read_cross_attention_dim(const struct asdm_json *json, const char *name,
                                                 struct asdm_unet_config *c, struct asdm_error *err) {
    int dims[ASDM_STAGES_MAX];
    for (int i = 0; i < c->stages; i++)
        dims[i] = 1280;
    ASDM_TRY(asdm_config_get_ints(json, name, "cross_attention_dim", c->stages, 1, CHANNELS_MAX, dims, err));
    for (int i = 1; i < c->stages; i++)
        if (dims[i] != dims[0])
            return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: cross_attention_dim: must be the same in all stages",
                             name);
    c->cross_attention_dim = dims[0];
    return ASDM_OK;
}

static enum asdm_status read_unet_stages(const struct asdm_json *json, const char *name, struct asdm_unet_config *c,
                                         struct asdm_error *err) {
    bool up[ASDM_STAGES_MAX];
    ASDM_TRY(read_channels(json, name, &c->stages, c->channels, err));
    for (int i = 0; i < c->stages; i++) {
        c->layers[i] = 2;
        c->heads[i] = 8;
        c->transformer_layers[i] = 1;
    }
    ASDM_TRY(asdm_config_get_ints(json, name, "layers_per_block", c->stages, 1, ASDM_LAYERS_MAX, c->layers, err));
    ASDM_TRY(asdm_config_get_ints(json, name, "attention_head_dim", c->stages, 1, HEADS_MAX, c->heads, err));
    ASDM_TRY(asdm_config_get_ints(json, name, "transformer_layers_per_block", c->stages, 1, ASDM_LAYERS_MAX,
                                  c->transformer_layers, err));
    ASDM_TRY(read_blocks(json, name, "down_block_types", c->stages, "DownBlock2D", "CrossAttnDownBlock2D",
                         c->down_attention, err));
    ASDM_TRY(read_blocks(json, name, "up_block_types", c->stages, "UpBlock2D", "CrossAttnUpBlock2D", up, err));
    for (int i = 0; i < c->stages; i++)
        c->up_attention[c->stages - 1 - i] = up[i];
    return read_cross_attention_dim(json, name, c, err);
}

enum asdm_status asdm_unet_config_check(const struct asdm_unet_config *c, const char *name, struct asdm_error *err) {
    if (c->in_channels != 4 || c->out_channels != 4)
        return asdm_fail(
            err, ASDM_ERR_UNSUPPORTED,
            "%s: in_channels, out_channels: %d and %d are not supported, only 4 (9 is an inpainting model)", name,
            c->in_channels, c->out_channels);
    if (c->conv_in_kernel % 2 == 0 || c->conv_out_kernel % 2 == 0)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: conv_in_kernel, conv_out_kernel: must be odd", name);
    for (int i = 0; i < c->stages; i++) {
        bool attention = c->down_attention[i] || c->up_attention[i] || (c->mid_attention && i == c->stages - 1);
        if (c->channels[i] % c->norm_groups)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: norm_num_groups: %d does not divide block_out_channels %d",
                             name, c->norm_groups, c->channels[i]);
        if (attention && c->channels[i] % c->heads[i])
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: attention_head_dim: %d heads do not divide %d channels", name,
                             c->heads[i], c->channels[i]);
    }
    if (c->channels[0] % 2)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: block_out_channels: the first must be even", name);
    return ASDM_OK;
}

enum asdm_status asdm_unet_config_parse(const struct asdm_json *json, const char *name, struct asdm_unet_config *ret,
                                        struct asdm_error *err) {
    struct asdm_unet_config c = {.in_channels = 4,
                                 .out_channels = 4,
                                 .norm_groups = 32,
                                 .norm_eps = 1e-5f,
                                 .activation = ASDM_ACT_SILU,
                                 .flip_sin_to_cos = true,
                                 .conv_in_kernel = 3,
                                 .conv_out_kernel = 3};
    ASDM_TRY(asdm_config_check_keys(json, name, unet_keys, err));
    ASDM_TRY(read_unet_stages(json, name, &c, err));
    ASDM_TRY(read_mid_block(json, name, &c, err));
    ASDM_TRY(read_sample_size(json, name, &c, err));
    ASDM_TRY(asdm_config_get_int(json, name, "in_channels", 1, 64, &c.in_channels, err));
    ASDM_TRY(asdm_config_get_int(json, name, "out_channels", 1, 64, &c.out_channels, err));
    ASDM_TRY(asdm_config_get_int(json, name, "norm_num_groups", 1, 1024, &c.norm_groups, err));
    ASDM_TRY(asdm_config_get_float(json, name, "norm_eps", 0, 1, &c.norm_eps, err));
    ASDM_TRY(asdm_config_get_activation(json, name, "act_fn", &c.activation, err));
    ASDM_TRY(asdm_json_get_bool(json, name, "use_linear_projection", &c.linear_projection, err));
    ASDM_TRY(asdm_json_get_bool(json, name, "flip_sin_to_cos", &c.flip_sin_to_cos, err));
    ASDM_TRY(asdm_config_get_float(json, name, "freq_shift", -1, 1, &c.freq_shift, err));
    ASDM_TRY(asdm_config_get_int(json, name, "conv_in_kernel", 1, 15, &c.conv_in_kernel, err));
    ASDM_TRY(asdm_config_get_int(json, name, "conv_out_kernel", 1, 15, &c.conv_out_kernel, err));
    c.time_embedding_dim = 4 * c.channels[0];
    ASDM_TRY(asdm_config_get_int(json, name, "time_embedding_dim", 1, CHANNELS_MAX * 4, &c.time_embedding_dim, err));
    ASDM_TRY(asdm_unet_config_check(&c, name, err));
    ASDM_TRY(asdm_light_config_parse(json, name, &c, err));
    *ret = c;
    return ASDM_OK;
}

/* ---- vae */

static const struct asdm_config_key vae_keys[] = {
    {"act_fn", NULL},
    {"block_out_channels", NULL},
    {"down_block_types", NULL},
    {"force_upcast", NULL}, /* about fp16, whose range the decoder can leave; fp32 and bf16 cannot */
    {"in_channels", "3"},
    {"latent_channels", "4"},
    {"latents_mean", "null"},
    {"latents_std", "null"},
    {"layers_per_block", NULL},
    {"mid_block_add_attention", NULL},
    {"norm_num_groups", NULL},
    {"out_channels", "3"},
    {"sample_size", NULL},
    {"scaling_factor", NULL},
    {"shift_factor", "0"},
    {"up_block_types", NULL},
    {"use_post_quant_conv", NULL},
    {"use_quant_conv", NULL},
    {NULL, NULL}};

enum asdm_status asdm_vae_config_parse(const struct asdm_json *json, const char *name, struct asdm_vae_config *ret,
                                       struct asdm_error *err) {
    struct asdm_vae_config c = {.in_channels = 3,
                                .out_channels = 3,
                                .latent_channels = 4,
                                .layers = 1,
                                .norm_groups = 32,
                                .activation = ASDM_ACT_SILU,
                                .mid_attention = true,
                                .quant_conv = true,
                                .post_quant_conv = true,
                                .scaling_factor = 0.18215};
    bool unused[ASDM_STAGES_MAX];
    ASDM_TRY(asdm_config_check_keys(json, name, vae_keys, err));
    ASDM_TRY(read_channels(json, name, &c.stages, c.channels, err));
    ASDM_TRY(read_blocks(json, name, "down_block_types", c.stages, "DownEncoderBlock2D", NULL, unused, err));
    ASDM_TRY(read_blocks(json, name, "up_block_types", c.stages, "UpDecoderBlock2D", NULL, unused, err));
    ASDM_TRY(asdm_config_get_int(json, name, "layers_per_block", 1, ASDM_LAYERS_MAX, &c.layers, err));
    ASDM_TRY(asdm_config_get_int(json, name, "norm_num_groups", 1, 1024, &c.norm_groups, err));
    ASDM_TRY(asdm_config_get_activation(json, name, "act_fn", &c.activation, err));
    ASDM_TRY(asdm_json_get_bool(json, name, "mid_block_add_attention", &c.mid_attention, err));
    ASDM_TRY(asdm_json_get_bool(json, name, "use_quant_conv", &c.quant_conv, err));
    ASDM_TRY(asdm_json_get_bool(json, name, "use_post_quant_conv", &c.post_quant_conv, err));
    ASDM_TRY(asdm_json_get_double(json, name, "scaling_factor", 1e-6, 1e6, &c.scaling_factor, err));
    if (c.stages != 4)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                         "%s: block_out_channels: %d stages are not supported, only 4 (a factor of 8)", name, c.stages);
    for (int i = 0; i < c.stages; i++)
        if (c.channels[i] % c.norm_groups)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: norm_num_groups: %d does not divide block_out_channels %d",
                             name, c.norm_groups, c.channels[i]);
    *ret = c;
    return ASDM_OK;
}

/* ---- text encoder */

/* Transformers writes every field of its base class in some versions; those say nothing about a text encoder's result.
 */
static const struct asdm_config_key text_keys[] = {{"hidden_size", NULL},
                                                   {"intermediate_size", NULL},
                                                   {"num_hidden_layers", NULL},
                                                   {"num_attention_heads", NULL},
                                                   {"max_position_embeddings", NULL},
                                                   {"vocab_size", NULL},
                                                   {"layer_norm_eps", NULL},
                                                   {"hidden_act", NULL},
                                                   {"model_type", "\"clip_text_model\""},
                                                   {"use_attention_mask", "false"},
                                                   {"add_cross_attention", "false"},
                                                   {"is_decoder", "false"},
                                                   {"is_encoder_decoder", "false"},
                                                   {"tie_encoder_decoder", NULL},
                                                   {"pruned_heads", NULL},
                                                   {"quantization_config", "null"},
                                                   {"architectures", NULL},
                                                   {"attention_dropout", NULL},
                                                   {"dropout", NULL},
                                                   {"bos_token_id", NULL},
                                                   {"eos_token_id", NULL},
                                                   {"pad_token_id", NULL},
                                                   {"sep_token_id", NULL},
                                                   {"decoder_start_token_id", NULL},
                                                   {"initializer_factor", NULL},
                                                   {"initializer_range", NULL},
                                                   {"projection_dim", NULL},
                                                   {"dtype", NULL},
                                                   {"torch_dtype", NULL},
                                                   {"transformers_version", NULL},
                                                   {"attn_implementation", NULL},
                                                   {"return_dict", NULL},
                                                   {"output_hidden_states", NULL},
                                                   {"output_attentions", NULL},
                                                   {"output_scores", NULL},
                                                   {"torchscript", NULL},
                                                   {"use_bfloat16", NULL},
                                                   {"tie_word_embeddings", NULL},
                                                   {"cross_attention_hidden_size", NULL},
                                                   {"chunk_size_feed_forward", NULL},
                                                   {"finetuning_task", NULL},
                                                   {"id2label", NULL},
                                                   {"label2id", NULL},
                                                   {"num_labels", NULL},
                                                   {"tokenizer_class", NULL},
                                                   {"prefix", NULL},
                                                   {"task_specific_params", NULL},
                                                   {"problem_type", NULL},
                                                   {"max_length", NULL},
                                                   {"min_length", NULL},
                                                   {"do_sample", NULL},
                                                   {"early_stopping", NULL},
                                                   {"num_beams", NULL},
                                                   {"num_beam_groups", NULL},
                                                   {"diversity_penalty", NULL},
                                                   {"temperature", NULL},
                                                   {"top_k", NULL},
                                                   {"top_p", NULL},
                                                   {"typical_p", NULL},
                                                   {"repetition_penalty", NULL},
                                                   {"length_penalty", NULL},
                                                   {"no_repeat_ngram_size", NULL},
                                                   {"encoder_no_repeat_ngram_size", NULL},
                                                   {"bad_words_ids", NULL},
                                                   {"num_return_sequences", NULL},
                                                   {"return_dict_in_generate", NULL},
                                                   {"forced_bos_token_id", NULL},
                                                   {"forced_eos_token_id", NULL},
                                                   {"remove_invalid_values", NULL},
                                                   {"exponential_decay_length_penalty", NULL},
                                                   {"suppress_tokens", NULL},
                                                   {"begin_suppress_tokens", NULL},
                                                   {"tf_legacy_loss", NULL},
                                                   {NULL, NULL}};

enum asdm_status asdm_text_config_parse(const struct asdm_json *json, const char *name, struct asdm_text_config *ret,
                                        struct asdm_error *err) {
    struct asdm_text_config c = {.vocab_size = 49408,
                                 .hidden_size = 512,
                                 .intermediate_size = 2048,
                                 .layers = 12,
                                 .heads = 8,
                                 .positions = 77,
                                 .norm_eps = 1e-5f,
                                 .activation = ASDM_ACT_QUICK_GELU};
    ASDM_TRY(asdm_config_check_keys(json, name, text_keys, err));
    ASDM_TRY(asdm_config_get_int(json, name, "vocab_size", 1, 10000000, &c.vocab_size, err));
    ASDM_TRY(asdm_config_get_int(json, name, "hidden_size", 1, CHANNELS_MAX, &c.hidden_size, err));
    ASDM_TRY(asdm_config_get_int(json, name, "intermediate_size", 1, CHANNELS_MAX * 4, &c.intermediate_size, err));
    ASDM_TRY(asdm_config_get_int(json, name, "num_hidden_layers", 1, 256, &c.layers, err));
    ASDM_TRY(asdm_config_get_int(json, name, "num_attention_heads", 1, HEADS_MAX, &c.heads, err));
    ASDM_TRY(asdm_config_get_int(json, name, "max_position_embeddings", 77, 4096, &c.positions, err));
    ASDM_TRY(asdm_config_get_float(json, name, "layer_norm_eps", 0, 1, &c.norm_eps, err));
    ASDM_TRY(asdm_config_get_activation(json, name, "hidden_act", &c.activation, err));
    if (c.hidden_size % c.heads)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: num_attention_heads: %d heads do not divide hidden_size %d", name,
                         c.heads, c.hidden_size);
    *ret = c;
    return ASDM_OK;
}
