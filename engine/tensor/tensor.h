/* A tensor somewhere in memory: data type, shape, address. Dense, row-major. */
#ifndef ASDM_TENSOR_H
#define ASDM_TENSOR_H

#include <stddef.h>
#include <stdint.h>

/* One list: symbol, name as safetensors writes it, bytes. Weights are of the first three. */
#define ASDM_DTYPE_LIST(X)                                                                                             \
    X(ASDM_F32, "F32", 4)                                                                                              \
    X(ASDM_F16, "F16", 2)                                                                                              \
    X(ASDM_BF16, "BF16", 2)                                                                                            \
    X(ASDM_I64, "I64", 8)                                                                                              \
    X(ASDM_I32, "I32", 4)                                                                                              \
    X(ASDM_F64, "F64", 8)                                                                                              \
    X(ASDM_I16, "I16", 2)                                                                                              \
    X(ASDM_I8, "I8", 1)                                                                                                \
    X(ASDM_U8, "U8", 1)                                                                                                \
    X(ASDM_U16, "U16", 2)                                                                                              \
    X(ASDM_U32, "U32", 4)                                                                                              \
    X(ASDM_U64, "U64", 8)                                                                                              \
    X(ASDM_BOOL, "BOOL", 1)

enum asdm_dtype {
#define ASDM_DTYPE_ENUM(symbol, name, bytes) symbol,
    ASDM_DTYPE_LIST(ASDM_DTYPE_ENUM)
#undef ASDM_DTYPE_ENUM
        ASDM_OTHER_DTYPE /* none of these: can only be listed */
};

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
