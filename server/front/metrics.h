/* Counters, gauges and histograms, and their text for Prometheus. The list of all of them, with labels and help, is the
 * table in metrics.c. Safe from any thread; recording allocates only when a label is new, up to a limit per metric. */
#ifndef ASDM_FRONT_METRICS_H
#define ASDM_FRONT_METRICS_H

#include "front/buffer.h"

enum metric {
    METRIC_REQUESTS,        /* asdm_requests_total{route,code} */
    METRIC_IMAGES,          /* asdm_images_total{model,mode} */
    METRIC_REJECTED,        /* asdm_rejected_total{reason} */
    METRIC_CANCELLED,       /* asdm_cancelled_total{reason} */
    METRIC_WORKER_RESTARTS, /* asdm_worker_restarts_total{reason} */
    METRIC_QUEUE_DEPTH,     /* asdm_queue_depth */
    METRIC_ACTIVE_ROWS,     /* asdm_active_rows */
    METRIC_CONNECTIONS,     /* asdm_connections */
    METRIC_MODEL_READY,     /* asdm_model_ready{model} */
    METRIC_GPU_MEMORY,      /* asdm_gpu_memory_used_bytes */
    METRIC_DEVICE_MEMORY,   /* asdm_device_memory_bytes{model,kind} */
    METRIC_BUILD_INFO,      /* asdm_build_info{version} */
    METRIC_REQUEST_SECONDS, /* asdm_request_duration_seconds{route} */
    METRIC_QUEUE_SECONDS,   /* asdm_queue_wait_seconds */
    METRIC_STAGE_SECONDS,   /* asdm_stage_duration_seconds{stage} */
    METRIC_STEP_SECONDS,    /* asdm_step_duration_seconds{model,rows} */
    METRIC_BATCH_ROWS,      /* asdm_batch_rows */
    METRIC_COUNT
};

struct metrics;
struct metrics *metrics_create(void);
void metrics_destroy(struct metrics **metrics);

/* Labels in the order of the table; NULL where the metric has fewer. */
void metrics_add(struct metrics *metrics, enum metric metric, const char *label0, const char *label1, double value);
void metrics_set(struct metrics *metrics, enum metric metric, const char *label0, const char *label1, double value);
void metrics_observe(struct metrics *metrics, enum metric metric, const char *label0, const char *label1, double value);
void metrics_write(struct metrics *metrics, struct buffer *to);
/* Mean and count of a histogram over all labels, for the page's overview. */
void metrics_mean(struct metrics *metrics, enum metric metric, double *ret_mean, uint64_t *ret_count);

#endif
