/* What the files of the CPU back end share: its state, operands, and one planner per kind of operation. */
#ifndef ASDM_CPU_OPS_H
#define ASDM_CPU_OPS_H

#include "cpu/vector.h"
#include "ops/backend.h"

struct cpu_backend {
    struct asdm_backend base;
    const struct cpu_vector *vector;
    int threads;
    bool bf16;
};

/* One planned operation: the start of every kernel's state. */
struct cpu_op {
    struct asdm_site site;
    const struct cpu_backend *backend;
};

typedef enum asdm_status cpu_plan(const struct cpu_backend *backend, const struct asdm_site *site,
                                  struct asdm_kernel *ret, struct asdm_error *err);

cpu_plan cpu_plan_conv2d;    /* conv2d.c */
cpu_plan cpu_plan_linear;    /* linear.c */
cpu_plan cpu_plan_norm;      /* norm.c: group_norm, layer_norm */
cpu_plan cpu_plan_attention; /* attention.c */
cpu_plan cpu_plan_gri;       /* gri.c: attention in windows */
cpu_plan cpu_plan_routing;   /* routing.c: global_pool, routing, mix */
cpu_plan cpu_plan_simple;    /* simple.c: everything else */

/* ---- operands.c
 *
 * Allocates a kernel's state of `bytes` (which starts with a struct cpu_op) and fills in what all kernels have. */
enum asdm_status cpu_kernel_create(const struct cpu_backend *backend, const struct asdm_site *site, size_t bytes,
                                   const char *name, void (*run)(const struct asdm_kernel *, const struct asdm_run *),
                                   struct asdm_kernel *ret, struct asdm_error *err);

static inline size_t cpu_tokens(struct asdm_extent extent) {
    return (size_t)extent.height * (size_t)extent.width;
}

static inline size_t cpu_row_elements(struct asdm_extent extent) {
    return cpu_tokens(extent) * (size_t)extent.channels;
}

/* Row `row` of operand `place`; NULL when the operation has none there. */
const unsigned char *cpu_source(const struct cpu_op *op, const struct asdm_run *run, int place, int row);
unsigned char *cpu_result(const struct cpu_op *op, const struct asdm_run *run, int row);

/* Copies the residual to the result, where a product will add to it; nothing to do when they share their memory. */
void cpu_place_residual(const struct cpu_op *op, const struct asdm_run *run);

/* A weight as float32 in its own order; *ret stays NULL when `index` is ASDM_NONE. */
enum asdm_status cpu_weight_f32(const struct asdm_site *site, int index, const float **ret, struct asdm_error *err);

#endif
