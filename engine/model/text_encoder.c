#include <asdm/error.h>
#include "model/build.h"
#include "model/resnet.h"

/* Pre-norm self-attention, causal. */
static int build_attention(struct asdm_program *p, const struct asdm_text_config *c, int x, const char *layer) {
    int h = asdm_build_layer_norm(p, x, asdm_build_name(p, "%s.layer_norm1", layer), c->norm_eps);
    int q = asdm_build_linear(p, h, asdm_build_name(p, "%s.self_attn.q_proj", layer), c->hidden_size, true);
    int k = asdm_build_linear(p, h, asdm_build_name(p, "%s.self_attn.k_proj", layer), c->hidden_size, true);
    int v = asdm_build_linear(p, h, asdm_build_name(p, "%s.self_attn.v_proj", layer), c->hidden_size, true);
    h = asdm_build_attention(p, q, k, v, c->heads, true);
    h = asdm_build_linear(p, h, asdm_build_name(p, "%s.self_attn.out_proj", layer), c->hidden_size, true);
    return asdm_build_add(p, h, x);
}

static int build_mlp(struct asdm_program *p, const struct asdm_text_config *c, int x, const char *layer) {
    int h = asdm_build_layer_norm(p, x, asdm_build_name(p, "%s.layer_norm2", layer), c->norm_eps);
    h = asdm_build_linear(p, h, asdm_build_name(p, "%s.mlp.fc1", layer), c->intermediate_size, true);
    h = asdm_build_activation(p, h, c->activation);
    h = asdm_build_linear(p, h, asdm_build_name(p, "%s.mlp.fc2", layer), c->hidden_size, true);
    return asdm_build_add(p, h, x);
}

enum asdm_status asdm_text_encoder_build(const struct asdm_text_config *c, int tokens, struct asdm_text_encoder *ret,
                                         struct asdm_error *err) {
    struct asdm_program *p;
    ASDM_TRY(asdm_program_create("text_encoder", &p, err));
    int ids = asdm_build_input(p, asdm_dim_const(1), asdm_dim_const(tokens), 1, ASDM_RATE_STEP);
    int x = asdm_build_embedding(p, ids, "text_model.embeddings.token_embedding", c->vocab_size,
                                 "text_model.embeddings.position_embedding", c->positions, c->hidden_size);
    for (int i = 0; i < c->layers; i++) {
        const char *layer = asdm_build_name(p, "text_model.encoder.layers.%d", i);
        x = build_attention(p, c, x, layer);
        x = build_mlp(p, c, x, layer);
    }
    x = asdm_build_layer_norm(p, x, "text_model.final_layer_norm", c->norm_eps);
    int embeds = asdm_build_export(p, x, false);
    asdm_build_output(p, embeds);
    enum asdm_status status = asdm_program_finish(p, err);
    if (status != ASDM_OK)
        asdm_program_destroy(&p);
    else
        *ret = (struct asdm_text_encoder){p, ids, embeds};
    return status;
}
