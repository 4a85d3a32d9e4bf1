/* multipart/form-data (RFC 7578), read strictly: what is ambiguous about where a part ends is an error. */
#ifndef ASDM_FRONT_FORM_H
#define ASDM_FRONT_FORM_H

#include "front/dialect/fields.h"

enum { FORM_PARTS_MAX = 64 };

struct form {
    struct form_part parts[FORM_PARTS_MAX]; /* data points into the body */
    size_t count;
};

/* 400 "malformed" when the body is not such a form. */
bool form_parse(const char *content_type, const unsigned char *body, size_t size, struct form *ret,
                struct problem *ret_problem);
void form_done(struct form *form);

#endif
