/* From jobs_create to jobs_destroy: threads, workers, draining. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <asdm/error.h>

#include "front/queue/internal.h"

static bool same_device(const char *a, const char *b) {
    return strcmp(a ? a : "auto", b ? b : "auto") == 0;
}

static const char *device_of(const struct config *config, int model) {
    return config->models[model].device ? config->models[model].device : config->device;
}

/* One worker per device: the models of one share it. */
static enum asdm_status create_workers(struct jobs *jobs, struct asdm_error *err) {
    const struct config *config = jobs->config;
    for (int i = 0; i < config->model_count; i++)
        jobs->models[i].worker = -1;
    for (int i = 0; i < config->model_count; i++) {
        int served[CONFIG_MODELS_MAX], count = 0;
        if (jobs->models[i].worker >= 0)
            continue;
        struct job_worker *worker = &jobs->workers[jobs->worker_count];
        worker->jobs = jobs;
        for (int k = i; k < config->model_count; k++)
            if (same_device(device_of(config, k), device_of(config, i))) {
                jobs->models[k].worker = jobs->worker_count;
                served[count++] = k;
            }
        ASDM_TRY(link_create(config, served, count, dispatcher_handle, worker, &worker->link, err));
        jobs->worker_count++;
    }
    return ASDM_OK;
}

static enum asdm_status open_models(struct jobs *jobs, struct asdm_error *err) {
    for (int i = 0; i < jobs->config->model_count; i++) {
        struct job_model *model = &jobs->models[i];
        struct asdm_sampling_choice choice;
        model->name = jobs->config->models[i].name;
        ASDM_TRY(asdm_sampling_open(jobs->config->models[i].path, &model->sampling, err));
        ASDM_TRY(asdm_sampling_resolve(model->sampling, NULL, NULL, 20, -1, &choice, err));
        model->default_sampler = choice.sampler;
        metrics_set(jobs->metrics, METRIC_MODEL_READY, model->name, NULL, 0);
    }
    return ASDM_OK;
}

static enum asdm_status init(struct jobs *jobs, struct asdm_error *err) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&jobs->lock, NULL);
    pthread_cond_init(&jobs->idle, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_cond_init(&jobs->events_cond, NULL);
    pthread_cond_init(&jobs->pngs_cond, NULL);
    jobs->queue_end = &jobs->queue;
    jobs->events_end = &jobs->events;
    jobs->pngs_end = &jobs->pngs;
    jobs->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    jobs->tombstones = calloc(JOB_TOMBSTONES, sizeof *jobs->tombstones);
    jobs->png_threads = calloc((size_t)jobs->config->png_threads, sizeof *jobs->png_threads);
    if (jobs->wake_fd < 0 || !jobs->tombstones || !jobs->png_threads)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory or no descriptors for the queue");
    ASDM_TRY(open_models(jobs, err));
    return create_workers(jobs, err);
}

enum asdm_status jobs_create(const struct config *config, struct metrics *metrics, struct jobs **ret,
                             struct asdm_error *err) {
    struct jobs *jobs = calloc(1, sizeof *jobs);
    if (!jobs)
        return asdm_fail(err, ASDM_ERR_MEMORY, "no memory for the queue");
    jobs->config = config;
    jobs->metrics = metrics;
    enum asdm_status status = init(jobs, err);
    if (status != ASDM_OK) {
        jobs_destroy(&jobs);
        return status;
    }
    *ret = jobs;
    return ASDM_OK;
}

static enum asdm_status start_thread(pthread_t *thread, void *(*run)(void *), struct jobs *jobs,
                                     struct asdm_error *err) {
    int code = pthread_create(thread, NULL, run, jobs);
    return code ? asdm_fail(err, ASDM_ERR_MEMORY, "a thread could not be started: %s", strerror(code)) : ASDM_OK;
}

enum asdm_status jobs_start(struct jobs *jobs, struct asdm_error *err) {
    ASDM_TRY(start_thread(&jobs->notifier, notify_main, jobs, err));
    for (; jobs->png_thread_count < jobs->config->png_threads; jobs->png_thread_count++)
        ASDM_TRY(start_thread(&jobs->png_threads[jobs->png_thread_count], png_main, jobs, err));
    ASDM_TRY(start_thread(&jobs->fingerprinter, fingerprint_main, jobs, err));
    ASDM_TRY(start_thread(&jobs->dispatcher, dispatcher_main, jobs, err));
    jobs->started = true;
    return ASDM_OK;
}

/* ---- the end */

static void fail_the_rest(struct jobs *jobs) {
    struct problem problem;
    problem_set(&problem, 503, "draining", "", "the server is shutting down");
    problem.retry_after_ms = 1000;
    for (bool again = true; again;) {
        again = false;
        for (struct job *job = jobs->oldest; job && !again; job = job->newer)
            if (!job->finished && (job->state == JOB_QUEUED || job->state == JOB_RUNNING)) {
                metrics_add(jobs->metrics, METRIC_CANCELLED, "drain", NULL, 1);
                job_end(job, JOB_FAILED, &problem);
                again = true;
            }
    }
}

static void stop_threads(struct jobs *jobs) {
    if (!jobs->started)
        return;
    jobs->started = false;
    jobs_lock(jobs);
    jobs->stopping = true;
    jobs_unlock(jobs);
    jobs_wake(jobs);
    pthread_join(jobs->dispatcher, NULL);
    pthread_join(jobs->fingerprinter, NULL);
    jobs_lock(jobs);
    jobs->png_stopping = true;
    pthread_cond_broadcast(&jobs->pngs_cond);
    jobs_unlock(jobs);
    for (int i = 0; i < jobs->png_thread_count; i++)
        pthread_join(jobs->png_threads[i], NULL);
    jobs_lock(jobs);
    jobs->notifier_stopping = true;
    pthread_cond_broadcast(&jobs->events_cond);
    jobs_unlock(jobs);
    pthread_join(jobs->notifier, NULL);
}

void jobs_drain(struct jobs *jobs) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += jobs->config->drain_timeout_ms / 1000;
    until.tv_nsec += jobs->config->drain_timeout_ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    jobs_lock(jobs);
    jobs->draining = true;
    while (jobs->unfinished && pthread_cond_timedwait(&jobs->idle, &jobs->lock, &until) != ETIMEDOUT)
        ;
    fail_the_rest(jobs);
    jobs_unlock(jobs);
    stop_threads(jobs);
}

void jobs_destroy(struct jobs **jobs) {
    struct jobs *j = *jobs;
    if (!j)
        return;
    stop_threads(j);
    for (int w = 0; w < j->worker_count; w++) {
        link_destroy(&j->workers[w].link);
        for (int i = 0; i < j->workers[w].inside_count; i++)
            job_unref_locked(j->workers[w].inside[i]->job);
        free(j->workers[w].inside);
    }
    while (j->queue)
        queue_remove(j, j->queue);
    for (struct job *job = j->oldest, *newer; job; job = newer) {
        newer = job->newer;
        job_unref_locked(job);
    }
    for (int i = 0; i < j->config->model_count; i++)
        asdm_sampling_close(&j->models[i].sampling);
    if (j->wake_fd >= 0)
        close(j->wake_fd);
    free(j->tombstones);
    free(j->png_threads);
    free(j);
    *jobs = NULL;
}
