/* Convolutions and matrix products by oneDNN (2.x and 3.x), behind a C interface. Activations are channels-innermost
 * and dense; weights are laid out as oneDNN prefers for the shape. */
#ifndef ASDM_CPU_ONEDNN_H
#define ASDM_CPU_ONEDNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>
#include "ops/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* dst = act(src * weights + bias) [+ dst]. A matrix product is [rows x in_channels] * [in_channels x out_channels]. */
struct cpu_product_shape {
    bool conv;
    bool winograd; /* conv 3x3, stride 1, float32: fewer multiplications, weights four times as large */
    bool bf16;     /* elements of src, weights and dst; bias is float32 */
    int64_t rows, in_channels, out_channels;
    int64_t in_height, in_width, out_height, out_width; /* conv, and the rest */
    int64_t kernel, stride, pad_top, pad_left, pad_bottom, pad_right;
    bool bias, accumulate;
    enum asdm_activation activation;
};

struct cpu_product;

/* ERR_UNSUPPORTED when oneDNN has nothing but its reference for the shape. */
enum asdm_status cpu_product_create(const struct cpu_product_shape *shape, struct cpu_product **ret,
                                    struct asdm_error *err);
void cpu_product_destroy(struct cpu_product **product);

size_t cpu_product_weight_bytes(const struct cpu_product *product);
size_t cpu_product_scratch_bytes(const struct cpu_product *product);
/* Names the weights' layout: equal names, equal layouts. */
const char *cpu_product_layout(const struct cpu_product *product);
/* oneDNN's name of the implementation. */
const char *cpu_product_name(const struct cpu_product *product);

/* Where the weights' layout puts things: element (output, input, tap) is at output_offset[output] + input_offset[input]
 * + tap_offset[tap], in elements. False when the layout is not of that kind (winograd); then only cpu_product_pack can.
 * The arrays have room for out_channels, in_channels and kernel * kernel numbers. */
bool cpu_product_offsets(const struct cpu_product *product, size_t *output_offset, size_t *input_offset,
                         size_t *tap_offset);

/* Lays out weights given as [out][in][k][k] (conv) or [out][in], in the product's element type. */
enum asdm_status cpu_product_pack(const struct cpu_product *product, const void *plain, void *dst,
                                  struct asdm_error *err);

/* Cannot fail after create: operands are whole, `scratch` has cpu_product_scratch_bytes. `bias` is NULL where there is
 * none. */
void cpu_product_run(struct cpu_product *product, const void *src, const void *weights, const float *bias, void *dst,
                     void *scratch);

#ifdef __cplusplus
}
#endif
#endif
