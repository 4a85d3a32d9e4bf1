/* Every operation and fused form of the CPU back end against `ref`, on random and adversarial shapes and numbers.
 *
 * Bounds: float32 sums of n terms differ from exact ones by about sqrt(n) roundings of 2^-24; norms and softmax amplify
 * by a small factor. In bfloat16 inputs and weights are the same numbers for both, so what differs is the rounding to
 * 2^-9 of each result that is stored between operations, of which a recipe has at most five. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/recipes.h"

enum { TRIALS = 24 };

static double bound_of(const struct trial *trial, int length, bool bf16) {
    double fp32 = 0x1p-24 * (16 + 4 * sqrt(length));
    /* A large mean cancels in a norm, and with it the digits that hold it. */
    double amplification = trial->fill == FILL_LARGE_MEAN ? 128 : trial->fill == FILL_CONSTANT ? 16 : 1;
    return amplification * (bf16 ? fp32 + 5 * 0x1p-9 : fp32);
}

static void compare(const struct recipe *recipe, uint64_t seed, bool bf16) {
    int length;
    struct trial trial = trial_make(recipe, seed, &length);
    size_t count, ref_count;
    trial.bf16 = bf16;
    /* A constant map has no variance: its norm is rounding noise. In bfloat16 a large mean leaves nothing of the rest.
     */
    if (trial.fill == FILL_CONSTANT || (bf16 && trial.fill == FILL_LARGE_MEAN))
        trial.fill = strstr(recipe->name, "norm") || strstr(recipe->name, "attention") ? FILL_WIDE : trial.fill;
    float *want = trial_run(&trial, "ref", ASDM_DTYPE_FP32, 0, &ref_count);
    float *got = trial_run(&trial, "cpu", bf16 ? ASDM_DTYPE_BF16 : ASDM_DTYPE_FP32, ASDM_REWRITE_ALL, &count);
    assert_int_equal(count, ref_count);
    double error = relative_l2(got, want, count), worst = relative_max(got, want, count);
    double bound = bound_of(&trial, length, bf16);
    if (!(error <= bound) || !(worst <= 16 * bound))
        fail_msg("%s, seed %llu, %s: relative L2 %.3g (bound %.3g), largest %.3g; %d row(s) of %d x %d, fill %d",
                 recipe->name, (unsigned long long)seed, bf16 ? "bf16" : "fp32", error, bound, worst, trial.rows,
                 trial.height, trial.width, (int)trial.fill);
    free(want);
    free(got);
    asdm_program_destroy(&trial.program);
}

static void test_recipe_fp32(void **state) {
    const struct recipe *recipe = *state;
    for (uint64_t seed = 1; seed <= TRIALS; seed++)
        compare(recipe, seed, false);
}

static void test_recipe_bf16(void **state) {
    const struct recipe *recipe = *state;
    const struct asdm_backend_class *class;
    struct asdm_backend *backend;
    int device;
    assert_int_equal(asdm_backend_find("cpu", &class, &device, NULL), ASDM_OK);
    if (class->create(device, 0, ASDM_DTYPE_BF16, &backend, NULL) != ASDM_OK)
        skip(); /* this processor has no bf16 */
    class->destroy(backend);
    for (uint64_t seed = 1; seed <= TRIALS; seed++)
        compare(recipe, seed, true);
}

int main(void) {
    struct CMUnitTest tests[128];
    size_t count = 0;
    for (int i = 0; i < recipe_count; i++) {
        struct CMUnitTest fp32 = {recipes[i].name, test_recipe_fp32, NULL, NULL, (void *)(uintptr_t)&recipes[i]};
        struct CMUnitTest bf16 = {recipes[i].name, test_recipe_bf16, NULL, NULL, (void *)(uintptr_t)&recipes[i]};
        tests[count++] = fp32;
        tests[count++] = bf16;
    }
    return _cmocka_run_group_tests("ops", tests, count, NULL, NULL);
}
