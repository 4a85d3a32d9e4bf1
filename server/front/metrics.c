/* Text as in Prometheus' exposition format 0.0.4. */
#include "front/metrics.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <asdm/error.h>

enum { LABELS_MAX = 2, SERIES_MAX = 200, LABEL_BYTES_MAX = 96, BUCKETS_MAX = 18 };

enum kind { COUNTER, GAUGE, HISTOGRAM };
static const char *const kind_names[] = {"counter", "gauge", "histogram"};

/* Upper bounds of buckets, ended by infinity. */
static const double seconds_bounds[BUCKETS_MAX] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                   1,     2.5,    5,     10,   30,    60,   120, 300,  INFINITY};
static const double rows_bounds[] = {1, 2, 4, 8, 16, 32, INFINITY};

struct row {
    const char *name, *help;
    enum kind kind;
    const char *labels[LABELS_MAX];
    const double *bounds; /* of a histogram */
};

static const struct row rows[METRIC_COUNT] = {
    [METRIC_REQUESTS] = {"asdm_requests_total", "HTTP requests answered.", COUNTER, {"route", "code"}, NULL},
    [METRIC_IMAGES] =
        {"asdm_images_total", "Pictures finished, by mode: t2i or i2i.", COUNTER, {"model", "mode"}, NULL},
    [METRIC_REJECTED] =
        {"asdm_rejected_total", "Requests for pictures that were not accepted.", COUNTER, {"reason"}, NULL},
    [METRIC_CANCELLED] =
        {"asdm_cancelled_total", "Jobs cancelled after they were accepted.", COUNTER, {"reason"}, NULL},
    [METRIC_WORKER_RESTARTS] =
        {"asdm_worker_restarts_total", "Worker processes started anew.", COUNTER, {"reason"}, NULL},
    [METRIC_QUEUE_DEPTH] = {"asdm_queue_depth", "Pictures that wait for a place in the batch.", GAUGE, {NULL}, NULL},
    [METRIC_ACTIVE_ROWS] = {"asdm_active_rows", "Rows in the batch: one or two for a picture.", GAUGE, {NULL}, NULL},
    [METRIC_CONNECTIONS] = {"asdm_connections", "Open HTTP connections.", GAUGE, {NULL}, NULL},
    [METRIC_MODEL_READY] =
        {"asdm_model_ready", "1 when the model is loaded and has drawn its canary picture.", GAUGE, {"model"}, NULL},
    [METRIC_GPU_MEMORY] = {"asdm_gpu_memory_used_bytes",
                           "Memory used on accelerators when models were loaded; 0 without one.",
                           GAUGE,
                           {NULL},
                           NULL},
    [METRIC_DEVICE_MEMORY] = {"asdm_device_memory_bytes",
                              "Of an accelerator's memory, when a model was loaded: its weights, its plans at the "
                              "most, and what was free.",
                              GAUGE,
                              {"model", "kind"},
                              NULL},
    [METRIC_BUILD_INFO] = {"asdm_build_info", "Always 1; the version is a label.", GAUGE, {"version"}, NULL},
    [METRIC_REQUEST_SECONDS] = {"asdm_request_duration_seconds",
                                "From the first byte of a request to the end of its answer.",
                                HISTOGRAM,
                                {"route"},
                                seconds_bounds},
    [METRIC_QUEUE_SECONDS] = {"asdm_queue_wait_seconds",
                              "From a picture's acceptance to its place in the batch.",
                              HISTOGRAM,
                              {NULL},
                              seconds_bounds},
    [METRIC_STAGE_SECONDS] = {"asdm_stage_duration_seconds",
                              "Time of one picture in a stage: text, encode, denoise, decode, png.",
                              HISTOGRAM,
                              {"stage"},
                              seconds_bounds},
    [METRIC_STEP_SECONDS] = {"asdm_step_duration_seconds",
                             "One evaluation of the UNet for all rows of the batch.",
                             HISTOGRAM,
                             {"model", "rows"},
                             seconds_bounds},
    [METRIC_BATCH_ROWS] = {"asdm_batch_rows", "Rows of each evaluation of the UNet.", HISTOGRAM, {NULL}, rows_bounds},
};

/* One metric with one set of label values. */
struct series {
    char labels[LABELS_MAX][LABEL_BYTES_MAX]; /* cut; "" where the metric has fewer */
    double value;                             /* a histogram's sum */
    uint64_t count;                           /* of a histogram */
    uint64_t buckets[BUCKETS_MAX];            /* each by itself, added up when written */
};

struct metrics {
    pthread_mutex_t lock;
    /* SERIES_MAX, then one that takes what comes after with "other" for each label */
    struct series *series[METRIC_COUNT][SERIES_MAX + 1];
    int series_count[METRIC_COUNT];
};

static int label_count(enum metric metric) {
    int count = 0;
    while (count < LABELS_MAX && rows[metric].labels[count])
        count++;
    return count;
}

static bool has_labels(const struct series *series, const char *const labels[LABELS_MAX]) {
    for (int i = 0; i < LABELS_MAX; i++)
        if (strncmp(series->labels[i], labels[i], LABEL_BYTES_MAX - 1) != 0)
            return false;
    return true;
}

/* The series of these labels, made where there is none; NULL when there is no memory. Called under the lock. */
static struct series *find(struct metrics *metrics, enum metric metric, const char *label0, const char *label1) {
    int count = label_count(metric);
    const char *labels[LABELS_MAX] = {count > 0 && label0 ? label0 : "", count > 1 && label1 ? label1 : ""};
    struct series **all = metrics->series[metric];
    int *used = &metrics->series_count[metric];
    for (int i = 0; i < *used; i++)
        if (has_labels(all[i], labels))
            return all[i];
    if (*used > SERIES_MAX)
        return all[SERIES_MAX];
    struct series *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    for (int i = 0; i < count; i++)
        snprintf(made->labels[i], LABEL_BYTES_MAX, "%s", *used == SERIES_MAX ? "other" : labels[i]);
    all[(*used)++] = made;
    return made;
}

struct metrics *metrics_create(void) {
    struct metrics *metrics = calloc(1, sizeof *metrics);
    if (!metrics)
        return NULL;
    pthread_mutex_init(&metrics->lock, NULL);
    /* What has no labels is there from the start, so that a rate has its zero. */
    for (int metric = 0; metric < METRIC_COUNT; metric++)
        if (label_count(metric) == 0 && !find(metrics, metric, NULL, NULL)) {
            metrics_destroy(&metrics);
            return NULL;
        }
    return metrics;
}

void metrics_destroy(struct metrics **metrics) {
    struct metrics *m = *metrics;
    if (!m)
        return;
    for (int metric = 0; metric < METRIC_COUNT; metric++)
        for (int i = 0; i < m->series_count[metric]; i++)
            free(m->series[metric][i]);
    pthread_mutex_destroy(&m->lock);
    free(m);
    *metrics = NULL;
}

void metrics_add(struct metrics *metrics, enum metric metric, const char *label0, const char *label1, double value) {
    ASDM_ASSERT(rows[metric].kind == COUNTER && value >= 0);
    pthread_mutex_lock(&metrics->lock);
    struct series *series = find(metrics, metric, label0, label1);
    if (series)
        series->value += value;
    pthread_mutex_unlock(&metrics->lock);
}

void metrics_set(struct metrics *metrics, enum metric metric, const char *label0, const char *label1, double value) {
    ASDM_ASSERT(rows[metric].kind == GAUGE);
    pthread_mutex_lock(&metrics->lock);
    struct series *series = find(metrics, metric, label0, label1);
    if (series)
        series->value = value;
    pthread_mutex_unlock(&metrics->lock);
}

void metrics_observe(struct metrics *metrics, enum metric metric, const char *label0, const char *label1,
                     double value) {
    ASDM_ASSERT(rows[metric].kind == HISTOGRAM);
    if (!isfinite(value))
        return;
    int bucket = 0;
    while (value > rows[metric].bounds[bucket])
        bucket++;
    pthread_mutex_lock(&metrics->lock);
    struct series *series = find(metrics, metric, label0, label1);
    if (series) {
        series->buckets[bucket]++;
        series->count++;
        series->value += value;
    }
    pthread_mutex_unlock(&metrics->lock);
}

/* ---- text */

static void put_label_value(struct buffer *to, const char *text) {
    for (; *text; text++)
        if (*text == '\n')
            buffer_text(to, "\\n");
        else if (*text == '\\' || *text == '"')
            buffer_print(to, "\\%c", *text);
        else
            buffer_put(to, text, 1);
}

/* NAME SUFFIX {labels, le} with its space; `le` NULL: none. */
static void put_name(struct buffer *to, enum metric metric, const struct series *series, const char *suffix,
                     const char *le) {
    const char *separator = "{";
    buffer_print(to, "%s%s", rows[metric].name, suffix);
    for (int i = 0; i < label_count(metric); i++) {
        buffer_print(to, "%s%s=\"", separator, rows[metric].labels[i]);
        put_label_value(to, series->labels[i]);
        buffer_text(to, "\"");
        separator = ",";
    }
    if (le)
        buffer_print(to, "%sle=\"%s\"", separator, le);
    buffer_text(to, le || label_count(metric) > 0 ? "} " : " ");
}

static void put_histogram(struct buffer *to, enum metric metric, const struct series *series) {
    uint64_t below = 0;
    for (int i = 0;; i++) {
        double bound = rows[metric].bounds[i];
        char le[32] = "+Inf";
        if (isfinite(bound))
            snprintf(le, sizeof le, "%g", bound);
        below += series->buckets[i];
        put_name(to, metric, series, "_bucket", le);
        buffer_print(to, "%llu\n", (unsigned long long)below);
        if (!isfinite(bound))
            break;
    }
    put_name(to, metric, series, "_sum", NULL);
    buffer_json_number(to, series->value);
    buffer_text(to, "\n");
    put_name(to, metric, series, "_count", NULL);
    buffer_print(to, "%llu\n", (unsigned long long)series->count);
}

void metrics_write(struct metrics *metrics, struct buffer *to) {
    pthread_mutex_lock(&metrics->lock);
    for (int metric = 0; metric < METRIC_COUNT; metric++) {
        const struct row *row = &rows[metric];
        buffer_print(to, "# HELP %s %s\n# TYPE %s %s\n", row->name, row->help, row->name, kind_names[row->kind]);
        for (int i = 0; i < metrics->series_count[metric]; i++) {
            const struct series *series = metrics->series[metric][i];
            if (row->kind == HISTOGRAM) {
                put_histogram(to, metric, series);
                continue;
            }
            put_name(to, metric, series, "", NULL);
            buffer_json_number(to, series->value);
            buffer_text(to, "\n");
        }
    }
    pthread_mutex_unlock(&metrics->lock);
}

void metrics_mean(struct metrics *metrics, enum metric metric, double *ret_mean, uint64_t *ret_count) {
    ASDM_ASSERT(rows[metric].kind == HISTOGRAM);
    double sum = 0;
    uint64_t count = 0;
    pthread_mutex_lock(&metrics->lock);
    for (int i = 0; i < metrics->series_count[metric]; i++) {
        sum += metrics->series[metric][i]->value;
        count += metrics->series[metric][i]->count;
    }
    pthread_mutex_unlock(&metrics->lock);
    *ret_mean = count ? sum / (double)count : 0;
    *ret_count = count;
}
