/* Each rewrite by itself, and all together: before and after agree in `ref`, and something was rewritten. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/recipes.h"

enum { TRIALS = 8 };

static const struct recipe *find_recipe(const char *name) {
    for (int i = 0; i < recipe_count; i++)
        if (strcmp(recipes[i].name, name) == 0)
            return &recipes[i];
    fail_msg("no recipe %s", name);
    return NULL;
}

struct rewrite_case {
    const char *name, *recipe;
    unsigned rewrites;
    int fewer; /* operations that must be gone, in every trial */
};

static const struct rewrite_case cases[] = {
    {"row bias into norm", "time, group norm", ASDM_REWRITE_ROW_BIAS_NORM, 1},
    {"row bias into conv", "conv, time, group norm", ASDM_REWRITE_ROW_BIAS_CONV, 1},
    {"norm and activation", "time, group norm", ASDM_REWRITE_NORM_ACTIVATION, 1},
    {"product and activation", "linear, activation", ASDM_REWRITE_PRODUCT_ACTIVATION, 1},
    {"geglu", "linear, geglu", ASDM_REWRITE_GEGLU, 1},
    {"residual of conv", "conv + residual", ASDM_REWRITE_RESIDUAL, 1},
    {"residual of linear", "linear + residual", ASDM_REWRITE_RESIDUAL, 1},
    {"q, k, v", "self-attention", ASDM_REWRITE_QKV, 2},
    {"k, v of the prompt", "cross-attention", ASDM_REWRITE_QKV, 1},
    {"upsample and conv", "upsample, conv", ASDM_REWRITE_UPSAMPLE_CONV, 1},
    {"concat", "concat, norm, conv + shortcut", ASDM_REWRITE_CONCAT, 1},
    {"all", "concat, norm, conv + shortcut", ASDM_REWRITE_ALL, 3},
};

static void test_rewrite(void **state) {
    const struct rewrite_case *c = *state;
    for (uint64_t seed = 100; seed < 100 + TRIALS; seed++) {
        int length;
        size_t before_count, after_count;
        struct trial trial = trial_make(find_recipe(c->recipe), seed, &length);
        if (trial.fill == FILL_CONSTANT)
            trial.fill = FILL_NORMAL;
        struct asdm_program *rewritten = program_copy(trial.program);
        assert_int_equal(asdm_program_rewrite(rewritten, c->rewrites, NULL), ASDM_OK);
        assert_int_equal(rewritten->op_count, trial.program->op_count - c->fewer);
        float *before = trial_run(&trial, "ref", ASDM_DTYPE_FP32, 0, &before_count);
        float *after = trial_run(&trial, "ref", ASDM_DTYPE_FP32, c->rewrites, &after_count);
        assert_int_equal(before_count, after_count);
        double error = relative_l2(after, before, before_count);
        if (!(error <= 1e-6 * (trial.fill == FILL_LARGE_MEAN ? 128 : 1)))
            fail_msg("%s, seed %llu: relative L2 %.3g", c->name, (unsigned long long)seed, error);
        free(before);
        free(after);
        asdm_program_destroy(&rewritten);
        asdm_program_destroy(&trial.program);
    }
}

/* A value that two operations read must not be fused away. */
static void test_shared_values_stay(void **state) {
    (void)state;
    struct asdm_program *p;
    assert_int_equal(asdm_program_create("shared", &p, NULL), ASDM_OK);
    int x = asdm_build_import(p, asdm_build_input(p, asdm_dim_const(1), asdm_dim_const(4), 8, ASDM_RATE_STEP), false);
    int y = asdm_build_linear(p, x, "linear", 8, true);
    int a = asdm_build_activation(p, y, ASDM_ACT_SILU);
    int out = asdm_build_export(p, asdm_build_add(p, a, y), false);
    asdm_build_output(p, out);
    assert_int_equal(asdm_program_finish(p, NULL), ASDM_OK);
    int before = p->op_count;
    assert_int_equal(asdm_program_rewrite(p, ASDM_REWRITE_ALL, NULL), ASDM_OK);
    assert_int_equal(p->op_count, before);
    asdm_program_destroy(&p);
}

/* What no output needs is dropped. */
static void test_dead_operations_go(void **state) {
    (void)state;
    struct asdm_program *p;
    assert_int_equal(asdm_program_create("dead", &p, NULL), ASDM_OK);
    int x = asdm_build_import(p, asdm_build_input(p, asdm_dim_const(1), asdm_dim_const(4), 8, ASDM_RATE_STEP), false);
    asdm_build_linear(p, x, "unused", 8, true);
    asdm_build_output(p, asdm_build_export(p, x, false));
    assert_int_equal(asdm_program_rewrite(p, ASDM_REWRITE_GEGLU, NULL), ASDM_OK);
    assert_int_equal(p->op_count, 2);
    asdm_program_destroy(&p);
}

int main(void) {
    struct CMUnitTest tests[32] = {cmocka_unit_test(test_shared_values_stay),
                                   cmocka_unit_test(test_dead_operations_go)};
    size_t count = 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct CMUnitTest test = {cases[i].name, test_rewrite, NULL, NULL, (void *)(uintptr_t)&cases[i]};
        tests[count++] = test;
    }
    return _cmocka_run_group_tests("rewrite", tests, count, NULL, NULL);
}
