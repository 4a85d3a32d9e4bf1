/* What must hold exactly, or to rounding, of the operations of light models: a window that covers the map is plain
 * attention bit by bit, cells of one token are plain attention, and a share of exactly 1 is that expert bit by bit.
 * test_light [DEVICE]: ref by default. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/harness.h"

enum { SEEDS = 24 };

static const char *device = "ref";
static const enum asdm_model_dtype dtypes[] = {ASDM_DTYPE_FP32, ASDM_DTYPE_BF16, ASDM_DTYPE_FP16};

static bool has_dtype(enum asdm_model_dtype dtype) {
    const struct asdm_backend_class *class;
    struct asdm_backend *backend;
    int number;
    assert_int_equal(asdm_backend_find(device, &class, &number, NULL), ASDM_OK);
    if (class->create(number, 0, dtype, &backend, NULL) != ASDM_OK)
        return false;
    class->destroy(backend);
    return true;
}

static struct trial start(uint64_t seed, int rows, int height, int width, enum asdm_model_dtype dtype) {
    struct trial trial = {
        .rows = rows, .height = height, .width = width, .slots = 3, .seed = seed, .bf16 = dtype != ASDM_DTYPE_FP32};
    assert_int_equal(asdm_program_create("light", &trial.program, NULL), ASDM_OK);
    return trial;
}

/* Exports `x`, runs, and frees the program. */
static float *finish(struct trial *trial, int x, enum asdm_model_dtype dtype, size_t *ret_count) {
    trial->output = asdm_build_export(trial->program, x, false);
    asdm_build_output(trial->program, trial->output);
    assert_int_equal(asdm_program_finish(trial->program, NULL), ASDM_OK);
    float *result = trial_run(trial, device, dtype, ASDM_REWRITE_ALL, ret_count);
    asdm_program_destroy(&trial->program);
    return result;
}

static int map_input(struct trial *t, int channels) {
    return asdm_build_import(
        t->program, asdm_build_input(t->program, asdm_dim_height(0), asdm_dim_width(0), channels, ASDM_RATE_STEP),
        false);
}

/* ---- attention */

static float *attend(uint64_t seed, int height, int width, int window, int pool, enum asdm_model_dtype dtype,
                     size_t *ret_count) {
    enum { HEADS = 2, CHANNELS = 2 * 20 };
    struct trial t = start(seed, 2, height, width, dtype);
    int x = map_input(&t, CHANNELS);
    int q = asdm_build_linear(t.program, x, "q", CHANNELS, false);
    int k = asdm_build_linear(t.program, x, "k", CHANNELS, false);
    int v = asdm_build_linear(t.program, x, "v", CHANNELS, false);
    int y = window ? asdm_build_gri_attention(t.program, q, k, v, HEADS, window, pool)
                   : asdm_build_attention(t.program, q, k, v, HEADS, false);
    return finish(&t, y, dtype, ret_count);
}

static void test_covering_window_is_plain(void **state) {
    (void)state;
    for (int d = 0; d < 3; d++)
        for (uint64_t seed = 1; seed <= SEEDS && has_dtype(dtypes[d]); seed++) {
            uint64_t random = seed;
            int height = test_random_int(&random, 1, 16), width = test_random_int(&random, 1, 16);
            int larger = height > width ? height : width, pool = test_random_int(&random, 1, 4);
            int window = (larger + pool - 1) / pool * pool; /* the map, or the next multiple of a cell */
            size_t plain_count, count;
            float *plain = attend(seed, height, width, 0, 0, dtypes[d], &plain_count);
            float *windows = attend(seed, height, width, window, pool, dtypes[d], &count);
            assert_int_equal(count, plain_count);
            assert_memory_equal(windows, plain, count * sizeof *plain);
            free(plain);
            free(windows);
        }
}

/* Each token is a cell of its own then, and log 1 is 0: the same keys in another order. */
static void test_cells_of_one_token_are_plain(void **state) {
    (void)state;
    for (int d = 0; d < 3; d++)
        for (uint64_t seed = 1; seed <= SEEDS && has_dtype(dtypes[d]); seed++) {
            uint64_t random = seed;
            int height = test_random_int(&random, 2, 17), width = test_random_int(&random, 2, 17);
            size_t plain_count, count;
            float *plain = attend(seed, height, width, 0, 0, dtypes[d], &plain_count);
            float *windows = attend(seed, height, width, test_random_int(&random, 1, 8), 1, dtypes[d], &count);
            double unit = dtypes[d] == ASDM_DTYPE_FP32 ? 0x1p-24 : dtypes[d] == ASDM_DTYPE_BF16 ? 0x1p-9 : 0x1p-12;
            double error = relative_l2(windows, plain, count), bound = unit * sqrt(2) + 0x1p-24 * (16 + 4 * sqrt(289));
            if (!(error <= bound))
                fail_msg("seed %llu: relative L2 %.3g (bound %.3g)", (unsigned long long)seed, error, bound);
            free(plain);
            free(windows);
        }
}

/* ---- experts */

enum form { FORM_CONV, FORM_SHORTCUT, FORM_TIME, FORM_COUNT };
static const char *const names[ASDM_EXPERTS_MAX] = {"own", "experts.1", "experts.2", "experts.3"};
enum { ROWS = 4, IN = 24, OUT = 32, FEATURES = 16 };

/* `expert` alone, or with ASDM_NONE all with shares of 0 and 1: the temperature makes a softmax a choice. */
static float *run_form(enum form form, uint64_t seed, int experts, int expert, bool full, enum asdm_model_dtype dtype,
                       size_t *ret_count) {
    struct trial t = start(seed, ROWS, 7, 6, dtype);
    struct asdm_program *p = t.program;
    int x = map_input(&t, form == FORM_TIME ? OUT : IN);
    int time = asdm_build_import(
        p, asdm_build_input(p, asdm_dim_const(1), asdm_dim_const(1), FEATURES, ASDM_RATE_SCHEDULE), false);
    int routing = ASDM_NONE, vectors[ASDM_EXPERTS_MAX], y = 0;
    if (expert == ASDM_NONE)
        routing = asdm_build_routing(p, full ? asdm_build_global_pool(p, x) : time, full ? time : ASDM_NONE, "router",
                                     experts, 1e-6f);
    if (form == FORM_CONV)
        y = expert == ASDM_NONE ? asdm_build_mixed_conv2d(p, x, routing, names, experts, OUT, 3)
                                : asdm_build_conv2d(p, x, names[expert], OUT, 3, 1, 1, 1);
    if (form == FORM_SHORTCUT)
        y = expert == ASDM_NONE ? asdm_build_mixed_pointwise(p, x, routing, names, experts, OUT)
                                : asdm_build_pointwise(p, x, names[expert], OUT);
    if (form == FORM_TIME) {
        for (int e = 0; e < experts; e++)
            vectors[e] = asdm_build_linear(p, time, names[expert == ASDM_NONE ? e : expert], OUT, true);
        y = asdm_build_add_row_bias(p, x,
                                    expert == ASDM_NONE ? asdm_build_mix(p, vectors, routing, experts) : vectors[0]);
    }
    return finish(&t, y, dtype, ret_count);
}

/* Rows choose for themselves: each is one of the experts, bit by bit, and not all are the same one. */
static void check_one_hot(enum form form, uint64_t seed, bool full, enum asdm_model_dtype dtype, int *chosen) {
    int experts = 2 + (int)(seed % 3);
    size_t count, plain_count;
    float *mixed = run_form(form, seed, experts, ASDM_NONE, full, dtype, &count);
    bool found[ROWS] = {false};
    size_t row_count = count / ROWS;
    for (int e = 0; e < experts; e++) {
        float *plain = run_form(form, seed, experts, e, full, dtype, &plain_count);
        assert_int_equal(plain_count, count);
        for (int row = 0; row < ROWS; row++)
            if (memcmp(mixed + (size_t)row * row_count, plain + (size_t)row * row_count, row_count * sizeof *plain) ==
                0) {
                found[row] = true;
                chosen[e]++;
            }
        free(plain);
    }
    for (int row = 0; row < ROWS; row++)
        if (!found[row])
            fail_msg("form %d, seed %llu, row %d of %d experts: is none of them", (int)form, (unsigned long long)seed,
                     row, experts);
    free(mixed);
}

static void test_one_hot_is_that_expert(void **state) {
    (void)state;
    for (int d = 0; d < 3; d++) {
        if (!has_dtype(dtypes[d]))
            continue;
        for (int form = 0; form < FORM_COUNT; form++) {
            int chosen[ASDM_EXPERTS_MAX] = {0};
            for (uint64_t seed = 1; seed <= SEEDS; seed++)
                check_one_hot((enum form)form, seed, seed % 2, dtypes[d], chosen);
            for (int e = 0; e < ASDM_EXPERTS_MAX; e++)
                assert_true(chosen[e] > 0);
        }
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_covering_window_is_plain),
                                       cmocka_unit_test(test_cells_of_one_token_are_plain),
                                       cmocka_unit_test(test_one_hot_is_that_expert)};
    device = argc > 1 ? argv[1] : device;
    if (!test_has_device(device))
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
