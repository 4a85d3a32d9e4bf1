/* The units by which a UNet is made lighter. */
#ifndef ASDM_LIGHT_UNITS_H
#define ASDM_LIGHT_UNITS_H

#include <asdm/light.h>

#include "model/config.h"
#include "ops/program.h"

/* What can be taken out: pairs and the middle block; their number. With those of asdm_units_of_gri at most
 * ASDM_UNITS_MAX. */
int asdm_units_of(const struct asdm_unet_config *config, struct asdm_unit *ret);
/* The stages whose layers have plain self-attention, which can become global-regional; their number. */
int asdm_units_of_gri(const struct asdm_unet_config *config, int window, int pool, struct asdm_unit *ret);

/* Those named in `list`, as bits by their place among `units`. ERR_ARGUMENT for an unknown name and one named twice;
 * the message starts with `option`. */
enum asdm_status asdm_units_parse(const char *option, const char *list, const struct asdm_unit *units, int count,
                                  unsigned *ret, struct asdm_error *err);

/* The names of a set, as far as they fit in `room` bytes with the NUL. */
void asdm_units_names(const struct asdm_unit *units, int count, unsigned set, const char *between, char *ret,
                      size_t room);

/* The configuration with a unit's change made. */
void asdm_unit_apply(const struct asdm_unit *unit, struct asdm_unet_config *config);

/* Parameters, bytes, and GMAC of a row of height x width latents, of a program that was not rewritten. */
void asdm_unet_measure(const struct asdm_program *program, int height, int width, size_t element_bytes,
                       struct asdm_unet_size *ret);

enum { ASDM_UNIT_NAME_MAX = 320 };
/* Under which name the original has the weight `name` of a model without `removed` (bits among `units`). */
void asdm_unit_original_name(const char *name, const struct asdm_unit *units, int count, unsigned removed, int stages,
                             char ret[ASDM_UNIT_NAME_MAX]);

#endif
