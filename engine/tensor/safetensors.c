#include "tensor/safetensors.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include <asdm/error.h>
#include "base/json_scan.h"
#include "base/key_table.h"
#include "base/size.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are read and written in place, in file order");

enum { LENGTH_BYTES = 8, HEADER_MAX = 100000000 };
enum { SPACE_TENSORS, SPACE_METADATA }; /* of the key table */

struct asdm_safetensors {
    struct asdm_mapping mapping; /* or the caller's memory */
    bool mapped;
    const char *path, *header_name; /* header_name starts messages about the header's JSON */
    const unsigned char *data;
    size_t data_size;            /* bytes */
    struct asdm_arena arena;     /* names and metadata */
    struct asdm_tensor *tensors; /* as the header lists them */
    size_t count, capacity;
    uint32_t *order;       /* tensors by place in the file */
    const char **metadata; /* values */
    size_t metadata_count, metadata_capacity;
    struct asdm_key_table keys;
};

/* One tensor's JSON. */
struct entry {
    enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4, HAS_ALL = 7 } has;
    enum asdm_dtype dtype;
    size_t dtype_bytes; /* 0: not known */
    int rank;
    uint64_t dims[ASDM_RANK_MAX];
    uint64_t begin, end; /* bytes from the start of the data */
};

static enum asdm_status fail_memory(const struct asdm_safetensors *file, struct asdm_error *err) {
    return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for its header", file->path);
}

static enum asdm_status fail_tensor(const struct asdm_safetensors *file, const char *name, struct asdm_error *err,
                                    const char *what) {
    char excerpt[ASDM_JSON_EXCERPT_BYTES];
    return asdm_fail(err, ASDM_ERR_FORMAT, "%s: tensor \"%s\": %s", file->path,
                     asdm_json_excerpt(name, strlen(name), excerpt), what);
}

/* Doubles a list that is full. */
static bool make_room(void **list, size_t count, size_t *capacity, size_t item_size) {
    size_t larger = *capacity ? 2 * *capacity : 64;
    if (count < *capacity)
        return true;
    void *moved = reallocarray(*list, larger, item_size);
    if (!moved)
        return false;
    *list = moved;
    *capacity = larger;
    return true;
}

/* A string token as a NUL-terminated string (tokens hold no NUL); NULL without memory. */
static char *keep_text(struct asdm_safetensors *file, const struct asdm_json_text *text) {
    char *copy = asdm_arena_alloc(&file->arena, text->length + 1, 1);
    if (copy)
        asdm_json_text_decode(text, copy);
    return copy;
}

static enum asdm_status insert_key(struct asdm_safetensors *file, const struct asdm_json_scan *scan, uint32_t space,
                                   const struct asdm_json_text *text, const char *key, size_t index,
                                   struct asdm_error *err) {
    char excerpt[ASDM_JSON_EXCERPT_BYTES];
    switch (asdm_key_table_insert(&file->keys, space, key, strlen(key), (uint32_t)index)) {
    case ASDM_KEY_NEW:
        return ASDM_OK;
    case ASDM_KEY_KNOWN:
        return asdm_json_scan_fail(scan, text->raw - 1, err, "%s \"%s\" is there twice",
                                   space == SPACE_TENSORS ? "the tensor" : "the metadata key",
                                   asdm_json_excerpt(key, strlen(key), excerpt));
    default:
        return fail_memory(file, err);
    }
}

static enum asdm_status read_metadata(struct asdm_safetensors *file, struct asdm_json_scan *scan,
                                      struct asdm_error *err) {
    bool first = true, more;
    ASDM_TRY(asdm_json_scan_expect(scan, '{', "an object of strings as __metadata__", err));
    for (;;) {
        struct asdm_json_text text, value_text;
        ASDM_TRY(asdm_json_scan_more(scan, '}', &first, &more, err));
        if (!more)
            return ASDM_OK;
        ASDM_TRY(asdm_json_scan_key(scan, &text, err));
        if (asdm_json_scan_peek(scan) != '"')
            return asdm_json_scan_expected(scan, "a string as a value of __metadata__", err);
        ASDM_TRY(asdm_json_scan_string(scan, &value_text, err));
        char *key = keep_text(file, &text), *value = keep_text(file, &value_text);
        if (!key || !value ||
            !make_room((void **)&file->metadata, file->metadata_count, &file->metadata_capacity,
                       sizeof *file->metadata))
            return fail_memory(file, err);
        ASDM_TRY(insert_key(file, scan, SPACE_METADATA, &text, key, file->metadata_count, err));
        file->metadata[file->metadata_count++] = value;
    }
}

static enum asdm_status read_dtype(struct asdm_json_scan *scan, struct entry *entry, struct asdm_error *err) {
    struct asdm_json_text text;
    ASDM_TRY(asdm_json_scan_string(scan, &text, err));
    entry->dtype = ASDM_OTHER_DTYPE;
    for (int dtype = 0; dtype < ASDM_OTHER_DTYPE; dtype++)
        if (asdm_json_text_equals(&text, asdm_dtype_name(dtype)))
            entry->dtype = dtype;
    entry->dtype_bytes = asdm_dtype_bytes(entry->dtype);
    return ASDM_OK;
}

static enum asdm_status read_shape(const struct asdm_safetensors *file, const char *name, struct asdm_json_scan *scan,
                                   struct entry *entry, struct asdm_error *err) {
    bool first = true, more;
    ASDM_TRY(asdm_json_scan_expect(scan, '[', "a list of dimensions", err));
    for (;;) {
        ASDM_TRY(asdm_json_scan_more(scan, ']', &first, &more, err));
        if (!more)
            return ASDM_OK;
        if (entry->rank == ASDM_RANK_MAX)
            return fail_tensor(file, name, err, "more than 8 dimensions");
        ASDM_TRY(asdm_json_scan_u64(scan, &entry->dims[entry->rank], err));
        if (entry->dims[entry->rank++] > INT64_MAX)
            return fail_tensor(file, name, err, "a dimension of 2^63 or more");
    }
}

static enum asdm_status read_offsets(struct asdm_json_scan *scan, struct entry *entry, struct asdm_error *err) {
    ASDM_TRY(asdm_json_scan_expect(scan, '[', "two offsets", err));
    ASDM_TRY(asdm_json_scan_u64(scan, &entry->begin, err));
    ASDM_TRY(asdm_json_scan_expect(scan, ',', "',' and a second offset", err));
    ASDM_TRY(asdm_json_scan_u64(scan, &entry->end, err));
    return asdm_json_scan_expect(scan, ']', "']' after two offsets", err);
}

/* {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, in any order and nothing else. */
static enum asdm_status read_entry(const struct asdm_safetensors *file, const char *name, struct asdm_json_scan *scan,
                                   struct entry *ret, struct asdm_error *err) {
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    struct entry entry = {0};
    bool first = true, more;
    ASDM_TRY(asdm_json_scan_expect(scan, '{', "an object that describes a tensor", err));
    for (;;) {
        ASDM_TRY(asdm_json_scan_more(scan, '}', &first, &more, err));
        if (!more)
            break;
        struct asdm_json_text text;
        char excerpt[ASDM_JSON_EXCERPT_BYTES];
        int key = 0;
        ASDM_TRY(asdm_json_scan_key(scan, &text, err));
        while (key < 3 && !asdm_json_text_equals(&text, keys[key]))
            key++;
        if (key == 3)
            return asdm_json_scan_fail(scan, text.raw - 1, err, "a tensor's description has the unknown key \"%s\"",
                                       asdm_json_excerpt(text.raw, text.length, excerpt));
        if (entry.has & 1 << key)
            return asdm_json_scan_fail(scan, text.raw - 1, err, "a tensor's description has \"%s\" twice", keys[key]);
        entry.has |= 1 << key;
        enum asdm_status status = key == 0   ? read_dtype(scan, &entry, err)
                                  : key == 1 ? read_shape(file, name, scan, &entry, err)
                                             : read_offsets(scan, &entry, err);
        if (status != ASDM_OK && err && !strstr(err->message, name)) { /* the scanner knows lines, not tensors */
            struct asdm_error inner = *err;
            asdm_fail(err, status, "%.700s (tensor %.200s)", inner.message, name);
        }
        if (status != ASDM_OK)
            return status;
    }
    if (entry.has != HAS_ALL)
        return fail_tensor(file, name, err,
                           !(entry.has & HAS_DTYPE)   ? "has no dtype"
                           : !(entry.has & HAS_SHAPE) ? "has no shape"
                                                      : "has no data_offsets");
    *ret = entry;
    return ASDM_OK;
}

/* An entry against itself and the file: sizes agree and lie inside. */
static enum asdm_status place_tensor(const struct asdm_safetensors *file, const char *name, const struct entry *entry,
                                     struct asdm_tensor *ret, struct asdm_error *err) {
    struct asdm_tensor tensor = {.name = name, .dtype = entry->dtype, .rank = entry->rank, .count = 1};
    char what[320], shape[128];
    size_t bytes;
    bool fits = true;
    for (int i = 0; i < entry->rank; i++) {
        tensor.dims[i] = (int64_t)entry->dims[i];
        fits = fits && asdm_size_mul(tensor.count, (size_t)entry->dims[i], &tensor.count);
    }
    if (!fits || !asdm_size_mul(tensor.count, entry->dtype_bytes, &bytes))
        return fail_tensor(file, name, err, "its shape has more elements than 64 bits can count");
    if (entry->begin > entry->end)
        return fail_tensor(file, name, err, "its data ends before it begins");
    if (entry->end > file->data_size) {
        snprintf(what, sizeof what, "its data ends at byte %llu, the file has %zu bytes of data",
                 (unsigned long long)entry->end, file->data_size);
        return fail_tensor(file, name, err, what);
    }
    tensor.bytes = (size_t)(entry->end - entry->begin);
    if (entry->dtype_bytes && bytes != tensor.bytes) {
        snprintf(what, sizeof what, "its shape %s needs %zu bytes, its offsets give %zu",
                 asdm_dims_text(tensor.dims, tensor.rank, shape), bytes, tensor.bytes);
        return fail_tensor(file, name, err, what);
    }
    tensor.data = file->data + entry->begin;
    *ret = tensor;
    return ASDM_OK;
}

static enum asdm_status read_tensor(struct asdm_safetensors *file, struct asdm_json_scan *scan,
                                    const struct asdm_json_text *text, struct asdm_error *err) {
    struct entry entry = {0};
    char *name = keep_text(file, text);
    if (!name || !make_room((void **)&file->tensors, file->count, &file->capacity, sizeof *file->tensors))
        return fail_memory(file, err);
    ASDM_TRY(insert_key(file, scan, SPACE_TENSORS, text, name, file->count, err));
    ASDM_TRY(read_entry(file, name, scan, &entry, err));
    ASDM_TRY(place_tensor(file, name, &entry, &file->tensors[file->count], err));
    file->count++;
    return ASDM_OK;
}

static enum asdm_status read_members(struct asdm_safetensors *file, struct asdm_json_scan *scan,
                                     struct asdm_error *err) {
    bool first = true, more, metadata_seen = false;
    if (scan->at == scan->end || *scan->at != '{') /* the format allows no space here */
        return asdm_json_scan_expected(scan, "'{' at the start of the header", err);
    scan->at++;
    for (;;) {
        ASDM_TRY(asdm_json_scan_more(scan, '}', &first, &more, err));
        if (!more)
            return asdm_json_scan_end(scan, err);
        struct asdm_json_text text;
        ASDM_TRY(asdm_json_scan_key(scan, &text, err));
        if (!asdm_json_text_equals(&text, "__metadata__")) {
            ASDM_TRY(read_tensor(file, scan, &text, err));
            continue;
        }
        if (metadata_seen)
            return asdm_json_scan_fail(scan, text.raw - 1, err, "__metadata__ is there twice");
        metadata_seen = true;
        ASDM_TRY(read_metadata(file, scan, err));
    }
}

static int compare_place(const void *a, const void *b, void *user) {
    const struct asdm_tensor *tensors = user;
    uint32_t ia = *(const uint32_t *)a, ib = *(const uint32_t *)b;
    const struct asdm_tensor *ta = &tensors[ia], *tb = &tensors[ib];
    if (ta->data != tb->data)
        return (const char *)ta->data < (const char *)tb->data ? -1 : 1;
    if (ta->bytes != tb->bytes)
        return ta->bytes < tb->bytes ? -1 : 1; /* empty tensors first: they share a place with the next one */
    return ia < ib ? -1 : ia > ib;
}

/* Every byte of data belongs to one tensor. */
static enum asdm_status check_cover(struct asdm_safetensors *file, struct asdm_error *err) {
    const unsigned char *reached = file->data;
    bool sorted = true;
    file->order = malloc((file->count ? file->count : 1) * sizeof *file->order);
    if (!file->order)
        return fail_memory(file, err);
    for (size_t i = 0; i < file->count; i++) {
        file->order[i] = (uint32_t)i;
        sorted = sorted && (i == 0 || compare_place(&file->order[i - 1], &file->order[i], file->tensors) < 0);
    }
    if (!sorted)
        qsort_r(file->order, file->count, sizeof *file->order, compare_place, file->tensors);
    for (size_t i = 0; i < file->count; i++) {
        const struct asdm_tensor *tensor = &file->tensors[file->order[i]];
        const unsigned char *begin = tensor->data;
        if (begin < reached)
            return fail_tensor(file, tensor->name, err, "its data overlaps that of another tensor");
        if (begin > reached)
            return fail_tensor(file, tensor->name, err, "there are bytes before its data that belong to no tensor");
        reached = begin + tensor->bytes;
    }
    size_t rest = file->data_size - (size_t)(reached - file->data);
    if (rest)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %zu bytes at the end belong to no tensor", file->path, rest);
    return ASDM_OK;
}

static enum asdm_status read_header(struct asdm_safetensors *file, struct asdm_error *err) {
    const unsigned char *bytes = file->mapping.data;
    size_t size = file->mapping.size;
    uint64_t length;
    struct asdm_json_scan scan;
    if (size < LENGTH_BYTES)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %zu bytes are too few for a safetensors file", file->path, size);
    memcpy(&length, bytes, sizeof length);
    if (length > HEADER_MAX)
        return asdm_fail(err, ASDM_ERR_FORMAT,
                         "%s: not a safetensors file: a header of %llu bytes, at most %d are allowed", file->path,
                         (unsigned long long)length, HEADER_MAX);
    if (length > size - LENGTH_BYTES)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: cut off inside its header: %llu bytes announced, %zu are there",
                         file->path, (unsigned long long)length, size - LENGTH_BYTES);
    file->data = bytes + LENGTH_BYTES + length;
    file->data_size = size - LENGTH_BYTES - (size_t)length;
    asdm_json_scan_init(&scan, (const char *)bytes + LENGTH_BYTES, (size_t)length, file->header_name);
    ASDM_TRY(read_members(file, &scan, err));
    return check_cover(file, err);
}

/* Takes over the mapping, also when it fails. */
static enum asdm_status open_mapping(struct asdm_mapping mapping, bool mapped, const char *name,
                                     struct asdm_safetensors **ret, struct asdm_error *err) {
    struct asdm_safetensors *file = calloc(1, sizeof *file);
    if (!file) {
        if (mapped)
            asdm_file_unmap(&mapping);
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory", name);
    }
    file->mapping = mapping;
    file->mapped = mapped;
    asdm_arena_init(&file->arena, SIZE_MAX / 2); /* bounded by the header's length */
    file->path = asdm_arena_strndup(&file->arena, name, strlen(name));
    file->header_name = asdm_arena_printf(&file->arena, "%s: header", name);
    enum asdm_status status;
    if (file->path && file->header_name)
        status = read_header(file, err);
    else
        status = asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory", name);
    if (status == ASDM_OK)
        *ret = file;
    else
        asdm_safetensors_close(&file);
    return status;
}

enum asdm_status asdm_safetensors_open(const char *path, struct asdm_safetensors **ret, struct asdm_error *err) {
    struct asdm_mapping mapping;
    ASDM_TRY(asdm_file_map(path, &mapping, err));
    return open_mapping(mapping, true, path, ret, err);
}

enum asdm_status asdm_safetensors_open_memory(const void *data, size_t size, const char *name,
                                              struct asdm_safetensors **ret, struct asdm_error *err) {
    return open_mapping((struct asdm_mapping){data, size}, false, name, ret, err);
}

void asdm_safetensors_close(struct asdm_safetensors **file) {
    struct asdm_safetensors *f = *file;
    if (!f)
        return;
    if (f->mapped)
        asdm_file_unmap(&f->mapping);
    asdm_key_table_done(&f->keys);
    asdm_arena_done(&f->arena);
    free(f->tensors);
    free(f->order);
    free(f->metadata);
    free(f);
    *file = NULL;
}

const char *asdm_safetensors_path(const struct asdm_safetensors *file) {
    return file->path;
}

size_t asdm_safetensors_count(const struct asdm_safetensors *file) {
    return file->count;
}

const struct asdm_tensor *asdm_safetensors_at(const struct asdm_safetensors *file, size_t index) {
    ASDM_ASSERT(index < file->count);
    return &file->tensors[file->order[index]];
}

size_t asdm_safetensors_number(const struct asdm_safetensors *file, const struct asdm_tensor *tensor) {
    ASDM_ASSERT(tensor >= file->tensors && tensor < file->tensors + file->count);
    return (size_t)(tensor - file->tensors);
}

const struct asdm_tensor *asdm_safetensors_find(const struct asdm_safetensors *file, const char *name) {
    int64_t index = asdm_key_table_find(&file->keys, SPACE_TENSORS, name, strlen(name));
    return index < 0 ? NULL : &file->tensors[index];
}

const char *asdm_safetensors_metadata(const struct asdm_safetensors *file, const char *key) {
    int64_t index = asdm_key_table_find(&file->keys, SPACE_METADATA, key, strlen(key));
    return index < 0 ? NULL : file->metadata[index];
}

void asdm_safetensors_release(const struct asdm_safetensors *file, const struct asdm_tensor *tensor) {
    if (file->mapped && tensor->bytes)
        asdm_file_release(&file->mapping, (size_t)((const unsigned char *)tensor->data - file->mapping.data),
                          tensor->bytes);
}
