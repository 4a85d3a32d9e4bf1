/* One job: made, seen, watched, cancelled, ended. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include <asdm/error.h>

#include "front/job/internal.h"

const char *job_state_name(enum job_state state) {
    static const char *const names[] = {"queued", "running", "succeeded", "failed", "cancelled"};
    return names[state];
}

void job_request_done(struct job_request *request) {
    free(request->prompt);
    free(request->negative_prompt);
    asdm_image_done(&request->init);
    free(request->mask);
    free(request->idempotency_key);
    *request = (struct job_request){0};
}

/* ---- making */

static bool random_name(char ret[JOB_ID_BYTES], const char *prefix) {
    unsigned char bytes[12];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return false;
    int at = snprintf(ret, JOB_ID_BYTES, "%s", prefix);
    for (size_t i = 0; i < sizeof bytes; i++)
        at += snprintf(ret + at, JOB_ID_BYTES - (size_t)at, "%02x", bytes[i]);
    return true;
}

static struct job_images *create_images(const struct job *job) {
    size_t count = (size_t)job->request.count;
    struct job_images *images = calloc(1, sizeof *images + count * sizeof *images->all);
    for (size_t i = 0; images && i < count; i++)
        images->all[i].seed = job->request.seed + i;
    return images;
}

struct job *job_create(struct jobs *jobs, struct job_request *request, int key) {
    ASDM_ASSERT(request->count > 0 && request->evaluations >= 0);
    struct job *job = calloc(1, sizeof *job);
    struct job_picture *pictures = calloc((size_t)request->count, sizeof *pictures);
    if (!job || !pictures || !random_name(job->id, "job_") || !random_name(job->token, "")) {
        free(job);
        free(pictures);
        return NULL;
    }
    job->jobs = jobs;
    job->references = 1;
    job->request = *request;
    job->key = key;
    job->pictures = pictures;
    job->pictures_left = request->count;
    job->images = create_images(job);
    if (!job->images || (request->idempotency_key && !fingerprint_request(request, job->digest))) {
        job->request = (struct job_request){0}; /* stays the caller's */
        job_destroy(job);
        return NULL;
    }
    job->init = request->init;
    job->mask = request->mask;
    job->request.init = (struct asdm_image){0};
    job->request.mask = NULL;
    *request = (struct job_request){0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    job->created_unix_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    job->created = clock_seconds();
    job->deadline = job->request.deadline_ms ? job->created + job->request.deadline_ms * 1e-3 : 0;
    for (int i = 0; i < job->request.count; i++)
        pictures[i] = (struct job_picture){.job = job,
                                           .index = i,
                                           .rows = job->request.guidance_scale > 1 ? 2 : 1,
                                           .sequence = UINT64_MAX /* behind all, until it is accepted */};
    return job;
}

void job_free_pixels(struct job *job) {
    asdm_image_done(&job->init);
    free(job->mask);
    job->mask = NULL;
}

void job_destroy(struct job *job) {
    for (int i = 0; job->images && i < job->request.count; i++)
        free(job->images->all[i].png); /* the last set has them all */
    while (job->images) {
        struct job_images *earlier = job->images->earlier;
        free(job->images);
        job->images = earlier;
    }
    free(job->pictures);
    free(job->preview);
    job_free_pixels(job);
    job_request_done(&job->request);
    free(job);
}

/* ---- references */

void job_hold(struct job *job) {
    job->references++;
}

void job_release(struct job *job) {
    if (--job->references == 0)
        job_destroy(job);
}

struct job *job_ref(struct job *job) {
    pthread_mutex_lock(&job->jobs->lock);
    job_hold(job);
    pthread_mutex_unlock(&job->jobs->lock);
    return job;
}

void job_unref(struct job **job) {
    struct job *j = *job;
    if (!j)
        return;
    struct jobs *jobs = j->jobs;
    pthread_mutex_lock(&jobs->lock);
    bool last = --j->references == 0;
    pthread_mutex_unlock(&jobs->lock);
    if (last)
        job_destroy(j);
    *job = NULL;
}

/* ---- pictures */

bool job_is_finished(const struct job *job) {
    return job->state != JOB_QUEUED && job->state != JOB_RUNNING;
}

static bool is_waiting(enum picture_state state) {
    return state == PICTURE_WAITING || state == PICTURE_SENT;
}

void job_set_picture(struct job_picture *picture, enum picture_state state) {
    struct jobs *jobs = picture->job->jobs;
    int change = is_waiting(state) - is_waiting(picture->state);
    jobs->waiting += change;
    jobs->keys[picture->job->key].waiting += change;
    picture->state = state;
}

/* An array of its own for each state of things, as views that are out there are read without the lock. */
bool job_publish_image(struct job *job, int index, unsigned char *png, size_t size) {
    struct job_images *images = create_images(job);
    if (!images)
        return false;
    memcpy(images->all, job->images->all, (size_t)job->request.count * sizeof *images->all);
    images->all[index].png = png;
    images->all[index].png_size = size;
    images->earlier = job->images;
    job->images = images;
    job->image_bytes += size;
    return true;
}

static void finish(struct job *job) {
    struct jobs *jobs = job->jobs;
    job->finished = clock_seconds();
    if (!job->sending)
        job_free_pixels(job);
    free(job->preview);
    job->preview = NULL;
    table_finish(jobs, job);
    notify_push(job, JOB_EVENT_FINISHED, 0, 0, NULL, 0);
    pthread_cond_broadcast(&jobs->changed);
    jobs_wake(jobs); /* results may have become too many, and this one has its time */
}

void job_picture_ended(struct job_picture *picture, enum picture_state state) {
    struct job *job = picture->job;
    job_set_picture(picture, state);
    job->jobs->keys[job->key].unfinished--;
    if (state == PICTURE_DONE)
        job->pictures_done++;
    if (--job->pictures_left > 0)
        return;
    if (!job_is_finished(job))
        job->state = JOB_SUCCEEDED;
    finish(job);
}

void job_end(struct job *job, enum job_state state, const struct problem *problem) {
    if (job_is_finished(job))
        return;
    job->state = state;
    job->problem = *problem;
    for (int i = 0; i < job->request.count; i++) {
        struct job_picture *picture = &job->pictures[i];
        if (picture->state == PICTURE_DONE || picture->state == PICTURE_GONE)
            continue;
        if (picture->queued)
            queue_remove(picture);
        picture->dropped = picture->state != PICTURE_WAITING && picture->state != PICTURE_ENCODING;
        job_picture_ended(picture, PICTURE_GONE);
    }
    jobs_wake(job->jobs);
}

void job_cancel(struct job *job, const char *reason) {
    struct jobs *jobs = job->jobs;
    struct problem problem;
    bool drain = strcmp(reason, "drain") == 0;
    if (drain)
        admit_draining(&problem);
    else
        problem_set(&problem, 499, "cancelled", "", "the job was cancelled");
    pthread_mutex_lock(&jobs->lock);
    if (!job_is_finished(job)) {
        metrics_add(jobs->metrics, METRIC_CANCELLED, reason, NULL, 1);
        job_end(job, drain ? JOB_FAILED : JOB_CANCELLED, &problem);
    }
    pthread_mutex_unlock(&jobs->lock);
}

/* ---- views */

/* Evaluations that are done of a picture. */
static int steps_of(const struct job_picture *picture) {
    bool all = picture->state >= PICTURE_DECODING && picture->state <= PICTURE_DONE;
    return all ? picture->job->request.evaluations : picture->step;
}

void job_fill_view(const struct job *job, struct job_view *view) {
    double end = job->finished > 0 ? job->finished : clock_seconds();
    *view = (struct job_view){.state = job->state,
                              .request = &job->request,
                              .key = job->key,
                              .created_unix_ms = job->created_unix_ms,
                              .pictures_done = job->pictures_done,
                              .steps = job->request.evaluations * job->request.count,
                              .queue_position = queue_position(job),
                              .total_seconds = end - job->created,
                              .images = job->images->all,
                              .problem = job->problem};
    memcpy(view->id, job->id, sizeof view->id);
    memcpy(view->token, job->token, sizeof view->token);
    for (int i = 0; i < job->request.count; i++) {
        const struct job_picture *picture = &job->pictures[i];
        double queue = picture->begun > 0 ? picture->queue_seconds : end - job->created;
        double inference = picture->begun > 0 ? end - picture->begun : 0;
        if (picture->inference_seconds > 0)
            inference = picture->inference_seconds;
        view->step += steps_of(picture);
        view->queue_seconds = queue > view->queue_seconds ? queue : view->queue_seconds;
        view->inference_seconds = inference > view->inference_seconds ? inference : view->inference_seconds;
    }
}

void job_view(struct job *job, struct job_view *ret) {
    pthread_mutex_lock(&job->jobs->lock);
    job_fill_view(job, ret);
    pthread_mutex_unlock(&job->jobs->lock);
}

void job_watch(struct job *job, job_watcher *watcher, void *user) {
    struct job_watch *node = malloc(sizeof *node);
    ASDM_ASSERT(node); /* a few bytes, without which the watcher would wait for ever */
    *node = (struct job_watch){NULL, watcher, user};
    pthread_mutex_lock(&job->jobs->lock);
    if (job->finish_told) {
        notify_late(job, node);
    } else {
        struct job_watch **end = &job->watchers;
        while (*end)
            end = &(*end)->next;
        *end = node;
    }
    pthread_mutex_unlock(&job->jobs->lock);
}

void job_preview(struct job *job) {
    bool wanted = false;
    pthread_mutex_lock(&job->jobs->lock);
    for (int i = 0; i < job->request.count && !wanted; i++)
        wanted = job->pictures[i].wants_preview = job->pictures[i].state == PICTURE_RUNNING;
    pthread_mutex_unlock(&job->jobs->lock);
    if (wanted)
        jobs_wake(job->jobs);
}

bool job_last_preview(struct job *job, unsigned char **ret_png, size_t *ret_size) {
    unsigned char *copy = NULL;
    pthread_mutex_lock(&job->jobs->lock);
    if (job->preview && (copy = malloc(job->preview_size))) {
        memcpy(copy, job->preview, job->preview_size);
        *ret_png = copy;
        *ret_size = job->preview_size;
    }
    pthread_mutex_unlock(&job->jobs->lock);
    return copy;
}
