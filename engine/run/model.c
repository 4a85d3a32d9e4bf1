#include "run/internal.h"

#include <stdlib.h>
#include <string.h>

#include "asdm_limits.h"
#include <asdm/error.h>

/* ---- opening */

static enum asdm_status open_backend(struct asdm_model *model, const struct asdm_model_options *options,
                                     struct asdm_error *err) {
    const struct asdm_backend_class *class;
    ASDM_TRY(asdm_backend_find(options->device ? options->device : "auto", &class, &model->device, err));
    ASDM_TRY(class->create(model->device, options->threads, options->dtype, &model->backend, err));
    model->backend->batch_dependent = options->batch_dependent;
    return options->plan ? asdm_model_read_plan(model, options->plan, err) : ASDM_OK;
}

static enum asdm_status create_stores(struct asdm_model *model, struct asdm_error *err) {
    for (int i = 0; i < ASDM_COMPONENT_COUNT; i++) {
        struct asdm_weight_source source = asdm_checkpoint_source(model->checkpoint, i);
        ASDM_TRY(asdm_weight_store_create(&source, model->backend, &model->weights[i], err));
    }
    return ASDM_OK;
}

/* A UNet small enough to be kept in float32 beside bfloat16. */
static bool wants_fine(const struct asdm_model *model, const struct asdm_program *unet) {
    size_t parameters = 0;
    for (int i = 0; i < unet->weight_count; i++)
        parameters += asdm_weight_count(&unet->weights[i]);
    return model->backend->dtype == ASDM_DTYPE_BF16 && parameters <= ASDM_LIMIT_FINE_PARAMETERS;
}

enum asdm_status asdm_model_denoiser(struct asdm_model *model, enum asdm_precision precision, int chunks,
                                     struct asdm_denoiser **ret, struct asdm_error *err) {
    struct asdm_denoiser **place = &model->denoisers[precision][chunks - 1];
    bool fine = precision == ASDM_PRECISION_FINE;
    struct asdm_unet unet;
    if (!*place) {
        struct asdm_denoiser *made = calloc(1, sizeof *made);
        if (!made)
            return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a UNet");
        enum asdm_status status = asdm_unet_build(&model->checkpoint->unet, chunks * ASDM_PROMPT_TOKENS, &unet, err);
        if (status == ASDM_OK)
            status = asdm_denoiser_create(made, &unet, chunks * ASDM_PROMPT_TOKENS, fine ? model->fine : model->backend,
                                          fine ? model->fine_weights : model->weights[ASDM_COMPONENT_UNET], err);
        if (status != ASDM_OK) {
            free(made);
            return status;
        }
        *place = made;
    }
    *ret = *place;
    return ASDM_OK;
}

static enum asdm_status build_unet(struct asdm_model *model, int threads, struct asdm_error *err) {
    struct asdm_unet unet;
    struct asdm_denoiser *denoiser;
    ASDM_TRY(asdm_unet_build(&model->checkpoint->unet, ASDM_PROMPT_TOKENS, &unet, err));
    enum asdm_status status = asdm_checkpoint_verify(model->checkpoint, ASDM_COMPONENT_UNET, &unet.program, 1, err);
    bool fine = wants_fine(model, unet.program);
    asdm_program_destroy(&unet.program);
    if (status != ASDM_OK)
        return status;
    ASDM_TRY(asdm_model_denoiser(model, ASDM_PRECISION_MAIN, 1, &denoiser, err));
    if (!fine)
        return ASDM_OK;
    struct asdm_weight_source source = asdm_checkpoint_source(model->checkpoint, ASDM_COMPONENT_UNET);
    ASDM_TRY(model->backend->class->create(model->device, threads, ASDM_DTYPE_FP32, &model->fine, err));
    model->fine->batch_dependent = model->backend->batch_dependent;
    ASDM_TRY(asdm_weight_store_create(&source, model->fine, &model->fine_weights, err));
    return asdm_model_denoiser(model, ASDM_PRECISION_FINE, 1, &denoiser, err);
}

static enum asdm_status build_text(struct asdm_model *model, struct asdm_error *err) {
    struct asdm_text_encoder text;
    const struct asdm_text_config *config = &model->checkpoint->text;
    ASDM_TRY(asdm_text_encoder_build(config, ASDM_PROMPT_TOKENS, &text, err));
    enum asdm_status status = asdm_checkpoint_verify(model->checkpoint, ASDM_COMPONENT_TEXT, &text.program, 1, err);
    if (status != ASDM_OK) {
        asdm_program_destroy(&text.program);
        return status;
    }
    return asdm_text_create(&model->text, &text, ASDM_PROMPT_TOKENS, config->hidden_size,
                            model->fine ? model->fine : model->backend, model->weights[ASDM_COMPONENT_TEXT], err);
}

static enum asdm_status build_vae(struct asdm_model *model, struct asdm_error *err) {
    struct asdm_vae_decoder decoder = {0};
    struct asdm_vae_encoder encoder = {0};
    const struct asdm_vae_config *config = &model->checkpoint->vae;
    enum asdm_status status = asdm_vae_decoder_build(config, &decoder, err);
    if (status == ASDM_OK)
        status = asdm_vae_encoder_build(config, &encoder, err);
    if (status == ASDM_OK)
        status = asdm_checkpoint_verify(model->checkpoint, ASDM_COMPONENT_VAE,
                                        (struct asdm_program *[]){encoder.program, decoder.program}, 2, err);
    if (status == ASDM_OK)
        status = asdm_autoencoder_create(&model->autoencoder, &decoder, &encoder, config->scaling_factor,
                                         model->backend, model->weights[ASDM_COMPONENT_VAE], err);
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
        return asdm_fail(err, ASDM_ERR_FORMAT,
                         "%s: the vocabulary has %zu entries, but the text encoder's vocab_size is %d", c->tokenizer,
                         count, c->text.vocab_size);
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
        status = build_unet(model, options->threads, err);
    if (status == ASDM_OK)
        status = build_text(model, err);
    if (status == ASDM_OK)
        status = build_vae(model, err);
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
    for (int p = 0; p < ASDM_PRECISION_COUNT; p++)
        for (int i = 0; i < ASDM_LIMIT_PROMPT_CHUNKS; i++)
            if (m->denoisers[p][i]) {
                asdm_denoiser_done(m->denoisers[p][i]);
                free(m->denoisers[p][i]);
            }
    asdm_text_done(&m->text);
    for (int i = 0; i < ASDM_COMPONENT_COUNT; i++)
        asdm_weight_store_destroy(&m->weights[i]);
    asdm_weight_store_destroy(&m->fine_weights);
    if (m->fine)
        m->fine->class->destroy(m->fine);
    if (m->backend)
        m->backend->class->destroy(m->backend);
    asdm_choices_destroy(&m->choices);
    asdm_tokenizer_close(&m->tokenizer);
    asdm_checkpoint_close(&m->checkpoint);
    free(m);
    *model = NULL;
}

/* ---- asking */

static const struct {
    const char *name;
    enum asdm_model_dtype dtype;
} dtypes[] = {{"auto", ASDM_DTYPE_AUTO},
              {"fp32", ASDM_DTYPE_FP32},
              {"bf16", ASDM_DTYPE_BF16},
              {"fp16", ASDM_DTYPE_FP16},
              {"tf32", ASDM_DTYPE_TF32}};

enum asdm_status asdm_dtype_find(const char *name, enum asdm_model_dtype *ret, struct asdm_error *err) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            *ret = dtypes[i].dtype;
            return ASDM_OK;
        }
    return asdm_fail(err, ASDM_ERR_ARGUMENT, "dtype \"%.40s\": must be auto, fp32, tf32, bf16 or fp16", name);
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

const char *asdm_model_note(const struct asdm_model *model) {
    return *model->note ? model->note : NULL;
}

void asdm_model_default_size(const struct asdm_model *model, int *ret_width, int *ret_height) {
    *ret_width = model->checkpoint->unet.sample_width * ASDM_PIXELS_PER_LATENT;
    *ret_height = model->checkpoint->unet.sample_height * ASDM_PIXELS_PER_LATENT;
}

const char *asdm_model_default_sampler(const struct asdm_model *model) {
    return asdm_sampler_name(model->sampler);
}
