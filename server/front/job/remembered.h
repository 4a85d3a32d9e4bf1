/* Names that were used once, the last so many of them. */
#ifndef ASDM_FRONT_JOB_REMEMBERED_H
#define ASDM_FRONT_JOB_REMEMBERED_H

#include <stdbool.h>

enum { REMEMBERED_MAX = 20000, REMEMBERED_BYTES = 40 };

struct remembered;
struct remembered *remembered_create(void); /* NULL: no memory */
void remembered_destroy(struct remembered **remembered);
/* Forgets the oldest one when there are REMEMBERED_MAX. */
void remembered_add(struct remembered *remembered, const char *name);
bool remembered_has(const struct remembered *remembered, const char *name);

#endif
