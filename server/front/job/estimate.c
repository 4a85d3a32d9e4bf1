/* When pictures will be finished, from how long steps took: the queue is played through in its order, a batch of
 * rows_max rows at a time, at a measured price for each row, pixel and evaluation. Used for deadlines only. */
#include <stdlib.h>

#include "front/job/internal.h"

enum { ENDED_MAX = 16 /* jobs ended in one look at the queue */ };

static const double SMOOTHING = 0.1;        /* weight of the newest */
static const double CHECK_SECONDS = 0.1;    /* between looks at the queue */
static const double STEP_MEAN_SECONDS = 60; /* in which a step's part in the mean fades to 1/e */

/* ---- measuring */

static void smooth(double *value, double seconds) {
    *value = *value > 0 ? *value + SMOOTHING * (seconds - *value) : seconds;
}

/* Row-pixels of the batch that the worker has just evaluated, as far as the front knows it. */
static double batch_row_pixels(const struct jobs *jobs, int model, int rows) {
    const struct job_worker *worker = &jobs->workers[jobs->models[model].worker];
    double pixels = 0, seen = 0;
    for (int i = 0; i < worker->inside_count; i++) {
        const struct job_picture *picture = worker->inside[i];
        if (picture->job->request.model == model && picture->state <= PICTURE_RUNNING) {
            pixels += (double)queue_row_pixels(picture);
            seen += picture->rows;
        }
    }
    return seen > 0 ? pixels / seen * rows : 0;
}

/* What the step's weight has faded to by `now`. */
static double fade(double seconds) {
    return 1 / (1 + seconds / STEP_MEAN_SECONDS);
}

void estimate_step(struct jobs *jobs, int model, const struct wire_step *step, double now) {
    double kept = jobs->step_at > 0 ? fade(now - jobs->step_at) : 0;
    jobs->step_sum = jobs->step_sum * kept + step->seconds;
    jobs->step_weight = jobs->step_weight * kept + 1;
    jobs->step_at = now;
    double row_pixels = batch_row_pixels(jobs, model, step->rows);
    if (row_pixels > 0)
        smooth(&jobs->models[model].unit_seconds, step->seconds / row_pixels);
}

void estimate_picture(struct job_model *model, const struct wire_picture *picture, uint64_t pixels) {
    const double *seconds = picture->seconds;
    smooth(&model->beside_seconds,
           (seconds[ASDM_STAGE_TEXT] + seconds[ASDM_STAGE_ENCODE] + seconds[ASDM_STAGE_DECODE]) / (double)pixels);
}

/* ---- playing the queue through */

struct player {
    const struct job_picture *picture;
    int left;      /* evaluations */
    double finish; /* seconds from now; 0: not yet */
};

static int compare(const void *a, const void *b) {
    const struct player *x = a, *y = b;
    return queue_goes_before(y->picture, x->picture) - queue_goes_before(x->picture, y->picture);
}

static int evaluations_left(const struct job_picture *picture) {
    int left = picture->job->request.evaluations - picture->step;
    return left > 0 ? left : 1;
}

/* The pictures of a model that have not got all their evaluations, in the order in which they get rows; `more`: a job
 * that is not in the queue, or NULL. NULL: no memory, or none. */
static struct player *line_up(const struct jobs *jobs, int index, const struct job *more, int *ret_count) {
    const struct job_model *model = &jobs->models[index];
    const struct job_worker *worker = &jobs->workers[model->worker];
    int count = 0, inside, room = worker->inside_count + model->queued + (more ? more->request.count : 0);
    struct player *players = room > 0 ? calloc((size_t)room, sizeof *players) : NULL;
    if (!players)
        return NULL;
    for (int i = 0; i < worker->inside_count; i++) {
        const struct job_picture *picture = worker->inside[i];
        if (picture->job->request.model == index && picture->state <= PICTURE_RUNNING)
            players[count++] = (struct player){.picture = picture, .left = evaluations_left(picture)};
    }
    inside = count;
    for (const struct job_picture *picture = model->queue_first; picture; picture = picture->next)
        players[count++] = (struct player){.picture = picture, .left = evaluations_left(picture)};
    for (int i = 0; more && i < more->request.count; i++)
        players[count++] = (struct player){.picture = &more->pictures[i], .left = evaluations_left(&more->pictures[i])};
    qsort(players + inside, (size_t)(count - inside), sizeof *players, compare);
    *ret_count = count;
    return players;
}

/* Models of one worker take turns. */
static int busy_models(const struct jobs *jobs, int index) {
    const struct job_worker *worker = &jobs->workers[jobs->models[index].worker];
    int busy = 1;
    for (int m = 0; m < jobs->config->model_count; m++) {
        bool has = m != index && jobs->models[m].worker == jobs->models[index].worker && jobs->models[m].queued > 0;
        for (int i = 0; i < worker->inside_count && !has; i++)
            has = m != index && worker->inside[i]->job->request.model == m;
        busy += has;
    }
    return busy;
}

static void play(const struct jobs *jobs, int index, struct player *players, int count) {
    const struct job_model *model = &jobs->models[index];
    double unit = model->unit_seconds * busy_models(jobs, index), now = 0;
    for (int first = 0, next = 0; first < count;) { /* [first, next): those with rows, some finished */
        int rows = 0, fewest = 0;
        double row_pixels = 0;
        for (int i = first; i < next; i++)
            rows += players[i].left > 0 ? players[i].picture->rows : 0;
        for (; next < count; next++) {
            if (rows > 0 && rows + players[next].picture->rows > model->capacity.rows_max)
                break;
            rows += players[next].picture->rows;
        }
        for (int i = first; i < next; i++)
            if (players[i].left > 0) {
                row_pixels += (double)queue_row_pixels(players[i].picture);
                fewest = fewest == 0 || players[i].left < fewest ? players[i].left : fewest;
            }
        now += unit * row_pixels * fewest;
        for (int i = first; i < next; i++)
            if (players[i].left > 0 && (players[i].left -= fewest) == 0) {
                const struct job_request *request = &players[i].picture->job->request;
                players[i].finish = now + model->beside_seconds * request->width * request->height;
            }
        while (first < next && players[first].left == 0)
            first++;
    }
}

static bool is_measured(const struct job_model *model) {
    return model->unit_seconds > 0 && model->capacity.rows_max > 0;
}

double estimate_job(struct jobs *jobs, const struct job *job) {
    int count;
    double latest = 0;
    if (!is_measured(&jobs->models[job->request.model]))
        return 0;
    struct player *players = line_up(jobs, job->request.model, job, &count);
    if (!players)
        return 0;
    play(jobs, job->request.model, players, count);
    for (int i = 0; i < count; i++)
        if (players[i].picture->job == job && players[i].finish > latest)
            latest = players[i].finish;
    free(players);
    return latest;
}

/* ---- deadlines */

void estimate_late(const struct job *job, double seconds, struct problem *ret_problem) {
    if (seconds > 0)
        problem_set(ret_problem, 504, "deadline", "deadline_ms",
                    "deadline_ms: %d ms are too few: the pictures would be finished in about %.1f s",
                    job->request.deadline_ms, clock_seconds() - job->created + seconds);
    else
        problem_set(ret_problem, 504, "deadline", "deadline_ms", "deadline_ms: the %d ms have passed",
                    job->request.deadline_ms);
}

static void end_late(struct jobs *jobs, struct job *job, double seconds) {
    struct problem problem;
    estimate_late(job, seconds, &problem);
    metrics_add(jobs->metrics, METRIC_CANCELLED, "deadline", NULL, 1);
    job_end(job, JOB_FAILED, &problem);
}

/* The first waiting picture that would be late; those behind it may be in time once it is gone. */
static struct job *find_late(struct jobs *jobs, int model, double now, double *ret_seconds) {
    int count;
    struct job *late = NULL;
    struct player *players = is_measured(&jobs->models[model]) ? line_up(jobs, model, NULL, &count) : NULL;
    if (!players)
        return NULL;
    play(jobs, model, players, count);
    for (int i = 0; i < count && !late; i++) {
        struct job *job = players[i].picture->job;
        if (players[i].picture->queued && job->deadline > 0 && now + players[i].finish > job->deadline) {
            late = job;
            *ret_seconds = players[i].finish;
        }
    }
    free(players);
    return late;
}

double estimate_enforce(struct jobs *jobs, double now) {
    if (!(jobs->deadline_next > 0))
        return 0;
    if (now < jobs->deadline_next && now < jobs->deadline_checked + CHECK_SECONDS)
        return jobs->deadline_next;
    jobs->deadline_checked = now;
    for (struct job *job = jobs->unfinished.first, *next; job; job = next) {
        next = job->next;
        if (job->deadline > 0 && job->deadline <= now)
            end_late(jobs, job, 0);
    }
    for (int model = 0, ended = 0; model < jobs->config->model_count; model++) {
        double seconds;
        for (struct job *late; ended < ENDED_MAX && (late = find_late(jobs, model, now, &seconds)); ended++)
            end_late(jobs, late, seconds);
    }
    jobs->deadline_next = 0;
    for (const struct job *job = jobs->unfinished.first; job; job = job->next)
        if (job->deadline > 0 && (!(jobs->deadline_next > 0) || job->deadline < jobs->deadline_next))
            jobs->deadline_next = job->deadline;
    return jobs->deadline_next;
}
