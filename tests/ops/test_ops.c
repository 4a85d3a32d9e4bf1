/* Every operation and fused form of a back end against `ref`, on random and adversarial shapes and numbers.
 * test_ops [DEVICE [TRIALS [NAME]]]: cpu by default, 24 of each, of recipes whose names have NAME in them.
 *
 * Bounds: float32 sums of n terms differ from exact ones by about sqrt(n) roundings of 2^-24; norms and softmax amplify
 * by a small factor. In 16-bit types inputs and weights are the same numbers for both, so what differs is the rounding
 * to 2^-9 (bfloat16) or 2^-12 (half) of each result that is stored between operations, of which a recipe has at most
 * five. tf32 keeps float32 between operations and rounds both factors of each product to 2^-12 as it reads them, inputs
 * and weights too: twice five roundings. In attention in windows a score of size s brings s times the rounding of q and
 * of k into a weight, and the largest of n normal scores is about sqrt(2 ln n); so it is with the scores and the shares
 * of experts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/recipes.h"

static const char *device = "cpu";
static uint64_t trials = 24;

static double bound_of(const struct recipe *recipe, const struct trial *trial, int length,
                       enum asdm_model_dtype dtype) {
    double fp32 = 0x1p-24 * (16 + 4 * sqrt(length));
    /* A large mean cancels in a norm, and with it the digits that hold it. */
    double amplification = trial->fill == FILL_LARGE_MEAN ? 128 : trial->fill == FILL_CONSTANT ? 16 : 1;
    double stored = dtype == ASDM_DTYPE_BF16   ? 0x1p-9
                    : dtype == ASDM_DTYPE_FP16 ? 0x1p-12
                    : dtype == ASDM_DTYPE_TF32 ? 2 * 0x1p-12
                                               : 0;
    double scores = strstr(recipe->name, "gri") || strstr(recipe->name, "experts") ? 2 * sqrt(2 * log(length + 1)) : 0;
    return amplification * (fp32 + (5 + scores) * stored);
}

static void compare(const struct recipe *recipe, uint64_t seed, enum asdm_model_dtype dtype) {
    static const char *const names[] = {"auto", "fp32", "bf16", "fp16", "tf32"};
    bool coarse = dtype != ASDM_DTYPE_FP32;
    int length;
    struct trial trial = trial_make(recipe, seed, &length);
    size_t count, ref_count;
    trial.bf16 = coarse && dtype != ASDM_DTYPE_TF32;
    /* A constant map has no variance: its norm is rounding noise. In 16 bits, and in the 11 that tf32 multiplies, a
     * large mean leaves nothing of the rest. */
    if (trial.fill == FILL_CONSTANT || (coarse && trial.fill == FILL_LARGE_MEAN))
        trial.fill = strstr(recipe->name, "norm") || strstr(recipe->name, "attention") ? FILL_WIDE : trial.fill;
    float *want = trial_run(&trial, "ref", ASDM_DTYPE_FP32, 0, &ref_count);
    float *got = trial_run(&trial, device, dtype, ASDM_REWRITE_ALL, &count);
    assert_int_equal(count, ref_count);
    double error = relative_l2(got, want, count), worst = relative_max(got, want, count);
    double bound = bound_of(recipe, &trial, length, dtype);
    if (!(error <= bound) || !(worst <= 16 * bound))
        fail_msg("%s, seed %llu, %s: relative L2 %.3g (bound %.3g), largest %.3g; %d row(s) of %d x %d, fill %d",
                 recipe->name, (unsigned long long)seed, names[dtype], error, bound, worst, trial.rows, trial.height,
                 trial.width, (int)trial.fill);
    free(want);
    free(got);
    asdm_program_destroy(&trial.program);
}

static void test_recipe(const struct recipe *recipe, enum asdm_model_dtype dtype) {
    const struct asdm_backend_class *class;
    struct asdm_backend *backend;
    int number;
    assert_int_equal(asdm_backend_find(device, &class, &number, NULL), ASDM_OK);
    if (class->create(number, 0, dtype, &backend, NULL) != ASDM_OK)
        skip(); /* this device has no such type */
    class->destroy(backend);
    for (uint64_t seed = 1; seed <= trials * (uint64_t)recipe->times; seed++)
        compare(recipe, seed, dtype);
}

static void test_recipe_fp32(void **state) {
    test_recipe(*state, ASDM_DTYPE_FP32);
}

static void test_recipe_bf16(void **state) {
    test_recipe(*state, ASDM_DTYPE_BF16);
}

static void test_recipe_fp16(void **state) {
    test_recipe(*state, ASDM_DTYPE_FP16);
}

static void test_recipe_tf32(void **state) {
    test_recipe(*state, ASDM_DTYPE_TF32);
}

int main(int argc, char **argv) {
    static void (*const functions[])(void **) = {test_recipe_fp32, test_recipe_bf16, test_recipe_fp16,
                                                 test_recipe_tf32};
    struct CMUnitTest tests[256];
    size_t count = 0;
    device = argc > 1 ? argv[1] : device;
    trials = argc > 2 ? strtoull(argv[2], NULL, 10) : trials;
    if (!test_has_device(device))
        return TEST_SKIPPED;
    for (int i = 0; i < recipe_count; i++)
        for (int j = 0; j < 4 && (argc <= 3 || strstr(recipes[i].name, argv[3])); j++)
            tests[count++] =
                (struct CMUnitTest){recipes[i].name, functions[j], NULL, NULL, (void *)(uintptr_t)&recipes[i]};
    return _cmocka_run_group_tests("ops", tests, count, NULL, NULL);
}
