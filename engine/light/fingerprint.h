/* Telling models apart. */
#ifndef ASDM_LIGHT_FINGERPRINT_H
#define ASDM_LIGHT_FINGERPRINT_H

#include "run/internal.h"

/* Of all that predictions on the trajectories of `prompts` depend on but the request's numbers: the UNet's and the text
 * encoder's operations and weights, the sampler's table of `steps` steps, and the prompts as the tokenizer numbers them
 * (with none, those are left out). Not made against forgery. */
enum asdm_status asdm_fingerprint(const struct asdm_model *model, int steps, char *const *prompts, int prompt_count,
                                  uint64_t *ret, struct asdm_error *err);

#endif
