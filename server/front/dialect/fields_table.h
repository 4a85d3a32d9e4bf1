/* The table of fields, and one field's value out of JSON or a form: what fields.c and fields_value.c share. */
#ifndef ASDM_FRONT_FIELDS_TABLE_H
#define ASDM_FRONT_FIELDS_TABLE_H

#include "front/dialect/fields.h"

enum field_id {
    FIELD_KIND,
    FIELD_MODEL,
    FIELD_PROMPT,
    FIELD_NEGATIVE,
    FIELD_SYNTAX,
    FIELD_WIDTH,
    FIELD_HEIGHT,
    FIELD_SIZE,
    FIELD_STEPS,
    FIELD_SAMPLER,
    FIELD_SCHEDULE,
    FIELD_GUIDANCE,
    FIELD_SEED,
    FIELD_RNG,
    FIELD_COUNT_OF, /* pictures */
    FIELD_ITERATIONS,
    FIELD_INIT,
    FIELD_STRENGTH,
    FIELD_MASK,
    FIELD_MASK_INVERT,
    FIELD_PREVIEWS,
    FIELD_PRIORITY,
    FIELD_DEADLINE,
    FIELD_IDEMPOTENCY,
    FIELD_STREAM,
    FIELD_RESPONSE,
    FIELD_FORMAT,
    FIELDS
};

enum field_type {
    FIELD_TEXT,    /* max: bytes */
    FIELD_INTEGER, /* min .. max */
    FIELD_REAL,    /* min .. max */
    FIELD_CHOICE,  /* one of `choices`; its number goes into `number` */
    FIELD_FLAG,    /* true, false; 1, 0 from A1111's clients */
    FIELD_PNG      /* base64, or a list of such (A1111: the first counts); a form's file */
};

/* Where a range's upper end is when it depends on the configuration. */
enum field_bound { BOUND_FIXED, BOUND_STEPS, BOUND_COUNT, BOUND_SIDE };

struct field {
    const char *names[DIALECT_COUNT][2]; /* the first counts where a request has both */
    enum field_type type;
    bool i2i_only;
    enum field_bound bound;
    double min, max;
    struct {
        double min, max;
    } own[DIALECT_COUNT]; /* instead of min and max in that dialect, where max is not 0 */
    double defaults[DIALECT_COUNT];
    const char *const *choices; /* ended by NULL */
};

extern const struct field fields_table[FIELDS];

struct field_value {
    bool given;
    const char *name; /* as the client wrote it; the dialect's when it is not given */
    int rank;         /* of that name among the field's */
    double number;
    char *text;
    unsigned char *data; /* a file's bytes */
    size_t size;
};
void field_value_done(struct field_value *value);

/* The field of that name, and which of its names it is; -1: none. */
int fields_find(enum dialect_kind kind, const char *name, int *ret_rank);
void fields_range(const struct field *field, enum dialect_kind kind, const struct config *config, double *ret_min,
                  double *ret_max);

/* Reads one value into *ret, whose name is set. Exactly one of `node` and `part` is there. */
bool field_value_read(const struct field *field, enum dialect_kind kind, const struct config *config,
                      const struct asdm_json *node, const struct form_part *part, struct field_value *ret,
                      struct problem *ret_problem);

#endif
