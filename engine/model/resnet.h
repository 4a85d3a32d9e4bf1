/* The residual block that the UNet and the autoencoder share (diffusers' ResnetBlock2D). */
#ifndef ASDM_RESNET_H
#define ASDM_RESNET_H

#include "model/config.h"
#include "ops/program.h"

/* What makes a residual block conditional: CLME-CondConv of A-SDM. */
struct asdm_resnet_experts {
    int count;
    unsigned parts; /* enum asdm_resnet_part: those that are mixed, the others are plain */
    enum asdm_routing routing;
    float temperature;
};

struct asdm_resnet {
    int groups;
    float eps;
    enum asdm_activation activation;
    int time;                                  /* activated time embedding, or ASDM_NONE in the autoencoder */
    const struct asdm_resnet_experts *experts; /* or NULL */
};

/* x + conv2(act(norm2(conv1(act(norm1 x)) + time))), x through a 1x1 convolution where the channels change. Weights
 * under `name`; with `experts` (or NULL) those of expert e = 1, 2, ... of its mixed parts under NAME.experts.E, and the
 * router's under NAME.router. One routing, from the mean of x (unless routing is by timestep) and the time embedding,
 * mixes all parts. */
int asdm_build_resnet(struct asdm_program *p, const struct asdm_resnet *resnet, int x, int out_channels,
                      const char *name);

/* NAME with formatted parts, for weights; kept by the program. */
const char *asdm_build_name(struct asdm_program *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
