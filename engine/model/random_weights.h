/* The weights of architectures that are only measured; see asdm_checkpoint_random in checkpoint.h. */
#ifndef ASDM_RANDOM_WEIGHTS_H
#define ASDM_RANDOM_WEIGHTS_H

#include "model/checkpoint.h"

/* A piece of the checkpoint's pool that depends on the weight's name, so that tensors differ. */
enum asdm_status asdm_random_weight_find(const uint16_t *pool, const struct asdm_weight *weight,
                                         struct asdm_tensor *ret, struct asdm_error *err);

#endif
