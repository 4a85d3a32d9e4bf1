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

/* Steps and polls until `count` pictures are out; *ret gets picture id's pixels at [id - 1]. */
static void run_all(struct asdm_batch *batch, int count, uint8_t pixels[][PIXELS]) {
    struct asdm_error err;
    struct asdm_picture picture;
    for (int out = 0; out < count;) {
        bool found = true, worked;
        check(asdm_batch_step(batch, &worked, &err), &err);
        while (found) {
            check(asdm_batch_poll(batch, &picture, &found, &err), &err);
            if (found) {
                memcpy(pixels[picture.id - 1], picture.rgb, (size_t)picture.width * (size_t)picture.height * 3);
                out++;
            }
        }
        assert_true(worked || out == count);
    }
}

/* The same request alone and among others, joining late: the rounding of larger products may differ, the picture not.
 */
static void test_together_as_alone(void **state) {
    (void)state;
    static uint8_t together[KINDS][PIXELS], alone[1][PIXELS];
    struct asdm_batch *batch;
    struct asdm_error err;
    uint64_t id;
    for (size_t i = 0; i < sizeof init_image; i++)
        init_image[i] = (uint8_t)(i * 7);
    check(asdm_batch_create(model, KINDS, &batch, &err), &err);
    for (int kind = 0; kind < KINDS; kind++) {
        struct asdm_request r = request_of(kind);
        check(asdm_batch_submit(batch, &r, &id, &err), &err);
        assert_int_equal(id, kind + 1);
        if (kind == 2)
            check(asdm_batch_step(batch, NULL, &err), &err);
    }
    run_all(batch, KINDS, together);
    asdm_batch_destroy(&batch);
    for (int kind = 0; kind < KINDS; kind++) {
        struct asdm_request r = request_of(kind);
        check(asdm_batch_create(model, 1, &batch, &err), &err);
        check(asdm_batch_submit(batch, &r, &id, &err), &err);
        run_all(batch, 1, alone);
        asdm_batch_destroy(&batch);
        int most = 0;
        for (int i = 0; i < r.width * r.height * 3; i++) {
            int difference = abs(together[kind][i] - alone[0][i]);
            most = difference > most ? difference : most;
        }
        if (most > 2)
            fail_msg("kind %d: a channel differs by %d", kind, most);
    }
}

static void test_cancel_and_full(void **state) {
    (void)state;
    struct asdm_batch *batch;
    struct asdm_error err;
    struct asdm_request r = request_of(0);
    uint64_t first, second, third;
    int done, total;
    check(asdm_batch_create(model, 2, &batch, &err), &err);
    check(asdm_batch_submit(batch, &r, &first, &err), &err);
    check(asdm_batch_submit(batch, &r, &second, &err), &err);
    assert_int_equal(asdm_batch_submit(batch, &r, &third, &err), ASDM_ERR_MEMORY);
    check(asdm_batch_step(batch, NULL, &err), &err);
    assert_true(asdm_batch_progress(batch, first, &done, &total));
    assert_int_equal(done, 1);
    assert_int_equal(total, r.steps);
    asdm_batch_cancel(batch, first);
    assert_false(asdm_batch_progress(batch, first, &done, &total));
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
    struct asdm_batch *batch;
    struct asdm_error err = {0};
    struct asdm_request r = request_of(0);
    uint64_t id;
    r.width = r.height = ASDM_SIDE_MAX;
    check(asdm_batch_create(model, 1, &batch, &err), &err);
    assert_int_equal(asdm_batch_submit(batch, &r, &id, &err), ASDM_ERR_MEMORY);
    assert_non_null(strstr(err.message, "memory"));
    r = request_of(0); /* and the batch is still good */
    check(asdm_batch_submit(batch, &r, &id, &err), &err);
    asdm_batch_destroy(&batch);
}

/* strength 0: the init image comes back, through the autoencoder. */
static void test_strength_zero(void **state) {
    (void)state;
    static uint8_t drawn[1][PIXELS];
    struct asdm_batch *batch;
    struct asdm_error err;
    struct asdm_request r = request_of(0);
    struct asdm_picture picture;
    bool found, worked;
    uint64_t id;
    double difference = 0;
    check(asdm_batch_create(model, 1, &batch, &err), &err);
    check(asdm_batch_submit(batch, &r, &id, &err), &err);
    run_all(batch, 1, drawn);
    r.init_rgb = drawn[0];
    r.init_width = r.init_height = SIDE;
    r.strength = 0;
    check(asdm_batch_submit(batch, &r, &id, &err), &err);
    check(asdm_batch_step(batch, &worked, &err), &err);
    assert_false(worked);
    check(asdm_batch_poll(batch, &picture, &found, &err), &err);
    assert_true(found);
    for (int i = 0; i < PIXELS; i++)
        difference += abs(picture.rgb[i] - drawn[0][i]);
    if (difference / PIXELS > 25)
        fail_msg("mean difference %.1f", difference / PIXELS);
    asdm_batch_destroy(&batch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_together_as_alone),       cmocka_unit_test(test_cancel_and_full),
        cmocka_unit_test(test_refusals_name_the_field), cmocka_unit_test(test_huge_is_refused),
        cmocka_unit_test(test_strength_zero),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
