/* asdm/json.h: what the strict pass takes, cJSON takes too, and the document can be walked and asked. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>
#include <asdm/json.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const struct asdm_json *object, const char *key) {
    struct asdm_error err;
    int64_t integer = 0;
    double number = 0;
    bool flag = false;
    const char *text = "";
    if (asdm_json_get_int(object, "fuzz", key, -1000, 1000, &integer, &err) == ASDM_OK)
        ASDM_ASSERT(integer >= -1000 && integer <= 1000);
    asdm_json_get_double(object, "fuzz", key, -1e300, 1e300, &number, &err);
    asdm_json_get_bool(object, "fuzz", key, &flag, &err);
    asdm_json_get_string(object, "fuzz", key, &text, &err);
    ASDM_ASSERT(text != NULL);
}

static void walk(const struct asdm_json *node, int depth) {
    enum asdm_json_type type = asdm_json_type(node);
    size_t count = 0;
    ASDM_ASSERT(depth <= 64);
    ASDM_ASSERT(asdm_json_type_name(type) != NULL);
    if (type == ASDM_JSON_STRING)
        ASDM_ASSERT(strlen(asdm_json_string(node)) < SIZE_MAX);
    if (type == ASDM_JSON_NUMBER)
        ASDM_ASSERT(asdm_json_number(node) - asdm_json_number(node) == 0); /* finite */
    for (const struct asdm_json *child = asdm_json_first(node); child; child = asdm_json_next(child), count++) {
        if (type == ASDM_JSON_OBJECT && count < 64) {
            ASDM_ASSERT(asdm_json_get(node, asdm_json_key(child)) == child); /* keys are unique */
            ask(node, asdm_json_key(child));
        }
        walk(child, depth + 1);
    }
    ASDM_ASSERT(count == asdm_json_count(node));
    ASDM_ASSERT(count == 0 || type == ASDM_JSON_ARRAY || type == ASDM_JSON_OBJECT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct asdm_json *root = NULL;
    struct asdm_error err = {ASDM_OK, ""};
    enum asdm_status status = asdm_json_parse((const char *)data, size, "fuzz", &root, &err);
    if (status == ASDM_OK) {
        walk(root, 0);
        asdm_json_destroy(&root);
        ASDM_ASSERT(root == NULL);
    } else {
        ASDM_ASSERT(status == ASDM_ERR_FORMAT && strncmp(err.message, "fuzz: line ", 11) == 0);
    }
    return 0;
}
