/* Tables of configuration keys: which are read, which change nothing, and which may only have a value that changes
 * nothing. */
#ifndef ASDM_CONFIG_KEYS_H
#define ASDM_CONFIG_KEYS_H

#include <asdm/status.h>
#include <asdm/json.h>
#include "ops/op.h"

struct asdm_config_key {
    const char *key;
    /* NULL: read by the parser, or without effect on inference. Otherwise the only values that are supported, as JSON
     * literals separated by '|'; null and absent are always fine. */
    const char *only;
};

/* Refuses keys that are not in `keys` (terminated by a NULL key; names that start with "_" are notes) and values that
 * are not supported, by name. */
enum asdm_status asdm_config_check_keys(const struct asdm_json *json, const char *name,
                                        const struct asdm_config_key *keys, struct asdm_error *err);

/* An integer, or an array of integers, one per stage; an integer fills all. Absent: *ret untouched. */
enum asdm_status asdm_config_get_ints(const struct asdm_json *json, const char *name, const char *key, int count,
                                      int64_t min, int64_t max, int *ret, struct asdm_error *err);
enum asdm_status asdm_config_get_int(const struct asdm_json *json, const char *name, const char *key, int64_t min,
                                     int64_t max, int *ret, struct asdm_error *err);
enum asdm_status asdm_config_get_float(const struct asdm_json *json, const char *name, const char *key, double min,
                                       double max, float *ret, struct asdm_error *err);
/* "silu", "swish", "gelu", "quick_gelu", "gelu_pytorch_tanh", "relu". */
enum asdm_status asdm_config_get_activation(const struct asdm_json *json, const char *name, const char *key,
                                            enum asdm_activation *ret, struct asdm_error *err);

#endif
