/* One table of what a request for pictures may hold: for each field its names in the dialects, type, range and default.
 * All three dialects read through it, so a field means the same everywhere and a bad one gets the same words. */
#ifndef ASDM_FRONT_FIELDS_H
#define ASDM_FRONT_FIELDS_H

#include <asdm/json.h>

#include "front/dialect/dialect.h"

enum dialect_kind { DIALECT_NATIVE, DIALECT_OPENAI, DIALECT_A1111, DIALECT_COUNT };

/* A form's part, for multipart bodies. `data` is not NUL-terminated. */
struct form_part {
    const char *name, *file_name, *content_type; /* file_name: NULL for plain fields */
    const unsigned char *data;
    size_t size;
};

/* Where the fields are: a JSON object, or the parts of a form when `object` is NULL. */
struct fields_source {
    const struct asdm_json *object;
    const struct form_part *parts;
    size_t part_count;
};

/* How an OpenAI client wants its answer. */
struct fields_wish {
    bool stream, url; /* url: addresses instead of base64 */
};

/* Reads every known field of `object` into *ret (defaults first). Unknown fields: an error naming the field (NATIVE) or
 * ignored (OPENAI, A1111). The init image and mask are decoded from base64 PNG, with limits. On failure *ret holds
 * nothing. Checks what needs the model: size, sampler, schedule, steps. `i2i`: an init image is needed; NATIVE requests
 * say so themselves ("kind", or that there is an init image). The problem's status is the dialect's. */
bool fields_read(const struct dialect *dialect, enum dialect_kind kind, bool i2i, const struct asdm_json *object,
                 struct job_request *ret, struct problem *ret_problem);
/* The same for OPENAI, from JSON or multipart/form-data, with what it says about the answer. */
bool fields_read_openai(const struct dialect *dialect, bool i2i, const struct fields_source *source,
                        struct job_request *ret, struct fields_wish *ret_wish, struct problem *ret_problem);

/* A problem's status as the dialect has it. Problems are made with the native one: 422 for a bad value. */
void fields_adapt(enum dialect_kind kind, struct problem *problem);

/* The body as a JSON object, within the limits of requests (400 otherwise). */
bool fields_parse_body(const struct http_exchange *exchange, struct asdm_json **ret, struct problem *ret_problem);

#endif
