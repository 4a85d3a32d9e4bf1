#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "cpu/cpu_ops.h"

const unsigned char *cpu_source(const struct cpu_op *op, const struct asdm_run *run, int place, int row) {
    int value = op->site.op->inputs[place];
    if (value == ASDM_NONE)
        return NULL;
    const struct asdm_extent *extent = &op->site.in[place];
    size_t index = extent->mapped ? (size_t)run->row_maps[extent->rate][row] : (size_t)row;
    return (const unsigned char *)run->values[value] +
           index * cpu_row_elements(*extent) * op->backend->base.element_bytes;
}

unsigned char *cpu_result(const struct cpu_op *op, const struct asdm_run *run, int row) {
    return (unsigned char *)run->values[op->site.op->output] +
           (size_t)row * cpu_row_elements(op->site.out) * op->backend->base.element_bytes;
}

void cpu_place_residual(const struct cpu_op *op, const struct asdm_run *run) {
    const unsigned char *residual = cpu_source(op, run, ASDM_SRC_RESIDUAL, 0);
    unsigned char *dst = cpu_result(op, run, 0);
    if (!residual || residual == dst)
        return;
    size_t bytes = (size_t)op->site.rows * cpu_row_elements(op->site.out) * op->backend->base.element_bytes;
    size_t slice = 1 << 16;
#pragma omp parallel for
    for (size_t at = 0; at < bytes; at += slice)
        memcpy(dst + at, residual + at, bytes - at < slice ? bytes - at : slice);
}

static void destroy(struct asdm_kernel *kernel) {
    free(kernel->state);
}

enum asdm_status cpu_kernel_create(const struct cpu_backend *backend, const struct asdm_site *site, size_t bytes,
                                   const char *name, void (*run)(const struct asdm_kernel *, const struct asdm_run *),
                                   struct asdm_kernel *ret, struct asdm_error *err) {
    struct cpu_op *op = calloc(1, bytes);
    if (!op)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory to plan %s", site->program->name);
    op->site = *site;
    op->backend = backend;
    *ret = (struct asdm_kernel){name, run, destroy, op, 0, ASDM_NONE};
    return ASDM_OK;
}
