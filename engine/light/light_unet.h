/* A light UNet of an open model, made without writing anything: the program of the changed configuration, whose weights
 * go by the original's names, so that it shares the original's laid-out weights. */
#ifndef ASDM_LIGHT_UNET_H
#define ASDM_LIGHT_UNET_H

#include "light/units.h"
#include "run/internal.h"

enum { ASDM_TAPS_MAX = 2 * ASDM_STAGES_MAX + 1 };

/* A block's result, exported as float32 rows [height * width][channels]. */
struct asdm_tap {
    char name[20]; /* "down_blocks.0", "mid_block", "up_blocks.0" as diffusers names them */
    int value;     /* of the program */
};

struct asdm_light_unet {
    struct asdm_denoiser denoiser;
    struct asdm_unet_size size; /* for the latents that were asked for */
    struct asdm_tap taps[ASDM_TAPS_MAX];
    int tap_count;
};

/* The UNet without `removed` (bits among `units`; 0: the whole one); `tapped`: with its blocks' results beside the
 * prediction. On failure nothing is held. */
enum asdm_status asdm_light_unet_create(struct asdm_model *model, const struct asdm_unit *units, int unit_count,
                                        unsigned removed, int height, int width, bool tapped,
                                        struct asdm_light_unet *ret, struct asdm_error *err);
void asdm_light_unet_done(struct asdm_light_unet *student); /* fine on a zeroed one */

/* The tap of that name; NULL: it has none. */
const struct asdm_tap *asdm_light_unet_tap(const struct asdm_light_unet *student, const char *name);

#endif
