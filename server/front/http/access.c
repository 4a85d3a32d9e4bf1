#include "front/http/internal.h"
#include "front/log.h"

#include <stdio.h>

void access_write(void *user, const struct http_log *record) {
    (void)user;
    struct log_line line;
    log_begin(&line, LOG_LEVEL_INFO, "request");
    log_text(&line, "request_id", record->request_id);
    log_text(&line, "method", record->method);
    log_text(&line, "path", record->path);
    log_text(&line, "route", record->route);
    log_integer(&line, "status", record->status);
    log_integer(&line, "bytes_in", (int64_t)record->bytes_in);
    log_integer(&line, "bytes_out", (int64_t)record->bytes_out);
    log_seconds(&line, "seconds", record->seconds);
    log_text(&line, "caller", record->caller);
    log_text(&line, "remote", record->remote);
    log_end(&line);
}

void access_record(struct http_exchange *exchange) {
    enum { CLIENT_WENT = 499 }; /* as other servers log it; never sent */
    struct http *http = exchange->http;
    struct http_log record = {.request_id = exchange->request_id,
                              .method = exchange->method,
                              .path = exchange->target.path,
                              .route = exchange->route ? exchange->route->name : "other",
                              .caller = exchange->caller.name,
                              .remote = exchange->connection->remote,
                              .status = exchange->status ? exchange->status : CLIENT_WENT,
                              .bytes_in = exchange->body_received,
                              .bytes_out = exchange->bytes_out,
                              .seconds = (double)(clock_ns() - exchange->start_ns) * 1e-9};
    char code[16];
    snprintf(code, sizeof code, "%d", record.status);
    metrics_add(http->metrics, METRIC_REQUESTS, record.route, code, 1);
    metrics_observe(http->metrics, METRIC_REQUEST_SECONDS, record.route, NULL, record.seconds);
    if (http->log)
        http->log(http->log_user, &record);
}
