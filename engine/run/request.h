/* A request, checked and with its names resolved: the one table of what a picture may be. */
#ifndef ASDM_RUN_REQUEST_H
#define ASDM_RUN_REQUEST_H

#include "run/internal.h"

struct asdm_order {
    int height, width; /* latents */
    enum asdm_sampler sampler;
    enum asdm_schedule schedule;
    int steps;
    double strength; /* negative: t2i */
    bool guided;     /* two rows per evaluation */
};

/* ERR_ARGUMENT, or the sampler's own refusal, naming the field. */
enum asdm_status asdm_order_resolve(const struct asdm_model *model, const struct asdm_request *request,
                                    struct asdm_order *ret, struct asdm_error *err);

#endif
