/* The residual block that the UNet and the autoencoder share (diffusers' ResnetBlock2D). */
#ifndef ASDM_RESNET_H
#define ASDM_RESNET_H

#include "ops/program.h"

struct asdm_resnet {
    int groups;
    float eps;
    enum asdm_activation activation;
    int time; /* activated time embedding, or ASDM_NONE in the autoencoder */
};

/* x + conv2(act(norm2(conv1(act(norm1 x)) + time))), x through a 1x1 convolution where the channels change. Weights
 * under `name`. */
int asdm_build_resnet(struct asdm_program *p, const struct asdm_resnet *resnet, int x, int out_channels,
                      const char *name);

/* NAME with formatted parts, for weights; kept by the program. */
const char *asdm_build_name(struct asdm_program *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
