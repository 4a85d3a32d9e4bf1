/* The open model, as the files of run/ see it. */
#ifndef ASDM_RUN_INTERNAL_H
#define ASDM_RUN_INTERNAL_H

#include <asdm/batch.h>

#include "model/checkpoint.h"
#include "run/autoencoder.h"
#include "run/denoiser.h"
#include "run/text.h"
#include "sampler/sampler.h"
#include "text/tokenizer.h"

enum { ASDM_PROMPT_TOKENS = 77, ASDM_LATENT_CHANNELS = 4, ASDM_PIXELS_PER_LATENT = 8 };

struct asdm_model {
    struct asdm_checkpoint *checkpoint;
    struct asdm_tokenizer *tokenizer; /* NULL: random weights */
    struct asdm_backend *backend;
    struct asdm_weight_store *weights[ASDM_COMPONENT_COUNT];
    struct asdm_text text;
    struct asdm_denoiser denoiser;
    struct asdm_autoencoder autoencoder;
    enum asdm_sampler sampler; /* the checkpoint's default */
};

#endif
