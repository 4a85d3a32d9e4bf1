/* The CUDA back end (NVIDIA, compute capability 8.0 and later): fp16 with float32 sums by default, bf16 and fp32. */
#ifndef ASDM_CUDA_H
#define ASDM_CUDA_H

#include "ops/backend.h"

extern const struct asdm_backend_class asdm_cuda_class;

#endif
