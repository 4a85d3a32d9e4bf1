#include "ops/backend.h"

#include <asdm/error.h>
#include "base/memory.h"

enum asdm_status asdm_backend_map(struct asdm_backend *backend, size_t bytes, const char *what, void **ret,
                                  struct asdm_error *err) {
    const struct asdm_device_class *device = backend->class->device;
    return device ? device->map(backend, bytes, what, ret, err) : asdm_memory_map(bytes, what, ret, err);
}

void asdm_backend_unmap(struct asdm_backend *backend, void *memory, size_t bytes) {
    if (memory && backend->class->device)
        backend->class->device->unmap(backend, memory);
    else
        asdm_memory_unmap(memory, bytes);
}

size_t asdm_backend_available(struct asdm_backend *backend, size_t *ret_total) {
    *ret_total = 0;
    return backend->class->device ? backend->class->device->available(backend, ret_total) : asdm_memory_available();
}

enum asdm_status asdm_backend_memory_check(struct asdm_backend *backend, size_t bytes, const char *what,
                                           struct asdm_error *err) {
    const struct asdm_device_class *device = backend->class->device;
    if (!device)
        return asdm_memory_check(bytes, what, err);
    size_t available = device->available(backend, NULL);
    if (bytes <= available)
        return ASDM_OK;
    return asdm_fail(err, ASDM_ERR_MEMORY, "%s needs %.1f GB of device memory, %.1f GB are available", what,
                     (double)bytes / 1e9, (double)available / 1e9);
}
