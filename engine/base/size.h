/* Checked size arithmetic: every size that comes from a file or a request is computed with these. */
#ifndef ASDM_BASE_SIZE_H
#define ASDM_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *ret = a * b; false, and *ret untouched, when it does not fit. */
static inline bool asdm_size_mul(size_t a, size_t b, size_t *ret) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *ret = product;
    return true;
}

static inline bool asdm_size_add(size_t a, size_t b, size_t *ret) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *ret = sum;
    return true;
}

static inline size_t asdm_size_least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Rounds up to a multiple of `alignment`, a power of two. The caller has checked that it fits. */
static inline size_t asdm_size_align(size_t size, size_t alignment) {
    return (size + alignment - 1) & ~(alignment - 1);
}

#endif
