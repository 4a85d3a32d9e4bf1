/* The units of a UNet that pruning takes out. */
#ifndef ASDM_LIGHT_UNITS_H
#define ASDM_LIGHT_UNITS_H

#include <asdm/light.h>

#include "model/config.h"
#include "ops/program.h"

/* At most ASDM_UNITS_MAX; their number. */
int asdm_units_of(const struct asdm_unet_config *config, struct asdm_unit *ret);

/* Those named in `list`, as bits by their place among `units`. ERR_ARGUMENT for an unknown name, one named twice, none.
 */
enum asdm_status asdm_units_parse(const char *list, const struct asdm_unit *units, int count, unsigned *ret,
                                  struct asdm_error *err);

/* The configuration with a unit's change made. */
void asdm_unit_apply(const struct asdm_unit *unit, struct asdm_unet_config *config);

/* Parameters, bytes, and GMAC of a row of height x width latents, of a program that was not rewritten. */
void asdm_unit_measure(const struct asdm_program *program, int height, int width, size_t element_bytes,
                       struct asdm_unet_size *ret);

enum { ASDM_UNIT_NAME_MAX = 320 };
/* Under which name the original has the weight `name` of a model without `removed` (bits among `units`). */
void asdm_unit_original_name(const char *name, const struct asdm_unit *units, int count, unsigned removed, int stages,
                             char ret[ASDM_UNIT_NAME_MAX]);

#endif
