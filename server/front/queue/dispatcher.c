/* The thread between queue and workers: gives pictures out while there is room, and hears what becomes of them. */
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <asdm/error.h>

#include "front/queue/internal.h"

enum { TURN_MS_MAX = 1000 };

/* Smoothing of measured times: the weight of the newest. */
static const double NEWEST = 0.1;

static void smooth(double *mean, double value) {
    *mean = *mean > 0 ? *mean + NEWEST * (value - *mean) : value;
}

/* ---- what is inside a worker */

static void inside_add(struct job_worker *worker, struct job_picture *picture) {
    if (worker->inside_count == worker->inside_max) {
        int room = worker->inside_max ? 2 * worker->inside_max : 64;
        struct job_picture **larger = realloc(worker->inside, (size_t)room * sizeof(struct job_picture *));
        ASDM_ASSERT(larger);
        worker->inside = larger;
        worker->inside_max = room;
    }
    worker->inside[worker->inside_count++] = picture;
    job_ref_locked(picture->job);
}

/* Takes its reference to the job away: the picture may be gone after that. */
static void inside_remove(struct job_worker *worker, struct job_picture *picture) {
    for (int i = 0; i < worker->inside_count; i++)
        if (worker->inside[i] == picture) {
            worker->inside[i] = worker->inside[--worker->inside_count];
            picture->wire_id = 0;
            job_unref_locked(picture->job);
            return;
        }
}

static struct job_picture *inside_find(const struct job_worker *worker, uint64_t id) {
    for (int i = 0; i < worker->inside_count; i++)
        if (worker->inside[i]->wire_id == id)
            return worker->inside[i];
    return NULL;
}

/* ---- giving out */

/* Is there room in the worker for the picture now? */
static bool has_room(const struct jobs *jobs, const struct job_worker *worker, const struct job_picture *picture) {
    const struct job_request *request = &picture->job->request;
    const struct wire_model *capacity = &jobs->models[request->model].capacity;
    double row_pixels = (double)picture->rows * request->width * request->height;
    int rows = 0, pictures = 0;
    if (picture->alone && worker->inside_count)
        return false;
    for (int i = 0; i < worker->inside_count; i++) {
        const struct job_picture *other = worker->inside[i];
        if (other->alone)
            return false;
        if (other->job->request.model != request->model)
            continue;
        pictures++;
        if (other->state == PICTURE_SENT || other->state == PICTURE_RUNNING) {
            rows += other->rows;
            row_pixels += (double)other->rows * other->job->request.width * other->job->request.height;
        }
    }
    if (pictures >= capacity->pictures_max || rows >= capacity->rows_max + JOB_LOOKAHEAD_ROWS)
        return false;
    double lookahead = 1 + (double)JOB_LOOKAHEAD_ROWS / capacity->rows_max; /* those do not run yet */
    return pictures == 0 || row_pixels <= (double)capacity->row_pixels_max * lookahead;
}

/* Marks the next picture for a worker as sent; NULL: none, or no room. */
static struct job_picture *take_next(struct jobs *jobs, int index) {
    struct job_worker *worker = &jobs->workers[index];
    struct job_picture *picture = worker->ready ? queue_first(jobs, index) : NULL;
    if (!picture || !has_room(jobs, worker, picture))
        return NULL;
    inside_add(worker, picture);
    queue_remove(jobs, picture);
    picture->state = PICTURE_SENT;
    picture->wire_id = ++jobs->last_wire_id;
    return picture;
}

static void give_back(struct jobs *jobs, struct job_worker *worker, struct job_picture *picture) {
    job_ref_locked(picture->job);
    struct job *job = picture->job;
    bool gone = picture->state == PICTURE_GONE;
    inside_remove(worker, picture);
    if (!gone)
        queue_push(jobs, picture, true);
    job_unref_locked(job);
}

static struct link_picture link_picture_of(const struct job_picture *picture) {
    const struct job_request *r = &picture->job->request;
    return (struct link_picture){.model = r->model,
                                 .prompt = r->prompt,
                                 .negative_prompt = r->negative_prompt,
                                 .sampler = r->sampler,
                                 .schedule = r->schedule,
                                 .syntax = r->syntax,
                                 .width = r->width,
                                 .height = r->height,
                                 .steps = r->steps,
                                 .previews = r->previews,
                                 .guidance_scale = r->guidance_scale,
                                 .strength = r->strength,
                                 .seed = r->seed + (uint64_t)picture->index,
                                 .rng = r->rng,
                                 .init = r->init.rgb ? &r->init : NULL,
                                 .mask = r->mask};
}

/* A picture that no worker could ever be given. */
static void refuse(struct jobs *jobs, struct job_worker *worker, struct job_picture *picture) {
    struct problem problem;
    struct job *job = picture->job;
    problem_set(&problem, 422, "too_large", "width", "width, height: the picture is larger than a worker can hold");
    jobs_lock(jobs);
    job_ref_locked(job);
    inside_remove(worker, picture);
    job_end(job, JOB_FAILED, &problem);
    job_unref_locked(job);
    jobs_unlock(jobs);
}

static void fill_worker(struct jobs *jobs, int index) {
    struct job_worker *worker = &jobs->workers[index];
    for (;;) {
        jobs_lock(jobs);
        struct job_picture *picture = take_next(jobs, index);
        if (!picture) {
            jobs_unlock(jobs);
            return;
        }
        struct link_picture what = link_picture_of(picture);
        bool holdable = link_can_hold(worker->link, &what);
        bool sent = holdable && link_submit(worker->link, picture->wire_id, &what);
        if (holdable && !sent)
            give_back(jobs, worker, picture);
        jobs_unlock(jobs);
        if (!holdable)
            refuse(jobs, worker, picture);
        else if (!sent)
            return; /* later: places come free */
    }
}

/* What clients asked for while the dispatcher was elsewhere. */
static void tell_worker(struct job_worker *worker) {
    for (int i = worker->inside_count - 1; i >= 0; i--) {
        struct job_picture *picture = worker->inside[i];
        if (picture->dropped) {
            link_cancel(worker->link, picture->wire_id);
            inside_remove(worker, picture);
        } else if (picture->wants_preview) {
            picture->wants_preview = false;
            link_preview(worker->link, picture->wire_id);
        }
    }
}

/* Waiting pictures that cannot be ready in time any more. Returns seconds until the next could be. */
static double refuse_late(struct jobs *jobs, double now) {
    double next = 3600;
    for (struct job_picture *p = jobs->queue, *after; p; p = after) {
        struct job *job = p->job;
        after = p->next;
        if (!job->deadline)
            continue;
        double own = admit_price(&job->request) * jobs->models[job->request.model].unit_seconds;
        double left = job->deadline - own - now;
        if (left > 0) {
            next = fmin(next, left);
            continue;
        }
        struct problem problem;
        problem_set(&problem, 504, "deadline", "deadline_ms", "deadline_ms: the picture could not be ready in time");
        metrics_add(jobs->metrics, METRIC_REJECTED, problem.code, NULL, 1);
        job_end(job, JOB_FAILED, &problem);
        return 0; /* the list has changed */
    }
    return next;
}

/* ---- events */

static void on_started(struct jobs *jobs, struct job_picture *picture, double now) {
    if (picture->begun)
        return;
    picture->begun = now;
    picture->queue_seconds = now - picture->enqueued;
    metrics_observe(jobs->metrics, METRIC_QUEUE_SECONDS, NULL, NULL, picture->queue_seconds);
    if (picture->job->state == JOB_QUEUED)
        picture->job->state = JOB_RUNNING;
}

static void on_progress(struct jobs *jobs, struct job_picture *picture, const struct wire_progress *progress) {
    if (picture->dropped)
        return;
    if (progress->state >= ASDM_PICTURE_RUNNING && picture->state == PICTURE_SENT) {
        picture->state = PICTURE_RUNNING;
        on_started(jobs, picture, jobs_now());
    }
    if (progress->state >= ASDM_PICTURE_DECODING && picture->state == PICTURE_RUNNING)
        picture->state = PICTURE_DECODING;
    picture->step = progress->done;
    struct job *job = picture->job;
    if (job->watchers && !job->progress_pending) {
        job->progress_pending = true;
        notify_push(job, JOB_EVENT_PROGRESS, picture->index, 0, NULL, 0);
    }
}

static void on_step(struct jobs *jobs, const struct wire_step *step, int index) {
    struct job_model *model = &jobs->models[index];
    struct job_worker *worker = &jobs->workers[model->worker];
    char rows[16];
    double row_pixels = 0;
    snprintf(rows, sizeof rows, "%d", step->rows);
    metrics_observe(jobs->metrics, METRIC_STEP_SECONDS, model->name, rows, step->seconds);
    metrics_observe(jobs->metrics, METRIC_BATCH_ROWS, NULL, NULL, step->rows);
    smooth(&jobs->step_seconds, step->seconds);
    for (int i = 0; i < worker->inside_count; i++) {
        const struct job_picture *p = worker->inside[i];
        if (p->job->request.model == index && p->state == PICTURE_RUNNING)
            row_pixels += (double)p->rows * p->job->request.width * p->job->request.height;
    }
    if (row_pixels > 0)
        smooth(&model->unit_seconds, step->seconds / row_pixels);
}

static void observe_stages(struct jobs *jobs, struct job_picture *picture, const struct wire_picture *made) {
    static const char *const names[ASDM_STAGE_COUNT] = {"text", "encode", "denoise", "decode"};
    struct job_key *key = &jobs->keys[picture->job->key % JOB_KEYS_MAX];
    for (int i = 0; i < ASDM_STAGE_COUNT; i++) {
        picture->inference_seconds += made->seconds[i];
        if (made->seconds[i] > 0)
            metrics_observe(jobs->metrics, METRIC_STAGE_SECONDS, names[i], NULL, made->seconds[i]);
    }
    key->served += admit_price(&picture->job->request);
    if (key->served > jobs->served_least)
        jobs->served_least += (key->served - jobs->served_least) * NEWEST;
    double now = jobs_now();
    if (jobs->last_finished > 0 && now > jobs->last_finished)
        smooth(&jobs->finished_rate, fmin(1e4, 1 / (now - jobs->last_finished)));
    jobs->last_finished = now;
}

static void on_picture(struct jobs *jobs, struct job_worker *worker, struct job_picture *picture,
                       const struct link_event *event) {
    struct job *job = picture->job;
    job_ref_locked(job);
    if (!picture->dropped) {
        on_started(jobs, picture, jobs_now());
        picture->state = PICTURE_ENCODING;
        picture->step = job->steps;
        observe_stages(jobs, picture, event->picture);
        if (!png_push(jobs, picture, -1, event->rgb, event->width, event->height)) {
            struct problem problem;
            problem_set(&problem, 500, "no_memory", "", "the server has no memory for the picture");
            picture->state = PICTURE_DECODING;
            job_end(job, JOB_FAILED, &problem);
        }
    }
    inside_remove(worker, picture);
    job_unref_locked(job);
}

/* The engine's own words name what was wrong with the request; anything else stays inside. */
static void on_failed(struct job_worker *worker, struct job_picture *picture, const struct wire_failed *failed) {
    struct job *job = picture->job;
    struct problem problem;
    if (failed->status == ASDM_ERR_ARGUMENT || failed->status == ASDM_ERR_UNSUPPORTED)
        problem_set(&problem, 422, "invalid_value", "", "%s", failed->message);
    else if (failed->status == ASDM_ERR_MEMORY)
        problem_set(&problem, 422, "too_large", "width", "width, height: there is no memory for a picture of this size");
    else
        problem_set(&problem, 500, "worker_failed", "", "the picture could not be made (%s)", job->id);
    job_ref_locked(job);
    inside_remove(worker, picture);
    if (!picture->dropped)
        job_end(job, JOB_FAILED, &problem);
    job_unref_locked(job);
}

/* Everything goes back to the queue. What was being drawn may have caused it: it is drawn alone, and given up after so
 * many attempts. */
static void on_died(struct jobs *jobs, struct job_worker *worker, const char *reason) {
    int begun = 0;
    worker->ready = false;
    metrics_add(jobs->metrics, METRIC_WORKER_RESTARTS, reason, NULL, 1);
    for (int i = 0; i < worker->inside_count; i++)
        begun += worker->inside[i]->state == PICTURE_RUNNING || worker->inside[i]->state == PICTURE_DECODING;
    while (worker->inside_count) {
        struct job_picture *picture = worker->inside[worker->inside_count - 1];
        struct job *job = picture->job;
        job_ref_locked(job);
        if (picture->state != PICTURE_SENT && picture->state != PICTURE_GONE) {
            picture->attempts++;
            picture->alone = begun > 1 || picture->alone;
        }
        picture->step = 0;
        if (picture->attempts >= jobs->config->attempts_max) {
            struct problem problem;
            problem_set(&problem, 500, "worker_failed", "",
                        "the picture was given up: its worker ended %d times while drawing it (%s)", picture->attempts,
                        job->id);
            inside_remove(worker, picture);
            job_end(job, JOB_FAILED, &problem);
        } else {
            give_back(jobs, worker, picture);
        }
        job_unref_locked(job);
    }
    for (int m = 0; m < jobs->config->model_count; m++)
        if (&jobs->workers[jobs->models[m].worker] == worker)
            metrics_set(jobs->metrics, METRIC_MODEL_READY, jobs->models[m].name, NULL, 0);
}

static void on_model(struct jobs *jobs, int index, const struct wire_model *capacity) {
    struct job_model *model = &jobs->models[index];
    model->capacity = *capacity;
    model->default_width = capacity->default_width;
    model->default_height = capacity->default_height;
    model->ready = true;
    metrics_set(jobs->metrics, METRIC_MODEL_READY, model->name, NULL, 1);
}

void dispatcher_handle(void *user, const struct link_event *event) {
    struct job_worker *worker = user;
    struct jobs *jobs = worker->jobs;
    jobs_lock(jobs);
    struct job_picture *picture = event->id ? inside_find(worker, event->id) : NULL;
    if (event->type == LINK_MODEL)
        on_model(jobs, event->model, event->capacity);
    else if (event->type == LINK_READY)
        worker->ready = true;
    else if (event->type == LINK_STEP)
        on_step(jobs, event->step, event->model);
    else if (event->type == LINK_DIED)
        on_died(jobs, worker, event->reason);
    else if (picture && event->type == LINK_PROGRESS)
        on_progress(jobs, picture, event->progress);
    else if (picture && event->type == LINK_PREVIEW && !picture->dropped)
        png_push(jobs, picture, picture->previews++, event->rgb, event->width, event->height);
    else if (picture && event->type == LINK_PICTURE)
        on_picture(jobs, worker, picture, event);
    else if (picture && event->type == LINK_FAILED)
        on_failed(worker, picture, event->failed);
    jobs_unlock(jobs);
}

/* ---- the loop */

static void publish(struct jobs *jobs) {
    int rows = 0;
    for (int w = 0; w < jobs->worker_count; w++)
        for (int i = 0; i < jobs->workers[w].inside_count; i++)
            rows += jobs->workers[w].inside[i]->state == PICTURE_RUNNING ? jobs->workers[w].inside[i]->rows : 0;
    metrics_set(jobs->metrics, METRIC_QUEUE_DEPTH, NULL, NULL, jobs->queued);
    metrics_set(jobs->metrics, METRIC_ACTIVE_ROWS, NULL, NULL, rows);
}

/* Seconds until there is something to do without being woken. */
static double turn(struct jobs *jobs) {
    double now = jobs_now(), next;
    jobs_lock(jobs);
    for (int w = 0; w < jobs->worker_count; w++)
        tell_worker(&jobs->workers[w]);
    next = fmin(refuse_late(jobs, now), jobs_expire(jobs, now));
    bool fill = jobs->fingerprinted; /* before that a PNG could not name its model */
    jobs_unlock(jobs);
    for (int w = 0; w < jobs->worker_count && fill; w++)
        fill_worker(jobs, w);
    jobs_lock(jobs);
    publish(jobs);
    jobs_unlock(jobs);
    return next;
}

static void wait_for_work(struct jobs *jobs, double seconds) {
    struct pollfd fds[CONFIG_MODELS_MAX + 1] = {{.fd = jobs->wake_fd, .events = POLLIN}};
    int timeout = seconds * 1000 < TURN_MS_MAX ? (int)ceil(seconds * 1000) : TURN_MS_MAX;
    for (int w = 0; w < jobs->worker_count; w++) {
        int own = link_timeout_ms(jobs->workers[w].link);
        fds[w + 1] = (struct pollfd){.fd = link_fd(jobs->workers[w].link), .events = POLLIN};
        timeout = own >= 0 && own < timeout ? own : timeout;
    }
    uint64_t count;
    if (poll(fds, (nfds_t)jobs->worker_count + 1, timeout) > 0 && (fds[0].revents & POLLIN)) {
        ssize_t got = read(jobs->wake_fd, &count, sizeof count);
        (void)got;
    }
}

/* All workers end in order; those that do not are killed when their link is destroyed. */
static void stop_workers(struct jobs *jobs) {
    double until = jobs_now() + 2;
    for (int w = 0; w < jobs->worker_count; w++)
        link_stop(jobs->workers[w].link);
    for (bool running = true; running && jobs_now() < until;) {
        running = false;
        wait_for_work(jobs, 0.05);
        for (int w = 0; w < jobs->worker_count; w++) {
            link_turn(jobs->workers[w].link);
            running |= link_pid(jobs->workers[w].link) != 0;
        }
    }
}

void *dispatcher_main(void *user) {
    struct jobs *jobs = user;
    for (;;) {
        jobs_lock(jobs);
        bool stopping = jobs->stopping;
        jobs_unlock(jobs);
        if (stopping)
            break;
        for (int w = 0; w < jobs->worker_count; w++)
            link_turn(jobs->workers[w].link);
        wait_for_work(jobs, turn(jobs));
    }
    stop_workers(jobs);
    return NULL;
}
