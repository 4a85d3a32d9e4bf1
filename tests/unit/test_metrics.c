/* front/metrics.h */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pthread.h>

#include <cmocka.h>

#include "front/metrics.h"

static char *text_of(struct metrics *metrics) {
    struct buffer text;
    buffer_init(&text, 16 << 20);
    metrics_write(metrics, &text);
    assert_false(text.failed);
    return text.data;
}

static void assert_has(struct metrics *metrics, const char *line) {
    char *text = text_of(metrics);
    if (!strstr(text, line))
        fail_msg("no \"%s\" in:\n%s", line, text);
    free(text);
}

/* How a number is written is not the matter. */
static void assert_value(struct metrics *metrics, const char *series, double expected) {
    char *text = text_of(metrics), start[300];
    snprintf(start, sizeof start, "\n%s ", series);
    const char *line = strstr(text, start);
    if (!line || strtod(line + strlen(start), NULL) != expected)
        fail_msg("%s is not %g in:\n%s", series, expected, text);
    free(text);
}

static int setup(void **state) {
    *state = metrics_create();
    return *state ? 0 : -1;
}

static int teardown(void **state) {
    struct metrics *metrics = *state;
    metrics_destroy(&metrics);
    return metrics ? -1 : 0;
}

static void counters_and_gauges(void **state) {
    struct metrics *metrics = *state;
    metrics_add(metrics, METRIC_REQUESTS, "/v1/jobs", "200", 1);
    metrics_add(metrics, METRIC_REQUESTS, "/v1/jobs", "200", 2);
    metrics_add(metrics, METRIC_REQUESTS, "/v1/jobs", "404", 1);
    metrics_set(metrics, METRIC_MODEL_READY, "scenes", NULL, 1);
    metrics_set(metrics, METRIC_MODEL_READY, "scenes", NULL, 0);
    assert_has(metrics, "# TYPE asdm_requests_total counter\n");
    assert_value(metrics, "asdm_requests_total{route=\"/v1/jobs\",code=\"200\"}", 3);
    assert_value(metrics, "asdm_requests_total{route=\"/v1/jobs\",code=\"404\"}", 1);
    assert_has(metrics, "# TYPE asdm_model_ready gauge\nasdm_model_ready{model=\"scenes\"} 0\n");
}

static void what_has_no_labels_starts_at_zero(void **state) {
    struct metrics *metrics = *state;
    assert_has(metrics, "\nasdm_queue_depth 0\n");
    assert_has(metrics, "\nasdm_queue_wait_seconds_count 0\n");
    assert_has(metrics, "\nasdm_batch_rows_bucket{le=\"+Inf\"} 0\n");
}

static void buckets_add_up(void **state) {
    struct metrics *metrics = *state;
    metrics_observe(metrics, METRIC_QUEUE_SECONDS, NULL, NULL, 0.001); /* a bound belongs to its bucket */
    metrics_observe(metrics, METRIC_QUEUE_SECONDS, NULL, NULL, 0.002);
    metrics_observe(metrics, METRIC_QUEUE_SECONDS, NULL, NULL, 301);
    assert_has(metrics, "\nasdm_queue_wait_seconds_bucket{le=\"0.001\"} 1\n");
    assert_has(metrics, "\nasdm_queue_wait_seconds_bucket{le=\"0.0025\"} 2\n");
    assert_has(metrics, "\nasdm_queue_wait_seconds_bucket{le=\"300\"} 2\n");
    assert_has(metrics, "\nasdm_queue_wait_seconds_bucket{le=\"+Inf\"} 3\n");
    assert_has(metrics, "\nasdm_queue_wait_seconds_count 3\n");
    metrics_observe(metrics, METRIC_STEP_SECONDS, "scenes", "4", 0.5);
    assert_has(metrics, "\nasdm_step_duration_seconds_bucket{model=\"scenes\",rows=\"4\",le=\"0.5\"} 1\n");
    assert_has(metrics, "\nasdm_step_duration_seconds_sum{model=\"scenes\",rows=\"4\"} 0.5\n");
    metrics_observe(metrics, METRIC_BATCH_ROWS, NULL, NULL, 16);
    assert_has(metrics, "\nasdm_batch_rows_bucket{le=\"8\"} 0\nasdm_batch_rows_bucket{le=\"16\"} 1\n");
}

static void mean_is_over_all_labels(void **state) {
    struct metrics *metrics = *state;
    double mean = -1;
    uint64_t count = 9;
    metrics_mean(metrics, METRIC_STEP_SECONDS, &mean, &count);
    assert_true(mean == 0 && count == 0);
    metrics_observe(metrics, METRIC_STEP_SECONDS, "a", "2", 1);
    metrics_observe(metrics, METRIC_STEP_SECONDS, "b", "4", 3);
    metrics_mean(metrics, METRIC_STEP_SECONDS, &mean, &count);
    assert_true(mean == 2 && count == 2);
}

static void label_values_are_escaped_and_cut(void **state) {
    struct metrics *metrics = *state;
    metrics_add(metrics, METRIC_REJECTED, "a\"b\\c\nd", NULL, 1);
    assert_value(metrics, "asdm_rejected_total{reason=\"a\\\"b\\\\c\\nd\"}", 1);
    char name[300];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    metrics_add(metrics, METRIC_CANCELLED, name, NULL, 1);
    metrics_add(metrics, METRIC_CANCELLED, name, NULL, 1);
    name[95] = '\0';
    char line[200];
    snprintf(line, sizeof line, "asdm_cancelled_total{reason=\"%.95s\"}", name);
    assert_value(metrics, line, 2);
}

static void series_are_limited(void **state) {
    struct metrics *metrics = *state;
    for (int i = 0; i < 250; i++) {
        char code[16];
        snprintf(code, sizeof code, "%d", i);
        metrics_add(metrics, METRIC_REQUESTS, "/x", code, 1);
    }
    assert_value(metrics, "asdm_requests_total{route=\"/x\",code=\"199\"}", 1);
    assert_value(metrics, "asdm_requests_total{route=\"other\",code=\"other\"}", 50);
    char *text = text_of(metrics);
    int count = 0;
    for (const char *at = text; (at = strstr(at, "\nasdm_requests_total{")); at++)
        count++;
    free(text);
    assert_int_equal(count, 201);
}

static void *observe_many(void *metrics) {
    for (int i = 0; i < 10000; i++) {
        metrics_observe(metrics, METRIC_STAGE_SECONDS, i % 2 ? "text" : "decode", NULL, 0.01);
        metrics_add(metrics, METRIC_IMAGES, "m", "t2i", 1);
    }
    return NULL;
}

static void threads_lose_nothing(void **state) {
    struct metrics *metrics = *state;
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, observe_many, metrics), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_value(metrics, "asdm_images_total{model=\"m\",mode=\"t2i\"}", 40000);
    assert_has(metrics, "\nasdm_stage_duration_seconds_count{stage=\"text\"} 20000\n");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(counters_and_gauges),     TEST(what_has_no_labels_starts_at_zero), TEST(buckets_add_up),
        TEST(mean_is_over_all_labels), TEST(label_values_are_escaped_and_cut),  TEST(series_are_limited),
        TEST(threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
