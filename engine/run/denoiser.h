/* The UNet at work: its three programs (per prompt, per timestep, per step), their plans, and the prompts and timesteps
 * that are known to it. The step's program is the whole step: the latents of each row's picture, the UNet, guidance and
 * the sampler's update (sampler/step.h). On a device that is one recording per number of rows and size. */
#ifndef ASDM_DENOISER_H
#define ASDM_DENOISER_H

#include "model/build.h"
#include "run/slab.h"
#include "sampler/step.h"

struct asdm_denoiser {
    struct asdm_unet unet;
    int step_rows; /* the value */
    struct asdm_backend *backend;
    struct asdm_weight_store *weights;
    struct asdm_slab prompts, timesteps;
    struct asdm_timesteps *known_timesteps;        /* what is in `timesteps`; the last used first */
    struct asdm_plan *prompt_plan, *timestep_plan; /* 1 prompt; TIMESTEP_ROWS timesteps */
    struct asdm_step_plan *steps;                  /* by rows, height and width; the last used first */
    int tokens;                                    /* of a prompt: a multiple of 77 */
};

/* Puts the ends of a step around the program and rewrites it for the back end; takes the unet, built for `tokens`,
 * over. */
enum asdm_status asdm_denoiser_create(struct asdm_denoiser *denoiser, struct asdm_unet *unet, int tokens,
                                      struct asdm_backend *backend, struct asdm_weight_store *weights,
                                      struct asdm_error *err);
void asdm_denoiser_done(struct asdm_denoiser *denoiser);

/* Everything that depends on the prompt alone, from embeddings [tokens][cross_attention_dim]. */
enum asdm_status asdm_denoiser_add_prompt(struct asdm_denoiser *denoiser, const float *embeds, int *ret_slot,
                                          struct asdm_error *err);
void asdm_denoiser_drop_prompt(struct asdm_denoiser *denoiser, int slot);

/* Everything that depends on timesteps alone: *ret_first is the slot of the first, the others follow. Who asks for the
 * same ones shares them; each drops them once. */
enum asdm_status asdm_denoiser_add_timesteps(struct asdm_denoiser *denoiser, const float *timesteps, int count,
                                             int *ret_first, struct asdm_error *err);
void asdm_denoiser_drop_timesteps(struct asdm_denoiser *denoiser, int first);

/* A plan of so many rows, from the cache or made now, valid until the next call. Known sizes of rows are
 * asdm_denoiser_rows(). */
enum asdm_status asdm_denoiser_plan(struct asdm_denoiser *denoiser, int rows, int height, int width,
                                    struct asdm_step_plan **ret, struct asdm_error *err);
/* The largest number of rows at most `wanted` that plans are made for: 1, 2, 4, 8, 16. */
int asdm_denoiser_rows(int wanted);

/* One call: `rows`, one after the other, each with the slots of its prompt and timestep. A guided picture's two rows
 * are in one call. The arrays must stay as they are until the call is finished; in between, the processor is free. */
void asdm_denoiser_start(struct asdm_denoiser *denoiser, struct asdm_step_plan *plan, const struct asdm_step_row *rows,
                         const int32_t *prompt_slots, const int32_t *timestep_slots);
/* Waits. Only devices fail: ERR_DEVICE. */
enum asdm_status asdm_denoiser_finish(struct asdm_step_plan *plan, struct asdm_error *err);
struct asdm_plan *asdm_step_plan_inner(struct asdm_step_plan *plan); /* for profiles */

#endif
