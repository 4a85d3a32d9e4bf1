#include "front/dialect/native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "front/dialect/fields.h"

enum { LIST_MAX = 100, OVERVIEW_BYTES = 256 << 10, STRANGER = -1 /* index of no key */ };

/* "wait" of the query; false: it is neither 0 nor 1. */
static bool read_wait(const struct http_exchange *exchange, bool *ret, struct problem *problem) {
    const char *wait = http_query(exchange, "wait");
    if (wait && strcmp(wait, "0") != 0 && strcmp(wait, "1") != 0)
        return problem_set(problem, 422, "invalid_value", "wait", "wait: must be 0 or 1, is \"%.40s\"", wait);
    *ret = wait && *wait == '1';
    return true;
}

static bool wants_png(const struct http_exchange *exchange) {
    const char *accept = http_header(exchange, "Accept");
    return accept && strcasestr(accept, "image/png");
}

static bool submit(const struct dialect *dialect, struct http_exchange *exchange, struct job **ret, bool *ret_wait,
                   bool *ret_keyed, struct problem *problem) {
    struct asdm_json *object = NULL;
    struct job_request request;
    bool again;
    if (!read_wait(exchange, ret_wait, problem) || !fields_parse_body(exchange, &object, problem))
        return false;
    bool good = fields_read(dialect, DIALECT_NATIVE, false, object, &request, problem);
    asdm_json_destroy(&object);
    if (!good)
        return false;
    *ret_keyed = request.idempotency_key || http_header(exchange, "Idempotency-Key");
    return waiter_submit(dialect, exchange, &request, ret, &again, problem);
}

static void on_submit(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    struct problem problem;
    struct job *job;
    bool wait = false, keyed = false;
    if (!submit(dialect, exchange, &job, &wait, &keyed, &problem)) {
        http_answer_problem(exchange, &problem);
        return;
    }
    if (wait) {
        /* With an idempotency key the client means to come back for the job. */
        waiter_start(dialect, exchange, job, !keyed, wants_png(exchange) ? NATIVE_PNG : NATIVE_JSON, native_on_event);
        return;
    }
    struct job_view view;
    char location[64];
    job_view(job, &view);
    snprintf(location, sizeof location, "/v1/jobs/%s", view.id);
    http_set_header(exchange, "Location", location);
    native_answer_job(dialect, exchange, 202, job);
    job_unref(&job);
}

static bool find(const struct dialect *dialect, struct http_exchange *exchange, struct job **ret) {
    struct problem problem;
    if (jobs_find(dialect->jobs, http_param(exchange, "id"), http_caller(exchange), NULL, ret, &problem))
        return true;
    http_answer_problem(exchange, &problem);
    return false;
}

static void on_get(void *user, struct http_exchange *exchange) {
    struct job *job;
    if (!find(user, exchange, &job))
        return;
    native_answer_job(user, exchange, 200, job);
    job_unref(&job);
}

static void on_delete(void *user, struct http_exchange *exchange) {
    struct job *job;
    if (!find(user, exchange, &job))
        return;
    job_cancel(job, "client");
    native_answer_job(user, exchange, 200, job);
    job_unref(&job);
}

static void on_events(void *user, struct http_exchange *exchange) {
    struct job *job;
    struct job_view view;
    if (!find(user, exchange, &job))
        return;
    job_view(job, &view);
    http_stream_begin(exchange);
    native_send_progress(exchange, &view);
    waiter_start(user, exchange, job, false, NATIVE_EVENTS, native_on_event);
}

static void on_list(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    struct job *jobs[LIST_MAX];
    struct job_view view;
    struct buffer body;
    size_t cap = 64;
    int count = jobs_list(dialect->jobs, http_caller(exchange), false, jobs, LIST_MAX);
    for (int i = 0; i < count; i++) {
        job_view(jobs[i], &view);
        cap += native_job_bytes(&view) + 1;
    }
    buffer_init(&body, cap);
    buffer_text(&body, "{\"jobs\":[");
    for (int i = 0; i < count; i++) {
        job_view(jobs[i], &view);
        buffer_text(&body, i ? "," : "");
        native_write_job(dialect, &view, &body);
        job_unref(&jobs[i]);
    }
    buffer_text(&body, "]}");
    http_answer(exchange, 200, "application/json", &body);
}

/* ---- pictures */

/* "3.png" -> 3; -1: not of that form. */
static int parse_name(const char *name) {
    size_t digits = strspn(name, "0123456789");
    if (digits == 0 || digits > 4 || (digits > 1 && *name == '0') || strcmp(name + digits, ".png") != 0)
        return -1;
    return atoi(name);
}

static void answer_picture(struct http_exchange *exchange, struct job *job) {
    struct job_view view;
    struct problem problem;
    struct buffer body;
    int picture = parse_name(http_param(exchange, "n"));
    job_view(job, &view);
    if (picture < 0 || picture >= view.request->count || !view.images[picture].png) {
        problem_set(&problem, 404, "not_found", "",
                    "there is no such picture; the job has %d, finished ones are 0.png to %d.png", view.request->count,
                    view.request->count - 1);
        http_answer_problem(exchange, &problem);
        return;
    }
    const struct job_image *image = &view.images[picture];
    buffer_init(&body, image->png_size + 1);
    buffer_put(&body, image->png, image->png_size);
    http_set_header(exchange, "Cache-Control", "private, max-age=3600, immutable");
    http_answer(exchange, 200, "image/png", &body);
}

/* Open to whoever has the job's token, so that an address can be handed on; otherwise to the caller it belongs to. */
static void on_image(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    const char *token = http_query(exchange, "token");
    struct key key = {.index = STRANGER};
    struct problem problem;
    struct job *job;
    bool known = keys_find(dialect->keys, http_header(exchange, "Authorization"), &key);
    if (!known && !token) {
        problem_set(&problem, 401, "unauthorized", "", "needs an API key, or the token of the picture's address");
    } else if (jobs_find(dialect->jobs, http_param(exchange, "id"), &key, token, &job, &problem)) {
        answer_picture(exchange, job);
        job_unref(&job);
        return;
    }
    http_answer_problem(exchange, &problem);
}

/* ---- overview */

static void write_names(struct buffer *to, const char *(*name)(int), const char *(*label)(int)) {
    buffer_text(to, "[");
    for (int i = 0; name(i); i++)
        buffer_print(to, "%s{\"name\":\"%s\",\"label\":\"%s\"}", i ? "," : "", name(i), label(i));
    buffer_text(to, "]");
}

static void on_overview(void *user, struct http_exchange *exchange) {
    const struct dialect *dialect = user;
    struct jobs_overview overview;
    struct buffer body;
    jobs_overview(dialect->jobs, &overview);
    buffer_init(&body, OVERVIEW_BYTES);
    buffer_text(&body, "{\"models\":[");
    for (int i = 0; i < dialect->config->model_count; i++) {
        struct model_view model;
        jobs_model(dialect->jobs, i, &model);
        buffer_text(&body, i ? ",{\"name\":" : "{\"name\":");
        buffer_json(&body, model.name);
        buffer_print(&body, ",\"ready\":%s,\"default_width\":%d,\"default_height\":%d,\"default_sampler\":\"%s\"}",
                     model.ready ? "true" : "false", model.default_width, model.default_height, model.default_sampler);
    }
    buffer_text(&body, "],\"samplers\":");
    write_names(&body, asdm_sampling_sampler_name, asdm_sampling_sampler_label);
    buffer_text(&body, ",\"schedules\":");
    write_names(&body, asdm_sampling_schedule_name, asdm_sampling_schedule_label);
    buffer_print(&body,
                 ",\"queued\":%d,\"active_pictures\":%d,\"active_rows\":%d,\"step_seconds_mean\":", overview.queued,
                 overview.active_pictures, overview.active_rows);
    buffer_json_number(&body, overview.step_seconds_mean);
    buffer_text(&body, "}");
    http_answer(exchange, 200, "application/json", &body);
}

size_t native_routes(struct dialect *dialect, struct http_route *ret, size_t room) {
    const struct http_route routes[] = {
        {.method = "POST",
         .path = "/v1/jobs",
         .handler = on_submit,
         .body_bytes_max = (size_t)dialect->config->body_bytes_max},
        {.method = "GET", .path = "/v1/jobs", .handler = on_list},
        {.method = "GET", .path = "/v1/jobs/{id}", .handler = on_get},
        {.method = "DELETE", .path = "/v1/jobs/{id}", .handler = on_delete},
        {.method = "GET", .path = "/v1/jobs/{id}/events", .handler = on_events, .streams = true},
        {.method = "GET", .path = "/v1/jobs/{id}/images/{n}", .handler = on_image, .open = true},
        {.method = "GET", .path = "/v1/overview", .handler = on_overview},
    };
    size_t count = sizeof routes / sizeof *routes;
    for (size_t i = 0; i < count && i < room; i++) {
        ret[i] = routes[i];
        ret[i].name = ret[i].path;
        ret[i].user = dialect;
        ret[i].problem = native_write_problem;
    }
    return count;
}
