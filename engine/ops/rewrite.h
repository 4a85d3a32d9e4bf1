/* Rewrites: exact changes of a program (no change of result beyond rounding) that give a back end larger operations. A
 * back end names those that it accepts. */
#ifndef ASDM_REWRITE_H
#define ASDM_REWRITE_H

#include "ops/program.h"

enum asdm_rewrite {
    ASDM_REWRITE_ROW_BIAS_NORM = 1 << 0,      /* x + time embedding, then group_norm */
    ASDM_REWRITE_NORM_ACTIVATION = 1 << 1,    /* group_norm, then activation */
    ASDM_REWRITE_PRODUCT_ACTIVATION = 1 << 2, /* linear, then activation */
    ASDM_REWRITE_GEGLU = 1 << 3,              /* linear, then geglu */
    ASDM_REWRITE_RESIDUAL = 1 << 4,           /* conv2d or linear, then add */
    ASDM_REWRITE_QKV = 1 << 5,                /* q, k, v (or k, v) products of one source into one */
    ASDM_REWRITE_UPSAMPLE_CONV = 1 << 6,      /* upsample, then conv2d */
    ASDM_REWRITE_CONCAT = 1 << 7,             /* concat read as two sources by group_norm, linear, global_pool */
    ASDM_REWRITE_ROW_BIAS_CONV = 1 << 8,      /* conv2d, then + time embedding: before ROW_BIAS_NORM */
    ASDM_REWRITE_MOMENTS = 1 << 9,            /* what group_norms read of a conv2d or linear has its parts' moments */
    ASDM_REWRITE_ALL = (1 << 10) - 1
};

/* Applies the rewrites in the mask `rewrites`, each wherever it fits, and drops what became dead. */
enum asdm_status asdm_program_rewrite(struct asdm_program *program, unsigned rewrites, struct asdm_error *err);

#endif
