#include "model/config_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

/* The node as a JSON literal, for comparison and for messages. */
static void literal_of(const struct asdm_json *node, char text[96]) {
    switch (asdm_json_type(node)) {
    case ASDM_JSON_BOOL:
        snprintf(text, 96, "%s", asdm_json_bool(node) ? "true" : "false");
        break;
    case ASDM_JSON_NUMBER:
        snprintf(text, 96, "%.10g", asdm_json_number(node));
        break;
    case ASDM_JSON_STRING:
        snprintf(text, 96, "\"%.80s\"", asdm_json_string(node));
        break;
    case ASDM_JSON_NULL:
        snprintf(text, 96, "null");
        break;
    default:
        snprintf(text, 96, "%s", asdm_json_type_name(asdm_json_type(node)));
    }
}

static bool is_one_of(const char *literal, const char *only) {
    size_t length = strlen(literal);
    for (const char *at = only; at; at = strchr(at, '|')) {
        at += *at == '|';
        if (strncmp(at, literal, length) == 0 && (at[length] == '|' || !at[length]))
            return true;
    }
    return false;
}

/* Null, one of the literals, or an array of nothing but those. */
static bool is_supported(const struct asdm_json *node, const char *only) {
    char literal[96];
    if (asdm_json_type(node) == ASDM_JSON_ARRAY) {
        for (const struct asdm_json *item = asdm_json_first(node); item; item = asdm_json_next(item))
            if (asdm_json_type(item) == ASDM_JSON_ARRAY || !is_supported(item, only))
                return false;
        return true;
    }
    literal_of(node, literal);
    return asdm_json_type(node) == ASDM_JSON_NULL || is_one_of(literal, only);
}

enum asdm_status asdm_config_check_keys(const struct asdm_json *json, const char *name,
                                        const struct asdm_config_key *keys, struct asdm_error *err) {
    if (asdm_json_type(json) != ASDM_JSON_OBJECT)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: must be an object, is %s", name,
                         asdm_json_type_name(asdm_json_type(json)));
    for (const struct asdm_json *node = asdm_json_first(json); node; node = asdm_json_next(node)) {
        const struct asdm_config_key *key = keys;
        while (key->key && strcmp(key->key, asdm_json_key(node)) != 0)
            key++;
        if (!key->key && asdm_json_key(node)[0] != '_')
            return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: %s: unknown key, which may change the picture", name,
                             asdm_json_key(node));
        if (key->key && key->only && !is_supported(node, key->only)) {
            char literal[96];
            literal_of(node, literal);
            return asdm_fail(err, ASDM_ERR_UNSUPPORTED, "%s: %s: %s is not supported, only %s", name, key->key, literal,
                             key->only);
        }
    }
    return ASDM_OK;
}

enum asdm_status asdm_config_get_int(const struct asdm_json *json, const char *name, const char *key, int64_t min,
                                     int64_t max, int *ret, struct asdm_error *err) {
    int64_t value = *ret;
    ASDM_TRY(asdm_json_get_int(json, name, key, min, max, &value, err));
    *ret = (int)value;
    return ASDM_OK;
}

enum asdm_status asdm_config_get_float(const struct asdm_json *json, const char *name, const char *key, double min,
                                       double max, float *ret, struct asdm_error *err) {
    double value = *ret;
    ASDM_TRY(asdm_json_get_double(json, name, key, min, max, &value, err));
    *ret = (float)value;
    return ASDM_OK;
}

enum asdm_status asdm_config_get_ints(const struct asdm_json *json, const char *name, const char *key, int count,
                                      int64_t min, int64_t max, int *ret, struct asdm_error *err) {
    const struct asdm_json *node = asdm_json_get(json, key);
    if (!node || asdm_json_type(node) == ASDM_JSON_NULL)
        return ASDM_OK;
    if (asdm_json_type(node) != ASDM_JSON_ARRAY) {
        int value = 0;
        ASDM_TRY(asdm_config_get_int(json, name, key, min, max, &value, err));
        for (int i = 0; i < count; i++)
            ret[i] = value;
        return ASDM_OK;
    }
    if (asdm_json_count(node) != (size_t)count)
        return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: must be a number or %d numbers, one per stage, has %zu", name,
                         key, count, asdm_json_count(node));
    int i = 0;
    for (const struct asdm_json *item = asdm_json_first(node); item; item = asdm_json_next(item), i++) {
        double value = asdm_json_type(item) == ASDM_JSON_NUMBER ? asdm_json_number(item) : (double)min - 1;
        if (value < (double)min || value > (double)max || value != (double)(int64_t)value)
            return asdm_fail(err, ASDM_ERR_FORMAT, "%s: %s: entry %d must be an integer from %lld to %lld", name, key,
                             i, (long long)min, (long long)max);
        ret[i] = (int)value;
    }
    return ASDM_OK;
}

enum asdm_status asdm_config_get_activation(const struct asdm_json *json, const char *name, const char *key,
                                            enum asdm_activation *ret, struct asdm_error *err) {
    static const struct {
        const char *name;
        enum asdm_activation activation;
    } known[] = {{"silu", ASDM_ACT_SILU},
                 {"swish", ASDM_ACT_SILU},
                 {"gelu", ASDM_ACT_GELU},
                 {"quick_gelu", ASDM_ACT_QUICK_GELU},
                 {"gelu_pytorch_tanh", ASDM_ACT_GELU_TANH},
                 {"relu", ASDM_ACT_RELU}};
    const char *text = NULL;
    ASDM_TRY(asdm_json_get_string(json, name, key, &text, err));
    if (!text)
        return ASDM_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(text, known[i].name) == 0) {
            *ret = known[i].activation;
            return ASDM_OK;
        }
    return asdm_fail(err, ASDM_ERR_UNSUPPORTED,
                     "%s: %s: \"%.60s\" is not supported, only silu, swish, gelu, quick_gelu, gelu_pytorch_tanh, relu",
                     name, key, text);
}
