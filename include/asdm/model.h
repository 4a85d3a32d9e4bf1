/* Checkpoints: opening one on a device, and what it is made of. */
#ifndef ASDM_MODEL_H
#define ASDM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct asdm_model;

/* The type of activations and weights. AUTO: float32 on CPUs, which gives diffusers' pictures. */
enum asdm_model_dtype { ASDM_DTYPE_AUTO, ASDM_DTYPE_FP32, ASDM_DTYPE_BF16, ASDM_DTYPE_FP16 };

struct asdm_model_options {
    const char *device; /* "auto", "cpu", "ref", "cuda", "cuda:N"; NULL: auto */
    enum asdm_model_dtype dtype;
    int threads; /* CPU threads, each bound to one of the process's processors; 0: one per processor, not bound */
    const char *tokenizer; /* directory, for one-file checkpoints; NULL: the model directory's own */
};

/* Opens a diffusers directory or a one-file safetensors checkpoint. Everything about it is checked here: configurations
 * key by key, tensors by name and shape, the vocabulary. Weights are mapped, and laid out for the device when first
 * needed. `options` may be NULL. */
enum asdm_status asdm_model_open(const char *path, const struct asdm_model_options *options, struct asdm_model **ret,
                                 struct asdm_error *err);
/* An architecture ("sd15", "sd21", "bk-base", "bk-small", "bk-tiny") with random weights and no tokenizer, for
 * measuring. */
enum asdm_status asdm_model_open_random(const char *architecture, const struct asdm_model_options *options,
                                        struct asdm_model **ret, struct asdm_error *err);
void asdm_model_close(struct asdm_model **model);

/* "cpu", "ref", ...; "fp32", "bf16", ... */
const char *asdm_model_device(const struct asdm_model *model);
const char *asdm_model_dtype_name(const struct asdm_model *model);
enum asdm_status asdm_dtype_find(const char *name, enum asdm_model_dtype *ret, struct asdm_error *err);

/* Picture size that the model was made for, in pixels. */
void asdm_model_default_size(const struct asdm_model *model, int *ret_width, int *ret_height);
/* Canonical name of the sampler that the checkpoint's scheduler configuration asks for. */
const char *asdm_model_default_sampler(const struct asdm_model *model);

/* One line of a model's description: a block of the UNet, or a component. */
struct asdm_model_part {
    char name[48]; /* "unet.down_blocks.0", "vae.decoder", ... */
    int64_t parameters;
    double gmac; /* per row (text encoder: per prompt) at the size asked for, attention's products counted */
    double
        step_gmac; /* of them, what is left for each step after the exact rewrites: keys and values of cross-attention
                    * are computed once per prompt, time embeddings once per timestep, upsampling is folded */
    int64_t bytes; /* in the checkpoint's own types */
};

/* Describes the parts for pictures of width x height into `parts` (at most `room`); returns how many there are. The
 * blocks of the UNet come first, then "unet", "vae.encoder", "vae.decoder", "vae" (both), "text_encoder". */
int asdm_model_describe(const struct asdm_model *model, int width, int height, struct asdm_model_part *parts, int room);

#ifdef __cplusplus
}
#endif
#endif
