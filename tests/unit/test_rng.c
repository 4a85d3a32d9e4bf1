#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"

#ifndef ASDM_TEST_DATA
#define ASDM_TEST_DATA "tests/unit/data"
#endif

enum { COUNT_MAX = 4096, LINE_MAX_BYTES = 4096, LISTED_MAX = 40 };

/* Random123's kat_vectors, "philox4x32 10". */
static void test_philox_known_answers(void **state) {
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        uint32_t words[4];
        asdm_philox4x32(vectors[i].counter, vectors[i].key, words);
        assert_memory_equal(words, vectors[i].expected, sizeof words);
    }
}

/* The C++ standard's requirement on std::mt19937, which has the same default seed. */
static void test_mt19937_known_answers(void **state) {
    struct asdm_mt19937 mt;
    uint32_t word = 0;
    (void)state;
    asdm_mt19937_seed(&mt, 5489);
    assert_int_equal(asdm_mt19937_next(&mt), 3499211612u);
    for (int i = 1; i < 10000; i++)
        word = asdm_mt19937_next(&mt);
    assert_int_equal(word, 4123659995u);
}

/* What A1111 shows for seed 0 with its "NV" source. */
static void test_philox_normal(void **state) {
    static const float expected[] = {-0.9247f, -0.4253f, -2.6438f, 0.1452f,  -0.1209f,
                                     -0.5797f, -0.6229f, -0.3284f, -1.0745f, -0.3631f};
    enum { COUNT = sizeof expected / sizeof *expected };
    struct asdm_rng rng;
    float first[COUNT], second[COUNT], longer[4 * COUNT];
    (void)state;
    asdm_rng_init(&rng, ASDM_RNG_PHILOX, 0);
    asdm_rng_normal(&rng, first, COUNT);
    for (int i = 0; i < COUNT; i++)
        assert_true(fabsf(first[i] - expected[i]) < 1e-4f);
    asdm_rng_normal(&rng, second, COUNT);
    assert_memory_not_equal(first, second, sizeof first);

    /* An element's value does not depend on how many are drawn, and the seed's high word counts. */
    asdm_rng_init(&rng, ASDM_RNG_PHILOX, 0);
    asdm_rng_normal(&rng, longer, 4 * COUNT);
    assert_memory_equal(first, longer, sizeof first);
    asdm_rng_init(&rng, ASDM_RNG_PHILOX, 1ull << 32);
    asdm_rng_normal(&rng, second, COUNT);
    assert_memory_not_equal(first, second, sizeof first);
}

/* Both kinds: mean 0, variance 1, no value missing its place. */
static void test_moments(void **state) {
    enum { COUNT = 100003 };
    float *values = malloc(COUNT * sizeof *values);
    (void)state;
    assert_non_null(values);
    for (int kind = 0; kind < 2; kind++) {
        struct asdm_rng rng;
        double sum = 0.0, squares = 0.0;
        asdm_rng_init(&rng, (enum asdm_rng_kind)kind, 77);
        asdm_rng_normal(&rng, values, COUNT);
        for (int i = 0; i < COUNT; i++) {
            sum += values[i];
            squares += (double)values[i] * values[i];
        }
        assert_true(fabs(sum / COUNT) < 0.02);
        assert_true(fabs(squares / COUNT - 1.0) < 0.03);
    }
    free(values);
}

static void check_call(struct asdm_rng *rng, const char *line, uint64_t seed) {
    static float values[COUNT_MAX];
    char *at;
    size_t count = strtoul(line, &at, 10);
    size_t listed = count < LISTED_MAX ? count : LISTED_MAX;
    assert_in_range(count, 1, COUNT_MAX);
    asdm_rng_normal(rng, values, count);
    for (size_t i = count - listed; i < count; i++) {
        double expected = strtod(at, &at);
        if (fabs(values[i] - expected) > 1e-6 * fmax(fabs(expected), 1e-2))
            fail_msg("seed %llu, call of %zu, element %zu: %.9g, torch %.9g", (unsigned long long)seed, count, i,
                     (double)values[i], expected);
    }
}

/* Consecutive calls of many lengths, as torch.randn gives them (tests/support/make_rng_reference.py). */
static void test_torch_normal(void **state) {
    FILE *file = fopen(ASDM_TEST_DATA "/rng_reference.txt", "r");
    char line[LINE_MAX_BYTES];
    struct asdm_rng rng;
    uint64_t seed = 0;
    int calls = 0;
    (void)state;
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "seed ", 5) == 0) {
            seed = strtoull(line + 5, NULL, 10);
            asdm_rng_init(&rng, ASDM_RNG_TORCH, seed);
        } else {
            check_call(&rng, line, seed);
            calls++;
        }
    }
    fclose(file);
    assert_int_equal(calls, 84);
}

/* torch.randn(n, device="cuda") of PyTorch 2.11 on an H100: two draws in a row, their first and last three numbers. */
static const struct {
    uint64_t seed;
    size_t count;
    float first[3], last[3], next_first[3], next_last[3];
} cuda_draws[] = {
    {0u,
     16384,
     {-0.924662411f, -0.425344229f, -2.6438458f},
     {-0.131549418f, -0.420832634f, -2.95431542f},
     {0.18082583f, -0.552262783f, 0.923813343f},
     {0.338300973f, -0.117374077f, -1.44435883f}},
    {1u,
     4096,
     {-0.296278f, 2.67644811f, -0.140846208f},
     {-0.225525931f, 0.208561569f, -0.13911663f},
     {-0.63398385f, -0.643131435f, -0.642013609f},
     {-0.164844811f, 0.419216096f, 0.256216466f}},
    {123456789u,
     36864,
     {1.78468335f, -1.02305079f, 0.341254294f},
     {-1.09460461f, -0.715461016f, 1.37848687f},
     {0.0326163881f, -0.448828459f, -0.761208832f},
     {0.686828613f, -0.103059411f, -0.111838646f}},
    {1099511627781u,
     64,
     {1.06710839f, -1.17193627f, 0.712845922f},
     {-0.565603375f, -0.473867744f, 0.914431095f},
     {-1.5007875f, 1.58503199f, -0.568308771f},
     {1.30482435f, 0.803358793f, -0.220976427f}},
};

static void philox_is_what_cuda_draws(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cuda_draws / sizeof *cuda_draws; i++) {
        struct asdm_rng rng;
        size_t count = cuda_draws[i].count;
        float *x = malloc(2 * count * sizeof *x);
        assert_non_null(x);
        asdm_rng_init(&rng, ASDM_RNG_PHILOX, cuda_draws[i].seed);
        asdm_rng_normal(&rng, x, count);
        asdm_rng_normal(&rng, x + count, count);
        for (size_t k = 0; k < 3; k++) {
            assert_true(fabsf(x[k] - cuda_draws[i].first[k]) < 2e-6f);
            assert_true(fabsf(x[count - 3 + k] - cuda_draws[i].last[k]) < 2e-6f);
            assert_true(fabsf(x[count + k] - cuda_draws[i].next_first[k]) < 2e-6f);
            assert_true(fabsf(x[2 * count - 3 + k] - cuda_draws[i].next_last[k]) < 2e-6f);
        }
        free(x);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_is_what_cuda_draws),  cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_mt19937_known_answers), cmocka_unit_test(test_philox_normal),
        cmocka_unit_test(test_torch_normal),          cmocka_unit_test(test_moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
