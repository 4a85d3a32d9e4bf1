/* Safetensors files: an 8-byte little-endian header length, a JSON header, then the data
 * (https://github.com/huggingface/safetensors, "Format"). Mapped, read in place. */
#ifndef ASDM_SAFETENSORS_H
#define ASDM_SAFETENSORS_H

#include <stddef.h>

#include <asdm/status.h>
#include "base/file.h"
#include "tensor/tensor.h"

struct asdm_safetensors; /* an open file */

/* Maps the file and reads its header in linear time (a sort more where it does not list tensors in the order of their
 * data). Refused (ERR_FORMAT, naming the file and the tensor): truncated files, header over 100 MB, duplicate names,
 * offsets that overlap, leave holes, pass the end or disagree with shape x dtype, bytes that belong to no tensor, more
 * than 8 dimensions, unknown JSON. `__metadata__` must be an object of strings. Unknown dtypes are listed as
 * ASDM_OTHER_DTYPE. */
enum asdm_status asdm_safetensors_open(const char *path, struct asdm_safetensors **ret, struct asdm_error *err);
/* The same over bytes that stay valid until close (tests and fuzzing); `name` stands for the path. */
enum asdm_status asdm_safetensors_open_memory(const void *data, size_t size, const char *name,
                                              struct asdm_safetensors **ret, struct asdm_error *err);
void asdm_safetensors_close(struct asdm_safetensors **file);

const char *asdm_safetensors_path(const struct asdm_safetensors *file);
size_t asdm_safetensors_count(const struct asdm_safetensors *file);
/* In the order of their data. Tensors and names stay where they are until close; `data` has whatever alignment the file
 * gives it (asdm_tensor_to_f32 takes any). */
const struct asdm_tensor *asdm_safetensors_at(const struct asdm_safetensors *file, size_t index);
const struct asdm_tensor *asdm_safetensors_find(const struct asdm_safetensors *file, const char *name); /* hashed */
/* A number below count for a tensor of the file, each its own; not its place. */
size_t asdm_safetensors_number(const struct asdm_safetensors *file, const struct asdm_tensor *tensor);
const char *asdm_safetensors_metadata(const struct asdm_safetensors *file, const char *key); /* NULL when absent */
/* Gives the tensor's pages back to the page cache after it was copied elsewhere (no-op for memory files). */
void asdm_safetensors_release(const struct asdm_safetensors *file, const struct asdm_tensor *tensor);

/* Writes tensors (any dtype but OTHER) through asdm_file_writer: listed by name, their data widest type first, so that
 * each lies at a multiple of its element's size. `metadata` is NULL or pairs key, value, ..., NULL; names and metadata
 * are UTF-8. The same tensors give the same bytes, whatever their order. ERR_ARGUMENT for what no reader would take. */
enum asdm_status asdm_safetensors_write(const char *path, const struct asdm_tensor *tensors, size_t count,
                                        const char *const *metadata, struct asdm_error *err);

#endif
