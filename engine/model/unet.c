#include <string.h>

#include <asdm/error.h>
#include "model/build.h"
#include "model/resnet.h"

enum { SKIPS_MAX = ASDM_STAGES_MAX * (ASDM_LAYERS_MAX + 1) + 1 };

struct builder {
    struct asdm_program *p;
    const struct asdm_unet_config *config;
    struct asdm_resnet resnet;
    int context;
    int skips[SKIPS_MAX], skip_count; /* taken last in, first out */
};

/* ---- transformer */

/* `gri`: global-regional where it attends to itself. */
static int build_attention(struct builder *b, int x, int context, int heads, bool gri, const char *name) {
    const struct asdm_gri_config *c = &b->config->gri;
    int channels = b->p->values[x].channels;
    int q = asdm_build_linear(b->p, x, asdm_build_name(b->p, "%s.to_q", name), channels, false);
    int k = asdm_build_linear(b->p, context, asdm_build_name(b->p, "%s.to_k", name), channels, false);
    int v = asdm_build_linear(b->p, context, asdm_build_name(b->p, "%s.to_v", name), channels, false);
    int h = gri ? asdm_build_gri_attention(b->p, q, k, v, heads, c->window, c->pool)
                : asdm_build_attention(b->p, q, k, v, heads, false);
    return asdm_build_linear(b->p, h, asdm_build_name(b->p, "%s.to_out.0", name), channels, true);
}

static int build_feed_forward(struct builder *b, int x, const char *name) {
    int channels = b->p->values[x].channels;
    int h = asdm_build_linear(b->p, x, asdm_build_name(b->p, "%s.net.0.proj", name), channels * 8, true);
    h = asdm_build_geglu(b->p, h);
    return asdm_build_linear(b->p, h, asdm_build_name(b->p, "%s.net.2", name), channels, true);
}

static int build_transformer_layer(struct builder *b, int x, int stage, const char *name) {
    int heads = b->config->heads[stage];
    bool gri = b->config->gri.stages[stage];
    int h = asdm_build_layer_norm(b->p, x, asdm_build_name(b->p, "%s.norm1", name), 1e-5f);
    x = asdm_build_add(b->p, build_attention(b, h, h, heads, gri, asdm_build_name(b->p, "%s.attn1", name)), x);
    h = asdm_build_layer_norm(b->p, x, asdm_build_name(b->p, "%s.norm2", name), 1e-5f);
    x = asdm_build_add(b->p, build_attention(b, h, b->context, heads, false, asdm_build_name(b->p, "%s.attn2", name)),
                       x);
    h = asdm_build_layer_norm(b->p, x, asdm_build_name(b->p, "%s.norm3", name), 1e-5f);
    return asdm_build_add(b->p, build_feed_forward(b, h, asdm_build_name(b->p, "%s.ff", name)), x);
}

static int build_projection(struct builder *b, int x, const char *name, int channels) {
    return b->config->linear_projection ? asdm_build_linear(b->p, x, name, channels, true)
                                        : asdm_build_pointwise(b->p, x, name, channels);
}

static int build_transformer(struct builder *b, int x, int stage, const char *name) {
    if (b->p->status != ASDM_OK)
        return 0;
    int channels = b->p->values[x].channels;
    int h = asdm_build_group_norm(b->p, x, asdm_build_name(b->p, "%s.norm", name), b->config->norm_groups, 1e-6f);
    h = build_projection(b, h, asdm_build_name(b->p, "%s.proj_in", name), channels);
    for (int i = 0; i < b->config->transformer_layers[stage] && b->p->status == ASDM_OK; i++)
        h = build_transformer_layer(b, h, stage, asdm_build_name(b->p, "%s.transformer_blocks.%d", name, i));
    h = build_projection(b, h, asdm_build_name(b->p, "%s.proj_out", name), channels);
    return asdm_build_add(b->p, h, x);
}

/* ---- stages */

static int build_resnet(struct builder *b, int x, int channels, const char *name) {
    const struct asdm_condconv_config *c = &b->config->condconv;
    struct asdm_resnet resnet = b->resnet;
    struct asdm_resnet_experts experts = {.routing = c->routing, .temperature = c->temperature};
    for (int i = 0; i < c->resnet_count; i++)
        if (strcmp(c->resnets[i].resnet, name) == 0) {
            experts.count = c->resnets[i].count;
            experts.parts = c->resnets[i].parts;
            resnet.experts = &experts;
        }
    return asdm_build_resnet(b->p, &resnet, x, channels, name);
}

static void push_skip(struct builder *b, int x) {
    ASDM_ASSERT(b->skip_count < SKIPS_MAX);
    b->skips[b->skip_count++] = x;
}

static int build_down(struct builder *b, int x, int stage) {
    const struct asdm_unet_config *c = b->config;
    for (int i = 0; i < c->layers[stage]; i++) {
        x = build_resnet(b, x, c->channels[stage], asdm_build_name(b->p, "down_blocks.%d.resnets.%d", stage, i));
        if (c->down_attention[stage])
            x = build_transformer(b, x, stage, asdm_build_name(b->p, "down_blocks.%d.attentions.%d", stage, i));
        push_skip(b, x);
    }
    if (stage + 1 < c->stages) {
        x = asdm_build_conv2d(b->p, x, asdm_build_name(b->p, "down_blocks.%d.downsamplers.0.conv", stage),
                              c->channels[stage], 3, 2, 1, 1);
        push_skip(b, x);
    }
    return x;
}

static int build_mid(struct builder *b, int x) {
    const struct asdm_unet_config *c = b->config;
    int stage = c->stages - 1, channels = c->channels[stage];
    if (!c->mid)
        return x;
    x = build_resnet(b, x, channels, "mid_block.resnets.0");
    if (!c->mid_attention)
        return x;
    x = build_transformer(b, x, stage, "mid_block.attentions.0");
    return build_resnet(b, x, channels, "mid_block.resnets.1");
}

/* Up block `up` works on stage stages - 1 - up. */
static int build_up(struct builder *b, int x, int up) {
    const struct asdm_unet_config *c = b->config;
    int stage = c->stages - 1 - up;
    for (int i = 0; i <= c->layers[stage]; i++) {
        ASDM_ASSERT(b->skip_count > 0);
        x = asdm_build_concat(b->p, x, b->skips[--b->skip_count]);
        x = build_resnet(b, x, c->channels[stage], asdm_build_name(b->p, "up_blocks.%d.resnets.%d", up, i));
        if (c->up_attention[stage])
            x = build_transformer(b, x, stage, asdm_build_name(b->p, "up_blocks.%d.attentions.%d", up, i));
    }
    if (stage > 0) {
        x = asdm_build_upsample(b->p, x);
        x = asdm_build_conv2d(b->p, x, asdm_build_name(b->p, "up_blocks.%d.upsamplers.0.conv", up), c->channels[stage],
                              3, 1, 1, 1);
    }
    return x;
}

/* Sinusoids through a two-layer perceptron; the activation that every resnet puts before its own projection is common
 * to all. */
static int build_time(struct builder *b, int timestep) {
    const struct asdm_unet_config *c = b->config;
    int t = asdm_build_timestep_embedding(b->p, timestep, c->channels[0], c->flip_sin_to_cos, c->freq_shift);
    t = asdm_build_linear(b->p, t, "time_embedding.linear_1", c->time_embedding_dim, true);
    t = asdm_build_activation(b->p, t, c->activation);
    t = asdm_build_linear(b->p, t, "time_embedding.linear_2", c->time_embedding_dim, true);
    return asdm_build_activation(b->p, t, c->activation);
}

static int build_head(struct builder *b, int x) {
    const struct asdm_unet_config *c = b->config;
    x = asdm_build_group_norm(b->p, x, "conv_norm_out", c->norm_groups, c->norm_eps);
    x = asdm_build_activation(b->p, x, c->activation);
    int pad = c->conv_out_kernel / 2;
    x = asdm_build_conv2d(b->p, x, "conv_out", c->out_channels, c->conv_out_kernel, 1, pad, pad);
    return asdm_build_export(b->p, x, true);
}

enum asdm_status asdm_unet_build(const struct asdm_unet_config *c, int tokens, struct asdm_unet *ret,
                                 struct asdm_error *err) {
    struct asdm_program *p;
    ASDM_TRY(asdm_program_create("unet", &p, err));
    struct builder b = {.p = p, .config = c, .resnet = {c->norm_groups, c->norm_eps, c->activation, ASDM_NONE, NULL}};
    struct asdm_unet unet = {.program = p};
    unet.timestep = asdm_build_input(p, asdm_dim_const(1), asdm_dim_const(1), 1, ASDM_RATE_SCHEDULE);
    unet.context =
        asdm_build_input(p, asdm_dim_const(1), asdm_dim_const(tokens), c->cross_attention_dim, ASDM_RATE_PROMPT);
    unet.latents = asdm_build_input(p, asdm_dim_height(0), asdm_dim_width(0), c->in_channels, ASDM_RATE_STEP);
    b.context = asdm_build_import(p, unet.context, false);
    b.resnet.time = build_time(&b, unet.timestep);
    int pad = c->conv_in_kernel / 2;
    int x = asdm_build_conv2d(p, asdm_build_import(p, unet.latents, true), "conv_in", c->channels[0], c->conv_in_kernel,
                              1, pad, pad);
    push_skip(&b, x);
    for (int stage = 0; stage < c->stages; stage++)
        x = unet.down[stage] = build_down(&b, x, stage);
    x = build_mid(&b, x);
    unet.mid = c->mid ? x : ASDM_NONE;
    for (int up = 0; up < c->stages; up++)
        x = unet.up[up] = build_up(&b, x, up);
    unet.prediction = build_head(&b, x);
    asdm_build_output(p, unet.prediction);
    enum asdm_status status = asdm_program_finish(p, err);
    if (status != ASDM_OK)
        asdm_program_destroy(&p);
    else
        *ret = unet;
    return status;
}
