/* NVIDIA's cuBLASLt as a candidate for products that are one matrix product: linears and 1x1 convolutions with one
 * source, with a bias and a residual, without GEGLU or activation. The library is loaded when it is first asked for, so
 * that programs start without it; where it is missing, in the build or on the machine, there are no such candidates. */
#ifndef ASDM_CUDA_LIBRARY_H
#define ASDM_CUDA_LIBRARY_H

#include "cuda/kernels.h"
#include "ops/backend.h"

enum { CUDA_LIBRARY_CANDIDATES = 8 };

struct cuda_library;         /* the open library; one for a back end */
struct cuda_library_product; /* one product with its algorithm */

/* "cuBLASLt 130002", or "" where there is none. */
void cuda_library_describe(char *ret, size_t room);
/* *library stays NULL where there is no library. */
void cuda_library_open(struct cuda_library **library);
void cuda_library_close(struct cuda_library **library);

bool cuda_library_fits(const struct cuda_product *p);

/* The algorithms that the library proposes for the product, as texts "cublaslt ..." of at most ASDM_CHOICE_BYTES; their
 * number is returned. */
int cuda_library_candidates(struct cuda_library *library, const struct cuda_product *p,
                            char ret[CUDA_LIBRARY_CANDIDATES][ASDM_CHOICE_BYTES]);

/* Prepares the product with the algorithm of such a text. *ret stays NULL where the library does not take it. The bias
 * is laid out in the type that the library wants. */
enum asdm_status cuda_library_prepare(struct cuda_library *library, struct asdm_backend *backend,
                                      const struct asdm_site *site, const struct cuda_product *p, const char *algorithm,
                                      struct cuda_library_product **ret, size_t *ret_scratch_bytes,
                                      struct asdm_error *err);
void cuda_library_done(struct cuda_library_product **product);
/* `p` with all addresses, of the sizes that it was prepared for. */
cudaError_t cuda_library_run(const struct cuda_library_product *product, const struct cuda_product *p,
                             cudaStream_t stream);

#endif
