/* The writer of tensor/safetensors.h. The header lists tensors by name; their data is laid out widest type first, so
 * that without holes every tensor lies at a multiple of its element's size. */
#include "tensor/safetensors.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include "base/json_scan.h"
#include "base/key_table.h"
#include "base/size.h"

enum { HEADER_MAX = 100000000, ALIGNMENT = 8 };

struct item {
    const struct asdm_tensor *tensor;
    size_t begin; /* bytes from the start of the data */
};

static bool is_utf8(const char *text) {
    size_t length = strlen(text);
    for (size_t used = 0, step; used < length; used += step) {
        step = asdm_utf8_length(text + used, length - used);
        if (step == 0)
            return false;
    }
    return true;
}

static enum asdm_status check_tensor(const struct asdm_tensor *tensor, const char *path, struct asdm_error *err) {
    size_t count = 1, bytes = 0;
    bool fits = tensor->rank >= 0 && tensor->rank <= ASDM_RANK_MAX;
    for (int i = 0; fits && i < tensor->rank; i++)
        fits = tensor->dims[i] >= 0 && asdm_size_mul(count, (size_t)tensor->dims[i], &count);
    fits = fits && asdm_size_mul(count, asdm_dtype_bytes(tensor->dtype), &bytes);
    if (!tensor->name || !is_utf8(tensor->name) || strcmp(tensor->name, "__metadata__") == 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: a tensor without a usable name cannot be written", path);
    if (asdm_dtype_bytes(tensor->dtype) == 0)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: tensor \"%.100s\": its data type cannot be written", path,
                         tensor->name);
    if (!fits || count != tensor->count || bytes != tensor->bytes)
        return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: tensor \"%.100s\": its shape, count and bytes disagree", path,
                         tensor->name);
    return ASDM_OK;
}

static enum asdm_status check_metadata(const char *const *metadata, const char *path, struct asdm_error *err) {
    struct asdm_key_table keys = {0};
    enum asdm_status status = ASDM_OK;
    for (size_t i = 0; metadata && metadata[i] && status == ASDM_OK; i += 2) {
        const char *key = metadata[i], *value = metadata[i + 1];
        if (!value || !is_utf8(key) || !is_utf8(value)) {
            status = asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: metadata must be pairs of UTF-8 strings", path);
            break;
        }
        enum asdm_key_insert inserted = asdm_key_table_insert(&keys, 0, key, strlen(key), 0);
        if (inserted == ASDM_KEY_KNOWN)
            status = asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: metadata has the key \"%.100s\" twice", path, key);
        else if (inserted == ASDM_KEY_NO_MEMORY)
            status = asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for its header", path);
    }
    asdm_key_table_done(&keys);
    return status;
}

static int compare_name(const void *a, const void *b) {
    return strcmp(((const struct item *)a)->tensor->name, ((const struct item *)b)->tensor->name);
}

/* Sorts by name and gives each tensor its place. */
static enum asdm_status lay_out(struct item *items, const struct asdm_tensor *tensors, size_t count, const char *path,
                                struct asdm_error *err) {
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        ASDM_TRY(check_tensor(&tensors[i], path, err));
        items[i] = (struct item){&tensors[i], 0};
    }
    qsort(items, count, sizeof *items, compare_name);
    for (size_t i = 1; i < count; i++)
        if (compare_name(&items[i - 1], &items[i]) == 0)
            return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: two tensors are called \"%.100s\"", path,
                             items[i].tensor->name);
    for (size_t width = 8; width; width /= 2) {
        for (size_t i = 0; i < count; i++) {
            if (asdm_dtype_bytes(items[i].tensor->dtype) != width)
                continue;
            items[i].begin = used;
            if (!asdm_size_add(used, items[i].tensor->bytes, &used))
                return asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: more bytes than 64 bits can count", path);
        }
    }
    return ASDM_OK;
}

static void print_string(FILE *stream, const char *text) {
    fputc('"', stream);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fputc('\\', stream);
        if (c < 0x20)
            fprintf(stream, "\\u%04x", c);
        else
            fputc(c, stream);
    }
    fputc('"', stream);
}

static void print_tensor(FILE *stream, const struct item *item) {
    const struct asdm_tensor *tensor = item->tensor;
    print_string(stream, tensor->name);
    fprintf(stream, ":{\"dtype\":\"%s\",\"shape\":[", asdm_dtype_name(tensor->dtype));
    for (int i = 0; i < tensor->rank; i++)
        fprintf(stream, "%s%lld", i ? "," : "", (long long)tensor->dims[i]);
    fprintf(stream, "],\"data_offsets\":[%zu,%zu]}", item->begin, item->begin + tensor->bytes);
}

/* The JSON header, padded with spaces so that the data begins at a multiple of 8 bytes. */
static enum asdm_status print_header(const struct item *items, size_t count, const char *const *metadata,
                                     const char *path, char **ret, size_t *ret_size, struct asdm_error *err) {
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    if (!stream)
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for its header", path);
    const char *separator = "{";
    for (size_t i = 0; metadata && metadata[i]; i += 2) {
        fputs(i ? "," : "{\"__metadata__\":{", stream);
        print_string(stream, metadata[i]);
        fputc(':', stream);
        print_string(stream, metadata[i + 1]);
    }
    if (metadata && metadata[0]) {
        fputc('}', stream);
        separator = ",";
    }
    for (size_t i = 0; i < count; i++, separator = ",") {
        fputs(separator, stream);
        print_tensor(stream, &items[i]);
    }
    fputs(*separator == '{' ? "{}" : "}", stream);
    while (ftello(stream) % ALIGNMENT != 0 && fputc(' ', stream) != EOF)
        ;
    bool failed = ferror(stream);
    if (fclose(stream) != 0 || failed) {
        free(text);
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for its header", path);
    }
    *ret = text;
    *ret_size = size;
    return ASDM_OK;
}

static enum asdm_status write_file(const char *path, const struct item *items, size_t count, const char *header,
                                   size_t header_size, struct asdm_error *err) {
    struct asdm_file_writer writer;
    uint64_t length = header_size;
    ASDM_TRY(asdm_file_writer_open(&writer, path, err));
    enum asdm_status status = asdm_file_writer_write(&writer, &length, sizeof length, err);
    if (status == ASDM_OK)
        status = asdm_file_writer_write(&writer, header, header_size, err);
    for (size_t width = 8; width; width /= 2)
        for (size_t i = 0; i < count && status == ASDM_OK; i++)
            if (asdm_dtype_bytes(items[i].tensor->dtype) == width)
                status = asdm_file_writer_write(&writer, items[i].tensor->data, items[i].tensor->bytes, err);
    if (status == ASDM_OK)
        return asdm_file_writer_commit(&writer, err);
    asdm_file_writer_abort(&writer);
    return status;
}

enum asdm_status asdm_safetensors_write(const char *path, const struct asdm_tensor *tensors, size_t count,
                                        const char *const *metadata, struct asdm_error *err) {
    char *header = NULL;
    size_t header_size = 0;
    struct item *items = calloc(count ? count : 1, sizeof *items);
    if (!items)
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for %zu tensors", path, count);
    enum asdm_status status = check_metadata(metadata, path, err);
    if (status == ASDM_OK)
        status = lay_out(items, tensors, count, path, err);
    if (status == ASDM_OK)
        status = print_header(items, count, metadata, path, &header, &header_size, err);
    if (status == ASDM_OK && header_size > HEADER_MAX)
        status = asdm_fail(err, ASDM_ERR_ARGUMENT, "%s: a header of %zu bytes, at most %d are allowed", path,
                           header_size, HEADER_MAX);
    if (status == ASDM_OK)
        status = write_file(path, items, count, header, header_size, err);
    free(header);
    free(items);
    return status;
}
