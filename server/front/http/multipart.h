/* multipart/form-data (RFC 7578, RFC 2046), read strictly from a body in memory: what is ambiguous about where a part
 * begins, ends or what it is called is an error. */
#ifndef ASDM_FRONT_MULTIPART_H
#define ASDM_FRONT_MULTIPART_H

#include "front/dialect/fields.h"

enum { MULTIPART_PARTS_MAX = 64, MULTIPART_HEAD_BYTES_MAX = 8192, MULTIPART_BOUNDARY_MAX = 70 };

struct multipart {
    struct form_part parts[MULTIPART_PARTS_MAX]; /* data points into the body, texts into `texts` */
    size_t count;
    char *texts;
};

/* `content_type` is the request header's value, or NULL. False: *ret_problem is 400 "malformed" (503 without memory),
 * and *ret holds nothing. */
bool multipart_parse(const char *content_type, const unsigned char *body, size_t size, struct multipart *ret,
                     struct problem *ret_problem);
void multipart_done(struct multipart *multipart);

#endif
