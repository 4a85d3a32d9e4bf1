/* JSON for configurations: cJSON behind a strict pre-scan (RFC 8259, and refused: duplicate keys in one object, NUL
 * bytes and \u0000, invalid UTF-8, lone surrogates, nesting deeper than 64, trailing text, texts over `limit` bytes).
 * Safetensors headers have a reader of their own (tensor/safetensors.c). */
#ifndef ASDM_JSON_H
#define ASDM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asdm/status.h>

struct asdm_json; /* one node; nodes belong to their document */

enum asdm_json_type {
    ASDM_JSON_NULL,
    ASDM_JSON_BOOL,
    ASDM_JSON_NUMBER,
    ASDM_JSON_STRING,
    ASDM_JSON_ARRAY,
    ASDM_JSON_OBJECT
};

/* Limits of a text from outside; 0: none beside those of every text. */
struct asdm_json_limits {
    int depth_max, node_max;
};

/* As asdm_json_parse, within `limits` (NULL: none); ERR_FORMAT names the limit. */
enum asdm_status asdm_json_parse_limited(const char *text, size_t length, const char *name,
                                         const struct asdm_json_limits *limits, struct asdm_json **ret_root,
                                         struct asdm_error *err);
/* Parses `length` bytes; errors start with `name` (a file name, "request body", ...) and give line and column.
 * The document is freed with asdm_json_destroy on its root. */
enum asdm_status asdm_json_parse(const char *text, size_t length, const char *name, struct asdm_json **ret_root,
                                 struct asdm_error *err);
/* Reads a whole file of at most `limit` bytes and parses it. NOT_FOUND when it does not exist. */
enum asdm_status asdm_json_read(const char *path, size_t limit, struct asdm_json **ret_root, struct asdm_error *err);
void asdm_json_destroy(struct asdm_json **root);

enum asdm_json_type asdm_json_type(const struct asdm_json *node);
const char *asdm_json_type_name(enum asdm_json_type type); /* "null", "a boolean", "a number", ... */

bool asdm_json_bool(const struct asdm_json *node);          /* the node is a BOOL */
double asdm_json_number(const struct asdm_json *node);      /* the node is a NUMBER */
const char *asdm_json_string(const struct asdm_json *node); /* the node is a STRING; UTF-8, NUL-terminated */

/* Children of an array or object, in file order, in constant time each; NULL at the end. */
const struct asdm_json *asdm_json_first(const struct asdm_json *node);
const struct asdm_json *asdm_json_next(const struct asdm_json *child);
const char *asdm_json_key(const struct asdm_json *child); /* key of an object's member */
size_t asdm_json_count(const struct asdm_json *node);     /* linear */

/* A member by exact (case-sensitive) key; NULL when absent. Linear in the object's size. */
const struct asdm_json *asdm_json_get(const struct asdm_json *object, const char *key);

/* Sets a member of an object to the JSON text `value`, in place of one of that key. ERR_MEMORY, ERR_FORMAT. */
enum asdm_status asdm_json_set(struct asdm_json *object, const char *key, const char *value, struct asdm_error *err);
/* The document as indented text, malloc'ed; NULL: no memory. */
char *asdm_json_print(const struct asdm_json *root);

/* Typed reading for configurations. Absent or null: *ret untouched and OK. Wrong type or outside [min, max]: ERR_FORMAT
 * with "NAME: KEY: must be an integer from MIN to MAX, is ...", NAME being `name`. */
enum asdm_status asdm_json_get_int(const struct asdm_json *object, const char *name, const char *key, int64_t min,
                                   int64_t max, int64_t *ret, struct asdm_error *err);
enum asdm_status asdm_json_get_double(const struct asdm_json *object, const char *name, const char *key, double min,
                                      double max, double *ret, struct asdm_error *err);
enum asdm_status asdm_json_get_bool(const struct asdm_json *object, const char *name, const char *key, bool *ret,
                                    struct asdm_error *err);
/* *ret points into the document. */
enum asdm_status asdm_json_get_string(const struct asdm_json *object, const char *name, const char *key,
                                      const char **ret, struct asdm_error *err);

#endif
