/* The thread between queue and workers. It alone talks to the links; it sleeps until a worker says something, somebody
 * wakes it, or something is due. */
#include <math.h>
#include <poll.h>
#include <unistd.h>

#include "front/job/internal.h"

enum {
    STOP_SECONDS = 5,    /* for workers to end in order */
    REFUSED_TRY_MS = 50, /* before a picture that found no place is tried again when no worker speaks */
    WAIT_MS_MAX = 3600000
};

/* ---- pictures in a worker */

struct job_picture *dispatcher_find(const struct job_worker *worker, uint64_t wire_id) {
    for (int i = 0; i < worker->inside_count; i++)
        if (worker->inside[i]->wire_id == wire_id)
            return worker->inside[i];
    return NULL;
}

void dispatcher_remove(struct job_worker *worker, struct job_picture *picture) {
    int i = 0;
    while (worker->inside[i] != picture)
        i++;
    worker->inside_count--;
    for (; i < worker->inside_count; i++)
        worker->inside[i] = worker->inside[i + 1];
    job_release(picture->job);
}

/* What others have asked for meanwhile. */
static void see_to_wishes(struct job_worker *worker) {
    for (int i = 0; i < worker->inside_count; i++) {
        struct job_picture *picture = worker->inside[i];
        if (picture->wants_preview && !picture->dropped)
            link_preview(worker->link, picture->wire_id);
        picture->wants_preview = false;
    }
    for (int i = worker->inside_count - 1; i >= 0; i--) {
        struct job_picture *picture = worker->inside[i];
        if (picture->dropped) {
            link_cancel(worker->link, picture->wire_id);
            dispatcher_remove(worker, picture);
        }
    }
}

/* ---- room */

/* The most row-pixels that pictures of the model in the worker, and `more`, can have in one step: the worker may take
 * them in any order, so the rows of the batch are filled with the largest. */
static uint64_t row_pixels_at_most(const struct job_worker *worker, const struct job_picture *more, int rows_max) {
    const struct job_picture *all[worker->inside_count + 1];
    int count = 0;
    uint64_t sum = 0;
    for (int i = 0; i < worker->inside_count; i++)
        if (worker->inside[i]->job->request.model == more->job->request.model &&
            worker->inside[i]->state <= PICTURE_RUNNING)
            all[count++] = worker->inside[i];
    all[count++] = more;
    for (int rows = rows_max; rows > 0 && count > 0;) {
        int largest = 0;
        for (int i = 1; i < count; i++)
            if (queue_row_pixels(all[i]) / (uint64_t)all[i]->rows >
                queue_row_pixels(all[largest]) / (uint64_t)all[largest]->rows)
                largest = i;
        int taken = all[largest]->rows < rows ? all[largest]->rows : rows;
        sum += queue_row_pixels(all[largest]) / (uint64_t)all[largest]->rows * (uint64_t)taken;
        rows -= taken;
        all[largest] = all[--count];
    }
    return sum;
}

/* Whether the worker has rows for `rows` more, or room among those that wait for rows in it. */
static bool has_room(const struct job_worker *worker, const struct job_model *model, int rows) {
    int index = (int)(model - worker->jobs->models), used = 0, waiting = 0, pictures = 0;
    for (int i = 0; i < worker->inside_count; i++) {
        const struct job_picture *picture = worker->inside[i];
        if (picture->job->request.model != index)
            continue;
        pictures++;
        if (picture->state > PICTURE_RUNNING)
            continue;
        if (used + picture->rows <= model->capacity.rows_max)
            used += picture->rows;
        else
            waiting++;
    }
    return pictures < model->capacity.pictures_max &&
           (used + rows <= model->capacity.rows_max || waiting < JOB_LOOKAHEAD);
}

static bool fits(const struct job_worker *worker, const struct job_model *model, const struct job_picture *picture) {
    uint64_t most = model->capacity.row_pixels_max;
    if (!has_room(worker, model, picture->rows))
        return false;
    uint64_t sum = row_pixels_at_most(worker, picture, model->capacity.rows_max);
    return sum <= most || sum == queue_row_pixels(picture); /* by itself: the worker will tell */
}

static bool is_alone_inside(const struct job_worker *worker) {
    return worker->inside_count > 0 && worker->inside[0]->alone;
}

/* The picture that the worker can take now; NULL: none. */
static struct job_picture *choose(const struct job_worker *worker) {
    const struct jobs *jobs = worker->jobs;
    struct job_picture *best = NULL;
    for (int m = 0; m < jobs->config->model_count; m++) {
        const struct job_model *model = &jobs->models[m];
        if (&jobs->workers[model->worker] != worker || model->queued == 0 || !has_room(worker, model, 1))
            continue;
        struct job_picture *first = queue_first(jobs, m);
        if (first->alone) /* the worker is left to empty for it */
            return worker->inside_count == 0 ? first : NULL;
        if (fits(worker, model, first) && (!best || queue_goes_before(first, best)))
            best = first;
    }
    return best;
}

/* ---- giving out */

static struct link_picture describe(const struct job_picture *picture) {
    const struct job *job = picture->job;
    const struct job_request *r = &job->request;
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
                                 .init = r->i2i ? &job->init : NULL,
                                 .mask = job->mask};
}

static void end_too_large(struct job *job) {
    struct problem problem;
    problem_set(&problem, 422, "too_large", "width", "width: %d x %d is more than the server's memory is set up for",
                job->request.width, job->request.height);
    job_end(job, JOB_FAILED, &problem);
}

/* Copying pixels to the worker takes long, so the lock is let go meanwhile; the job may end then. False: no place. */
static bool send(struct job_worker *worker, struct job_picture *picture) {
    struct jobs *jobs = worker->jobs;
    struct job *job = picture->job;
    queue_remove(picture);
    job_set_picture(picture, PICTURE_SENT);
    picture->wire_id = ++jobs->last_wire_id;
    picture->sent = clock_seconds();
    worker->inside[worker->inside_count++] = picture;
    job_hold(job);
    job->sending = true;
    struct link_picture described = describe(picture);
    pthread_mutex_unlock(&jobs->lock);

    bool possible = link_can_hold(worker->link, &described);
    bool good = possible && link_submit(worker->link, picture->wire_id, &described);

    pthread_mutex_lock(&jobs->lock);
    job->sending = false;
    if (job_is_finished(job))
        job_free_pixels(job);
    if (good) {
        queue_charge(picture);
        return true;
    }
    if (!possible)
        end_too_large(job);
    if (picture->state == PICTURE_SENT) {
        job_set_picture(picture, PICTURE_WAITING);
        queue_push(picture);
    }
    picture->dropped = false;
    dispatcher_remove(worker, picture);
    return !possible;
}

static void fill(struct job_worker *worker) {
    struct jobs *jobs = worker->jobs;
    struct job_picture *next;
    worker->refused = false;
    while (worker->ready && !worker->refused && worker->inside_count < worker->inside_max && !is_alone_inside(worker) &&
           jobs->png_pending < JOB_PNG_BACKLOG && (next = choose(worker)))
        worker->refused = !send(worker, next);
}

/* ---- the loop */

/* One pass over all that is to be done. Returns when to look again, 0: when something happens. */
static double look_around(struct jobs *jobs) {
    double now = clock_seconds();
    double late = estimate_enforce(jobs, now), expired = table_expire(jobs, now);
    for (int i = 0; i < jobs->worker_count; i++) {
        see_to_wishes(&jobs->workers[i]);
        fill(&jobs->workers[i]);
    }
    return late > 0 && (late < expired || !(expired > 0)) ? late : expired;
}

static int wait_ms(const struct jobs *jobs, double at) {
    double ms = at > 0 ? ceil((at - clock_seconds()) * 1000) : WAIT_MS_MAX;
    int wait = ms < 0 ? 0 : ms > WAIT_MS_MAX ? WAIT_MS_MAX : (int)ms;
    for (int i = 0; i < jobs->worker_count; i++) {
        int link_ms = link_timeout_ms(jobs->workers[i].link);
        if (link_ms >= 0 && link_ms < wait)
            wait = link_ms;
        if (jobs->workers[i].refused && wait > REFUSED_TRY_MS)
            wait = REFUSED_TRY_MS;
    }
    return wait;
}

/* Sleeps, then hears the workers. Without the lock. */
static void turn(struct jobs *jobs, int ms) {
    struct pollfd fds[CONFIG_MODELS_MAX + 1] = {{.fd = jobs->wake_fd, .events = POLLIN}};
    for (int i = 0; i < jobs->worker_count; i++)
        fds[i + 1] = (struct pollfd){.fd = link_fd(jobs->workers[i].link), .events = POLLIN};
    poll(fds, (nfds_t)jobs->worker_count + 1, ms);
    uint64_t wakes;
    if (fds[0].revents && read(jobs->wake_fd, &wakes, sizeof wakes) < 0)
        wakes = 0; /* somebody has looked already */
    for (int i = 0; i < jobs->worker_count; i++)
        link_turn(jobs->workers[i].link);
}

static bool any_process(const struct jobs *jobs) {
    for (int i = 0; i < jobs->worker_count; i++)
        if (link_pid(jobs->workers[i].link) != 0)
            return true;
    return false;
}

void *dispatcher_main(void *user) {
    struct jobs *jobs = user;
    pthread_mutex_lock(&jobs->lock);
    while (!jobs->stopping) {
        double at = look_around(jobs);
        int ms = jobs->stopping ? 0 : wait_ms(jobs, at);
        pthread_mutex_unlock(&jobs->lock);
        turn(jobs, ms);
        pthread_mutex_lock(&jobs->lock);
    }
    pthread_mutex_unlock(&jobs->lock);
    for (int i = 0; i < jobs->worker_count; i++)
        link_stop(jobs->workers[i].link);
    for (double end = clock_seconds() + STOP_SECONDS; any_process(jobs) && clock_seconds() < end;)
        turn(jobs, wait_ms(jobs, end));
    pthread_mutex_lock(&jobs->lock);
    for (int i = 0; i < jobs->worker_count; i++)
        while (jobs->workers[i].inside_count > 0)
            dispatcher_remove(&jobs->workers[i], jobs->workers[i].inside[0]);
    pthread_mutex_unlock(&jobs->lock);
    return NULL;
}
