/* Admission: what a request costs, and whether it may come in now. */
#include <math.h>

#include "front/queue/internal.h"

enum { RETRY_MS_MIN = 1000, RETRY_MS_MAX = 600000 };

int admit_rows(const struct job_request *request) {
    return request->guidance_scale > 1 ? 2 : 1;
}

double admit_price(const struct job_request *request) {
    return (double)admit_rows(request) * request->width * request->height * request->evaluations;
}

static int clamp_retry(double seconds) {
    double ms = ceil(seconds * 1000);
    return ms < RETRY_MS_MIN ? RETRY_MS_MIN : ms > RETRY_MS_MAX ? RETRY_MS_MAX : (int)ms;
}

/* ---- the caller's limits: token buckets of a minute */

static void refill(struct job_key *use, const struct key *caller, double now) {
    double minutes = (now - use->refilled) / 60;
    bool fresh = use->refilled == 0;
    use->requests = fresh ? caller->rate_per_minute
                          : fmin(caller->rate_per_minute, use->requests + minutes * caller->rate_per_minute);
    use->pixels = fresh ? caller->pixels_per_minute
                        : fmin(caller->pixels_per_minute, use->pixels + minutes * caller->pixels_per_minute);
    use->refilled = now;
}

static bool check_caller(struct jobs *jobs, const struct job_request *request, const struct key *caller, double now,
                         double pixels, struct problem *ret) {
    struct job_key *use = &jobs->keys[caller->index % JOB_KEYS_MAX];
    refill(use, caller, now);
    if (caller->queue_max && use->waiting + request->count > caller->queue_max) {
        problem_set(ret, 429, "queue_share", "", "this key may have %d waiting pictures, and has %d",
                    caller->queue_max, use->waiting);
        ret->retry_after_ms = clamp_retry(jobs->finished_rate > 0 ? 1 / jobs->finished_rate : 1);
        return false;
    }
    if (caller->rate_per_minute > 0 && use->requests < 1) {
        problem_set(ret, 429, "rate_limited", "", "this key may send %g requests a minute", caller->rate_per_minute);
        ret->retry_after_ms = clamp_retry((1 - use->requests) / caller->rate_per_minute * 60);
        return false;
    }
    if (caller->pixels_per_minute > 0 && pixels > caller->pixels_per_minute)
        return problem_set(ret, 422, "too_large", "", "this key may draw %g pixels a minute, the request has %g",
                           caller->pixels_per_minute, pixels);
    if (caller->pixels_per_minute > 0 && use->pixels < pixels) {
        problem_set(ret, 429, "rate_limited", "", "this key may draw %g pixels a minute", caller->pixels_per_minute);
        ret->retry_after_ms = clamp_retry((pixels - use->pixels) / caller->pixels_per_minute * 60);
        return false;
    }
    return true;
}

/* ---- the queue's */

/* Would it be served before a request of this priority and deadline? */
static bool goes_before(const struct job *job, const struct job_request *request, double deadline) {
    if (job->request.priority != request->priority)
        return job->request.priority < request->priority;
    return !deadline || (job->deadline && job->deadline <= deadline);
}

double admit_estimate(const struct jobs *jobs, const struct job_request *request, double deadline) {
    const struct job_model *model = &jobs->models[request->model];
    const struct job_worker *worker = &jobs->workers[model->worker];
    double units = 0;
    if (model->unit_seconds <= 0)
        return 0;
    for (const struct job_picture *p = jobs->queue; p; p = p->next)
        if (jobs->models[p->job->request.model].worker == model->worker && goes_before(p->job, request, deadline))
            units += admit_price(&p->job->request);
    for (int i = 0; i < worker->inside_count; i++) {
        const struct job_picture *p = worker->inside[i];
        double left = 1 - (double)p->step / p->job->steps;
        units += left * admit_price(&p->job->request);
    }
    return (units + admit_price(request)) * model->unit_seconds;
}

static bool check_queue(struct jobs *jobs, const struct job_request *request, double now, struct problem *ret) {
    double deadline = request->deadline_ms ? now + request->deadline_ms * 1e-3 : 0;
    if (jobs->draining) {
        problem_set(ret, 503, "draining", "", "the server is shutting down");
        ret->retry_after_ms = clamp_retry(jobs->config->drain_timeout_ms * 1e-3);
        return false;
    }
    if (jobs->queued + request->count > jobs->config->queue_pictures_max) {
        problem_set(ret, 503, "queue_full", "", "%d pictures are waiting, and no more than %d may", jobs->queued,
                    jobs->config->queue_pictures_max);
        ret->retry_after_ms = clamp_retry(jobs->finished_rate > 0 ? request->count / jobs->finished_rate : 1);
        return false;
    }
    double seconds = admit_estimate(jobs, request, deadline);
    if (deadline && now + seconds > deadline)
        return problem_set(ret, 504, "deadline", "deadline_ms",
                           "deadline_ms: the picture would be ready in about %.1f s, which is later", seconds);
    return true;
}

bool admit_request(struct jobs *jobs, const struct job_request *request, const struct key *caller,
                   struct problem *ret_problem) {
    double now = jobs_now(), pixels = (double)request->width * request->height * request->count;
    struct job_key *use = &jobs->keys[caller->index % JOB_KEYS_MAX];
    if (!check_caller(jobs, request, caller, now, pixels, ret_problem) ||
        !check_queue(jobs, request, now, ret_problem))
        return false;
    use->requests -= 1;
    use->pixels -= pixels;
    return true;
}
