/* Runs small programs with random weights and inputs on a back end, all rates one after the other. */
#ifndef ASDM_TESTS_HARNESS_H
#define ASDM_TESTS_HARNESS_H

#include "ops/plan.h"
#include "ops/program.h"
#include "ops/rewrite.h"

/* How numbers are drawn: what breaks kernels is not only Gaussian noise. */
enum fill { FILL_NORMAL, FILL_LARGE_MEAN, FILL_CONSTANT, FILL_SPARSE, FILL_WIDE, FILL_COUNT };

struct trial {
    struct asdm_program *program;
    int output; /* the value that is compared */
    int rows, height, width;
    int slots; /* rows of the prompt and schedule rates */
    uint64_t seed;
    enum fill fill;
    bool bf16;      /* inputs and weights are representable in bfloat16 */
    int vocabulary; /* ids are below this */
};

/* A generator with a period that tests do not exhaust (SplitMix64). */
uint64_t test_random(uint64_t *state);
int test_random_int(uint64_t *state, int least, int most);

enum { TEST_SKIPPED = 77 /* as meson has it */ };
/* Whether this build and machine have the device; without it a program of tests ends as TEST_SKIPPED. */
bool test_has_device(const char *device);

/* Runs the program as rewritten by `rewrites` on the device; float32 results, malloc'ed, *ret_count of them. Fails the
 * test on errors. */
float *trial_run(const struct trial *trial, const char *device, enum asdm_model_dtype dtype, unsigned rewrites,
                 size_t *ret_count);

/* A copy of a program, since rewriting changes it. */
struct asdm_program *program_copy(const struct asdm_program *program);

double relative_l2(const float *a, const float *truth, size_t count);
/* Largest difference over the largest magnitude. */
double relative_max(const float *a, const float *truth, size_t count);

#endif
