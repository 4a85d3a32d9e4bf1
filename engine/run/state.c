#include "run/state.h"

#include <string.h>

#include <asdm/error.h>
#include "base/size.h"

enum { ALIGNMENT = 128, CHANNELS = 4 };

static const char what[] = "a picture of this size";

static float *carve(unsigned char *base, size_t *used, size_t count) {
    float *plane = base ? (float *)(base + *used) : NULL;
    *used += asdm_size_align(count * sizeof *plane, ALIGNMENT);
    return plane;
}

/* Lays the planes out from `base` on (NULL: only counts); `clean` is the last, *ret_clean where it begins. */
static size_t divide(struct asdm_state_planes *planes, unsigned char *base, size_t count, int history_count,
                     bool inpaints, size_t *ret_clean) {
    size_t used = 0;
    *planes = (struct asdm_state_planes){.latents = carve(base, &used, count)};
    for (int k = 0; k < history_count; k++)
        planes->history[k] = carve(base, &used, count);
    if (inpaints) {
        planes->image = carve(base, &used, count);
        planes->image_noise = carve(base, &used, count);
        planes->mask = carve(base, &used, count / CHANNELS);
    }
    *ret_clean = used;
    planes->clean = carve(base, &used, count);
    return used;
}

static size_t bytes_of(size_t count, int history_count, bool inpaints) {
    struct asdm_state_planes planes;
    size_t clean;
    return divide(&planes, NULL, count, history_count, inpaints, &clean);
}

size_t asdm_state_bytes(size_t count) {
    return bytes_of(count, ASDM_SAMPLER_HISTORY_MAX, true);
}

void asdm_state_done(struct asdm_state *state) {
    struct asdm_backend *backend = state->backend;
    if (!backend)
        return;
    if (backend->class->device && state->staging)
        backend->class->device->unmap_staging(backend, state->staging);
    asdm_backend_unmap(backend, state->memory, state->memory_bytes);
    *state = (struct asdm_state){0};
}

/* Without a device the noise lies behind the planes, in one block with them. */
static enum asdm_status allocate(struct asdm_state *state, struct asdm_backend *backend, size_t planes, size_t noise,
                                 struct asdm_error *err) {
    const struct asdm_device_class *device = backend->class->device;
    size_t memory_bytes = device ? planes : planes + noise, staging_bytes = device ? planes + noise : 0;
    void *memory, *staging = NULL;
    if (state->backend && memory_bytes <= state->memory_bytes && staging_bytes <= state->staging_bytes)
        return ASDM_OK;
    asdm_state_done(state);
    if (backend->class->begin)
        backend->class->begin(backend);
    ASDM_TRY(asdm_backend_map(backend, memory_bytes, what, &memory, err));
    enum asdm_status status = device ? device->map_staging(backend, staging_bytes, &staging, err) : ASDM_OK;
    if (status != ASDM_OK) {
        asdm_backend_unmap(backend, memory, memory_bytes);
        return status;
    }
    *state = (struct asdm_state){.backend = backend,
                                 .memory = memory,
                                 .staging = staging,
                                 .memory_bytes = memory_bytes,
                                 .staging_bytes = staging_bytes};
    return ASDM_OK;
}

static size_t noise_bytes(size_t count) {
    return 2 * asdm_size_align(count * sizeof(float), ALIGNMENT);
}

enum asdm_status asdm_state_reserve(struct asdm_state *state, struct asdm_backend *backend, size_t count,
                                    struct asdm_error *err) {
    return allocate(state, backend, asdm_state_bytes(count), noise_bytes(count), err);
}

enum asdm_status asdm_state_fit(struct asdm_state *state, struct asdm_backend *backend, size_t count, int history_count,
                                bool inpaints, struct asdm_error *err) {
    size_t planes = bytes_of(count, history_count, inpaints), used = planes;
    ASDM_TRY(allocate(state, backend, planes, noise_bytes(count), err));
    unsigned char *host = backend->class->device ? state->staging : state->memory;
    state->count = count;
    divide(&state->own, state->memory, count, history_count, inpaints, &state->upload_bytes);
    divide(&state->host, host, count, history_count, inpaints, &state->upload_bytes);
    for (int i = 0; i < 2; i++)
        state->noise[i] = carve(host, &used, count);
    memset(host, 0, state->upload_bytes);
    return ASDM_OK;
}

enum asdm_status asdm_state_upload(struct asdm_state *state, struct asdm_error *err) {
    const struct asdm_device_class *device = state->backend->class->device;
    if (!device)
        return ASDM_OK;
    if (state->backend->class->begin)
        state->backend->class->begin(state->backend);
    device->copy(state->backend, state->memory, state->staging, state->upload_bytes);
    return device->finish(state->backend, err);
}

void asdm_state_download(struct asdm_state *state) {
    const struct asdm_device_class *device = state->backend->class->device;
    if (device)
        device->copy(state->backend, state->host.latents, state->own.latents, state->count * sizeof(float));
}
