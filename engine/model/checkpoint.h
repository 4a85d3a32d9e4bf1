/* A checkpoint on disk: a diffusers directory, a one-file safetensors, or an architecture by name with random weights.
 * Finds each weight of a program under whatever name the file has for it. */
#ifndef ASDM_CHECKPOINT_H
#define ASDM_CHECKPOINT_H

#include <stdbool.h>

#include <asdm/status.h>
#include "model/config.h"
#include "ops/program.h"
#include "ops/weights.h"
#include "sampler/scheduler_config.h"
#include "tensor/safetensors.h"

enum asdm_component { ASDM_COMPONENT_UNET, ASDM_COMPONENT_VAE, ASDM_COMPONENT_TEXT, ASDM_COMPONENT_COUNT };

enum asdm_checkpoint_layout {
    ASDM_LAYOUT_DIFFUSERS,         /* a directory */
    ASDM_LAYOUT_ORIGINAL,          /* one file, CLIP as transformers names it (SD 1.x) */
    ASDM_LAYOUT_ORIGINAL_OPENCLIP, /* one file, OpenCLIP's names (SD 2.x) */
    ASDM_LAYOUT_RANDOM             /* no file */
};

struct asdm_checkpoint {
    enum asdm_checkpoint_layout layout;
    char *path;
    char *tokenizer; /* directory; NULL when there is none: random weights, or one file and none given */
    struct asdm_unet_config unet;
    struct asdm_vae_config vae;
    struct asdm_text_config text;
    struct asdm_scheduler_config scheduler;
    struct asdm_safetensors *files[ASDM_COMPONENT_COUNT]; /* the same file three times when there is one */
    uint16_t *random;                                     /* numbers that every random weight is a piece of */
};

/* `path` is a directory or a file; `tokenizer` a directory in place of the model's own, which one-file checkpoints
 * lack; or NULL. */
enum asdm_status asdm_checkpoint_open(const char *path, const char *tokenizer, struct asdm_checkpoint **ret,
                                      struct asdm_error *err);
/* "sd15", "sd21", "bk-base", "bk-small", "bk-tiny" with random weights, for measuring. */
enum asdm_status asdm_checkpoint_random(const char *architecture, struct asdm_checkpoint **ret, struct asdm_error *err);
void asdm_checkpoint_close(struct asdm_checkpoint **checkpoint);

/* Lists every missing, misshapen and extra tensor of a component by name, given all programs that read it. */
enum asdm_status asdm_checkpoint_verify(const struct asdm_checkpoint *checkpoint, enum asdm_component component,
                                        struct asdm_program *const *programs, int count, struct asdm_error *err);

/* What a weight store reads; valid while the checkpoint is open. */
struct asdm_weight_source asdm_checkpoint_source(struct asdm_checkpoint *checkpoint, enum asdm_component component);

#endif
