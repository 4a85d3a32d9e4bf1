/* Which resnet that stays adopts the convolutions of which removed ones (CLME-CondConv of A-SDM). The removed layer 1
 * of a block goes to the layer beside it whose first convolution has the same shape, to the one after it where both or
 * neither have; the middle block's resnets go to the last layer that stays in the last down block. A part is mixed
 * where all experts have it in one shape. */
#ifndef ASDM_LIGHT_EXPERTS_H
#define ASDM_LIGHT_EXPERTS_H

#include <asdm/light.h>

#include "model/config.h"
#include "ops/program.h"

struct asdm_adoptions {
    int count;
    struct asdm_adoption {
        char resnet[48];                      /* in the light model */
        char originals[ASDM_EXPERTS_MAX][48]; /* in the original; the first is itself */
        int experts;
    } list[ASDM_CONDCONV_MAX];
    float bias[ASDM_EXPERTS_MAX]; /* of a fresh router */
    void *zeros;                  /* its weights */
};

/* ERR_ARGUMENT where a resnet would have more experts than can be. */
enum asdm_status asdm_adoptions_make(struct asdm_adoptions *adoptions, const struct asdm_unet_config *original,
                                     const struct asdm_unit *units, int unit_count, unsigned removed,
                                     enum asdm_routing routing, struct asdm_condconv_config *ret,
                                     struct asdm_error *err);
void asdm_adoptions_done(struct asdm_adoptions *adoptions);

/* The original's name for the weight `name` of an adopted expert; false: it is of none. */
bool asdm_adoptions_original_name(const struct asdm_adoptions *adoptions, const char *name, char ret[320]);
/* A fresh router's tensor, which prefers the resnet's own kernels (98 % of 2): weights 0, bias 4 for itself; false: the
 * weight is of no router, or of one that the original has. */
bool asdm_adoptions_router(const struct asdm_adoptions *adoptions, const struct asdm_weight *weight,
                           struct asdm_tensor *ret);

#endif
