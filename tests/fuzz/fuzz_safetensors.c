/* tensor/safetensors.h: a file that opens keeps its promises (names are found, data is inside and all of it used). */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "tensor/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tensor(const struct asdm_safetensors *file, const struct asdm_tensor *tensor, const uint8_t *data,
                         size_t size) {
    size_t width = asdm_dtype_bytes(tensor->dtype), count = 1;
    const uint8_t *begin = tensor->data;
    char text[128];
    ASDM_ASSERT(asdm_safetensors_find(file, tensor->name) == tensor);
    ASDM_ASSERT(begin >= data + 8 && tensor->bytes <= (size_t)(data + size - begin));
    ASDM_ASSERT(tensor->rank >= 0 && tensor->rank <= ASDM_RANK_MAX);
    for (int i = 0; i < tensor->rank; i++)
        count *= (size_t)tensor->dims[i];
    ASDM_ASSERT(count == tensor->count);
    ASDM_ASSERT(width == 0 || count * width == tensor->bytes);
    ASDM_ASSERT(strlen(asdm_dims_text(tensor->dims, tensor->rank, text)) < sizeof text);
    if (tensor->dtype == ASDM_F32 || tensor->dtype == ASDM_F16 || tensor->dtype == ASDM_BF16) {
        float *values = malloc((count ? count : 1) * sizeof *values);
        ASDM_ASSERT(values != NULL);
        asdm_tensor_to_f32(tensor, 0, count, values);
        free(values);
    }
    asdm_safetensors_release(file, tensor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct asdm_safetensors *file = NULL;
    struct asdm_error err = {ASDM_OK, ""};
    enum asdm_status status = asdm_safetensors_open_memory(data, size, "fuzz", &file, &err);
    if (status != ASDM_OK) {
        ASDM_ASSERT(status == ASDM_ERR_FORMAT && file == NULL && strncmp(err.message, "fuzz: ", 6) == 0);
        return 0;
    }
    size_t used = 0;
    for (size_t i = 0; i < asdm_safetensors_count(file); i++) {
        const struct asdm_tensor *tensor = asdm_safetensors_at(file, i);
        check_tensor(file, tensor, data, size);
        used += tensor->bytes;
    }
    uint64_t header;
    memcpy(&header, data, sizeof header);
    ASDM_ASSERT(8 + header + used == size); /* no byte without an owner */
    asdm_safetensors_metadata(file, "format");
    asdm_safetensors_close(&file);
    return 0;
}
