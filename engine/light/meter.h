/* Measuring a light UNet against the whole one: damage on the calibration, and time. */
#ifndef ASDM_LIGHT_METER_H
#define ASDM_LIGHT_METER_H

#include "light/calibration.h"
#include "light/light_unet.h"
#include "run/state.h"

/* A UNet that knows the calibration's prompts and timesteps. */
struct asdm_probe {
    struct asdm_light_unet student;
    int *prompt_slots; /* [prompt_count + 1] */
    int timestep_first;
    struct asdm_step_plan *plan;
    struct asdm_state state;    /* of its calls */
    float *taps[ASDM_TAPS_MAX]; /* [rows] each, of the last call; NULL where not tapped */
    size_t tap_count[ASDM_TAPS_MAX];
};

struct asdm_meter {
    struct asdm_model *model;
    const struct asdm_analyze_options *options;
    const struct asdm_unit *units;
    int unit_count;
    struct asdm_calibration calibration;
    struct asdm_probe full, full_tapped; /* the second is made when first needed */
    int total;                           /* rows of the calibration */
    float *wanted;                       /* [total][count]: what the whole UNet predicts */
    float *latents, *predictions;        /* [options->rows][count]: of one call */
    double *numbers;                     /* [total or runs] to sort */
};

/* Draws the calibration and has the whole UNet predict on it. On failure nothing is held. */
enum asdm_status asdm_meter_create(struct asdm_model *model, const struct asdm_analyze_options *options,
                                   const struct asdm_unit *units, int unit_count, struct asdm_meter *ret,
                                   struct asdm_error *err);
void asdm_meter_done(struct asdm_meter *meter); /* fine on a zeroed one */

/* One trial; `blocks`: with the damage of each block's result. ERR_CANCELLED where progress says so. */
enum asdm_status asdm_meter_measure(struct asdm_meter *meter, unsigned removed, bool blocks, struct asdm_trial *ret,
                                    struct asdm_error *err);

/* Sorts `numbers`. Quartiles lie between neighbours by distance, as numpy's do; the deviation is of the population. */
struct asdm_spread asdm_spread_of(double *numbers, int count);

#endif
