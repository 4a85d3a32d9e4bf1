/* cuDNN for convolutions with a bias and perhaps a residual, by its implicit matrix product, the one algorithm whose
 * epilogue may be without an activation. Which of its kernels that is, the library decides by shape, the rows among
 * it. */
#include "cuda/vendor.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cudnn.h>

static const size_t WORKSPACE_BYTES = (size_t)64 << 20;
static const cudnnConvolutionFwdAlgo_t ALGORITHM = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
static const char NAME[] = "cudnn implicit precomp gemm";

#define TEXT_OF(x) #x
#define NAME_OF(major) "libcudnn.so." TEXT_OF(major)

/* What is called, by name and type of the vendor's header. */
#define FUNCTIONS(X)                                                                                                   \
    X(cudnnGetVersion)                                                                                                 \
    X(cudnnCreate)                                                                                                     \
    X(cudnnDestroy)                                                                                                    \
    X(cudnnSetStream)                                                                                                  \
    X(cudnnCreateTensorDescriptor)                                                                                     \
    X(cudnnSetTensor4dDescriptor)                                                                                      \
    X(cudnnDestroyTensorDescriptor)                                                                                    \
    X(cudnnCreateFilterDescriptor)                                                                                     \
    X(cudnnSetFilter4dDescriptor)                                                                                      \
    X(cudnnDestroyFilterDescriptor)                                                                                    \
    X(cudnnCreateConvolutionDescriptor)                                                                                \
    X(cudnnSetConvolution2dDescriptor)                                                                                 \
    X(cudnnSetConvolutionMathType)                                                                                     \
    X(cudnnDestroyConvolutionDescriptor)                                                                               \
    X(cudnnCreateActivationDescriptor)                                                                                 \
    X(cudnnSetActivationDescriptor)                                                                                    \
    X(cudnnDestroyActivationDescriptor)                                                                                \
    X(cudnnGetConvolutionForwardWorkspaceSize)                                                                         \
    X(cudnnConvolutionBiasActivationForward)

struct library {
    void *file;
    cudnnHandle_t handle;
#define MEMBER(name) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
#undef MEMBER
};

struct product {
    struct library *library;
    cudnnTensorDescriptor_t x, y, bias_shape;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t convolution;
    cudnnActivationDescriptor_t activation;
    size_t workspace_bytes;
    const void *bias;
};

/* ---- the library */

static bool load(struct library *l) {
#define FUNCTION(name) {#name, offsetof(struct library, name)},
    static const struct cuda_vendor_function functions[] = {FUNCTIONS(FUNCTION)};
#undef FUNCTION
    l->file = cuda_vendor_load(NAME_OF(CUDNN_MAJOR), functions, sizeof functions / sizeof *functions, l);
    return l->file;
}

static void describe(char *ret, size_t room) {
    struct library l = {0};
    *ret = '\0';
    if (load(&l))
        snprintf(ret, room, "cuDNN %zu", l.cudnnGetVersion());
    if (l.file)
        dlclose(l.file);
}

static void close_library(void *library) {
    struct library *l = library;
    if (l->handle)
        l->cudnnDestroy(l->handle);
    if (l->file)
        dlclose(l->file);
    free(l);
}

static void *open_library(cudaStream_t stream) {
    struct library *l = calloc(1, sizeof *l);
    if (l && load(l) && l->cudnnCreate(&l->handle) == CUDNN_STATUS_SUCCESS &&
        l->cudnnSetStream(l->handle, stream) == CUDNN_STATUS_SUCCESS)
        return l;
    if (l)
        close_library(l);
    return NULL;
}

/* ---- products */

/* Padding is the same before and after, or has the same effect. */
static bool fits_side(const struct cuda_product *p, int in, int out) {
    return (in + 2 * p->pad_before - p->kernel) / p->stride + 1 == out;
}

static bool fits(const struct cuda_product *p) {
    return p->kernel > 1 && !p->upsample && !p->geglu && !p->channels[1] && p->bias && p->activation == ASDM_ACT_NONE &&
           fits_side(p, p->in_height, p->out_height) && fits_side(p, p->in_width, p->out_width);
}

static bool create_descriptors(struct product *d) {
    struct library *l = d->library;
    return l->cudnnCreateTensorDescriptor(&d->x) == CUDNN_STATUS_SUCCESS &&
           l->cudnnCreateTensorDescriptor(&d->y) == CUDNN_STATUS_SUCCESS &&
           l->cudnnCreateTensorDescriptor(&d->bias_shape) == CUDNN_STATUS_SUCCESS &&
           l->cudnnCreateFilterDescriptor(&d->w) == CUDNN_STATUS_SUCCESS &&
           l->cudnnCreateConvolutionDescriptor(&d->convolution) == CUDNN_STATUS_SUCCESS &&
           l->cudnnCreateActivationDescriptor(&d->activation) == CUDNN_STATUS_SUCCESS;
}

static bool set_descriptors(struct product *d, const struct cuda_product *p) {
    struct library *l = d->library;
    const cudnnTensorFormat_t nhwc = CUDNN_TENSOR_NHWC;
    const cudnnDataType_t type = p->dtype == CUDA_F16    ? CUDNN_DATA_HALF
                                 : p->dtype == CUDA_BF16 ? CUDNN_DATA_BFLOAT16
                                                         : CUDNN_DATA_FLOAT;
    const cudnnMathType_t math = p->dtype != CUDA_F32 ? CUDNN_TENSOR_OP_MATH
                                 : p->tf32            ? CUDNN_DEFAULT_MATH
                                                      : CUDNN_FMA_MATH;
    return l->cudnnSetTensor4dDescriptor(d->x, nhwc, type, p->rows, p->channels[0], p->in_height, p->in_width) ==
               CUDNN_STATUS_SUCCESS &&
           l->cudnnSetTensor4dDescriptor(d->y, nhwc, type, p->rows, p->out_channels, p->out_height, p->out_width) ==
               CUDNN_STATUS_SUCCESS &&
           l->cudnnSetTensor4dDescriptor(d->bias_shape, nhwc, type, 1, p->out_channels, 1, 1) == CUDNN_STATUS_SUCCESS &&
           l->cudnnSetFilter4dDescriptor(d->w, type, nhwc, p->out_channels, p->channels[0], p->kernel, p->kernel) ==
               CUDNN_STATUS_SUCCESS &&
           l->cudnnSetConvolution2dDescriptor(d->convolution, p->pad_before, p->pad_before, p->stride, p->stride, 1, 1,
                                              CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT) == CUDNN_STATUS_SUCCESS &&
           l->cudnnSetConvolutionMathType(d->convolution, math) == CUDNN_STATUS_SUCCESS &&
           l->cudnnSetActivationDescriptor(d->activation, CUDNN_ACTIVATION_IDENTITY, CUDNN_NOT_PROPAGATE_NAN, 0) ==
               CUDNN_STATUS_SUCCESS;
}

static void done(void *user) {
    struct product *d = user;
    struct library *l = d->library;
    cudnnTensorDescriptor_t tensors[] = {d->x, d->y, d->bias_shape};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        if (tensors[i])
            l->cudnnDestroyTensorDescriptor(tensors[i]);
    if (d->w)
        l->cudnnDestroyFilterDescriptor(d->w);
    if (d->convolution)
        l->cudnnDestroyConvolutionDescriptor(d->convolution);
    if (d->activation)
        l->cudnnDestroyActivationDescriptor(d->activation);
    free(d);
}

static int candidates(void *library, const struct cuda_product *p,
                      char ret[CUDA_VENDOR_CANDIDATES][ASDM_CHOICE_BYTES]) {
    (void)library, (void)p;
    snprintf(ret[0], ASDM_CHOICE_BYTES, "%s", NAME);
    return 1;
}

static void *prepare(void *library, const struct cuda_product *p, const void *bias, const char *name,
                     size_t *ret_scratch_bytes) {
    struct library *l = library;
    struct product *d = strcmp(name, NAME) == 0 && fits(p) ? calloc(1, sizeof *d) : NULL;
    if (!d)
        return NULL;
    d->library = l;
    d->bias = bias;
    if (create_descriptors(d) && set_descriptors(d, p) &&
        l->cudnnGetConvolutionForwardWorkspaceSize(l->handle, d->x, d->w, d->convolution, d->y, ALGORITHM,
                                                   &d->workspace_bytes) == CUDNN_STATUS_SUCCESS &&
        d->workspace_bytes <= WORKSPACE_BYTES) {
        *ret_scratch_bytes = d->workspace_bytes;
        return d;
    }
    done(d);
    return NULL;
}

/* The stream is that of the open library. */
static cudaError_t run(const void *user, const struct cuda_product *p, cudaStream_t stream) {
    const struct product *d = user;
    const float one = 1, residual = p->residual ? 1 : 0;
    (void)stream;
    cudnnStatus_t status = d->library->cudnnConvolutionBiasActivationForward(
        d->library->handle, &one, d->x, p->x[0], d->w, p->weight, d->convolution, ALGORITHM, p->scratch,
        d->workspace_bytes, &residual, d->y, p->residual ? p->residual : p->y, d->bias_shape, d->bias, d->activation,
        d->y, p->y);
    return status == CUDNN_STATUS_SUCCESS ? cudaSuccess : cudaErrorLaunchFailure;
}

const struct cuda_vendor cuda_cudnn = {"cudnn ", describe, open_library, close_library, fits, candidates,
                                       prepare,  done,     run};
