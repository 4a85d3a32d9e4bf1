/* The units of a UNet that pruning takes out. */
#ifndef ASDM_LIGHT_UNITS_H
#define ASDM_LIGHT_UNITS_H

#include <asdm/light.h>

#include "model/config.h"

/* At most ASDM_UNITS_MAX; their number. */
int asdm_units_of(const struct asdm_unet_config *config, struct asdm_unit *ret);

/* Those named in `list`, as bits by their place among `units`. ERR_ARGUMENT for an unknown name and one named twice.
 */
enum asdm_status asdm_units_parse(const char *list, const struct asdm_unit *units, int count, unsigned *ret,
                                  struct asdm_error *err);

/* The configuration without a unit. */
void asdm_unit_remove(const struct asdm_unit *unit, struct asdm_unet_config *config);

enum { ASDM_UNIT_NAME_MAX = 320 };
/* Under which name the original has the weight `name` of a model without `removed` (bits among `units`). */
void asdm_unit_original_name(const char *name, const struct asdm_unit *units, int count, unsigned removed, int stages,
                             char ret[ASDM_UNIT_NAME_MAX]);

#endif
