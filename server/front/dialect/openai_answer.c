#include "front/dialect/openai.h"

#include <stdio.h>
#include <string.h>

#include "front/dialect/fields.h"

enum { BODY_SLACK_BYTES = 64 << 10 };

/* OpenAI's own words for some of ours. */
static const char *code_of(const struct problem *problem) {
    static const char *const pairs[][2] = {{"unknown_model", "model_not_found"},
                                           {"unauthorized", "invalid_api_key"},
                                           {"rate_limited", "rate_limit_exceeded"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (strcmp(problem->code, pairs[i][0]) == 0)
            return pairs[i][1];
    return problem->code;
}

const char *openai_write_problem(const struct problem *problem, const char *request_id, struct buffer *body) {
    const char *type = problem->status == 401   ? "authentication_error"
                       : problem->status == 429 ? "rate_limit_error"
                       : problem->status >= 500 ? "server_error"
                                                : "invalid_request_error";
    (void)request_id; /* goes into the header x-request-id */
    buffer_text(body, "{\"error\":{\"message\":");
    buffer_json(body, problem->message);
    buffer_print(body, ",\"type\":\"%s\",\"param\":", type);
    buffer_json(body, *problem->field ? problem->field : NULL);
    buffer_text(body, ",\"code\":");
    buffer_json(body, code_of(problem));
    buffer_text(body, "}}");
    return "application/json";
}

void openai_answer_problem(struct http_exchange *exchange, struct problem *problem) {
    fields_adapt(DIALECT_OPENAI, problem);
    http_answer_problem(exchange, problem);
}

static size_t body_cap(const struct job_view *view, const struct waiter *waiter) {
    size_t cap = BODY_SLACK_BYTES;
    for (int i = 0; i < view->request->count; i++)
        cap += (waiter->form & OPENAI_URL ? 0 : view->images[i].png_size / 3 * 4 + 4) + 512;
    return cap;
}

static void write_picture(struct buffer *to, const struct waiter *waiter, const struct job_view *view, int picture) {
    if (waiter->form & OPENAI_URL) {
        buffer_text(to, "\"url\":\"");
        buffer_print(to, "%s/v1/jobs/%s/images/%d.png?token=%s\"", http_base_url(waiter->exchange), view->id, picture,
                     view->token);
        return;
    }
    buffer_text(to, "\"b64_json\":\"");
    buffer_base64(to, view->images[picture].png, view->images[picture].png_size);
    buffer_text(to, "\"");
}

static void write_traits(struct buffer *to, const struct job_view *view) {
    buffer_print(to, "\"output_format\":\"png\",\"size\":\"%dx%d\",\"background\":\"opaque\",\"quality\":\"auto\"",
                 view->request->width, view->request->height);
}

/* A problem of the job's, never without a status. */
static struct problem problem_of(const struct job_view *view) {
    struct problem problem = view->problem;
    if (problem.status == 0)
        problem_set(&problem, 500, "internal", "", "the job %s ended without a picture", view->id);
    fields_adapt(DIALECT_OPENAI, &problem);
    return problem;
}

static void answer(struct waiter *waiter, const struct job_view *view) {
    struct http_exchange *exchange = waiter->exchange;
    waiter_set_headers(exchange, view);
    if (view->state != JOB_SUCCEEDED) {
        struct problem problem = problem_of(view);
        http_answer_problem(exchange, &problem);
        return;
    }
    struct buffer body;
    buffer_init(&body, body_cap(view, waiter));
    buffer_print(&body, "{\"created\":%lld,\"data\":[", (long long)(view->created_unix_ms / 1000));
    for (int i = 0; i < view->request->count; i++) {
        buffer_text(&body, i ? ",{" : "{");
        write_picture(&body, waiter, view, i);
        buffer_text(&body, "}");
    }
    buffer_text(&body, "],");
    write_traits(&body, view);
    buffer_text(&body, "}");
    http_answer(exchange, 200, "application/json", &body);
}

/* ---- streams */

static void send_event(struct waiter *waiter, const char *suffix, struct buffer *data, bool droppable) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", waiter->form & OPENAI_EDIT ? "image_edit" : "image_generation", suffix);
    if (!data->failed)
        http_stream_event(waiter->exchange, name, data->data, data->length, droppable);
    buffer_done(data);
}

static void begin_event(struct waiter *waiter, const char *suffix, const struct job_view *view, size_t png_size,
                        struct buffer *ret) {
    buffer_init(ret, BODY_SLACK_BYTES + png_size / 3 * 4 + 4);
    buffer_print(ret, "{\"type\":\"%s.%s\",\"created_at\":%lld,",
                 waiter->form & OPENAI_EDIT ? "image_edit" : "image_generation", suffix,
                 (long long)(view->created_unix_ms / 1000));
    write_traits(ret, view);
}

static void send_partial(struct waiter *waiter, const struct job_event *event) {
    struct buffer data;
    begin_event(waiter, "partial_image", event->view, event->png_size, &data);
    buffer_print(&data, ",\"partial_image_index\":%d,\"b64_json\":\"", event->preview);
    buffer_base64(&data, event->png, event->png_size);
    buffer_text(&data, "\"}");
    send_event(waiter, "partial_image", &data, true);
}

static void send_end(struct waiter *waiter, const struct job_view *view) {
    struct buffer data;
    if (view->state == JOB_SUCCEEDED) {
        begin_event(waiter, "completed", view, view->images[0].png_size, &data);
        buffer_text(&data, ",");
        write_picture(&data, waiter, view, 0);
        buffer_text(&data, "}");
        send_event(waiter, "completed", &data, false);
    } else {
        struct problem problem = problem_of(view);
        buffer_init(&data, BODY_SLACK_BYTES);
        openai_write_problem(&problem, http_request_id(waiter->exchange), &data);
        if (!data.failed)
            http_stream_event(waiter->exchange, "error", data.data, data.length, false);
        buffer_done(&data);
    }
    http_stream_end(waiter->exchange);
}

void openai_on_event(struct waiter *waiter, const struct job_event *event) {
    bool stream = waiter->form & OPENAI_STREAM;
    if (stream && event->type == JOB_EVENT_PREVIEW)
        send_partial(waiter, event);
    else if (stream && event->type == JOB_EVENT_FINISHED)
        send_end(waiter, event->view);
    else if (event->type == JOB_EVENT_FINISHED)
        answer(waiter, event->view);
}
