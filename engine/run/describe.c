/* What a model is made of: parameters, multiply-accumulates and bytes by part. */
#include <stdio.h>
#include <string.h>

#include "run/internal.h"

/* A part of a program: the operations and weights whose names start with `prefix`. Programs are built afresh, because
 * those of an open model are rewritten for its back end. */
struct selection {
    const struct asdm_checkpoint *checkpoint;
    enum asdm_component component;
    const struct asdm_program *program;
    int height, width;
};

static bool starts_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static void add_weight(const struct selection *s, const struct asdm_weight *weight, struct asdm_model_part *part) {
    struct asdm_weight_source source =
        asdm_checkpoint_source((struct asdm_checkpoint *)(uintptr_t)s->checkpoint, s->component);
    struct asdm_tensor tensor;
    if (source.find(source.user, weight, &tensor, NULL) != ASDM_OK)
        return;
    part->parameters += (int64_t)tensor.count;
    part->bytes += (int64_t)tensor.bytes;
}

/* The block an operation belongs to is that of the last weight named before it. */
static void measure(const struct selection *s, const char *prefix, struct asdm_model_part *part) {
    const struct asdm_program *p = s->program;
    const char *current = "";
    for (int w = 0; w < p->weight_count; w++)
        if (starts_with(p->weights[w].name, prefix))
            add_weight(s, &p->weights[w], part);
    for (int i = 0; i < p->op_count; i++) {
        const struct asdm_op *op = &p->ops[i];
        if (op->weight[0] != ASDM_NONE)
            current = p->weights[op->weight[0]].name;
        if (!starts_with(current, prefix))
            continue;
        part->gmac += asdm_program_op_macs(p, op, s->height, s->width) / 1e9;
        part->step_gmac += asdm_program_op_step_macs(p, op, s->height, s->width) / 1e9;
    }
}

static void add_part(struct asdm_model_part *parts, int room, int *count, const struct selection *s, const char *name,
                     const char *prefix) {
    struct asdm_model_part part = {0};
    snprintf(part.name, sizeof part.name, "%s", name);
    measure(s, prefix, &part);
    if (*count < room && part.parameters)
        parts[(*count)++] = part;
}

static void describe_unet(const struct selection *s, struct asdm_model_part *parts, int room, int *count) {
    static const struct {
        const char *prefix;
        bool numbered; /* one part per stage */
    } blocks[] = {{"conv_in", false},  {"time_embedding", false}, {"down_blocks", true}, {"mid_block", false},
                  {"up_blocks", true}, {"conv_norm_out", false},  {"conv_out", false}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        for (int stage = 0; stage < (blocks[i].numbered ? s->checkpoint->unet.stages : 1); stage++) {
            char name[48];
            if (blocks[i].numbered)
                snprintf(name, sizeof name, "unet.%s.%d", blocks[i].prefix, stage);
            else
                snprintf(name, sizeof name, "unet.%s", blocks[i].prefix);
            add_part(parts, room, count, s, name, name + strlen("unet."));
        }
    add_part(parts, room, count, s, "unet", "");
}

int asdm_model_describe(const struct asdm_model *model, int width, int height, struct asdm_model_part *parts,
                        int room) {
    const struct asdm_checkpoint *c = model->checkpoint;
    struct selection s = {c, ASDM_COMPONENT_UNET, NULL, height / ASDM_PIXELS_PER_LATENT,
                          width / ASDM_PIXELS_PER_LATENT};
    struct asdm_unet unet;
    struct asdm_vae_decoder decoder;
    struct asdm_vae_encoder encoder;
    struct asdm_text_encoder text;
    int count = 0;
    if (asdm_unet_build(&c->unet, ASDM_PROMPT_TOKENS, &unet, NULL) == ASDM_OK) {
        s.program = unet.program;
        describe_unet(&s, parts, room, &count);
        asdm_program_destroy(&unet.program);
    }
    s.component = ASDM_COMPONENT_VAE;
    int vae_first = count;
    if (asdm_vae_encoder_build(&c->vae, &encoder, NULL) == ASDM_OK) {
        s.program = encoder.program;
        add_part(parts, room, &count, &s, "vae.encoder", "");
        asdm_program_destroy(&encoder.program);
    }
    if (asdm_vae_decoder_build(&c->vae, &decoder, NULL) == ASDM_OK) {
        s.program = decoder.program;
        add_part(parts, room, &count, &s, "vae.decoder", "");
        asdm_program_destroy(&decoder.program);
    }
    if (count == vae_first + 2 && count < room) {
        struct asdm_model_part whole = parts[vae_first];
        snprintf(whole.name, sizeof whole.name, "vae");
        whole.parameters += parts[vae_first + 1].parameters;
        whole.gmac += parts[vae_first + 1].gmac;
        whole.step_gmac += parts[vae_first + 1].step_gmac;
        whole.bytes += parts[vae_first + 1].bytes;
        parts[count++] = whole;
    }
    s.component = ASDM_COMPONENT_TEXT;
    if (asdm_text_encoder_build(&c->text, ASDM_PROMPT_TOKENS, &text, NULL) == ASDM_OK) {
        s.program = text.program;
        add_part(parts, room, &count, &s, "text_encoder", "");
        asdm_program_destroy(&text.program);
    }
    return count;
}
