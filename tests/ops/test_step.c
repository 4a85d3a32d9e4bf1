/* The ends of a step on a back end, against the formulas of sampler/row.h and step.h written out: pictures with two
 * rows and with one in the same call, each with coefficients of its own for everything that a sampler can see, over a
 * few steps, so that a wrong term of guidance, of the latents or of any history shows in what follows. The model
 * between the ends is silu(x + bias of the row). test_step [DEVICE]: cpu by default. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/harness.h"
#include "run/state.h"
#include "sampler/step.h"

enum { HEIGHT = 7, WIDTH = 9, CELLS = HEIGHT * WIDTH, COUNT = 4 * CELLS, PICTURES = 4, STEPS = 4 };

static const char *device = "cpu";

static void check(enum asdm_status status, const struct asdm_error *err) {
    if (status != ASDM_OK)
        fail_msg("%s", err->message);
}

static double random_unit(uint64_t *state) {
    return (double)(test_random(state) >> 11) * 0x1p-52 - 1; /* -1 .. 1 */
}

static void fill(float *numbers, size_t count, uint64_t *random) {
    for (size_t i = 0; i < count; i++)
        numbers[i] = (float)random_unit(random);
}

/* ---- pictures, and what is to become of them */

static const struct kind {
    bool guided, draws, inpaints, shows_clean;
    int history_count;
} kinds[PICTURES] = {{true, true, false, false, 5},
                     {false, false, true, true, 0},
                     {true, false, true, true, 3},
                     {false, true, false, false, 2}};

struct picture {
    struct asdm_state state;
    float latents[COUNT], history[ASDM_SAMPLER_HISTORY_MAX][COUNT], clean[COUNT]; /* as they should be */
};

static void random_row(struct asdm_sampler_row *row, uint64_t *random) {
    row->input_scale = random_unit(random);
    row->convert_latents = random_unit(random);
    row->convert_model = random_unit(random);
    row->clamp = test_random(random) % 2 ? 0.25 : 0;
    for (int i = 0; i < ASDM_IN_COUNT; i++) {
        row->latents[i] = random_unit(random);
        for (int k = 0; k < ASDM_SAMPLER_HISTORY_MAX; k++)
            row->history[k][i] = random_unit(random);
    }
}

/* The rows of one picture at one step; returns how many. */
static int fill_rows(const struct kind *kind, const struct asdm_state *state, int step, uint64_t *random,
                     struct asdm_step_row *rows) {
    const struct asdm_state_planes *own = &state->own;
    struct asdm_step_row row = {.latents = own->latents,
                                .noise = kind->draws && step % 2 ? state->noise[step / 2 % 2] : NULL,
                                .clean = kind->shows_clean && step != 1 ? own->clean : NULL,
                                .mask = step ? own->mask : NULL,
                                .image = own->image,
                                .image_noise = own->image_noise,
                                .keep_image = random_unit(random),
                                .keep_noise = random_unit(random),
                                .guidance_scale = 3.5f,
                                .part = kind->guided ? ASDM_STEP_GUIDED : ASDM_STEP_ALONE,
                                .history_count = kind->history_count};
    random_row(&row.row, random);
    memcpy(row.history, own->history, sizeof own->history);
    rows[0] = rows[kind->guided] = row;
    if (kind->guided)
        rows[0].part = ASDM_STEP_PLAIN;
    return kind->guided ? 2 : 1;
}

static double model_of(double x, double bias) {
    return (x + bias) / (1 + exp(-x - bias));
}

/* One number of a picture after a step: `rows` as it was filled, `biases` [rows][4]. */
static void expect(struct picture *p, const struct asdm_step_row *rows, const float *biases, int i) {
    const struct asdm_step_row *step = &rows[rows->part == ASDM_STEP_PLAIN];
    const struct asdm_sampler_row *row = &step->row;
    const struct asdm_state_planes *host = &p->state.host;
    double x = p->latents[i], in[ASDM_IN_COUNT] = {x}, after[1 + ASDM_SAMPLER_HISTORY_MAX] = {0};
    double m = model_of(row->input_scale * x, biases[i / CELLS]);
    if (rows->part == ASDM_STEP_PLAIN)
        m += step->guidance_scale * (model_of(row->input_scale * x, biases[4 + i / CELLS]) - m);
    double clean = row->convert_latents * x + row->convert_model * m;
    in[ASDM_IN_MODEL] = m;
    in[ASDM_IN_CONVERTED] = row->clamp > 0 ? fmax(-row->clamp, fmin(row->clamp, clean)) : clean;
    in[ASDM_IN_NOISE] = step->noise ? step->noise[i] : 0;
    for (int k = 0; k < step->history_count; k++)
        in[ASDM_IN_HISTORY + k] = p->history[k][i];
    for (int j = 0; j < ASDM_IN_HISTORY + step->history_count; j++) {
        after[0] += row->latents[j] * in[j];
        for (int k = 0; k < step->history_count; k++)
            after[1 + k] += row->history[k][j] * in[j];
    }
    if (step->mask && host->mask[i % CELLS] == 0)
        after[0] = step->keep_image * host->image[i] + step->keep_noise * host->image_noise[i];
    p->latents[i] = (float)after[0];
    for (int k = 0; k < step->history_count; k++)
        p->history[k][i] = (float)after[1 + k];
    if (step->clean)
        p->clean[i] = (float)clean;
}

/* ---- the program, and its runs */

struct session {
    struct asdm_backend *backend;
    struct asdm_weight_store *store;
    struct asdm_program *program;
    struct asdm_plan *plan;
    int bias, step_rows;
};

static enum asdm_status no_weights(void *user, const struct asdm_weight *weight, struct asdm_tensor *ret,
                                   struct asdm_error *err) {
    (void)user, (void)weight, (void)ret, (void)err;
    return ASDM_ERR_INTERNAL;
}

static struct session begin(int rows) {
    static const struct asdm_weight_source source = {NULL, no_weights, NULL};
    struct session s = {0};
    struct asdm_error err;
    const struct asdm_backend_class *class;
    int number;
    check(asdm_backend_find(device, &class, &number, &err), &err);
    check(class->create(number, 0, ASDM_DTYPE_FP32, &s.backend, &err), &err);
    check(asdm_weight_store_create(&source, s.backend, &s.store, &err), &err);
    check(asdm_program_create("step", &s.program, &err), &err);
    struct asdm_program *p = s.program;
    int latents = asdm_build_input(p, asdm_dim_height(0), asdm_dim_width(0), 4, ASDM_RATE_STEP);
    s.bias = asdm_build_input(p, asdm_dim_const(1), asdm_dim_const(1), 4, ASDM_RATE_STEP);
    int x = asdm_build_add_row_bias(p, asdm_build_import(p, latents, true), asdm_build_import(p, s.bias, false));
    int prediction = asdm_build_export(p, asdm_build_activation(p, x, ASDM_ACT_SILU), true);
    asdm_build_output(p, prediction);
    s.step_rows = asdm_build_sampler_input(p, latents);
    asdm_build_sampler(p, prediction, s.step_rows);
    check(asdm_program_finish(p, &err), &err);
    check(asdm_program_rewrite(p, class->rewrites, &err), &err);
    check(asdm_plan_create(p, s.backend, s.store, ASDM_RATE_STEP, rows, HEIGHT, WIDTH, &s.plan, &err), &err);
    return s;
}

static void end(struct session *s) {
    asdm_plan_destroy(&s->plan);
    asdm_program_destroy(&s->program);
    asdm_weight_store_destroy(&s->store);
    s->backend->class->destroy(s->backend);
}

static void make_picture(struct session *s, const struct kind *kind, struct picture *p, uint64_t *random) {
    struct asdm_error err;
    memset(p, 0, sizeof *p);
    check(asdm_state_fit(&p->state, s->backend, COUNT, kind->history_count, kind->inpaints, &err), &err);
    fill(p->state.host.latents, COUNT, random);
    memcpy(p->latents, p->state.host.latents, sizeof p->latents);
    fill(p->state.noise[0], COUNT, random);
    fill(p->state.noise[1], COUNT, random);
    if (kind->inpaints) {
        fill(p->state.host.image, COUNT, random);
        fill(p->state.host.image_noise, COUNT, random);
        for (int i = 0; i < CELLS; i++)
            p->state.host.mask[i] = test_random(random) % 2;
    }
    check(asdm_state_upload(&p->state, &err), &err);
}

static void compare(const struct session *s, const float *own, const float *want, const char *what, int picture) {
    const struct asdm_device_class *class = s->backend->class->device;
    struct asdm_error err;
    float got[COUNT];
    if (class) {
        class->copy(s->backend, got, own, sizeof got);
        check(class->finish(s->backend, &err), &err);
    } else {
        memcpy(got, own, sizeof got);
    }
    if (!(relative_max(got, want, COUNT) < 1e-5))
        fail_msg("picture %d: %s: differs by %g", picture, what, relative_max(got, want, COUNT));
}

static void compare_all(const struct session *s, const struct picture *pictures) {
    for (int i = 0; i < PICTURES; i++) {
        compare(s, pictures[i].state.own.latents, pictures[i].latents, "latents", i);
        for (int k = 0; k < kinds[i].history_count; k++)
            compare(s, pictures[i].state.own.history[k], pictures[i].history[k], "history", i);
        if (kinds[i].shows_clean)
            compare(s, pictures[i].state.own.clean, pictures[i].clean, "clean latents", i);
    }
}

static void test_steps(void **state) {
    static struct picture pictures[PICTURES];
    struct asdm_step_row rows[2 * PICTURES];
    float biases[2 * PICTURES][4];
    int first[PICTURES], count = 0;
    uint64_t random = 11;
    struct asdm_error err;
    (void)state;
    for (int i = 0; i < PICTURES; i++)
        count += kinds[i].guided ? 2 : 1;
    struct session s = begin(count);
    for (int i = 0; i < PICTURES; i++)
        make_picture(&s, &kinds[i], &pictures[i], &random);
    for (int step = 0; step < STEPS; step++) { /* a device records at the second and replays from the third on */
        for (int i = 0, row = 0; i < PICTURES; i++) {
            first[i] = row;
            row += fill_rows(&kinds[i], &pictures[i].state, step, &random, rows + row);
        }
        fill(biases[0], 4 * (size_t)count, &random);
        asdm_plan_bind(s.plan, s.bias, biases);
        asdm_plan_bind(s.plan, s.step_rows, rows);
        asdm_plan_start(s.plan);
        check(asdm_plan_finish(s.plan, &err), &err);
        for (int i = 0; i < PICTURES; i++)
            for (int n = 0; n < COUNT; n++)
                expect(&pictures[i], rows + first[i], biases[first[i]], n);
        compare_all(&s, pictures);
    }
    for (int i = 0; i < PICTURES; i++)
        asdm_state_done(&pictures[i].state);
    end(&s);
}

/* A slot that had a larger picture keeps its memory, and the next picture finds no trace of it. */
static void test_state_is_kept(void **state) {
    struct session s = begin(1);
    struct asdm_state one = {0};
    struct asdm_error err;
    (void)state;
    check(asdm_state_fit(&one, s.backend, 2 * COUNT, 5, true, &err), &err);
    const void *memory = one.memory;
    memset(one.host.latents, 1, one.upload_bytes);
    check(asdm_state_fit(&one, s.backend, COUNT, 2, false, &err), &err);
    assert_ptr_equal(one.memory, memory);
    assert_null(one.own.mask);
    for (int i = 0; i < COUNT; i++)
        assert_true(one.host.latents[i] == 0 && one.host.history[0][i] == 0 && one.host.history[1][i] == 0);
    check(asdm_state_fit(&one, s.backend, 8 * COUNT, 5, true, &err), &err);
    asdm_state_done(&one);
    end(&s);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_steps), cmocka_unit_test(test_state_is_kept)};
    device = argc > 1 ? argv[1] : device;
    if (!test_has_device(device))
        return TEST_SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
