/* Every set of vectorised loops that this processor can run (base, avx2, avx512; float32 and bfloat16), not only the
 * one that would be chosen, against the same in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "cpu/vector.h"
#include "ops/harness.h"

extern const struct cpu_vector cpu_vector_base_f32, cpu_vector_base_bf16;
#ifdef __x86_64__
extern const struct cpu_vector cpu_vector_avx2_f32, cpu_vector_avx2_bf16, cpu_vector_avx512_f32, cpu_vector_avx512_bf16;
#endif

struct set {
    const struct cpu_vector *vector;
    bool bf16, runs;
};

static int list_sets(struct set sets[6]) {
    int count = 0;
    sets[count++] = (struct set){&cpu_vector_base_f32, false, true};
    sets[count++] = (struct set){&cpu_vector_base_bf16, true, true};
#ifdef __x86_64__
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 =
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    sets[count++] = (struct set){&cpu_vector_avx2_f32, false, avx2};
    sets[count++] = (struct set){&cpu_vector_avx2_bf16, true, avx2};
    sets[count++] = (struct set){&cpu_vector_avx512_f32, false, avx512};
    sets[count++] = (struct set){&cpu_vector_avx512_bf16, true, avx512};
#endif
    return count;
}

/* Numbers that both element types hold, as elements and as float32. */
struct numbers {
    float *values;
    void *elements;
    size_t count;
};

static struct numbers draw(const struct set *set, size_t count, uint64_t seed, float scale) {
    struct numbers n = {malloc(count * sizeof(float) + 64), malloc(count * 4 + 64), count};
    assert_non_null(n.values);
    assert_non_null(n.elements);
    for (size_t i = 0; i < count; i++) {
        float x = ((float)(test_random(&seed) >> 40) * 0x1p-23f - 1) * scale;
        n.values[i] = asdm_bf16_to_f32(asdm_f32_to_bf16(x));
    }
    set->vector->from_f32(n.values, n.elements, count);
    return n;
}

static void done(struct numbers *n) {
    free(n->values);
    free(n->elements);
}

static float read(const struct set *set, const void *elements, size_t i) {
    return set->bf16 ? asdm_bf16_to_f32(((const uint16_t *)elements)[i]) : ((const float *)elements)[i];
}

static void expect(const struct set *set, const char *what, float got, double want, double scale) {
    double bound = (set->bf16 ? 0x1p-8 : 3e-6) * fabs(want) + (set->bf16 ? 1e-6 : 2e-7) * scale;
    if (!(fabs(got - want) <= bound))
        fail_msg("%s %s, %s: %.9g, should be %.9g", set->vector->name, set->bf16 ? "bf16" : "f32", what, got, want);
}

static double activation(enum asdm_activation kind, double x) {
    switch (kind) {
    case ASDM_ACT_SILU:
        return x / (1 + exp(-x));
    case ASDM_ACT_GELU:
        return 0.5 * x * erfc(-x * M_SQRT1_2);
    case ASDM_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case ASDM_ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case ASDM_ACT_RELU:
        return x > 0 ? x : 0;
    default:
        return x;
    }
}

static void check_activations(const struct set *set) {
    for (int kind = ASDM_ACT_NONE; kind <= ASDM_ACT_RELU; kind++)
        for (size_t count = 1; count < 200; count = count * 2 + 3) {
            struct numbers x = draw(set, count, count, 6), y = draw(set, count, 1, 1);
            set->vector->activate(x.elements, y.elements, count, (enum asdm_activation)kind);
            for (size_t i = 0; i < count; i++)
                expect(set, "activate", read(set, y.elements, i), activation((enum asdm_activation)kind, x.values[i]),
                       6);
            done(&x);
            done(&y);
        }
}

static void check_norms(const struct set *set) {
    for (size_t channels = 1; channels < 150; channels = channels * 2 + 1) {
        enum { PIXELS = 9 };
        struct numbers x = draw(set, PIXELS * channels, channels, 3), y = draw(set, PIXELS * channels, 1, 1);
        float *a = calloc(4 * channels, sizeof *a), *b = a + channels, *sum = b + channels, *square = sum + channels;
        for (size_t c = 0; c < channels; c++) {
            a[c] = 0.5f + 0.01f * (float)c;
            b[c] = 0.25f - 0.02f * (float)c;
        }
        set->vector->norm_sums(x.elements, PIXELS, channels, channels, x.elements, sum, square);
        for (size_t c = 0; c < channels; c++) {
            double s = 0, q = 0;
            for (size_t p = 0; p < PIXELS; p++) {
                double d = (double)x.values[p * channels + c] - x.values[c];
                s += d;
                q += d * d;
            }
            assert_true(fabs(sum[c] - s) < 1e-4 && fabs(square[c] - q) < 1e-3);
        }
        set->vector->norm_apply(x.elements, channels, y.elements, channels, PIXELS, channels, a, b, ASDM_ACT_SILU);
        for (size_t i = 0; i < PIXELS * channels; i++)
            expect(set, "norm_apply", read(set, y.elements, i),
                   activation(ASDM_ACT_SILU, (double)x.values[i] * a[i % channels] + b[i % channels]), 6);
        set->vector->layer_norm(x.elements, y.elements, PIXELS, channels, a, b, 1e-5f);
        for (size_t p = 0; p < PIXELS; p++) {
            double mean = 0, variance = 0;
            for (size_t c = 0; c < channels; c++)
                mean += x.values[p * channels + c] / (double)channels;
            for (size_t c = 0; c < channels; c++)
                variance += pow(x.values[p * channels + c] - mean, 2) / (double)channels;
            for (size_t c = 0; c < channels; c++)
                expect(set, "layer_norm", read(set, y.elements, p * channels + c),
                       (x.values[p * channels + c] - mean) / sqrt(variance + 1e-5) * a[c] + b[c], 10);
        }
        free(a);
        done(&x);
        done(&y);
    }
}

static void check_geglu(const struct set *set) {
    for (size_t channels = 1; channels < 100; channels = channels * 3 + 1) {
        struct numbers x = draw(set, 6 * channels, channels, 4), y = draw(set, 3 * channels, 1, 1);
        set->vector->geglu(x.elements, y.elements, 3, channels);
        for (size_t i = 0; i < 3 * channels; i++) {
            const float *row = x.values + i / channels * 2 * channels;
            expect(set, "geglu", read(set, y.elements, i),
                   row[i % channels] * activation(ASDM_ACT_GELU, row[channels + i % channels]), 16);
        }
        done(&x);
        done(&y);
    }
}

/* One head with `keys` keys; queries in blocks, as the back end calls it. */
static void check_attention(const struct set *set, size_t queries, size_t keys, size_t dim, bool causal) {
    const struct cpu_vector *v = set->vector;
    struct numbers q = draw(set, queries * dim, keys, 2), k = draw(set, keys * dim, dim, 2),
                   value = draw(set, keys * dim, 7, 1);
    struct numbers out = draw(set, queries * dim, 1, 1);
    float *packed_k = aligned_alloc(64, (v->packed_keys_floats(keys, dim) * 4 + 64) & ~(size_t)63);
    float *packed_v = aligned_alloc(64, (v->packed_values_floats(keys, dim) * 4 + 64) & ~(size_t)63);
    float *scratch = aligned_alloc(64, (v->attend_scratch_floats(dim) * 4 + 64) & ~(size_t)63);
    double *weight = malloc(keys * sizeof *weight);
    size_t element = set->bf16 ? 2 : 4;
    v->pack_keys(k.elements, dim, keys, dim, packed_k);
    v->pack_values(value.elements, dim, keys, dim, packed_v);
    for (size_t first = 0; first < queries; first += CPU_QUERY_BLOCK) {
        size_t count = queries - first < CPU_QUERY_BLOCK ? queries - first : CPU_QUERY_BLOCK;
        struct cpu_attend block = {(char *)q.elements + first * dim * element,
                                   count,
                                   dim,
                                   dim,
                                   packed_k,
                                   packed_v,
                                   keys,
                                   NULL,
                                   causal ? first + 1 : 0,
                                   1 / sqrtf((float)dim),
                                   (char *)out.elements + first * dim * element,
                                   dim,
                                   scratch};
        v->attend(&block);
    }
    for (size_t i = 0; i < queries; i++) {
        size_t seen = causal && i + 1 < keys ? i + 1 : keys;
        double total = 0;
        for (size_t j = 0; j < seen; j++) {
            weight[j] = 0;
            for (size_t c = 0; c < dim; c++)
                weight[j] += (double)q.values[i * dim + c] * k.values[j * dim + c];
            total += weight[j] = exp(weight[j] / sqrt((double)dim));
        }
        for (size_t c = 0; c < dim; c++) {
            double sum = 0;
            for (size_t j = 0; j < seen; j++)
                sum += weight[j] / total * value.values[j * dim + c];
            expect(set, "attend", read(set, out.elements, i * dim + c), sum, 8);
        }
    }
    free(packed_k);
    free(packed_v);
    free(scratch);
    free(weight);
    done(&q);
    done(&k);
    done(&value);
    done(&out);
}

static void test_set(void **state) {
    const struct set *set = *state;
    if (!set->runs)
        skip();
    check_activations(set);
    check_norms(set);
    check_geglu(set);
    static const size_t shapes[][3] = {{1, 1, 1},    {5, 3, 7},    {77, 77, 64},  {50, 130, 40}, {25, 64, 16},
                                       {24, 513, 8}, {3, 700, 80}, {49, 512, 33}, {13, 65, 160}, {12, 600, 17}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int causal = 0; causal < 2; causal++)
            check_attention(set, shapes[i][0], shapes[i][1], shapes[i][2], causal);
}

int main(void) {
    static struct set sets[6];
    static char names[6][32];
    struct CMUnitTest tests[6];
    int count = list_sets(sets);
    for (int i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "%s %s", sets[i].vector->name, sets[i].bf16 ? "bf16" : "f32");
        struct CMUnitTest test = {names[i], test_set, NULL, NULL, &sets[i]};
        tests[i] = test;
    }
    return _cmocka_run_group_tests("vector", tests, (size_t)count, NULL, NULL);
}
