#include "front/dialect/native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVENT_BYTES = 8 << 10, JOB_BYTES = 16 << 10, ESCAPED_MAX = 6 /* bytes of "\u0001" */ };

static void write_problem(const struct problem *problem, struct buffer *to) {
    buffer_text(to, "{\"code\":");
    buffer_json(to, problem->code);
    buffer_text(to, ",\"message\":");
    buffer_json(to, problem->message);
    buffer_text(to, ",\"field\":");
    buffer_json(to, *problem->field ? problem->field : NULL);
}

const char *native_write_problem(const struct problem *problem, const char *request_id, struct buffer *body) {
    buffer_text(body, "{\"error\":");
    write_problem(problem, body);
    buffer_text(body, ",\"request_id\":");
    buffer_json(body, request_id);
    buffer_text(body, "}}");
    return "application/json";
}

static void write_request(const struct job_request *request, struct buffer *to) {
    static const char *const rngs[] = {[ASDM_REQUEST_PHILOX] = "philox", [ASDM_REQUEST_TORCH] = "torch"};
    buffer_text(to, "{\"prompt\":");
    buffer_json(to, request->prompt);
    buffer_text(to, ",\"negative_prompt\":");
    buffer_json(to, request->negative_prompt);
    buffer_print(to,
                 ",\"width\":%d,\"height\":%d,\"steps\":%d,\"sampler\":\"%s\",\"schedule\":\"%s\",\"seed\":%llu,"
                 "\"rng\":\"%s\",\"count\":%d,\"guidance_scale\":",
                 request->width, request->height, request->steps, request->sampler, request->schedule,
                 (unsigned long long)request->seed, rngs[request->rng], request->count);
    buffer_json_number(to, request->guidance_scale);
    if (request->i2i) {
        buffer_text(to, ",\"strength\":");
        buffer_json_number(to, request->strength);
    }
    buffer_text(to, "}");
}

static void write_image(const struct job_view *view, int picture, struct buffer *to) {
    buffer_print(to, "{\"index\":%d,\"seed\":%llu,\"url\":\"/v1/jobs/%s/images/%d.png?token=%s\"}", picture,
                 (unsigned long long)view->images[picture].seed, view->id, picture, view->token);
}

static void write_progress(const struct job_view *view, struct buffer *to) {
    buffer_print(to, "\"step\":%d,\"steps\":%d,\"pictures_done\":%d", view->step, view->steps, view->pictures_done);
}

static void write_position(const struct job_view *view, struct buffer *to) {
    if (view->queue_position >= 0)
        buffer_print(to, ",\"queue_position\":%d", view->queue_position);
    else
        buffer_text(to, ",\"queue_position\":null");
}

static void write_timing(const struct job_view *view, struct buffer *to) {
    buffer_text(to, ",\"timing\":{\"queue_seconds\":");
    buffer_json_number(to, view->queue_seconds);
    buffer_text(to, ",\"inference_seconds\":");
    buffer_json_number(to, view->inference_seconds);
    buffer_text(to, ",\"total_seconds\":");
    buffer_json_number(to, view->total_seconds);
    buffer_text(to, "}");
}

void native_write_job(const struct dialect *dialect, const struct job_view *view, struct buffer *to) {
    const struct job_request *request = view->request;
    struct model_view model;
    bool first = true;
    jobs_model(dialect->jobs, request->model, &model);
    buffer_print(to, "{\"id\":\"%s\",\"status\":\"%s\",\"kind\":\"%s\",\"model\":", view->id,
                 job_state_name(view->state), request->i2i ? "i2i" : "t2i");
    buffer_json(to, model.name);
    buffer_print(to, ",\"created\":%lld,\"progress\":{", (long long)(view->created_unix_ms / 1000));
    write_progress(view, to);
    buffer_print(to, ",\"pictures\":%d}", request->count);
    write_position(view, to);
    buffer_text(to, ",\"request\":");
    write_request(request, to);
    buffer_text(to, ",\"images\":[");
    for (int i = 0; i < request->count; i++) {
        if (!view->images[i].png)
            continue;
        buffer_text(to, first ? "" : ",");
        write_image(view, i, to);
        first = false;
    }
    buffer_text(to, "]");
    write_timing(view, to);
    if (view->state == JOB_FAILED || view->state == JOB_CANCELLED) {
        buffer_text(to, ",\"error\":");
        write_problem(&view->problem, to);
        buffer_text(to, "}}");
    } else {
        buffer_text(to, ",\"error\":null}");
    }
}

size_t native_job_bytes(const struct job_view *view) {
    const struct job_request *request = view->request;
    return JOB_BYTES + ESCAPED_MAX * (strlen(request->prompt) + strlen(request->negative_prompt)) +
           (size_t)request->count * 256;
}

static void answer_view(const struct dialect *dialect, struct http_exchange *exchange, int status,
                        const struct job_view *view) {
    struct buffer body;
    buffer_init(&body, native_job_bytes(view));
    native_write_job(dialect, view, &body);
    http_answer(exchange, status, "application/json", &body);
}

void native_answer_job(const struct dialect *dialect, struct http_exchange *exchange, int status, struct job *job) {
    struct job_view view;
    job_view(job, &view);
    http_set_header(exchange, "x-job-id", view.id);
    answer_view(dialect, exchange, status, &view);
}

static void answer_finished(struct waiter *waiter, const struct job_view *view) {
    struct http_exchange *exchange = waiter->exchange;
    waiter_set_headers(exchange, view);
    if (view->state != JOB_SUCCEEDED) {
        struct problem problem = view->problem;
        if (problem.status == 0)
            problem_set(&problem, 500, "internal", "", "the job %s ended without a picture", view->id);
        http_answer_problem(exchange, &problem);
    } else if (waiter->form == NATIVE_PNG) {
        struct buffer body;
        buffer_init(&body, view->images[0].png_size + 1);
        buffer_put(&body, view->images[0].png, view->images[0].png_size);
        http_answer(exchange, 200, "image/png", &body);
    } else {
        answer_view(waiter->dialect, exchange, 200, view);
    }
}

/* ---- events */

static void send_event(struct http_exchange *exchange, const char *name, struct buffer *data, bool droppable) {
    if (!data->failed)
        http_stream_event(exchange, name, data->data, data->length, droppable);
    buffer_done(data);
}

void native_send_progress(struct http_exchange *exchange, const struct job_view *view) {
    struct buffer data;
    buffer_init(&data, EVENT_BYTES);
    buffer_text(&data, "{");
    write_progress(view, &data);
    write_position(view, &data);
    buffer_text(&data, "}");
    send_event(exchange, "progress", &data, true);
}

static void send_preview(struct http_exchange *exchange, const struct job_event *event) {
    struct buffer data;
    buffer_init(&data, EVENT_BYTES + event->png_size / 3 * 4 + 4);
    buffer_print(&data, "{\"picture\":%d,\"preview\":%d,\"png\":\"", event->picture, event->preview);
    buffer_base64(&data, event->png, event->png_size);
    buffer_text(&data, "\"}");
    send_event(exchange, "preview", &data, true);
}

/* Those that were finished before the client came, too. */
static void send_pictures(struct waiter *waiter, const struct job_view *view) {
    for (int i = 0; i < view->request->count; i++) {
        if (waiter->told[i] || !view->images[i].png)
            continue;
        struct buffer data;
        buffer_init(&data, EVENT_BYTES);
        write_image(view, i, &data);
        send_event(waiter->exchange, "picture", &data, false);
        waiter->told[i] = true;
    }
}

static void on_stream_event(struct waiter *waiter, const struct job_event *event) {
    send_pictures(waiter, event->view);
    if (event->type == JOB_EVENT_PREVIEW) {
        send_preview(waiter->exchange, event);
    } else if (event->type != JOB_EVENT_FINISHED) {
        native_send_progress(waiter->exchange, event->view);
    } else {
        struct buffer data;
        buffer_init(&data, native_job_bytes(event->view));
        native_write_job(waiter->dialect, event->view, &data);
        send_event(waiter->exchange, "done", &data, false);
        http_stream_end(waiter->exchange);
    }
}

void native_on_event(struct waiter *waiter, const struct job_event *event) {
    if (waiter->form == NATIVE_EVENTS)
        on_stream_event(waiter, event);
    else if (event->type == JOB_EVENT_FINISHED)
        answer_finished(waiter, event->view);
}
