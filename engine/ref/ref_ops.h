/* One planned operation of the reference back end, and the functions that compute it. */
#ifndef ASDM_REF_OPS_H
#define ASDM_REF_OPS_H

#include "ops/backend.h"

struct ref_op {
    struct asdm_site site;
    /* float32; products and convolutions laid out [k * k][in][out], so that the innermost loop runs along the outputs
     */
    const float *weight[ASDM_PARTS_MAX], *bias[ASDM_PARTS_MAX]; /* bias NULL: none */
};

typedef void ref_run(const struct ref_op *op, const struct asdm_run *run);

/* By kind. */
ref_run *ref_run_of(enum asdm_op_kind kind);

#endif
