#include "front/dialect/fields_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/wire.h"

enum { OPENAI_N_MAX = 10, SIDE_STEP = 8, DAY_MS = 86400000, NAME_BYTES = 128, KEY_BYTES = 200 };

#define SEED_MAX 9007199254740991.0 /* 2^53 - 1: doubles tell all integers up to here apart */

static const char *const kinds[] = {"t2i", "i2i", NULL};
static const char *const syntaxes[] = {"plain", "a1111", NULL}; /* enum asdm_prompt_syntax */
static const char *const rngs[] = {"philox", "torch", NULL};    /* enum asdm_request_rng */
static const char *const responses[] = {"b64_json", "url", NULL};
static const char *const formats[] = {"png", NULL};

/* Names, own ranges and defaults are in the order native, OpenAI, A1111. A random seed is -1, which only A1111's
 * clients may say. */
#define NAMES(...) .names = {__VA_ARGS__}
const struct field fields_table[FIELDS] = {
    [FIELD_KIND] = {NAMES({"kind"}), .type = FIELD_CHOICE, .choices = kinds},
    [FIELD_MODEL] = {NAMES({"model"}, {"model"}, {"sd_model_checkpoint"}), .type = FIELD_TEXT, .max = NAME_BYTES},
    [FIELD_PROMPT] = {NAMES({"prompt"}, {"prompt"}, {"prompt"}), .type = FIELD_TEXT, .max = WIRE_PROMPT_MAX},
    [FIELD_NEGATIVE] = {NAMES({"negative_prompt"}, {"negative_prompt"}, {"negative_prompt"}), .type = FIELD_TEXT,
                        .max = WIRE_PROMPT_MAX},
    [FIELD_SYNTAX] = {NAMES({"prompt_syntax"}, {"prompt_syntax"}, {"prompt_syntax"}), .type = FIELD_CHOICE,
                      .choices = syntaxes, .defaults = {ASDM_PROMPT_PLAIN, ASDM_PROMPT_PLAIN, ASDM_PROMPT_A1111}},
    [FIELD_WIDTH] = {NAMES({"width"}, {NULL}, {"width"}), .type = FIELD_INTEGER, .bound = BOUND_SIDE, .min = SIDE_STEP},
    [FIELD_HEIGHT] = {NAMES({"height"}, {NULL}, {"height"}), .type = FIELD_INTEGER, .bound = BOUND_SIDE,
                      .min = SIDE_STEP},
    [FIELD_SIZE] = {NAMES({NULL}, {"size"}), .type = FIELD_TEXT, .max = NAME_BYTES},
    [FIELD_STEPS] = {NAMES({"steps"}, {"steps", "num_inference_steps"}, {"steps"}), .type = FIELD_INTEGER,
                     .bound = BOUND_STEPS, .min = 1, .defaults = {25, 25, 50}},
    [FIELD_SAMPLER] = {NAMES({"sampler"}, {"sampler"}, {"sampler_name", "sampler_index"}), .type = FIELD_TEXT,
                       .max = NAME_BYTES},
    [FIELD_SCHEDULE] = {NAMES({"schedule"}, {"scheduler"}, {"scheduler"}), .type = FIELD_TEXT, .max = NAME_BYTES},
    [FIELD_GUIDANCE] = {NAMES({"guidance_scale"}, {"guidance_scale", "cfg_scale"}, {"cfg_scale"}), .type = FIELD_REAL,
                        .min = 0, .max = 100, .defaults = {7.5, 7.5, 7}},
    [FIELD_SEED] = {NAMES({"seed"}, {"seed"}, {"seed"}), .type = FIELD_INTEGER, .min = 0, .max = SEED_MAX,
                    .own = {[DIALECT_A1111] = {-1, SEED_MAX}}, .defaults = {-1, -1, -1}},
    [FIELD_RNG] = {NAMES({"rng"}, {"rng"}), .type = FIELD_CHOICE, .choices = rngs},
    [FIELD_COUNT_OF] = {NAMES({"count"}, {"n"}, {"batch_size"}), .type = FIELD_INTEGER, .bound = BOUND_COUNT, .min = 1,
                        .own = {[DIALECT_OPENAI] = {1, OPENAI_N_MAX}}, .defaults = {1, 1, 1}},
    [FIELD_ITERATIONS] = {NAMES({NULL}, {NULL}, {"n_iter"}), .type = FIELD_INTEGER, .bound = BOUND_COUNT, .min = 1,
                          .defaults = {1, 1, 1}},
    [FIELD_INIT] = {NAMES({"init_image"}, {"image", "image[]"}, {"init_images"}), .type = FIELD_PNG, .i2i_only = true},
    [FIELD_STRENGTH] = {NAMES({"strength"}, {"strength"}, {"denoising_strength"}), .type = FIELD_REAL, .i2i_only = true,
                        .min = 0, .max = 1, .defaults = {0.75, 0.75, 0.75}},
    [FIELD_MASK] = {NAMES({"mask"}, {"mask"}, {"mask"}), .type = FIELD_PNG, .i2i_only = true},
    [FIELD_MASK_INVERT] = {NAMES({NULL}, {NULL}, {"inpainting_mask_invert"}), .type = FIELD_FLAG, .i2i_only = true},
    [FIELD_PREVIEWS] = {NAMES({"previews"}, {"partial_images"}), .type = FIELD_INTEGER, .min = 0, .max = 10,
                        .own = {[DIALECT_OPENAI] = {0, 3}}},
    [FIELD_PRIORITY] = {NAMES({"priority"}), .type = FIELD_INTEGER, .min = 1, .max = 10, .defaults = {5, 5, 5}},
    [FIELD_DEADLINE] = {NAMES({"deadline_ms"}), .type = FIELD_INTEGER, .min = 1, .max = DAY_MS},
    [FIELD_IDEMPOTENCY] = {NAMES({"idempotency_key"}), .type = FIELD_TEXT, .max = KEY_BYTES},
    [FIELD_STREAM] = {NAMES({NULL}, {"stream"}), .type = FIELD_FLAG},
    [FIELD_RESPONSE] = {NAMES({NULL}, {"response_format"}), .type = FIELD_CHOICE, .choices = responses},
    [FIELD_FORMAT] = {NAMES({NULL}, {"output_format"}), .type = FIELD_CHOICE, .choices = formats},
};

void field_value_done(struct field_value *value) {
    free(value->text);
    free(value->data);
    *value = (struct field_value){.name = value->name};
}

int fields_find(enum dialect_kind kind, const char *name, int *ret_rank) {
    for (int i = 0; i < FIELDS; i++) {
        for (int rank = 0; rank < 2; rank++) {
            const char *known = fields_table[i].names[kind][rank];
            if (known && strcmp(known, name) == 0) {
                *ret_rank = rank;
                return i;
            }
        }
    }
    return -1;
}

void fields_range(const struct field *field, enum dialect_kind kind, const struct config *config, double *ret_min,
                  double *ret_max) {
    bool own = field->own[kind].max != 0;
    double max = own ? field->own[kind].max : field->max;
    if (field->bound == BOUND_STEPS)
        max = config->steps_max;
    else if (field->bound == BOUND_COUNT)
        max = own && max < config->count_max ? max : config->count_max;
    else if (field->bound == BOUND_SIDE)
        max = config->pixels_max / SIDE_STEP / SIDE_STEP * SIDE_STEP;
    *ret_min = own ? field->own[kind].min : field->min;
    *ret_max = max;
}

/* What was there instead, for messages. */
static const char *describe(const struct asdm_json *node, const struct form_part *part, char buffer[80]) {
    if (part) {
        snprintf(buffer, 80, "\"%.*s\"", part->size < 40 ? (int)part->size : 40, (const char *)part->data);
        return buffer;
    }
    switch (asdm_json_type(node)) {
    case ASDM_JSON_STRING:
        snprintf(buffer, 80, "\"%.40s%s", asdm_json_string(node), strlen(asdm_json_string(node)) > 40 ? "...\"" : "\"");
        break;
    case ASDM_JSON_NUMBER:
        snprintf(buffer, 80, "%.17g", asdm_json_number(node));
        break;
    case ASDM_JSON_BOOL:
        snprintf(buffer, 80, "%s", asdm_json_bool(node) ? "true" : "false");
        break;
    default:
        snprintf(buffer, 80, "%s", asdm_json_type_name(asdm_json_type(node)));
    }
    return buffer;
}

static bool fail(const char *name, const char *wanted, const struct asdm_json *node, const struct form_part *part,
                 struct problem *ret_problem) {
    char buffer[80];
    return problem_set(ret_problem, 422, "invalid_value", name, "%s: must be %s, is %s", name, wanted,
                       describe(node, part, buffer));
}

static bool fail_memory(struct problem *ret_problem) {
    problem_set(ret_problem, 503, "out_of_memory", "", "the server is short of memory");
    ret_problem->retry_after_ms = 1000;
    return false;
}

/* UTF-8 without NUL. JSON's strings have been checked by its parser, a form's have not. */
static bool is_text(const unsigned char *data, size_t size) {
    for (size_t i = 0; i < size;) {
        unsigned char c = data[i++];
        int more = c < 0x80                ? 0
                   : c >= 0xc2 && c < 0xe0 ? 1
                   : c >= 0xe0 && c < 0xf0 ? 2
                   : c >= 0xf0 && c < 0xf5 ? 3
                                           : -1;
        if (c == 0 || more < 0 || size - i < (size_t)more)
            return false;
        unsigned char next = more ? data[i] : 0x80;
        if ((c == 0xe0 && next < 0xa0) || (c == 0xed && next > 0x9f) || (c == 0xf0 && next < 0x90) ||
            (c == 0xf4 && next > 0x8f))
            return false;
        for (; more > 0; more--)
            if ((data[i++] & 0xc0) != 0x80)
                return false;
    }
    return true;
}

static bool read_text(const struct field *field, const struct asdm_json *node, const struct form_part *part,
                      struct field_value *ret, struct problem *ret_problem) {
    char wanted[80];
    snprintf(wanted, sizeof wanted, "a text of at most %d bytes of UTF-8", (int)field->max);
    if (node && asdm_json_type(node) != ASDM_JSON_STRING)
        return fail(ret->name, wanted, node, NULL, ret_problem);
    const unsigned char *data = node ? (const unsigned char *)asdm_json_string(node) : part->data;
    size_t size = node ? strlen(asdm_json_string(node)) : part->size;
    if ((double)size > field->max)
        return problem_set(ret_problem, 422, "invalid_value", ret->name, "%s: must be %s, has %zu", ret->name, wanted,
                           size);
    if (part && !is_text(data, size))
        return problem_set(ret_problem, 422, "invalid_value", ret->name, "%s: must be %s, is not UTF-8", ret->name,
                           wanted);
    char *copy = malloc(size + 1);
    if (!copy)
        return fail_memory(ret_problem);
    if (size)
        memcpy(copy, data, size);
    copy[size] = '\0';
    ret->text = copy;
    return true;
}

/* A number out of JSON, or as a form's text. */
static bool to_number(const struct asdm_json *node, const struct form_part *part, double *ret) {
    if (node && asdm_json_type(node) == ASDM_JSON_NUMBER) {
        *ret = asdm_json_number(node);
        return true;
    }
    char text[40], *end;
    if (node || part->size == 0 || part->size >= sizeof text || memchr(part->data, '\0', part->size))
        return false;
    memcpy(text, part->data, part->size);
    text[part->size] = '\0';
    if (strspn(text, "+-.0123456789eE") != part->size)
        return false;
    *ret = strtod(text, &end);
    return *end == '\0';
}

static bool read_number(const struct field *field, enum dialect_kind kind, const struct config *config,
                        const struct asdm_json *node, const struct form_part *part, struct field_value *ret,
                        struct problem *ret_problem) {
    bool whole = field->type == FIELD_INTEGER;
    double min, max, value;
    char wanted[80];
    fields_range(field, kind, config, &min, &max);
    snprintf(wanted, sizeof wanted, "%s from %.17g to %.17g", whole ? "an integer" : "a number", min, max);
    if (!to_number(node, part, &value) || !isfinite(value) || value < min || value > max ||
        (whole && value != floor(value)))
        return fail(ret->name, wanted, node, part, ret_problem);
    ret->number = value;
    return true;
}

static bool is_word(const struct asdm_json *node, const struct form_part *part, const char *word) {
    if (part)
        return part->size == strlen(word) && memcmp(part->data, word, part->size) == 0;
    return asdm_json_type(node) == ASDM_JSON_STRING && strcmp(asdm_json_string(node), word) == 0;
}

static bool read_choice(const struct field *field, const struct asdm_json *node, const struct form_part *part,
                        struct field_value *ret, struct problem *ret_problem) {
    char wanted[120] = "";
    for (int i = 0; field->choices[i]; i++) {
        if (is_word(node, part, field->choices[i])) {
            ret->number = i;
            return true;
        }
        size_t used = strlen(wanted);
        snprintf(wanted + used, sizeof wanted - used, "%s\"%s\"", i ? " or " : "", field->choices[i]);
    }
    return fail(ret->name, wanted, node, part, ret_problem);
}

static bool read_flag(enum dialect_kind kind, const struct asdm_json *node, const struct form_part *part,
                      struct field_value *ret, struct problem *ret_problem) {
    double number;
    if (node && asdm_json_type(node) == ASDM_JSON_BOOL)
        ret->number = asdm_json_bool(node);
    else if (part && (is_word(node, part, "true") || is_word(node, part, "false")))
        ret->number = is_word(node, part, "true");
    else if (kind == DIALECT_A1111 && to_number(node, part, &number) && (number == 0 || number == 1))
        ret->number = number;
    else
        return fail(ret->name, kind == DIALECT_A1111 ? "true, false, 0 or 1" : "true or false", node, part,
                    ret_problem);
    return true;
}

/* The bytes of a picture's file. Base64 is decoded; what is in them is the caller's to find out. */
static bool read_png(const struct field *field, enum dialect_kind kind, const struct asdm_json *node,
                     const struct form_part *part, struct field_value *ret, struct problem *ret_problem) {
    if (part) {
        ret->data = malloc(part->size ? part->size : 1);
        if (!ret->data)
            return fail_memory(ret_problem);
        if (part->size)
            memcpy(ret->data, part->data, part->size);
        ret->size = part->size;
        return true;
    }
    bool list = kind == DIALECT_A1111 && field == &fields_table[FIELD_INIT];
    if (list && asdm_json_type(node) == ASDM_JSON_ARRAY)
        node = asdm_json_first(node);
    else if (list)
        return fail(ret->name, "a list of base64 PNGs", node, NULL, ret_problem);
    if (!node) { /* an empty list: as if it were not there */
        ret->given = false;
        return true;
    }
    if (asdm_json_type(node) != ASDM_JSON_STRING)
        return fail(ret->name, "a base64 PNG", node, NULL, ret_problem);
    const char *text = asdm_json_string(node);
    if (strncmp(text, "http:", 5) == 0 || strncmp(text, "https:", 6) == 0 || strncmp(text, "file:", 5) == 0)
        return problem_set(ret_problem, 422, "invalid_value", ret->name,
                           "%s: must be a base64 PNG; the server does not fetch addresses", ret->name);
    if (!base64_decode(text, strlen(text), &ret->data, &ret->size))
        return fail(ret->name, "a base64 PNG", node, NULL, ret_problem);
    return true;
}

bool field_value_read(const struct field *field, enum dialect_kind kind, const struct config *config,
                      const struct asdm_json *node, const struct form_part *part, struct field_value *ret,
                      struct problem *ret_problem) {
    ret->given = true;
    switch (field->type) {
    case FIELD_TEXT:
        return read_text(field, node, part, ret, ret_problem);
    case FIELD_CHOICE:
        return read_choice(field, node, part, ret, ret_problem);
    case FIELD_FLAG:
        return read_flag(kind, node, part, ret, ret_problem);
    case FIELD_PNG:
        return read_png(field, kind, node, part, ret, ret_problem);
    default:
        return read_number(field, kind, config, node, part, ret, ret_problem);
    }
}
