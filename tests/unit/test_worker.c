/* asdm-worker's own code over an engine that draws nothing (support/fake_engine.c), seen through the front's link. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "front/link/link.h"

enum { SIDE = 64, BYTES = SIDE * SIDE * 3, IDS_MAX = 64, PATIENCE_MS = 20000 };

static struct {
    int count[LINK_DIED + 1];
    struct wire_model capacity[2];
    uint8_t pixels[IDS_MAX]; /* by id; of a finished picture all are the same */
    bool finished[IDS_MAX], failed[IDS_MAX];
    int done[IDS_MAX], model[IDS_MAX], rows_most, preview_step;
    struct wire_picture picture;
    char words[256];
    const char *reason;
} heard;

static struct config config;
static struct link *link_;

static void hear_picture(const struct link_event *event) {
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(event->rgb[i], event->rgb[0]);
    heard.pixels[event->id] = event->rgb[0];
    heard.finished[event->id] = event->type == LINK_PICTURE;
    heard.model[event->id] = event->model;
    heard.picture = *event->picture;
    if (event->type == LINK_PREVIEW)
        heard.preview_step = event->picture->step;
}

static void handle(void *user, const struct link_event *event) {
    (void)user;
    heard.count[event->type]++;
    if (event->type == LINK_MODEL)
        heard.capacity[event->model] = *event->capacity;
    if (event->type == LINK_PICTURE || event->type == LINK_PREVIEW)
        hear_picture(event);
    if (event->type == LINK_PROGRESS)
        heard.done[event->id] = event->progress->done;
    if (event->type == LINK_STEP && event->step->rows > heard.rows_most)
        heard.rows_most = event->step->rows;
    if (event->type == LINK_FAILED)
        heard.failed[event->id] = true;
    if (event->failed)
        strcpy(heard.words, event->failed->message);
    if (event->type == LINK_DIED)
        heard.reason = event->reason;
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void await(enum link_event_type type, int count) {
    for (int64_t end = now_ms() + PATIENCE_MS; heard.count[type] < count && now_ms() < end;) {
        int timeout = link_timeout_ms(link_);
        poll(&(struct pollfd){.fd = link_fd(link_), .events = POLLIN}, 1, timeout < 0 || timeout > 100 ? 100 : timeout);
        link_turn(link_);
    }
    assert_true(heard.count[type] >= count);
}

static void create(const char *second, int memory_mb) {
    struct asdm_error err;
    memset(&heard, 0, sizeof heard);
    config = (struct config){.models = {{.name = "first", .path = "good"}, {.name = "second", .path = (char *)second}},
                             .model_count = 2,
                             .worker = ASDM_TEST_WORKER,
                             .memory_mb = memory_mb,
                             .shared_memory_mb = 16,
                             .step_timeout_ms = PATIENCE_MS,
                             .load_timeout_ms = PATIENCE_MS};
    assert_int_equal(link_create(&config, (int[]){0, 1}, 2, handle, NULL, &link_, &err), ASDM_OK);
}

static int destroy(void **state) {
    (void)state;
    link_destroy(&link_);
    return 0;
}

static void submit(uint64_t id, int model, const char *prompt, int steps) {
    struct link_picture p = {.model = model,
                             .prompt = prompt,
                             .width = SIDE,
                             .height = SIDE,
                             .steps = steps,
                             .guidance_scale = 5,
                             .seed = id};
    assert_true(link_submit(link_, id, &p));
}

static void test_draws(void **state) {
    (void)state;
    create("good", 0);
    await(LINK_READY, 1);
    assert_int_equal(heard.count[LINK_MODEL], 2);
    for (uint64_t id = 1; id <= 16; id++)
        submit(id, id % 2 ? 0 : 1, "a house", 3 + (int)id);
    await(LINK_PICTURE, 16);
    for (uint64_t id = 1; id <= 16; id++) {
        assert_true(heard.finished[id]);
        assert_int_equal(heard.pixels[id], id);
        assert_int_equal(heard.done[id], 3 + (int)id);
        assert_int_equal(heard.model[id], id % 2 ? 0 : 1);
    }
    assert_true(heard.rows_most > 2 && heard.rows_most <= 16);
    assert_true(heard.picture.seconds[ASDM_STAGE_DECODE] == 4);
    assert_int_equal(heard.picture.prompt_tokens, 3);
}

static void test_init_and_mask(void **state) {
    (void)state;
    static uint8_t rgb[8 * 8 * 3] = {30}, mask[8 * 8] = {100};
    struct asdm_image init = {8, 8, rgb};
    struct link_picture p = {
        .prompt = "", .width = SIDE, .height = SIDE, .steps = 2, .seed = 1, .init = &init, .mask = mask};
    create("good", 0);
    await(LINK_READY, 1);
    assert_true(link_submit(link_, 5, &p));
    await(LINK_PICTURE, 1);
    assert_int_equal(heard.pixels[5], 131);
}

static void test_failures_are_alone(void **state) {
    (void)state;
    create("good", 0);
    await(LINK_READY, 1);
    submit(1, 0, "a house", 50);
    submit(2, 0, "a house", 0);
    submit(3, 0, "spoiled", 2);
    await(LINK_FAILED, 2);
    await(LINK_PICTURE, 1);
    assert_true(heard.failed[2] && heard.failed[3] && heard.finished[1]);
    assert_string_equal(heard.words, "spoiled");
}

static void test_preview_and_cancel(void **state) {
    (void)state;
    create("good", 0);
    await(LINK_READY, 1);
    submit(1, 0, "a house", 1000000000);
    await(LINK_PROGRESS, 5);
    link_preview(link_, 1);
    await(LINK_PREVIEW, 1);
    assert_int_equal(heard.pixels[1], 1);
    assert_true(heard.preview_step > 0);
    link_cancel(link_, 1);
    submit(2, 0, "a house", 3);
    await(LINK_PICTURE, 1);
    assert_true(heard.finished[2] && !heard.finished[1]);
    assert_int_equal(heard.rows_most, 2);         /* no step is spent on the cancelled one */
    assert_int_equal(link_timeout_ms(link_), -1); /* the cancel was answered before */
}

static void test_broken_batch(void **state) {
    (void)state;
    create("good", 0);
    await(LINK_READY, 1);
    submit(1, 0, "broken", 5);
    await(LINK_DIED, 1);
    assert_string_equal(heard.reason, "crashed");
    assert_string_equal(heard.words, "the device is lost");
    await(LINK_READY, 2);
}

static void expect_load_failure(const char *path, const char *words) {
    create(path, 0);
    await(LINK_DIED, 1);
    assert_string_equal(heard.reason, "load");
    assert_string_equal(heard.words, words);
    assert_int_equal(heard.count[LINK_READY], 0);
}

static void test_load_failures(void **state) {
    (void)state;
    expect_load_failure("missing", "model second: missing: not there");
    destroy(NULL);
    expect_load_failure("nan", "model second: the canary's latents are not finite numbers");
}

static void test_capacity(void **state) {
    (void)state;
    create("good", 0);
    await(LINK_READY, 1);
    assert_int_equal(heard.capacity[0].rows_max, 16);
    assert_true(heard.capacity[0].device_bytes == 8000000000 && heard.capacity[0].device_free == 4000000000);
    assert_true(heard.capacity[0].device_weights == 3000000000);
    assert_true(heard.capacity[0].device_plans > 0);
    assert_int_equal(heard.capacity[0].pictures_max, 20);
    assert_int_equal(heard.capacity[0].default_width, 128);
    assert_string_equal(heard.capacity[0].sampler, "pndm");
    assert_true(heard.capacity[0].bytes_per_row_pixel == 100 && heard.capacity[0].bytes_fixed == 1000);
    destroy(NULL);
    create("good", 24); /* 12 MiB each: 7 rows of 128 x 128 at 100 bytes; squares of 192 at 2 rows */
    await(LINK_READY, 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(heard.capacity[i].rows_max, 7);
        assert_int_equal(heard.capacity[i].pictures_max, 11);
        assert_true(heard.capacity[i].row_pixels_max == 7 * 128 * 128);
    }
    destroy(NULL);
    create("good", 4); /* not even 2 rows at the default size */
    await(LINK_READY, 1);
    assert_int_equal(heard.capacity[0].rows_max, 2);
    assert_true(heard.capacity[0].row_pixels_max == 2 * 64 * 64);
    destroy(NULL);
    create("good", 1);
    await(LINK_DIED, 1);
    assert_string_equal(heard.words, "model first: 512 KiB are too few for a picture of 64 x 64");
}

static void test_front_decides(void **state) {
    (void)state;
    create("good", 0);
    await(LINK_READY, 1);
    int pid = link_pid(link_);
    kill(pid, SIGTERM);
    kill(pid, SIGINT);
    kill(pid, SIGHUP);
    submit(1, 0, "a house", 3);
    await(LINK_PICTURE, 1);
    assert_int_equal(heard.count[LINK_DIED], 0);
    submit(2, 0, "a house", 1000000000);
    link_stop(link_);
    for (int64_t end = now_ms() + PATIENCE_MS; link_pid(link_) && now_ms() < end;) {
        poll(&(struct pollfd){.fd = link_fd(link_), .events = POLLIN}, 1, 5);
        link_turn(link_);
    }
    assert_int_equal(link_pid(link_), 0);
}

#define TEST(name) cmocka_unit_test_teardown(name, destroy)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_draws),        TEST(test_init_and_mask), TEST(test_failures_are_alone), TEST(test_preview_and_cancel),
        TEST(test_broken_batch), TEST(test_load_failures), TEST(test_capacity),           TEST(test_front_decides)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
