/* The CPU back end: oneDNN for convolutions and products, own vectorised kernels for the rest, float32 or bfloat16. */
#ifndef ASDM_CPU_H
#define ASDM_CPU_H

#include "ops/backend.h"

extern const struct asdm_backend_class asdm_cpu_class;

#endif
