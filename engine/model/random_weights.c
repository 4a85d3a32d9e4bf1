/* Architectures without a checkpoint: known shapes, and weights that are pieces of one pool of random numbers. */
#include "model/random_weights.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

enum { RANDOM_COUNT = 40 << 20 /* more than any one tensor has elements */, RANDOM_SHIFTS = 4096 };

/* A piece of the pool that depends on the name, so that tensors differ. */
enum asdm_status asdm_random_weight_find(const uint16_t *pool, const struct asdm_weight *weight,
                                         struct asdm_tensor *ret, struct asdm_error *err) {
    size_t count = asdm_weight_count(weight), shift = 0;
    for (const char *at = weight->name; *at; at++)
        shift = shift * 31 + (unsigned char)*at;
    shift %= RANDOM_SHIFTS;
    if (count + shift > RANDOM_COUNT)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: too large for random weights", weight->name);
    *ret = (struct asdm_tensor){.name = weight->name,
                                .dtype = ASDM_F16,
                                .rank = weight->rank,
                                .data = pool + shift,
                                .count = count,
                                .bytes = 2 * count};
    memcpy(ret->dims, weight->dims, sizeof weight->dims);
    return ASDM_OK;
}

static const struct {
    const char *name, *unet;
} architectures[] = {
    {"sd15",
     "{\"block_out_channels\":[320,640,1280,1280],\"cross_attention_dim\":768,\"attention_head_dim\":8,"
     "\"down_block_types\":[\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"DownBlock2D\"]"
     ","
     "\"up_block_types\":[\"UpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\"]}"},
    {"sd21",
     "{\"block_out_channels\":[320,640,1280,1280],\"cross_attention_dim\":1024,\"attention_head_dim\":[5,10,20,20],"
     "\"use_linear_projection\":true,\"sample_size\":96,"
     "\"down_block_types\":[\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"DownBlock2D\"]"
     ","
     "\"up_block_types\":[\"UpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\"]}"},
    {"bk-base",
     "{\"block_out_channels\":[320,640,1280,1280],\"cross_attention_dim\":768,\"attention_head_dim\":8,"
     "\"layers_per_block\":1,"
     "\"down_block_types\":[\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"DownBlock2D\"]"
     ","
     "\"up_block_types\":[\"UpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\"]}"},
    {"bk-small",
     "{\"block_out_channels\":[320,640,1280,1280],\"cross_attention_dim\":768,\"attention_head_dim\":8,"
     "\"layers_per_block\":1,\"mid_block_type\":null,"
     "\"down_block_types\":[\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"DownBlock2D\"]"
     ","
     "\"up_block_types\":[\"UpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\"]}"},
    {"bk-tiny", "{\"block_out_channels\":[320,640,1280],\"cross_attention_dim\":768,\"attention_head_dim\":8,"
                "\"layers_per_block\":1,\"mid_block_type\":null,"
                "\"down_block_types\":[\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\"],"
                "\"up_block_types\":[\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\"]}"},
};

/* Numbers in -0.05 .. 0.05 as float16, so that activations neither vanish nor overflow. */
static uint16_t *make_random_pool(void) {
    uint16_t *pool = malloc((size_t)RANDOM_COUNT * sizeof *pool);
    uint32_t state = 1;
    for (size_t i = 0; pool && i < RANDOM_COUNT; i++) {
        state = state * 1664525u + 1013904223u;
        /* sign, exponent of 2^-6 .. 2^-5, ten fraction bits */
        pool[i] = (uint16_t)((state >> 16 & 0x8000u) | 0x2400u | (state >> 20 & 0x3ffu));
    }
    return pool;
}

static const char vae_config[] =
    "{\"block_out_channels\":[128,256,512,512],\"layers_per_block\":2,"
    "\"down_block_types\":[\"DownEncoderBlock2D\",\"DownEncoderBlock2D\",\"DownEncoderBlock2D\",\"DownEncoderBlock2D\"]"
    ","
    "\"up_block_types\":[\"UpDecoderBlock2D\",\"UpDecoderBlock2D\",\"UpDecoderBlock2D\",\"UpDecoderBlock2D\"]}";

/* The same way through the parsers as a checkpoint's own files. */
static enum asdm_status parse_configs(struct asdm_checkpoint *c, const char *unet, struct asdm_error *err) {
    struct asdm_json *json = NULL;
    ASDM_TRY(asdm_json_parse(unet, strlen(unet), c->path, &json, err));
    enum asdm_status status = asdm_unet_config_parse(json, c->path, &c->unet, err);
    asdm_json_destroy(&json);
    if (status != ASDM_OK)
        return status;
    ASDM_TRY(asdm_json_parse(vae_config, strlen(vae_config), c->path, &json, err));
    status = asdm_vae_config_parse(json, c->path, &c->vae, err);
    asdm_json_destroy(&json);
    return status;
}

static enum asdm_status fill_random(struct asdm_checkpoint *c, const char *unet, struct asdm_error *err) {
    c->layout = ASDM_LAYOUT_RANDOM;
    ASDM_TRY(parse_configs(c, unet, err));
    bool openclip = c->unet.cross_attention_dim == 1024;
    c->text = (struct asdm_text_config){.vocab_size = 49408,
                                        .hidden_size = c->unet.cross_attention_dim,
                                        .intermediate_size = 4 * c->unet.cross_attention_dim,
                                        .layers = openclip ? 23 : 12,
                                        .heads = c->unet.cross_attention_dim / 64,
                                        .positions = 77,
                                        .norm_eps = 1e-5f,
                                        .activation = openclip ? ASDM_ACT_GELU : ASDM_ACT_QUICK_GELU};
    asdm_scheduler_config_init(&c->scheduler);
    if (openclip)
        c->scheduler.prediction = ASDM_PREDICT_V;
    c->random = make_random_pool();
    return c->random ? ASDM_OK : asdm_fail(err, ASDM_ERR_MEMORY, "%s: no memory for random weights", c->path);
}

enum asdm_status asdm_checkpoint_random(const char *architecture, struct asdm_checkpoint **ret,
                                        struct asdm_error *err) {
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (strcmp(architecture, architectures[i].name) != 0)
            continue;
        struct asdm_checkpoint *c = calloc(1, sizeof *c);
        if (!c || !(c->path = strdup(architecture))) {
            free(c);
            return asdm_fail(err, ASDM_ERR_MEMORY, "%s: no memory for random weights", architecture);
        }
        enum asdm_status status = fill_random(c, architectures[i].unet, err);
        if (status != ASDM_OK)
            asdm_checkpoint_close(&c);
        else
            *ret = c;
        return status;
    }
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "architecture \"%.40s\": must be sd15, sd21, bk-base, bk-small or bk-tiny",
                     architecture);
}
