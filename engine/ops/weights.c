#include "ops/weights.h"

#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/size.h"
#include "ops/backend.h"

enum { CHUNK_BYTES = 32 << 20, ALIGNMENT = 128 };

/* Layouts are never freed one by one, so they are carved from large pages. */
struct chunk {
    struct chunk *next;
    unsigned char *memory;
    size_t size, used;
};

struct entry {
    struct entry *next;
    char *key;
    const void *memory;
};

enum { BUCKETS = 1024 };

struct asdm_weight_store {
    struct asdm_weight_source source;
    struct asdm_backend *backend;
    /* Devices: where a layout is written before it is copied there. */
    void *staging;
    size_t staging_bytes;
    struct chunk *chunks;
    struct entry *entries[BUCKETS];
    size_t bytes;
};

enum asdm_status asdm_weight_store_create(const struct asdm_weight_source *source, struct asdm_backend *backend,
                                          struct asdm_weight_store **ret, struct asdm_error *err) {
    struct asdm_weight_store *store = calloc(1, sizeof *store);
    if (!store)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a weight store");
    store->source = *source;
    store->backend = backend;
    *ret = store;
    return ASDM_OK;
}

void asdm_weight_store_destroy(struct asdm_weight_store **store) {
    struct asdm_weight_store *s = *store;
    if (!s)
        return;
    for (int i = 0; i < BUCKETS; i++)
        for (struct entry *entry = s->entries[i], *next; entry; entry = next) {
            next = entry->next;
            free(entry->key);
            free(entry);
        }
    for (struct chunk *chunk = s->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        asdm_backend_unmap(s->backend, chunk->memory, chunk->size);
        free(chunk);
    }
    if (s->staging)
        s->backend->class->device->unmap_staging(s->backend, s->staging);
    free(s);
    *store = NULL;
}

size_t asdm_weight_store_bytes(const struct asdm_weight_store *store) {
    return store->bytes;
}

static enum asdm_status carve(struct asdm_weight_store *store, size_t bytes, void **ret, struct asdm_error *err) {
    bytes = asdm_size_align(bytes ? bytes : 1, ALIGNMENT);
    struct chunk *chunk = store->chunks;
    while (chunk && chunk->size - chunk->used < bytes)
        chunk = chunk->next;
    if (!chunk) {
        size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        void *memory;
        ASDM_TRY(asdm_backend_map(store->backend, size, "laying out the weights", &memory, err));
        chunk = calloc(1, sizeof *chunk);
        if (!chunk) {
            asdm_backend_unmap(store->backend, memory, size);
            return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a weight store");
        }
        *chunk = (struct chunk){store->chunks, memory, size, 0};
        store->chunks = chunk;
    }
    *ret = chunk->memory + chunk->used;
    chunk->used += bytes;
    store->bytes += bytes;
    return ASDM_OK;
}

/* Through staging memory, which is kept for the next layout. */
static enum asdm_status fill_device(struct asdm_weight_store *store, void *memory, size_t bytes, asdm_weight_fill *fill,
                                    void *user, struct asdm_error *err) {
    const struct asdm_device_class *device = store->backend->class->device;
    if (store->staging_bytes < bytes) {
        if (store->staging)
            device->unmap_staging(store->backend, store->staging);
        store->staging = NULL;
        store->staging_bytes = 0;
        size_t room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        ASDM_TRY(device->map_staging(store->backend, room, &store->staging, err));
        store->staging_bytes = room;
    }
    memset(store->staging, 0, bytes);
    ASDM_TRY(fill(user, store->staging, err));
    device->copy(store->backend, memory, store->staging, bytes);
    return device->finish(store->backend, err);
}

static size_t hash_key(const char *key) {
    size_t hash = 14695981039346656037u; /* FNV-1a */
    for (; *key; key++)
        hash = (hash ^ (unsigned char)*key) * 1099511628211u;
    return hash % BUCKETS;
}

enum asdm_status asdm_weight_store_get(struct asdm_weight_store *store, const char *key, size_t bytes,
                                       asdm_weight_fill *fill, void *user, const void **ret, struct asdm_error *err) {
    struct entry **bucket = &store->entries[hash_key(key)];
    for (struct entry *entry = *bucket; entry; entry = entry->next)
        if (strcmp(entry->key, key) == 0) {
            *ret = entry->memory;
            return ASDM_OK;
        }
    void *memory = NULL;
    ASDM_TRY(carve(store, bytes, &memory, err));
    if (fill && store->backend->class->device)
        ASDM_TRY(fill_device(store, memory, bytes, fill, user, err));
    else if (fill)
        ASDM_TRY(fill(user, memory, err));
    struct entry *entry = calloc(1, sizeof *entry);
    char *copy = strdup(key);
    if (!entry || !copy) {
        free(entry);
        free(copy);
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for a weight store");
    }
    *entry = (struct entry){*bucket, copy, memory};
    *bucket = entry;
    *ret = memory;
    return ASDM_OK;
}

enum asdm_status asdm_weight_store_find(struct asdm_weight_store *store, const struct asdm_weight *weight,
                                        struct asdm_tensor *ret, struct asdm_error *err) {
    return store->source.find(store->source.user, weight, ret, err);
}

void asdm_weight_store_release(struct asdm_weight_store *store, const struct asdm_tensor *tensor) {
    if (store->source.release)
        store->source.release(store->source.user, tensor);
}
