/* What makes a light model of one that diffusers knows: the object "asdm" in unet/config.json. Loaders that do not know
 * it ignore it.
 *
 *     "asdm": {
 *       "lineage": {...},                                        where the model came from; not read
 *       "gri": {"stages": [64], "window": 16, "pool": 4},        global-regional attention
 *       "condconv": {                                            conditional convolution
 *         "routing": "full",                                     or "timestep"
 *         "temperature": 1.0,
 *         "experts": {"down_blocks.0.resnets.0": {"count": 2, "parts": ["conv1", "conv2", "time_emb_proj"]}, ...}
 *       }
 *     }
 *
 * A stage is named by the height of its map at the model's own sample_size, as the pairs of `asdm prune` are: 64, 32,
 * 16, 8 in SD 1.5. `pool` divides `window`; their defaults are 4 and 16.
 *
 * A resnet has its own kernels under diffusers' names, which are expert 0, those of expert e = 1 .. count - 1 under
 * RESNET.experts.E.PART, and the router under RESNET.router: weight [count, features], bias [count]. The features are
 * the means of the resnet's input channels (routing "full"), then the activated time embedding. Parts that are not
 * named are plain; conv_shortcut is the fourth. */
#ifndef ASDM_LIGHT_CONFIG_H
#define ASDM_LIGHT_CONFIG_H

#include "model/config.h"

enum { ASDM_GRI_WINDOW = 16, ASDM_GRI_POOL = 4, ASDM_GRI_WINDOW_MAX = 1024 };

/* Reads "asdm" of `json` into `config`, whose other fields are known. ERR_FORMAT, ERR_UNSUPPORTED: names the member. */
enum asdm_status asdm_light_config_parse(const struct asdm_json *json, const char *name,
                                         struct asdm_unet_config *config, struct asdm_error *err);

/* Channels of a resnet's input and result; false: the model has no resnet of that name ("up_blocks.3.resnets.1"). */
bool asdm_resnet_channels(const struct asdm_unet_config *config, const char *resnet, int *ret_in, int *ret_out);
/* The parts of such a resnet, of which conv_shortcut is one where channels change. */
unsigned asdm_resnet_parts(int in, int out);
/* "conv1", ... of one of enum asdm_resnet_part. */
const char *asdm_resnet_part_name(unsigned part);

/* The height by which a stage is named. */
int asdm_stage_height(const struct asdm_unet_config *config, int stage);

/* Gives the stage of that height global-regional attention. ERR_FORMAT: there is none, it has no self-attention, or it
 * has it already; `name` starts the message. */
enum asdm_status asdm_gri_add_stage(struct asdm_unet_config *config, int64_t height, const char *name,
                                    struct asdm_error *err);

/* Takes it from stages that have no self-attention any more. */
void asdm_gri_trim(struct asdm_unet_config *config);

/* Whether window and pool fit each other. */
enum asdm_status asdm_gri_check(const struct asdm_gri_config *gri, const char *name, struct asdm_error *err);

#endif
