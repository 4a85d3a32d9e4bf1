#include "front/operations.h"

#include <version.h>

enum { METRICS_BYTES_MAX = 16 << 20, ANSWER_BYTES_MAX = 4096 };

static const char json_type[] = "application/json";

/* Gauges are read when somebody asks. */
static void set_gauges(struct operations *operations) {
    struct metrics *metrics = operations->metrics;
    struct jobs_overview overview;
    jobs_overview(operations->jobs, &overview);
    metrics_set(metrics, METRIC_QUEUE_DEPTH, NULL, NULL, overview.queued);
    metrics_set(metrics, METRIC_ACTIVE_ROWS, NULL, NULL, overview.active_rows);
    metrics_set(metrics, METRIC_CONNECTIONS, NULL, NULL, http_connections(operations->http));
    metrics_set(metrics, METRIC_BUILD_INFO, ASDM_VERSION, NULL, 1);
    for (int i = 0; i < operations->config->model_count; i++) {
        struct model_view model;
        jobs_model(operations->jobs, i, &model);
        metrics_set(metrics, METRIC_MODEL_READY, model.name, NULL, model.ready);
    }
}

static void answer_metrics(void *user, struct http_exchange *exchange) {
    struct operations *operations = user;
    struct buffer body;
    set_gauges(operations);
    buffer_init(&body, METRICS_BYTES_MAX);
    metrics_write(operations->metrics, &body);
    http_answer(exchange, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}

static void answer_health(void *user, struct http_exchange *exchange) {
    (void)user;
    static const char body[] = "{\"status\":\"ok\"}\n";
    http_answer_static(exchange, 200, json_type, body, sizeof body - 1);
}

static void answer_ready(void *user, struct http_exchange *exchange) {
    struct operations *operations = user;
    struct jobs_overview overview;
    struct buffer body;
    jobs_overview(operations->jobs, &overview);
    bool stopping = atomic_load(&operations->stopping);
    bool ready = overview.ready && !stopping;
    buffer_init(&body, ANSWER_BYTES_MAX);
    buffer_print(&body, "{\"ready\":%s,\"reason\":", ready ? "true" : "false");
    buffer_json(&body, ready ? NULL : stopping ? "draining" : overview.unready_reason);
    buffer_text(&body, "}\n");
    if (!ready)
        http_set_header(exchange, "Retry-After", "1");
    http_answer(exchange, ready ? 200 : 503, json_type, &body);
}

static void answer_version(void *user, struct http_exchange *exchange) {
    (void)user;
    static const char body[] = "{\"name\":\"asdm\",\"version\":\"" ASDM_VERSION "\"}\n";
    http_answer_static(exchange, 200, json_type, body, sizeof body - 1);
}

size_t operations_routes(struct operations *operations, struct http_route *ret, size_t room) {
    /* What is drawn and how much is not for everybody: /metrics needs a key where there are keys. */
    const struct http_route routes[] = {
        {.method = "GET", .path = "/metrics", .handler = answer_metrics},
        {.method = "GET", .path = "/healthz", .handler = answer_health, .open = true},
        {.method = "GET", .path = "/readyz", .handler = answer_ready, .open = true},
        {.method = "GET", .path = "/version", .handler = answer_version, .open = true},
    };
    size_t count = sizeof routes / sizeof *routes;
    for (size_t i = 0; i < count && i < room; i++) {
        ret[i] = routes[i];
        ret[i].name = routes[i].path;
        ret[i].user = operations;
    }
    return count;
}
