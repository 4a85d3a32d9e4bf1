#include "cuda/library.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cublasLt.h>

#include <asdm/error.h>
#include "cuda/cuda_ops.h"

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

struct cuda_library {
    void *file;
    cublasLtHandle_t handle;
#define MEMBER(name) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

/* y' [n][m] = W [n][k] x' [k][m] as the library sees it, columns innermost: its D is our y. */
struct cuda_library_product {
    struct cuda_library *library;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
    const void *bias; /* in y's type; NULL: none */
};

/* ---- the library */

static bool load(struct cuda_library *l) {
    l->file = dlopen(NAME_OF(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    if (!l->file)
        return false;
    void *symbol;
#define FIND(name)                                                                                                     \
    if (!(symbol = dlsym(l->file, #name)))                                                                             \
        return false;                                                                                                  \
    memcpy(&l->name, &symbol, sizeof symbol);
    FUNCTIONS(FIND)
#undef FIND
    return true;
}

void cuda_library_describe(char *ret, size_t room) {
    struct cuda_library l = {0};
    *ret = '\0';
    if (load(&l))
        snprintf(ret, room, "cuBLASLt %zu", l.cublasLtGetVersion());
    if (l.file)
        dlclose(l.file);
}

void cuda_library_open(struct cuda_library **library) {
    struct cuda_library *l = *library ? NULL : calloc(1, sizeof *l);
    if (l && load(l) && l->cublasLtCreate(&l->handle) == CUBLAS_STATUS_SUCCESS)
        *library = l;
    else if (l)
        cuda_library_close(&l);
}

void cuda_library_close(struct cuda_library **library) {
    struct cuda_library *l = *library;
    if (!l)
        return;
    if (l->handle)
        l->cublasLtDestroy(l->handle);
    if (l->file)
        dlclose(l->file);
    free(l);
    *library = NULL;
}

/* ---- products */

bool cuda_library_fits(const struct cuda_product *p) {
    return p->kernel == 1 && p->stride == 1 && !p->pad_before && !p->pad_after && !p->upsample && !p->geglu &&
           !p->channels[1] && p->activation == ASDM_ACT_NONE;
}

static cudaDataType_t type_of(const struct cuda_product *p) {
    return p->dtype == CUDA_F16 ? CUDA_R_16F : p->dtype == CUDA_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static bool set(struct cuda_library_product *product, cublasLtMatmulDescAttributes_t attribute, const void *value,
                size_t bytes) {
    return product->library->cublasLtMatmulDescSetAttribute(product->operation, attribute, value, bytes) ==
           CUBLAS_STATUS_SUCCESS;
}

/* Everything but the algorithm. */
static bool describe(struct cuda_library_product *product, const struct cuda_product *p) {
    struct cuda_library *l = product->library;
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

static struct cuda_library_product *create(struct cuda_library *library, const struct cuda_product *p,
                                           const void *bias) {
    struct cuda_library_product *product = calloc(1, sizeof *product);
    if (!product)
        return NULL;
    product->library = library;
    product->bias = bias;
    if (!describe(product, p))
        cuda_library_done(&product);
    return product;
}

void cuda_library_done(struct cuda_library_product **product) {
    struct cuda_library_product *p = *product;
    if (!p)
        return;
    if (p->w)
        p->library->cublasLtMatrixLayoutDestroy(p->w);
    if (p->x)
        p->library->cublasLtMatrixLayoutDestroy(p->x);
    if (p->y)
        p->library->cublasLtMatrixLayoutDestroy(p->y);
    if (p->operation)
        p->library->cublasLtMatmulDescDestroy(p->operation);
    free(p);
    *product = NULL;
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
static bool set_preference(struct cuda_library *l, cublasLtMatmulPreference_t *ret) {
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

int cuda_library_candidates(struct cuda_library *library, const struct cuda_product *p,
                            char ret[CUDA_LIBRARY_CANDIDATES][ASDM_CHOICE_BYTES]) {
    cublasLtMatmulHeuristicResult_t results[CUDA_LIBRARY_CANDIDATES];
    cublasLtMatmulPreference_t preference = NULL;
    struct cuda_library_product *product = library ? create(library, p, p->bias) : NULL;
    int found = 0, count = 0;
    if (product && set_preference(library, &preference) &&
        library->cublasLtMatmulAlgoGetHeuristic(library->handle, product->operation, product->w, product->x, product->y,
                                                product->y, preference, CUDA_LIBRARY_CANDIDATES, results,
                                                &found) != CUBLAS_STATUS_SUCCESS)
        found = 0;
    for (int i = 0; i < found; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS)
            name_algorithm(&results[i].algo, ret[count++]);
    if (preference)
        library->cublasLtMatmulPreferenceDestroy(preference);
    cuda_library_done(&product);
    return count;
}

/* ---- preparing and running */

struct own_bias {
    const struct cuda_product *p;
    struct asdm_backend *backend;
};

/* The library takes a bias in the result's type. */
static enum asdm_status fill_bias(void *user, void *memory, struct asdm_error *err) {
    const struct own_bias *own = user;
    const struct asdm_device_class *device = own->backend->class->device;
    size_t count = (size_t)own->p->out_channels;
    float *numbers = malloc(count * sizeof *numbers);
    if (!numbers)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to lay out a bias");
    device->copy(own->backend, numbers, own->p->bias, count * sizeof *numbers);
    enum asdm_status status = device->finish(own->backend, err);
    if (status == ASDM_OK)
        cuda_convert(own->p->dtype, numbers, memory, count);
    free(numbers);
    return status;
}

static enum asdm_status get_bias(struct asdm_backend *backend, const struct asdm_site *site,
                                 const struct cuda_product *p, const void **ret, struct asdm_error *err) {
    struct own_bias own = {p, backend};
    char key[512];
    if (!p->bias || p->dtype == CUDA_F32) {
        *ret = p->bias;
        return ASDM_OK;
    }
    snprintf(key, sizeof key, "%s|%d parts|library %d", site->program->weights[site->op->bias[0]].name, site->op->parts,
             (int)p->dtype);
    return asdm_weight_store_get(site->weights, key, (size_t)p->out_channels * backend->element_bytes, fill_bias, &own,
                                 ret, err);
}

enum asdm_status cuda_library_prepare(struct cuda_library *library, struct asdm_backend *backend,
                                      const struct asdm_site *site, const struct cuda_product *p, const char *algorithm,
                                      struct cuda_library_product **ret, size_t *ret_scratch_bytes,
                                      struct asdm_error *err) {
    cublasLtMatmulHeuristicResult_t result;
    cublasLtMatmulAlgo_t parsed;
    const void *bias = NULL;
    if (!library || !parse_algorithm(algorithm, &parsed))
        return ASDM_OK;
    ASDM_TRY(get_bias(backend, site, p, &bias, err));
    struct cuda_library_product *product = create(library, p, bias);
    if (!product)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a product of cuBLASLt");
    if (library->cublasLtMatmulAlgoCheck(library->handle, product->operation, product->w, product->x, product->y,
                                         product->y, &parsed, &result) != CUBLAS_STATUS_SUCCESS ||
        result.workspaceSize > WORKSPACE_BYTES) {
        cuda_library_done(&product);
        return ASDM_OK;
    }
    product->algorithm = parsed;
    *ret_scratch_bytes = product->workspace_bytes = result.workspaceSize;
    *ret = product;
    return ASDM_OK;
}

cudaError_t cuda_library_run(const struct cuda_library_product *product, const struct cuda_product *p,
                             cudaStream_t stream) {
    const float one = 1, beta = p->residual ? 1 : 0;
    cublasStatus_t status =
        product->library->cublasLtMatmul(product->library->handle, product->operation, &one, p->weight, product->w,
                                         p->x[0], product->x, &beta, p->residual ? p->residual : p->y, product->y, p->y,
                                         product->y, &product->algorithm, p->scratch, product->workspace_bytes, stream);
    return status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorLaunchFailure;
}
