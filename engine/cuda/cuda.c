#include "cuda/cuda.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "cuda/cuda_ops.h"
#include "ops/rewrite.h"

enum { TIMED_REPEATS = 10, TIMED_TRIES = 3, CAPABILITY_LEAST = 80 };

static struct cuda_backend *of(struct asdm_backend *base) {
    return (struct cuda_backend *)base;
}

static enum asdm_status failed(const struct cuda_backend *backend, cudaError_t error, struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_DEVICE, "device \"cuda:%d\": %s (%s)", backend->device, cudaGetErrorString(error),
                     cudaGetErrorName(error));
}

static void note(struct cuda_backend *backend, cudaError_t error) {
    if (error != cudaSuccess && backend->failure == cudaSuccess)
        backend->failure = error;
}

/* ---- memory */

static size_t available(struct asdm_backend *base, size_t *ret_total) {
    size_t left = 0, total = 0;
    note(of(base), cudaMemGetInfo(&left, &total));
    if (ret_total)
        *ret_total = total;
    return left;
}

static enum asdm_status map(struct asdm_backend *base, size_t bytes, const char *what, void **ret,
                            struct asdm_error *err) {
    struct cuda_backend *backend = of(base);
    void *memory;
    cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* this one does not stay */
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s needs %.2f GB of device memory, %.2f GB are available", what,
                         (double)bytes / 1e9, (double)available(base, NULL) / 1e9);
    }
    if (error == cudaSuccess)
        error = cudaMemsetAsync(memory, 0, bytes, backend->stream);
    if (error != cudaSuccess)
        return failed(backend, error, err);
    *ret = memory;
    return ASDM_OK;
}

static void unmap(struct asdm_backend *base, void *memory) {
    note(of(base), cudaFree(memory)); /* waits for the device */
}

static enum asdm_status map_staging(struct asdm_backend *base, size_t bytes, void **ret, struct asdm_error *err) {
    void *memory;
    (void)base;
    cudaError_t error = cudaMallocHost(&memory, bytes ? bytes : 1);
    if (error != cudaSuccess) {
        cudaGetLastError();
        return asdm_fail(err, ASDM_ERR_MEMORY, "%.2f GB of memory for copies to the device could not be had: %s",
                         (double)bytes / 1e9, cudaGetErrorString(error));
    }
    *ret = memory;
    return ASDM_OK;
}

static void unmap_staging(struct asdm_backend *base, void *memory) {
    note(of(base), cudaFreeHost(memory));
}

static void copy(struct asdm_backend *base, void *to, const void *from, size_t bytes) {
    struct cuda_backend *backend = of(base);
    note(backend, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, backend->stream));
}

/* ---- running */

static void begin(struct asdm_backend *base) {
    note(of(base), cudaSetDevice(of(base)->device));
}

static enum asdm_status finish(struct asdm_backend *base, struct asdm_error *err) {
    struct cuda_backend *backend = of(base);
    note(backend, cudaStreamSynchronize(backend->stream));
    return backend->failure == cudaSuccess ? ASDM_OK : failed(backend, backend->failure, err);
}

static void *record(struct asdm_backend *base, void (*enqueue)(void *user), void *user) {
    struct cuda_backend *backend = of(base);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t recording = NULL;
    cudaError_t before = backend->failure;
    if (before != cudaSuccess ||
        cudaStreamBeginCapture(backend->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess)
        return NULL;
    enqueue(user);
    cudaError_t error = cudaStreamEndCapture(backend->stream, &graph);
    if (error == cudaSuccess && backend->failure == cudaSuccess)
        error = cudaGraphInstantiate(&recording, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    if (error != cudaSuccess || backend->failure != cudaSuccess) {
        cudaGetLastError();
        backend->failure = before; /* nothing ran: what the capture refused, a direct run may do */
        return NULL;
    }
    return recording;
}

static void replay(struct asdm_backend *base, void *recording) {
    note(of(base), cudaGraphLaunch(recording, of(base)->stream));
}

static void forget(struct asdm_backend *base, void *recording) {
    note(of(base), cudaGraphExecDestroy(recording));
}

struct repeated {
    void (*enqueue)(void *user);
    void *user;
};

static void enqueue_repeated(void *user) {
    const struct repeated *r = user;
    for (int i = 0; i < TIMED_REPEATS; i++)
        r->enqueue(r->user);
}

/* A few repeats in one graph, so that the processor's part of a launch does not count. */
static double time_work(struct asdm_backend *base, void (*enqueue)(void *user), void *user) {
    struct cuda_backend *backend = of(base);
    struct repeated repeated = {enqueue, user};
    float best = FLT_MAX;
    enqueue(user);
    void *recording = record(base, enqueue_repeated, &repeated);
    for (int i = 0; i < TIMED_TRIES; i++) {
        float ms = 0;
        note(backend, cudaEventRecord(backend->start, backend->stream));
        if (recording)
            replay(base, recording);
        else
            enqueue_repeated(&repeated);
        note(backend, cudaEventRecord(backend->stop, backend->stream));
        note(backend, cudaEventSynchronize(backend->stop));
        note(backend, cudaEventElapsedTime(&ms, backend->start, backend->stop));
        best = ms < best ? ms : best;
    }
    if (recording)
        forget(base, recording);
    return best / 1e3 / TIMED_REPEATS;
}

/* The driver's version as it calls itself, or else the CUDA version that it can do. */
static void describe_driver(char *ret, size_t room) {
    int version = 0;
    FILE *file = fopen("/sys/module/nvidia/version", "re");
    bool known = file && fgets(ret, (int)room, file);
    if (file)
        fclose(file);
    if (known) {
        ret[strcspn(ret, "\n")] = '\0';
        return;
    }
    cudaDriverGetVersion(&version);
    snprintf(ret, room, "for CUDA %d.%d", version / 1000, version % 1000 / 10);
}

static void describe(struct asdm_backend *base, struct asdm_machine *ret) {
    struct cudaDeviceProp properties = {0};
    *ret = (struct asdm_machine){0};
    note(of(base), cudaGetDeviceProperties(&properties, of(base)->device));
    snprintf(ret->gpu, sizeof ret->gpu, "%.*s", (int)sizeof ret->gpu - 1, properties.name);
    describe_driver(ret->driver, sizeof ret->driver);
    cuda_vendors_describe(ret->libraries, sizeof ret->libraries);
}

/* ---- the back end */

static enum asdm_status plan(struct asdm_backend *base, const struct asdm_site *site, struct asdm_kernel *ret,
                             struct asdm_error *err) {
    switch (site->op->kind) {
    case ASDM_OP_GLOBAL_POOL:
    case ASDM_OP_ROUTING:
    case ASDM_OP_MIX:
        return cuda_plan_routing(of(base), site, ret, err);
    case ASDM_OP_CONV2D:
    case ASDM_OP_LINEAR:
        return cuda_plan_product(of(base), site, ret, err);
    case ASDM_OP_GROUP_NORM:
    case ASDM_OP_LAYER_NORM:
        return cuda_plan_norm(of(base), site, ret, err);
    case ASDM_OP_ATTENTION:
        return cuda_plan_attention(of(base), site, ret, err);
    default:
        return cuda_plan_simple(of(base), site, ret, err);
    }
}

static bool is_present(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

static enum asdm_status check_device(int device, struct asdm_error *err) {
    int count = 0, major = 0, minor = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "device \"cuda\": %s", cudaGetErrorString(error));
    if (device >= count)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "device \"cuda:%d\": this machine has %d device(s), numbered from 0",
                         device, count);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (10 * major + minor < CAPABILITY_LEAST)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "device \"cuda:%d\" has compute capability %d.%d; 8.0 is needed",
                         device, major, minor);
    return ASDM_OK;
}

static enum cuda_dtype own_dtype(enum asdm_model_dtype dtype) {
    return dtype == ASDM_DTYPE_BF16 ? CUDA_BF16 : dtype == ASDM_DTYPE_FP16 ? CUDA_F16 : CUDA_F32;
}

static void destroy(struct asdm_backend *base) {
    struct cuda_backend *backend = of(base);
    cuda_vendors_close(backend);
    if (backend->start)
        cudaEventDestroy(backend->start);
    if (backend->stop)
        cudaEventDestroy(backend->stop);
    if (backend->stream)
        cudaStreamDestroy(backend->stream);
    free(backend);
}

static enum asdm_status create(int device, int threads, enum asdm_model_dtype dtype, struct asdm_backend **ret,
                               struct asdm_error *err) {
    (void)threads;
    ASDM_TRY(check_device(device, err));
    struct cuda_backend *backend = calloc(1, sizeof *backend);
    if (!backend)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the CUDA back end");
    dtype = dtype == ASDM_DTYPE_AUTO ? ASDM_DTYPE_FP16 : dtype;
    backend->device = device;
    backend->dtype = own_dtype(dtype);
    backend->tf32 = dtype == ASDM_DTYPE_TF32;
    backend->base = (struct asdm_backend){
        .class = &asdm_cuda_class, .dtype = dtype, .element_bytes = backend->dtype == CUDA_F32 ? 4 : 2};
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&backend->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaEventCreate(&backend->start);
    if (error == cudaSuccess)
        error = cudaEventCreate(&backend->stop);
    if (error != cudaSuccess) {
        enum asdm_status status = failed(backend, error, err);
        destroy(&backend->base);
        return status;
    }
    *ret = &backend->base;
    return ASDM_OK;
}

static const struct asdm_device_class device_class = {map,    unmap,  available, map_staging, unmap_staging, copy,
                                                      finish, record, replay,    forget,      time_work,     describe};

const struct asdm_backend_class asdm_cuda_class = {
    "cuda", ASDM_REWRITE_ALL & ~ASDM_REWRITE_ROW_BIAS_NORM, create, destroy, plan, begin, &device_class, is_present};
