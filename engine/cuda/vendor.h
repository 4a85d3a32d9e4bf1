/* NVIDIA's libraries as candidates for products: cuBLASLt (cublaslt.c) and cuDNN (cudnn.c). A library is loaded when it
 * is first asked for, so that programs start without it; where it is missing, in the build or on the machine, there are
 * no such candidates. Both want the bias in the type of the result. */
#ifndef ASDM_CUDA_VENDOR_H
#define ASDM_CUDA_VENDOR_H

#include "cuda/kernels.h"
#include "ops/choices.h"

enum { CUDA_VENDOR_CANDIDATES = 8, CUDA_VENDORS_MAX = 2 };

struct cuda_vendor {
    const char *prefix; /* of the names of its algorithms: "cublaslt " */
    /* "cuBLASLt 130002", or "" where there is none. */
    void (*describe)(char *ret, size_t room);
    /* The open library; NULL: there is none. */
    void *(*open)(cudaStream_t stream);
    void (*close)(void *library);
    bool (*fits)(const struct cuda_product *p);
    /* The algorithms that the library proposes for the product, by name; their number is returned. */
    int (*candidates)(void *library, const struct cuda_product *p, char ret[CUDA_VENDOR_CANDIDATES][ASDM_CHOICE_BYTES]);
    /* The product with the algorithm of such a name; NULL: the library does not take it. `bias`: in y's type, or
     * NULL. */
    void *(*prepare)(void *library, const struct cuda_product *p, const void *bias, const char *name,
                     size_t *ret_scratch_bytes);
    void (*done)(void *product);
    /* `p` with all addresses, of the sizes that it was prepared for. */
    cudaError_t (*run)(const void *product, const struct cuda_product *p, cudaStream_t stream);
};

extern const struct cuda_vendor cuda_cublaslt, cuda_cudnn;

/* A function of a library: its name, and where in a structure its address goes. */
struct cuda_vendor_function {
    const char *name;
    size_t offset;
};

/* Opens a library and has the addresses of `count` functions written into `functions`; NULL, and nothing stays open:
 * the library or one of them is missing. The caller closes it by dlclose. */
void *cuda_vendor_load(const char *file, const struct cuda_vendor_function *wanted, size_t count, void *functions);

#endif
