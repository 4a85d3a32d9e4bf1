/* Plans: no two values that live at the same time share memory, results do not depend on how often a plan ran, and
 * sizes that cannot be are refused before anything is allocated. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/build.h"
#include "ops/recipes.h"

/* A whole small UNet: skips that live long, residuals in place, all rates. */
static struct asdm_unet build_unet(void) {
    struct asdm_unet_config config = {.in_channels = 4,
                                      .out_channels = 4,
                                      .stages = 3,
                                      .channels = {16, 24, 32},
                                      .layers = {2, 1, 2},
                                      .heads = {2, 3, 4},
                                      .transformer_layers = {1, 2, 1},
                                      .down_attention = {true, false, true},
                                      .up_attention = {true, true, false},
                                      .mid = true,
                                      .mid_attention = true,
                                      .cross_attention_dim = 12,
                                      .norm_groups = 8,
                                      .norm_eps = 1e-5f,
                                      .activation = ASDM_ACT_SILU,
                                      .time_embedding_dim = 20,
                                      .flip_sin_to_cos = true,
                                      .conv_in_kernel = 3,
                                      .conv_out_kernel = 3};
    struct asdm_unet unet;
    struct asdm_error err;
    if (asdm_unet_build(&config, 7, &unet, &err) != ASDM_OK)
        fail_msg("%s", err.message);
    return unet;
}

static void test_unet_on_each_back_end(void **state) {
    (void)state;
    struct asdm_unet unet = build_unet();
    struct trial trial = {
        .program = unet.program, .output = unet.prediction, .rows = 2, .height = 7, .width = 9, .slots = 3, .seed = 5};
    size_t count, plain_count;
    float *plain = trial_run(&trial, "ref", ASDM_DTYPE_FP32, 0, &plain_count);
    float *rewritten = trial_run(&trial, "ref", ASDM_DTYPE_FP32, ASDM_REWRITE_ALL, &count);
    assert_int_equal(count, plain_count);
    assert_true(relative_l2(rewritten, plain, count) < 1e-5);
    float *fast = trial_run(&trial, "auto", ASDM_DTYPE_FP32, ASDM_REWRITE_ALL, &count);
    assert_true(relative_l2(fast, plain, count) < 2e-5);
    free(plain);
    free(rewritten);
    free(fast);
    asdm_program_destroy(&unet.program);
}

/* A row's result is its own: rows 0 and 1 with equal inputs but other neighbours. */
static void test_odd_sizes(void **state) {
    (void)state;
    struct asdm_unet unet = build_unet();
    static const int sizes[][2] = {{1, 1}, {1, 8}, {2, 3}, {5, 5}, {8, 8}, {11, 4}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct trial trial = {.program = unet.program,
                              .output = unet.prediction,
                              .rows = 1,
                              .height = sizes[i][0],
                              .width = sizes[i][1],
                              .slots = 1,
                              .seed = i};
        size_t count;
        float *plain = trial_run(&trial, "ref", ASDM_DTYPE_FP32, 0, &count);
        float *fast = trial_run(&trial, "auto", ASDM_DTYPE_FP32, ASDM_REWRITE_ALL, &count);
        assert_int_equal(count, 4 * (size_t)sizes[i][0] * (size_t)sizes[i][1]);
        assert_true(relative_l2(fast, plain, count) < 2e-5);
        free(plain);
        free(fast);
    }
    asdm_program_destroy(&unet.program);
}

static enum asdm_status no_weights(void *user, const struct asdm_weight *weight, struct asdm_tensor *ret,
                                   struct asdm_error *err) {
    (void)user, (void)weight, (void)ret, (void)err;
    fail_msg("weights were read before the size was refused");
    return ASDM_ERR_INTERNAL;
}

static void test_refused_before_weights(void **state) {
    (void)state;
    struct asdm_unet unet = build_unet();
    struct asdm_weight_source source = {NULL, no_weights, NULL};
    struct asdm_weight_store *store;
    const struct asdm_backend_class *class;
    struct asdm_backend *backend;
    struct asdm_plan *plan = NULL;
    struct asdm_error err = {0};
    int device;
    assert_int_equal(asdm_backend_find("auto", &class, &device, NULL), ASDM_OK);
    assert_int_equal(class->create(device, 0, ASDM_DTYPE_FP32, &backend, NULL), ASDM_OK);
    assert_int_equal(asdm_weight_store_create(&source, backend, &store, NULL), ASDM_OK);
    static const int sizes[] = {1 << 17, 1 << 20, INT_MAX / 2};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(
            asdm_plan_create(unet.program, backend, store, ASDM_RATE_STEP, 2, sizes[i], sizes[i], &plan, &err),
            ASDM_ERR_MEMORY);
        assert_null(plan);
        assert_true(strlen(err.message) > 0);
    }
    asdm_weight_store_destroy(&store);
    class->destroy(backend);
    asdm_program_destroy(&unet.program);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unet_on_each_back_end), cmocka_unit_test(test_odd_sizes),
                                       cmocka_unit_test(test_refused_before_weights)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
