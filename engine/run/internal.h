/* The open model, as the files of run/ see it. */
#ifndef ASDM_RUN_INTERNAL_H
#define ASDM_RUN_INTERNAL_H

#include <asdm/batch.h>

#include "asdm_limits.h"
#include "model/checkpoint.h"
#include "run/autoencoder.h"
#include "run/denoiser.h"
#include "run/text.h"
#include "sampler/sampler.h"
#include "text/tokenizer.h"

enum { ASDM_PROMPT_TOKENS = 77, ASDM_LATENT_CHANNELS = 4, ASDM_PIXELS_PER_LATENT = 8 };

/* In bfloat16 the rounding of the first, noisiest steps can tip what a prompt leaves open (a sky, a side) to another
 * picture altogether, while later steps only lose fine detail. So the steps from ASDM_LIMIT_FINE_TIMESTEP_PERCENT of
 * the training timesteps up run in float32, as long as that copy of the weights is small. */
enum asdm_precision { ASDM_PRECISION_MAIN, ASDM_PRECISION_FINE, ASDM_PRECISION_COUNT };

struct asdm_model {
    struct asdm_checkpoint *checkpoint;
    struct asdm_tokenizer *tokenizer; /* NULL: random weights */
    int device;                       /* the number after the colon */
    struct asdm_backend *backend;
    struct asdm_backend
        *fine; /* float32, for the text encoder and the noisiest steps of a small bfloat16 model; else NULL */
    struct asdm_weight_store *weights[ASDM_COMPONENT_COUNT], *fine_weights; /* of the UNet */
    struct asdm_text text;
    /* By precision (FINE: only with a fine back end) and length of the prompt in chunks, made when first needed. */
    struct asdm_denoiser *denoisers[ASDM_PRECISION_COUNT][ASDM_LIMIT_PROMPT_CHUNKS];
    struct asdm_autoencoder autoencoder;
    enum asdm_sampler sampler;    /* the checkpoint's default */
    struct asdm_choices *choices; /* of a plan file; NULL: none */
    char note[768];               /* of asdm_model_note; "": none */
};

/* The denoiser for prompts of `chunks` times 77 tokens. */
enum asdm_status asdm_model_denoiser(struct asdm_model *model, enum asdm_precision precision, int chunks,
                                     struct asdm_denoiser **ret, struct asdm_error *err);

/* The choices for the model's back end, from a file (tune.c). */
enum asdm_status asdm_model_read_plan(struct asdm_model *model, const char *path, struct asdm_error *err);

#endif
