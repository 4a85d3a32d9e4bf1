/* What the files of the CUDA back end share: its state, operands, and one planner per kind of operation. */
#ifndef ASDM_CUDA_OPS_H
#define ASDM_CUDA_OPS_H

#include "cuda/kernels.h"
#include "cuda/product_sm90.h"
#include "cuda/vendor.h"
#include "ops/backend.h"

struct cuda_backend {
    struct asdm_backend base;
    int device;
    enum cuda_dtype dtype;
    bool tf32; /* products of float32 numbers in tf32 */
    cudaStream_t stream;
    cudaEvent_t start, stop;           /* for asdm_device_class.time */
    cudaError_t failure;               /* the first, which stays */
    void *libraries[CUDA_VENDORS_MAX]; /* of the vendor; NULL: not there, or not asked for yet */
    bool asked[CUDA_VENDORS_MAX];
};

/* One planned operation: the start of every kernel's state. */
struct cuda_op {
    struct asdm_site site;
    struct cuda_backend *backend;
};

typedef enum asdm_status cuda_plan(struct cuda_backend *backend, const struct asdm_site *site, struct asdm_kernel *ret,
                                   struct asdm_error *err);

cuda_plan cuda_plan_product;   /* plan_product.c: conv2d and linear */
cuda_plan cuda_plan_attention; /* plan_others.c, as the rest */
cuda_plan cuda_plan_norm;
cuda_plan cuda_plan_simple;
cuda_plan cuda_plan_routing; /* plan_routing.c: what conditional convolutions need beside their products */

/* ---- operands.c
 *
 * Allocates a kernel's state of `bytes` (which starts with a struct cuda_op) and fills in what all kernels have. */
enum asdm_status cuda_kernel_create(struct cuda_backend *backend, const struct asdm_site *site, size_t bytes,
                                    const char *name, void (*run)(const struct asdm_kernel *, const struct asdm_run *),
                                    struct asdm_kernel *ret, struct asdm_error *err);

/* Row 0 of an operand or of the result; NULL when the operation has none there. */
const void *cuda_source(const struct cuda_op *op, const struct asdm_run *run, int place);
void *cuda_result(const struct cuda_op *op, const struct asdm_run *run);
/* The map through which an operand's rows are read; NULL: they are the run's own. */
const int32_t *cuda_map(const struct cuda_op *op, const struct asdm_run *run, int place);

/* Where the moments of an operand or of the result are; NULL when it has none. */
const struct asdm_moments *cuda_source_moments(const struct cuda_op *op, const struct asdm_run *run, int place);
struct asdm_moments *cuda_result_moments(const struct cuda_op *op, const struct asdm_run *run);

/* ERR_UNSUPPORTED when an operand other than `place` is read through a map: no kernel does that. */
enum asdm_status cuda_check_maps(const struct asdm_site *site, unsigned places, struct asdm_error *err);

static inline int cuda_tokens(struct asdm_extent extent) {
    return (int)(extent.height * extent.width);
}

/* What a launch said. The first failure is kept for asdm_device_class.finish. */
void cuda_note(const struct cuda_op *op, cudaError_t error);

/* A weight in its own order, as float32 or in the back end's type; *ret stays NULL when `index` is ASDM_NONE. */
enum asdm_status cuda_weight_f32(const struct asdm_site *site, int index, const float **ret, struct asdm_error *err);
enum asdm_status cuda_weight_own(const struct cuda_backend *backend, const struct asdm_site *site, int index,
                                 const void **ret, struct asdm_error *err);

/* ---- choose_product.c: which kernel computes a product, and with which tiles */

struct cuda_method {
    enum { CUDA_METHOD_PLAIN, CUDA_METHOD_SM90, CUDA_METHOD_VENDOR } kind;
    struct cuda_product_choice tiles; /* SM90 */
    const struct cuda_vendor *vendor; /* VENDOR */
    void *product;                    /* the vendor's */
    size_t scratch_bytes;
};

/* Names and versions of the vendor's libraries that are there. */
void cuda_vendors_describe(char *ret, size_t room);
void cuda_vendors_close(struct cuda_backend *backend);

/* Measures all candidates where the back end was asked to, then takes the one that was chosen by measurement, or the
 * built-in choice. `p` with weight and bias, `weight_bytes` of the former, and with a residual and a row bias of any
 * address if the operation has them. */
enum asdm_status cuda_method_choose(struct cuda_backend *backend, const struct asdm_site *site,
                                    const struct cuda_product *p, size_t weight_bytes, struct cuda_method *ret,
                                    struct asdm_error *err);
void cuda_method_done(struct cuda_method *method);
cudaError_t cuda_method_run(const struct cuda_method *method, const struct cuda_product *p, cudaStream_t stream);
const char *cuda_method_name(const struct cuda_method *method, const struct cuda_product *p); /* for profiles */

/* Numbers of a tensor in the back end's type, to the processor's memory. */
void cuda_convert(enum cuda_dtype dtype, const float *from, void *to, size_t count);

#endif
