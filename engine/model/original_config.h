/* One-file checkpoints carry no configuration: the architecture is read off the tensors' shapes. */
#ifndef ASDM_ORIGINAL_CONFIG_H
#define ASDM_ORIGINAL_CONFIG_H

#include "model/checkpoint.h"

/* Fills layout, unet, vae, text and scheduler from checkpoint->files[0]. What shapes do not tell is as in the released
 * models: 8 attention heads in SD 1.x and 64 channels a head in SD 2.x, 32 norm groups, the scaled-linear noise
 * schedule; SD 2.x predicts v unless the file's metadata (modelspec.prediction_type) says epsilon. */
enum asdm_status asdm_original_config_read(struct asdm_checkpoint *checkpoint, struct asdm_error *err);

#endif
