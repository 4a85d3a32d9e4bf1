/* Random small programs, one family per operation and fused form. */
#ifndef ASDM_TESTS_RECIPES_H
#define ASDM_TESTS_RECIPES_H

#include "ops/harness.h"

struct recipe {
    const char *name;
    /* Emits operations into trial->program; returns the last value before export. Sets trial->height, width and the
     * like; *ret_length is the longest sum. */
    int (*build)(struct trial *trial, uint64_t *random, int *ret_length);
    int times; /* as many trials as others have */
};

extern const struct recipe recipes[];
extern const int recipe_count;

/* A random trial of a recipe: program finished, exported, ready to run. Free the program. */
struct trial trial_make(const struct recipe *recipe, uint64_t seed, int *ret_length);

#endif
