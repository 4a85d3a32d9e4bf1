/* The order of waiting pictures: those that a worker's death sent back, then priority, then deadline, then the key that
 * was served least, then age. */
#include "front/queue/internal.h"

void queue_push(struct jobs *jobs, struct job_picture *picture, bool front) {
    struct job_key *key = &jobs->keys[picture->job->key % JOB_KEYS_MAX];
    if (key->waiting++ == 0 && key->served < jobs->served_least)
        key->served = jobs->served_least; /* being away saves nothing up */
    picture->state = PICTURE_WAITING;
    struct job_picture **link = front ? &jobs->queue : jobs->queue_end;
    picture->next = *link;
    *link = picture;
    if (!picture->next)
        jobs->queue_end = &picture->next;
    jobs->queued++;
    job_ref_locked(picture->job);
}

void queue_remove(struct jobs *jobs, struct job_picture *picture) {
    struct job_picture **link = &jobs->queue;
    while (*link != picture)
        link = &(*link)->next;
    *link = picture->next;
    if (!*link)
        jobs->queue_end = link;
    picture->next = NULL;
    jobs->queued--;
    jobs->keys[picture->job->key % JOB_KEYS_MAX].waiting--;
    job_unref_locked(picture->job);
}

static bool is_before(const struct jobs *jobs, const struct job_picture *a, const struct job_picture *b) {
    const struct job *x = a->job, *y = b->job;
    if ((a->attempts > 0) != (b->attempts > 0))
        return a->attempts > 0;
    if (x->request.priority != y->request.priority)
        return x->request.priority < y->request.priority;
    if (x->deadline != y->deadline)
        return x->deadline && (!y->deadline || x->deadline < y->deadline);
    double served_x = jobs->keys[x->key % JOB_KEYS_MAX].served, served_y = jobs->keys[y->key % JOB_KEYS_MAX].served;
    if (x->key != y->key && served_x != served_y)
        return served_x < served_y;
    return false; /* the queue is in order of age */
}

struct job_picture *queue_first(const struct jobs *jobs, int worker) {
    struct job_picture *first = NULL;
    for (struct job_picture *p = jobs->queue; p; p = p->next)
        if (jobs->models[p->job->request.model].worker == worker && (!first || is_before(jobs, p, first)))
            first = p;
    return first;
}

int queue_position(const struct job *job) {
    const struct jobs *jobs = job->jobs;
    const struct job_picture *mine = NULL;
    int before = 0;
    bool passed = false;
    for (int i = 0; i < job->request.count && !mine; i++)
        if (job->pictures[i].state == PICTURE_WAITING)
            mine = &job->pictures[i];
    if (!mine)
        return -1;
    for (const struct job_picture *p = jobs->queue; p; p = p->next) {
        passed |= p == mine;
        if (p != mine && p->job != job && (is_before(jobs, p, mine) || (!passed && !is_before(jobs, mine, p))))
            before++;
    }
    return before;
}
