/* The work beside the steps: prompts, init images, finished pictures and previews. The autoencoder's work is done in
 * slices, so that the steps of the other pictures go on. */
#ifndef ASDM_RUN_SIDE_H
#define ASDM_RUN_SIDE_H

#include "run/picture.h"

enum asdm_side_kind { ASDM_SIDE_NONE, ASDM_SIDE_ENCODE, ASDM_SIDE_DECODE, ASDM_SIDE_PREVIEW };

struct asdm_side {
    struct asdm_model *model;
    struct asdm_prompts *prompts;
    struct asdm_flight *flights; /* [flight_count] */
    int flight_count;
    /* The autoencoder's piece of work that is under way. */
    enum asdm_side_kind kind;
    struct asdm_flight *flight;
    struct asdm_plan *plan;
    int position; /* operations done */
    float *pixels;
    size_t pixels_bytes;
};

void asdm_side_done(struct asdm_side *side);
/* The picture leaves: nothing more is done for it. */
void asdm_side_forget(struct asdm_side *side, const struct asdm_flight *flight);

/* Works until `deadline` (seconds of the monotonic clock) or until there is nothing left to do. `idle`: no picture can
 * be stepped, so what makes one ready comes first, and the work ends when one is. Failures go to the picture that they
 * concern, but for ERR_DEVICE, which is returned. *ret_worked: whether anything was done. */
enum asdm_status asdm_side_run(struct asdm_side *side, double deadline, bool idle, bool *ret_worked,
                               struct asdm_error *err);

#endif
