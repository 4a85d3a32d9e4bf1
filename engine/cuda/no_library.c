/* In place of library.c where the build has no cuBLASLt header. */
#include "cuda/library.h"

void cuda_library_describe(char *ret, size_t room) {
    (void)room;
    *ret = '\0';
}

void cuda_library_open(struct cuda_library **library) {
    (void)library;
}

void cuda_library_close(struct cuda_library **library) {
    (void)library;
}

bool cuda_library_fits(const struct cuda_product *p) {
    (void)p;
    return false;
}

int cuda_library_candidates(struct cuda_library *library, const struct cuda_product *p,
                            char ret[CUDA_LIBRARY_CANDIDATES][ASDM_CHOICE_BYTES]) {
    (void)library, (void)p, (void)ret;
    return 0;
}

enum asdm_status cuda_library_prepare(struct cuda_library *library, struct asdm_backend *backend,
                                      const struct asdm_site *site, const struct cuda_product *p, const char *algorithm,
                                      struct cuda_library_product **ret, size_t *ret_scratch_bytes,
                                      struct asdm_error *err) {
    (void)library, (void)backend, (void)site, (void)p, (void)algorithm, (void)ret, (void)ret_scratch_bytes, (void)err;
    return ASDM_OK;
}

void cuda_library_done(struct cuda_library_product **product) {
    (void)product;
}

cudaError_t cuda_library_run(const struct cuda_library_product *product, const struct cuda_product *p,
                             cudaStream_t stream) {
    (void)product, (void)p, (void)stream;
    return cudaErrorNotSupported;
}
