#include <asdm/json.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "base/arena.h"
#include "asdm_limits.h"
#include <asdm/error.h>
#include "base/file.h"
#include "base/json_scan.h"
#include "base/key_table.h"

/* The strict pass before cJSON, which takes much that is not JSON. */
struct check {
    struct asdm_json_scan scan;
    struct asdm_key_table keys; /* space: the object's number */
    struct asdm_arena decoded;  /* keys that have escapes */
    uint32_t objects;
    int depth_max, node_max, nodes; /* node_max 0: no limit */
    struct asdm_error *err;
};

static enum asdm_status check_value(struct check *check, int depth);

static enum asdm_status check_key(struct check *check, uint32_t object) {
    struct asdm_json_text text;
    asdm_json_scan_space(&check->scan);
    const char *start = check->scan.at;
    ASDM_TRY(asdm_json_scan_key(&check->scan, &text, check->err));
    const char *key = text.raw;
    size_t length = text.length;
    enum asdm_key_insert inserted = ASDM_KEY_NO_MEMORY;
    if (text.escaped) {
        char *decoded = asdm_arena_alloc(&check->decoded, text.length, 1);
        length = decoded ? asdm_json_text_decode(&text, decoded) : 0;
        key = decoded;
    }
    if (key)
        inserted = asdm_key_table_insert(&check->keys, object, key, length, 0);
    if (inserted == ASDM_KEY_NO_MEMORY)
        return asdm_fail(check->err, ASDM_ERR_MEMORY, "%s: out of memory", check->scan.name);
    char excerpt[ASDM_JSON_EXCERPT_BYTES];
    if (inserted == ASDM_KEY_KNOWN)
        return asdm_json_scan_fail(&check->scan, start, check->err, "the key \"%s\" is there twice",
                                   asdm_json_excerpt(key, length, excerpt));
    return ASDM_OK;
}

/* An array or an object, from its bracket to the closing one. */
static enum asdm_status check_nested(struct check *check, char close, int depth) {
    if (depth == check->depth_max)
        return asdm_json_scan_fail(&check->scan, check->scan.at, check->err, "nested deeper than %d levels",
                                   check->depth_max);
    check->scan.at++;
    uint32_t object = check->objects++;
    bool first = true, more;
    for (;;) {
        ASDM_TRY(asdm_json_scan_more(&check->scan, close, &first, &more, check->err));
        if (!more)
            return ASDM_OK;
        if (close == '}')
            ASDM_TRY(check_key(check, object));
        ASDM_TRY(check_value(check, depth + 1));
    }
}

static enum asdm_status check_word(struct check *check, const char *word) {
    struct asdm_json_scan *scan = &check->scan;
    size_t length = strlen(word);
    if ((size_t)(scan->end - scan->at) < length || memcmp(scan->at, word, length) != 0)
        return asdm_json_scan_expected(scan, "a value", check->err);
    scan->at += length;
    return ASDM_OK;
}

static enum asdm_status check_value(struct check *check, int depth) {
    struct asdm_json_text text;
    int next = asdm_json_scan_peek(&check->scan);
    if (check->node_max && ++check->nodes > check->node_max)
        return asdm_json_scan_fail(&check->scan, check->scan.at, check->err, "more than %d values", check->node_max);
    switch (next) {
    case '{':
        return check_nested(check, '}', depth);
    case '[':
        return check_nested(check, ']', depth);
    case '"':
        return asdm_json_scan_string(&check->scan, &text, check->err);
    case 't':
        return check_word(check, "true");
    case 'f':
        return check_word(check, "false");
    case 'n':
        return check_word(check, "null");
    default:
        if (next == '-' || (next >= '0' && next <= '9'))
            return asdm_json_scan_number(&check->scan, check->err);
        return asdm_json_scan_expected(&check->scan, "a value", check->err);
    }
}

static enum asdm_status check_text(const char *text, size_t length, const char *name,
                                   const struct asdm_json_limits *limits, struct asdm_error *err) {
    struct check check = {.err = err, .depth_max = ASDM_LIMIT_CONFIG_DEPTH};
    if (limits) {
        check.node_max = limits->node_max;
        check.depth_max = limits->depth_max ? limits->depth_max : check.depth_max;
    }
    asdm_json_scan_init(&check.scan, text, length, name);
    asdm_arena_init(&check.decoded, SIZE_MAX / 2);
    enum asdm_status status;
    if (length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        status = asdm_json_scan_fail(&check.scan, text, err, "a byte order mark, which JSON does not allow");
    else
        status = check_value(&check, 0);
    if (status == ASDM_OK)
        status = asdm_json_scan_end(&check.scan, err);
    asdm_key_table_done(&check.keys);
    asdm_arena_done(&check.decoded);
    return status;
}

static struct asdm_json *from_cjson(cJSON *node) {
    return (struct asdm_json *)node;
}

static const cJSON *to_cjson(const struct asdm_json *node) {
    return (const cJSON *)node;
}

enum asdm_status asdm_json_parse_limited(const char *text, size_t length, const char *name,
                                         const struct asdm_json_limits *limits, struct asdm_json **ret_root,
                                         struct asdm_error *err) {
    ASDM_TRY(check_text(text, length, name, limits, err));
    cJSON *root = cJSON_ParseWithLength(text, length);
    if (!root) /* the text is good, so this is the one reason left */
        return asdm_fail(err, ASDM_ERR_MEMORY, "%s: out of memory for %zu bytes of JSON", name, length);
    *ret_root = from_cjson(root);
    return ASDM_OK;
}

enum asdm_status asdm_json_parse(const char *text, size_t length, const char *name, struct asdm_json **ret_root,
                                 struct asdm_error *err) {
    return asdm_json_parse_limited(text, length, name, NULL, ret_root, err);
}

enum asdm_status asdm_json_read(const char *path, size_t limit, struct asdm_json **ret_root, struct asdm_error *err) {
    char *text;
    size_t size;
    ASDM_TRY(asdm_file_read(path, limit, &text, &size, err));
    enum asdm_status status = asdm_json_parse(text, size, path, ret_root, err);
    free(text);
    return status;
}

void asdm_json_destroy(struct asdm_json **root) {
    cJSON_Delete((cJSON *)*root);
    *root = NULL;
}

enum asdm_status asdm_json_set(struct asdm_json *object, const char *key, const char *value, struct asdm_error *err) {
    cJSON *made = cJSON_Parse(value);
    if (!made)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: not a JSON value: %.60s", key, value);
    cJSON *whole = (cJSON *)object;
    bool set = cJSON_GetObjectItemCaseSensitive(whole, key) ? cJSON_ReplaceItemInObjectCaseSensitive(whole, key, made)
                                                            : cJSON_AddItemToObject(whole, key, made);
    if (set)
        return ASDM_OK;
    cJSON_Delete(made);
    return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for %s", key);
}

char *asdm_json_print(const struct asdm_json *root) {
    return cJSON_Print((const cJSON *)root);
}

enum asdm_json_type asdm_json_type(const struct asdm_json *node) {
    switch (to_cjson(node)->type & 0xff) {
    case cJSON_False:
    case cJSON_True:
        return ASDM_JSON_BOOL;
    case cJSON_Number:
        return ASDM_JSON_NUMBER;
    case cJSON_String:
        return ASDM_JSON_STRING;
    case cJSON_Array:
        return ASDM_JSON_ARRAY;
    case cJSON_Object:
        return ASDM_JSON_OBJECT;
    default:
        return ASDM_JSON_NULL;
    }
}

const char *asdm_json_type_name(enum asdm_json_type type) {
    static const char *const names[] = {
        [ASDM_JSON_NULL] = "null",       [ASDM_JSON_BOOL] = "a boolean", [ASDM_JSON_NUMBER] = "a number",
        [ASDM_JSON_STRING] = "a string", [ASDM_JSON_ARRAY] = "an array", [ASDM_JSON_OBJECT] = "an object",
    };
    return names[type];
}

bool asdm_json_bool(const struct asdm_json *node) {
    ASDM_ASSERT(asdm_json_type(node) == ASDM_JSON_BOOL);
    return (to_cjson(node)->type & 0xff) == cJSON_True;
}

double asdm_json_number(const struct asdm_json *node) {
    ASDM_ASSERT(asdm_json_type(node) == ASDM_JSON_NUMBER);
    return to_cjson(node)->valuedouble;
}

const char *asdm_json_string(const struct asdm_json *node) {
    ASDM_ASSERT(asdm_json_type(node) == ASDM_JSON_STRING);
    return to_cjson(node)->valuestring;
}

const struct asdm_json *asdm_json_first(const struct asdm_json *node) {
    return from_cjson(to_cjson(node)->child);
}

const struct asdm_json *asdm_json_next(const struct asdm_json *child) {
    return from_cjson(to_cjson(child)->next);
}

const char *asdm_json_key(const struct asdm_json *child) {
    return to_cjson(child)->string;
}

size_t asdm_json_count(const struct asdm_json *node) {
    size_t count = 0;
    for (const struct asdm_json *child = asdm_json_first(node); child; child = asdm_json_next(child))
        count++;
    return count;
}

const struct asdm_json *asdm_json_get(const struct asdm_json *object, const char *key) {
    if (asdm_json_type(object) != ASDM_JSON_OBJECT)
        return NULL;
    for (const struct asdm_json *child = asdm_json_first(object); child; child = asdm_json_next(child))
        if (strcmp(asdm_json_key(child), key) == 0)
            return child;
    return NULL;
}

/* The member, or NULL when it is absent or null. */
static const struct asdm_json *get_value(const struct asdm_json *object, const char *key) {
    const struct asdm_json *node = asdm_json_get(object, key);
    return node && asdm_json_type(node) != ASDM_JSON_NULL ? node : NULL;
}

enum asdm_status asdm_json_get_int(const struct asdm_json *object, const char *name, const char *key, int64_t min,
                                   int64_t max, int64_t *ret, struct asdm_error *err) {
    /* Past this, numbers were rounded to doubles when they were read (RFC 7493, section 2.2). */
    const int64_t exact = ((int64_t)1 << 53) - 1;
    const struct asdm_json *node = get_value(object, key);
    if (!node)
        return ASDM_OK;
    min = min < -exact ? -exact : min;
    max = max > exact ? exact : max;
    if (asdm_json_type(node) != ASDM_JSON_NUMBER)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: must be an integer from %lld to %lld, is %s", name, key,
                         (long long)min, (long long)max, asdm_json_type_name(asdm_json_type(node)));
    double value = asdm_json_number(node);
    if (value != floor(value) || value < (double)min || value > (double)max)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: must be an integer from %lld to %lld, is %.17g", name, key,
                         (long long)min, (long long)max, value);
    *ret = (int64_t)value;
    return ASDM_OK;
}

enum asdm_status asdm_json_get_double(const struct asdm_json *object, const char *name, const char *key, double min,
                                      double max, double *ret, struct asdm_error *err) {
    const struct asdm_json *node = get_value(object, key);
    if (!node)
        return ASDM_OK;
    if (asdm_json_type(node) != ASDM_JSON_NUMBER)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: must be a number from %g to %g, is %s", name, key, min, max,
                         asdm_json_type_name(asdm_json_type(node)));
    double value = asdm_json_number(node);
    if (!(value >= min && value <= max))
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: must be a number from %g to %g, is %g", name, key, min, max,
                         value);
    *ret = value;
    return ASDM_OK;
}

enum asdm_status asdm_json_get_bool(const struct asdm_json *object, const char *name, const char *key, bool *ret,
                                    struct asdm_error *err) {
    const struct asdm_json *node = get_value(object, key);
    if (!node)
        return ASDM_OK;
    if (asdm_json_type(node) != ASDM_JSON_BOOL)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: must be true or false, is %s", name, key,
                         asdm_json_type_name(asdm_json_type(node)));
    *ret = asdm_json_bool(node);
    return ASDM_OK;
}

enum asdm_status asdm_json_get_string(const struct asdm_json *object, const char *name, const char *key,
                                      const char **ret, struct asdm_error *err) {
    const struct asdm_json *node = get_value(object, key);
    if (!node)
        return ASDM_OK;
    if (asdm_json_type(node) != ASDM_JSON_STRING)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: must be a string, is %s", name, key,
                         asdm_json_type_name(asdm_json_type(node)));
    *ret = asdm_json_string(node);
    return ASDM_OK;
}
