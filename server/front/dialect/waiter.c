#include "front/dialect/waiter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES_MAX = 200 };

static void waiter_unref(struct waiter *waiter) {
    if (atomic_fetch_sub(&waiter->users, 1) > 1)
        return;
    http_unref(&waiter->exchange);
    job_unref(&waiter->job);
    free(waiter->told);
    free(waiter);
}

static void on_job(void *user, struct job *job, const struct job_event *event) {
    struct waiter *waiter = user;
    (void)job;
    waiter->on_event(waiter, event);
    if (event->type == JOB_EVENT_FINISHED)
        waiter_unref(waiter);
}

static void on_gone(void *user) {
    struct waiter *waiter = user;
    if (waiter->cancels)
        job_cancel(waiter->job, "gone");
}

static void on_done(void *user) {
    waiter_unref(user);
}

void waiter_start(const struct dialect *dialect, struct http_exchange *exchange, struct job *job, bool cancels,
                  int form, waiter_event *on_event) {
    struct job_view view;
    job_view(job, &view);
    struct waiter *waiter = calloc(1, sizeof *waiter);
    bool *told = calloc((size_t)view.request->count, sizeof *told);
    if (!waiter || !told) {
        struct problem problem;
        problem_set(&problem, 503, "out_of_memory", "", "the server is short of memory");
        problem.retry_after_ms = 1000;
        if (cancels)
            job_cancel(job, "gone");
        http_answer_problem(exchange, &problem);
        job_unref(&job);
        free(waiter);
        free(told);
        return;
    }
    *waiter = (struct waiter){.dialect = dialect,
                              .exchange = http_ref(exchange),
                              .job = job,
                              .on_event = on_event,
                              .form = form,
                              .told = told,
                              .cancels = cancels,
                              .users = 3};
    http_on_gone(exchange, on_gone, waiter, on_done);
    job_watch(job, on_job, waiter);
    waiter_unref(waiter);
}

bool waiter_submit(const struct dialect *dialect, struct http_exchange *exchange, struct job_request *request,
                   struct job **ret, bool *ret_again, struct problem *ret_problem) {
    const char *key = http_header(exchange, "Idempotency-Key");
    if (key && *key && !request->idempotency_key) {
        if (strlen(key) > KEY_BYTES_MAX) {
            job_request_done(request);
            return problem_set(ret_problem, 400, "invalid_value", "Idempotency-Key",
                               "Idempotency-Key: must have at most %d bytes", KEY_BYTES_MAX);
        }
        request->idempotency_key = strdup(key);
        if (!request->idempotency_key) {
            job_request_done(request);
            problem_set(ret_problem, 503, "out_of_memory", "", "the server is short of memory");
            ret_problem->retry_after_ms = 1000;
            return false;
        }
    }
    return jobs_submit(dialect->jobs, request, http_caller(exchange), ret, ret_again, ret_problem);
}

static void set_seconds(struct http_exchange *exchange, const char *name, double seconds) {
    char text[40];
    snprintf(text, sizeof text, "%.6f", seconds);
    http_set_header(exchange, name, text);
}

void waiter_set_headers(struct http_exchange *exchange, const struct job_view *view) {
    http_set_header(exchange, "x-job-id", view->id);
    set_seconds(exchange, "x-queue-time", view->queue_seconds);
    set_seconds(exchange, "x-inference-time", view->inference_seconds);
    set_seconds(exchange, "x-total-time", view->total_seconds);
}
