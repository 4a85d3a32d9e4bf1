/* Kernels with experts (op.h): weights are mixed where they are laid out, since a layout only moves numbers (winograd's
 * is linear in them), once for all rows of equal shares. */
#ifndef ASDM_CPU_MIXTURE_H
#define ASDM_CPU_MIXTURE_H

#include "cpu/pack.h"

enum { CPU_MIXTURE_PRODUCTS = 2 };

/* Scratch, after the product's own `offset` bytes: one mixed layout per product, the mixed bias, the shares of all
 * rows. */
struct cpu_mixture {
    const struct cpu_op *op;
    const void *weights[CPU_MIXTURE_PRODUCTS][ASDM_EXPERTS_MAX];
    size_t weight_bytes[CPU_MIXTURE_PRODUCTS];
    int products;
    const float *bias[ASDM_EXPERTS_MAX];
    size_t weight_offsets[CPU_MIXTURE_PRODUCTS], bias_offset, shares_offset;
    size_t scratch_bytes;
};

/* Lays out all experts' weights for one product; `pack` says which numbers it takes. */
enum asdm_status cpu_mixture_add(struct cpu_mixture *mixture, const struct cpu_pack *pack, struct asdm_error *err);
/* After all products were added. */
enum asdm_status cpu_mixture_plan(struct cpu_mixture *mixture, const struct cpu_op *op, size_t offset,
                                  struct asdm_error *err);

/* Calls `run_row` once for every row, with its kernel: a layout per product, and the bias. */
typedef void cpu_mixture_row(void *user, const struct asdm_run *run, int row, void *const *weights, const float *bias);
void cpu_mixture_run(const struct cpu_mixture *mixture, const struct asdm_run *run, cpu_mixture_row *run_row,
                     void *user);

/* A row's shares, with a sum of 1. */
void cpu_read_shares(const struct cpu_op *op, const struct asdm_run *run, int row, float shares[ASDM_EXPERTS_MAX]);
/* Takes the shares that are not 0, with their sources; their number. */
int cpu_take_shares(const void *const *src, const float *shares, int count, const void **ret_src, float *ret_shares);

#endif
