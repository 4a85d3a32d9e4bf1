#include "tensor/tensor.h"

#include <stdio.h>
#include <string.h>

#include <asdm/error.h>
#include "base/half.h"

size_t asdm_dtype_bytes(enum asdm_dtype dtype) {
    switch (dtype) {
#define DTYPE_BYTES(symbol, name, bytes)                                                                               \
    case symbol:                                                                                                       \
        return bytes;
        ASDM_DTYPE_LIST(DTYPE_BYTES)
#undef DTYPE_BYTES
    case ASDM_OTHER_DTYPE:
        break;
    }
    return 0;
}

const char *asdm_dtype_name(enum asdm_dtype dtype) {
    switch (dtype) {
#define DTYPE_NAME(symbol, name, bytes)                                                                                \
    case symbol:                                                                                                       \
        return name;
        ASDM_DTYPE_LIST(DTYPE_NAME)
#undef DTYPE_NAME
    case ASDM_OTHER_DTYPE:
        break;
    }
    return "another type";
}

enum { BLOCK = 32 }; /* elements */

/* Elements are fetched with memcpy, because tensors in old files can lie at odd addresses. */
static inline uint16_t load_half(const unsigned char *src, int index) {
    uint16_t half;
    memcpy(&half, src + 2 * index, sizeof half);
    return half;
}

/* The results are those of base/half.h bit for bit (the tests compare them). No branches and a fixed length, so that
 * compilers make vector code of it. */
static inline __attribute__((always_inline)) void
convert_block(enum asdm_dtype dtype, const unsigned char *restrict src, float *restrict dst) {
    if (dtype == ASDM_BF16) {
        for (int i = 0; i < BLOCK; i++)
            dst[i] = asdm_bits_f32((uint32_t)load_half(src, i) << 16);
        return;
    }
    for (int i = 0; i < BLOCK; i++) {
        uint32_t half = load_half(src, i), magnitude = half & 0x7fffu, sign = (half & 0x8000u) << 16;
        uint32_t special = -(uint32_t)(magnitude >= 0x7c00), small = -(uint32_t)(magnitude < 0x400); /* masks */
        /* Infinity and NaN keep all exponent bits set; zero and subnormals are multiples of 2^-24. */
        uint32_t bits = (magnitude << 13) + (112u << 23) + (special & 112u << 23);
        uint32_t small_bits = asdm_f32_bits((float)(int32_t)magnitude * 0x1p-24f);
        dst[i] = asdm_bits_f32((bits & ~small) | (small_bits & small) | sign);
    }
}

static inline __attribute__((always_inline)) void convert(enum asdm_dtype dtype, const unsigned char *src, float *dst,
                                                          size_t count) {
    unsigned char halves[2 * BLOCK] = {0};
    float rest[BLOCK];
    size_t i = 0;
    for (; i + BLOCK <= count; i += BLOCK)
        convert_block(dtype, src + 2 * i, dst + i);
    if (i == count)
        return;
    memcpy(halves, src + 2 * i, 2 * (count - i));
    convert_block(dtype, halves, rest);
    memcpy(dst + i, rest, (count - i) * sizeof *dst);
}

#if defined(__x86_64__)
/* The same for processors with wider registers, chosen at run time. */
__attribute__((target("avx2"))) static void convert_avx2(enum asdm_dtype dtype, const unsigned char *src, float *dst,
                                                         size_t count) {
    if (dtype == ASDM_F16)
        convert(ASDM_F16, src, dst, count);
    else
        convert(ASDM_BF16, src, dst, count);
}
#endif

void asdm_tensor_to_f32(const struct asdm_tensor *tensor, size_t first, size_t count, float *dst) {
    ASDM_ASSERT(tensor->dtype == ASDM_F32 || tensor->dtype == ASDM_F16 || tensor->dtype == ASDM_BF16);
    ASDM_ASSERT(first <= tensor->count && count <= tensor->count - first);
    if (count == 0)
        return;
    const unsigned char *src = (const unsigned char *)tensor->data + first * asdm_dtype_bytes(tensor->dtype);
    if (tensor->dtype == ASDM_F32) {
        memcpy(dst, src, count * sizeof *dst);
        return;
    }
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        convert_avx2(tensor->dtype, src, dst, count);
        return;
    }
#endif
    if (tensor->dtype == ASDM_F16)
        convert(ASDM_F16, src, dst, count);
    else
        convert(ASDM_BF16, src, dst, count);
}

const char *asdm_dims_text(const int64_t *dims, int rank, char text[128]) {
    enum { SIZE = 128 };
    size_t used = (size_t)snprintf(text, SIZE, "[");
    for (int i = 0; i < rank; i++) {
        char dim[32];
        size_t length = (size_t)snprintf(dim, sizeof dim, "%s%lld", i ? ", " : "", (long long)dims[i]);
        if (used + length + sizeof ", ...]" > SIZE) {
            used += (size_t)snprintf(text + used, SIZE - used, ", ...");
            break;
        }
        memcpy(text + used, dim, length + 1);
        used += length;
    }
    snprintf(text + used, SIZE - used, "]");
    return text;
}
