/* Who may come in: limits of the caller, of the queue, and deadlines that cannot be met. */
#include <math.h>
#include <stdlib.h>

#include "front/job/internal.h"

enum { RETRY_MS_MIN = 1000, RETRY_MS_MAX = 600000 };

static const double SMOOTHING = 0.1; /* weight of the newest */

struct job_key *admit_key(struct jobs *jobs, int index) {
    if (index >= jobs->key_count) {
        int count = index < 8 ? 8 : 2 * (index + 1);
        struct job_key *keys = realloc(jobs->keys, (size_t)count * sizeof *keys);
        if (!keys)
            return NULL;
        for (int i = jobs->key_count; i < count; i++)
            keys[i] = (struct job_key){0};
        jobs->keys = keys;
        jobs->key_count = count;
    }
    return &jobs->keys[index];
}

static bool refuse(struct problem *problem, double seconds) {
    double ms = ceil(seconds * 1000);
    problem->retry_after_ms = ms < RETRY_MS_MIN ? RETRY_MS_MIN : ms > RETRY_MS_MAX ? RETRY_MS_MAX : (int)ms;
    return false;
}

void admit_draining(struct problem *ret_problem) {
    problem_set(ret_problem, 503, "draining", "", "the server is shutting down");
    refuse(ret_problem, 0);
}

/* ---- the caller's limits */

/* A bucket holds what one minute gives, so that much may come at once; at least one request. */
static double room_of(double per_minute) {
    return per_minute > 1 ? per_minute : 1;
}

static void refill(struct job_key *key, const struct key *caller, double now) {
    double minutes = (now - key->filled_at) / 60;
    bool first = !(key->filled_at > 0);
    double requests = room_of(caller->rate_per_minute), pixels = room_of(caller->pixels_per_minute);
    key->requests = first ? requests : fmin(requests, key->requests + minutes * caller->rate_per_minute);
    key->pixels = first ? pixels : fmin(pixels, key->pixels + minutes * caller->pixels_per_minute);
    key->filled_at = now;
}

/* Seconds until `cost` can be taken. What is more than the bucket holds takes a full one, and the rest on credit. */
static double wait_for(double tokens, double cost, double per_minute) {
    double needed = fmin(cost, room_of(per_minute));
    return per_minute > 0 && tokens < needed ? (needed - tokens) / per_minute * 60 : 0;
}

static double pixels_of(const struct job_request *request) {
    return (double)request->width * request->height * request->count;
}

static bool check_caller(const struct job_key *key, const struct job_request *request, const struct key *caller,
                         double drain_seconds, struct problem *ret_problem) {
    double wait = wait_for(key->requests, 1, caller->rate_per_minute);
    if (wait > 0) {
        problem_set(ret_problem, 429, "rate_limited", "", "the key's limit is %g requests a minute",
                    caller->rate_per_minute);
        return refuse(ret_problem, wait);
    }
    wait = wait_for(key->pixels, pixels_of(request), caller->pixels_per_minute);
    if (wait > 0) {
        problem_set(ret_problem, 429, "rate_limited", "", "the key's limit is %.0f pixels a minute",
                    caller->pixels_per_minute);
        return refuse(ret_problem, wait);
    }
    int over = caller->queue_max > 0 ? key->waiting + request->count - caller->queue_max : 0;
    if (over <= 0)
        return true;
    problem_set(ret_problem, 429, "rate_limited", "", "the key may have %d pictures waiting, and has %d",
                caller->queue_max, key->waiting);
    return request->count > caller->queue_max ? false : refuse(ret_problem, over * drain_seconds);
}

/* ---- the queue's */

void admit_drawn(struct jobs *jobs, double now) {
    if (jobs->drawn_at > 0 && jobs->waiting > 0) {
        double seconds = now - jobs->drawn_at;
        jobs->drain_seconds =
            jobs->drain_seconds > 0 ? jobs->drain_seconds + SMOOTHING * (seconds - jobs->drain_seconds) : seconds;
    }
    jobs->drawn_at = jobs->waiting > 0 ? now : 0;
}

static bool check_queue(const struct jobs *jobs, const struct job_request *request, struct problem *ret_problem) {
    int most = jobs->config->queue_pictures_max, over = jobs->waiting + request->count - most;
    if (over <= 0)
        return true;
    problem_set(ret_problem, 503, "queue_full", "", "%d pictures are waiting, at most %d may", jobs->waiting, most);
    return request->count > most ? false : refuse(ret_problem, over * jobs->drain_seconds);
}

static bool check_deadline(struct jobs *jobs, const struct job *job, struct problem *ret_problem) {
    double seconds = job->deadline > 0 ? estimate_job(jobs, job) : 0;
    if (!(seconds > 0) || clock_seconds() + seconds <= job->deadline)
        return true;
    estimate_late(job, seconds, ret_problem);
    return false;
}

/* A key that has nothing going starts where the least served of the others is: it neither waits for what it once had,
 * nor goes before all for what it did not ask for. */
static void enter(struct jobs *jobs, struct job_key *key) {
    double least = INFINITY;
    if (key->unfinished > 0)
        return;
    for (int i = 0; i < jobs->key_count; i++)
        if (jobs->keys[i].unfinished > 0 && jobs->keys[i].served < least)
            least = jobs->keys[i].served;
    key->served = isfinite(least) ? least : 0;
}

bool admit_job(struct jobs *jobs, struct job *job, const struct key *caller, struct problem *ret_problem) {
    const struct job_request *request = &job->request;
    if (jobs->draining) {
        admit_draining(ret_problem);
        return false;
    }
    struct job_key *key = admit_key(jobs, caller->index);
    if (!key) {
        problem_set(ret_problem, 503, "out_of_memory", "", "the server is short of memory");
        return refuse(ret_problem, 0);
    }
    refill(key, caller, clock_seconds());
    if (!check_caller(key, request, caller, jobs->drain_seconds, ret_problem) ||
        !check_queue(jobs, request, ret_problem))
        return false;
    enter(jobs, key);
    if (!check_deadline(jobs, job, ret_problem))
        return false;
    if (caller->rate_per_minute > 0)
        key->requests -= 1;
    if (caller->pixels_per_minute > 0)
        key->pixels -= pixels_of(request);
    key->unfinished += request->count;
    key->waiting += request->count;
    jobs->waiting += request->count;
    return true;
}
