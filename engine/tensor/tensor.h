/* A tensor somewhere in memory: data type, shape, address. Dense, row-major. */
#ifndef ASDM_TENSOR_H
#define ASDM_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum asdm_dtype { ASDM_F32, ASDM_F16, ASDM_BF16, ASDM_I64, ASDM_I32, ASDM_OTHER_DTYPE };

enum { ASDM_RANK_MAX = 8 };

struct asdm_tensor {
    const char *name;
    enum asdm_dtype dtype;
    int rank;
    int64_t dims[ASDM_RANK_MAX];
    const void *data;
    size_t count; /* elements */
    size_t bytes;
};

size_t asdm_dtype_bytes(enum asdm_dtype dtype);     /* 0 for ASDM_OTHER_DTYPE */
const char *asdm_dtype_name(enum asdm_dtype dtype); /* "F32", ... as safetensors writes it */

/* elements [first, first + count) of an F32, F16 or BF16 tensor as float. */
void asdm_tensor_to_f32(const struct asdm_tensor *tensor, size_t first, size_t count, float *dst);

/* "[320, 4, 3, 3]" into `text`; returns `text`. */
const char *asdm_dims_text(const int64_t *dims, int rank, char text[128]);

#endif
