/* Rows of a slow rate (prompts, timesteps): for every value that a faster rate reads, one array of slots; a slot holds
 * the values of one prompt or timestep. */
#ifndef ASDM_SLAB_H
#define ASDM_SLAB_H

#include "ops/plan.h"

struct asdm_slab {
    const struct asdm_program *program;
    struct asdm_backend *backend;
    enum asdm_rate rate;
    int value_count, slot_count;
    int *values; /* the program's value numbers */
    size_t *row_bytes;
    unsigned char *memory; /* one array of slot_count rows after another */
    size_t slot_bytes;     /* of all values together */
    unsigned char *taken;  /* [slot] */
};

enum asdm_status asdm_slab_create(struct asdm_slab *slab, const struct asdm_program *program,
                                  struct asdm_backend *backend, enum asdm_rate rate, struct asdm_error *err);
void asdm_slab_done(struct asdm_slab *slab);

/* Takes `count` slots in a row, growing the slab when needed (then memory moves: bind again). */
enum asdm_status asdm_slab_take(struct asdm_slab *slab, int count, int *ret_first, struct asdm_error *err);
void asdm_slab_give(struct asdm_slab *slab, int first, int count);

/* Binds a plan's side of all values to slot `first`: results of a plan of this rate, or (first 0) reads of a faster
 * one. */
void asdm_slab_bind(const struct asdm_slab *slab, struct asdm_plan *plan, int first);

#endif
