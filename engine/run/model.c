#include "run/internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* ---- opening */

static enum asdm_status open_backend(struct asdm_model *model, const struct asdm_model_options *options,
                                     struct asdm_error *err) {
    const struct asdm_backend_class *class;
    int device;
    ASDM_TRY(asdm_backend_find(options->device ? options->device : "auto", &class, &device, err));
    return class->create(device, options->threads, options->dtype, &model->backend, err);
}

static enum asdm_status create_stores(struct asdm_model *model, struct asdm_error *err) {
    for (int i = 0; i < ASDM_COMPONENT_COUNT; i++) {
        struct asdm_weight_source source = asdm_checkpoint_source(model->checkpoint, i);
        ASDM_TRY(asdm_weight_store_create(&source, &model->weights[i], err));
    }
    return ASDM_OK;
}

/* Builds each component's programs, checks the file against them, and hands them over. */
static enum asdm_status build_components(struct asdm_model *model, struct asdm_error *err) {
    struct asdm_checkpoint *c = model->checkpoint;
    struct asdm_text_encoder text = {0};
    struct asdm_unet unet = {0};
    struct asdm_vae_decoder decoder = {0};
    struct asdm_vae_encoder encoder = {0};
    enum asdm_status status = asdm_text_encoder_build(&c->text, ASDM_PROMPT_TOKENS, &text, err);
    if (status == ASDM_OK)
        status = asdm_unet_build(&c->unet, ASDM_PROMPT_TOKENS, &unet, err);
    if (status == ASDM_OK)
        status = asdm_vae_decoder_build(&c->vae, &decoder, err);
    if (status == ASDM_OK)
        status = asdm_vae_encoder_build(&c->vae, &encoder, err);
    if (status == ASDM_OK)
        status = asdm_checkpoint_verify(c, ASDM_COMPONENT_UNET, &unet.program, 1, err);
    if (status == ASDM_OK)
        status = asdm_checkpoint_verify(c, ASDM_COMPONENT_TEXT, &text.program, 1, err);
    if (status == ASDM_OK)
        status = asdm_checkpoint_verify(c, ASDM_COMPONENT_VAE,
                                        (struct asdm_program *[]){encoder.program, decoder.program}, 2, err);
    if (status == ASDM_OK)
        status = asdm_text_create(&model->text, &text, ASDM_PROMPT_TOKENS, c->text.hidden_size, model->backend,
                                  model->weights[ASDM_COMPONENT_TEXT], err);
    if (status == ASDM_OK)
        status = asdm_denoiser_create(&model->denoiser, &unet, model->backend, model->weights[ASDM_COMPONENT_UNET], err);
    if (status == ASDM_OK)
        status = asdm_autoencoder_create(&model->autoencoder, &decoder, &encoder, c->vae.scaling_factor, model->backend,
                                         model->weights[ASDM_COMPONENT_VAE], err);
    asdm_program_destroy(&text.program);
    asdm_program_destroy(&unet.program);
    asdm_program_destroy(&decoder.program);
    asdm_program_destroy(&encoder.program);
    return status;
}

/* The text encoder's table must have a row for every id that the tokenizer can give. */
static enum asdm_status open_tokenizer(struct asdm_model *model, struct asdm_error *err) {
    const struct asdm_checkpoint *c = model->checkpoint;
    ASDM_TRY(asdm_tokenizer_open(c->tokenizer, &model->tokenizer, err));
    size_t count = asdm_tokenizer_vocab_size(model->tokenizer);
    if (count > (size_t)c->text.vocab_size)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: the vocabulary has %zu entries, but the text encoder's vocab_size is %d",
                         c->tokenizer, count, c->text.vocab_size);
    return ASDM_OK;
}

/* Takes `checkpoint` over, also on failure. */
static enum asdm_status open_model(struct asdm_checkpoint *checkpoint, const struct asdm_model_options *options,
                                   struct asdm_model **ret, struct asdm_error *err) {
    struct asdm_model *model = calloc(1, sizeof *model);
    if (!model) {
        asdm_checkpoint_close(&checkpoint);
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a model");
    }
    model->checkpoint = checkpoint;
    enum asdm_status status = open_backend(model, options, err);
    if (status == ASDM_OK)
        status = create_stores(model, err);
    if (status == ASDM_OK)
        status = build_components(model, err);
    if (status == ASDM_OK && checkpoint->tokenizer)
        status = open_tokenizer(model, err);
    if (status != ASDM_OK) {
        asdm_model_close(&model);
        return status;
    }
    model->sampler = asdm_sampler_default(&checkpoint->scheduler);
    *ret = model;
    return ASDM_OK;
}

enum asdm_status asdm_model_open(const char *path, const struct asdm_model_options *options, struct asdm_model **ret,
                                 struct asdm_error *err) {
    struct asdm_model_options none = {0};
    struct asdm_checkpoint *checkpoint;
    options = options ? options : &none;
    ASDM_TRY(asdm_checkpoint_open(path, options->tokenizer, &checkpoint, err));
    return open_model(checkpoint, options, ret, err);
}

enum asdm_status asdm_model_open_random(const char *architecture, const struct asdm_model_options *options,
                                        struct asdm_model **ret, struct asdm_error *err) {
    struct asdm_model_options none = {0};
    struct asdm_checkpoint *checkpoint;
    ASDM_TRY(asdm_checkpoint_random(architecture, &checkpoint, err));
    return open_model(checkpoint, options ? options : &none, ret, err);
}

void asdm_model_close(struct asdm_model **model) {
    struct asdm_model *m = *model;
    if (!m)
        return;
    asdm_autoencoder_done(&m->autoencoder);
    asdm_denoiser_done(&m->denoiser);
    asdm_text_done(&m->text);
    for (int i = 0; i < ASDM_COMPONENT_COUNT; i++)
        asdm_weight_store_destroy(&m->weights[i]);
    if (m->backend)
        m->backend->class->destroy(m->backend);
    asdm_tokenizer_close(&m->tokenizer);
    asdm_checkpoint_close(&m->checkpoint);
    free(m);
    *model = NULL;
}

/* ---- asking */

static const struct {
    const char *name;
    enum asdm_model_dtype dtype;
} dtypes[] = {{"auto", ASDM_DTYPE_AUTO}, {"fp32", ASDM_DTYPE_FP32}, {"bf16", ASDM_DTYPE_BF16}, {"fp16", ASDM_DTYPE_FP16}};

enum asdm_status asdm_dtype_find(const char *name, enum asdm_model_dtype *ret, struct asdm_error *err) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            *ret = dtypes[i].dtype;
            return ASDM_OK;
        }
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "dtype \"%.40s\": must be auto, fp32, bf16 or fp16", name);
}

const char *asdm_model_device(const struct asdm_model *model) {
    return model->backend->class->name;
}

const char *asdm_model_dtype_name(const struct asdm_model *model) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (dtypes[i].dtype == model->backend->dtype)
            return dtypes[i].name;
    return "?";
}

void asdm_model_default_size(const struct asdm_model *model, int *ret_width, int *ret_height) {
    *ret_width = model->checkpoint->unet.sample_width * ASDM_PIXELS_PER_LATENT;
    *ret_height = model->checkpoint->unet.sample_height * ASDM_PIXELS_PER_LATENT;
}

const char *asdm_model_default_sampler(const struct asdm_model *model) {
    return asdm_sampler_name(model->sampler);
}
