#include "ref/ref.h"

#include <stdio.h>
#include <stdlib.h>

#include <asdm/error.h>
#include "ref/ref_ops.h"

/* ---- weights: float32; products and convolutions turned to [k * k][in][out] */

struct fill_request {
    struct asdm_weight_store *store;
    const struct asdm_weight *weight;
};

static enum asdm_status fill_weight(void *user, void *memory, struct asdm_error *err) {
    const struct fill_request *request = user;
    struct asdm_tensor tensor;
    ASDM_TRY(asdm_weight_store_find(request->store, request->weight, &tensor, err));
    float *plain = malloc(tensor.count * sizeof *plain), *dst = memory;
    if (!plain)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to lay out %s", tensor.name);
    asdm_tensor_to_f32(&tensor, 0, tensor.count, plain);
    size_t outputs = (size_t)request->weight->dims[0], inputs = 1, taps = 1;
    if (request->weight->rank > 1)
        inputs = (size_t)request->weight->dims[1];
    if (request->weight->rank == 4)
        taps = (size_t)(request->weight->dims[2] * request->weight->dims[3]);
    for (size_t o = 0; o < outputs; o++)
        for (size_t i = 0; i < inputs; i++)
            for (size_t t = 0; t < taps; t++)
                dst[(t * inputs + i) * outputs + o] = plain[(o * inputs + i) * taps + t];
    free(plain);
    asdm_weight_store_release(request->store, &tensor);
    return ASDM_OK;
}

/* An embedding table is read by rows: stored as it is. */
static enum asdm_status fill_table(void *user, void *memory, struct asdm_error *err) {
    const struct fill_request *request = user;
    struct asdm_tensor tensor;
    ASDM_TRY(asdm_weight_store_find(request->store, request->weight, &tensor, err));
    asdm_tensor_to_f32(&tensor, 0, tensor.count, memory);
    asdm_weight_store_release(request->store, &tensor);
    return ASDM_OK;
}

static enum asdm_status get_weight(const struct asdm_site *site, int index, asdm_weight_fill *fill, const float **ret,
                                   struct asdm_error *err) {
    if (index == ASDM_NONE)
        return ASDM_OK;
    const struct asdm_weight *weight = &site->program->weights[index];
    struct fill_request request = {site->weights, weight};
    size_t bytes = asdm_weight_count(weight) * sizeof(float);
    const void *memory;
    ASDM_TRY(asdm_weight_store_get(site->weights, weight->name, bytes, fill, &request, &memory, err));
    *ret = memory;
    return ASDM_OK;
}

/* ---- the back end */

static void run_kernel(const struct asdm_kernel *kernel, const struct asdm_run *run) {
    const struct ref_op *op = kernel->state;
    ref_run_of(op->site.op->kind)(op, run);
}

static void destroy_kernel(struct asdm_kernel *kernel) {
    free(kernel->state);
}

static enum asdm_status plan(struct asdm_backend *backend, const struct asdm_site *site, struct asdm_kernel *ret,
                             struct asdm_error *err) {
    (void)backend;
    struct ref_op *op = calloc(1, sizeof *op);
    if (!op)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan %s", site->program->name);
    op->site = *site;
    asdm_weight_fill *fill = site->op->kind == ASDM_OP_EMBEDDING ? fill_table : fill_weight;
    for (int i = 0; i < ASDM_PARTS_MAX; i++) {
        enum asdm_status status = get_weight(site, site->op->weight[i], fill, &op->weight[i], err);
        if (status == ASDM_OK)
            status = get_weight(site, site->op->bias[i], fill, &op->bias[i], err);
        if (status != ASDM_OK) {
            free(op);
            return status;
        }
    }
    *ret = (struct asdm_kernel){"ref", run_kernel, destroy_kernel, op, 0, ASDM_NONE};
    return ASDM_OK;
}

static enum asdm_status create(int device, int threads, enum asdm_model_dtype dtype, struct asdm_backend **ret,
                               struct asdm_error *err) {
    (void)device;
    (void)threads; /* OpenMP's own choice: this back end is never measured */
    if (dtype != ASDM_DTYPE_AUTO && dtype != ASDM_DTYPE_FP32)
        return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "device \"ref\" computes in fp32 only");
    struct asdm_backend *backend = calloc(1, sizeof *backend);
    if (!backend)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the reference back end");
    *backend =
        (struct asdm_backend){.class = &asdm_ref_class, .dtype = ASDM_DTYPE_FP32, .element_bytes = sizeof(float)};
    *ret = backend;
    return ASDM_OK;
}

static void destroy(struct asdm_backend *backend) {
    free(backend);
}

const struct asdm_backend_class asdm_ref_class = {"ref", 0, create, destroy, plan, NULL, NULL, NULL};
