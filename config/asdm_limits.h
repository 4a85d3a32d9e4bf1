/* Compile-time limits: what the engine accepts from requests and files before it looks further. Memory is checked
 * apart. */
#ifndef ASDM_LIMITS_H
#define ASDM_LIMITS_H

enum {
    ASDM_LIMIT_PROMPT_BYTES = 1 << 20,       /* UTF-8 */
    ASDM_LIMIT_PROMPT_CHUNKS = 8,            /* of 75 tokens, with A1111's syntax */
    ASDM_LIMIT_STEPS = 1000,                 /* of a sampler */
    ASDM_LIMIT_GUIDANCE = 1000,              /* magnitude of the guidance scale */
    ASDM_LIMIT_IMAGE_SIDE = 16384,           /* pixels per side of a PNG that is read */
    ASDM_LIMIT_IMAGE_PIXELS = 64 << 20,      /* of a PNG that is read */
    ASDM_LIMIT_CONFIG_BYTES = 4 << 20,       /* of a configuration file */
    ASDM_LIMIT_CONFIG_DEPTH = 64,            /* nesting of JSON */
    ASDM_LIMIT_PLAN_FILE_BYTES = 16 << 20,   /* of a file of measured choices */
    ASDM_LIMIT_STEP_PLANS = 48,              /* kept of a UNet, by rows and size; the least recently used goes */
    ASDM_LIMIT_STEP_PLAN_BYTES = 2000 << 20, /* of their memory, those beside the one in use */
    ASDM_LIMIT_VAE_PLANS = 4,                /* kept of the decoder, and of the encoder */
    ASDM_LIMIT_PROMPTS_KEPT = 32,            /* encoded prompts that no picture uses any more */
    ASDM_LIMIT_TIMESTEPS_KEPT = 256,         /* the same of timesteps, schedule by schedule */
    ASDM_LIMIT_KNOWN_SIZES = 32,             /* of pictures that a batch has found to fit */
    ASDM_LIMIT_FINE_PARAMETERS = 64 << 20,   /* of a UNet whose noisiest steps run in float32 beside bfloat16 */
    ASDM_LIMIT_FINE_TIMESTEP_PERCENT = 80    /* of the training timesteps: from there up */
};

#endif
