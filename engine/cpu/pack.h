/* Laying out the weights of products. */
#ifndef ASDM_CPU_PACK_H
#define ASDM_CPU_PACK_H

#include "cpu/cpu_ops.h"
#include "cpu/onednn.h"

/* Which numbers of an operation's weights a product uses. */
struct cpu_pack {
    const struct cpu_backend *backend;
    const struct asdm_site *site;
    const struct cpu_product *product;
    int64_t first_input, inputs; /* linear with two sources: this product's columns */
    int phase;                   /* conv2d folded with upsampling: 0 .. 3 (2 y + x), or -1 */
    int expert;                  /* whose weights; 0 where there are no experts */
};

/* The packed weights of `pack`, from the store or laid out now. */
enum asdm_status cpu_pack_weights(const struct cpu_pack *pack, const void **ret, struct asdm_error *err);

/* The biases of all parts, one after the other, in float32; with experts, of the first (see cpu_weight_f32). */
enum asdm_status cpu_pack_bias(const struct asdm_site *site, const float **ret, struct asdm_error *err);

#endif
