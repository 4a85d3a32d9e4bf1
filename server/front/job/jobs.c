/* All jobs together: from jobs_create to jobs_destroy, submission, models and overview. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <asdm/error.h>

#include "front/job/internal.h"

enum { STEPS_ANY = 20 /* to ask for the default sampler's name */, STEP_MEAN_OLD_SECONDS = 180 };

void jobs_wake(struct jobs *jobs) {
    uint64_t one = 1;
    if (write(jobs->wake_fd, &one, sizeof one) < 0)
        return; /* as many wakes are there as it can count: it will wake */
}

/* ---- creation */

static const char *device_of(const struct config *config, int model) {
    const char *device = config->models[model].device ? config->models[model].device : config->device;
    return device ? device : "auto";
}

/* One worker for each device. */
static enum asdm_status create_workers(struct jobs *jobs, struct asdm_error *err) {
    const struct config *config = jobs->config;
    for (int i = 0; i < config->model_count; i++)
        jobs->models[i].worker = -1;
    for (int i = 0; i < config->model_count; i++) {
        int served[CONFIG_MODELS_MAX], count = 0;
        if (jobs->models[i].worker >= 0)
            continue;
        for (int k = i; k < config->model_count; k++)
            if (strcmp(device_of(config, i), device_of(config, k)) == 0) {
                jobs->models[k].worker = jobs->worker_count;
                served[count++] = k;
            }
        struct job_worker *worker = &jobs->workers[jobs->worker_count++];
        worker->jobs = jobs;
        ASDM_TRY(link_create(config, served, count, events_handle, worker, &worker->link, err));
    }
    return ASDM_OK;
}

static enum asdm_status open_models(struct jobs *jobs, struct asdm_error *err) {
    for (int i = 0; i < jobs->config->model_count; i++) {
        struct job_model *model = &jobs->models[i];
        struct asdm_sampling_choice choice;
        model->name = jobs->config->models[i].name;
        ASDM_TRY(asdm_sampling_open(jobs->config->models[i].path, &model->sampling, err));
        ASDM_TRY(asdm_sampling_resolve(model->sampling, NULL, NULL, STEPS_ANY, -1, &choice, err));
        model->default_sampler = choice.sampler;
    }
    return ASDM_OK;
}

static void init_locks(struct jobs *jobs) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_cond_init(&jobs->changed, &monotonic);
    pthread_cond_init(&jobs->events_there, NULL);
    pthread_cond_init(&jobs->pngs_there, NULL);
    pthread_condattr_destroy(&monotonic);
}

enum asdm_status jobs_create(const struct config *config, struct metrics *metrics, struct jobs **ret,
                             struct asdm_error *err) {
    struct jobs *jobs = calloc(1, sizeof *jobs);
    if (!jobs)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for jobs");
    jobs->config = config;
    jobs->metrics = metrics;
    init_locks(jobs);
    jobs->expired = remembered_create();
    jobs->png_threads = calloc((size_t)config->png_threads, sizeof *jobs->png_threads);
    jobs->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    enum asdm_status status = ASDM_OK;
    if (!jobs->expired || !jobs->png_threads || jobs->wake_fd < 0)
        status = asdm_fail(err, ASDM_ERR_MEMORY, "no memory or no descriptor for jobs");
    if (status == ASDM_OK)
        status = open_models(jobs, err);
    if (status == ASDM_OK)
        status = create_workers(jobs, err);
    if (status != ASDM_OK) {
        jobs_destroy(&jobs);
        return status;
    }
    *ret = jobs;
    return ASDM_OK;
}

enum asdm_status jobs_start(struct jobs *jobs, struct asdm_error *err) {
    int error = pthread_create(&jobs->notifier, NULL, notify_main, jobs);
    jobs->notifier_there = error == 0;
    while (error == 0 && jobs->png_thread_count < jobs->config->png_threads) {
        error = pthread_create(&jobs->png_threads[jobs->png_thread_count], NULL, png_main, jobs);
        jobs->png_thread_count += error == 0;
    }
    if (error == 0)
        error = pthread_create(&jobs->fingerprinter, NULL, fingerprint_main, jobs);
    jobs->fingerprinter_there = error == 0;
    if (error == 0)
        error = pthread_create(&jobs->dispatcher, NULL, dispatcher_main, jobs);
    jobs->dispatcher_there = error == 0;
    return error == 0 ? ASDM_OK : asdm_fail(err, ASDM_ERR_MEMORY, "a thread for jobs: %s", strerror(error));
}

/* ---- the end */

static void end_unfinished(struct jobs *jobs) {
    struct problem problem;
    admit_draining(&problem);
    while (jobs->unfinished.first) {
        metrics_add(jobs->metrics, METRIC_CANCELLED, "drain", NULL, 1);
        job_end(jobs->unfinished.first, JOB_FAILED, &problem);
    }
}

/* The notifier goes on: the address is still open. */
static void stop_work(struct jobs *jobs) {
    pthread_mutex_lock(&jobs->lock);
    jobs->draining = jobs->stopping = jobs->png_stopping = true;
    end_unfinished(jobs);
    pthread_cond_broadcast(&jobs->pngs_there);
    pthread_mutex_unlock(&jobs->lock);
    atomic_store(&jobs->fingerprint_stopping, true);
    jobs_wake(jobs);
    if (jobs->dispatcher_there)
        pthread_join(jobs->dispatcher, NULL);
    while (jobs->png_thread_count > 0)
        pthread_join(jobs->png_threads[--jobs->png_thread_count], NULL);
    if (jobs->fingerprinter_there)
        pthread_join(jobs->fingerprinter, NULL);
    jobs->dispatcher_there = jobs->fingerprinter_there = false;
}

void jobs_drain(struct jobs *jobs) {
    double end = clock_seconds() + jobs->config->drain_timeout_ms * 1e-3;
    struct timespec until = {.tv_sec = (time_t)end, .tv_nsec = (long)((end - (double)(time_t)end) * 1e9)};
    pthread_mutex_lock(&jobs->lock);
    jobs->draining = true;
    while (jobs->unfinished_count > 0 && pthread_cond_timedwait(&jobs->changed, &jobs->lock, &until) != ETIMEDOUT)
        ;
    end_unfinished(jobs);
    while (jobs->notifier_there && (jobs->events || jobs->notifying))
        pthread_cond_wait(&jobs->changed, &jobs->lock);
    pthread_mutex_unlock(&jobs->lock);
    stop_work(jobs);
}

void jobs_destroy(struct jobs **pointer) {
    struct jobs *jobs = *pointer;
    if (!jobs)
        return;
    stop_work(jobs);
    pthread_mutex_lock(&jobs->lock);
    jobs->notifier_stopping = true;
    pthread_cond_broadcast(&jobs->events_there);
    pthread_mutex_unlock(&jobs->lock);
    if (jobs->notifier_there)
        pthread_join(jobs->notifier, NULL);
    table_clear(jobs);
    for (int i = 0; i < jobs->worker_count; i++) {
        link_destroy(&jobs->workers[i].link);
        free(jobs->workers[i].inside);
    }
    for (int i = 0; i < jobs->config->model_count; i++)
        asdm_sampling_close(&jobs->models[i].sampling);
    if (jobs->wake_fd >= 0)
        close(jobs->wake_fd);
    pthread_cond_destroy(&jobs->changed);
    pthread_cond_destroy(&jobs->events_there);
    pthread_cond_destroy(&jobs->pngs_there);
    pthread_mutex_destroy(&jobs->lock);
    remembered_destroy(&jobs->expired);
    free(jobs->png_threads);
    free(jobs->keys);
    free(jobs);
    *pointer = NULL;
}

/* ---- submission */

static void enter(struct jobs *jobs, struct job *job) {
    table_add(jobs, job);
    for (int i = 0; i < job->request.count; i++) {
        job->pictures[i].sequence = ++jobs->last_sequence;
        queue_push(&job->pictures[i]);
    }
    if (job->deadline > 0 && (!(jobs->deadline_next > 0) || job->deadline < jobs->deadline_next))
        jobs->deadline_next = job->deadline;
}

/* `job` becomes one of all, or an earlier one takes its place. */
static bool accept(struct jobs *jobs, struct job *job, const struct key *caller, struct job **ret,
                   struct problem *ret_problem) {
    const char *key = job->request.idempotency_key;
    struct job *earlier = key ? table_find_idempotent(jobs, key, job->key) : NULL;
    if (earlier && memcmp(earlier->digest, job->digest, sizeof job->digest) != 0)
        return problem_set(ret_problem, 422, "idempotency_mismatch", "idempotency_key",
                           "idempotency_key: was used for another request");
    if (!earlier && !admit_job(jobs, job, caller, ret_problem)) {
        metrics_add(jobs->metrics, METRIC_REJECTED, ret_problem->code, NULL, 1);
        return false;
    }
    if (earlier)
        job_hold(earlier);
    else
        enter(jobs, job);
    *ret = earlier ? earlier : job;
    return true;
}

bool jobs_submit(struct jobs *jobs, struct job_request *request, const struct key *caller, struct job **ret,
                 bool *ret_again, struct problem *ret_problem) {
    struct job *job = job_create(jobs, request, caller->index), *accepted = NULL;
    if (!job) {
        job_request_done(request);
        problem_set(ret_problem, 503, "out_of_memory", "", "the server is short of memory");
        ret_problem->retry_after_ms = 1000;
        return false;
    }
    pthread_mutex_lock(&jobs->lock);
    bool good = accept(jobs, job, caller, &accepted, ret_problem);
    pthread_mutex_unlock(&jobs->lock);
    if (accepted == job)
        jobs_wake(jobs);
    else
        job_destroy(job);
    if (!good)
        return false;
    *ret_again = accepted != job;
    *ret = accepted;
    return true;
}

/* ---- models and overview */

int jobs_model_find(const struct jobs *jobs, const char *name) {
    for (int i = 0; i < jobs->config->model_count; i++)
        if (!name || strcmp(jobs->config->models[i].name, name) == 0)
            return i;
    return -1;
}

void jobs_model(struct jobs *jobs, int index, struct model_view *ret) {
    pthread_mutex_lock(&jobs->lock);
    const struct job_model *model = &jobs->models[index];
    *ret = (struct model_view){.name = model->name,
                               .ready = model->ready,
                               .default_width = model->capacity.default_width,
                               .default_height = model->capacity.default_height,
                               .default_sampler = model->default_sampler,
                               .sampling = model->sampling,
                               .pixels_max = model->capacity.row_pixels_max / 2};
    memcpy(ret->sha256, model->sha256, sizeof ret->sha256);
    pthread_mutex_unlock(&jobs->lock);
}

static const char *find_unready(const struct jobs *jobs) {
    if (jobs->draining)
        return "draining";
    for (int i = 0; i < jobs->config->model_count; i++)
        if (!jobs->models[i].ready)
            return "a model has not drawn its first picture yet";
    return jobs->fingerprinted ? NULL : "the models' weights are being read";
}

void jobs_overview(struct jobs *jobs, struct jobs_overview *ret) {
    pthread_mutex_lock(&jobs->lock);
    bool fresh = jobs->step_weight > 0 && clock_seconds() - jobs->step_at < STEP_MEAN_OLD_SECONDS;
    *ret = (struct jobs_overview){.queued = jobs->waiting,
                                  .draining = jobs->draining,
                                  .unready_reason = find_unready(jobs),
                                  .step_seconds_mean = fresh ? jobs->step_sum / jobs->step_weight : 0};
    ret->ready = !ret->unready_reason;
    for (int w = 0; w < jobs->worker_count; w++)
        for (int i = 0; i < jobs->workers[w].inside_count; i++) {
            const struct job_picture *picture = jobs->workers[w].inside[i];
            ret->active_pictures += picture->state == PICTURE_RUNNING || picture->state == PICTURE_DECODING;
            ret->active_rows += picture->state == PICTURE_RUNNING ? picture->rows : 0;
        }
    pthread_mutex_unlock(&jobs->lock);
}
