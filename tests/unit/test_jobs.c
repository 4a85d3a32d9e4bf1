/* front/job: limits, order, batches, deaths, results, against a link that draws by rule (support/fake_link.c). */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_link.h"
#include "front/job/job.h"

enum { SIDE = 64, PATIENCE_S = 60 };

static struct config config;
static struct metrics *metrics;
static struct jobs *jobs;
static char model_path[64];
static const struct key anybody = {.name = "anybody"}, other = {.name = "other", .index = 7};
static const struct fake_options usual = {.rows_max = 4, .pictures_max = 8, .step_ms = 1, .row_pixels_max = 1 << 20};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static int prepare(void **state) {
    (void)state;
    snprintf(model_path, sizeof model_path, "/tmp/asdm-test-jobs-XXXXXX");
    int fd = mkstemp(model_path);
    if (fd < 0 || write(fd, "abc", 3) != 3)
        return 1;
    close(fd);
    config = (struct config){.models = {{.name = "one", .path = model_path}},
                             .model_count = 1,
                             .attempts_max = 3,
                             .queue_pictures_max = 256,
                             .result_ttl_s = 3600,
                             .result_memory_mb = 64,
                             .png_threads = 2,
                             .png_level = 1,
                             .drain_timeout_ms = 30000};
    fake_reset(&usual);
    metrics = metrics_create();
    return metrics == NULL;
}

static int clean(void **state) {
    (void)state;
    jobs_destroy(&jobs);
    metrics_destroy(&metrics);
    unlink(model_path);
    return 0;
}

static void start(void) {
    struct asdm_error err;
    struct jobs_overview overview = {0};
    assert_int_equal(jobs_create(&config, metrics, &jobs, &err), ASDM_OK);
    assert_int_equal(jobs_start(jobs, &err), ASDM_OK);
    for (double end = now_s() + PATIENCE_S; !overview.ready && now_s() < end; nap())
        jobs_overview(jobs, &overview);
    assert_true(overview.ready);
}

static struct job_request request_of(const char *prompt, int steps, uint64_t seed) {
    return (struct job_request){.prompt = strdup(prompt),
                                .negative_prompt = strdup(""),
                                .width = SIDE,
                                .height = SIDE,
                                .steps = steps,
                                .count = 1,
                                .sampler = "euler",
                                .schedule = "default",
                                .evaluations = steps,
                                .guidance_scale = 5,
                                .seed = seed,
                                .priority = 5};
}

static struct job *submit_request(struct job_request *request, const struct key *caller) {
    struct job *job = NULL;
    struct problem problem;
    bool again;
    if (!jobs_submit(jobs, request, caller, &job, &again, &problem))
        fail_msg("%d %s: %s", problem.status, problem.code, problem.message);
    assert_false(again);
    return job;
}

static struct job *submit(const char *prompt, int steps, uint64_t seed) {
    struct job_request request = request_of(prompt, steps, seed);
    return submit_request(&request, &anybody);
}

static struct problem refused(struct job_request *request, const struct key *caller) {
    struct job *job;
    struct problem problem = {0};
    bool again;
    assert_false(jobs_submit(jobs, request, caller, &job, &again, &problem));
    return problem;
}

static struct job_view view_of(struct job *job) {
    struct job_view view;
    job_view(job, &view);
    return view;
}

static void await_done(struct job *job, int pictures) {
    double end = now_s() + PATIENCE_S;
    while (view_of(job).pictures_done < pictures && view_of(job).state <= JOB_RUNNING && now_s() < end)
        nap();
}

/* Waits for its end and lets go of it. */
static struct job_view finish(struct job **job) {
    double end = now_s() + PATIENCE_S;
    while (view_of(*job).state <= JOB_RUNNING && now_s() < end)
        nap();
    struct job_view view = view_of(*job);
    assert_true(view.state > JOB_RUNNING);
    job_unref(job);
    return view;
}

static struct fake_seen seen(void) {
    static struct fake_seen all;
    fake_look(&all);
    return all;
}

static void await_submitted(int count) {
    for (double end = now_s() + PATIENCE_S; seen().submitted < count && now_s() < end;)
        nap();
    assert_true(seen().submitted >= count);
}

static void await_running(struct job *job) {
    for (double end = now_s() + PATIENCE_S; view_of(job).state == JOB_QUEUED && now_s() < end;)
        nap();
    assert_int_equal(view_of(job).state, JOB_RUNNING);
}

static void assert_metric(const char *line) {
    struct buffer text;
    buffer_init(&text, 1 << 20);
    metrics_write(metrics, &text);
    if (!strstr(text.data, line))
        fail_msg("no \"%s\" in:\n%s", line, text.data);
    buffer_done(&text);
}

/* ---- a job's way */

struct heard {
    pthread_mutex_t lock;
    int count[JOB_EVENT_FINISHED + 1], after_end, done_at_end;
    bool previewed;
};

static void hear(void *user, struct job *job, const struct job_event *event) {
    struct heard *heard = user;
    (void)job;
    pthread_mutex_lock(&heard->lock);
    heard->after_end += heard->count[JOB_EVENT_FINISHED] > 0;
    heard->count[event->type]++;
    if (event->type == JOB_EVENT_FINISHED)
        heard->done_at_end = event->view->pictures_done;
    if (event->type == JOB_EVENT_PREVIEW)
        heard->previewed = event->png && event->png_size > 8 && memcmp(event->png, "\x89PNG", 4) == 0;
    pthread_mutex_unlock(&heard->lock);
}

static void await_heard(struct heard *heard, enum job_event_type type, int count) {
    int now = 0;
    for (double end = now_s() + PATIENCE_S; now < count && now_s() < end; nap()) {
        pthread_mutex_lock(&heard->lock);
        now = heard->count[type];
        pthread_mutex_unlock(&heard->lock);
    }
    assert_int_equal(now, count);
}

static void test_pictures_and_events(void **state) {
    (void)state;
    struct heard heard = {.lock = PTHREAD_MUTEX_INITIALIZER}, late = heard;
    struct job_request request = request_of("a cat", 5, 40);
    start();
    request.count = 3;
    fake_hold(1);
    struct job *job = submit_request(&request, &anybody);
    job_watch(job, hear, &heard);
    fake_hold(0);
    await_heard(&heard, JOB_EVENT_FINISHED, 1);
    job_watch(job, hear, &late);
    await_heard(&late, JOB_EVENT_FINISHED, 1);
    assert_int_equal(heard.count[JOB_EVENT_PICTURE], 3);
    assert_true(heard.count[JOB_EVENT_PROGRESS] > 0);
    assert_int_equal(heard.after_end, 0);
    assert_int_equal(heard.done_at_end, 3);
    struct job_view view = view_of(job);
    assert_int_equal(view.state, JOB_SUCCEEDED);
    assert_int_equal(view.step, 15);
    assert_int_equal(view.steps, 15);
    assert_int_equal(view.queue_position, -1);
    assert_true(view.inference_seconds > 0 && view.total_seconds >= view.inference_seconds);
    for (int i = 0; i < 3; i++) {
        struct asdm_image image;
        assert_true(view.images[i].seed == 40 + (uint64_t)i);
        assert_int_equal(asdm_png_decode(view.images[i].png, view.images[i].png_size, "png", 1 << 20, &image, NULL),
                         ASDM_OK);
        assert_int_equal(image.width, SIDE);
        assert_int_equal(image.rgb[0], 40 + i);
        assert_non_null(memmem(view.images[i].png, view.images[i].png_size, "parametersa cat\0", 10));
        asdm_image_done(&image);
    }
    job_unref(&job);
    assert_metric("asdm_images_total{model=\"one\",mode=\"t2i\"} 3");
    assert_metric("asdm_gpu_memory_used_bytes 3000");
    assert_metric("asdm_device_memory_bytes{model=\"one\",kind=\"weights\"} 2000");
    assert_metric("asdm_device_memory_bytes{model=\"one\",kind=\"plans\"} 700");
    assert_metric("asdm_device_memory_bytes{model=\"one\",kind=\"free\"} 5000");
    assert_metric("asdm_queue_wait_seconds_count 3");
    assert_metric("asdm_stage_duration_seconds_count{stage=\"png\"} 3");
    struct model_view model;
    jobs_model(jobs, 0, &model);
    assert_string_equal(model.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(model.default_width, 64);
}

static void test_init_image_goes_along(void **state) {
    (void)state;
    struct job_request request = request_of("a cat", 2, 1);
    start();
    request.i2i = true;
    request.init = (struct asdm_image){2, 1, malloc(6)};
    memset(request.init.rgb, 3, 6);
    request.mask = calloc(2, 1);
    struct job *job = submit_request(&request, &anybody);
    struct job_view view = finish(&job);
    assert_int_equal(view.state, JOB_SUCCEEDED);
    assert_int_equal(seen().init_sum, 18);
    assert_metric("asdm_images_total{model=\"one\",mode=\"i2i\"} 1");
}

static void test_no_time_is_lost_before_the_worker(void **state) {
    (void)state;
    double best = 1;
    start();
    for (int i = 0; i < 200 && best >= 0.001; i++) { /* on a busy machine some take longer */
        double before = now_s();
        struct job *job = submit("a cat", 1, (uint64_t)i);
        finish(&job);
        double took = seen().last_submit - before;
        best = took < best ? took : best;
    }
    assert_true(best < 0.001);
}

static void test_previews(void **state) {
    (void)state;
    struct heard heard = {.lock = PTHREAD_MUTEX_INITIALIZER};
    unsigned char *png = NULL;
    size_t size;
    start();
    struct job *job = submit("a cat", 100000, 1);
    job_watch(job, hear, &heard);
    assert_false(job_last_preview(job, &png, &size));
    await_running(job);
    job_preview(job);
    await_heard(&heard, JOB_EVENT_PREVIEW, 1);
    assert_true(heard.previewed);
    assert_true(job_last_preview(job, &png, &size));
    free(png);
    job_cancel(job, "client");
    await_heard(&heard, JOB_EVENT_FINISHED, 1);
    job_unref(&job);
}

/* ---- batches and order */

static void test_rows_are_filled_and_not_overfilled(void **state) {
    (void)state;
    struct job *all[40];
    start();
    fake_hold(1);
    for (int i = 0; i < 40; i++) {
        struct job_request request = request_of("a cat", 3 + i % 5, (uint64_t)i);
        request.guidance_scale = i % 3 ? 5 : 1;
        all[i] = submit_request(&request, &anybody);
    }
    fake_hold(0);
    for (int i = 0; i < 40; i++)
        assert_int_equal(finish(&all[i]).state, JOB_SUCCEEDED);
    assert_int_equal(seen().rows_most, 4);
    assert_in_range(seen().waiting_most, 1, 2);
}

static void test_memory_is_not_overfilled(void **state) {
    (void)state;
    struct fake_options small = usual;
    struct job *all[20];
    small.row_pixels_max = 2 * 128 * 128 + 2 * SIDE * SIDE;
    fake_reset(&small);
    start();
    for (int i = 0; i < 20; i++) {
        struct job_request request = request_of("a cat", 4, (uint64_t)i);
        request.width = request.height = i % 4 < 2 ? 128 : SIDE;
        all[i] = submit_request(&request, &anybody);
    }
    for (int i = 0; i < 20; i++)
        assert_int_equal(finish(&all[i]).state, JOB_SUCCEEDED);
    assert_in_range(seen().row_pixels_most, 2 * 128 * 128, small.row_pixels_max);
}

/* One picture runs and two wait in the worker; returns them, after which the queue's order shows. */
static void fill_worker(struct job *ret[3]) {
    struct fake_options narrow = usual;
    narrow.rows_max = 2;
    fake_reset(&narrow);
    start();
    fake_hold(1);
    for (int i = 0; i < 3; i++)
        ret[i] = submit("a cat", 2, 1000 + (uint64_t)i);
    await_submitted(3);
}

static void test_order(void **state) {
    (void)state;
    struct job *first[3], *all[5];
    const struct { int priority, deadline_ms; } asked[5] = {{5, 0}, {5, 500000}, {5, 400000}, {1, 0}, {5, 0}};
    const uint64_t order[5] = {3, 2, 1, 0, 4};
    fill_worker(first);
    for (int i = 0; i < 5; i++) {
        struct job_request request = request_of("a cat", 2, (uint64_t)i);
        request.priority = asked[i].priority;
        request.deadline_ms = asked[i].deadline_ms;
        all[i] = submit_request(&request, &anybody);
    }
    assert_int_equal(view_of(all[3]).queue_position, 0);
    assert_int_equal(view_of(all[4]).queue_position, 4);
    fake_hold(0);
    for (int i = 0; i < 3; i++)
        finish(&first[i]);
    for (int i = 0; i < 5; i++)
        assert_int_equal(finish(&all[i]).state, JOB_SUCCEEDED);
    for (int i = 0; i < 5; i++)
        assert_true(seen().seeds[3 + i] == order[i]);
}

static void test_keys_take_turns(void **state) {
    (void)state;
    struct job *first[3], *all[8];
    fill_worker(first);
    for (int i = 0; i < 8; i++) {
        struct job_request request = request_of("a cat", 2, (uint64_t)i);
        all[i] = submit_request(&request, i < 5 ? &anybody : &other);
    }
    fake_hold(0);
    for (int i = 0; i < 3; i++)
        finish(&first[i]);
    for (int i = 0; i < 8; i++)
        finish(&all[i]);
    /* The other key, which came last, has its three among the first six or seven. */
    int others = 0;
    for (int i = 3; i < 10; i++)
        others += seen().seeds[i] >= 5 && seen().seeds[i] < 8;
    assert_int_equal(others, 3);
    assert_true(seen().seeds[10] == 4);
}

/* ---- limits */

static void test_limits_of_a_key(void **state) {
    (void)state;
    struct key slow = {.index = 1, .rate_per_minute = 3}, small = {.index = 2, .pixels_per_minute = 2 * SIDE * SIDE},
               narrow = {.index = 3, .queue_max = 2};
    struct job_request request;
    struct problem problem;
    struct job *job, *first[3];
    fill_worker(first);
    for (int i = 0; i < 3; i++) {
        request = request_of("a cat", 1, 1);
        job = submit_request(&request, &slow);
        job_unref(&job);
    }
    request = request_of("a cat", 1, 1);
    problem = refused(&request, &slow);
    assert_int_equal(problem.status, 429);
    assert_string_equal(problem.code, "rate_limited");
    assert_in_range(problem.retry_after_ms, 15000, 20000);

    request = request_of("a cat", 1, 1);
    request.count = 2;
    job = submit_request(&request, &small);
    job_unref(&job);
    request = request_of("a cat", 1, 1);
    problem = refused(&request, &small);
    assert_int_equal(problem.status, 429);
    assert_in_range(problem.retry_after_ms, 25000, 30000);

    request = request_of("a cat", 1, 1);
    request.count = 2;
    job = submit_request(&request, &narrow);
    request = request_of("a cat", 1, 1);
    problem = refused(&request, &narrow);
    assert_int_equal(problem.status, 429);
    assert_true(problem.retry_after_ms >= 1000);
    job_cancel(job, "client");
    job_unref(&job);
    request = request_of("a cat", 1, 1);
    job = submit_request(&request, &narrow); /* there is room again */
    job_unref(&job);
    fake_hold(0);
    for (int i = 0; i < 3; i++)
        finish(&first[i]);
    assert_metric("asdm_rejected_total{reason=\"rate_limited\"} 3");
}

static void test_the_queue_has_an_end(void **state) {
    (void)state;
    struct job *first[3], *job;
    struct job_request request;
    config.queue_pictures_max = 5;
    fill_worker(first);
    int accepted = 0;
    struct problem problem = {0};
    for (bool good = true, again; good && accepted < 10; accepted += good) {
        request = request_of("a cat", 1, 1);
        good = jobs_submit(jobs, &request, &anybody, &job, &again, &problem);
        if (good)
            job_unref(&job);
    }
    assert_in_range(accepted, 2, 5); /* those in the worker may count or not */
    assert_int_equal(problem.status, 503);
    assert_string_equal(problem.code, "queue_full");
    assert_true(problem.retry_after_ms >= 1000);
    fake_hold(0);
    for (int i = 0; i < 3; i++)
        finish(&first[i]);
}

static void test_deadlines(void **state) {
    (void)state;
    struct fake_options slow = usual;
    struct job_request request;
    slow.step_ms = 10;
    fake_reset(&slow);
    start();
    struct job *job = submit("a cat", 20, 1);
    assert_int_equal(finish(&job).state, JOB_SUCCEEDED);
    request = request_of("a cat", 1000, 1);
    request.deadline_ms = 500; /* for what takes ten seconds */
    struct problem problem = refused(&request, &anybody);
    assert_int_equal(problem.status, 504);
    assert_string_equal(problem.code, "deadline");
    request = request_of("a cat", 2, 1);
    request.deadline_ms = 20000;
    job = submit_request(&request, &anybody);
    assert_int_equal(finish(&job).state, JOB_SUCCEEDED);

    fake_hold(1);
    struct job *busy[4];
    for (int i = 0; i < 4; i++)
        busy[i] = submit("a cat", 2, 2);
    await_submitted(6);
    request = request_of("a cat", 2, 3);
    request.deadline_ms = 400;
    request.priority = 9;
    job = submit_request(&request, &anybody);
    struct job_view view = finish(&job); /* nothing moves, time passes */
    assert_int_equal(view.state, JOB_FAILED);
    assert_int_equal(view.problem.status, 504);
    fake_hold(0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(finish(&busy[i]).state, JOB_SUCCEEDED);
}

/* ---- who finds what */

static void test_idempotency(void **state) {
    (void)state;
    struct job *first, *job;
    struct problem problem;
    bool again;
    start();
    fake_hold(1);
    struct job_request request = request_of("a cat", 2, 1);
    request.idempotency_key = strdup("k");
    first = submit_request(&request, &anybody);
    request = request_of("a cat", 2, 1);
    request.idempotency_key = strdup("k");
    assert_true(jobs_submit(jobs, &request, &anybody, &job, &again, &problem));
    assert_true(again);
    assert_ptr_equal(job, first);
    job_unref(&job);
    request = request_of("a cat", 2, 2);
    request.idempotency_key = strdup("k");
    problem = refused(&request, &anybody);
    assert_int_equal(problem.status, 422);
    assert_string_equal(problem.code, "idempotency_mismatch");
    request = request_of("a cat", 2, 2);
    request.idempotency_key = strdup("k");
    job = submit_request(&request, &other); /* keys are each caller's own */
    job_unref(&job);
    for (uint64_t seed = 5; seed < 7; seed++) {
        request = request_of("a cat", 2, seed);
        request.seed_drawn = true;
        request.idempotency_key = strdup("drawn");
        assert_true(jobs_submit(jobs, &request, &anybody, &job, &again, &problem));
        assert_int_equal(again, seed == 6);
        job_unref(&job);
    }
    fake_hold(0);
    assert_int_equal(finish(&first).state, JOB_SUCCEEDED);
}

static void test_who_finds_a_job(void **state) {
    (void)state;
    struct key admin = {.index = 9, .admin = true};
    struct problem problem;
    struct job *found, *list[4];
    start();
    struct job *job = submit("a cat", 1, 1);
    struct job_view view = view_of(job);
    assert_true(jobs_find(jobs, view.id, &anybody, NULL, &found, &problem));
    job_unref(&found);
    assert_true(jobs_find(jobs, view.id, &admin, NULL, &found, &problem));
    job_unref(&found);
    assert_true(jobs_find(jobs, view.id, &other, view.token, &found, &problem));
    job_unref(&found);
    assert_false(jobs_find(jobs, view.id, &other, view.id, &found, &problem));
    assert_int_equal(problem.status, 404);
    assert_false(jobs_find(jobs, "job_nothing", &anybody, NULL, &found, &problem));
    assert_int_equal(problem.status, 404);
    assert_int_equal(jobs_list(jobs, &other, false, list, 4), 0);
    assert_int_equal(jobs_list(jobs, &anybody, false, list, 4), 1);
    assert_ptr_equal(list[0], job);
    job_unref(&list[0]);
    finish(&job);
    assert_int_equal(jobs_list(jobs, &anybody, true, list, 4), 0);
}

static void await_gone(const char *id) {
    struct problem problem = {0};
    struct job *found;
    for (double end = now_s() + PATIENCE_S; now_s() < end && problem.status == 0; nap())
        if (jobs_find(jobs, id, &anybody, NULL, &found, &problem))
            job_unref(&found);
    assert_int_equal(problem.status, 410);
    assert_string_equal(problem.code, "gone");
}

static void test_results_expire_by_age(void **state) {
    (void)state;
    config.result_ttl_s = 1;
    start();
    struct job *job = submit("a cat", 1, 1);
    struct job_view view = finish(&job);
    await_gone(view.id);
}

static void test_results_expire_by_size(void **state) {
    (void)state;
    config.result_memory_mb = 0;
    start();
    struct job *job = submit("a cat", 1, 1);
    await_done(job, 1);
    nap();
    struct job_view view = view_of(job);
    struct problem problem;
    struct job *found;
    assert_true(jobs_find(jobs, view.id, &anybody, NULL, &found, &problem)); /* somebody waits for it */
    job_unref(&found);
    job_unref(&job);
    job = submit("a cat", 1, 2); /* whose end makes room */
    finish(&job);
    await_gone(view.id);
}

/* ---- ends */

static void test_cancel(void **state) {
    (void)state;
    struct job *first[3];
    fill_worker(first);
    struct job *waiting = submit("a cat", 2, 9), *next = submit("a cat", 2, 10);
    fake_hold(0);
    fake_hold(1);
    job_cancel(waiting, "client");
    job_cancel(first[0], "gone");
    struct job_view view = finish(&waiting);
    assert_int_equal(view.state, JOB_CANCELLED);
    assert_int_equal(view.problem.status, 499);
    assert_string_equal(view.problem.code, "cancelled");
    assert_int_equal(finish(&first[0]).state, JOB_CANCELLED);
    await_submitted(4); /* its place is taken, though no step was done */
    assert_int_equal(seen().cancelled, 1);
    assert_true(seen().seeds[3] == 10);
    fake_hold(0);
    for (int i = 1; i < 3; i++)
        assert_int_equal(finish(&first[i]).state, JOB_SUCCEEDED);
    assert_int_equal(finish(&next).state, JOB_SUCCEEDED);
    assert_metric("asdm_cancelled_total{reason=\"client\"} 1");
    assert_metric("asdm_cancelled_total{reason=\"gone\"} 1");
}

static void test_a_picture_that_fails_alone(void **state) {
    (void)state;
    start();
    struct job *wrong = submit("wrong", 5, 1), *good = submit("a cat", 5, 2);
    struct job_view view = finish(&wrong);
    assert_int_equal(view.state, JOB_FAILED);
    assert_int_equal(view.problem.status, 422);
    assert_int_equal(finish(&good).state, JOB_SUCCEEDED);
    struct job_request request = request_of("a cat", 1, 1);
    request.width = 8192;
    struct job *large = submit_request(&request, &anybody);
    assert_int_equal(finish(&large).problem.status, 422);
}

static void test_a_death_is_not_noticed(void **state) {
    (void)state;
    struct job *all[6];
    start();
    fake_hold(1);
    all[0] = submit("crash once", 4, 100);
    for (int i = 1; i < 6; i++)
        all[i] = submit("a cat", 8, (uint64_t)i);
    await_submitted(4);
    fake_hold(0);
    for (int i = 0; i < 6; i++)
        assert_int_equal(finish(&all[i]).state, JOB_SUCCEEDED);
    assert_int_equal(seen().deaths, 1);
    assert_int_equal(seen().crowded, 0); /* those that were in it ran again one by one */
    assert_metric("asdm_worker_restarts_total{reason=\"crashed\"} 1");
}

static void poison(const char *prompt) {
    struct job *all[8];
    char id[JOB_ID_BYTES];
    start();
    fake_hold(1);
    for (int i = 0; i < 8; i++)
        all[i] = submit(i == 1 ? prompt : "a cat", 4, (uint64_t)i + 1);
    snprintf(id, sizeof id, "%s", view_of(all[1]).id);
    await_submitted(4); /* so that none has begun when the worker dies first */
    fake_hold(0);
    for (int i = 0; i < 8; i++) {
        struct job_view view = finish(&all[i]);
        assert_int_equal(view.state, i == 1 ? JOB_FAILED : JOB_SUCCEEDED);
        if (i != 1)
            continue;
        assert_int_equal(view.problem.status, 500);
        assert_string_equal(view.problem.code, "worker_failed");
        assert_non_null(strstr(view.problem.message, id));
    }
    assert_int_equal(seen().deaths, 3);
}

static void test_a_poison_picture_is_given_up(void **state) {
    (void)state;
    poison("crash");
}

static void test_a_picture_that_kills_before_its_first_step(void **state) {
    (void)state;
    poison("choke");
}

static void test_pictures_not_begun_lose_no_attempt(void **state) {
    (void)state;
    struct fake_options narrow = usual;
    narrow.rows_max = 2;
    fake_reset(&narrow);
    config.attempts_max = 1;
    start();
    struct job *running = submit("a cat", 100000, 1), *waiting[2] = {submit("a cat", 2, 2), submit("a cat", 2, 3)};
    await_running(running);
    await_submitted(3);
    fake_kill();
    assert_int_equal(finish(&running).problem.status, 500);
    for (int i = 0; i < 2; i++)
        assert_int_equal(finish(&waiting[i]).state, JOB_SUCCEEDED);
}

static void test_drain_waits(void **state) {
    (void)state;
    struct job *all[5];
    struct problem problem;
    start();
    for (int i = 0; i < 5; i++)
        all[i] = submit("a cat", 30, (uint64_t)i);
    jobs_drain(jobs);
    for (int i = 0; i < 5; i++)
        assert_int_equal(finish(&all[i]).state, JOB_SUCCEEDED);
    struct job_request request = request_of("a cat", 1, 1);
    problem = refused(&request, &anybody);
    assert_int_equal(problem.status, 503);
    assert_string_equal(problem.code, "draining");
    assert_true(problem.retry_after_ms > 0);
}

static void test_drain_has_an_end(void **state) {
    (void)state;
    struct heard heard = {.lock = PTHREAD_MUTEX_INITIALIZER};
    config.drain_timeout_ms = 50;
    start();
    fake_hold(1);
    struct job *job = submit("a cat", 30, 1);
    job_watch(job, hear, &heard);
    jobs_drain(jobs);
    assert_int_equal(heard.count[JOB_EVENT_FINISHED], 1); /* told before it returns */
    struct job_view view = finish(&job);
    assert_int_equal(view.state, JOB_FAILED);
    assert_int_equal(view.problem.status, 503);
    assert_string_equal(view.problem.code, "draining");
}

/* ---- all at once */

enum { STORM_THREADS = 4, STORM_JOBS = 40 };

static void *storm(void *user) {
    unsigned dice = (unsigned)(uintptr_t)user;
    struct heard heard = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct job *all[STORM_JOBS], *list[8];
    uintptr_t bad = 0;
    for (int i = 0; i < STORM_JOBS; i++) {
        struct job_request request = request_of("a cat", 1 + (int)(rand_r(&dice) % 6), (uint64_t)rand_r(&dice));
        request.count = 1 + (int)(rand_r(&dice) % 3);
        request.transient = dice % 5 == 0;
        all[i] = submit_request(&request, dice % 2 ? &anybody : &other);
        job_watch(all[i], hear, &heard);
        if (rand_r(&dice) % 5 == 0)
            job_cancel(all[rand_r(&dice) % (unsigned)(i + 1)], "client");
        if (rand_r(&dice) % 4 == 0)
            job_preview(all[i]);
        if (rand_r(&dice) % 30 == 0)
            fake_kill();
        for (int k = jobs_list(jobs, &anybody, true, list, 8); k > 0; k--) {
            struct job_view view = view_of(list[k - 1]);
            for (int p = 0; p < view.request->count; p++)
                bad += view.images[p].png && view.images[p].png_size < 8;
            job_unref(&list[k - 1]);
        }
    }
    for (int i = 0; i < STORM_JOBS; i++) {
        enum job_state end = finish(&all[i]).state;
        bad += end != JOB_SUCCEEDED && end != JOB_CANCELLED;
    }
    await_heard(&heard, JOB_EVENT_FINISHED, STORM_JOBS);
    return (void *)bad;
}

static void test_a_storm(void **state) {
    (void)state;
    pthread_t threads[STORM_THREADS];
    config.queue_pictures_max = 1000;
    config.attempts_max = 10;
    config.result_memory_mb = 1;
    start();
    for (int i = 0; i < STORM_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, storm, (void *)(uintptr_t)(i + 1)), 0);
    for (int i = 0; i < STORM_THREADS; i++) {
        void *bad;
        pthread_join(threads[i], &bad);
        assert_null(bad);
    }
    struct jobs_overview overview;
    for (double end = now_s() + PATIENCE_S; now_s() < end; nap()) {
        jobs_overview(jobs, &overview);
        if (overview.active_pictures == 0)
            break;
    }
    assert_int_equal(overview.queued, 0);
    assert_int_equal(overview.active_pictures, 0);
    assert_int_equal(overview.active_rows, 0);
    assert_true(seen().rows_most <= 4);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, clean)
    const struct CMUnitTest tests[] = {
        TEST(test_pictures_and_events),
        TEST(test_init_image_goes_along),
        TEST(test_no_time_is_lost_before_the_worker),
        TEST(test_previews),
        TEST(test_rows_are_filled_and_not_overfilled),
        TEST(test_memory_is_not_overfilled),
        TEST(test_order),
        TEST(test_keys_take_turns),
        TEST(test_limits_of_a_key),
        TEST(test_the_queue_has_an_end),
        TEST(test_deadlines),
        TEST(test_idempotency),
        TEST(test_who_finds_a_job),
        TEST(test_results_expire_by_age),
        TEST(test_results_expire_by_size),
        TEST(test_cancel),
        TEST(test_a_picture_that_fails_alone),
        TEST(test_a_death_is_not_noticed),
        TEST(test_a_poison_picture_is_given_up),
        TEST(test_a_picture_that_kills_before_its_first_step),
        TEST(test_pictures_not_begun_lose_no_attempt),
        TEST(test_drain_waits),
        TEST(test_drain_has_an_end),
        TEST(test_a_storm),
    };
    return cmocka_run_group_tests_name("jobs", tests, NULL, NULL);
}
