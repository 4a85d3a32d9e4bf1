/* What a picture keeps from one step to the next, in the back end's memory: its latents, its sampler's history, and
 * what inpainting holds on to. On a device there is a second copy in staging memory, through which the first latents go
 * up and the last ones come down; between the two nothing but noise is read from the processor's side. The memory stays
 * with its slot of the batch when the picture leaves, so that only a larger picture than any before allocates. */
#ifndef ASDM_RUN_STATE_H
#define ASDM_RUN_STATE_H

#include "ops/backend.h"
#include "sampler/row.h"

/* Planes of float32, `count` numbers each ([4][height][width]); mask [height][width]. */
struct asdm_state_planes {
    float *latents, *history[ASDM_SAMPLER_HISTORY_MAX];
    float *image, *image_noise, *mask; /* inpainting: the init image's latents, the noise it started with, and 1 where
                                          the latents are redrawn, 0 where they are kept; else NULL */
    float *clean;                      /* what a preview shows */
};

struct asdm_state {
    struct asdm_backend *backend;
    size_t count;
    struct asdm_state_planes host; /* the processor's side; without a device the same as `own` */
    struct asdm_state_planes own;  /* the back end's */
    float *noise[2];               /* on the processor's side, where kernels read it: of this evaluation and the next */
    unsigned char *memory, *staging;
    size_t memory_bytes, staging_bytes; /* as allocated */
    size_t upload_bytes;                /* from the start, all but `clean` */
};

/* Bytes in the back end's memory that the state of a picture of `count` numbers takes at most. */
size_t asdm_state_bytes(size_t count);
/* So much memory, so that fitting pictures up to that size allocates nothing. */
enum asdm_status asdm_state_reserve(struct asdm_state *state, struct asdm_backend *backend, size_t count,
                                    struct asdm_error *err);

/* Room for a picture of `count` numbers, in memory the state has or new memory; history and mask are zeroed.
 * ERR_MEMORY: the state is as empty as before its first use. */
enum asdm_status asdm_state_fit(struct asdm_state *state, struct asdm_backend *backend, size_t count, int history_count,
                                bool inpaints, struct asdm_error *err);
void asdm_state_done(struct asdm_state *state);

/* Host side to the back end's, before the first step: returns when it is there. */
enum asdm_status asdm_state_upload(struct asdm_state *state, struct asdm_error *err);
/* The latents to the host's side: there after the back end's next finished work. */
void asdm_state_download(struct asdm_state *state);

#endif
