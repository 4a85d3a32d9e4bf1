/* Pictures in flight on the demo checkpoint: together and alone, cancelled, refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <asdm/batch.h>
#include "asdm_limits.h"
#include "run/internal.h"

enum { SIDE = 64, PIXELS = SIDE * SIDE * 3, KINDS = 6 };

static struct asdm_model *model;

static int open_demo(void **state) {
    (void)state;
    struct asdm_error err;
    struct asdm_model_options options = {.device = "auto", .dtype = ASDM_DTYPE_FP32};
    return asdm_model_open(ASDM_DEMO_MODEL, &options, &model, &err) == ASDM_OK ? 0 : 1;
}

static int close_demo(void **state) {
    (void)state;
    asdm_model_close(&model);
    return 0;
}

static uint8_t init_image[32 * 48 * 3];

/* Pictures that differ in everything a batch may mix. */
static struct asdm_request request_of(int kind) {
    static const char *const samplers[KINDS] = {"euler", "heun", "dpm++_2m", "euler_a", "pndm", "ddim"};
    struct asdm_request r;
    asdm_request_init(&r);
    r.prompt = kind % 2 ? "a red house" : "a small boat on the sea at night";
    r.negative_prompt = kind == 2 ? "in the rain" : NULL;
    r.width = SIDE;
    r.height = kind == 4 ? SIDE / 2 : SIDE;
    r.steps = 3 + kind;
    r.sampler = samplers[kind];
    r.schedule = kind == 2 ? "karras" : NULL;
    r.guidance_scale = kind == 3 ? 1 : 4 + kind;
    r.seed = (uint64_t)kind * 1000;
    if (kind == 5) {
        r.init_rgb = init_image;
        r.init_width = 32;
        r.init_height = 48;
        r.strength = 0.6;
    }
    return r;
}

static void check(enum asdm_status status, const struct asdm_error *err) {
    if (status != ASDM_OK)
        fail_msg("%s", err->message);
}

/* Steps and polls until `count` pictures are out; *ret gets picture id's pixels at [id - 1]. Returns how many previews
 * came. */
static int run_all(struct asdm_batch *batch, int count, uint8_t pixels[][PIXELS]) {
    struct asdm_error err;
    struct asdm_picture picture;
    int previews = 0;
    for (int out = 0; out < count;) {
        struct asdm_batch_report report;
        check(asdm_batch_step(batch, &report, &err), &err);
        assert_true(report.worked);
        while (asdm_batch_poll(batch, &picture)) {
            assert_int_equal(picture.status, ASDM_OK);
            previews += picture.preview;
            if (picture.preview)
                continue;
            memcpy(pixels[picture.id - 1], picture.rgb, (size_t)picture.width * (size_t)picture.height * 3);
            out++;
        }
    }
    return previews;
}

static struct asdm_batch *create(int pictures_max, int rows_max) {
    struct asdm_batch *batch;
    struct asdm_error err;
    check(asdm_batch_create(model, &(struct asdm_batch_options){pictures_max, rows_max}, &batch, &err), &err);
    return batch;
}

/* The same request alone and among others, joining late, with few rows, with one that leaves: the same bytes. */
static void test_together_as_alone(void **state) {
    (void)state;
    static uint8_t together[KINDS + 1][PIXELS], alone[1][PIXELS];
    struct asdm_batch *batch;
    struct asdm_error err;
    uint64_t id;
    for (size_t i = 0; i < sizeof init_image; i++)
        init_image[i] = (uint8_t)(i * 7);
    for (int rows_max = 0; rows_max <= 6; rows_max += 3) {
        batch = create(KINDS + 1, rows_max);
        for (int kind = 0; kind < KINDS; kind++) {
            struct asdm_request r = request_of(kind);
            r.previews = rows_max ? 0 : 1;
            check(asdm_batch_submit(batch, &r, &id, &err), &err);
            assert_int_equal(id, kind + 1);
            if (kind == 2)
                check(asdm_batch_step(batch, NULL, &err), &err);
        }
        struct asdm_request leaves = request_of(0);
        check(asdm_batch_submit(batch, &leaves, &id, &err), &err);
        check(asdm_batch_step(batch, NULL, &err), &err);
        asdm_batch_cancel(batch, id);
        assert_int_equal(run_all(batch, KINDS, together), rows_max ? 0 : KINDS);
        asdm_batch_destroy(&batch);
        for (int kind = 0; kind < KINDS; kind++) {
            struct asdm_request r = request_of(kind);
            batch = create(1, 0);
            check(asdm_batch_submit(batch, &r, &id, &err), &err);
            run_all(batch, 1, alone);
            asdm_batch_destroy(&batch);
            if (memcmp(together[kind], alone[0], (size_t)(r.width * r.height * 3)) != 0)
                fail_msg("kind %d differs, rows_max %d", kind, rows_max);
        }
    }
}

static int taken_slots(const struct asdm_slab *slab) {
    int taken = 0;
    for (int i = 0; i < slab->slot_count; i++)
        taken += slab->taken[i];
    return taken;
}

/* Pictures that go through the same timesteps share what was computed of them, together and one after the other; what
 * nobody uses any more is kept only up to a limit. */
static void test_timesteps_are_shared(void **state) {
    static uint8_t pixels[1][PIXELS];
    struct asdm_model *fresh;
    struct asdm_model_options options = {.device = "auto", .dtype = ASDM_DTYPE_FP32};
    struct asdm_batch *batch;
    struct asdm_error err = {0};
    uint64_t id;
    (void)state;
    check(asdm_model_open(ASDM_DEMO_MODEL, &options, &fresh, &err), &err);
    const int steps[] = {8, 100, 120, 300};
    for (int i = 0, kept = 0; i < 4; i++) {
        struct asdm_request r = request_of(0);
        r.steps = steps[i];
        check(asdm_batch_create(fresh, &(struct asdm_batch_options){3, 0}, &batch, &err), &err);
        for (int k = 0; k < 3; k++)
            check(asdm_batch_submit(batch, &r, &id, &err), &err);
        check(asdm_batch_step(batch, NULL, &err), &err);
        const struct asdm_slab *slab = &fresh->denoisers[ASDM_PRECISION_MAIN][0]->timesteps;
        assert_int_equal(taken_slots(slab), kept + (steps[i] + 7) / 8 * 8);
        asdm_batch_destroy(&batch);
        kept = taken_slots(slab);
        assert_in_range(kept, steps[i] <= ASDM_LIMIT_TIMESTEPS_KEPT ? steps[i] : 0, ASDM_LIMIT_TIMESTEPS_KEPT);
        check(asdm_batch_create(fresh, &(struct asdm_batch_options){1, 0}, &batch, &err), &err);
        check(asdm_batch_submit(batch, &r, &id, &err), &err);
        if (i == 0) /* those that were kept do as well */
            run_all(batch, 1, pixels);
        else
            check(asdm_batch_step(batch, NULL, &err), &err);
        assert_int_equal(taken_slots(slab),
                         steps[i] <= ASDM_LIMIT_TIMESTEPS_KEPT ? kept : kept + (steps[i] + 7) / 8 * 8);
        asdm_batch_destroy(&batch);
        kept = taken_slots(slab);
    }
    asdm_model_close(&fresh);
}

/* Where the mask keeps the init image, its own pixels are in the picture; elsewhere the picture is another. */
static void test_mask(void **state) {
    (void)state;
    static uint8_t mask[32 * 48], drawn[1][PIXELS], plain[1][PIXELS];
    struct asdm_request r = request_of(5);
    struct asdm_error err;
    uint64_t id;
    r.width = 32;
    r.height = 48; /* the init image's own, so that it is not resized */
    memset(mask, 255, sizeof mask / 2);
    for (int with = 0; with < 2; with++) {
        struct asdm_batch *batch = create(1, 0);
        r.mask = with ? mask : NULL;
        check(asdm_batch_submit(batch, &r, &id, &err), &err);
        run_all(batch, 1, with ? drawn : plain);
        asdm_batch_destroy(&batch);
    }
    assert_memory_equal(drawn[0] + 32 * 24 * 3, init_image + 32 * 24 * 3, 32 * 24 * 3);
    assert_memory_not_equal(drawn[0], init_image, 32 * 24 * 3);
    assert_memory_not_equal(plain[0] + 32 * 24 * 3, init_image + 32 * 24 * 3, 32 * 24 * 3);
}

/* A1111's weights change the picture, and a prompt of two chunks draws another one than its first chunk. */
static void test_prompt_syntax(void **state) {
    (void)state;
    static uint8_t drawn[4][PIXELS];
    static char text[1024];
    struct asdm_error err;
    uint64_t id;
    for (int i = 0; i < 90; i++)
        strcat(text, "tree ");
    const char *const prompts[4] = {"a red house in the snow", "a (red:1.6) house in the snow", text, text};
    struct asdm_batch *batch = create(4, 0);
    for (int i = 0; i < 4; i++) {
        struct asdm_request r = request_of(0);
        r.prompt = prompts[i];
        r.syntax = i == 3 ? ASDM_PROMPT_PLAIN : ASDM_PROMPT_A1111;
        check(asdm_batch_submit(batch, &r, &id, &err), &err);
    }
    run_all(batch, 4, drawn);
    asdm_batch_destroy(&batch);
    assert_memory_not_equal(drawn[0], drawn[1], PIXELS);
    assert_memory_not_equal(drawn[2], drawn[3], PIXELS);
}

static void test_cancel_and_full(void **state) {
    (void)state;
    struct asdm_batch *batch = create(2, 0);
    struct asdm_error err;
    struct asdm_request r = request_of(0);
    struct asdm_picture_progress progress;
    uint64_t first, second, third;
    check(asdm_batch_submit(batch, &r, &first, &err), &err);
    check(asdm_batch_submit(batch, &r, &second, &err), &err);
    assert_int_equal(asdm_batch_submit(batch, &r, &third, &err), ASDM_ERR_MEMORY);
    check(asdm_batch_step(batch, NULL, &err), &err);
    assert_true(asdm_batch_progress(batch, first, &progress));
    assert_int_equal(progress.state, ASDM_PICTURE_RUNNING);
    assert_int_equal(progress.done, 1);
    assert_int_equal(progress.total, r.steps);
    asdm_batch_cancel(batch, first);
    assert_false(asdm_batch_progress(batch, first, &progress));
    asdm_batch_cancel(batch, 12345);
    asdm_batch_cancel(batch, 0);
    check(asdm_batch_submit(batch, &r, &third, &err), &err);
    assert_true(third > second);
    asdm_batch_destroy(&batch);
}

static void refuse(struct asdm_request r, const char *field) {
    struct asdm_error err = {0};
    assert_int_equal(asdm_request_check(model, &r, &err), ASDM_ERR_ARGUMENT);
    if (!strstr(err.message, field))
        fail_msg("\"%s\" does not name %s", err.message, field);
}

static void test_refusals_name_the_field(void **state) {
    (void)state;
    struct asdm_request r = request_of(0);
    for (int width = -8; width <= 12; width += 4)
        if (width != 0 && width != 8) {
            r.width = width;
            refuse(r, "width");
        }
    r = request_of(0);
    r.height = ASDM_SIDE_MAX + 8;
    refuse(r, "height");
    r = request_of(0);
    r.steps = 0;
    refuse(r, "steps");
    r.steps = 1001;
    refuse(r, "steps");
    r = request_of(0);
    r.sampler = "eular";
    refuse(r, "dpm++_2m_sde");
    r = request_of(0);
    r.schedule = "cosine";
    refuse(r, "sgm_uniform");
    r = request_of(0);
    r.guidance_scale = NAN;
    refuse(r, "guidance scale");
    r = request_of(5);
    r.strength = 1.5;
    refuse(r, "strength");
}

/* Refused by memory, before any is taken: the process stays small. */
static void test_huge_is_refused(void **state) {
    (void)state;
    struct asdm_batch *batch = create(1, 0);
    struct asdm_error err = {0};
    struct asdm_request r = request_of(0);
    uint64_t id;
    r.width = r.height = ASDM_SIDE_MAX;
    assert_int_equal(asdm_batch_submit(batch, &r, &id, &err), ASDM_ERR_MEMORY);
    assert_non_null(strstr(err.message, "memory"));
    r = request_of(0);                              /* and the batch is still good */
    for (int side = 8; side <= 8 * 40; side += 8) { /* more sizes than it remembers as good */
        r.width = r.height = side;
        check(asdm_batch_submit(batch, &r, &id, &err), &err);
        asdm_batch_cancel(batch, id);
    }
    r.width = ASDM_SIDE_MAX; /* with a height that is known */
    assert_int_equal(asdm_batch_submit(batch, &r, &id, &err), ASDM_ERR_MEMORY);
    asdm_batch_destroy(&batch);
}

/* strength 0: the init image comes back, through the autoencoder. */
static void test_strength_zero(void **state) {
    (void)state;
    static uint8_t drawn[1][PIXELS];
    static uint8_t back[2][PIXELS];
    struct asdm_batch *batch = create(1, 0);
    struct asdm_error err;
    struct asdm_request r = request_of(0);
    uint64_t id;
    double difference = 0;
    check(asdm_batch_submit(batch, &r, &id, &err), &err);
    run_all(batch, 1, drawn);
    r.init_rgb = drawn[0];
    r.init_width = r.init_height = SIDE;
    r.strength = 0;
    check(asdm_batch_submit(batch, &r, &id, &err), &err);
    run_all(batch, 1, back);
    for (int i = 0; i < PIXELS; i++)
        difference += abs(back[1][i] - drawn[0][i]);
    if (difference / PIXELS > 25)
        fail_msg("mean difference %.1f", difference / PIXELS);
    asdm_batch_destroy(&batch);
}

/* ---- memory of a device, which is told and refused in words; here a stand-in that only says what it has */

static size_t device_free;

static size_t available(struct asdm_backend *backend, size_t *ret_total) {
    (void)backend;
    if (ret_total)
        *ret_total = 8000000000;
    return device_free;
}

static void test_device_memory(void **state) {
    static const struct asdm_device_class device = {.available = available};
    struct asdm_model_options options = {.device = "auto", .dtype = ASDM_DTYPE_FP32};
    struct asdm_model *fresh; /* no weights laid out */
    struct asdm_memory host, memory = {0};
    struct asdm_error err = {0};
    (void)state;
    check(asdm_model_open(ASDM_DEMO_MODEL, &options, &fresh, &err), &err);
    check(asdm_batch_plan_memory(fresh, SIDE, SIDE, 2, &host, &err), &err);
    assert_true(host.device == 0 && host.free > 0 && host.weights > 0 && host.plans > 0);
    const struct asdm_backend_class *own = fresh->backend->class;
    struct asdm_backend_class class = *own;
    class.device = &device;
    fresh->backend->class = &class;
    device_free = 4000000000;
    check(asdm_batch_plan_memory(fresh, SIDE, SIDE, 2, &memory, &err), &err);
    assert_true(memory.device == 8000000000 && memory.free == device_free);
    assert_true(memory.weights == host.weights && memory.plans == host.plans);
    /* Too little for the weights; for them and a step; for a step. */
    const size_t little[] = {host.weights - 1000, host.weights + 1000, 1000};
    for (int i = 0; i < 3; i++) {
        device_free = little[i];
        assert_int_equal(asdm_batch_plan_memory(fresh, SIDE, SIDE, 2, &memory, &err), ASDM_ERR_MEMORY);
        if (!strstr(err.message, "the weights take about") || !strstr(err.message, "of device memory") ||
            !strstr(err.message, "of 8.00 GB are free") || !strstr(err.message, "still to come") != (i == 2))
            fail_msg("%zu bytes: %s", device_free, err.message);
    }
    fresh->backend->class = own;
    asdm_model_close(&fresh);
}

/* Nearest, half to even, clamped: as the library's function rounds, whatever the bits are. */
static void test_pixels_to_bytes(void **state) {
    enum { COUNT = 1 << 20 };
    static float pixels[COUNT];
    static uint8_t bytes[COUNT];
    uint32_t bits = 1;
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        bits = bits * 1664525 + 1013904223;
        const float half_step = (float)(i / 3 - 400) / 255.0f - 1.0f;
        if (i < 4096) /* every half of a step and those beyond, and what is beside it */
            pixels[i] = i % 3 == 1 ? half_step : nextafterf(half_step, i % 3 ? 9.0f : -9.0f);
        else if (i % 2)
            memcpy(&pixels[i], &bits, sizeof bits);
        else
            pixels[i] = (float)(int32_t)bits * 0x1.4p-31f;
    }
    asdm_pixels_to_bytes(pixels, bytes, COUNT);
    for (int i = 0; i < COUNT; i++) {
        float unit = pixels[i] * 0.5f + 0.5f;
        long expected = isnan(unit) || unit < 0 ? 0 : unit > 1 ? 255 : lrintf(unit * 255.0f);
        if (bytes[i] != expected)
            fail_msg("%a: %d, not %ld", (double)pixels[i], bytes[i], expected);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_together_as_alone),       cmocka_unit_test(test_cancel_and_full),
        cmocka_unit_test(test_refusals_name_the_field), cmocka_unit_test(test_huge_is_refused),
        cmocka_unit_test(test_strength_zero),           cmocka_unit_test(test_mask),
        cmocka_unit_test(test_prompt_syntax),           cmocka_unit_test(test_device_memory),
        cmocka_unit_test(test_pixels_to_bytes),         cmocka_unit_test(test_timesteps_are_shared),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
