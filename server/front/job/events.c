/* What comes out of the workers: progress, pictures, deaths. On the dispatcher's thread, from link_turn. */
#include <stdio.h>
#include <stdlib.h>

#include "front/job/internal.h"
#include "front/log.h"

/* ---- models */

/* What the model takes of its device, told before it serves. */
static void tell_memory(struct jobs *jobs, const char *name, const struct wire_model *capacity) {
    struct log_line line;
    if (!capacity->device_bytes)
        return;
    log_begin(&line, LOG_LEVEL_INFO, "device memory");
    log_text(&line, "model", name);
    log_integer(&line, "weights_bytes", (int64_t)capacity->device_weights);
    log_integer(&line, "plans_bytes", (int64_t)capacity->device_plans);
    log_integer(&line, "free_bytes", (int64_t)capacity->device_free);
    log_integer(&line, "device_bytes", (int64_t)capacity->device_bytes);
    log_end(&line);
    metrics_set(jobs->metrics, METRIC_DEVICE_MEMORY, name, "weights", (double)capacity->device_weights);
    metrics_set(jobs->metrics, METRIC_DEVICE_MEMORY, name, "plans", (double)capacity->device_plans);
    metrics_set(jobs->metrics, METRIC_DEVICE_MEMORY, name, "free", (double)capacity->device_free);
}

/* What is used on all devices; the models of one worker share theirs. */
static double memory_used(const struct jobs *jobs) {
    uint64_t used[CONFIG_MODELS_MAX] = {0}, sum = 0;
    for (int m = 0; m < jobs->config->model_count; m++) {
        const struct job_model *model = &jobs->models[m];
        uint64_t own = model->capacity.device_bytes - model->capacity.device_free;
        if (own > used[model->worker])
            used[model->worker] = own;
    }
    for (int w = 0; w < CONFIG_MODELS_MAX; w++)
        sum += used[w];
    return (double)sum;
}

static void on_model(struct job_worker *worker, const struct link_event *event) {
    struct jobs *jobs = worker->jobs;
    struct job_model *model = &jobs->models[event->model];
    model->capacity = *event->capacity;
    model->ready = true;
    metrics_set(jobs->metrics, METRIC_GPU_MEMORY, NULL, NULL, memory_used(jobs));
    tell_memory(jobs, jobs->config->models[event->model].name, event->capacity);
    int room = 0;
    for (int m = 0; m < jobs->config->model_count; m++)
        if (jobs->models[m].worker == model->worker)
            room += jobs->models[m].capacity.pictures_max;
    struct job_picture **inside =
        room > worker->inside_max ? realloc(worker->inside, (size_t)room * sizeof *inside) : NULL;
    if (inside) { /* without memory the worker gets fewer at once */
        worker->inside = inside;
        worker->inside_max = room;
    }
}

/* ---- pictures */

static void begin(struct job_picture *picture, double now) {
    struct job *job = picture->job;
    if (picture->begun > 0)
        return;
    picture->begun = now;
    picture->queue_seconds = now - job->created;
    if (job->state == JOB_QUEUED)
        job->state = JOB_RUNNING;
}

static void on_progress(struct job_picture *picture, const struct wire_progress *progress) {
    static const enum picture_state states[] = {[ASDM_PICTURE_WAITING] = PICTURE_SENT,
                                                [ASDM_PICTURE_RUNNING] = PICTURE_RUNNING,
                                                [ASDM_PICTURE_DECODING] = PICTURE_DECODING,
                                                [ASDM_PICTURE_FINISHED] = PICTURE_DECODING};
    if (progress->state < 0 || progress->state > ASDM_PICTURE_FINISHED || progress->total <= 0)
        return;
    job_set_picture(picture, states[progress->state]);
    if (picture->state != PICTURE_SENT)
        begin(picture, clock_seconds());
    int64_t evaluations = picture->job->request.evaluations;
    picture->step = (int)(evaluations * progress->done / progress->total);
    notify_push(picture->job, JOB_EVENT_PROGRESS, picture->index, 0, NULL, 0);
}

static void record_stages(struct metrics *metrics, const double seconds[ASDM_STAGE_COUNT], bool i2i) {
    static const char *const names[ASDM_STAGE_COUNT] = {"text", "encode", "denoise", "decode"};
    for (int stage = 0; stage < ASDM_STAGE_COUNT; stage++)
        if (stage != ASDM_STAGE_ENCODE || i2i)
            metrics_observe(metrics, METRIC_STAGE_SECONDS, names[stage], NULL, seconds[stage]);
}

static void end_without_memory(struct job *job) {
    struct problem problem;
    problem_set(&problem, 503, "out_of_memory", "", "the server is short of memory");
    problem.retry_after_ms = 1000;
    job_end(job, JOB_FAILED, &problem);
}

static void on_picture(struct job_worker *worker, struct job_picture *picture, const struct wire_picture *drawn,
                       struct png_pixels *pixels) {
    struct jobs *jobs = worker->jobs;
    const struct job_request *request = &picture->job->request;
    double now = clock_seconds();
    admit_drawn(jobs, now);
    begin(picture, now);
    /* What was not its own work was waiting: for its turn, and for others' work between its own. */
    double worked = 0;
    for (int stage = 0; stage < ASDM_STAGE_COUNT; stage++)
        worked += drawn->seconds[stage];
    double start = now - worked > picture->sent ? now - worked : picture->sent;
    picture->queue_seconds = start - picture->job->created;
    picture->inference_seconds = now - start;
    metrics_observe(jobs->metrics, METRIC_QUEUE_SECONDS, NULL, NULL, picture->queue_seconds);
    record_stages(jobs->metrics, drawn->seconds, request->i2i);
    estimate_picture(&jobs->models[request->model], drawn, (uint64_t)request->width * (uint64_t)request->height);
    job_set_picture(picture, PICTURE_ENCODING);
    if (pixels)
        png_push(picture, -1, pixels);
    else
        end_without_memory(picture->job);
    dispatcher_remove(worker, picture);
}

/* One picture could not be made. What the request asks for is told in the worker's words, which name the field. */
static void on_failed(struct job_worker *worker, struct job_picture *picture, const struct wire_failed *failed) {
    struct job *job = picture->job;
    struct problem problem;
    bool wrong = failed->status == ASDM_ERR_ARGUMENT || failed->status == ASDM_ERR_UNSUPPORTED;
    log_message(LOG_LEVEL_WARNING, "%s: a picture failed: %s", job->id, failed->message);
    if (failed->status == ASDM_ERR_MEMORY && worker->inside_count > 1 && !picture->alone) {
        picture->returned = picture->alone = true; /* there is most room when nothing else is there */
        job_set_picture(picture, PICTURE_WAITING);
        queue_push(picture);
        dispatcher_remove(worker, picture);
        return;
    }
    if (wrong)
        problem_set(&problem, 422, "invalid_value", "", "%s", failed->message);
    else if (failed->status == ASDM_ERR_MEMORY)
        problem_set(&problem, 422, "too_large", "width", "width: %d x %d needs more memory than the server has",
                    job->request.width, job->request.height);
    else
        problem_set(&problem, 500, "worker_failed", "", "a picture of %s could not be made", job->id);
    job_end(job, JOB_FAILED, &problem);
    picture->dropped = false;
    dispatcher_remove(worker, picture);
}

/* ---- death */

static void give_up(struct job *job) {
    struct problem problem;
    problem_set(&problem, 500, "worker_failed", "", "%s was given up: its worker died %d times while drawing it",
                job->id, job->jobs->config->attempts_max);
    job_end(job, JOB_FAILED, &problem);
}

/* Back to the front of the queue. */
static void put_back(struct job_picture *picture, bool suspect, bool alone) {
    picture->returned = true;
    picture->begun = 0;
    picture->step = 0;
    picture->attempts += suspect;
    picture->alone = picture->alone || alone;
    job_set_picture(picture, PICTURE_WAITING);
    if (picture->attempts >= picture->job->jobs->config->attempts_max)
        give_up(picture->job);
    else
        queue_push(picture);
}

/* Suspected are those that had begun. Where none had, one of those whose prompt or image was being encoded it must have
 * been. */
static void on_death(struct job_worker *worker, const struct link_event *event) {
    struct jobs *jobs = worker->jobs;
    int begun = 0, count = worker->inside_count;
    worker->ready = false;
    for (int m = 0; m < jobs->config->model_count; m++)
        if (&jobs->workers[jobs->models[m].worker] == worker)
            jobs->models[m].ready = false;
    metrics_add(jobs->metrics, METRIC_WORKER_RESTARTS, event->reason, NULL, 1);
    log_message(LOG_LEVEL_ERROR, "a worker ended (%s) with %d pictures%s%s", event->reason, count,
                event->failed ? ": " : "", event->failed ? event->failed->message : "");
    for (int i = 0; i < count; i++)
        begun += worker->inside[i]->state >= PICTURE_RUNNING; /* with those that were dropped in this very moment */
    int suspects = begun > 0 ? begun : count;
    while (worker->inside_count > 0) {
        struct job_picture *picture = worker->inside[0];
        bool suspect = begun == 0 || picture->state >= PICTURE_RUNNING;
        if (picture->dropped)
            picture->dropped = false;
        else
            put_back(picture, suspect, suspect && suspects > 1);
        dispatcher_remove(worker, picture);
    }
}

/* ---- all of it */

static void on_step(struct jobs *jobs, const struct link_event *event) {
    char rows[16];
    snprintf(rows, sizeof rows, "%d", event->step->rows);
    metrics_observe(jobs->metrics, METRIC_STEP_SECONDS, jobs->models[event->model].name, rows, event->step->seconds);
    metrics_observe(jobs->metrics, METRIC_BATCH_ROWS, NULL, NULL, event->step->rows);
    estimate_step(jobs, event->model, event->step, clock_seconds());
}

/* Takes `pixels`. */
static void on_picture_event(struct job_worker *worker, const struct link_event *event, struct png_pixels *pixels) {
    struct job_picture *picture = dispatcher_find(worker, event->id);
    if (!picture || picture->dropped) { /* its job has ended; what left the worker need not be taken out */
        if (picture && event->type != LINK_PROGRESS && event->type != LINK_PREVIEW) {
            picture->dropped = false;
            dispatcher_remove(worker, picture);
        }
        free(pixels);
    } else if (event->type == LINK_PROGRESS) {
        on_progress(picture, event->progress);
    } else if (event->type == LINK_FAILED) {
        on_failed(worker, picture, event->failed);
    } else if (event->type == LINK_PICTURE) {
        on_picture(worker, picture, event->picture, pixels);
    } else if (pixels) {
        png_push(picture, picture->previews++, pixels);
    }
}

void events_handle(void *user, const struct link_event *event) {
    struct job_worker *worker = user;
    struct jobs *jobs = worker->jobs;
    struct png_pixels *pixels = event->rgb ? png_copy(event->rgb, event->width, event->height) : NULL;
    pthread_mutex_lock(&jobs->lock);
    if (event->type == LINK_MODEL)
        on_model(worker, event);
    else if (event->type == LINK_READY)
        worker->ready = true;
    else if (event->type == LINK_STEP)
        on_step(jobs, event);
    else if (event->type == LINK_DIED)
        on_death(worker, event);
    else
        on_picture_event(worker, event, pixels);
    pthread_mutex_unlock(&jobs->lock);
}
