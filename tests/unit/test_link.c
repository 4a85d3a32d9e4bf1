/* The front's link to a worker, against a small program that speaks the wire and misbehaves on request
 * (support/fake_worker.c). */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "front/link/link.h"
#include "front/link/region.h"

enum { SIDE = 64, BYTES = SIDE * SIDE * 3, PICTURES_MAX = 64, PATIENCE_MS = 20000 };

/* What has been heard. */
static struct {
    int count[LINK_DIED + 1];
    uint64_t last_id;
    uint8_t first, last;             /* of the last picture or preview */
    uint64_t pictures[PICTURES_MAX]; /* ids, in the order in which they came */
    int done, model;
    uint64_t prompt_tokens;
    const char *reason;
    char words[256];
} heard;

static struct config config;
static struct link *link_;
static uint64_t submit_next; /* the handler submits this one once a picture is there */

static struct link_picture picture_of(const char *prompt, uint64_t seed) {
    return (struct link_picture){
        .model = 1, .prompt = prompt, .width = SIDE, .height = SIDE, .steps = 2, .guidance_scale = 5, .seed = seed};
}

static void handle(void *user, const struct link_event *event) {
    assert_ptr_equal(user, &heard);
    heard.count[event->type]++;
    heard.last_id = event->id;
    heard.model = event->model;
    if (event->type == LINK_PICTURE || event->type == LINK_PREVIEW) {
        assert_int_equal(event->width, SIDE);
        if (event->type == LINK_PICTURE)
            heard.pictures[(heard.count[LINK_PICTURE] - 1) % PICTURES_MAX] = event->id;
        heard.first = event->rgb[0];
        heard.last = event->rgb[BYTES - 1];
        heard.prompt_tokens = event->picture->prompt_tokens;
        link_cancel(link_, event->type == LINK_PICTURE ? event->id : 0); /* too late, of no effect */
    }
    if (event->type == LINK_PROGRESS)
        heard.done = event->progress->done;
    if (event->failed)
        strcpy(heard.words, event->failed->message);
    if (event->type == LINK_DIED)
        heard.reason = event->reason;
    if (event->type == LINK_PICTURE && submit_next) {
        struct link_picture next = picture_of("draw", submit_next);
        assert_true(link_submit(link_, submit_next, &next));
        submit_next = 0;
    }
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* One round of a dispatcher. */
static void turn(void) {
    int timeout = link_timeout_ms(link_);
    struct pollfd p = {.fd = link_fd(link_), .events = POLLIN};
    poll(&p, 1, timeout < 0 || timeout > 5 ? 5 : timeout);
    link_turn(link_);
}

/* Until so many events of the type have come, and those that came in the same turn. */
static void await(enum link_event_type type, int count) {
    int64_t end = now_ms() + PATIENCE_MS;
    while (heard.count[type] < count && now_ms() < end)
        turn();
    assert_int_equal(heard.count[type], count);
}

/* Until nothing is in the worker. */
static void await_empty(void) {
    int64_t end = now_ms() + PATIENCE_MS;
    while (link_timeout_ms(link_) != -1 && now_ms() < end)
        turn();
    assert_int_equal(link_timeout_ms(link_), -1);
}

static void turn_for(int ms) {
    for (int64_t end = now_ms() + ms; now_ms() < end;)
        turn();
}

static void create(const char *path) {
    struct asdm_error err;
    static const int models[] = {1};
    memset(&heard, 0, sizeof heard);
    config = (struct config){.models = {{.name = "other", .path = "other"}, {.name = "fake", .path = (char *)path}},
                             .model_count = 2,
                             .worker = ASDM_FAKE_WORKER,
                             .shared_memory_mb = 1,
                             .step_timeout_ms = PATIENCE_MS,
                             .load_timeout_ms = PATIENCE_MS};
    assert_int_equal(link_create(&config, models, 1, handle, &heard, &link_, &err), ASDM_OK);
}

static int destroy(void **state) {
    (void)state;
    link_destroy(&link_);
    return 0;
}

static void create_ready(void) {
    create("good");
    await(LINK_READY, 1);
    assert_int_equal(heard.count[LINK_MODEL], 1);
    assert_true(link_is_ready(link_));
    assert_int_equal(link_timeout_ms(link_), -1); /* no picture, no watchdog */
}

static void submit(uint64_t id, const char *prompt) {
    struct link_picture p = picture_of(prompt, id);
    assert_true(link_submit(link_, id, &p));
}

static void test_draws(void **state) {
    (void)state;
    create_ready();
    assert_int_equal(heard.model, 0);
    submit(5, "draw");
    submit_next = 6;
    await(LINK_PICTURE, 2);
    assert_int_equal(heard.pictures[0], 5);
    assert_int_equal(heard.pictures[1], 6);
    assert_int_equal(heard.first, 6);
    assert_int_equal(heard.last, 6);
    assert_int_equal(heard.model, 1);
    assert_int_equal(heard.done, 2);
    assert_int_equal(heard.prompt_tokens, 7);
    assert_int_equal(heard.count[LINK_STEP], 4);
    assert_int_equal(heard.count[LINK_PROGRESS], 4);
    assert_int_equal(link_timeout_ms(link_), -1);
}

static void test_init_and_mask(void **state) {
    (void)state;
    static uint8_t rgb[16 * 8 * 3] = {30}, mask[16 * 8] = {100};
    struct asdm_image init = {16, 8, rgb};
    struct link_picture p = picture_of("draw", 5);
    p.init = &init;
    p.mask = mask;
    create_ready();
    assert_true(link_submit(link_, 1, &p));
    await(LINK_PICTURE, 1);
    assert_int_equal(heard.first, 135);
}

static void test_fails_alone(void **state) {
    (void)state;
    create_ready();
    submit(1, "wait");
    submit(2, "fail");
    await(LINK_FAILED, 1);
    assert_int_equal(heard.last_id, 2);
    assert_string_equal(heard.words, "asked for");
    assert_true(link_is_ready(link_));
}

static void test_preview(void **state) {
    (void)state;
    create_ready();
    submit(1, "wait");
    for (int i = 1; i <= 5; i++) {
        link_preview(link_, 1);
        await(LINK_PREVIEW, 2 * i); /* both slots, filled again and again */
        assert_int_equal(heard.first, 101);
        assert_int_equal(heard.last, 101);
    }
}

static void test_cancel(void **state) {
    (void)state;
    create_ready();
    for (uint64_t id = 1; id <= 40; id++) { /* many times what the memory holds: places come free */
        struct link_picture p = picture_of(id % 2 ? "wait" : "late", id);
        for (int64_t end = now_ms() + PATIENCE_MS; !link_submit(link_, id, &p);) {
            assert_true(now_ms() < end);
            turn();
        }
        if (id % 4 > 1)
            turn();
        link_cancel(link_, id);
        link_cancel(link_, id);
        turn_for(2);
    }
    submit(41, "draw");
    await(LINK_PICTURE, 1);
    assert_int_equal(heard.last_id, 41);
    assert_int_equal(heard.count[LINK_FAILED], 0);
}

/* A cancelled picture's place is not given away while the worker may be writing to it. */
static void test_cancelled_place(void **state) {
    (void)state;
    create_ready();
    struct link_picture p = picture_of("later", 1);
    uint64_t id = 1;
    while (link_submit(link_, id, &p))
        id++;
    assert_true(id > 10);
    int64_t start = now_ms(), end = start + PATIENCE_MS;
    link_cancel(link_, 1);
    assert_false(link_submit(link_, id, &p)); /* the same memory would be there */
    bool taken = false;
    while (!taken && now_ms() < end) {
        turn();
        taken = link_submit(link_, id, &p);
    }
    assert_true(taken);
    assert_true(now_ms() - start >= 95); /* not before the answer, though the picture came */
}

static void expect_death(const char *prompt, const char *reason, const char *words) {
    create_ready();
    submit(1, "wait");
    submit(2, prompt);
    await(LINK_DIED, 1);
    assert_string_equal(heard.reason, reason);
    assert_string_equal(heard.words, words);
    assert_false(link_is_ready(link_));
    await(LINK_READY, 2);
    submit(1, "draw"); /* the id is free again */
    await(LINK_PICTURE, 1);
    assert_int_equal(heard.last_id, 1);
    assert_int_equal(heard.count[LINK_DIED], 1);
}

static void test_crash(void **state) {
    (void)state;
    expect_death("crash", "crashed", "");
}

static void test_kill(void **state) {
    (void)state;
    expect_death("kill", "killed", "");
}

static void test_hang(void **state) {
    (void)state;
    create_ready();
    config.step_timeout_ms = 300;
    submit(1, "wait");
    submit(2, "hang");
    await(LINK_DIED, 1);
    assert_string_equal(heard.reason, "hung");
    config.step_timeout_ms = PATIENCE_MS;
    await(LINK_READY, 2);
    submit(1, "draw");
    await(LINK_PICTURE, 1);
}

static void test_exit(void **state) {
    (void)state;
    expect_death("exit", "crashed", "the device is lost");
}

static void test_lies(void **state) {
    (void)state;
    create_ready();
    submit(1, "lie");
    await(LINK_PICTURE, 1);
    assert_int_equal(heard.last_id, 1);
    assert_int_equal(heard.count[LINK_FAILED], 0);
    destroy(NULL);
    expect_death("slot", "crashed", "");
}

/* Watched while it works, not while it idles. */
static void test_watchdog(void **state) {
    (void)state;
    create_ready();
    config.step_timeout_ms = 400;
    turn_for(800);
    submit(1, "draw");
    await(LINK_PICTURE, 1);
    assert_int_equal(heard.count[LINK_DIED], 0);
    int64_t start = now_ms();
    submit(2, "wait");
    await(LINK_DIED, 1);
    assert_true(now_ms() - start >= 400);
}

/* The worker does not read while the front has more to say than the socket holds. */
static void test_full_socket(void **state) {
    (void)state;
    create("good");
    config.shared_memory_mb = 64;
    static const int models[] = {1};
    struct asdm_error err;
    link_destroy(&link_);
    assert_int_equal(link_create(&config, models, 1, handle, &heard, &link_, &err), ASDM_OK);
    await(LINK_READY, 1);
    char prompt[WIRE_PROMPT_MAX + 1];
    memset(prompt, 'x', sizeof prompt - 1);
    prompt[sizeof prompt - 1] = '\0';
    submit(1, "sleep");
    turn_for(20);
    struct link_picture p = picture_of(prompt, 0);
    p.negative_prompt = prompt;
    int64_t start = now_ms();
    uint64_t id = 2;
    while (link_submit(link_, id, &p))
        id++;
    for (uint64_t i = 2; i < id; i += 2) {
        link_preview(link_, i + 1);
        link_cancel(link_, i);
    }
    assert_true(now_ms() - start < 700); /* nothing blocks */
    assert_true(id > 8);
    int kept = (int)id / 2; /* of odd ids */
    int64_t end = now_ms() + PATIENCE_MS;
    while (heard.count[LINK_PICTURE] < kept && now_ms() < end)
        turn();
    await_empty();
    assert_int_equal(heard.count[LINK_PICTURE], kept);
    assert_int_equal(heard.count[LINK_DIED], 0);
}

static void expect_load_failure(const char *path, const char *words, int timeout_ms) {
    create(path);
    config.load_timeout_ms = timeout_ms;
    int64_t start = now_ms();
    await(LINK_DIED, 3);
    assert_string_equal(heard.reason, "load");
    assert_string_equal(heard.words, words);
    assert_true(now_ms() - start >= 100 + 200); /* the pauses before the second and third */
    assert_int_equal(heard.count[LINK_READY], 0);
}

static void test_load_failures(void **state) {
    (void)state;
    expect_load_failure("die", "", PATIENCE_MS);
    destroy(NULL);
    expect_load_failure("fail", "no such model", PATIENCE_MS);
    destroy(NULL);
    expect_load_failure("hang", "", 300);
}

static void test_stop(void **state) {
    (void)state;
    create_ready();
    submit(1, "wait");
    link_stop(link_);
    struct link_picture p = picture_of("draw", 2);
    assert_false(link_submit(link_, 2, &p));
    int64_t end = now_ms() + PATIENCE_MS;
    while (link_pid(link_) && now_ms() < end)
        turn();
    assert_int_equal(link_pid(link_), 0);
    turn_for(50);
    assert_int_equal(link_pid(link_), 0);
    assert_int_equal(link_fd(link_), -1);
    assert_int_equal(link_timeout_ms(link_), -1);
    assert_int_equal(heard.count[LINK_DIED], 0);
}

static void test_destroy_reaps(void **state) {
    (void)state;
    create_ready();
    submit(1, "hang");
    int pid = link_pid(link_);
    assert_int_equal(kill(pid, 0), 0);
    link_destroy(&link_);
    assert_int_equal(kill(pid, 0), -1);
}

static void test_refused(void **state) {
    (void)state;
    create_ready();
    struct link_picture p = picture_of("draw", 1);
    p.width = 4096; /* a picture and two previews are more than 1 MiB */
    assert_false(link_can_hold(link_, &p));
    assert_false(link_submit(link_, 1, &p));
    p.width = ASDM_SIDE_MAX;
    p.height = ASDM_SIDE_MAX;
    assert_false(link_can_hold(link_, &p));
    char *prompt = calloc(1, WIRE_PROMPT_MAX + 2);
    memset(prompt, 'x', WIRE_PROMPT_MAX + 1);
    p = picture_of(prompt, 1);
    assert_false(link_can_hold(link_, &p));
    prompt[WIRE_PROMPT_MAX] = '\0';
    assert_true(link_can_hold(link_, &p));
    free(prompt);

    struct asdm_error err;
    struct link *other = NULL;
    struct config bad = config;
    bad.worker = (char[]){"/nowhere/asdm-worker"};
    assert_int_equal(link_create(&bad, (int[]){1}, 1, handle, NULL, &other, &err), ASDM_ERR_NOT_FOUND);
    assert_null(other);
}

static void test_regions(void **state) {
    (void)state;
    struct regions *r = calloc(1, sizeof *r);
    struct region a, b, c, d;
    r->bytes = 5 * REGION_GRANULE;
    assert_false(region_take(r, 0, &a));
    assert_false(region_take(r, UINT64_MAX, &a));
    assert_true(region_take(r, 1, &a));
    assert_true(region_take(r, 2 * REGION_GRANULE, &b));
    assert_true(region_take(r, 2 * REGION_GRANULE - 1, &c));
    assert_false(region_take(r, 1, &d));
    assert_int_equal(c.offset, 3 * REGION_GRANULE);
    region_drop(r, &b);
    assert_false(region_take(r, 2 * REGION_GRANULE + 1, &d));
    assert_true(region_take(r, 1, &b)); /* first fit: the gap */
    assert_int_equal(b.offset, REGION_GRANULE);
    region_drop(r, &a);
    assert_true(region_take(r, 1, &a));
    assert_int_equal(a.offset, 0);
    region_drop(r, &c);
    assert_true(region_take(r, 3 * REGION_GRANULE, &c));
    assert_int_equal(c.offset, 2 * REGION_GRANULE);
    free(r);
}

#define TEST(name) cmocka_unit_test_teardown(name, destroy)

int main(void) {
    const struct CMUnitTest tests[] = {TEST(test_draws),         TEST(test_init_and_mask), TEST(test_fails_alone),
                                       TEST(test_preview),       TEST(test_cancel),        TEST(test_cancelled_place),
                                       TEST(test_crash),         TEST(test_kill),          TEST(test_hang),
                                       TEST(test_exit),          TEST(test_lies),          TEST(test_watchdog),
                                       TEST(test_full_socket),   TEST(test_load_failures), TEST(test_stop),
                                       TEST(test_destroy_reaps), TEST(test_refused),       TEST(test_regions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
