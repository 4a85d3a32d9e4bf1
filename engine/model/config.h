/* What a checkpoint's configuration files say about its architecture. Every key is honoured, known to change nothing,
 * or refused by name. */
#ifndef ASDM_CONFIG_H
#define ASDM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <asdm/status.h>
#include <asdm/json.h>
#include "ops/op.h"

enum { ASDM_STAGES_MAX = 8, ASDM_LAYERS_MAX = 16 };

/* Global-regional attention (ops/op.h) instead of the self-attention of some stages. */
struct asdm_gri_config {
    bool stages[ASDM_STAGES_MAX];
    int window, pool; /* 0 where no stage has it */
};

/* Conditional convolution in resnets (ops/op.h): each keeps its own kernels beside those of removed ones. */
enum asdm_routing {
    ASDM_ROUTING_NONE,
    ASDM_ROUTING_FULL,    /* by the mean of the resnet's input and the time embedding */
    ASDM_ROUTING_TIMESTEP /* by the time embedding alone */
};
enum asdm_resnet_part { ASDM_PART_CONV1 = 1, ASDM_PART_CONV2 = 2, ASDM_PART_TIME = 4, ASDM_PART_SHORTCUT = 8 };
enum { ASDM_CONDCONV_MAX = 32 };

struct asdm_condconv_config {
    enum asdm_routing routing;
    float temperature;
    int resnet_count;
    struct asdm_experts {
        char resnet[48]; /* "down_blocks.0.resnets.0" */
        int count;       /* its own kernels among them */
        unsigned parts;  /* those that are mixed */
    } resnets[ASDM_CONDCONV_MAX];
};

/* unet/config.json (diffusers' UNet2DConditionModel). Stages are counted from the largest map down. */
struct asdm_unet_config {
    int in_channels, out_channels;
    int sample_height, sample_width; /* latents the model was made for */
    int stages;
    int channels[ASDM_STAGES_MAX]; /* block_out_channels */
    int layers[ASDM_STAGES_MAX];   /* layers_per_block, of the down side; the up side has one more */
    int heads[ASDM_STAGES_MAX];    /* attention_head_dim, which in diffusers' files is the number of heads */
    int transformer_layers[ASDM_STAGES_MAX];
    bool down_attention[ASDM_STAGES_MAX]; /* by stage */
    bool up_attention[ASDM_STAGES_MAX];   /* by stage: up_block_types reversed */
    bool mid, mid_attention;              /* mid_block_type */
    int cross_attention_dim;
    int norm_groups;
    float norm_eps;
    enum asdm_activation activation;
    bool linear_projection;
    int time_embedding_dim;
    bool flip_sin_to_cos;
    float freq_shift;
    int conv_in_kernel, conv_out_kernel;
    struct asdm_gri_config gri;
    struct asdm_condconv_config condconv;
};

/* vae/config.json (AutoencoderKL). */
struct asdm_vae_config {
    int in_channels, out_channels, latent_channels;
    int stages;
    int channels[ASDM_STAGES_MAX];
    int layers; /* resnets per down block; up blocks have one more */
    int norm_groups;
    enum asdm_activation activation;
    bool mid_attention, quant_conv, post_quant_conv;
    double scaling_factor; /* the UNet's latents = the autoencoder's * this */
};

/* text_encoder/config.json (CLIPTextModel). */
struct asdm_text_config {
    int vocab_size, hidden_size, intermediate_size, layers, heads, positions;
    float norm_eps;
    enum asdm_activation activation;
};

/* `name` is the file's path, for messages. */
enum asdm_status asdm_unet_config_parse(const struct asdm_json *json, const char *name, struct asdm_unet_config *ret,
                                        struct asdm_error *err);
enum asdm_status asdm_vae_config_parse(const struct asdm_json *json, const char *name, struct asdm_vae_config *ret,
                                       struct asdm_error *err);
enum asdm_status asdm_text_config_parse(const struct asdm_json *json, const char *name, struct asdm_text_config *ret,
                                        struct asdm_error *err);

/* Checks that hold however the configuration was made (from files or from a one-file checkpoint's shapes). */
enum asdm_status asdm_unet_config_check(const struct asdm_unet_config *config, const char *name,
                                        struct asdm_error *err);

#endif
