/* cuBLASLt for products that are one matrix product: linears and 1x1 convolutions with one source, with a bias and a
 * residual, without GEGLU or activation. */
#include "cuda/vendor.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cublasLt.h>

enum { ALGORITHM_WORDS = 8 }; /* of cublasLtMatmulAlgo_t, which may be kept and given back */
static const size_t WORKSPACE_BYTES = (size_t)16 << 20;

#define TEXT_OF(x) #x
#define NAME_OF(major) "libcublasLt.so." TEXT_OF(major)

/* What is called, by name and type of the vendor's header. */
#define FUNCTIONS(X)                                                                                                   \
    X(cublasLtGetVersion)                                                                                              \
    X(cublasLtCreate)                                                                                                  \
    X(cublasLtDestroy)                                                                                                 \
    X(cublasLtMatmul)                                                                                                  \
    X(cublasLtMatmulAlgoCheck)                                                                                         \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                                  \
    X(cublasLtMatmulDescCreate)                                                                                        \
    X(cublasLtMatmulDescDestroy)                                                                                       \
    X(cublasLtMatmulDescSetAttribute)                                                                                  \
    X(cublasLtMatmulPreferenceCreate)                                                                                  \
    X(cublasLtMatmulPreferenceDestroy)                                                                                 \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                            \
    X(cublasLtMatrixLayoutCreate)                                                                                      \
    X(cublasLtMatrixLayoutDestroy)

struct library {
    void *file;
    cublasLtHandle_t handle;
#define MEMBER(name) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

/* y' [n][m] = W [n][k] x' [k][m] as the library sees it, columns innermost: its D is our y. */
struct product {
    struct library *library;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
    const void *bias; /* in y's type; NULL: none */
};

/* ---- the library */

static bool load(struct library *l) {
#define FUNCTION(name) {#name, offsetof(struct library, name)},
    static const struct cuda_vendor_function functions[] = {FUNCTIONS(FUNCTION)};
#undef FUNCTION
    l->file = cuda_vendor_load(NAME_OF(CUBLAS_VER_MAJOR), functions, sizeof functions / sizeof *functions, l);
    return l->file;
}

static void describe(char *ret, size_t room) {
    struct library l = {0};
    *ret = '\0';
    if (load(&l))
        snprintf(ret, room, "cuBLASLt %zu", l.cublasLtGetVersion());
    if (l.file)
        dlclose(l.file);
}

static void close_library(void *library) {
    struct library *l = library;
    if (l->handle)
        l->cublasLtDestroy(l->handle);
    if (l->file)
        dlclose(l->file);
    free(l);
}

static void *open_library(cudaStream_t stream) {
    struct library *l = calloc(1, sizeof *l);
    (void)stream;
    if (l && load(l) && l->cublasLtCreate(&l->handle) == CUBLAS_STATUS_SUCCESS)
        return l;
    if (l)
        close_library(l);
    return NULL;
}

/* ---- products */

static bool fits(const struct cuda_product *p) {
    return p->kernel == 1 && p->stride == 1 && !p->pad_before && !p->pad_after && !p->upsample && !p->geglu &&
           !p->channels[1] && p->activation == ASDM_ACT_NONE;
}

static cudaDataType_t type_of(const struct cuda_product *p) {
    return p->dtype == CUDA_F16 ? CUDA_R_16F : p->dtype == CUDA_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static bool set(struct product *product, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes) {
    return product->library->cublasLtMatmulDescSetAttribute(product->operation, attribute, value, bytes) ==
           CUBLAS_STATUS_SUCCESS;
}

/* Everything but the algorithm. */
static bool describe_product(struct product *product, const struct cuda_product *p) {
    struct library *l = product->library;
    const uint64_t m = (uint64_t)p->rows * (uint64_t)p->out_height * (uint64_t)p->out_width;
    const uint64_t n = (uint64_t)p->out_channels, k = (uint64_t)p->channels[0];
    const cudaDataType_t type = type_of(p);
    const cublasOperation_t turned = CUBLAS_OP_T;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cublasComputeType_t compute = p->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    return l->cublasLtMatmulDescCreate(&product->operation, compute, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           set(product, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned) &&
           (!p->bias || (set(product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) &&
                         set(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product->bias, sizeof product->bias))) &&
           l->cublasLtMatrixLayoutCreate(&product->w, type, k, n, (int64_t)k) == CUBLAS_STATUS_SUCCESS &&
           l->cublasLtMatrixLayoutCreate(&product->x, type, k, m, (int64_t)k) == CUBLAS_STATUS_SUCCESS &&
           l->cublasLtMatrixLayoutCreate(&product->y, type, n, m, (int64_t)n) == CUBLAS_STATUS_SUCCESS;
}

static void done(void *user) {
    struct product *product = user;
    struct library *l = product->library;
    if (product->w)
        l->cublasLtMatrixLayoutDestroy(product->w);
    if (product->x)
        l->cublasLtMatrixLayoutDestroy(product->x);
    if (product->y)
        l->cublasLtMatrixLayoutDestroy(product->y);
    if (product->operation)
        l->cublasLtMatmulDescDestroy(product->operation);
    free(product);
}

static struct product *create(struct library *library, const struct cuda_product *p, const void *bias) {
    struct product *product = calloc(1, sizeof *product);
    if (!product)
        return NULL;
    product->library = library;
    product->bias = bias;
    if (describe_product(product, p))
        return product;
    done(product);
    return NULL;
}

/* ---- algorithms */

static void name_algorithm(const cublasLtMatmulAlgo_t *algorithm, char ret[ASDM_CHOICE_BYTES]) {
    size_t used = (size_t)snprintf(ret, ASDM_CHOICE_BYTES, "cublaslt ");
    for (int i = 0; i < ALGORITHM_WORDS; i++)
        used += (size_t)snprintf(ret + used, ASDM_CHOICE_BYTES - used, "%s%" PRIx64, i ? "." : "", algorithm->data[i]);
}

static bool parse_algorithm(const char *text, cublasLtMatmulAlgo_t *ret) {
    char again[ASDM_CHOICE_BYTES];
    const char *at = strchr(text, ' ');
    for (int i = 0; i < ALGORITHM_WORDS && at; i++) {
        char *end;
        ret->data[i] = strtoull(at + 1, &end, 16);
        at = *end == '.' || i == ALGORITHM_WORDS - 1 ? end : NULL;
    }
    name_algorithm(ret, again);
    return at && strcmp(text, again) == 0;
}

/* How much workspace there is, and that addresses are multiples of 16 bytes. */
static bool set_preference(struct library *l, cublasLtMatmulPreference_t *ret) {
    static const cublasLtMatmulPreferenceAttributes_t operands[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t alignment = 16;
    bool done =
        l->cublasLtMatmulPreferenceCreate(ret) == CUBLAS_STATUS_SUCCESS &&
        l->cublasLtMatmulPreferenceSetAttribute(*ret, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES,
                                                sizeof WORKSPACE_BYTES) == CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 4; i++)
        done = done && l->cublasLtMatmulPreferenceSetAttribute(*ret, operands[i], &alignment, sizeof alignment) ==
                           CUBLAS_STATUS_SUCCESS;
    return done;
}

static int candidates(void *user, const struct cuda_product *p, char ret[CUDA_VENDOR_CANDIDATES][ASDM_CHOICE_BYTES]) {
    struct library *library = user;
    cublasLtMatmulHeuristicResult_t results[CUDA_VENDOR_CANDIDATES];
    cublasLtMatmulPreference_t preference = NULL;
    struct product *product = create(library, p, p->bias);
    int found = 0, count = 0;
    if (product && set_preference(library, &preference) &&
        library->cublasLtMatmulAlgoGetHeuristic(library->handle, product->operation, product->w, product->x, product->y,
                                                product->y, preference, CUDA_VENDOR_CANDIDATES, results,
                                                &found) != CUBLAS_STATUS_SUCCESS)
        found = 0;
    for (int i = 0; i < found; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS)
            name_algorithm(&results[i].algo, ret[count++]);
    if (preference)
        library->cublasLtMatmulPreferenceDestroy(preference);
    if (product)
        done(product);
    return count;
}

/* ---- preparing and running */

static void *prepare(void *user, const struct cuda_product *p, const void *bias, const char *name,
                     size_t *ret_scratch_bytes) {
    struct library *library = user;
    cublasLtMatmulHeuristicResult_t result;
    cublasLtMatmulAlgo_t algorithm = {0};
    struct product *product = parse_algorithm(name, &algorithm) ? create(library, p, bias) : NULL;
    if (!product)
        return NULL;
    if (library->cublasLtMatmulAlgoCheck(library->handle, product->operation, product->w, product->x, product->y,
                                         product->y, &algorithm, &result) != CUBLAS_STATUS_SUCCESS ||
        result.workspaceSize > WORKSPACE_BYTES) {
        done(product);
        return NULL;
    }
    product->algorithm = algorithm;
    *ret_scratch_bytes = product->workspace_bytes = result.workspaceSize;
    return product;
}

static cudaError_t run(const void *user, const struct cuda_product *p, cudaStream_t stream) {
    const struct product *product = user;
    const float one = 1, beta = p->residual ? 1 : 0;
    cublasStatus_t status =
        product->library->cublasLtMatmul(product->library->handle, product->operation, &one, p->weight, product->w,
                                         p->x[0], product->x, &beta, p->residual ? p->residual : p->y, product->y, p->y,
                                         product->y, &product->algorithm, p->scratch, product->workspace_bytes, stream);
    return status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorLaunchFailure;
}

const struct cuda_vendor cuda_cublaslt = {"cublaslt ", describe, open_library, close_library, fits, candidates,
                                          prepare,     done,     run};
