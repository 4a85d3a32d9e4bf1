/* The table of jobs: made, found, watched, cancelled, forgotten. */
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <asdm/error.h>

#include "front/queue/internal.h"

/* ---- small things */

double jobs_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int64_t unix_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void jobs_lock(struct jobs *jobs) {
    pthread_mutex_lock(&jobs->lock);
}

void jobs_unlock(struct jobs *jobs) {
    pthread_mutex_unlock(&jobs->lock);
}

void jobs_wake(struct jobs *jobs) {
    uint64_t one = 1;
    ssize_t written = write(jobs->wake_fd, &one, sizeof one);
    (void)written; /* full: it is awake */
}

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

static bool random_name(char ret[JOB_ID_BYTES], const char *prefix) {
    unsigned char bytes[12];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
        return false;
    int at = snprintf(ret, JOB_ID_BYTES, "%s", prefix);
    for (size_t i = 0; i < sizeof bytes; i++)
        at += snprintf(ret + at, JOB_ID_BYTES - (size_t)at, "%02x", bytes[i]);
    return true;
}

static unsigned bucket_of(const char *id) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *id; id++)
        hash = (hash ^ (unsigned char)*id) * 16777619u;
    return hash % JOB_BUCKETS;
}

/* ---- references */

static void destroy_job(struct job *job) {
    for (int i = 0; job->images && i < job->request.count; i++)
        free(job->images[i].png);
    free(job->images);
    free(job->pictures);
    free(job->preview);
    job_request_done(&job->request);
    free(job);
}

void job_ref_locked(struct job *job) {
    job->references++;
}

void job_unref_locked(struct job *job) {
    if (--job->references == 0)
        destroy_job(job);
}

struct job *job_ref(struct job *job) {
    jobs_lock(job->jobs);
    job_ref_locked(job);
    jobs_unlock(job->jobs);
    return job;
}

void job_unref(struct job **job) {
    struct job *j = *job;
    if (!j)
        return;
    struct jobs *jobs = j->jobs;
    jobs_lock(jobs);
    job_unref_locked(j);
    jobs_unlock(jobs);
    *job = NULL;
}

/* ---- the table */

static void table_add(struct jobs *jobs, struct job *job) {
    unsigned bucket = bucket_of(job->id);
    job->bucket_next = jobs->buckets[bucket];
    jobs->buckets[bucket] = job;
    job->older = jobs->newest;
    if (jobs->newest)
        jobs->newest->newer = job;
    else
        jobs->oldest = job;
    jobs->newest = job;
    job->in_table = true;
    job_ref_locked(job);
}

void job_forget(struct job *job) {
    struct jobs *jobs = job->jobs;
    struct job **link = &jobs->buckets[bucket_of(job->id)];
    while (*link != job)
        link = &(*link)->bucket_next;
    *link = job->bucket_next;
    *(job->older ? &job->older->newer : &jobs->oldest) = job->newer;
    *(job->newer ? &job->newer->older : &jobs->newest) = job->older;
    job->in_table = false;
    jobs->image_bytes -= job->image_bytes;
    memcpy(jobs->tombstones[jobs->tombstone_next], job->id, JOB_ID_BYTES);
    jobs->tombstone_next = (jobs->tombstone_next + 1) % JOB_TOMBSTONES;
    job_unref_locked(job);
}

static struct job *table_find(const struct jobs *jobs, const char *id) {
    struct job *job = jobs->buckets[bucket_of(id)];
    while (job && strcmp(job->id, id) != 0)
        job = job->bucket_next;
    return job;
}

double jobs_expire(struct jobs *jobs, double now) {
    size_t bytes_max = (size_t)jobs->config->result_memory_mb << 20;
    double next = 3600;
    for (struct job *job = jobs->oldest, *newer; job; job = newer) {
        newer = job->newer;
        if (!job->finished)
            continue;
        double left = job->finished + jobs->config->result_ttl_s - now;
        if (left <= 0 || (jobs->image_bytes > bytes_max && job->finish_told))
            job_forget(job);
        else if (left < next)
            next = left;
    }
    return next;
}

/* ---- ending */

static void finish_job(struct job *job) {
    struct jobs *jobs = job->jobs;
    job->finished = jobs_now();
    jobs->unfinished--;
    for (int i = 0; i < job->request.count; i++)
        job->image_bytes += job->images[i].png_size;
    if (job->in_table)
        jobs->image_bytes += job->image_bytes;
    asdm_image_done(&job->request.init); /* pixels are not needed any more */
    free(job->request.mask);
    job->request.mask = NULL;
    notify_push(job, JOB_EVENT_FINISHED, 0, 0, NULL, 0);
    pthread_cond_broadcast(&jobs->idle);
    jobs_wake(jobs); /* to forget others, and for its own time */
}

void job_picture_ended(struct job_picture *picture) {
    struct job *job = picture->job;
    if (--job->pictures_left > 0 || job->finished)
        return;
    if (job->state == JOB_QUEUED || job->state == JOB_RUNNING)
        job->state = JOB_SUCCEEDED;
    finish_job(job);
}

void job_end(struct job *job, enum job_state state, const struct problem *problem) {
    struct jobs *jobs = job->jobs;
    if (job->state != JOB_QUEUED && job->state != JOB_RUNNING)
        return;
    job->state = state;
    job->problem = *problem;
    job_ref_locked(job);
    for (int i = 0; i < job->request.count; i++) {
        struct job_picture *picture = &job->pictures[i];
        if (picture->state == PICTURE_DONE || picture->state == PICTURE_GONE)
            continue;
        if (picture->state == PICTURE_WAITING)
            queue_remove(jobs, picture);
        else if (picture->wire_id)
            picture->dropped = true; /* the dispatcher's link must let go of it, and of the request's pixels */
        if (picture->state == PICTURE_ENCODING)
            continue; /* its thread finds the job ended */
        picture->state = PICTURE_GONE;
        job_picture_ended(picture);
    }
    job_unref_locked(job);
    jobs_wake(jobs);
}

void job_cancel(struct job *job, const char *reason) {
    struct jobs *jobs = job->jobs;
    struct problem problem = {0};
    bool drain = strcmp(reason, "drain") == 0;
    jobs_lock(jobs);
    if (job->state == JOB_QUEUED || job->state == JOB_RUNNING) {
        if (drain)
            problem_set(&problem, 503, "draining", "", "the server is shutting down");
        else
            problem_set(&problem, 499, "cancelled", "", "the job was cancelled");
        metrics_add(jobs->metrics, METRIC_CANCELLED, reason, NULL, 1);
        job_end(job, drain ? JOB_FAILED : JOB_CANCELLED, &problem);
    }
    jobs_unlock(jobs);
}

/* ---- making */

static struct job *create_job(struct jobs *jobs, struct job_request *request, const struct key *caller) {
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->jobs = jobs;
    job->references = 1;
    job->request = *request;
    *request = (struct job_request){0};
    job->key = caller->index;
    job->pictures = calloc((size_t)job->request.count, sizeof *job->pictures);
    job->images = calloc((size_t)job->request.count, sizeof *job->images);
    if (!job->pictures || !job->images || !random_name(job->id, "job_") || !random_name(job->token, "")) {
        destroy_job(job);
        return NULL;
    }
    job->created_unix_ms = unix_ms();
    job->created = jobs_now();
    job->deadline = job->request.deadline_ms ? job->created + job->request.deadline_ms * 1e-3 : 0;
    job->steps = job->request.steps;
    job->pictures_left = job->request.count;
    for (int i = 0; i < job->request.count; i++) {
        job->images[i].seed = job->request.seed + (uint64_t)i;
        job->pictures[i] = (struct job_picture){
            .job = job, .index = i, .rows = admit_rows(&job->request), .enqueued = job->created};
    }
    return job;
}

static bool same_text(const char *a, const char *b) {
    return a && b && strcmp(a, b) == 0;
}

/* What can be compared when the pixels of the first are gone. */
static bool same_request(const struct job_request *a, const struct job_request *b) {
    return a->model == b->model && same_text(a->prompt, b->prompt) &&
           same_text(a->negative_prompt, b->negative_prompt) && a->syntax == b->syntax && a->width == b->width &&
           a->height == b->height && a->steps == b->steps && a->count == b->count && a->sampler == b->sampler &&
           a->schedule == b->schedule && a->guidance_scale == b->guidance_scale && a->strength == b->strength &&
           a->rng == b->rng && a->i2i == b->i2i && (a->seed_drawn ? b->seed_drawn : a->seed == b->seed);
}

/* The caller's job of that idempotency key; NULL: none. */
static struct job *find_same_key(const struct jobs *jobs, const struct job_request *request, int key) {
    if (!request->idempotency_key)
        return NULL;
    for (struct job *job = jobs->newest; job; job = job->older)
        if (job->key == key && same_text(job->request.idempotency_key, request->idempotency_key))
            return job;
    return NULL;
}

static bool enter(struct jobs *jobs, struct job_request *request, const struct key *caller, struct job **ret,
                  struct problem *ret_problem) {
    if (!admit_request(jobs, request, caller, ret_problem)) {
        metrics_add(jobs->metrics, METRIC_REJECTED, ret_problem->code, NULL, 1);
        return false;
    }
    struct job *job = create_job(jobs, request, caller);
    if (!job)
        return problem_set(ret_problem, 500, "no_memory", "", "the server has no memory for the request");
    jobs->unfinished++;
    table_add(jobs, job);
    for (int i = 0; i < job->request.count; i++)
        queue_push(jobs, &job->pictures[i], false);
    *ret = job;
    return true;
}

bool jobs_submit(struct jobs *jobs, struct job_request *request, const struct key *caller, struct job **ret,
                 bool *ret_again, struct problem *ret_problem) {
    jobs_lock(jobs);
    struct job *same = find_same_key(jobs, request, caller->index);
    bool good = true;
    if (same && !same_request(&same->request, request)) {
        good = problem_set(ret_problem, 422, "idempotency_mismatch", "idempotency_key",
                           "idempotency_key: was used for another request");
    } else if (same) {
        job_ref_locked(same);
        *ret = same;
    } else {
        good = enter(jobs, request, caller, ret, ret_problem);
    }
    if (good)
        *ret_again = same != NULL;
    jobs_unlock(jobs);
    jobs_wake(jobs);
    job_request_done(request);
    return good;
}

/* ---- asking */

bool jobs_find(struct jobs *jobs, const char *id, const struct key *caller, const char *token, struct job **ret,
               struct problem *ret_problem) {
    bool found = false, gone = false;
    jobs_lock(jobs);
    struct job *job = table_find(jobs, id);
    if (job && (job->key == caller->index || caller->admin || (token && strcmp(token, job->token) == 0))) {
        job_ref_locked(job);
        *ret = job;
        found = true;
    }
    for (int i = 0; !job && i < JOB_TOMBSTONES && !gone; i++)
        gone = strcmp(jobs->tombstones[i], id) == 0;
    jobs_unlock(jobs);
    if (found)
        return true;
    return gone ? problem_set(ret_problem, 410, "gone", "", "the job's result was kept for a while and is gone")
                : problem_set(ret_problem, 404, "not_found", "", "there is no such job");
}

int jobs_list(struct jobs *jobs, const struct key *caller, bool active_only, struct job **ret, int room) {
    int count = 0;
    jobs_lock(jobs);
    for (struct job *job = jobs->newest; job && count < room; job = job->older)
        if ((job->key == caller->index || caller->admin) && !(active_only && job->finished)) {
            job_ref_locked(job);
            ret[count++] = job;
        }
    jobs_unlock(jobs);
    return count;
}

void job_fill_view(const struct job *job, struct job_view *view) {
    *view = (struct job_view){.state = job->state,
                              .request = &job->request,
                              .key = job->key,
                              .created_unix_ms = job->created_unix_ms,
                              .pictures_done = job->pictures_done,
                              .steps = job->steps * job->request.count,
                              .queue_position = job->finished ? -1 : queue_position(job),
                              .total_seconds = (job->finished ? job->finished : jobs_now()) - job->created,
                              .images = job->images,
                              .problem = job->problem};
    memcpy(view->id, job->id, sizeof view->id);
    memcpy(view->token, job->token, sizeof view->token);
    for (int i = 0; i < job->request.count; i++) {
        const struct job_picture *picture = &job->pictures[i];
        view->step += picture->state >= PICTURE_DECODING && picture->state <= PICTURE_DONE ? job->steps : picture->step;
        if (picture->inference_seconds > view->inference_seconds) /* pictures run side by side */
            view->inference_seconds = picture->inference_seconds;
        if (picture->queue_seconds > view->queue_seconds)
            view->queue_seconds = picture->queue_seconds;
    }
}

void job_view(struct job *job, struct job_view *ret) {
    jobs_lock(job->jobs);
    job_fill_view(job, ret);
    jobs_unlock(job->jobs);
}

void job_watch(struct job *job, job_watcher *watcher, void *user) {
    struct job_watch_node *node = malloc(sizeof *node);
    ASDM_ASSERT(node); /* 24 bytes: nobody could be told either */
    *node = (struct job_watch_node){NULL, watcher, user};
    jobs_lock(job->jobs);
    if (job->finish_told) {
        notify_late_watcher(job, node);
    } else {
        struct job_watch_node **end = &job->watchers;
        while (*end)
            end = &(*end)->next;
        *end = node;
    }
    jobs_unlock(job->jobs);
}

void job_preview(struct job *job) {
    jobs_lock(job->jobs);
    for (int i = 0; i < job->request.count; i++)
        if (job->pictures[i].state == PICTURE_RUNNING) {
            job->pictures[i].wants_preview = true;
            break;
        }
    jobs_unlock(job->jobs);
    jobs_wake(job->jobs);
}

bool job_last_preview(struct job *job, unsigned char **ret_png, size_t *ret_size) {
    unsigned char *copy = NULL;
    jobs_lock(job->jobs);
    if (job->preview && (copy = malloc(job->preview_size))) {
        memcpy(copy, job->preview, job->preview_size);
        *ret_png = copy;
        *ret_size = job->preview_size;
    }
    jobs_unlock(job->jobs);
    return copy != NULL;
}

/* ---- models and overview */

int jobs_model_find(const struct jobs *jobs, const char *name) {
    for (int i = 0; i < jobs->config->model_count; i++)
        if (!name || strcmp(jobs->config->models[i].name, name) == 0)
            return i;
    return -1;
}

void jobs_model(struct jobs *jobs, int index, struct model_view *ret) {
    jobs_lock(jobs);
    const struct job_model *model = &jobs->models[index];
    *ret = (struct model_view){.name = model->name,
                               .ready = model->ready,
                               .default_width = model->default_width,
                               .default_height = model->default_height,
                               .default_sampler = model->default_sampler,
                               .sampling = model->sampling,
                               .pixels_max = model->capacity.row_pixels_max / 2};
    memcpy(ret->sha256, model->sha256, sizeof ret->sha256);
    jobs_unlock(jobs);
}

void jobs_overview(struct jobs *jobs, struct jobs_overview *ret) {
    jobs_lock(jobs);
    *ret = (struct jobs_overview){.queued = jobs->queued,
                                  .ready = !jobs->draining && jobs->fingerprinted,
                                  .draining = jobs->draining,
                                  .step_seconds_mean = jobs->step_seconds};
    if (jobs->draining)
        ret->unready_reason = "the server is shutting down";
    else if (!jobs->fingerprinted)
        ret->unready_reason = "the models' weights are being read";
    for (int i = 0; i < jobs->config->model_count && ret->ready; i++)
        if (!jobs->models[i].ready) {
            ret->ready = false;
            ret->unready_reason = "a model has not drawn its first picture yet";
        }
    for (int w = 0; w < jobs->worker_count; w++)
        for (int i = 0; i < jobs->workers[w].inside_count; i++) {
            const struct job_picture *picture = jobs->workers[w].inside[i];
            ret->active_pictures++;
            ret->active_rows += picture->state == PICTURE_RUNNING ? picture->rows : 0;
        }
    jobs_unlock(jobs);
}
