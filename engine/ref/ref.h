/* The reference back end: plain C in float32 with sums in double, readable, never tuned. The truth that every other
 * back end is tested against. Accepts every fused form, so that the rewrites can be tested in it. */
#ifndef ASDM_REF_H
#define ASDM_REF_H

#include "ops/backend.h"

extern const struct asdm_backend_class asdm_ref_class;

#endif
