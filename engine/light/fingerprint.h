/* Telling models apart. */
#ifndef ASDM_LIGHT_FINGERPRINT_H
#define ASDM_LIGHT_FINGERPRINT_H

#include "run/internal.h"

/* Of all that a trajectory depends on but the request: names, shapes and numbers of the UNet's and the text encoder's
 * weights, and the timesteps of `steps` steps. Not made against forgery. */
enum asdm_status asdm_fingerprint(const struct asdm_model *model, int steps, uint64_t *ret, struct asdm_error *err);

#endif
