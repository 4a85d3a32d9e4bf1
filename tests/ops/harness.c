#include "ops/harness.h"

#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"

uint64_t test_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int test_random_int(uint64_t *state, int least, int most) {
    return least + (int)(test_random(state) % (uint64_t)(most - least + 1));
}

static float random_normal(uint64_t *state) {
    double u = ((double)(test_random(state) >> 11) + 0.5) * 0x1p-53, v = (double)(test_random(state) >> 11) * 0x1p-53;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static float draw(uint64_t *state, enum fill fill) {
    float x = random_normal(state);
    switch (fill) {
    case FILL_LARGE_MEAN:
        return 100 + x;
    case FILL_CONSTANT:
        return 0.75f;
    case FILL_SPARSE:
        return test_random(state) % 16 ? 0 : 4 * x;
    case FILL_WIDE:
        return x * expf(2 * random_normal(state));
    default:
        return x;
    }
}

static void fill_numbers(float *dst, size_t count, uint64_t seed, enum fill fill, float scale, bool bf16) {
    for (size_t i = 0; i < count; i++) {
        float x = draw(&seed, fill) * scale;
        dst[i] = bf16 ? asdm_bf16_to_f32(asdm_f32_to_bf16(x)) : x;
    }
}

/* ---- weights: drawn from the name, scaled so that sums keep their size */

struct weights {
    const struct trial *trial;
    float *kept[4096];
    int count;
};

static enum asdm_status find_weight(void *user, const struct asdm_weight *weight, struct asdm_tensor *ret,
                                    struct asdm_error *err) {
    struct weights *weights = user;
    uint64_t seed = weights->trial->seed;
    size_t count = 1, fan_in = 1;
    (void)err;
    for (const char *at = weight->name; *at; at++)
        seed = seed * 1099511628211u + (unsigned char)*at;
    for (int i = 0; i < weight->rank; i++) {
        count *= (size_t)weight->dims[i];
        fan_in *= i ? (size_t)weight->dims[i] : 1;
    }
    float *numbers = malloc(count * sizeof *numbers);
    assert_non_null(numbers);
    assert_true(weights->count < 4096);
    weights->kept[weights->count++] = numbers;
    fill_numbers(numbers, count, seed, FILL_NORMAL, 1 / sqrtf((float)fan_in), weights->trial->bf16);
    *ret = (struct asdm_tensor){.name = weight->name,
                                .dtype = ASDM_F32,
                                .rank = weight->rank,
                                .data = numbers,
                                .count = count,
                                .bytes = count * sizeof *numbers};
    memcpy(ret->dims, weight->dims, sizeof weight->dims);
    return ASDM_OK;
}

/* ---- programs */

static void *copy_array(const void *items, int count, size_t size) {
    void *copy = malloc((size_t)(count + 1) * size);
    assert_non_null(copy);
    if (count)
        memcpy(copy, items, (size_t)count * size);
    return copy;
}

struct asdm_program *program_copy(const struct asdm_program *program) {
    struct asdm_program *copy;
    assert_int_equal(asdm_program_create(program->name, &copy, NULL), ASDM_OK);
    copy->values = copy_array(program->values, program->value_count, sizeof *program->values);
    copy->ops = copy_array(program->ops, program->op_count, sizeof *program->ops);
    copy->weights = copy_array(program->weights, program->weight_count, sizeof *program->weights);
    copy->value_count = copy->value_room = program->value_count;
    copy->op_count = copy->op_room = program->op_count;
    copy->weight_count = copy->weight_room = program->weight_count;
    return copy; /* names stay in the original's arena */
}

/* ---- running */

static void check(enum asdm_status status, const struct asdm_error *err) {
    if (status != ASDM_OK)
        fail_msg("%s", err->message);
}

struct session {
    const struct trial *trial;
    struct asdm_program *program;
    struct asdm_backend *backend;
    struct asdm_plan *plans[ASDM_RATE_COUNT];
    void *bound[1024];
    int32_t maps[64];
};

/* Values that cross rates are the back end's. */
static bool is_callers(const struct asdm_program *p, int value) {
    int producer = p->values[value].producer;
    return producer == ASDM_NONE || p->ops[producer].kind == ASDM_OP_EXPORT;
}

static void free_bound(struct session *s, int value, size_t bytes) {
    if (s->bound[value] && !is_callers(s->program, value))
        asdm_backend_unmap(s->backend, s->bound[value], bytes);
    else
        free(s->bound[value]);
    s->bound[value] = NULL;
}

/* What is bound for one value: the caller's inputs, results, and values that cross rates. */
static void *make_bound(struct session *s, int value, size_t row_bytes, size_t rows) {
    const struct trial *trial = s->trial;
    const struct asdm_program *p = s->program;
    uint64_t seed = trial->seed + (uint64_t)value * 7919;
    struct asdm_error err;
    void *memory = NULL;
    if (!is_callers(p, value)) {
        check(asdm_backend_map(s->backend, rows * row_bytes, "a test", &memory, &err), &err);
        return memory;
    }
    memory = calloc(rows + 1, row_bytes);
    assert_non_null(memory);
    if (p->values[value].producer != ASDM_NONE)
        return memory;
    bool ids = false;
    for (int i = 0; i < p->op_count; i++)
        ids |= p->ops[i].kind == ASDM_OP_EMBEDDING && p->ops[i].inputs[0] == value;
    for (size_t i = 0; ids && i < rows * row_bytes / 4; i++)
        ((int32_t *)memory)[i] = test_random_int(&seed, 0, trial->vocabulary - 1);
    if (!ids)
        fill_numbers(memory, rows * row_bytes / sizeof(float), seed, trial->fill, 1, trial->bf16);
    return memory;
}

static int rows_of(const struct trial *trial, enum asdm_rate rate) {
    return rate == ASDM_RATE_STEP ? trial->rows : trial->slots;
}

static void run_rate(struct session *s, enum asdm_rate rate) {
    struct asdm_plan *plan = s->plans[rate];
    struct asdm_error err;
    for (int v = 0; v < s->program->value_count; v++) {
        if (!asdm_plan_is_bound_value(plan, v))
            continue;
        if (!s->bound[v])
            s->bound[v] =
                make_bound(s, v, asdm_plan_row_bytes(plan, v), (size_t)rows_of(s->trial, s->program->values[v].rate));
        asdm_plan_bind(plan, v, s->bound[v]);
    }
    asdm_plan_map_rows(plan, ASDM_RATE_PROMPT, s->maps);
    asdm_plan_map_rows(plan, ASDM_RATE_SCHEDULE, s->maps);
    check(asdm_plan_run(plan, &err), &err);
}

static bool has_rate(const struct asdm_program *p, enum asdm_rate rate) {
    for (int i = 0; i < p->op_count; i++)
        if (asdm_program_op_rate(p, &p->ops[i]) == rate)
            return true;
    return false;
}

bool test_has_device(const char *device) {
    const struct asdm_backend_class *class;
    int number;
    return asdm_backend_find(device, &class, &number, NULL) == ASDM_OK && (!class->is_present || class->is_present());
}

float *trial_run(const struct trial *trial, const char *device, enum asdm_model_dtype dtype, unsigned rewrites,
                 size_t *ret_count) {
    struct session s = {.trial = trial, .program = program_copy(trial->program)};
    struct weights weights = {.trial = trial};
    struct asdm_weight_source source = {&weights, find_weight, NULL};
    struct asdm_weight_store *store;
    const struct asdm_backend_class *class;
    struct asdm_backend *backend;
    struct asdm_error err;
    int number;
    uint64_t seed = trial->seed;
    for (int i = 0; i < 64; i++)
        s.maps[i] = test_random_int(&seed, 0, trial->slots - 1);
    check(asdm_backend_find(device, &class, &number, &err), &err);
    check(class->create(number, 0, dtype, &backend, &err), &err);
    s.backend = backend;
    check(asdm_weight_store_create(&source, backend, &store, &err), &err);
    if (class->rewrites) /* `ref` asks for none, and accepts all */
        rewrites &= class->rewrites;
    check(asdm_program_rewrite(s.program, rewrites, &err), &err);
    for (int rate = 0; rate < ASDM_RATE_COUNT; rate++)
        if (has_rate(s.program, rate)) {
            check(asdm_plan_create(s.program, backend, store, rate, rows_of(trial, rate), trial->height, trial->width,
                                   &s.plans[rate], &err),
                  &err);
            run_rate(&s, rate);
        }
    *ret_count = asdm_plan_row_bytes(s.plans[ASDM_RATE_STEP], trial->output) / sizeof(float) * (size_t)trial->rows;
    float *result = s.bound[trial->output];
    s.bound[trial->output] = NULL;
    for (int v = 0; v < s.program->value_count; v++)
        if (s.bound[v])
            free_bound(&s, v,
                       asdm_plan_row_bytes(s.plans[ASDM_RATE_STEP], v) *
                           (size_t)rows_of(trial, s.program->values[v].rate));
    for (int rate = 0; rate < ASDM_RATE_COUNT; rate++)
        asdm_plan_destroy(&s.plans[rate]);
    asdm_weight_store_destroy(&store);
    class->destroy(backend);
    asdm_program_destroy(&s.program);
    for (int i = 0; i < weights.count; i++)
        free(weights.kept[i]);
    return result;
}

/* ---- comparing */

double relative_l2(const float *a, const float *truth, size_t count) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - truth[i]) * ((double)a[i] - truth[i]);
        size += (double)truth[i] * truth[i];
    }
    if (!isfinite(difference))
        return INFINITY;
    return size > 0 ? sqrt(difference / size) : sqrt(difference);
}

double relative_max(const float *a, const float *truth, size_t count) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(a[i]))
            return INFINITY;
        difference = fmax(difference, fabs((double)a[i] - truth[i]));
        size = fmax(size, fabs((double)truth[i]));
    }
    return size > 0 ? difference / size : difference;
}
