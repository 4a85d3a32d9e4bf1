/* Weights as the back ends want them: each tensor of a component (unet, vae, text encoder) is laid out once, when the
 * first plan asks for it, and shared by all plans after. */
#ifndef ASDM_WEIGHTS_H
#define ASDM_WEIGHTS_H

#include <stddef.h>

#include <asdm/status.h>
#include "ops/program.h"
#include "tensor/tensor.h"

/* Where a component's tensors come from. */
struct asdm_weight_source {
    void *user;
    /* The tensor for a weight of a program, its shape checked. */
    enum asdm_status (*find)(void *user, const struct asdm_weight *weight, struct asdm_tensor *ret,
                             struct asdm_error *err);
    /* The tensor's bytes were copied and are not needed for now. */
    void (*release)(void *user, const struct asdm_tensor *tensor);
};

struct asdm_weight_store;
struct asdm_backend;

/* Layouts are kept in the memory of `backend`, which must outlive the store. */
enum asdm_status asdm_weight_store_create(const struct asdm_weight_source *source, struct asdm_backend *backend,
                                          struct asdm_weight_store **ret, struct asdm_error *err);
void asdm_weight_store_destroy(struct asdm_weight_store **store);

size_t asdm_weight_store_bytes(const struct asdm_weight_store *store); /* laid out so far */

/* Writes a layout into zeroed memory of the size that was asked for; the processor's, whatever the back end. */
typedef enum asdm_status asdm_weight_fill(void *user, void *memory, struct asdm_error *err);

/* The memory of layout `key` (weight's name and layout, any string), 64-byte aligned; filled by `fill` the first time,
 * or left zeroed where that is NULL: what a back end keeps beside the weights and writes itself. */
enum asdm_status asdm_weight_store_get(struct asdm_weight_store *store, const char *key, size_t bytes,
                                       asdm_weight_fill *fill, void *user, const void **ret, struct asdm_error *err);

/* The tensor itself, in place; and telling the source that it was copied. */
enum asdm_status asdm_weight_store_find(struct asdm_weight_store *store, const struct asdm_weight *weight,
                                        struct asdm_tensor *ret, struct asdm_error *err);
void asdm_weight_store_release(struct asdm_weight_store *store, const struct asdm_tensor *tensor);

#endif
