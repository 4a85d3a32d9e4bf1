/* The names of a weight in the files that carry it. Programs use diffusers' names. */
#ifndef ASDM_NAMES_H
#define ASDM_NAMES_H

#include "model/checkpoint.h"

enum { ASDM_NAME_MAX = 320 };

/* A name in a file; where the file stacks several of our weights in one tensor, which of how many. */
struct asdm_file_name {
    char name[ASDM_NAME_MAX];
    int part, parts; /* 0 of 1 when the whole tensor is meant */
};

/* The `attempt`-th name (0, 1, ...) under which the checkpoint's file may have the weight; false when there are no
 * more. */
bool asdm_file_name(const struct asdm_checkpoint *checkpoint, enum asdm_component component, const char *weight,
                    int attempt, struct asdm_file_name *ret);

/* Whether a tensor that no program reads may be in a component's file (buffers, heads of training). In one-file
 * checkpoints only names of that component count. */
bool asdm_file_name_is_extra(const struct asdm_checkpoint *checkpoint, enum asdm_component component, const char *name);

#endif
